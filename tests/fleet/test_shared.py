"""Three instances on one volume: any of them takes any request, whatever happens to the others."""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.app import App
from tests.support.backend import Backend
from tests.support.content import Content
from tests.support.fleet import LEASE_S, Fleet, at, fleet, go_to
from tests.support.machine import wait_until
from tests.support.tus import TusUpload

MiB = 1 << 20


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Fleet]:
    with fleet(tmp_path) as running:
        yield running


def test_any_instance_takes_any_request(three: Fleet, app: App) -> None:
    """Ticket at the first, creation at the second, each piece at another one, status and hand-over wherever."""
    content = Content(random.randrange(1 << 30), 3 * MiB)
    ticket = Backend(three[0], app).ticket()
    upload = at(three, 1, ticket, content)
    with upload.connect() as wire:
        assert upload.create(wire).status == 201
    for number, start in enumerate(range(0, content.size_bytes, MiB)):
        go_to(upload, three, number)
        with upload.connect() as wire:
            assert upload.head(wire).offset == start
            assert upload.patch(wire, start, content.read(start, MiB)).status == 204
    app.check_arrived(ticket["id"], content.sha256())
    for number in range(3):
        assert Backend(three[number], app).wait_status(ticket["id"], "finished")["offset"] == content.size_bytes
    assert len(app.of(ticket["id"])) == 1


def test_an_open_append_gives_way_to_a_client_that_comes_elsewhere(three: Fleet, app: App) -> None:
    """What the first instance has kept by then counts; the rest goes to the second."""
    content = Content(random.randrange(1 << 30), 4 * MiB)
    ticket = Backend(three[0], app).ticket()
    upload = at(three, 0, ticket, content)
    with upload.connect() as wire:
        upload.create(wire)
    with upload.connect() as slow:
        length = {"Content-Length": str(content.size_bytes)}
        slow.send_head("PATCH", upload.path, upload.patch_headers(0) | length)
        slow.send(content.read(0, MiB))
        wait_until(lambda: Backend(three[0], app).get(ticket["id"])["offset"] == MiB, "the first MiB is in")
        go_to(upload, three, 1)
        with upload.connect() as wire:
            assert upload.head(wire).offset == MiB
            assert upload.patch(wire, MiB, content.read(MiB, 3 * MiB)).status == 204
    app.check_arrived(ticket["id"], content.sha256())


def test_a_drained_instance_owns_nothing_and_nobody_notices(three: Fleet, app: App) -> None:
    uploads = []
    threads = []
    for number in range(12):
        content = Content(random.randrange(1 << 30), 2 * MiB)
        ticket = Backend(three[0], app).ticket()
        upload = at(three, number % 3, ticket, content)
        upload.upload_id = ticket["id"]
        uploads.append(upload)
        threads.append(threading.Thread(target=upload.run, kwargs={"piece_bytes": 64 * 1024, "pause_s": lambda: 0.02}))
    for thread in threads:
        thread.start()
    wait_until(lambda: all(upload.acknowledged for upload in uploads), "all have begun")
    # A balancer would send them elsewhere.
    status = three.drain(three[0])
    for upload in uploads:
        if upload.url.startswith(three[0].public_url):
            go_to(upload, three, 1)
    assert status["uploads_in_memory"] == 0
    for thread in threads:
        thread.join()
    for upload in uploads:
        app.check_arrived(upload.upload_id, upload.content.sha256())
        assert upload.creations == 1
    three.undrain(three[0])
    assert three.status(three[0])["state"] == "ready"


