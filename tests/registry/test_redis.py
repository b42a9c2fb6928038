"""What happens to a fleet when something happens to its Redis: real servers, real faults."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Self

import pytest
import pytest_asyncio

from incomingd.registry import fleet as fleet_module
from incomingd.registry import redis as redis_module
from incomingd.registry.registry import (
    AvailabilityChanged,
    GenerationChanged,
    Invitation,
    RegistryUnavailableError,
    Trouble,
    ValueUnreadable,
)
from tests.registry.fleets import Fleet, Member, identity, until, upload
from tests.support.machine import ROOT
from tests.support.redis import RedisServer, Watched, certificates, redis_server

A, B = identity("a"), identity("b")

ACL = (
    "+eval +get +set +del +hget +hset +hdel +hlen +hgetall +zadd +zrem +zrangebyscore +pexpire +time +info"
    " +publish +subscribe +unsubscribe +ping +select"
)
"""What operators are told to permit."""

MakeFleet = Callable[..., Fleet]


@pytest_asyncio.fixture
async def make_fleet() -> AsyncIterator[MakeFleet]:
    """Return what makes a fleet; all are closed at the end."""
    fleets: list[Fleet] = []

    def make(server: RedisServer | None, url: str | None = None, lease_s: float = 1.0) -> Fleet:
        fleets.append(Fleet(server, url, lease_s))
        return fleets[-1]

    yield make
    for fleet in fleets:
        await fleet.close()


class Stalls:
    """How long this process did not get to run while the block lasts: a busy machine's doing, not the product's."""

    def __init__(self) -> None:
        self.total_s = 0.0

    async def _tick(self) -> None:
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.01)
            self.total_s += time.monotonic() - began - 0.01

    async def __aenter__(self) -> Self:
        self._task = asyncio.get_running_loop().create_task(self._tick())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


def troubles(member: Member) -> list[Trouble | None]:
    return [None if each.trouble is None else each.trouble.trouble for each in member.told(AvailabilityChanged)]


async def is_unavailable(member: Member) -> None:
    await until(lambda: not member.registry.available, "noticed")


async def is_back(member: Member) -> None:
    await until(lambda: member.registry.available, "back")


# -- frozen, stopped, emptied


async def test_a_hung_redis_is_noticed_within_two_seconds(tmp_path: Path, make_fleet: MakeFleet) -> None:
    """Even where nobody asks it anything; whoever asks then is refused at once."""
    with redis_server(tmp_path / "redis") as server:
        a = await make_fleet(server, lease_s=30.0).join("a")
        async with Stalls() as stalls:
            began = time.monotonic()
            server.freeze()
            await is_unavailable(a)
            assert time.monotonic() - began < 2.0 + stalls.total_s
        assert troubles(a) == [None, Trouble.TIMED_OUT]
        async with Stalls() as stalls:
            began = time.monotonic()
            for number in range(200):
                with pytest.raises(RegistryUnavailableError, match="does not answer in time"):
                    await a.registry.owner_of(upload(number))
            assert time.monotonic() - began < 0.5 + stalls.total_s
        server.thaw()
        await is_back(a)
        assert a.registry.lease_holds


def test_a_beat_and_a_command_s_bound_make_up_two_seconds() -> None:
    assert fleet_module.BEAT_S + redis_module.COMMAND_S + redis_module.GRACE_S <= 2.0


async def test_many_who_ask_a_hung_redis_do_not_wait_one_after_the_other(tmp_path: Path, make_fleet: MakeFleet) -> None:
    with redis_server(tmp_path / "redis") as server:
        a = await make_fleet(server, lease_s=30.0).join("a")
        server.freeze()
        async with Stalls() as stalls:
            began = time.monotonic()
            await asyncio.gather(*(a.registry.owned(upload(number), A, 1) for number in range(500)))
            assert time.monotonic() - began < 2.0 + stalls.total_s
        server.thaw()
        await is_back(a)
        for number in (0, 250, 499):
            await until_owned(a, number, 1)


async def until_owned(member: Member, number: int, epoch: int) -> None:
    for _ in range(1000):
        if await member.registry.owner_of(upload(number)) == (member.identity, epoch):
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"never published: {number}")


async def test_a_redis_that_was_frozen_for_longer_than_the_leases_makes_nobody_an_orphan(
    tmp_path: Path, make_fleet: MakeFleet
) -> None:
    """By its clock all leases have lapsed, but nobody could renew: unsettled until everybody has."""
    with redis_server(tmp_path / "redis") as server:
        fleet = make_fleet(server)
        a, b = await fleet.join("a"), await fleet.join("b")
        await a.settled()
        server.freeze()
        await is_unavailable(a)
        await is_unavailable(b)
        await until(lambda: not (a.registry.lease_holds or b.registry.lease_holds), "the leases have lapsed")
        server.thaw()
        await is_back(a)
        assert not a.registry.settled
        assert not await a.registry.lapsed(B)
        await a.settled()
        assert not await a.registry.lapsed(B)


async def test_what_happens_while_redis_is_gone_is_told_when_it_is_back(tmp_path: Path, make_fleet: MakeFleet) -> None:
    """It comes back empty: what is owned stands there again, what was released does not; a new generation."""
    with redis_server(tmp_path / "redis") as server:
        fleet = make_fleet(server)
        a, b = await fleet.join("a"), await fleet.join("b")
        await a.registry.owned(upload(1), A, 1)
        await a.registry.owned(upload(2), A, 1)
        server.kill()
        await is_unavailable(a)
        await is_unavailable(b)
        assert troubles(a) == [None, Trouble.UNREACHABLE]
        assert await a.registry.owned(upload(3), A, 5) is None, "owning needs no Redis"
        await a.registry.released(upload(2), A, 1)
        with pytest.raises(RegistryUnavailableError):
            await a.registry.live()
        with pytest.raises(RegistryUnavailableError):
            await a.registry.invite(B, [Invitation(upload(), 1, A)])
        server.start()
        await is_back(a)
        await is_back(b)
        assert not a.registry.settled
        await a.settled()
        assert [await b.registry.owner_of(upload(number)) for number in (1, 2, 3)] == [(A, 1), None, (A, 5)]
        assert len(a.told(GenerationChanged)) == 2


async def test_a_release_that_could_not_be_told_is_told_later(tmp_path: Path, make_fleet: MakeFleet) -> None:
    """Redis hangs and goes on with all it knew; the entry of an upload that was given up meanwhile goes."""
    with redis_server(tmp_path / "redis") as server:
        a = await make_fleet(server).join("a")
        await a.registry.owned(upload(), A, 1)
        server.freeze()
        await a.registry.released(upload(), A, 1)
        assert not a.registry.available
        server.thaw()
        await is_back(a)
        await a.settled()
        assert await a.registry.owner_of(upload()) is None
        assert len(a.told(GenerationChanged)) == 1, "nothing was lost"


async def test_an_instance_starts_without_its_redis(tmp_path: Path, make_fleet: MakeFleet) -> None:
    with redis_server(tmp_path / "redis") as server:
        server.kill()
        a = await make_fleet(server).join("a")
        assert troubles(a) == []  # told on the loop's next turn
        assert a.registry.trouble is not None
        assert a.registry.trouble.trouble is Trouble.UNREACHABLE
        server.start()
        await a.settled()


async def test_a_connection_that_was_closed_while_idle_is_no_trouble(redis_fleet: Fleet) -> None:
    """Firewalls and Redis' own `timeout` close idle connections."""
    a = await redis_fleet.join("a")
    server = redis_fleet.server
    assert server is not None
    for _ in range(3):
        server.ask("CLIENT", "KILL", "TYPE", "normal")
        assert await a.registry.owner_of(upload()) is None
    assert troubles(a) == [None]


