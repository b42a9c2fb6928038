"""What operators see of a fleet: metrics, ring and states while uploads move, and while Redis is away."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families as families

from incomingd.cli.main import main
from tests.support.backend import Backend
from tests.support.content import Content
from tests.support.daemon import Daemon
from tests.support.fleet import ADMIN, Fleet, fleet
from tests.support.machine import wait_until
from tests.support.tus import TusUpload

KiB = 1 << 10


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Fleet]:
    with fleet(tmp_path, 2) as running:
        yield running


def metrics(daemon: Daemon) -> dict[tuple[str, ...], float]:
    """Scrape; return each sample by its name and the values of its labels."""
    text = requests.get(f"{daemon.backend_url}{ADMIN}/metrics", timeout=30).text
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in families(text)
        for sample in family.samples
    }


def ctl(daemon: Daemon, *arguments: str) -> Any:
    """Return what `incomingctl` writes for programs."""
    command = ["--address", daemon.backend_url, *arguments]
    done = CliRunner().invoke(main, command, catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def test_moves_are_counted_where_they_happen(two: Fleet) -> None:
    """A recall at who asked, a park at who was asked; a drain and the pull after it likewise."""
    content = Content(random.randrange(1 << 30), 3 * KiB)
    ticket = Backend(two[0]).ticket(finish_url="http://127.0.0.1:9/")
    upload = TusUpload(ticket["upload_url"], content)
    with upload.connect() as wire:
        upload.create(wire)
        upload.patch(wire, 0, content.read(0, KiB))
    upload.url = two[1].public_url + upload.path
    with upload.connect() as wire:
        assert upload.head(wire).offset == KiB
    first, second = metrics(two[0]), metrics(two[1])
    assert first["incomingd_uploads_parked_total", "preempted"] == 1
    assert second["incomingd_recalls_total", "parked"] == 1
    assert [found["incomingd_uploads_pulled_total", "parked"] for found in (first, second)] == [1, 1]
    for found in (first, second):
        names = ("incomingd_instances", "incomingd_registry_available", "incomingd_lease_holds")
        assert [found[name,] for name in names] == [2, 1, 1]
    assert ctl(two[1], "drain", "--wait")["drain"]["parked"] == 1
    assert metrics(two[1])["incomingd_uploads_parked_total", "shutdown"] == 1
    wait_until(lambda: ctl(two[0], "ring")["instances"][1]["draining"], "i1 hears that i2 drains")
    assert ctl(two[1], "undrain") == {"state": "ready"}
    two[0].kill9()
    with upload.connect() as wire:
        assert upload.head(wire).offset == KiB
    assert sum(metrics(two[1])["incomingd_uploads_pulled_total", reason] for reason in ("parked", "orphan")) == 2


def test_redis_away(two: Fleet) -> None:
    """What docs/operating/redis-lost.md promises: the state, new uploads, a restart meanwhile, an empty Redis."""
    two.redis.kill()
    wait_until(lambda: two.status(two[0])["state"] == "suspended", "the loss is noticed")
    assert metrics(two[0])["incomingd_registry_available",] == 0
    assert two[0].wait_event("registry.lost")["code"] == "registry_unreachable"
    assert requests.get(f"{two[0].public_url}/incoming/1.0/health", timeout=30).status_code == 200
    ticket = Backend(two[0]).ticket(finish_url="http://127.0.0.1:9/")
    content = Content(random.randrange(1 << 30), 2 * KiB)
    upload = TusUpload(ticket["upload_url"], content)
    with upload.connect() as wire:
        assert upload.create(wire).status == 201
        assert upload.patch(wire, 0, content.read(0, KiB)).status == 204
    assert Backend(two[0]).list()["partial"], "an instance may be there of which nobody can tell now"
    two[1].stop()
    two[1].start()
    assert two.status(two[1])["state"] == "suspended"
    upload.url = two[1].public_url + upload.path
    with upload.connect() as wire:
        assert upload.head(wire).offset == KiB
    two.redis.start()
    wait_until(lambda: all(two.status(daemon)["state"] == "ready" for daemon in two.instances), "Redis is back")
    wait_until(lambda: all(two.knows_all(daemon) for daemon in two.instances), "they find each other")
    wait_until(lambda: ctl(two[0], "ring")["settled"], "a missing lease means something again")
    assert not Backend(two[0]).list()["partial"]
