"""The library in a real browser, on a page of another origin than the daemon's and under a strict content policy."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page

from tests.support.app import App, as_json
from tests.support.backend import Backend
from tests.support.browser import PageErrors, running_browser, served
from tests.support.content import Content
from tests.support.daemon import Daemon
from tests.support.link import Link
from tests.support.machine import wait_until

# One browser for all of them: starting it takes longer than most tests.
pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 1024 * 1024
# More than the buffers of a connection hold: what a page has sent is not yet what the daemon has.
SIZE_BYTES = 24 * MIB + 321

# Runs in the page and in workers: upload, and tell what was seen.
UPLOAD = """
function upload(Uploader, ticket, file) {
  const seen = { states: [], fractions: [] };
  const u = Uploader(ticket, file);
  globalThis.uploader = u;
  return new Promise((resolve) => {
    u.onprogress = () => {
      if (seen.states.at(-1) !== u.state) seen.states.push(u.state);
      seen.fractions.push(u.frac_complete);
    };
    u.onfinished = u.oncancelled = u.onerror = () => resolve({
      ...seen, state: u.state, error_code: u.error_code, state_msg: u.state_msg, client_data: u.client_data,
    });
    u.start();
  });
}
"""

PAGE = """<!doctype html><meta charset=utf-8><title>page</title><link rel=icon href=data:,>
<meta http-equiv=Content-Security-Policy content="default-src 'none'; script-src 'self' {daemon};
  connect-src http://127.0.0.1:*; worker-src 'self' {daemon}; img-src data:">