async def test_hints_go_on_after_their_connection_was_lost(redis_fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_module, "BEAT_S", 3600.0)
    redis_fleet.lease_s = 4 * 3600.0
    a, b = await redis_fleet.join("a"), await redis_fleet.join("b")
    server = redis_fleet.server
    assert server is not None
    await a.has_seen("a", "b")
    server.ask("CLIENT", "KILL", "TYPE", "pubsub")
    await until(lambda: server.ask("PUBSUB", "NUMSUB", "incoming:{ring}:changes").endswith("2"), "subscribed again")
    said = replace(b.registry.instance, full=True)
    await b.registry.advertise(said)
    await until(lambda: said in a.registry.instances, "the hint")


async def test_silence_is_asked_whether_somebody_is_there(redis_fleet: Fleet) -> None:
    """A subscription sends pings of its own: without answer it is given up, silence alone is no fault."""
    a = await redis_fleet.join("a")
    server = redis_fleet.server
    assert server is not None

    def subscriber() -> str:
        return next((line for line in server.ask("CLIENT", "LIST", "TYPE", "pubsub").split("\n") if line), "")

    await until(lambda: "cmd=subscribe" in subscriber(), "subscribed")
    first = subscriber().split()[0]
    await until(lambda: "cmd=ping" in subscriber(), "a ping")
    assert subscriber().split()[0] == first, "the same connection"
    assert a.registry.available


