"""The registry is a Redis Cluster: a fleet does not notice that one of its servers goes, or that slots move."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet.wandering import Wanderers
from tests.support.app import App
from tests.support.backend import Backend
from tests.support.content import Content
from tests.support.fleet import Fleet, at, fleet, go_to
from tests.support.machine import wait_until
from tests.support.redis import Cluster, redis_cluster

KiB = 1 << 10
MiB = 1 << 20

pytestmark = [pytest.mark.soak, pytest.mark.timeout(300)]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with redis_cluster(tmp_path / "cluster", replicas=True) as running:
        yield running


@pytest.fixture
def three(cluster: Cluster, tmp_path: Path) -> Iterator[Fleet]:
    with fleet(tmp_path, settings={"registry.url": cluster.url}) as running:
        yield running


def ready(three: Fleet) -> bool:
    return all(three.status(daemon)["state"] == "ready" for daemon in three.instances)


def test_uploads_move_while_a_server_of_the_cluster_dies(three: Fleet, cluster: Cluster, app: App) -> None:
    """The one that has the ring; and before that another one, in good order: every answer is the right one at once."""
    with Wanderers(three, app, 3) as wanderers:
        wanderers.wait_moved(3)
        of_upload = cluster.of(f"incoming:{{{wanderers.uploads[0].upload_id}}}:owner")
        replica = cluster.replica_of(of_upload)
        replica.ask("CLUSTER", "FAILOVER")
        wait_until(lambda: "role:master" in replica.ask("INFO", "replication"), "the replica has taken over")
        wanderers.wait_moved(3)
        cluster.of("incoming:{ring}:state").kill()
        wait_until(lambda: not ready(three), "it is noticed")
        wanderers.wait_moved(1)
        wait_until(lambda: ready(three), "a replica has taken over", timeout_s=60)
        wanderers.wait_moved(3)
    for daemon in three.instances:
        assert {event["code"] for event in daemon.log_events("registry.lost")} <= {
            "registry_unreachable",
            "registry_timed_out",
            "registry_no_primary",
        }


def test_a_drain_finds_its_successors_in_a_cluster(three: Fleet, cluster: Cluster, app: App) -> None:
    """Owners stand in all its parts, invitations in the ring's; what one instance gives up, the others take."""
    contents = [Content(random.randrange(1 << 30), 2 * MiB) for _ in range(12)]
    uploads = []
    for content in contents:
        ticket = Backend(three[0], app).ticket()
        upload = at(three, 0, ticket, content)
        upload.upload_id = ticket["id"]
        with upload.connect() as wire:
            assert upload.create(wire).status == 201
            assert upload.patch(wire, 0, content.read(0, MiB)).status == 204
        uploads.append(upload)
    with_entries = {cluster.of(f"incoming:{{{upload.upload_id}}}:owner").port for upload in uploads}
    assert len(with_entries) > 1
    assert three.drain(three[0])["uploads_in_memory"] == 0
    for number, (upload, content) in enumerate(zip(uploads, contents, strict=True)):
        go_to(upload, three, 1 + number % 2)
        upload.run(piece_bytes=64 * KiB)
        app.check_arrived(upload.upload_id, content.sha256())
