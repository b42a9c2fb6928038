"""Redis fails over to a replica that has not got everything, while people upload."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet.wandering import Wanderers
from tests.support.app import DONE, ERROR, Answer, App, Delivery
from tests.support.backend import Backend
from tests.support.content import Content
from tests.support.fleet import Fleet, at, fleet
from tests.support.link import Link
from tests.support.machine import wait_until
from tests.support.redis import Watched
from tests.support.stock import tus_js, tuspy
from tests.support.tus import TusUpload

KiB = 1 << 10
MiB = 1 << 20


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    watched = Watched(tmp_path / "watched")
    try:
        watched.start()
        # Redis stays away until the test has seen what it wants to see without it.
        wait_before_fail_over(watched, 60_000)
        yield watched
    finally:
        watched.stop()


def wait_before_fail_over(watched: Watched, duration_ms: int) -> None:
    """Tell the Sentinels how long a primary has to be silent until they take it for dead."""
    for sentinel in watched.sentinels:
        sentinel.ask("SENTINEL", "SET", watched.name, "down-after-milliseconds", str(duration_ms))


def owner_in(watched: Watched, upload_id: str) -> str:
    """Return what the replica has of an upload."""
    return watched.two.ask("GET", f"incoming:{{{upload_id}}}:owner")


class Slow:
    """An upload in small pieces at one instance, until it is told to hurry."""

    def __init__(self, running: Fleet, index: int, app: App) -> None:
        ticket = Backend(running[index], app).ticket()
        self.id: str = ticket["id"]
        self.upload = at(running, index, ticket, Content(random.randrange(1 << 30), 8 * MiB))
        self.hurry = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._failure: BaseException | None = None
        self._thread.start()

    def _run(self) -> None:
        try:
            pause_s = 0.2
            self.upload.run(piece_bytes=64 * KiB, pause_s=lambda: 0 if self.hurry.is_set() else pause_s)
        except BaseException as error:  # noqa: BLE001 -- `arrive` raises it in the test's own thread
            self._failure = error

    def arrive(self, app: App) -> None:
        self.hurry.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        assert self.upload.creations == 1
        app.check_arrived(self.id, self.upload.content.sha256())


def test_a_fail_over_that_loses_writes_costs_nobody_anything(watched: Watched, tmp_path: Path, app: App) -> None:
    """No byte, no ticket, no hand-over; owners keep receiving, uploads go on moving, stock clients do not give up."""
    settings = {"registry.url": watched.url, "handover.backoff_max_s": 1}
    with fleet(tmp_path, settings=settings) as three:
        over = threading.Event()
        early_content = Content(random.randrange(1 << 30), MiB)
        early = Backend(three[0], app).ticket()

        def answer(delivery: Delivery) -> Answer:
            """Take the first file only when everything is over."""
            return DONE if delivery.upload_id != early["id"] or over.is_set() else ERROR

        app.answer = answer
        at(three, 0, early, early_content).run(piece_bytes=MiB)
        app.wait_for(early["id"])
        files = [Content(random.randrange(1 << 30), 4 * MiB) for _ in range(2)]
        paths = [content.write(tmp_path / f"{number}.bin") for number, content in enumerate(files)]
        stock = [Backend(three[number], app).ticket() for number in range(2)]
        with Link(three[0].public, rate_bytes_per_s=MiB) as link, Wanderers(three, app, 2) as wanderers:
            urls = [
                link.through(ticket["upload_url"].replace(three[1].public_url, three[0].public_url)) for ticket in stock
            ]
            slow = [Slow(three, number % 3, app) for number in range(6)]
            with (
                tus_js(paths[0], options={"endpoint": urls[0], "chunkSize": 256 * KiB}) as one,
                tuspy(paths[1], endpoint=urls[1], options={"chunk_size": 256 * KiB}) as other,
            ):
                wait_until(lambda: all(each.upload.acknowledged for each in slow), "all have begun")
                one.wait_event("progress")
                wait_until(lambda: owner_in(watched, slow[0].id), "the replica is in step")
                # From here on it gets nothing: neither what comes now, nor what was on its way to it.
                watched.two.freeze()
                watched.one.ask("CLIENT", "KILL", "TYPE", "replica")
                lost = Backend(three[1], app).ticket()
                lost_upload = at(three, 1, lost, Content(random.randrange(1 << 30), 2 * MiB))
                with lost_upload.connect() as wire:
                    assert lost_upload.create(wire).status == 201
                assert watched.one.ask("GET", f"incoming:{{{lost['id']}}}:owner")
                watched.one.kill()
                watched.two.thaw()
                assert not owner_in(watched, lost["id"]), "this fail-over was to lose writes"
                wait_until(
                    lambda: all(three.status(d)["state"] == "suspended" for d in three.instances), "it is noticed"
                )
                goes_on_without_redis(three, app, slow, lost_upload, wanderers)
                wait_before_fail_over(watched, 400)
                wait_until(
                    lambda: all(three.status(d)["state"] == "ready" for d in three.instances), "it has failed over"
                )
                wait_until(lambda: owner_in(watched, lost["id"]), "what was lost is published again")
                one.wait()
                other.wait()
            for each in slow:
                each.arrive(app)
            lost_upload.run(piece_bytes=MiB)
            app.check_arrived(lost["id"], lost_upload.content.sha256())
            for ticket, content in zip(stock, files, strict=True):
                app.check_arrived(ticket["id"], content.sha256())
            over.set()
            Backend(three[2], app).wait_status(early["id"], "finished")


def goes_on_without_redis(
    three: Fleet, app: App, slow: list[Slow], lost_upload: TusUpload, wanderers: Wanderers
) -> None:
    """While it is away: owners receive, uploads move, tickets are given."""
    before = [each.upload.acknowledged for each in slow]
    with lost_upload.connect() as wire:
        assert lost_upload.patch(wire, 0, lost_upload.content.read(0, 64 * KiB)).status == 204
    wait_until(
        lambda: all(each.upload.acknowledged > was for each, was in zip(slow, before, strict=True)),
        "all owners receive",
    )
    wanderers.wait_moved(1)
    ticket = Backend(three[2], app).ticket()
    assert all(three.status(daemon)["state"] == "suspended" for daemon in three.instances), "all that was without Redis"
    content = Content(random.randrange(1 << 30), 64 * KiB)
    at(three, 0, ticket, content).run(piece_bytes=64 * KiB)
    app.check_arrived(ticket["id"], content.sha256())
