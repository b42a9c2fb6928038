"""Instances on volumes of their own: an upload goes on at once where its client comes, its bytes follow."""

from __future__ import annotations

import hashlib
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.support.app import WAIT, App
from tests.support.backend import Backend
from tests.support.content import Content
from tests.support.fleet import Fleet, at, fleet, go_to
from tests.support.machine import wait_until
from tests.support.tus import TusUpload

MiB = 1 << 20


@pytest.fixture
def private(tmp_path: Path) -> Iterator[Fleet]:
    with fleet(tmp_path, shared=False) as running:
        yield running


def begun(fleet: Fleet, index: int, app: App, content: Content, size_bytes: int) -> tuple[str, TusUpload]:
    """Begin an upload at one instance, and bring so many bytes there."""
    ticket = Backend(fleet[index], app).ticket()
    upload = at(fleet, index, ticket, content)
    with upload.connect() as wire:
        assert upload.create(wire).status == 201
        assert upload.patch(wire, 0, content.read(0, size_bytes)).status == 204
    return ticket["id"], upload


def segments(fleet: Fleet, number: int, upload_id: str) -> list[str]:
    """Return the segments of an upload that lie with an instance."""
    folder = fleet[number].data_dir / "uploads" / upload_id[:2] / upload_id
    return sorted(path.name for path in folder.glob("bytes.*")) if folder.exists() else []


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


def test_a_list_is_of_the_whole_fleet(private: Fleet, app: App) -> None:
    """In pieces that fit together, whoever is asked; where one does not answer, the list says so."""
    ids = sorted(Backend(private[number % 3], app).ticket(labels=["listed"])["id"] for number in range(9))
    for daemon in private.instances:
        answer = Backend(daemon, app).call("GET", "/uploads?label=listed").json()
        assert ([upload["id"] for upload in answer["uploads"]], answer["partial"]) == (ids, False)
    assert private[2].process is not None
    private[2].process.send_signal(signal.SIGSTOP)
    answer = Backend(private[0], app).call("GET", "/uploads?label=listed").json()
    private[2].process.send_signal(signal.SIGCONT)
    assert answer["partial"] is True
    assert len(answer["uploads"]) == 6


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
