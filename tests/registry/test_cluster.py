"""The registry in a Redis Cluster: keys lie together by their tags, and are found again where they went."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from incomingd.registry.redis import RedisStore
from incomingd.registry.registry import AvailabilityChanged, Invitation, RegistryUnavailableError, Trouble
from tests.registry.fleets import Fleet, Member, identity, until, upload
from tests.registry.test_redis import ACL
from tests.support.machine import ROOT
from tests.support.redis import Cluster, RedisServer, certificates, redis_cluster

A, B = identity("a"), identity("b")

CLUSTER_ACL = "+cluster|slots +command +asking"
"""What operators are told to permit besides."""

Join = Callable[[str], Fleet]


@pytest_asyncio.fixture
async def at() -> AsyncIterator[Join]:
    """Return what makes a fleet at a URL; all are closed at the end."""
    fleets: list[Fleet] = []

    def make(url: str) -> Fleet:
        fleets.append(Fleet(None, url))
        return fleets[-1]

    yield make
    for fleet in fleets:
        await fleet.close()


@pytest.fixture
def replicated(tmp_path: Path) -> Iterator[Cluster]:
    with redis_cluster(tmp_path / "cluster", replicas=True) as cluster:
        yield cluster


def first_trouble(member: Member) -> RegistryUnavailableError:
    assert member.registry.trouble is not None
    return member.registry.trouble


async def owned_by(member: Member, number: int, epoch: int) -> None:
    """Wait until an upload's entry is there, as that instance's."""
    for _ in range(3000):
        try:
            if await member.registry.owner_of(upload(number)) == (member.identity, epoch):
                return
        except RegistryUnavailableError:
            pass
        await asyncio.sleep(0.01)
    raise AssertionError(f"never there: {number}")


async def test_a_single_redis_is_no_cluster(shared_server: RedisServer, at: Join) -> None:
    """`redis+cluster://` at a server that is none: told as such."""
    told = first_trouble(await at(f"redis+cluster://127.0.0.1:{shared_server.port}").join("a"))
    assert told.trouble is Trouble.OTHER_KIND, told.sentence
    assert f"(the Cluster of 127.0.0.1:{shared_server.port})" in told.sentence


async def test_a_cluster_that_is_not_there_is_unreachable(tmp_path: Path, at: Join) -> None:
    gone = RedisServer(tmp_path / "gone")
    told = first_trouble(await at(f"redis+cluster://127.0.0.1:{gone.port}").join("a"))
    assert told.trouble is Trouble.UNREACHABLE, told.sentence


async def test_a_subscription_waits_until_a_cluster_is_there(tmp_path: Path, at: Join) -> None:
    """Where nobody has told yet who has what, it is unavailable like everything else."""
    gone = RedisServer(tmp_path / "gone")
    store = at(f"redis+cluster://127.0.0.1:{gone.port}").store()
    assert isinstance(store, RedisStore)
    with pytest.raises(RegistryUnavailableError, match="cannot be reached"):
        await store._listen_once(lambda _: None)
    await store.close()


@pytest.mark.soak
async def test_a_cluster_is_no_single_redis(shared_cluster: Cluster, at: Join) -> None:
    """`redis://` at one of its servers: the ring, or some uploads, lie elsewhere; it is said how to name all."""
    ring = shared_cluster.of("incoming:{ring}:state")
    elsewhere = next(server for server in shared_cluster.primaries if server is not ring)
    told = first_trouble(await at(elsewhere.url).join("a"))
    assert told.trouble is Trouble.OTHER_KIND, told.sentence
    assert "redis+cluster://" in told.sentence


@pytest.mark.soak
async def test_uploads_are_spread_and_a_ring_is_one_slot(shared_cluster: Cluster, at: Join) -> None:
    """Any server may be named to find all; two hundred uploads' entries lie with all three, and are told at once."""
    shared_cluster.wipe()
    one = at(f"redis+cluster://127.0.0.1:{shared_cluster.servers[2].port}")
    a = await one.join("a")
    await a.settled()
    await asyncio.gather(*(a.registry.owned(upload(number), A, 1) for number in range(200)))
    found = [set(server.ask("KEYS", "*").split("\n")) for server in shared_cluster.primaries]
    assert all(any(":owner" in key for key in keys) for keys in found)
    assert sum("incoming:{ring}:state" in keys for keys in found) == 1
    shared_cluster.wipe()
    # Of a new generation all is told again, in one step for many of them.
    for number in range(200):
        await owned_by(a, number, 1)


