"""Headless Chromium, and pages for it that are no part of the project."""

from __future__ import annotations

import contextlib
import functools
import shutil
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from playwright.async_api import Browser, Page, async_playwright

from tests.support.machine import free_port
from tests.support.stock import CLIENTS


def chromium_path() -> str:
    """Return the browser that `scripts/setup` looks for too."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        found = shutil.which(name)
        if found is not None:
            return found
    message = "no Chromium on this machine; `make setup` says how to get it"
    raise AssertionError(message)


@contextlib.asynccontextmanager
async def running_browser() -> AsyncIterator[Browser]:
    """Run headless Chromium for the length of the block.

    Asynchronous on purpose: playwright's synchronous form leaves its event loop running between tests.
    """
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=chromium_path(),
            # As root there is no sandbox, and containers have a small /dev/shm.
            args=["--no-sandbox", "--disable-dev-shm-usage"],
        )
        try:
            yield browser
        finally:
            await browser.close()


class PageErrors:
    """Collects what goes wrong in a page: uncaught exceptions and errors in its console."""

    def __init__(self, page: Page) -> None:
        self.texts: list[str] = []
        page.on("pageerror", lambda error: self.texts.append(str(error)))
        page.on("console", lambda message: self.texts.append(message.text) if message.type == "error" else None)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """The suite is silent."""


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve the files of *folder*; yields the server's URL: an origin of its own."""
    address = ("127.0.0.1", free_port())
    server = ThreadingHTTPServer(address, functools.partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://{address[0]}:{address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def stock_page(folder: Path) -> Path:
    """Write a page with the stock clients of ``browser.mjs`` and a file input into *folder*, and return that."""
    subprocess.run(
        ["node_modules/.bin/esbuild", "browser.mjs", "--bundle", "--log-level=warning", f"--outfile={folder}/page.js"],
        cwd=CLIENTS,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    (folder / "index.html").write_text(
        "<!doctype html><meta charset=utf-8><title>stock clients</title>"
        "<link rel=icon href=data:,><input type=file><script src=page.js></script>"
    )
    return folder
