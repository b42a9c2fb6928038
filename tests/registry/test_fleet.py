"""A fleet's registry on virtual time: what it does when, and what it makes of faults."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from incomingd.core.formats import FORMER
from incomingd.core.ring import Instance
from incomingd.registry.fleet import FleetRegistry
from incomingd.registry.memory import MemoryStore
from incomingd.registry.registry import (
    AvailabilityChanged,
    Event,
    NameShared,
    OwnershipContradicted,
    RegistryUnavailableError,
    SettledChanged,
    Trouble,
)
from incomingd.registry.store import KEEP_S, Entry, Sighting
from incomingd.registry.values import Formats
from tests.registry.fleets import identity, upload
from tests.support.virtual import VirtualClock, virtual

LEASE_S = 5.0
A, B = identity("a"), identity("b")


class FaultyStore(MemoryStore):
    """A store that can be out of reach, and counts what it is asked."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(clock.monotonic, lambda: f"{clock.random_bits(64):x}")
        self.away = False
        self.asked: list[str] = []
        self.published: list[Entry] = []

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        if self.away:
            raise RegistryUnavailableError(Trouble.UNREACHABLE, "The store is away.")

    async def renew(self, lease_id: str, value: bytes, *, lease_s: float, fresh: str) -> Sighting:
        self._ask("renew")
        return await super().renew(lease_id, value, lease_s=lease_s, fresh=fresh)

    async def leases(self) -> dict[str, bytes]:
        self._ask("leases")
        return await super().leases()

    async def owner(self, upload_id: str) -> bytes | None:
        self._ask("owner")
        return await super().owner(upload_id)

    async def release(self, entries: object) -> None:
        self._ask("release")
        assert isinstance(entries, list)
        await super().release(entries)

    async def publish(self, entries: object) -> list[bytes | None]:
        self._ask("publish")
        assert isinstance(entries, list)
        self.published += entries
        return await super().publish(entries)


class World:
    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.store = FaultyStore(self.clock)
        self.events: dict[str, list[Event]] = {}

    async def join(self, name: str, start_id: str = "1f", formats: Formats | None = None) -> FleetRegistry:
        formats = formats or Formats()
        instance = Instance(identity(name, start_id), format=formats.known.newest)
        registry = FleetRegistry(self.store, self.clock, instance, lease_s=LEASE_S, formats=formats)
        registry.watch(self.events.setdefault(name, []).append)
        await registry.start()
        return registry

    async def when(self, probe: Callable[[], bool], *, within_s: float) -> float:
        """Return after how many s *probe* is true."""
        began = self.clock.monotonic()
        while not probe():
            assert self.clock.monotonic() - began < within_s
            await asyncio.sleep(0.01)
        return self.clock.monotonic() - began


@virtual
async def test_settled_one_lease_time_after_the_first_contact() -> None:
    world = World()
    a = await world.join("a")
    assert abs(await world.when(lambda: a.settled, within_s=9) - LEASE_S) < 0.1
    await asyncio.sleep(0.2)
    assert world.events["a"][-1] == SettledChanged(settled=True)


@virtual
async def test_unsettled_from_each_sign_that_something_was_forgotten() -> None:
    """A wipe, another server with the same contents, a store that was away: each is followed by one lease time."""
    world = World()
    a, store = await world.join("a"), world.store

    async def goes_away() -> None:
        store.away = True
        await world.when(lambda: not a.available, within_s=3)
        store.away = False
        await world.when(lambda: a.available, within_s=3)

    async def fails_over() -> None:
        store.run_id = "another"
        await world.when(lambda: not a.settled, within_s=3)

    async def is_wiped() -> None:
        store.wipe()
        await world.when(lambda: not a.settled, within_s=3)

    for fault in (goes_away, fails_over, is_wiped):
        await world.when(lambda: a.settled, within_s=9)
        await fault()
        assert not a.settled, fault
        assert abs(await world.when(lambda: a.settled, within_s=9) - LEASE_S) < 0.1, fault


@virtual
async def test_who_slept_for_longer_than_its_lease_judges_nobody() -> None:
    """A process that was frozen has missed what the others did; it first sees one lease time through."""
    world = World()
    a = await world.join("a")
    await world.when(lambda: a.settled, within_s=9)
    loop = asyncio.get_running_loop()
    loop.virtual_s += 2 * LEASE_S  # type: ignore[attr-defined] # the virtual loop's
    assert not a.lease_holds
    assert not a.settled
    assert await a.renew()
    assert not a.settled
    assert abs(await world.when(lambda: a.settled, within_s=9) - LEASE_S) < 0.1


@virtual
async def test_retries_back_off_and_go_on_for_ever() -> None:
    world = World()
    a = await world.join("a")
    world.store.away = True
    await world.when(lambda: not a.available, within_s=3)
    world.store.asked.clear()
    await asyncio.sleep(600)
    assert 500 < len(world.store.asked) < 1300
    told = [event for event in world.events["a"] if isinstance(event, AvailabilityChanged)]
    assert len(told) == 2, "told once, not at each try"
    world.store.away = False
    assert await world.when(lambda: a.available, within_s=3) < 1.1


