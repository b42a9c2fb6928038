"""Bad links between a client and the daemon: dead, cut, half closed. What arrived is kept, and the client goes on."""

from __future__ import annotations

import random
import threading

import pytest

from tests.support.app import App
from tests.support.backend import Backend
from tests.support.content import Content
from tests.support.daemon import Daemon
from tests.support.fixtures import MakeDaemon
from tests.support.link import Link
from tests.support.machine import wait_until
from tests.support.tus import OFFSET_TYPE, VERSION, TusUpload
from tests.support.wire import Wire

MIB = 1024 * 1024
SIZE_BYTES = 4 * MIB + 99
SENT_BYTES = 1 * MIB


def begin(link: Link, upload: TusUpload) -> Wire:
    """Create, and send a part of a PATCH through *link*; return the connection that it is open on."""
    wire = Wire(link.address)
    assert upload.create(wire).status == 201
    headers = {"Upload-Offset": "0", "Content-Length": str(SIZE_BYTES)}
    wire.send_head("PATCH", upload.path, VERSION | OFFSET_TYPE | headers)
    wire.send(upload.content.read(0, SENT_BYTES))
    wait_until(lambda: link.upstream_bytes > SENT_BYTES, "the bytes are through the link")
    return wire


@pytest.fixture
def upload(shared_backend: Backend, app: App) -> TusUpload:
    ticket = shared_backend.ticket()
    upload = TusUpload(ticket["upload_url"], Content(random.randrange(1 << 30), SIZE_BYTES))
    upload.upload_id = ticket["id"]
    return upload


def kept(shared_backend: Backend, upload: TusUpload) -> int:
    return int(shared_backend.get(upload.upload_id)["offset"])


def test_a_newer_request_takes_over_from_a_dead_connection(
    shared_daemon: Daemon, shared_backend: Backend, app: App, upload: TusUpload
) -> None:
    """A dropped Wi-Fi: the old connection hangs, the client is back on another one and goes on at once, not locked out.

    What the old connection still brings later changes nothing.
    """
    with Link(shared_daemon.public) as link:
        old = begin(link, upload)
        wait_until(lambda: kept(shared_backend, upload) == SENT_BYTES, "the daemon has them")
        link.freeze()
        with upload.connect() as wire:
            answer = upload.head(wire)
            assert answer.status == 200
            assert answer.offset == SENT_BYTES
            half = upload.patch(wire, SENT_BYTES, upload.content.read(SENT_BYTES, MIB))
            assert half.status == 204
            # The dead link comes to life again, with other bytes than the file's.
            old.send(bytes(MIB))
            link.thaw()
            assert old.is_closed()
            rest = upload.content.read(half.offset, SIZE_BYTES)
            assert upload.patch(wire, half.offset, rest).status == 204
        old.close()
    app.check_arrived(upload.upload_id, upload.content.sha256())


@pytest.mark.parametrize("cut", ["reset_all", "close_all", "half_close_all"])
def test_what_arrived_before_a_cut_is_kept(
    cut: str, shared_daemon: Daemon, shared_backend: Backend, app: App, upload: TusUpload
) -> None:
    """A body that is cut in whatever way: its bytes count, and the upload goes on where they end."""
    with Link(shared_daemon.public) as link:
        wire = begin(link, upload)
        wait_until(lambda: kept(shared_backend, upload) == SENT_BYTES, "the daemon has them")
        getattr(link, cut)()
        wire.close()
    with upload.connect() as wire:
        assert upload.head(wire).offset == SENT_BYTES
    upload.run(piece_bytes=SIZE_BYTES)
    app.check_arrived(upload.upload_id, upload.content.sha256())


def test_a_restart_by_sigterm_loses_nothing(make_daemon: MakeDaemon, app: App) -> None:
    """The daemon is stopped and started three times under uploads: it ends well each time, and they all go on."""
    daemon = make_daemon({"shutdown.grace_s": 0.2})
    backend = Backend(daemon, app)
    uploads = []
    with Link(daemon.public, rate_bytes_per_s=8 * MIB) as link:
        for _ in range(4):
            ticket = backend.ticket()
            content = Content(random.randrange(1 << 30), SIZE_BYTES)
            uploads.append((ticket["id"], TusUpload(link.through(ticket["upload_url"]), content)))
        threads = [
            threading.Thread(target=upload.run, kwargs={"piece_bytes": size}, daemon=True)
            for (_, upload), size in zip(uploads, (SIZE_BYTES, SIZE_BYTES, 300_000, 64_000), strict=True)
        ]
        for thread in threads:
            thread.start()
        for quarter in (1, 2, 3):
            wait_until(lambda share=quarter: link.upstream_bytes > share * SIZE_BYTES, f"{quarter} of four are through")  # type: ignore[misc] # mypy infers no lambda with a default
            daemon.restart()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
    for upload_id, upload in uploads:
        app.check_arrived(upload_id, upload.content.sha256())
        assert upload.creations == 1