# -- keys and values


async def test_everything_expires(redis_fleet: Fleet) -> None:
    a, b = await redis_fleet.join("a"), await redis_fleet.join("b")
    server = redis_fleet.server
    assert server is not None
    await a.registry.owned(upload(), A, 1)
    await redis_fleet.crash(b)
    await a.registry.invite(B, [Invitation(upload(), 1, A)])
    keys = server.ask("KEYS", "*").split("\n")
    assert sorted(keys) == sorted(
        [
            "incoming:{ring}:state",
            "incoming:{ring}:leases",
            "incoming:{ring}:until",
            "incoming:{ring}:invited:b:1f",
            f"incoming:{{{upload()}}}:owner",
        ]
    )
    for key in keys:
        assert 0 < int(server.ask("PTTL", key)) <= 3_600_000, key


async def test_a_lease_that_has_lapsed_leaves_nothing_behind(redis_fleet: Fleet) -> None:
    a, b = await redis_fleet.join("a"), await redis_fleet.join("b")
    await a.has_seen("a", "b")
    await redis_fleet.crash(b)
    await a.has_seen("a")
    server = redis_fleet.server
    assert server is not None
    # Whoever looks at the leases next clears it away, a moment after its time has come.
    await until(lambda: server.ask("HKEYS", "incoming:{ring}:leases") == "a:1f", "it is cleared away")
    assert server.ask("ZRANGE", "incoming:{ring}:until", "0", "-1") == "a:1f"


async def test_two_fleets_share_a_redis_by_their_prefixes(redis_fleet: Fleet, make_fleet: MakeFleet) -> None:
    assert redis_fleet.server is not None
    other = make_fleet(redis_fleet.server, f"{redis_fleet.url}?prefix=other")
    a, b = await redis_fleet.join("a"), await other.join("b")
    await a.registry.owned(upload(), A, 1)
    await a.settled()
    assert await a.registry.live() == [A]
    assert await b.registry.owner_of(upload()) is None


async def test_damaged_values_count_as_missing_and_are_told(redis_fleet: Fleet) -> None:
    a = await redis_fleet.join("a")
    server = redis_fleet.server
    assert server is not None
    for damaged in ("nonsense", "[]", '{"format":99}', '{"epoch":"x"}'):
        server.ask("SET", f"incoming:{{{upload()}}}:owner", damaged)
        assert await a.registry.owner_of(upload()) is None
        assert await a.registry.owned(upload(), A, 1) is None
        assert await a.registry.owner_of(upload()) == (A, 1)
    await until(lambda: len(a.told(ValueUnreadable)) == 4, "told")
    assert {(each.what, each.of) for each in a.told(ValueUnreadable)} == {("ownership", upload())}
    # A lease that cannot be read is one all the same.
    server.ask("HSET", "incoming:{ring}:leases", "z:1f", "nonsense")
    server.ask("ZADD", "incoming:{ring}:until", "9999999999999", "z:1f")
    server.ask("HSET", "incoming:{ring}:state", "stamp", "another")
    await a.has_seen("a", "z")
    [strange] = [each for each in a.registry.instances if each.identity.name == "z"]
    assert strange.draining, "nobody invites it"
    await a.settled()
    assert not await a.registry.lapsed(strange.identity)