@virtual
async def test_entries_are_published_again_before_they_lapse() -> None:
    """And only then: an upload at rest costs the store three commands an hour."""
    world = World()
    a = await world.join("a")
    await a.owned(upload(1), A, 1)
    await a.owned(upload(2), A, 1)
    await a.owned(upload(3), B, 1)
    await a.released(upload(2), A, 1)
    world.store.published.clear()
    await asyncio.sleep(3 * KEEP_S)
    assert await a.owner_of(upload(1)) == (A, 1)
    assert await a.owner_of(upload(2)) is None
    assert await a.owner_of(upload(3)) is None, "another's is not kept up"
    assert 6 <= len(world.store.published) <= 9


@virtual
async def test_ten_thousand_owned_uploads_are_published_again_after_a_wipe() -> None:
    world = World()
    a = await world.join("a")
    for number in range(10_000):
        await a.owned(upload(number), A, 1)
    world.store.asked.clear()
    world.store.published.clear()
    world.store.wipe()
    await asyncio.sleep(2)
    assert len(world.store.published) == 10_000
    assert world.store.asked.count("publish") == 20


@virtual
async def test_what_is_given_up_while_it_is_being_published_does_not_stay() -> None:
    world = World()
    a, store = await world.join("a"), world.store
    await a.owned(upload(), A, 1)
    publish = store.publish

    async def slow(entries: object) -> list[bytes | None]:
        await a.released(upload(), A, 1)
        return await publish(entries)

    store.publish = slow  # type: ignore[method-assign] # something comes in between
    store.wipe()
    await asyncio.sleep(3)
    assert await a.owner_of(upload()) is None


@virtual
async def test_what_is_given_up_while_the_store_is_away_is_taken_back_later() -> None:
    """Unless it is owned again by then."""
    world = World()
    a = await world.join("a")
    await a.owned(upload(1), A, 1)
    await a.owned(upload(2), A, 1)
    world.store.away = True
    await a.released(upload(1), A, 1)
    await a.released(upload(2), A, 1)
    await a.owned(upload(2), A, 2)
    world.store.away = False
    await world.when(lambda: a.available, within_s=3)
    assert await a.owner_of(upload(1)) is None
    assert await a.owner_of(upload(2)) == (A, 2)


@virtual
async def test_unchanged_instances_are_not_read_again() -> None:
    world = World()
    await world.join("a")
    b = await world.join("b")
    await asyncio.sleep(LEASE_S * 2)
    world.store.asked.clear()
    await asyncio.sleep(100)
    assert set(world.store.asked) == {"renew"}
    await b.advertise(replace(b.instance, draining=True))
    await asyncio.sleep(2)
    assert "leases" in world.store.asked


@virtual
async def test_two_instances_of_one_name_are_told_but_not_a_restart() -> None:
    world = World()
    former = await world.join("a", "1f")
    await world.join("b")
    for task in former._tasks:
        task.cancel()
    after = await world.join("a", "2f")
    await asyncio.sleep(60)
    assert not [event for event in world.events["a"] if isinstance(event, NameShared)]
    await world.join("a", "3f")
    await asyncio.sleep(60)
    told = [event.other for event in world.events["a"] if isinstance(event, NameShared)]
    assert sorted(told, key=lambda each: each.start_id) == [identity("a", "2f"), identity("a", "3f")]
    assert after.available


@virtual
async def test_two_versions_understand_each_other_and_the_newer_format_comes_when_the_older_one_goes() -> None:
    """A rolling upgrade: the former program beside this one."""
    world = World()
    old = await world.join("old", formats=Formats(FORMER))
    new = await world.join("new")
    await asyncio.sleep(2 * LEASE_S)
    await old.owned(upload(1), old.instance.identity, 1)
    await new.owned(upload(2), new.instance.identity, 1)
    assert await new.owner_of(upload(1)) == (old.instance.identity, 1)
    assert await old.owner_of(upload(2)) == (new.instance.identity, 1)
    assert [each.identity.name for each in old.instances] == ["old", "new"]
    assert not [event for events in world.events.values() for event in events if "Unreadable" in type(event).__name__]
    await old.close()
    await asyncio.sleep(2)
    await new.owned(upload(3), new.instance.identity, 1)
    assert b'"format":2' in (await world.store.owner(upload(3)) or b"")
    assert await new.owner_of(upload(2)) == (new.instance.identity, 1), "written in the older format"
    assert b'"format":2' in (await world.store.leases())["new:1f"]


@virtual
async def test_what_a_former_program_cannot_read_is_written_again_as_soon_as_one_comes() -> None:
    """An upgrade that is taken back: all was of the newer format, and nobody waits for it to be due."""
    world = World()
    new = await world.join("new")
    await asyncio.sleep(2 * LEASE_S)
    for number in range(3):
        await new.owned(upload(number), new.instance.identity, 1)
    old = await world.join("old", formats=Formats(FORMER))
    await asyncio.sleep(2)
    for number in range(3):
        assert await old.owner_of(upload(number)) == (new.instance.identity, 1)
    assert old.instances == (old.instance, new.instance)


@virtual
async def test_a_correction_of_a_contradicted_entry_is_kept_up() -> None:
    world = World()
    a = await world.join("a")
    await a.owned(upload(), A, 3)
    await world.store.correct(Entry(upload(), "a", "1f", 3), a._entry(upload(), B, 7))
    await asyncio.sleep(KEEP_S / 2)
    assert OwnershipContradicted(upload(), (B, 7)) in world.events["a"]
    await a.corrected(upload(), (B, 7), A, 3)
    world.store.wipe()
    await asyncio.sleep(2)
    assert await a.owner_of(upload()) == (A, 3)
