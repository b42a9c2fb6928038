"""The main job: a large file from a browser through the example app, whatever happens to the daemon on the way."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from playwright.async_api import expect

from tests.support.browser import running_browser
from tests.support.content import Content
from tests.support.daemon import Supervisor
from tests.support.fixtures import MakeDaemon
from tests.support.link import Link
from tests.support.machine import wait_until
from tests.support.photodrop import start, stop

MIB = 1024 * 1024
KILLS = 5


async def bring_a_large_file(
    make_daemon: MakeDaemon, folder: Path, *, size_bytes: int, rate_bytes_per_s: float
) -> None:
    """Choose a file in the page, kill the daemon five times on its way, and touch the page no more."""
    content = Content(random.randrange(1 << 30), size_bytes)
    file = await asyncio.to_thread(content.write, folder / "holiday.mov")
    daemon = make_daemon({"handover.backoff_max_s": 1}, start=False)

    def kill_on_the_way(supervisor: Supervisor, link: Link) -> None:
        for number in range(1, KILLS + 1):
            share = number / (KILLS + 1) * size_bytes
            wait_until(lambda: link.upstream_bytes > share, f"{share:.0f} bytes are through", timeout_s=600)  # noqa: B023 -- waited for within the round
            supervisor.kill9_when_ready()

    with Supervisor(daemon) as supervisor, Link(daemon.public, rate_bytes_per_s=rate_bytes_per_s) as link:
        photodrop = await asyncio.to_thread(start, folder / "photodrop", daemon, link.url)
        try:
            async with running_browser() as browser:
                page = await browser.new_page()
                await page.goto(photodrop.url)
                await page.set_input_files("#drop input", file)
                await asyncio.to_thread(kill_on_the_way, supervisor, link)
                row = page.locator("#uploads .row")
                await expect(row).to_have_attribute("data-state", "finished", timeout=600_000)
                digest = await page.locator("#received .digest").first.text_content()
        finally:
            await asyncio.to_thread(stop, photodrop)
        assert supervisor.kills == KILLS
        sha256 = await asyncio.to_thread(content.sha256)
        assert digest == sha256
        assert [entry["sha256"] for entry in photodrop.entries()] == [sha256]
        # What the kills cost is what was in flight, not the file from its beginning.
        assert link.upstream_bytes < size_bytes * 1.5
        assert link.count("POST", 201) == 1


async def test_a_large_file_arrives_though_the_daemon_is_killed_five_times(
    make_daemon: MakeDaemon, tmp_path: Path
) -> None:
    """256 MiB from headless Chromium, `kill -9` five times: the same SHA-256, and nobody touches the page."""
    await bring_a_large_file(make_daemon, tmp_path, size_bytes=256 * MIB, rate_bytes_per_s=48 * MIB)


@pytest.mark.soak
async def test_five_gigabytes_arrive_though_the_daemon_is_killed_five_times(
    make_daemon: MakeDaemon, tmp_path: Path
) -> None:
    """The same with 5 GiB."""
    await bring_a_large_file(make_daemon, tmp_path, size_bytes=5 * 1024 * MIB, rate_bytes_per_s=96 * MIB)
