"""Instances on volumes of their own: an upload goes on at once where its client comes, its bytes follow."""

from __future__ import annotations

import functools
import hashlib
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from incomingd.core import blocks
from incomingd.core.blocks import BLOCK_BYTES
from tests.support.app import WAIT, App
from tests.support.backend import Backend
from tests.support.content import Content
from tests.support.daemon import Daemon
from tests.support.fleet import Fleet, at, fleet, go_to
from tests.support.machine import wait_until
from tests.support.tus import TusUpload

MiB = 1 << 20


@pytest.fixture
def private(tmp_path: Path) -> Iterator[Fleet]:
    with fleet(tmp_path, shared=False) as running:
        yield running


def begun(
    fleet: Fleet, index: int, app: App, content: Content, size_bytes: int, *, digest: str | None = None
) -> tuple[str, TusUpload]:
    """Begin an upload at one instance, and bring so many bytes there."""
    ticket = Backend(fleet[index], app).ticket(digest=digest)
    upload = at(fleet, index, ticket, content)
    with upload.connect() as wire:
        assert upload.create(wire).status == 201
        assert upload.patch(wire, 0, content.read(0, size_bytes)).status == 204
    return ticket["id"], upload


def blocks_at(fleet: Fleet, number: int, upload_id: str) -> Callable[[], list[bytes]]:
    """Return what reads the digests of an upload's blocks that stand with an instance."""
    folder = fleet[number].data_dir / "uploads" / upload_id[:2] / upload_id
    return lambda: [digest for path in folder.glob("digests.*") for digest in blocks.decode(path.read_bytes())]


def segments(fleet: Fleet, number: int, upload_id: str) -> list[str]:
    """Return the segments of an upload that lie with an instance."""
    folder = fleet[number].data_dir / "uploads" / upload_id[:2] / upload_id
    return sorted(path.name for path in folder.glob("bytes.*")) if folder.exists() else []


def test_a_digest_is_that_of_the_file_wherever_it_came_in(private: Fleet, app: App) -> None:
    """The next owner has the bytes of its own blocks only when they have followed; it tells no digest before."""
    content = Content(random.randrange(1 << 30), 12 * MiB)
    upload_id, upload = begun(private, 0, app, content, 9 * MiB, digest="sha-256")
    digests = {index: blocks_at(private, index, upload_id) for index in (0, 1)}
    first = hashlib.sha256(content.read(0, BLOCK_BYTES)).digest()
    wait_until(lambda: digests[0]() == [first], "the digest of the first block stands where it came in")
    go_to(upload, private, 1)
    with upload.connect() as wire:
        assert upload.head(wire).offset == 9 * MiB
        wait_until(lambda: digests[1]() == [first], "it stands where the upload is now")
        assert upload.patch(wire, 9 * MiB, content.read(9 * MiB, 3 * MiB)).status == 204
    app.check_arrived(upload_id, content.sha256())
    told = [each.data["digest"] for each in app.deliveries if each.upload_id == upload_id]
    assert told == [{"sha-256": content.sha256()}]


def test_an_upload_goes_round_all_volumes(private: Fleet, app: App) -> None:
    """A -> B -> C -> A: at each the offset is right at once, the file is whole in the end, and nothing is left over."""
    content = Content(random.randrange(1 << 30), 4 * MiB)
    upload_id, upload = begun(private, 0, app, content, MiB)
    for number, index in enumerate((1, 2, 0), 1):
        go_to(upload, private, index)
        with upload.connect() as wire:
            assert upload.head(wire).offset == number * MiB
            assert upload.patch(wire, number * MiB, content.read(number * MiB, MiB)).status == 204
    app.check_arrived(upload_id, content.sha256())
    for daemon in private.instances:
        # Any instance tells of any upload.
        assert Backend(daemon, app).wait_status(upload_id, "finished")["offset"] == content.size_bytes
    wait_until(lambda: not any(segments(private, number, upload_id) for number in range(3)), "no bytes are left")


