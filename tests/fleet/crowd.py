"""People who upload through HAProxy while something happens to the fleet: browsers, stock clients, many others."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import secrets
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import requests
from playwright.async_api import Browser, BrowserContext, Page

from tests.fleet.load import KIB, Connect, Figures, Pace, SlowRelay, Upload, through
from tests.support.app import App
from tests.support.browser import served, stock_page
from tests.support.content import Content
from tests.support.daemon import Daemon
from tests.support.fleet import Fleet, fleet
from tests.support.haproxy import NAMES, HAProxy, instance_of
from tests.support.stock import ClientRun, tus_js, tuspy

T = TypeVar("T")

TICKETS = "/incoming/1.0/backend/uploads"
RATE_BYTES_PER_S = 32 * KIB
_LOGGED = re.compile(
    r" (?P<backend>\S+)/(?P<server>\S+) \S+ (?P<status>-?\d+) \d+ (?P<ended>\S{3,4}) \S+ \S+ (?P<headers>(\{.*?\} )*)"
    r"(- - )?(?P<method>[A-Z]+) (?P<path>\S+) HTTP/"
)

PAGE = """<!doctype html><meta charset=utf-8><title>page</title><link rel=icon href=data:,><input type=file multiple>
<script src="{url}/incoming/1.0/frontend/incoming.js"></script><script src=page.js></script><script>
const files = () => [...document.querySelector('input').files];
const withTusJs = (urls) => Promise.all(files().map((file, i) => uploadWithTusJs(file, {{ endpoint: urls[i] }})));
const withIncoming = (urls) => Promise.all(files().map((file, i) => new Promise((resolve) => {{
  const u = incoming.Uploader(urls[i], file);
  u.onfinished = () => resolve({{ state: u.state }});
  u.onerror = u.oncancelled = () => resolve({{ error: `${{u.state}}: ${{u.error_code}} ${{u.error_msg}}` }});
  u.start();
}})));
</script>"""


@dataclass
class Crowd:
    """See `crowd`."""

    fleet: Fleet
    balancer: HAProxy
    app: App
    folder: Path
    figures: Figures = field(default_factory=Figures)
    uploads: list[Upload] = field(default_factory=list)
    """Of the tests' own client."""
    others: dict[str, Content] = field(default_factory=dict)
    """What stock clients upload, by the uploads' ids."""
    over: asyncio.Event = field(default_factory=asyncio.Event)
    least_open: int = 1 << 30
    """How many uploads of the tests' own were under way at least."""

    def ticket(self) -> dict[str, Any]:
        """Get a ticket as a web app does: from whichever instance."""
        answer = requests.post(
            self.balancer.inner_url + TICKETS,
            json={"finish_url": self.app.url, "secret": self.app.secret},
            headers={"Idempotency-Key": secrets.token_hex(16)},
            timeout=30,
        )
        assert answer.status_code == 201, f"{answer.status_code} {answer.text}"
        given: dict[str, Any] = answer.json()
        return given

    async def other(self, size_bytes: int) -> tuple[str, Path]:
        """Prepare an upload for a stock client; return its path and the file."""
        content = Content(random.randrange(1 << 30), size_bytes)
        file = await asyncio.to_thread(content.write, self.folder / f"{content.seed}.bin")
        given = await asyncio.to_thread(self.ticket)
        self.others[given["id"]] = content
        return given["upload_url"], file

    def connect(self) -> Connect:
        """Return what connects the tests' own client: HTTP/1.1 through TLS."""
        context = ssl.create_default_context(cafile=str(self.balancer.ca_file))
        context.set_alpn_protocols(["http/1.1"])
        return through(self.balancer.public, context)

    # -- who uploads

    async def keep_uploading(self, count: int, sizes: Callable[[], int], pace: Pace) -> None:
        """Upload *count* files at any time until it is over, and then to their ends."""
        connect = self.connect()

        async def one() -> None:
            while not self.over.is_set():
                content = Content(random.randrange(1 << 30), sizes())
                given = await asyncio.to_thread(self.ticket)
                upload = Upload(given["upload_url"], content, connect, pace, self.figures)
                self.uploads.append(upload)
                await upload.run()

        async with asyncio.TaskGroup() as group:
            for _ in range(count):
                group.create_task(one())
            group.create_task(self._hurry(pace))

    async def _hurry(self, pace: Pace) -> None:
        await self.over.wait()
        pace.hurry = True

    async def in_browser(self, browser: Browser, script: str, count: int, size_bytes: int) -> None:
        """Upload *count* files in a page, over HTTP/2: `withTusJs` or `withIncoming`."""
        async with SlowRelay(self.balancer.public, count * RATE_BYTES_PER_S) as relay:
            hurry = asyncio.create_task(self._let_through(relay))
            url = f"https://localhost:{relay.port}"
            folder = self.folder / script
            folder.mkdir()
            await asyncio.to_thread(stock_page, folder)
            (folder / "index.html").write_text(PAGE.format(url=url))
            prepared = [await self.other(size_bytes) for _ in range(count)]
            context = await browser.new_context(ignore_https_errors=True)
            page = await context.new_page()
            broken: list[str] = []
            page.on("pageerror", lambda error: broken.append(str(error)))
            protocols = await _protocols(context, page, url)
            with served(folder) as page_url:
                await page.goto(page_url)
                await page.set_input_files("input", [file for _, file in prepared])
                outcomes = await page.evaluate(f"urls => {script}(urls)", [url + path for path, _ in prepared])
            assert broken == []
            assert [outcome for outcome in outcomes if "error" in outcome] == []
            assert protocols == {"h2"}
            await context.close()
            hurry.cancel()

    async def as_program(self, start: Callable[..., ClientRun], size_bytes: int) -> None:
        """Upload a file with a stock client in a process of its own."""
        async with SlowRelay(self.balancer.public, RATE_BYTES_PER_S) as relay:
            hurry = asyncio.create_task(self._let_through(relay))
            path, file = await self.other(size_bytes)
            url = f"https://localhost:{relay.port}{path}"
            if start is tuspy:
                # It counts all cuts of a request for bytes, where tus-js-client begins anew with any progress.
                run = tuspy(file, endpoint=url, options={"retries": 60, "retry_delay": 0.5})
            else:
                run = tus_js(file, options={"endpoint": url})
            with run:
                await asyncio.to_thread(run.wait)
            hurry.cancel()

    async def _let_through(self, relay: SlowRelay) -> None:
        await self.over.wait()
        relay.rate_bytes_per_s = None

    # -- what happens

    async def during(self, act: Callable[[], T]) -> T:
        """Do something to the fleet while all upload; count them meanwhile."""
        work = asyncio.create_task(asyncio.to_thread(act))
        while not work.done():
            self.least_open = min(self.least_open, self.open_count)
            await asyncio.wait([work], timeout=0.05)
        return await work

    @property
    def open_count(self) -> int:
        """How many uploads of the tests' own are under way just now."""
        return sum(upload.open for upload in self.uploads)

    async def all_open(self, count: int, others: int) -> None:
        """Wait until so many are under way, and so many of stock clients."""
        while self.open_count < count or len(self.others) < others or not set(self.others) <= set(self.created):
            await asyncio.sleep(0.1)

    @property
    def created(self) -> Counter[str]:
        """How many times each upload was created, as the balancer has seen it."""
        return Counter(
            path.rpartition("/")[2] for method, path, status in self.requests() if (method, status) == ("POST", 201)
        )

    # -- what must be true in the end

    def check(self) -> None:
        """Fail unless every file is right at the app, and nothing was begun anew."""
        for upload in self.uploads:
            assert upload.creations == 1
            self.app.check_arrived(upload.upload_id, upload.content.sha256(), timeout_s=60)
        for upload_id, content in self.others.items():
            self.app.check_arrived(upload_id, content.sha256(), timeout_s=60)
        ids = {upload.upload_id for upload in self.uploads} | set(self.others)
        assert self.created == Counter(ids)
        for daemon in self.fleet.instances:
            assert daemon.log_events("upload.begun_anew") == []

    def requests(self) -> list[tuple[str, str, int]]:
        """Return method, path and status of all requests for uploads that the balancer has answered."""
        found = []
        for line in self.balancer.log_lines():
            match = _LOGGED.search(line)
            if match is not None and match["backend"] == "uploads":
                found.append((match["method"], match["path"], int(match["status"])))
        return found

    # -- what operators do

    def name_of(self, daemon: Daemon) -> str:
        """Return what the balancer calls it."""
        return NAMES[self.fleet.instances.index(daemon)]

    def wait_back(self, daemon: Daemon) -> None:
        """Wait until an instance that was started is ready, and the balancer sends to it again."""
        daemon.wait_ready()
        self.balancer.wait_state(self.name_of(daemon), "UP")

    def upgrade(self, daemon: Daemon) -> dict[str, Any]:
        """Drain, stop, start again; return what the drain has told."""
        status = self.fleet.drain(daemon)
        daemon.stop()
        daemon.launch()
        self.wait_back(daemon)
        told: dict[str, Any] = status["drain"]
        return told