<input type=file><script src="{daemon}/incoming/1.0/frontend/incoming.js"></script><script src=upload.js></script>
<script src=page.js></script>"""

PAGE_JS = """
const file = () => document.querySelector('input').files[0];
function uploadHere(ticket) { return upload(incoming.Uploader, ticket, file()); }
async function uploadByModule(url, ticket) { return upload((await import(url)).Uploader, ticket, file()); }
function uploadInWorker(script, type, ticket) {
  return new Promise((resolve, reject) => {
    const worker = new Worker(script, { type });
    worker.onmessage = ({ data }) => resolve(data);
    worker.onerror = (event) => reject(new Error(event.message));
    worker.postMessage({ ticket, file: file() });
  });
}
"""

CLASSIC_WORKER = """importScripts('{daemon}/incoming/1.0/frontend/incoming.js', 'upload.js');
incoming.set_server_hostname('{host}');
onmessage = async ({{ data }}) => postMessage(await upload(incoming.Uploader, data.ticket, data.file));
"""

MODULE_WORKER = """import {{ Uploader }} from '{daemon}/incoming/1.0/frontend/incoming.mjs';
{upload}
onmessage = async ({{ data }}) => postMessage(await upload(Uploader, data.ticket, data.file));
"""


@pytest.fixture(scope="module")
def page_url(tmp_path_factory: pytest.TempPathFactory, shared_daemon: Daemon) -> Iterator[str]:
    """A page of its own origin that loads the library from the daemon."""
    folder = tmp_path_factory.mktemp("page")
    daemon = shared_daemon.public_url
    (folder / "index.html").write_text(PAGE.format(daemon=daemon))
    (folder / "upload.js").write_text(UPLOAD)
    (folder / "page.js").write_text(PAGE_JS)
    (folder / "classic.js").write_text(CLASSIC_WORKER.format(daemon=daemon, host=daemon.removeprefix("http://")))
    (folder / "module.mjs").write_text(MODULE_WORKER.format(daemon=daemon, upload=UPLOAD))
    with served(folder) as url:
        yield url


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with running_browser() as running:
        yield running


async def page_with(browser: Browser, page_url: str, file: Path) -> Page:
    """Open the page and choose the file."""
    page = await browser.new_page()
    await page.goto(page_url)
    await page.set_input_files("input", file)
    return page


def some_file(folder: Path, size_bytes: int = SIZE_BYTES) -> tuple[Content, Path]:
    content = Content(random.randrange(1 << 30), size_bytes)
    return content, content.write(folder / f"{content.seed}.bin")


async def state_reached(page: Page, *states: str) -> None:
    """Wait in the page until the uploader is in one of the states."""
    await page.evaluate(
        """states => new Promise(resolve => {
             const look = () => states.includes(uploader.state) ? resolve() : setTimeout(look, 5);
             look();
           })""",
        list(states),
    )


HERE = "([ticket]) => uploadHere(ticket)"
MODULE = "([ticket, url]) => uploadByModule(url, ticket)"
IN_CLASSIC_WORKER = "([ticket]) => uploadInWorker('classic.js', 'classic', ticket)"
IN_MODULE_WORKER = "([ticket]) => uploadInWorker('module.mjs', 'module', ticket)"


async def test_the_library_brings_files_from_pages_and_workers(
    browser: Browser, page_url: str, shared_daemon: Daemon, shared_backend: Backend, app: App, tmp_path: Path
) -> None:
    """Script and module, in a page and in a worker, ticket by id and by URL: the file arrives, the app's word too."""
    app.answer = lambda delivery: as_json("done", client_data={"name": delivery.data["filename"]})
    module = f"{shared_daemon.public_url}/incoming/1.0/frontend/incoming.mjs"

    async def one(script: str, ticket_field: str) -> None:
        content, file = await asyncio.to_thread(some_file, tmp_path)
        ticket = await asyncio.to_thread(shared_backend.ticket, length=content.size_bytes)
        page = await page_with(browser, page_url, file)
        errors = PageErrors(page)
        told: dict[str, Any] = await page.evaluate(script, [ticket[ticket_field], module])
        assert told["state"] == "finished", told
        assert told["client_data"] == {"name": file.name}
        assert "reconnecting" not in told["states"], "trouble where there was none"
        assert told["fractions"] == sorted(told["fractions"]), "progress that falls without a reason"
        assert told["fractions"][-1] == 1
        assert not errors.texts
        await asyncio.to_thread(app.check_arrived, ticket["id"], content.sha256())

    await asyncio.gather(
        one(HERE, "upload_url"),
        one(HERE, "id"),
        one(MODULE, "id"),
        one(IN_CLASSIC_WORKER, "id"),
        one(IN_MODULE_WORKER, "upload_url"),
    )


async def test_a_cut_connection_costs_nothing_but_what_was_in_flight(
    browser: Browser, page_url: str, shared_daemon: Daemon, shared_backend: Backend, app: App, tmp_path: Path
) -> None:
    """Cut three times, the file arrives whole, begun once; progress is seen on the way."""
    content, file = some_file(tmp_path)
    ticket = shared_backend.ticket()
    page = await page_with(browser, page_url, file)

    def cut_three_times(link: Link) -> None:
        for share in (0.2, 0.45, 0.7):
            wanted_bytes = share * SIZE_BYTES
            wait_until(lambda wanted=wanted_bytes: link.upstream_bytes > wanted, "bytes on their way")  # type: ignore[misc] # mypy infers no lambda with a default
            link.reset_all()

    with Link(shared_daemon.public, rate_bytes_per_s=16 * MIB) as link:
        upload = page.evaluate(HERE, [link.through(ticket["upload_url"]), ""])
        told, _ = await asyncio.gather(upload, asyncio.to_thread(cut_three_times, link))
        assert told["state"] == "finished", told
        assert link.count("POST") == 1
        assert link.count("PATCH") >= 4
    assert told["states"].count("sending") >= 3
    assert len({fraction for fraction in told["fractions"] if 0 < fraction < 1}) > 3
    await asyncio.to_thread(app.check_arrived, ticket["id"], content.sha256())


