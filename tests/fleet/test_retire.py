"""A host that goes for good: another instance inherits what is left on its volume, and answers for it for ever."""

from __future__ import annotations

import functools
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from click.testing import CliRunner

from incomingd.cli.main import main
from tests.support.app import App
from tests.support.backend import Backend
from tests.support.content import Content
from tests.support.daemon import Daemon
from tests.support.fleet import ADMIN, Fleet, at, fleet, go_to
from tests.support.machine import wait_until
from tests.support.tus import TusUpload

KiB = 1 << 10


@pytest.fixture
def private(tmp_path: Path) -> Iterator[Fleet]:
    with fleet(tmp_path, shared=False) as running:
        yield running


def begun(running: Fleet, index: int, app: App, content: Content, size_bytes: int) -> tuple[str, TusUpload]:
    """Begin an upload at one instance, and bring so many bytes there."""
    ticket = Backend(running[index], app).ticket()
    upload = at(running, index, ticket, content)
    with upload.connect() as wire:
        assert upload.create(wire).status == 201
        assert upload.patch(wire, 0, content.read(0, size_bytes)).status == 204
    return ticket["id"], upload


def head(running: Fleet, index: int, upload: TusUpload) -> tuple[int, int | None]:
    """Return status and offset that an instance answers."""
    go_to(upload, running, index)
    with upload.connect(timeout_s=60) as wire:
        answer = upload.head(wire)
        return answer.status, answer.offset if answer.status == 200 else None


def ctl(daemon: Daemon, *arguments: str) -> Any:
    """Return what `incomingctl` writes for programs."""
    done = CliRunner().invoke(main, ["--address", daemon.backend_url, *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def lost(daemon: Daemon) -> int:
    """Return how often it has seen that the registry lost what it knew."""
    return len(daemon.log_events("registry.reset"))


def found_each_other(fleet: Fleet, daemon: Daemon, before: int) -> bool:
    """Return whether it has seen that the registry lost what it knew, and is sure again whom there is.

    Until then a list says that it may not be whole, and of an upload that nobody knows it is not said that it is none.
    """
    ring = fleet.ring(daemon)
    return lost(daemon) > before and ring["settled"] and len(ring["instances"]) == 2


def test_what_was_born_at_a_retired_instance_is_known_for_ever(private: Fleet, app: App) -> None:
    """Open, ended, never born: each instance answers the same, with Redis wiped, and with the heir started anew."""
    private.allowed.add("registry.reset")
    content = Content(random.randrange(1 << 30), 512 * KiB)
    open_id, going_on = begun(private, 0, app, content, 256 * KiB)
    done = Content(random.randrange(1 << 30), 128 * KiB)
    done_id, finished = begun(private, 0, app, done, 128 * KiB)
    app.check_arrived(done_id, done.sha256())
    Backend(private[0], app).wait_status(done_id, "finished")
    cancelled = Backend(private[0], app).ticket()["id"]
    Backend(private[0], app).cancel(cancelled)
    unborn = ("A" if done_id[0] != "A" else "B") + done_id[1:]

    assert ctl(private[0], "drain", "--retire", "--heir", "i2", "--dry-run") == {"state": "ready", "heir": "i2"}
    told = ctl(private[0], "drain", "--retire", "--heir", "i2", "--wait", "--timeout-s", "60")["drain"]
    assert (told["retired"], told["left"]) == (True, 0)
    assert told["retirement"] == {"stage": "done", "heir": "i2", "left": 0, "inherited": 3, "files_kept": 0}
    scraped = requests.get(private[0].backend_url + ADMIN + "/metrics", timeout=30).text.splitlines()
    assert {"incomingd_retirement_inherited_records 3.0", "incomingd_retirement_left_records 0.0"} <= set(scraped)
    refused = requests.post(private[0].backend_url + ADMIN + "/undrain", timeout=30)
    assert (refused.status_code, refused.json()["code"]) == (409, "instance_retired")
    private[0].stop()
    # It does not begin again on its data.
    private[0].launch()
    assert private[0].process is not None
    assert private[0].process.wait(timeout=30) == 4
    [failed] = private[0].log_events("daemon.start_failed")
    assert "has retired" in failed["reason"]
    private[0].process = None
    private.allowed.add("daemon.start_failed")
    shutil.rmtree(private[0].data_dir)

    for again in (False, True):
        if again:
            private[1].restart()
        resets = [lost(each) for each in private.instances[1:]]
        private.redis.ask("FLUSHALL")
        for each, before in zip(private.instances[1:], resets, strict=True):
            wait_until(functools.partial(found_each_other, private, each, before), "it has seen the loss and the other")
        for index in (1, 2):
            assert head(private, index, finished) == (200, 128 * KiB)
            backend = Backend(private[index], app)
            assert backend.get(done_id)["status"] == "finished"
            assert backend.get(cancelled)["status"] == "cancelled"
            assert backend.call("GET", f"/uploads/{unborn}").status_code == 404
            listed = backend.list()
            assert sorted(each["id"] for each in listed["uploads"]) == sorted([open_id, done_id, cancelled])
            assert not listed["partial"]
        assert head(private, 2 if again else 1, going_on) == (200, 256 * KiB)
    going_on.run(piece_bytes=128 * KiB)
    app.check_arrived(open_id, content.sha256())
