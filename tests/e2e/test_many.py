"""Hundreds of uploads at once in one process, most of them slow: all complete, and a slow one costs little memory."""

from __future__ import annotations

import asyncio
import random
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from tests.support.app import App, running_app
from tests.support.backend import Backend
from tests.support.content import Content
from tests.support.fixtures import MakeDaemon
from tests.support.machine import pss_bytes

KIB = 1024
SIZE_BYTES = 128 * KIB + 17
# What is there at once from a client on a slow link: a few packets.
FIRST_BYTES = 4 * KIB
# How far all of them go slowly, before the memory is measured.
SLOW_BYTES = 64 * KIB
MEMORY_MAX_BYTES = 40 * KIB


@pytest.fixture(autouse=True)
def _many_files() -> Iterator[None]:
    """Let this process have a socket for each upload."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@dataclass
class SlowUpload:
    """One upload in one PATCH over one connection, of which the test decides how far it goes when."""

    upload_id: str
    url: str
    content: Content
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def open(cls, ticket: dict[str, str], content: Content) -> SlowUpload:
        parts = urlsplit(ticket["upload_url"])
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        return cls(ticket["id"], ticket["upload_url"], content, reader, writer)

    async def begin(self) -> None:
        """Create, and send the head of a PATCH and the first bytes."""
        path = urlsplit(self.url).path
        head = f"{path} HTTP/1.1\r\nHost: test\r\nTus-Resumable: 1.0.0\r\n"
        self.writer.write(f"POST {head}Upload-Length: {self.content.size_bytes}\r\n\r\n".encode())
        assert await self.status() == 201
        self.writer.write(
            f"PATCH {head}Upload-Offset: 0\r\nContent-Type: application/offset+octet-stream\r\n"
            f"Content-Length: {self.content.size_bytes}\r\n\r\n".encode()
        )
        self.writer.write(self.content.read(0, FIRST_BYTES))
        await self.writer.drain()

    async def trickle(self, start: int, end: int, *, pieces: int, over_s: float) -> None:
        """Send the bytes from *start* to *end* in *pieces* over so many seconds."""
        size = -(-(end - start) // pieces)
        for offset in range(start, end, size):
            self.writer.write(self.content.read(offset, min(size, end - offset)))
            await self.writer.drain()
            await asyncio.sleep(over_s / pieces * random.uniform(0.5, 1.5))

    async def end(self, start: int, *, pieces: int = 1, over_s: float = 0) -> int:
        """Send the rest, from *start* on; return the status of the answer."""
        await self.trickle(start, self.content.size_bytes, pieces=pieces, over_s=over_s)
        status = await self.status()
        self.writer.close()
        await self.writer.wait_closed()
        return status

    async def status(self) -> int:
        """Read an answer without a body; return its status."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        return int(head.split(b" ", 2)[1])


async def upload_many(make_daemon: MakeDaemon, app: App, *, count: int, over_s: float) -> float:
    """Upload *count* files at once, nine of ten slowly; return the memory that an open one took, in bytes."""
    daemon = make_daemon()
    backend = Backend(daemon, app)
    # Some first that end before: threads, code and buffers that are there once and for all count for no upload.
    warm = await begin_all(backend.tickets(50))
    assert set(await asyncio.gather(*(upload.end(FIRST_BYTES, pieces=3, over_s=0.1) for upload in warm))) == {204}
    await asyncio.to_thread(check_all, app, warm)
    tickets = backend.tickets(count)
    before = pss_bytes(daemon.pid)
    uploads = await begin_all(tickets)
    await asyncio.gather(*(upload.trickle(FIRST_BYTES, SLOW_BYTES, pieces=15, over_s=over_s) for upload in uploads))
    await asyncio.to_thread(wait_for_bytes, uploads, SLOW_BYTES)
    memory = (pss_bytes(daemon.pid) - before) / count
    # Some end at once, the others take their time.
    slow = [
        upload.end(SLOW_BYTES, pieces=10, over_s=over_s / 2) for number, upload in enumerate(uploads) if number % 10
    ]
    fast = [upload.end(SLOW_BYTES) for number, upload in enumerate(uploads) if not number % 10]
    assert set(await asyncio.gather(*slow, *fast)) == {204}
    await asyncio.to_thread(check_all, app, uploads)
    return memory


async def begin_all(tickets: list[dict[str, Any]]) -> list[SlowUpload]:
    """Begin an upload for each ticket, all at the same time."""
    uploads = [await SlowUpload.open(ticket, Content(random.randrange(1 << 30), SIZE_BYTES)) for ticket in tickets]
    await asyncio.gather(*(upload.begin() for upload in uploads))
    return uploads


def check_all(app: App, uploads: list[SlowUpload]) -> None:
    """Fail unless the app has all files."""
    for upload in uploads:
        app.check_arrived(upload.upload_id, upload.content.sha256(), timeout_s=60)


def wait_for_bytes(uploads: list[SlowUpload], offset: int) -> None:
    """Wait until the daemon has taken all up to *offset*; its answer for pages says so and disturbs nobody."""
    with requests.Session() as http:
        for upload in uploads:
            while http.get(f"{upload.url}/status", timeout=30).json()["offset"] < offset:
                time.sleep(0.02)


async def test_five_hundred_uploads_at_once(make_daemon: MakeDaemon) -> None:
    """All complete; one that is open and slow takes at most 40 KiB of the daemon's memory."""
    with running_app() as app:
        memory = await upload_many(make_daemon, app, count=500, over_s=4)
    assert memory <= MEMORY_MAX_BYTES, f"{memory / KIB:.1f} KiB for an open upload"


@pytest.mark.soak
async def test_two_thousand_uploads_at_once(
    make_daemon: MakeDaemon, record_property: Callable[[str, object], None]
) -> None:
    """The same with 2,000, over half a minute."""
    with running_app() as app:
        memory = await upload_many(make_daemon, app, count=2000, over_s=30)
    record_property("bytes_for_an_open_upload", memory)
    assert memory <= MEMORY_MAX_BYTES, f"{memory / KIB:.1f} KiB for an open upload"