async def test_a_reloaded_page_goes_on_with_the_same_file_and_mixes_in_no_other(
    browser: Browser, page_url: str, shared_daemon: Daemon, shared_backend: Backend, app: App, tmp_path: Path
) -> None:
    """Chosen again after a reload the file goes on; another file of its length begins anew."""
    content, file = some_file(tmp_path)
    (tmp_path / "other").mkdir()
    other, other_file = some_file(tmp_path / "other")
    going_on, anew = shared_backend.ticket(), shared_backend.ticket()

    async def one(ticket: dict[str, Any], then: Path) -> int:
        page = await page_with(browser, page_url, file)
        with Link(shared_daemon.public, rate_bytes_per_s=8 * MIB) as link:
            url = link.through(ticket["upload_url"])
            await page.evaluate("ticket => { uploadHere(ticket) }", url)
            await asyncio.to_thread(wait_until, lambda: link.upstream_bytes > 4 * MIB, "some of the file")
            await page.reload()
            link.rate_bytes_per_s = None
            await page.set_input_files("input", then)
            told = await page.evaluate(HERE, [url, ""])
            assert told["state"] == "finished", told
            return link.count("POST")

    assert list(await asyncio.gather(one(going_on, file), one(anew, other_file))) == [1, 2]
    await asyncio.to_thread(app.check_arrived, going_on["id"], content.sha256())
    await asyncio.to_thread(app.check_arrived, anew["id"], other.sha256())


async def test_a_file_that_changes_on_the_disk_is_found_before_it_is_mixed(
    browser: Browser, page_url: str, shared_daemon: Daemon, shared_backend: Backend, app: App, tmp_path: Path
) -> None:
    """The browser reads no changed file; the library says so, and does not try for ever."""
    content, file = some_file(tmp_path)
    ticket = shared_backend.ticket()
    page = await page_with(browser, page_url, file)
    with Link(shared_daemon.public, rate_bytes_per_s=8 * MIB) as link:
        upload = asyncio.ensure_future(page.evaluate(HERE, [link.through(ticket["upload_url"]), ""]))
        await asyncio.to_thread(wait_until, lambda: link.upstream_bytes > 4 * MIB, "some of the file")
        await page.evaluate("() => uploader.pause('pause')")
        Content(content.seed + 1, content.size_bytes + 7).write(file)
        await page.evaluate("() => uploader.pause('unpause')")
        told = await upload
    assert told["state"] == "failed"
    assert told["error_code"] == "file_unreadable"
    assert shared_backend.get(ticket["id"])["offset"] < content.size_bytes
    assert not app.of(ticket["id"])


async def test_pause_and_cancel_reach_the_server(
    browser: Browser, page_url: str, shared_daemon: Daemon, shared_backend: Backend, app: App, tmp_path: Path
) -> None:
    """A paused upload keeps its bytes and sends none; a cancelled one is cancelled for the web app, too."""
    _, file = some_file(tmp_path)
    ticket = shared_backend.ticket()
    page = await page_with(browser, page_url, file)
    with Link(shared_daemon.public, rate_bytes_per_s=8 * MIB) as link:
        upload = asyncio.ensure_future(page.evaluate(HERE, [link.through(ticket["upload_url"]), ""]))
        await asyncio.to_thread(wait_until, lambda: link.upstream_bytes > 4 * MIB, "some of the file")
        await page.evaluate("() => uploader.pause('pause')")
        kept = await asyncio.to_thread(
            wait_until, lambda: int(shared_backend.get(ticket["id"])["offset"]), "bytes that are kept"
        )
        assert 0 < kept < SIZE_BYTES
        await page.evaluate("() => uploader.pause('unpause')")
        await state_reached(page, "sending")
        await page.evaluate("() => uploader.cancel('changed my mind')")
        told = await upload
    assert told["state"] == "cancelled"
    assert told["state_msg"] == "cancelled (changed my mind)"
    assert shared_backend.get(ticket["id"])["status"] == "cancelled"