@pytest.mark.soak
async def test_a_user_with_the_documented_rights_gets_along_with_a_cluster(tmp_path: Path, at: Join) -> None:
    assert f"`{CLUSTER_ACL}`" in (ROOT / "docs" / "redis.md").read_text()
    user = f"user incoming on >s3cret ~incoming:* &incoming:* {ACL} {CLUSTER_ACL}"
    short = f"user short on >s3cret ~incoming:* &incoming:* {ACL}"
    with redis_cluster(tmp_path / "cluster", [user, short]) as cluster:
        fleet = at(cluster.url.replace("//", "//incoming:s3cret@"))
        a, b = await fleet.join("a"), await fleet.join("b")
        for number in range(20):
            await a.registry.owned(upload(number), A, 1)
        await a.registry.corrected(upload(), (A, 1), B, 2)
        await a.registry.released(upload(), B, 2)
        await a.registry.invite(B, [Invitation(upload(), 1, A)])
        assert await b.registry.invitations() == [Invitation(upload(), 1, A)]
        await a.settled()
        assert [each.trouble for each in a.told(AvailabilityChanged)] == [None]
        told = first_trouble(await at(cluster.url.replace("//", "//incoming:wr0ng@")).join("c"))
        assert (told.trouble, "wr0ng" in told.sentence) == (Trouble.LOGIN_REFUSED, False), told.sentence
        told = first_trouble(await at(cluster.url.replace("//", "//short:s3cret@")).join("d"))
        assert told.trouble is Trouble.NOT_PERMITTED, told.sentence


@pytest.mark.soak
async def test_a_cluster_over_tls(tmp_path: Path, at: Join) -> None:
    """All of its servers are reached with the right authority, those that were not named too; with another none."""
    made = certificates(tmp_path / "made")
    other = certificates(tmp_path / "other")
    with redis_cluster(tmp_path / "cluster", tls=made) as cluster:
        one = f"rediss+cluster://127.0.0.1:{cluster.servers[0].port}"
        a = await at(f"{one}?ca_file={made}/ca.pem").join("a")
        await a.settled()
        await asyncio.gather(*(a.registry.owned(upload(number), A, 1) for number in range(200)))
        for number in range(200):
            await owned_by(a, number, 1)
        found = [set(server.ask("KEYS", "*").split("\n")) for server in cluster.primaries]
        assert all(any(":owner" in key for key in keys) for keys in found)
        for wrong in (f"{one}?ca_file={other}/ca.pem", one):
            told = first_trouble(await at(wrong).join("b"))
            assert told.trouble is Trouble.TLS_FAILED, told.sentence


@pytest.mark.soak
@pytest.mark.parametrize("how", ["kill", "freeze"])
async def test_a_replica_takes_over(how: str, replicated: Cluster, at: Join) -> None:
    """The ring's primary goes: noticed, told what it is, and everything is known again when another one is found."""
    fleet = at(replicated.url)
    a, b = await fleet.join("a"), await fleet.join("b")
    for number in range(50):
        await a.registry.owned(upload(number), A, 1)
    await a.settled()
    ring = replicated.of("incoming:{ring}:state")
    getattr(ring, how)()
    await until(lambda: not (a.registry.available or b.registry.available), "noticed")
    assert await a.registry.owned(upload(50), A, 1) is None, "owning needs no Redis"
    await until(lambda: a.registry.available and b.registry.available, "a replica took over", timeout_s=60)
    assert not a.registry.settled, "another server may have lost writes"
    await a.settled()
    for number in range(51):
        await owned_by(a, number, 1)
    await a.has_seen("a", "b")
    kinds = {each.trouble.trouble for each in a.told(AvailabilityChanged) if each.trouble is not None}
    assert kinds <= {Trouble.UNREACHABLE, Trouble.TIMED_OUT, Trouble.NO_PRIMARY}
    if how == "freeze":
        ring.thaw()


@pytest.mark.soak
async def test_keys_are_followed_to_another_server(replicated: Cluster, at: Join) -> None:
    """An operator has a replica take over in good order: nobody notices more than a redirection."""
    fleet = at(replicated.url)
    a = await fleet.join("a")
    await a.registry.owned(upload(), A, 1)
    await a.settled()
    before = replicated.of("incoming:{ring}:state")
    replica = replicated.replica_of(before)
    replica.ask("CLUSTER", "FAILOVER")
    await until(lambda: "role:master" in replica.ask("INFO", "replication"), "it has taken over")
    await until(lambda: "role:slave" in before.ask("INFO", "replication"), "the other one knows")
    assert await a.registry.owner_of(upload()) == (A, 1)
    assert await a.registry.renew()
    await a.settled()