@pytest.mark.parametrize("how", ["kill9", "freeze"])
def test_an_instance_that_dies_or_hangs_holds_up_nobody_for_long(how: str, three: Fleet, app: App) -> None:
    """Killed: its uploads go on at once. Frozen: after a lease time at the latest; woken, it is turned away."""
    content = Content(random.randrange(1 << 30), 3 * MiB)
    ticket = Backend(three[0], app).ticket()
    upload = at(three, 0, ticket, content)
    with upload.connect() as wire:
        upload.create(wire)
        upload.patch(wire, 0, content.read(0, MiB))
    assert three[0].process is not None
    if how == "kill9":
        three[0].kill9()
    else:
        three[0].process.send_signal(signal.SIGSTOP)
    go_to(upload, three, 1)
    with upload.connect(timeout_s=60) as wire:
        assert upload.head(wire).offset == MiB
        assert upload.patch(wire, MiB, content.read(MiB, MiB)).status == 204
    if how == "freeze":
        three[0].process.send_signal(signal.SIGCONT)
        late = TusUpload(f"{three[0].public_url}{upload.path}", content)
        with late.connect() as wire:
            # The true offset, or no answer that could be taken for one.
            assert late.head(wire).offset == 2 * MiB
    with upload.connect() as wire:
        assert upload.head(wire).offset == 2 * MiB
        assert upload.patch(wire, 2 * MiB, content.read(2 * MiB, MiB)).status == 204
    app.check_arrived(ticket["id"], content.sha256())


def test_a_hand_over_goes_on_when_its_instance_is_gone(three: Fleet, app: App) -> None:
    """The web app was down when the file was whole, and the instance that called it is killed meanwhile."""
    content = Content(random.randrange(1 << 30), MiB)
    ticket = Backend(three[0], app).ticket()
    app.down()
    at(three, 0, ticket, content).run(piece_bytes=MiB)
    three[0].wait_event("handover.attempted", upload_id=ticket["id"])
    three[0].kill9()
    app.up()
    app.check_arrived(ticket["id"], content.sha256())
    Backend(three[1], app).wait_status(ticket["id"], "finished")


def test_a_hand_over_is_pushed_to_a_successor(three: Fleet, app: App) -> None:
    content = Content(random.randrange(1 << 30), MiB)
    ticket = Backend(three[0], app).ticket()
    app.down()
    at(three, 0, ticket, content).run(piece_bytes=MiB)
    three[0].wait_event("handover.attempted", upload_id=ticket["id"])
    status = three.drain(three[0])
    assert status["drain"]["invited"] == 1
    app.up()
    app.check_arrived(ticket["id"], content.sha256())
    Backend(three[1], app).wait_status(ticket["id"], "finished")


@pytest.mark.parametrize("trouble", ["flush", "stop", "freeze"])
def test_redis_lost_is_nobodys_loss(trouble: str, three: Fleet, app: App) -> None:
    """Owners go on receiving, uploads move, tickets are made, files arrive."""
    content = Content(random.randrange(1 << 30), 3 * MiB)
    ticket = Backend(three[0], app).ticket()
    upload = at(three, 0, ticket, content)
    with upload.connect() as wire:
        upload.create(wire)
        upload.patch(wire, 0, content.read(0, MiB))
    if trouble == "flush":
        three.redis.ask("FLUSHALL")
    elif trouble == "freeze":
        three.redis.freeze()
    else:
        three.redis.kill()
    if trouble != "flush":
        wait_until(lambda: three.status(three[1])["state"] == "suspended", "the loss is noticed", timeout_s=5)
    with upload.connect() as wire:
        assert upload.patch(wire, MiB, content.read(MiB, MiB)).status == 204
    go_to(upload, three, 1)
    with upload.connect() as wire:
        assert upload.head(wire).offset == 2 * MiB
        assert upload.patch(wire, 2 * MiB, content.read(2 * MiB, MiB)).status == 204
    app.check_arrived(ticket["id"], content.sha256())
    other = Backend(three[2], app).ticket()
    if trouble == "freeze":
        three.redis.thaw()
    elif trouble == "stop":
        three.redis.start()
    wait_until(lambda: three.status(three[1])["state"] == "ready", "Redis is back", timeout_s=4 * LEASE_S)
    at(three, 1, other, content).run(piece_bytes=MiB)
    app.check_arrived(other["id"], content.sha256())


def test_each_upload_is_counted_once_in_the_fleet(three: Fleet, app: App) -> None:
    """Each instance counts what it looks after: the sum is what there is."""
    for number in range(9):
        Backend(three[number % 3], app).ticket()

    def counted() -> int:
        return sum(int(three.status(daemon)["uploads"]["open"]) for daemon in three.instances)

    wait_until(lambda: counted() == 9, "all are counted", timeout_s=30)