async def test_one_key_of_another_kind_is_no_trouble_for_the_rest(redis_fleet: Fleet) -> None:
    a = await redis_fleet.join("a")
    assert redis_fleet.server is not None
    redis_fleet.server.ask("LPUSH", f"incoming:{{{upload()}}}:owner", "x")
    with pytest.raises(RegistryUnavailableError, match="answers with an error") as refused:
        await a.registry.owner_of(upload())
    assert refused.value.trouble is Trouble.ERROR
    assert await a.registry.owned(upload(), A, 1) is None
    assert a.registry.available


# -- getting in


async def first_trouble(fleet: Fleet) -> RegistryUnavailableError:
    member = await fleet.join("a")
    assert member.registry.trouble is not None
    return member.registry.trouble


async def trouble_but_slowness(fleet: Fleet) -> RegistryUnavailableError:
    """Return the first trouble that a busy machine cannot be the reason for."""
    member = await fleet.join("a")
    while (told := member.registry.trouble) is not None and told.trouble is Trouble.TIMED_OUT:
        await asyncio.sleep(0.02)
    assert told is not None
    return told


async def test_a_user_with_the_documented_rights_gets_along(tmp_path: Path, make_fleet: MakeFleet) -> None:
    assert f"~incoming:* &incoming:* {ACL}\n" in (ROOT / "docs" / "redis.md").read_text()
    user = f"user incoming on >s3cret ~incoming:* &incoming:* {ACL}"
    with redis_server(tmp_path / "redis", ["user default off", user]) as server:
        fleet = make_fleet(None, f"redis://incoming:s3cret@127.0.0.1:{server.port}/3")
        a, b = await fleet.join("a"), await fleet.join("b")
        await a.registry.owned(upload(), A, 1)
        await a.registry.corrected(upload(), (A, 1), B, 2)
        await a.registry.released(upload(), B, 2)
        await a.registry.invite(B, [Invitation(upload(), 1, A)])
        assert await b.registry.invitations() == [Invitation(upload(), 1, A)]
        await a.settled()
        await b.registry.close()
        await a.has_seen("a")
        assert troubles(a) == [None]


@pytest.mark.parametrize(
    "userinfo, trouble",
    [
        ("incoming:wr0ng@", Trouble.LOGIN_REFUSED),
        ("nobody:s3cret@", Trouble.LOGIN_REFUSED),
        (":s3cret@", Trouble.LOGIN_REFUSED),
        ("", Trouble.LOGIN_REFUSED),
        ("reader:s3cret@", Trouble.NOT_PERMITTED),
        ("elsewhere:s3cret@", Trouble.NOT_PERMITTED),
    ],
)
async def test_a_refused_login_is_told_as_such(
    tmp_path: Path, make_fleet: MakeFleet, userinfo: str, trouble: Trouble
) -> None:
    users = [
        "user default off",
        f"user incoming on >s3cret ~incoming:* &incoming:* {ACL}",
        "user reader on >s3cret ~incoming:* &incoming:* +eval +get +time",
        f"user elsewhere on >s3cret ~elsewhere:* &elsewhere:* {ACL}",
    ]
    with redis_server(tmp_path / "redis", users) as server:
        told = await first_trouble(make_fleet(None, f"redis://{userinfo}127.0.0.1:{server.port}"))
        assert told.trouble is trouble, told.sentence
        assert "wr0ng" not in told.sentence
        assert f"127.0.0.1:{server.port}" in told.sentence