def test_bytes_follow_while_new_ones_arrive(private: Fleet, app: App) -> None:
    content = Content(random.randrange(1 << 30), 8 * MiB)
    upload_id, upload = begun(private, 0, app, content, 4 * MiB)
    go_to(upload, private, 1)
    with upload.connect() as wire:
        assert upload.head(wire).offset == 4 * MiB
        assert upload.patch(wire, 4 * MiB, content.read(4 * MiB, MiB)).status == 204
    private[1].wait_event("upload.backfilled", upload_id=upload_id)
    private[0].wait_event("upload.released", upload_id=upload_id)
    # Now the first one is not needed any more.
    private[0].kill9()
    upload.run(piece_bytes=MiB)
    app.check_arrived(upload_id, content.sha256())


def test_who_has_given_never_answers_for_it_again(private: Fleet, app: App) -> None:
    """Restarted, with Redis wiped and the new owner away, the giver says that it cannot tell; never its own offset."""
    content = Content(random.randrange(1 << 30), 4 * MiB)
    upload_id, upload = begun(private, 0, app, content, MiB)
    go_to(upload, private, 1)
    with upload.connect() as wire:
        assert upload.head(wire).offset == MiB
        assert upload.patch(wire, MiB, content.read(MiB, MiB)).status == 204
    private[1].wait_event("upload.backfilled", upload_id=upload_id)
    private[1].kill9()
    private[0].kill9()
    private.redis.ask("FLUSHALL")
    private[0].start()
    go_to(upload, private, 0)
    with upload.connect(timeout_s=60) as wire:
        assert upload.head(wire).status == 423
    private[1].start()
    upload.run(piece_bytes=MiB)
    app.check_arrived(upload_id, content.sha256())


def test_an_upload_of_a_dead_instance_goes_on_when_it_is_back(private: Fleet, app: App) -> None:
    content = Content(random.randrange(1 << 30), 3 * MiB)
    upload_id, upload = begun(private, 0, app, content, MiB)
    private[0].kill9()
    go_to(upload, private, 1)
    with upload.connect(timeout_s=60) as wire:
        answer = wire.request("PATCH", upload.path, upload.patch_headers(MiB), content.read(MiB, MiB))
        assert (answer.status, answer.code) == (503, "upload_out_of_reach")
    private[0].start()
    upload.run(piece_bytes=MiB)
    app.check_arrived(upload_id, content.sha256())


@pytest.mark.parametrize("who", [0, 1])
def test_a_crash_in_the_midst_of_a_backfill_costs_a_piece(who: int, private: Fleet, app: App) -> None:
    content = Content(random.randrange(1 << 30), 40 * MiB)
    upload_id, upload = begun(private, 0, app, content, 32 * MiB)
    go_to(upload, private, 1)
    with upload.connect() as wire:
        assert upload.head(wire).offset == 32 * MiB
        private[who].kill9()
    private[who].start()
    upload.run(piece_bytes=4 * MiB)
    app.check_arrived(upload_id, content.sha256())


def test_a_drained_instance_holds_nothing(private: Fleet, app: App) -> None:
    """Open ones, parked ones, complete ones whose web app is down: all go, with every byte."""
    contents = {}
    for _ in range(4):
        content = Content(random.randrange(1 << 30), 2 * MiB)
        upload_id, upload = begun(private, 0, app, content, MiB)
        contents[upload_id] = (content, upload)
    whole = Content(random.randrange(1 << 30), MiB)
    app.down()
    whole_id, _ = begun(private, 0, app, whole, MiB)
    private[0].wait_event("handover.attempted", upload_id=whole_id)
    untouched = Backend(private[0], app).ticket()
    private.drain(private[0])
    for upload_id in (*contents, whole_id):
        assert segments(private, 0, upload_id) == []
    private[0].stop()
    app.up()
    app.check_arrived(whole_id, whole.sha256())
    for upload_id, (content, upload) in contents.items():
        go_to(upload, private, 1)
        upload.run(piece_bytes=MiB)
        app.check_arrived(upload_id, content.sha256())
    last = Content(random.randrange(1 << 30), MiB)
    at(private, 2, untouched, last).run(piece_bytes=MiB)
    app.check_arrived(untouched["id"], last.sha256())