async def _protocols(context: BrowserContext, page: Page, url: str) -> set[str]:
    """Return a set that fills with the protocols by which *page* gets answers from *url*."""
    found: set[str] = set()

    def received(event: dict[str, Any]) -> None:
        if event["response"]["url"].startswith(url):
            found.add(event["response"]["protocol"])

    devtools = await context.new_cdp_session(page)
    devtools.on("Network.responseReceived", received)
    await devtools.send("Network.enable")
    return found


@contextlib.asynccontextmanager
async def crowd(folder: Path, app: App, *, shared: bool = True, **settings: object) -> AsyncIterator[Crowd]:
    """Run three instances on one data directory (or on one each) behind HAProxy."""
    # Each program that runs has a thread that waits for it.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(32))
    with fleet(folder, shared=shared, settings=settings) as running:
        balancer = HAProxy(folder / "balancer", [instance_of(daemon) for daemon in running.instances])
        with balancer:
            await asyncio.to_thread(balancer.start)
            (folder / "files").mkdir()
            yield Crowd(running, balancer, app, folder / "files")
            # As long as it asks how they are, none has to wait for it in vain.
            await asyncio.to_thread(running.stop)


def trusting(ca_file: Path) -> dict[str, str]:
    """Return the variables by which stock clients in processes of their own trust the balancer."""
    return {"NODE_EXTRA_CA_CERTS": str(ca_file), "REQUESTS_CA_BUNDLE": str(ca_file)}
