"""The registry of one instance among several, over any store.

One loop renews the lease, and in the same step learns whether anything has
changed: other instances, the store itself, invitations. So a store that hangs or
is gone is noticed by the loop within two seconds, and everybody else is told so
at once instead of waiting for it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from incomingd.core.pacing import backoff_s
from incomingd.core.ring import Instance
from incomingd.core.tenure import Identity
from incomingd.registry.batching import Batch
from incomingd.registry.registry import (
    AvailabilityChanged,
    Event,
    GenerationChanged,
    InstancesChanged,
    Invitation,
    InvitationsWaiting,
    NameShared,
    Ownership,
    OwnershipContradicted,
    RegistryUnavailableError,
    SettledChanged,
    Trouble,
    ValueUnreadable,
)
from incomingd.registry.store import KEEP_S, Entry, Sighting, Store
from incomingd.registry.values import Formats, UnreadableValueError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from incomingd.clock import Clock

T = TypeVar("T")

BEAT_S: Final = 1.0
"""The lease is renewed at least this often: with a command's bound that makes the 2 s within which trouble is seen."""
BEATS_PER_LEASE: Final = 3
HINT_SPACING_S: Final = 0.05
"""Hints that come faster than this are answered by one beat."""
RETRY_FIRST_S: Final = 0.1
RETRY_MAX_S: Final = 1.0
REFRESH_S: Final = KEEP_S / 3
AT_ONCE: Final = 16
"""Questions under way at the same time, each over a connection of its own."""
PUBLISHED_AT_ONCE: Final = 500
RELEASES_KEPT: Final = 10_000
"""Releases that could not be told; beyond them the oldest entries are left to lapse."""
NAMESAKE_LEASES: Final = 2.0
"""A lease under one's own name that has run for so many lease times is somebody's who renews it."""


@dataclass(slots=True)
class _Held:
    epoch: int
    told_at: float | None = None
    """When it was last published; None: not yet, or not since the store may have lost it."""