async def test_tls(tmp_path: Path, make_fleet: MakeFleet) -> None:
    """It works with the right authority, and with none but that; a certificate must name the host."""
    made = certificates(tmp_path / "made")
    other = certificates(tmp_path / "other")
    with redis_server(tmp_path / "redis", ["requirepass s3cret"], tls=made) as server:
        url = f"rediss://:s3cret@127.0.0.1:{server.port}"
        a = await make_fleet(None, f"{url}?ca_file={made}/ca.pem").join("a")
        await a.settled()
        for wrong in (f"{url}?ca_file={other}/ca.pem", url, f"{url}?ca_file={tmp_path}/missing.pem"):
            told = await trouble_but_slowness(make_fleet(None, wrong))
            assert told.trouble is Trouble.TLS_FAILED, told.sentence
        told = await first_trouble(make_fleet(None, url.replace("rediss:", "redis:")))
        assert told.trouble in {Trouble.UNREACHABLE, Trouble.TIMED_OUT}, told.sentence
        for_another_host = certificates(tmp_path / "another", host="127.0.0.2")
    with redis_server(tmp_path / "redis-2", tls=for_another_host) as server:
        url = f"rediss://127.0.0.1:{server.port}?ca_file={for_another_host}/ca.pem"
        assert (await trouble_but_slowness(make_fleet(None, url))).trouble is Trouble.TLS_FAILED


async def test_a_full_redis_is_told_as_such(tmp_path: Path, make_fleet: MakeFleet) -> None:
    with redis_server(tmp_path / "redis", ["maxmemory 1", "maxmemory-policy noeviction"]) as server:
        assert (await first_trouble(make_fleet(server))).trouble is Trouble.FULL


# -- Sentinel


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    watched = Watched(tmp_path / "redis")
    try:
        watched.start()
        yield watched
    finally:
        watched.stop()


@pytest.mark.parametrize("fault", ["killed", "frozen"])
async def test_a_fail_over_that_loses_writes_loses_nothing(watched: Watched, make_fleet: MakeFleet, fault: str) -> None:
    """What the replica has not got is published again; nobody is taken for gone; hints come from the new primary."""
    fleet = make_fleet(None, watched.url)
    a, b = await fleet.join("a"), await fleet.join("b")
    await a.settled()
    await a.registry.owned(upload(1), A, 1)
    await until(lambda: watched.two.ask("GET", f"incoming:{{{upload(1)}}}:owner"), "replicated")
    # From here on the replica learns nothing: it takes over with what it has.
    watched.two.freeze()
    await a.registry.owned(upload(1), A, 2)
    await a.registry.owned(upload(2), A, 1)
    before = a.told(GenerationChanged)[-1].run_id
    if fault == "killed":
        watched.one.kill()
    else:
        watched.one.freeze()
    watched.two.thaw()
    for member in (a, b):
        await is_unavailable(member)
    await until(lambda: a.told(GenerationChanged)[-1].run_id != before, "the new primary is found")
    await is_back(b)
    assert not await a.registry.lapsed(B)
    await a.settled()
    assert not await a.registry.lapsed(B)
    assert await b.registry.owner_of(upload(1)) == (A, 2)
    assert await b.registry.owner_of(upload(2)) == (A, 1)
    await until(lambda: watched.two.ask("PUBSUB", "NUMSUB", "incoming:{ring}:changes").endswith("2"), "subscribed")


async def test_sentinels_that_do_not_know_the_name_are_told_as_such(watched: Watched, make_fleet: MakeFleet) -> None:
    told = await first_trouble(make_fleet(None, watched.url.replace(watched.name, "another")))
    assert told.trouble is Trouble.NO_PRIMARY
    # One that hangs does not keep the others from being asked.
    watched.sentinels[0].freeze()
    a = await make_fleet(None, watched.url).join("a")
    await a.settled()
