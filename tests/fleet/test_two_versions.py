"""Instances of two versions at once: each reads what the others write, and nobody who uploads notices.

The version before is this program with ``INCOMINGD_FORMATS=1``: it has never heard of format 2.
"""

from __future__ import annotations

import json
import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tests.support.app import App
from tests.support.backend import Backend
from tests.support.content import Content
from tests.support.daemon import Daemon
from tests.support.fleet import Fleet, fleet
from tests.support.machine import wait_until
from tests.support.tus import TusUpload
from tests.support.wire import Wire

KiB = 1 << 10
FORMER = {"INCOMINGD_FORMATS": "1"}
UPLOADS = 8
HELD = 3
PAUSE_S = 0.25


@dataclass
class Roaming(TusUpload):
    """A client behind a balancer: after each trouble the next instance gets it."""

    fleet: Fleet | None = field(default=None, repr=False)
    turn: int = 0

    def connect(self, timeout_s: float = 30) -> Wire:
        assert self.fleet is not None
        daemon = self.fleet[self.turn % len(self.fleet.instances)]
        self.turn += 1
        self.url = f"{daemon.public_url}{self.path}"
        return super().connect(timeout_s)


def roaming(fleet: Fleet, backend: Backend, turn: int, size_bytes: int) -> Roaming:
    ticket = backend.ticket()
    content = Content(random.randrange(1 << 30), size_bytes)
    return Roaming(ticket["upload_url"], content, upload_id=ticket["id"], fleet=fleet, turn=turn)


def on_the_volume(fleet: Fleet, upload_ids: set[str] | None = None) -> Counter[tuple[str, int]]:
    """Return (record or claim, format) -> how many, of these uploads or of all; of claims those that are needed."""
    found: Counter[tuple[str, int]] = Counter()
    for folder in Path(str(fleet[0].settings["data_dir"])).glob("uploads/??/*"):
        if upload_ids is not None and folder.name not in upload_ids:
            continue
        epochs: dict[str, int] = {}
        for path in folder.glob("*.*.json"):
            kind, number = path.name.split(".")[:2]
            epochs[kind] = max(int(number), epochs.get(kind, 0))
        if epochs.get("claim", 0) <= epochs.get("record", 0):
            epochs.pop("claim", None)
        for kind, epoch in epochs.items():
            try:
                document = json.loads((folder / f"{kind}.{epoch}.json").read_bytes())
            except FileNotFoundError:
                # A later tenure has begun meanwhile.
                continue
            found[kind, document["format"]] += 1
    return found


def in_redis(fleet: Fleet) -> Counter[tuple[str, int]]:
    """Return (lease, owner or invitation, format) -> how many."""
    found: Counter[tuple[str, int]] = Counter()
    for key in fleet.redis.ask("KEYS", "*").splitlines():
        if key.endswith(":owner"):
            values = [fleet.redis.ask("GET", key)]
        elif key.endswith(":leases") or ":invited:" in key:
            values = fleet.redis.ask("HVALS", key).splitlines()
        else:
            continue
        kind = key.rsplit("}:", 1)[1].split(":", 1)[0]
        found.update((kind, json.loads(value)["format"]) for value in values if value.strip())
    return found


def formats(found: Counter[tuple[str, int]]) -> set[int]:
    return {version for _, version in found}


class Rolling:
    """Eight uploads, slow ones, that last until :meth:`end`, while instances are exchanged."""

    def __init__(self, fleet: Fleet, app: App) -> None:
        self.fleet, self.app = fleet, app
        self.backend = Backend(fleet[2], app)
        self.over = threading.Event()
        self.uploads = [roaming(fleet, self.backend, turn, 2048 * KiB) for turn in range(UPLOADS)]
        self.ids = {upload.upload_id for upload in self.uploads}
        self.held: list[Roaming] = []
        self.pool = ThreadPoolExecutor(UPLOADS)
        self.running = [
            self.pool.submit(upload.run, piece_bytes=16 * KiB, pause_s=partial(self._rest, upload))
            for upload in self.uploads
        ]
        wait_until(lambda: all(upload.acknowledged for upload in self.uploads), "all have begun")

    def _rest(self, upload: Roaming) -> float:
        """Wait the longer the less is left, so that it lasts; not at all once it is over."""
        size, left = upload.content.size_bytes, upload.content.size_bytes - upload.acknowledged
        self.over.wait(PAUSE_S * size / max(left, 1))
        return 0.0

    def exchange(self, index: int, environment: dict[str, str]) -> None:
        """Restart an instance as another version: drained with uploads and hand-overs; wait until all know it."""
        self.app.down()
        held = [roaming(self.fleet, self.backend, index, 16 * KiB) for _ in range(HELD)]
        for upload in held:
            upload.run(piece_bytes=16 * KiB)
        self.held += held
        daemon = self.fleet[index]
        self.fleet.drain(daemon)
        daemon.stop()
        self.app.up()
        daemon.environment = environment
        daemon.start()
        wait_until(lambda: all(map(self.fleet.knows_all, self.fleet.instances)), "all know each other")
        assert not any(each.done() for each in self.running), "they go on all the time"

    def end(self) -> None:
        """Let all uploads end, and look at what has come of them."""
        self.over.set()
        for each in self.running:
            each.result()
        for upload in self.uploads + self.held:
            self.app.check_arrived(upload.upload_id, upload.content.sha256())
            assert upload.creations == 1

    def stop(self) -> None:
        self.over.set()
        self.pool.shutdown(cancel_futures=True)


