"""Large uploads move between volumes: the client waits no longer than with a small one, and the bytes follow."""

from __future__ import annotations

import random
import shutil
import statistics
import time
from pathlib import Path

import pytest

from tests.support.app import App
from tests.support.backend import Backend
from tests.support.content import Content
from tests.support.fleet import Fleet, at, fleet, go_to
from tests.support.machine import wait_until
from tests.support.tus import TusUpload
from tests.support.wire import Wire

KiB = 1 << 10
MiB = 1 << 20
GiB = 1 << 30

SMALL_BYTES = 20 * MiB
MOVES = 5
STEP_BYTES = MiB
FIRST_BYTES = 64 * KiB
RATIO_MAX = 4
"""Of medians of pauses. Were the bytes waited for, it would be over 10."""
LIMIT_BYTES_PER_S = 16 * MiB
TAKES_S = 3600.0
"""The test's own time limit ends what hangs."""


class Traveller:
    """An upload whose client sends without an end, and goes on somewhere else in the midst of it."""

    def __init__(self, fleet: Fleet, app: App, size_bytes: int) -> None:
        self.fleet = fleet
        self.app = app
        rest_bytes = MOVES * (STEP_BYTES + FIRST_BYTES) + STEP_BYTES
        self.content = Content(random.randrange(1 << 30), size_bytes + rest_bytes)
        self.id: str = Backend(fleet[0], app).ticket()["id"]
        self.upload = TusUpload(f"{fleet[0].public_url}/incoming/1.0/frontend/uploads/{self.id}", self.content)
        self.at = 0
        self.offset = 0
        self.pauses_s: list[float] = []
        self._sending: Wire | None = None
        with self.upload.connect() as wire:
            assert self.upload.create(wire).status == 201
        self.send(size_bytes)

    def send(self, size_bytes: int) -> None:
        """Begin a request that has the whole rest for its body; send so much of it, and return when it is taken."""
        length = {"Content-Length": str(self.content.size_bytes - self.offset)}
        self._sending = self.upload.connect(timeout_s=TAKES_S)
        self._sending.send_head("PATCH", self.upload.path, self.upload.patch_headers(self.offset) | length)
        end = self.offset + size_bytes
        for start in range(self.offset, end, 4 * MiB):
            self._sending.send(self.content.read(start, min(4 * MiB, end - start)))
        backend = Backend(self.fleet[self.at], self.app)
        wait_until(lambda: backend.get(self.id)["offset"] == end, f"{end} bytes are taken", timeout_s=TAKES_S)
        self.offset = end

    def move(self) -> None:
        """Go on at the next instance; note how long it was from the last byte taken here to the first one there."""
        self.at = (self.at + 1) % len(self.fleet.instances)
        began_s = time.perf_counter()
        go_to(self.upload, self.fleet, self.at)
        with self.upload.connect(timeout_s=TAKES_S) as wire:
            assert self.upload.head(wire).offset == self.offset
            first = self.content.read(self.offset, FIRST_BYTES)
            assert self.upload.patch(wire, self.offset, first).status == 204
        self.pauses_s.append(time.perf_counter() - began_s)
        self.offset += FIRST_BYTES
        assert self._sending is not None
        self._sending.close()

    def follow(self) -> None:
        """Wait until all earlier bytes lie where the upload goes on, and nowhere else."""
        self.fleet[self.at].wait_event("upload.backfilled", upload_id=self.id, timeout_s=TAKES_S)
        before = self.fleet[self.at - 1]
        folder = before.data_dir / "uploads" / self.id[:2] / self.id
        wait_until(lambda: not any(folder.glob("bytes.*")), "the former owner drops them", timeout_s=TAKES_S)

    def arrive(self) -> None:
        """Send the rest, and see the whole file with the web app."""
        self.upload.run(piece_bytes=8 * MiB)
        self.app.check_arrived(self.id, self.content.sha256(), timeout_s=TAKES_S)


def copied_bytes(fleet: Fleet, number: int, upload_id: str) -> int:
    """Return how many bytes of an upload were copied to the volume of an instance."""
    folder = fleet[number].data_dir / "uploads" / upload_id[:2] / upload_id
    return sum(path.stat().st_size for path in folder.glob("bytes.*-*"))


