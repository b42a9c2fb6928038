"""`kill -9` at any instant: what was acknowledged is there afterwards, and every file reaches the web app, once."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.app import App
from tests.support.backend import Backend
from tests.support.content import Content
from tests.support.daemon import Killer, Supervisor
from tests.support.fixtures import MakeDaemon
from tests.support.machine import wait_until
from tests.support.tus import OFFSET_TYPE, VERSION, TusUpload, checksum_header

KIB = 1024
MIB = 1024 * KIB

CLIENTS = 10


@dataclass
class Visitor:
    """Uploads one file after the other until it is time to go home, and keeps them all in mind."""

    backend: Backend
    seed: int
    going_home: threading.Event
    uploads: list[tuple[str, TusUpload]] = field(default_factory=list)

    def run(self) -> None:
        chance = random.Random(self.seed)
        while not self.going_home.is_set():
            content = Content(chance.randrange(1 << 40), chance.choice([1, 70_001, 900 * KIB, 3 * MIB, 5 * MIB + 1]))
            ticket = self.ticket(content)
            upload = TusUpload(str(ticket["upload_url"]), content)
            self.uploads.append((str(ticket["id"]), upload))
            upload.run(
                piece_bytes=chance.choice([64 * KIB, 300_007, 2 * MIB, content.size_bytes]),
                # Under a checksum a cut piece is lost whole; without one its bytes count as far as they came.
                checksum=chance.choice([None, "sha1", "sha256"]),
                pause_s=lambda: chance.uniform(0, 0.1),
            )

    def ticket(self, content: Content) -> dict[str, object]:
        # A web app's own calls meet a dead daemon too; with a key it may simply ask again.
        while True:
            try:
                return self.backend.ticket(key=f"{self.seed}-{content.seed}", length=content.size_bytes)
            except OSError:
                self.backend.daemon.wait_ready()


def kill_under_load(make_daemon: MakeDaemon, app: App, *, kills: int, seed: int) -> None:
    """Let ten visitors upload while the daemon is killed *kills* times; nothing that was promised may be missing."""
    daemon = make_daemon({"handover.backoff_max_s": 1})
    backend = Backend(daemon, app)
    going_home = threading.Event()
    chance = random.Random(seed)
    visitors = [Visitor(backend, seed * 1000 + number, going_home) for number in range(CLIENTS)]
    with Supervisor(daemon) as supervisor, ThreadPoolExecutor(CLIENTS) as pool:
        with Killer(supervisor, lambda: chance.uniform(0, 0.6), kills_max=kills) as killer:
            futures = [pool.submit(visitor.run) for visitor in visitors]
            try:
                killer.wait(timeout_s=60 + 10 * kills)
            finally:
                going_home.set()
        for future in futures:
            future.result(timeout=60)
        uploads = [one for visitor in visitors for one in visitor.uploads]
        for upload_id, upload in uploads:
            backend.wait_status(upload_id, "finished", timeout_s=60)
            app.check_arrived(upload_id, upload.content.sha256())
            assert upload.creations == 1
    assert supervisor.kills == kills
    assert sum(upload.resumes for _, upload in uploads) >= kills, "the kills met hardly any upload: this proves little"


def test_no_acknowledged_byte_is_lost(make_daemon: MakeDaemon, app: App) -> None:
    """30 times `kill -9` under ten uploads at once: no offset falls, no file is wrong, no callback is missing."""
    kill_under_load(make_daemon, app, kills=30, seed=random.randrange(1 << 20))


def test_bytes_without_their_checksum_do_not_count_after_a_kill(make_daemon: MakeDaemon, app: App) -> None:
    """A daemon that died under a checksummed body has not seen its end: none of it counts, then or later."""
    daemon = make_daemon()
    backend = Backend(daemon, app)
    content = Content(random.randrange(1 << 40), 3 * MIB)
    ticket = backend.ticket()
    upload = TusUpload(ticket["upload_url"], content)
    with upload.connect() as wire:
        assert upload.create(wire).status == 201
        assert upload.patch(wire, 0, content.read(0, MIB), checksum="sha1").status == 204
    with upload.connect() as wire:
        wrong = bytes(2 * MIB)
        headers = {"Upload-Offset": str(MIB), "Content-Length": str(len(wrong))}
        headers |= {"Upload-Checksum": checksum_header("sha1", wrong)}
        wire.send_head("PATCH", upload.path, VERSION | OFFSET_TYPE | headers)
        wire.send(wrong[:-1])
        wait_until(lambda: largest_file(daemon.data_dir) > 2 * MIB, "the daemon has written most of the body")
        daemon.kill9()
    for _ in range(2):
        daemon.start()
        # Who asks makes the daemon look at the bytes, and write down what it found.
        with upload.connect() as wire:
            assert upload.head(wire).offset == MIB
        daemon.kill9()
    daemon.start()
    with upload.connect() as wire:
        assert upload.head(wire).offset == MIB
    upload.run(piece_bytes=3 * MIB)
    app.check_arrived(ticket["id"], content.sha256())


def largest_file(folder: Path) -> int:
    """Return the size of the largest file below *folder*."""
    return max(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.soak
def test_no_acknowledged_byte_is_lost_in_a_thousand_kills(make_daemon: MakeDaemon, app: App) -> None:
    """The same 1,000 times."""
    kill_under_load(make_daemon, app, kills=1000, seed=random.randrange(1 << 20))