def knows_whom_there_is(fleet: Fleet, daemon: Daemon) -> bool:
    return bool(fleet.ring(daemon)["settled"])


def test_a_list_is_of_the_whole_fleet(private: Fleet, app: App) -> None:
    """In pieces that fit together, whoever is asked; where one does not answer, the list says so."""
    ids = sorted(Backend(private[number % 3], app).ticket(labels=["listed"])["id"] for number in range(9))
    for daemon in private.instances:
        # An instance that has just started cannot be sure that it knows all others.
        wait_until(functools.partial(knows_whom_there_is, private, daemon), "it is sure which instances there are")
        answer = Backend(daemon, app).call("GET", "/uploads?label=listed").json()
        assert ([upload["id"] for upload in answer["uploads"]], answer["partial"]) == (ids, False)
    assert private[2].process is not None
    private[2].process.send_signal(signal.SIGSTOP)
    answer = Backend(private[0], app).call("GET", "/uploads?label=listed").json()
    private[2].process.send_signal(signal.SIGCONT)
    assert answer["partial"] is True
    assert len(answer["uploads"]) == 6


def test_a_create_that_is_repeated_elsewhere_finds_its_ticket(private: Fleet, app: App) -> None:
    """Wherever the upload lies by then, and whoever is asked; without Redis, where it was made."""
    first = Backend(private[0], app).ticket(key="of a page")["id"]
    assert [Backend(each, app).ticket(key="of a page")["id"] for each in private.instances] == [first] * 3
    content = Content(random.randrange(1 << 30), MiB)
    upload = at(private, 1, Backend(private[1], app).ticket(key="of a page"), content)
    with upload.connect() as wire:
        assert upload.create(wire).status == 201
        assert upload.patch(wire, 0, content.read(0, MiB // 2)).status == 204
    # It has moved to the second; the first one's volume knows the key, and that it has given it away.
    private.redis.ask("FLUSHALL")
    assert Backend(private[0], app).ticket(key="of a page")["id"] == first
    upload.run(piece_bytes=MiB)
    app.check_arrived(first, content.sha256())
    Backend(private[1], app).wait_status(first, "finished")
    # It is over: the next page gets a ticket of its own, the same everywhere.
    assert (again := Backend(private[2], app).ticket(key="of a page")["id"]) != first
    assert Backend(private[1], app).ticket(key="of a page")["id"] == again


def test_a_file_is_fetched_from_any_instance(private: Fleet, app: App) -> None:
    """Its bytes lie with the first; the URL of the callback works at the others, too."""
    content = Content(random.randrange(1 << 30), 3 * MiB)
    ticket = Backend(private[0], app).ticket()
    app.script(ticket["id"], WAIT)
    at(private, 0, ticket, content).run(piece_bytes=MiB)
    [delivery] = app.wait_for(ticket["id"])
    url = str(delivery.data["download_url"]).replace(private[0].backend_url, private[1].backend_url)
    found = requests.get(url, timeout=30)
    assert hashlib.sha256(found.content).hexdigest() == content.sha256()


def test_web_apps_talk_to_any_instance(private: Fleet, app: App) -> None:
    content = Content(random.randrange(1 << 30), 2 * MiB)
    upload_id, upload = begun(private, 0, app, content, MiB)
    other = Backend(private[2], app)
    assert other.get(upload_id)["offset"] == MiB
    other.change(upload_id, app_data={"a": 1})
    assert Backend(private[1], app).get(upload_id)["app_data"] == {"a": 1}
    other.cancel(upload_id)
    go_to(upload, private, 0)
    with upload.connect() as wire:
        assert upload.head(wire).status == 410
