"""Stock clients in a real browser, on a page of another origin than the daemon's."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page

from tests.support.app import App
from tests.support.backend import Backend
from tests.support.browser import PageErrors, running_browser, served, stock_page
from tests.support.content import Content
from tests.support.daemon import Daemon, Supervisor
from tests.support.fixtures import MakeDaemon
from tests.support.link import Link
from tests.support.machine import wait_until

MIB = 1024 * 1024
SIZE_BYTES = 6 * MIB + 4321


@pytest.fixture(scope="module")
def page_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the page with the stock clients is."""
    with served(stock_page(tmp_path_factory.mktemp("page"))) as url:
        yield url


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with running_browser() as running:
        yield running


async def run_in_page(page: Page, file: Path, script: str, argument: object) -> Any:
    """Choose *file* in the page and run *script*, a function of the File and *argument*."""
    await page.set_input_files("input", file)
    return await page.evaluate(f"argument => ({script})(document.querySelector('input').files[0], argument)", argument)


UPPY = "(file, url) => uploadWithUppy(file, url)"
UPPY_CHUNKED = "(file, url) => uploadWithUppy(file, url, {chunkSize: 1 << 20})"
TUS_JS = "(file, url) => uploadWithTusJs(file, {endpoint: url})"
TUS_JS_URL = "(file, url) => uploadWithTusJs(file, {uploadUrl: url, uploadLengthDeferred: true})"
TUS_JS_PARALLEL = "(file, url) => uploadWithTusJs(file, {endpoint: url, parallelUploads: 3})"
CLIENTS = {
    "uppy": UPPY,
    "uppy, chunked": UPPY_CHUNKED,
    "tus-js": TUS_JS,
    "tus-js, uploadUrl": TUS_JS_URL,
    "tus-js, parallel": TUS_JS_PARALLEL,
}


def check_outcome(outcome: dict[str, Any]) -> None:
    assert not outcome.get("failed"), outcome
    assert "error" not in outcome, outcome


async def test_stock_clients_in_a_browser_bring_their_files(
    browser: Browser, page_url: str, shared_daemon: Daemon, shared_backend: Backend, app: App, tmp_path: Path
) -> None:
    """Uppy's tus plugin and tus-js-client, across origins: every file arrives, nothing is created twice."""

    async def one(number: int, script: str) -> None:
        content = Content(random.randrange(1 << 30), SIZE_BYTES + number)
        file = content.write(tmp_path / f"{content.seed}.bin")
        ticket = shared_backend.ticket()
        page = await browser.new_page()
        errors = PageErrors(page)
        await page.goto(page_url)
        with Link(shared_daemon.public) as link:
            check_outcome(await run_in_page(page, file, script, link.through(ticket["upload_url"])))
            expected = 0 if script == TUS_JS_URL else 4 if script == TUS_JS_PARALLEL else 1
            assert link.count("POST") == expected
        assert not errors.texts
        arrived = await asyncio.to_thread(app.check_arrived, ticket["id"], content.sha256())
        if script in (UPPY, UPPY_CHUNKED):
            assert arrived.data["filename"] == file.name

    await asyncio.gather(*(one(number, script) for number, script in enumerate(CLIENTS.values())))


async def test_stock_clients_in_a_browser_survive_a_killed_daemon(
    browser: Browser, page_url: str, make_daemon: MakeDaemon, app: App, tmp_path: Path
) -> None:
    """Three times `kill -9` under Uppy and tus-js-client: they end well, with one 201 each."""
    daemon = make_daemon({"handover.backoff_max_s": 1})
    backend = Backend(daemon, app)

    async def one(script: str, link: Link) -> None:
        content = Content(random.randrange(1 << 30), SIZE_BYTES)
        file = content.write(tmp_path / f"{content.seed}.bin")
        ticket = backend.ticket()
        page = await browser.new_page()
        await page.goto(page_url)
        check_outcome(await run_in_page(page, file, script, link.through(ticket["upload_url"])))
        assert link.count("POST", 201) == 1
        await asyncio.to_thread(app.check_arrived, ticket["id"], content.sha256())

    def kill_three_times(supervisor: Supervisor, links: list[Link]) -> None:
        for tenths in (2, 4, 6):
            wait_until(
                lambda share=tenths / 10: all(link.upstream_bytes > share * SIZE_BYTES for link in links),  # type: ignore[misc] # mypy infers no lambda with a default
                f"{tenths} tenths of the files are under way",
                timeout_s=60,
            )
            supervisor.kill9_when_ready()

    with (
        Supervisor(daemon) as supervisor,
        Link(daemon.public, rate_bytes_per_s=1.5 * MIB) as first,
        Link(daemon.public, rate_bytes_per_s=1.5 * MIB) as second,
    ):
        await asyncio.gather(
            one(UPPY_CHUNKED, first),
            one(TUS_JS, second),
            asyncio.to_thread(kill_three_times, supervisor, [first, second]),
        )
        assert supervisor.kills == 3
