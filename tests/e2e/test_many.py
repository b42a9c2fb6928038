"""Hundreds of uploads at once in one process, most of them slow: all complete, and a slow one costs little memory."""

from __future__ import annotations

import asyncio
import random
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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
FIRST_BYTES = 32 * KIB
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

    async def trickle(self, *, pieces: int, over_s: float) -> int:
        """Send the rest in *pieces* over so many seconds; return the status of the answer."""
        rest = self.content.read(FIRST_BYTES, self.content.size_bytes)
        size = -(-len(rest) // pieces)
        for start in range(0, len(rest), size):
            self.writer.write(rest[start : start + size])
            await self.writer.drain()
            await asyncio.sleep(over_s / pieces * random.uniform(0.5, 1.5))
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
    # One of each kind first: code and buffers that are there once and for all count for no upload.
    for ticket in backend.tickets(3):
        warm = await SlowUpload.open(ticket, Content(random.randrange(1 << 30), SIZE_BYTES))
        await warm.begin()
        assert await warm.trickle(pieces=2, over_s=0) == 204
        await asyncio.to_thread(app.check_arrived, warm.upload_id, warm.content.sha256())
    tickets = backend.tickets(count)
    before = pss_bytes(daemon.pid)
    uploads = [await SlowUpload.open(ticket, Content(random.randrange(1 << 30), SIZE_BYTES)) for ticket in tickets]
    await asyncio.gather(*(upload.begin() for upload in uploads))
    await asyncio.to_thread(wait_for_first_bytes, uploads)
    memory = (pss_bytes(daemon.pid) - before) / count
    slow = [upload for number, upload in enumerate(uploads) if number % 10]
    fast = [upload for number, upload in enumerate(uploads) if not number % 10]
    statuses = await asyncio.gather(
        *(upload.trickle(pieces=20, over_s=over_s) for upload in slow),
        *(upload.trickle(pieces=1, over_s=0) for upload in fast),
    )
    assert set(statuses) == {204}
    for upload in uploads:
        await asyncio.to_thread(app.check_arrived, upload.upload_id, upload.content.sha256(), timeout_s=60)
    return memory


def wait_for_first_bytes(uploads: list[SlowUpload]) -> None:
    """Wait until the daemon has taken the first bytes of all; its answer for pages says so and disturbs nobody."""
    with requests.Session() as http:
        for upload in uploads:
            while http.get(f"{upload.url}/status", timeout=30).json()["offset"] < FIRST_BYTES:
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