def test_an_upgrade_and_the_way_back_are_not_noticed(app: App, tmp_path: Path) -> None:
    """One instance after the other, there and back, while people upload: no upload fails, every file is right."""
    with fleet(tmp_path, environment=FORMER) as three:
        # What was written while no former instance lived, such as tickets that nobody uses, one that comes cannot read.
        three.allowed.add("record.unreadable")
        rolling = Rolling(three, app)
        try:
            there(rolling)
            back(rolling)
            rolling.end()
        finally:
            rolling.stop()


def there(rolling: Rolling) -> None:
    """Format 2 is written once the last former instance is gone, and not before."""
    three = rolling.fleet
    for index in (0, 1):
        rolling.exchange(index, {})
        assert formats(on_the_volume(three)) == {1}
        assert formats(in_redis(three)) == {1}
    rolling.exchange(2, {})
    wait_until(lambda: {version for kind, version in in_redis(three) if kind == "leases"} == {2}, "leases of format 2")
    for daemon in three.instances[:2]:
        daemon.wait_event("format.changed", format=2)
    for daemon in three.instances:
        assert not daemon.log_events("registry.value_unreadable")
        assert not daemon.log_events("record.unreadable")


def back(rolling: Rolling) -> None:
    """For the first former instance what is in use is written once more, and for all of them from then on."""
    three = rolling.fleet
    written = roaming(three, rolling.backend, 1, 16 * KiB)
    with written.connect() as wire:
        assert written.create(wire).status == 201
    assert formats(on_the_volume(three, {written.upload_id})) == {2}
    for index in (0, 1, 2):
        rolling.exchange(index, FORMER)
        wait_until(
            lambda: formats(on_the_volume(three, rolling.ids | {written.upload_id})) == {1}, "records of format 1"
        )
        wait_until(lambda: formats(in_redis(three)) == {1}, "values of format 1")
    written.run(piece_bytes=16 * KiB)
    rolling.held.append(written)


def test_the_former_program_touches_nothing_that_it_cannot_read(app: App, tmp_path: Path) -> None:
    """Taken back without a former instance beside the new ones: such an upload waits until it is upgraded again."""
    daemon = Daemon(tmp_path)
    try:
        content = Content(random.randrange(1 << 30), 64 * KiB)
        ticket = Backend(daemon.start(), app).ticket()
        upload = TusUpload(ticket["upload_url"], content)
        with upload.connect() as wire:
            assert upload.create(wire).status == 201
            assert upload.patch(wire, 0, content.read(0, 32 * KiB)).status == 204
        daemon.stop()
        folder = next(daemon.data_dir.glob(f"uploads/??/{ticket['id']}"))
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        assert b'"format": 2' in before["record.json"]

        daemon.environment = FORMER
        daemon.start()
        with upload.connect() as wire:
            answer = upload.patch(wire, 32 * KiB, content.read(32 * KiB, 32 * KiB))
            assert (answer.status, answer.code) == (503, "storage_unavailable")
        daemon.wait_event("record.unreadable")
        other = Backend(daemon, app).ticket()
        TusUpload(other["upload_url"], content).run(piece_bytes=64 * KiB)
        app.check_arrived(other["id"], content.sha256())
        daemon.stop()
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before

        daemon.environment = {}
        daemon.start()
        upload.run(piece_bytes=64 * KiB)
        app.check_arrived(ticket["id"], content.sha256())
    finally:
        daemon.stop()


def test_a_format_that_there_is_not_ends_the_start(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path)
    daemon.environment = {"INCOMINGD_FORMATS": "3"}
    daemon.launch()
    assert daemon.process is not None
    assert daemon.process.wait(20) == 2
    assert "INCOMINGD_FORMATS: expected 1 or 2" in daemon.log_tail()