class FleetRegistry:
    """See :class:`incomingd.registry.registry.Registry`.

    Args:
        store: where the values are; this registry closes it.
        clock: time, chance and tasks.
        instance: this one.
        lease_s: how long a lease runs; the same for all instances.
        formats: what this program reads and writes.
    """

    def __init__(
        self, store: Store, clock: Clock, instance: Instance, *, lease_s: float, formats: Formats | None = None
    ) -> None:
        assert lease_s > 0, lease_s
        self._store = store
        self._clock = clock
        self._instance = instance
        self._lease_s = lease_s
        self._formats = formats or Formats()
        self._trouble: RegistryUnavailableError | None = RegistryUnavailableError(
            Trouble.NOT_TRIED, "The registry has not been tried yet."
        )
        self._turns = asyncio.Semaphore(AT_ONCE)
        # Each upload that moves costs one of both: where hundreds move at once, not each a round trip of its own.
        self._publishing = Batch(self._publish, most=PUBLISHED_AT_ONCE)
        self._releasing = Batch(self._release, most=PUBLISHED_AT_ONCE)
        self._closed = False
        self._tasks: list[asyncio.Task[None]] = []
        self._bell: asyncio.Future[None] | None = None
        self._watchers: list[Callable[[Event], None]] = []
        self._failures = 0
        # What the last renewal saw, and when it was sent.
        self._seen: Sighting | None = None
        self._renewed_at: float | None = None
        self._settles_at: float | None = None
        self._told_settled = False
        self._others: tuple[Instance, ...] = ()
        self._namesakes: dict[Identity, float] = {}
        """Other runs under this name, and when each was first seen; infinite once told."""
        self._foretold: int | None = None
        """The format that all others read, when they were last looked at."""
        # Oldest publication first.
        self._mine: OrderedDict[str, _Held] = OrderedDict()
        self._releases: OrderedDict[str, int] = OrderedDict()

    # -- itself

    @property
    def instance(self) -> Instance:
        """What this instance says of itself."""
        return self._instance

    @property
    def available(self) -> bool:
        """Whether the last contact succeeded."""
        return self._trouble is None

    @property
    def trouble(self) -> RegistryUnavailableError | None:
        """What is wrong; None: nothing."""
        return self._trouble

    @property
    def settled(self) -> bool:
        """Whether a missing lease means that its instance is gone."""
        # An instance that was frozen has not seen what went on meanwhile; its own lease tells.
        return (
            self.available
            and self.lease_holds
            and self._settles_at is not None
            and self._clock.monotonic() >= self._settles_at
        )

    @property
    def lease_holds(self) -> bool:
        """Whether this instance's own lease surely runs."""
        return self._renewed_at is not None and self._clock.monotonic() < self._renewed_at + self._lease_s

    async def start(self) -> None:
        """Take the lease and keep it renewed. Returns after the first try, whether or not it succeeded."""
        assert not self._tasks, "a registry is started once"
        self._bell = asyncio.get_running_loop().create_future()
        pause_s = await self._beat()
        self._tasks = [
            self._clock.spawn(self._keep(pause_s), name="registry.lease"),
            self._clock.spawn(self._store.listen(self._hinted), name="registry.hints"),
        ]

    async def renew(self) -> bool:
        """Try to renew the lease now; return whether it holds."""
        await self._beat()
        return self.lease_holds

    async def advertise(self, instance: Instance) -> None:
        """Say something else of this instance."""
        assert instance.identity == self._instance.identity, "an instance never becomes another"
        self._instance = instance
        if self.available:
            await self._beat()

    def watch(self, heard: Callable[[Event], None]) -> Callable[[], None]:
        """Call *heard* with every event from now on; return what ends that."""
        self._watchers.append(heard)
        return lambda: self._watchers.remove(heard) if heard in self._watchers else None

    async def close(self) -> None:
        """Give up this instance's lease."""
        if self._closed:
            return
        self._closed = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self.available:
            try:
                await self._store.leave(_lease_id(self._instance.identity), fresh=self._random())
            except RegistryUnavailableError as error:
                # It lapses by itself.
                self._trouble = error
        await self._store.close()

    # -- instances

    @property
    def instances(self) -> tuple[Instance, ...]:
        """Those whose leases ran when last looked, this one among them."""
        return (self._instance, *self._others)

    async def live(self) -> list[Identity]:
        """Return the instances whose leases run now, the caller's own among them."""
        leases = await self._ask(self._store.leases)
        known = {_lease_id(each.identity): each.identity for each in self._read_instances(leases)}
        ids = {_lease_id(self._instance.identity), *leases}
        return [known.get(lease_id, _identity(lease_id)) for lease_id in sorted(ids)]

    async def lapsed(self, identity: Identity) -> bool:
        """Return whether that run of that instance seems gone: settled, and no lease."""
        if not self.settled:
            return False
        try:
            leases = await self._ask(self._store.leases)
        except RegistryUnavailableError:
            return False
        # Asking may have taken so long that this instance knows nothing any more.
        return _lease_id(identity) not in leases and self.lease_holds

    # -- ownership

    async def owner_of(self, upload_id: str) -> Ownership | None:
        """Return who seems to own the upload, and the epoch; None: nobody known."""
        return self._read_ownership(upload_id, await self._ask(lambda: self._store.owner(upload_id)))

    async def owned(self, upload_id: str, owner: Identity, epoch: int) -> Ownership | None:
        """Publish an ownership. It yields to a higher epoch, and to another owner of the same one."""
        held = self._hold(upload_id, owner, epoch)
        try:
            stands = await self._publishing.ask(self._entry(upload_id, owner, epoch))
        except RegistryUnavailableError:
            return None
        self._told(upload_id, held)
        return self._read_ownership(upload_id, stands)

    async def corrected(
        self, upload_id: str, replaced: Ownership, owner: Identity | None, epoch: int
    ) -> Ownership | None:
        """Replace an entry that the volume contradicts, if it still is the one named."""
        held = None
        if owner is not None:
            held = self._hold(upload_id, owner, epoch)
            by = self._entry(upload_id, owner, epoch)
        else:
            by = Entry(upload_id, "", "", epoch)
        wrong = Entry(upload_id, replaced[0].name, replaced[0].start_id, replaced[1])
        try:
            stands = await self._ask(lambda: self._store.correct(wrong, by))
        except RegistryUnavailableError:
            return None
        self._told(upload_id, held)
        return self._read_ownership(upload_id, stands)

    async def released(self, upload_id: str, owner: Identity, epoch: int) -> None:
        """Take an ownership back, unless another owner's or a later one is published."""
        if own := _same_run(owner, self._instance.identity):
            held = self._mine.get(upload_id)
            if held is not None and held.epoch <= epoch:
                del self._mine[upload_id]
        try:
            await self._releasing.ask(_released(upload_id, owner, epoch))
        except RegistryUnavailableError:
            if own and upload_id not in self._mine:
                self._release_later(upload_id, epoch)

    async def _publish(self, entries: Sequence[Entry]) -> list[bytes | None]:
        return await self._ask(lambda: self._store.publish(entries))

    async def _release(self, entries: Sequence[Entry]) -> list[None]:
        await self._ask(lambda: self._store.release(entries))
        return [None] * len(entries)

    # -- keys of web apps

    async def upload_of(self, key: str) -> str | None:
        """Return the id of the upload that a web app's key has led to."""
        return self._read_key(key, await self._ask(lambda: self._store.keyed(key)))

    async def bind_key(self, key: str, upload_id: str, *, instead_of: str | None, keep_s: float) -> str:
        """Have a web app's key lead to an upload from now on, unless it leads to another one."""
        value = self._formats.key(self._instance.identity, upload_id, self._version())
        stands = await self._ask(
            lambda: self._store.bind_key(key, value, upload_id=upload_id, instead_of=instead_of or "", keep_s=keep_s)
        )
        return self._read_key(key, stands) or upload_id

    def _read_key(self, key: str, value: bytes | None) -> str | None:
        if value is None:
            return None
        try:
            return self._formats.read_key(value)
        except UnreadableValueError as error:
            self._tell(ValueUnreadable("key", key, str(error)))
            return None

    # -- invitations

    async def invite(self, guest: Identity, invitations: Sequence[Invitation]) -> None:
        """Ask an instance to pull parked uploads."""
        version = self._version()
        values = {each.upload_id: self._formats.invitation(each, version) for each in invitations}
        if values:
            await self._ask(lambda: self._store.invite(_lease_id(guest), values))

    async def invitations(self) -> list[Invitation]:
        """Return and consume what this instance is invited to."""
        taken = await self._ask(lambda: self._store.take(_lease_id(self._instance.identity)))
        found: list[Invitation] = []
        for upload_id, value in taken.items():
            try:
                found.append(self._formats.read_invitation(upload_id, value))
            except UnreadableValueError as error:
                self._tell(ValueUnreadable("invitation", upload_id, str(error)))
        return found

    # -- the loop

    async def _keep(self, pause_s: float) -> None:
        while True:
            bell = self._bell
            assert bell is not None
            if await self._clock.timeout(pause_s, bell):
                self._bell = asyncio.get_running_loop().create_future()
                # Many changes at once (a fleet that restarts) are seen in one beat.
                await self._clock.sleep(HINT_SPACING_S * (1 + self._clock.jitter()))
            pause_s = await self._beat()

    def _hinted(self, lease_id: str) -> None:
        if lease_id in {"", _lease_id(self._instance.identity)} and self.available:
            self._ring()

    def _ring(self) -> None:
        if self._bell is not None and not self._bell.done():
            self._bell.set_result(None)

    async def _beat(self) -> float:
        """Renew, look, publish what is due; return how long to wait for the next time."""
        try:
            await self._renew()
            await self._tell_releases()
            await self._publish_due()
        except RegistryUnavailableError as error:
            self._failures += 1
            self._lost(error)
            return backoff_s(self._failures, first_s=RETRY_FIRST_S, max_s=RETRY_MAX_S, jitter=self._clock.jitter())
        self._failures = 0
        self._tell_settled()
        self._tell_namesakes()
        pause_s = min(BEAT_S, self._lease_s / BEATS_PER_LEASE)
        if not self.settled and self._settles_at is not None:
            pause_s = min(pause_s, max(self._settles_at - self._clock.monotonic(), HINT_SPACING_S))
        return pause_s

    async def _renew(self) -> None:
        own = _lease_id(self._instance.identity)
        before, late = self._seen, not self.lease_holds
        if before is None:
            # Whoever reads the older format only must be known before anything is written.
            self._look_around(await self._store.leases())
        sent_at = self._clock.monotonic()
        value = self._formats.instance(self._instance, self._version())
        seen = await self._store.renew(own, value, lease_s=self._lease_s, fresh=self._random())
        self._renewed_at = sent_at
        lost = before is None or (before.generation, before.run_id) != (seen.generation, seen.run_id)
        if lost:
            for held in self._mine.values():
                held.told_at = None
        if lost or late or self._trouble is not None:
            self._settles_at = self._clock.monotonic() + self._lease_s
            self._tell_settled()
        # Until the leases have been read, what was seen before still is what was seen.
        if lost or before is None or before.stamp != seen.stamp or self._trouble is not None:
            self._look_around(await self._store.leases())
            self._say_it_for_all()
        self._seen = seen
        if self._trouble is not None:
            self._trouble = None
            self._tell(AvailabilityChanged(None))
        if lost:
            self._tell(GenerationChanged(seen.generation, seen.run_id))
        if seen.invitations:
            self._tell(InvitationsWaiting(seen.invitations))

    def _look_around(self, leases: dict[str, bytes]) -> None:
        before = self._others
        own = self._instance.identity
        self._others = tuple(each for each in self._read_instances(leases) if not _same_run(each.identity, own))
        if before != self._others:
            known, now = {each.identity for each in before}, {each.identity for each in self._others}
            self._tell(
                InstancesChanged(
                    self.instances,
                    came=tuple(each for each in self._others if each.identity not in known),
                    gone=tuple(each for each in before if each.identity not in now),
                )
            )

    def _say_it_for_all(self) -> None:
        """Where somebody has come who reads the former format only: write again what he cannot read, and soon."""
        before, now = self._foretold, self._formats.spoken(self._others, settled=True)
        self._foretold = now
        if before is not None and now < before:
            for held in self._mine.values():
                held.told_at = None
            self._ring()

    async def _publish_due(self) -> None:
        """Publish what has not been since it was lost, and again what would lapse."""
        while due := self._due():
            entries = [self._entry(upload_id, self._instance.identity, held.epoch) for upload_id, held in due]
            answers = await self._store.publish(entries)
            for (upload_id, held), stands in zip(due, answers, strict=True):
                self._told(upload_id, held)
                if upload_id not in self._mine:
                    # It was released while this was under way, and now stands there again.
                    self._release_later(upload_id, held.epoch)
                elif (other := self._read_ownership(upload_id, stands)) is not None:
                    self._tell(OwnershipContradicted(upload_id, other))
        if self._releases:
            await self._tell_releases()

    def _due(self) -> list[tuple[str, _Held]]:
        before = self._clock.monotonic() - REFRESH_S
        due: list[tuple[str, _Held]] = []
        for upload_id, held in self._mine.items():
            if (held.told_at is not None and held.told_at > before) or len(due) == PUBLISHED_AT_ONCE:
                break
            due.append((upload_id, held))
        return due

    async def _tell_releases(self) -> None:
        while self._releases:
            batch = list(self._releases.items())[:PUBLISHED_AT_ONCE]
            await self._store.release([_released(each, self._instance.identity, epoch) for each, epoch in batch])
            for upload_id, epoch in batch:
                if self._releases.get(upload_id) == epoch:
                    del self._releases[upload_id]

    # -- small steps

    async def _ask(self, question: Callable[[], Awaitable[T]]) -> T:
        # Whoever waits for a turn here learns at once when the ones before him failed.
        async with self._turns:
            if self._trouble is not None:
                # Not the one that was raised before: that holds somebody else's traceback.
                raise RegistryUnavailableError(self._trouble.trouble, self._trouble.sentence)
            try:
                return await question()
            except RegistryUnavailableError as error:
                if not error.trouble.of_one_command:
                    self._lost(error)
                    self._ring()
                raise

    def _lost(self, error: RegistryUnavailableError) -> None:
        before, self._trouble = self._trouble, error
        if before is None or before.trouble != error.trouble:
            self._tell(AvailabilityChanged(error))
        self._tell_settled()

    def _hold(self, upload_id: str, owner: Identity, epoch: int) -> _Held | None:
        """Note an ownership of one's own, as the first that is to be published."""
        if not _same_run(owner, self._instance.identity):
            return None
        self._releases.pop(upload_id, None)
        held = self._mine[upload_id] = _Held(epoch)
        self._mine.move_to_end(upload_id, last=False)
        return held

    def _told(self, upload_id: str, held: _Held | None) -> None:
        if held is not None and self._mine.get(upload_id) is held:
            held.told_at = self._clock.monotonic()
            self._mine.move_to_end(upload_id)

    def _release_later(self, upload_id: str, epoch: int) -> None:
        self._releases[upload_id] = epoch
        while len(self._releases) > RELEASES_KEPT:
            self._releases.popitem(last=False)

    def _entry(self, upload_id: str, owner: Identity, epoch: int) -> Entry:
        value = self._formats.ownership(owner, epoch, self._version())
        return Entry(upload_id, owner.name, owner.start_id, epoch, value)

    def _version(self) -> int:
        return self._formats.spoken(self._others, settled=self.settled)

    def _read_instances(self, leases: dict[str, bytes]) -> list[Instance]:
        found: list[Instance] = []
        for lease_id, value in sorted(leases.items()):
            try:
                instance = self._formats.read_instance(value)
            except UnreadableValueError as error:
                self._tell(ValueUnreadable("lease", lease_id, str(error)))
                # It lives, but nobody here can say what it is good for.
                instance = Instance(_identity(lease_id), draining=True, format=self._formats.known.oldest)
            found.append(instance)
        return found

    def _read_ownership(self, upload_id: str, value: bytes | None) -> Ownership | None:
        if value is None:
            return None
        try:
            return self._formats.read_ownership(value)
        except UnreadableValueError as error:
            self._tell(ValueUnreadable("ownership", upload_id, str(error)))
            return None

    def _tell(self, event: Event) -> None:
        for heard in self._watchers:
            # Not from here: whoever hears it may ask the registry, or fail.
            asyncio.get_running_loop().call_soon(heard, event)

    def _tell_settled(self) -> None:
        if self.settled != self._told_settled:
            self._told_settled = self.settled
            self._tell(SettledChanged(self._told_settled))

    def _tell_namesakes(self) -> None:
        own, now = self._instance.identity, self._clock.monotonic()
        present = {each.identity for each in self._others if each.identity.name == own.name}
        self._namesakes = {each: self._namesakes.get(each, now) for each in present}
        for each, since in self._namesakes.items():
            if now - since > NAMESAKE_LEASES * self._lease_s:
                self._namesakes[each] = float("inf")
                self._tell(NameShared(each))

    def _random(self) -> str:
        return f"{self._clock.random_bits(128):032x}"


def _lease_id(identity: Identity) -> str:
    return f"{identity.name}:{identity.start_id}"


def _identity(lease_id: str) -> Identity:
    # A name may hold a colon, a start id never does.
    name, _, start_id = lease_id.rpartition(":")
    return Identity(name, start_id)


def _released(upload_id: str, owner: Identity, epoch: int) -> Entry:
    return Entry(upload_id, owner.name, owner.start_id, epoch)


def _same_run(one: Identity, other: Identity) -> bool:
    return (one.name, one.start_id) == (other.name, other.start_id)
