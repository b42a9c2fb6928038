"""Disks that are full, read-only or gone: the daemon says so, lives on, and the upload goes on when there is room."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.app import App
from tests.support.backend import Backend
from tests.support.content import Content
from tests.support.daemon import Daemon
from tests.support.fixtures import MakeDaemon
from tests.support.machine import read_only, resize, small_disk
from tests.support.tus import OFFSET_TYPE, VERSION, TusUpload

MIB = 1024 * 1024

pytestmark = pytest.mark.root


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 32 MiB."""
    with small_disk(tmp_path / "disk", 32 * MIB) as folder:
        yield folder


@pytest.fixture
def small_daemon(disk: Path, make_daemon: MakeDaemon) -> Daemon:
    """A daemon whose volume is the small disk."""
    settings = {"data_dir": disk / "data", "limits.free_space_reserve_bytes": 1 * MIB}
    return make_daemon(settings, allowed={"volume.failed"})


@pytest.fixture
def backend(small_daemon: Daemon, app: App) -> Backend:
    return Backend(small_daemon, app)


def content_of(size_bytes: int) -> Content:
    return Content(random.randrange(1 << 30), size_bytes)


def test_disk_full_in_mid_body(disk: Path, small_daemon: Daemon, backend: Backend, app: App) -> None:
    """507 with a code; what fitted is kept; room is made; the upload completes."""
    content = content_of(48 * MIB)
    ticket = backend.ticket()
    upload = TusUpload(ticket["upload_url"], content)
    with upload.connect() as wire:
        # The length is not told before, so nothing can be refused before the disk is full.
        created = wire.request("POST", upload.path, VERSION | {"Upload-Defer-Length": "1"})
        assert created.status == 201
        upload.creations = 1
        # Nor before the body, which does not tell its length either.
        headers = VERSION | OFFSET_TYPE | {"Upload-Offset": "0", "Transfer-Encoding": "chunked"}
        full = wire.request("PATCH", upload.path, headers, b"%x\r\n%b" % (48 * MIB, content.read(0, 48 * MIB)))
    assert (full.status, full.code) == (507, "storage_full")
    kept = backend.get(ticket["id"])["offset"]
    assert kept >= 16 * MIB
    assert small_daemon.is_ready()
    with upload.connect() as wire:
        assert upload.head(wire).offset == kept
    resize(disk, 120 * MIB)
    with upload.connect() as wire:
        headers = VERSION | OFFSET_TYPE | {"Upload-Offset": str(kept), "Upload-Length": str(content.size_bytes)}
        done = wire.request("PATCH", upload.path, headers, content.read(kept, 48 * MIB))
        assert done.status == 204
        assert done.offset == content.size_bytes
    app.check_arrived(ticket["id"], content.sha256())


def test_a_body_that_cannot_fit_is_refused_before_its_first_byte(backend: Backend, disk: Path, app: App) -> None:
    """Where only the body tells how long it is: nobody else's room is filled with a part of it."""
    content = content_of(48 * MIB)
    ticket = backend.ticket()
    upload = TusUpload(ticket["upload_url"], content)
    headers = VERSION | OFFSET_TYPE | {"Upload-Offset": "0"}
    with upload.connect() as wire:
        assert wire.request("POST", upload.path, VERSION | {"Upload-Defer-Length": "1"}).status == 201
        upload.creations = 1
        full = wire.request("PATCH", upload.path, headers, content.read(0, 48 * MIB))
    assert (full.status, full.code) == (507, "storage_full")
    assert backend.get(ticket["id"])["offset"] == 0
    status = os.statvfs(disk)
    assert status.f_bavail * status.f_frsize >= 16 * MIB
    resize(disk, 120 * MIB)
    with upload.connect() as wire:
        headers = headers | {"Upload-Length": str(content.size_bytes)}
        assert wire.request("PATCH", upload.path, headers, content.read(0, 48 * MIB)).status == 204
    app.check_arrived(ticket["id"], content.sha256())


def test_a_length_that_cannot_fit_is_refused_at_the_creation(disk: Path, backend: Backend, app: App) -> None:
    """Room for a declared length is checked before the first byte; with room the same ticket works."""
    content = content_of(40 * MIB)
    ticket = backend.ticket()
    upload = TusUpload(ticket["upload_url"], content)
    with upload.connect() as wire:
        refused = upload.create(wire)
        assert (refused.status, refused.code) == (507, "storage_full")
    assert backend.get(ticket["id"])["status"] == "open"
    resize(disk, 120 * MIB)
    upload.run(piece_bytes=8 * MIB)
    app.check_arrived(ticket["id"], content.sha256())


def test_another_one_fills_the_disk(disk: Path, backend: Backend, app: App) -> None:
    """Somebody else's file takes the room in mid-upload: 507 or no harm at all, and it goes on once that is gone."""
    content = content_of(20 * MIB)
    ticket = backend.ticket()
    upload = TusUpload(ticket["upload_url"], content)
    with upload.connect() as wire:
        assert upload.create(wire).status == 201
        assert upload.patch(wire, 0, content.read(0, 4 * MIB)).status == 204
    hog = disk / "hog"
    with hog.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(MIB)) == MIB:
                pass
        except OSError:
            pass
    with upload.connect() as wire:
        answer = upload.patch(wire, 4 * MIB, content.read(4 * MIB, 16 * MIB))
        assert answer.status in (204, 507)
    hog.unlink()
    upload.run(piece_bytes=4 * MIB)
    app.check_arrived(ticket["id"], content.sha256())


def test_disk_turns_read_only(disk: Path, small_daemon: Daemon, backend: Backend, app: App) -> None:
    """503 while nothing can be written; the daemon lives; afterwards the upload completes."""
    content = content_of(8 * MIB)
    ticket = backend.ticket()
    upload = TusUpload(ticket["upload_url"], content)
    with upload.connect() as wire:
        assert upload.create(wire).status == 201
        assert upload.patch(wire, 0, content.read(0, MIB)).status == 204
    with read_only(disk / "data"):
        with upload.connect() as wire:
            # What is open already may still be written; what is answered must be true either way.
            assert upload.patch(wire, MIB, content.read(MIB, MIB)).status in (204, 503)
        answer = backend.call("POST", "/uploads", backend.ticket_fields())
        assert (answer.status_code, answer.json()["code"]) == (503, "storage_unavailable")
        assert small_daemon.process is not None
        assert small_daemon.process.poll() is None
    upload.run(piece_bytes=2 * MIB)
    app.check_arrived(ticket["id"], content.sha256())


def test_directory_vanishes(disk: Path, small_daemon: Daemon, backend: Backend, app: App) -> None:
    """The directory is gone (unmounted, renamed): 503 with a code, the daemon lives; it comes back, and all goes on."""
    content = content_of(8 * MIB)
    ticket = backend.ticket()
    upload = TusUpload(ticket["upload_url"], content)
    with upload.connect() as wire:
        assert upload.create(wire).status == 201
        assert upload.patch(wire, 0, content.read(0, MIB)).status == 204
    away = disk / "elsewhere"
    (disk / "data").rename(away)
    answer = backend.call("POST", "/uploads", backend.ticket_fields())
    assert (answer.status_code, answer.json()["code"]) == (503, "storage_unavailable")
    with upload.connect() as wire:
        assert upload.patch(wire, MIB, content.read(MIB, MIB)).status in (204, 503)
    assert small_daemon.process is not None
    assert small_daemon.process.poll() is None
    away.rename(disk / "data")
    upload.run(piece_bytes=2 * MIB)
    app.check_arrived(ticket["id"], content.sha256())
