"""What a drain costs its peers, and uploads cost Redis."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.fleet.load import KIB, MIB, Figures, Pace, Streams, Upload, keep_figures, many_files, spread, through
from tests.support.app import App, running_app
from tests.support.backend import Backend
from tests.support.content import Content
from tests.support.fleet import Fleet, fleet
from tests.support.machine import wait_until
from tests.support.tus import TusUpload

SIZE_BYTES = 64 * KIB
DRAINED_WITHIN_S = 5.0
HEAD_WITHIN_S = 0.1
HEAD_BESIDE_OTHERS_WITHIN_S = 0.5
"""Where other tests run on the same processors at the same time."""
ASKED_EVERY_S = 0.01
APPENDS = 400


@pytest.fixture(autouse=True)
def _many_files() -> Iterator[None]:
    with many_files():
        yield


class Towards:
    """Clients come to the first instance; once it drains, to any other: what a balancer does."""

    def __init__(self, running: Fleet) -> None:
        self._connects = [through(daemon.public) for daemon in running.instances]
        self.away = False

    async def __call__(self) -> Streams:
        return await (random.choice(self._connects[1:]) if self.away else self._connects[0])()


async def keep_asking(running: Fleet, app: App, found: list[float]) -> None:
    """Ask the peers for uploads that they have, again and again; note how long each answer took."""
    asked = []
    for daemon in running.instances[1:]:
        for given in Backend(daemon, app).tickets(4):
            upload = TusUpload(given["upload_url"], Content(1, MIB))
            with upload.connect() as wire:
                assert upload.create(wire).status == 201
            asked.append((*await through(daemon.public)(), upload.path))
    try:
        while True:
            reader, writer, path = random.choice(asked)
            began = time.monotonic()
            writer.write(f"HEAD {path} HTTP/1.1\r\nHost: test\r\nTus-Resumable: 1.0.0\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 "), head
            found.append(time.monotonic() - began)
            await asyncio.sleep(ASKED_EVERY_S)
    finally:
        for _, writer, _ in asked:
            writer.transport.abort()


def drain(running: Fleet) -> None:
    """Drain the first instance; it is not asked so often how far it is that this would cost it anything."""
    running.admin(running[0], "POST", "/drain")
    wait_until(lambda: running.status(running[0])["state"] == "drained", "drained", timeout_s=60, interval_s=0.25)


async def drain_under(count: int, folder: Path, app: App, *, head_within_s: float) -> None:
    """Drain an instance with *count* open uploads: in time, and its peers answer as ever meanwhile."""
    with fleet(folder) as running:
        figures, pace, towards = Figures(), Pace(KIB / 4, piece_bytes=KIB), Towards(running)
        uploads = [
            Upload(urlsplit(given["upload_url"]).path, Content(number, SIZE_BYTES), towards, pace, figures)
            for number, given in enumerate(Backend(running[0], app).tickets(count))
        ]
        asked: list[float] = []
        async with asyncio.TaskGroup() as group:
            for upload in uploads:
                group.create_task(upload.run())
            while not all(upload.open for upload in uploads):
                await asyncio.sleep(0.05)
            asking = asyncio.create_task(keep_asking(running, app, asked))
            while not asked:
                await asyncio.sleep(0.05)
            asked.clear()
            towards.away = True
            await asyncio.to_thread(drain, running)
            during = list(asked)
            asking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asking
            pace.hurry = True
        ended = running[0].wait_event("drain.ended")
        told = figures.summary() | {"drain": ended["duration_s"], "parked": ended["uploads"], "asked_s": spread(during)}
        keep_figures(f"drain-{count}", told, folder)
        for upload in uploads:
            assert upload.creations == 1
            await asyncio.to_thread(app.check_arrived, upload.upload_id, upload.content.sha256())
        assert told["cuts"] == count, told
        assert ended["duration_s"] <= DRAINED_WITHIN_S, told
        assert told["asked_s"]["p99"] <= head_within_s, told


@pytest.mark.alone
async def test_three_hundred_uploads_leave_in_time(tmp_path: Path) -> None:
    """Within 5 s, and HEAD at the peers takes less than 0.5 s in 99 of 100 cases."""
    with running_app() as app:
        await drain_under(300, tmp_path, app, head_within_s=HEAD_BESIDE_OTHERS_WITHIN_S)


@pytest.mark.soak
async def test_a_thousand_uploads_leave_in_time(tmp_path: Path) -> None:
    """A thousand within 5 s, too, and HEAD within 100 ms."""
    with running_app() as app:
        await drain_under(1000, tmp_path, app, head_within_s=HEAD_WITHIN_S)


def calls(running: Fleet) -> dict[str, int]:
    """Return how often Redis has been given each command."""
    found = {}
    for line in running.redis.ask("INFO", "commandstats").splitlines():
        if line.startswith("cmdstat_"):
            name, _, fields = line.removeprefix("cmdstat_").partition(":")
            found[name] = int(fields.partition("calls=")[2].partition(",")[0])
    return found


def test_appends_cost_redis_nothing(app: App, tmp_path: Path) -> None:
    """An upload's beginning and end do; of its appends Redis hears nothing: only the leases are renewed meanwhile."""
    # Longer than the test: what is not about uploads is hardly there.
    with fleet(tmp_path, settings={"registry.lease_s": 60}) as running:
        content = Content(3, 2 * MIB)
        upload = TusUpload(Backend(running[0], app).ticket()["upload_url"], content)
        with upload.connect() as wire:
            assert upload.create(wire).status == 201
            assert upload.patch(wire, 0, content.read(0, KIB)).status == 204
            before = calls(running)
            for offset in range(KIB, (APPENDS + 1) * KIB, KIB):
                assert upload.patch(wire, offset, content.read(offset, KIB)).status == 204
            after = calls(running)
        changed = {name: number - before.get(name, 0) for name, number in after.items() if name != "info"}
        # Leases are renewed, and others looked for; nothing of it is for an append.
        assert sum(changed.values()) < APPENDS / 4, changed