@pytest.mark.parametrize(
    "large_bytes",
    [
        # What moves and what does not shows with this, too; a GiB takes half a minute on two busy cores.
        pytest.param(256 * MiB, id="256MiB"),
        pytest.param(GiB, id="1GiB", marks=[pytest.mark.soak, pytest.mark.timeout(600)]),
        pytest.param(20 * GiB, id="20GiB", marks=[pytest.mark.soak, pytest.mark.timeout(7200)]),
    ],
)
def test_the_pause_does_not_grow_with_the_upload(large_bytes: int, tmp_path: Path, app: App) -> None:
    """A small and a large upload move in turn, each in the midst of a request, both on the same machine."""
    # Where much room is needed, the bytes of a move are awaited before the next one: they lie on two volumes at most.
    waits = large_bytes > GiB
    needed_bytes = (2 if waits else 4) * large_bytes + 2 * GiB
    free_bytes = shutil.disk_usage(tmp_path).free
    if free_bytes < needed_bytes:
        pytest.skip(f"needs {needed_bytes >> 30} GiB of disk for the volumes; {free_bytes >> 30} GiB are free")
    settings = {"durability": "acknowledgement", "handover.timeout_s": TAKES_S}
    with fleet(tmp_path, shared=False, settings=settings) as running:
        small, large = Traveller(running, app, SMALL_BYTES), Traveller(running, app, large_bytes)
        for number in range(MOVES):
            for each in (small, large):
                each.move()
                if waits:
                    each.follow()
                if number < MOVES - 1:
                    each.send(STEP_BYTES)
        for each in (small, large):
            each.arrive()
    ratio = statistics.median(large.pauses_s) / statistics.median(small.pauses_s)
    assert ratio < RATIO_MAX, f"small: {small.pauses_s}, large: {large.pauses_s}"


def test_a_backfill_keeps_to_its_limit_and_goes_on_when_the_giver_is_back(tmp_path: Path, app: App) -> None:
    """The giver is killed in the midst: new bytes are taken all the same, and what was copied is not copied again."""
    with fleet(tmp_path, 2, shared=False) as running:
        running[1].kill9()
        running[1].settings["peer.backfill_bytes_per_s"] = LIMIT_BYTES_PER_S
        running[1].start()
        content = Content(random.randrange(1 << 30), 3 * LIMIT_BYTES_PER_S + 2 * MiB)
        ticket = Backend(running[0], app).ticket()
        upload = at(running, 0, ticket, content)
        begun_bytes = 3 * LIMIT_BYTES_PER_S
        with upload.connect() as wire:
            assert upload.create(wire).status == 201
            assert upload.patch(wire, 0, content.read(0, begun_bytes)).status == 204
        began_s = time.monotonic()

        def copied() -> int:
            """Return how much has been copied; it is never more than the limit allows, and never less than before."""
            size = copied_bytes(running, 1, ticket["id"])
            # The limit counts whole seconds: what one of them may take may come in its first moment.
            allowed = LIMIT_BYTES_PER_S * (time.monotonic() - began_s + 1)
            assert size <= 1.1 * allowed, f"{size} bytes after {time.monotonic() - began_s} s"
            return size

        go_to(upload, running, 1)
        with upload.connect() as wire:
            assert upload.head(wire).offset == begun_bytes
            assert upload.patch(wire, begun_bytes, content.read(begun_bytes, MiB)).status == 204
        wait_until(lambda: copied() >= LIMIT_BYTES_PER_S, "some of it is copied")
        running[0].kill9()
        before = copied()
        assert before < begun_bytes
        with upload.connect() as wire:
            at_bytes = begun_bytes + MiB
            assert upload.patch(wire, at_bytes, content.read(at_bytes, MiB // 2)).status == 204
        running[0].launch()
        while not running[1].log_events("upload.backfilled", upload_id=ticket["id"]):
            assert copied() >= before
            time.sleep(0.02)
        # And back to where no limit is set.
        go_to(upload, running, 0)
        with upload.connect() as wire:
            assert upload.head(wire).offset == begun_bytes + MiB + MiB // 2
        event = running[0].wait_event("upload.backfilled", upload_id=ticket["id"])
        # Under the limit each piece would have taken its second, however fast the machine.
        assert event["bytes"] / event["duration_s"] > LIMIT_BYTES_PER_S
        upload.run(piece_bytes=MiB)
        app.check_arrived(ticket["id"], content.sha256())
