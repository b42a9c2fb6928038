"""The registry in memory: for one instance that is alone; its store also for a fleet within one process."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from incomingd.core.ring import Instance
from incomingd.registry.store import INVITATION_S, KEEP_S, TAKEN_MAX, Entry, Sighting

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from incomingd.core.tenure import Identity
    from incomingd.registry.registry import Event, Invitation, Ownership


class MemoryRegistry:
    """See :class:`incomingd.registry.registry.Registry`: an instance that is alone knows what it owns.

    Holds an entry only for uploads that are in use, so memory does not grow
    with uploads at rest. Nothing lapses, and nobody else can be alive.
    """

    available = True
    settled = True
    lease_holds = True

    def __init__(self, own: Identity) -> None:
        self._instance = Instance(own)
        self._owners: dict[str, Ownership] = {}
        self._invitations: dict[str, Invitation] = {}

    @property
    def instance(self) -> Instance:
        """What this instance says of itself."""
        return self._instance

    @property
    def instances(self) -> tuple[Instance, ...]:
        """The only instance there is."""
        return (self._instance,)

    async def start(self) -> None:
        """Nothing has to be kept up."""

    async def renew(self) -> bool:
        """Nothing lapses."""
        return True

    async def advertise(self, instance: Instance) -> None:
        """Say something else of this instance."""
        assert instance.identity == self._instance.identity, "an instance never becomes another"
        self._instance = instance

    def watch(self, heard: Callable[[Event], None]) -> Callable[[], None]:  # noqa: ARG002 -- nothing ever happens
        """Return at once: nobody comes or goes."""
        return lambda: None

    async def live(self) -> list[Identity]:
        """Return the only instance there is."""
        return [self._instance.identity]

    async def lapsed(self, identity: Identity) -> bool:
        """Whatever is not this run is gone."""
        return identity != self._instance.identity

    async def owner_of(self, upload_id: str) -> Ownership | None:
        """Return who seems to own the upload."""
        return self._owners.get(upload_id)

    async def owned(self, upload_id: str, owner: Identity, epoch: int) -> Ownership | None:
        """Publish an ownership."""
        known = self._owners.get(upload_id)
        if known is not None and (known[1] > epoch or (known[1] == epoch and not _same_run(known[0], owner))):
            return known
        self._owners[upload_id] = (owner, epoch)
        return None

    async def corrected(
        self, upload_id: str, replaced: Ownership, owner: Identity | None, epoch: int
    ) -> Ownership | None:
        """Replace an entry that the volume contradicts."""
        known = self._owners.get(upload_id)
        if known is not None and (known[1] != replaced[1] or not _same_run(known[0], replaced[0])):
            return known
        self._owners.pop(upload_id, None)
        if owner is not None:
            self._owners[upload_id] = (owner, epoch)
        return None

    async def released(self, upload_id: str, owner: Identity, epoch: int) -> None:
        """Take an ownership back, unless another owner's or a later one is published."""
        known = self._owners.get(upload_id)
        if known is not None and _same_run(known[0], owner) and known[1] <= epoch:
            del self._owners[upload_id]

    async def upload_of(self, key: str) -> str | None:
        """Return None: all that there is lies on the one volume, which knows its keys."""
        del key
        return None

    async def bind_key(self, key: str, upload_id: str, *, instead_of: str | None, keep_s: float) -> str:
        """Return *upload_id*: nobody else could have been first."""
        del key, instead_of, keep_s
        return upload_id

    async def invite(self, guest: Identity, invitations: Sequence[Invitation]) -> None:
        """Keep invitations to oneself; nobody else could read them."""
        if _same_run(guest, self._instance.identity):
            self._invitations.update({invitation.upload_id: invitation for invitation in invitations})

    async def invitations(self) -> list[Invitation]:
        """Return and consume invitations."""
        taken = list(self._invitations)[:TAKEN_MAX]
        return [self._invitations.pop(upload_id) for upload_id in taken]

    async def close(self) -> None:
        """Forget everything."""
        self._owners.clear()
        self._invitations.clear()


def _same_run(one: Identity, other: Identity) -> bool:
    return (one.name, one.start_id) == (other.name, other.start_id)


class MemoryStore:
    """See :class:`incomingd.registry.store.Store`: what several instances of one process share.

    Does what the scripts for Redis do (:mod:`incomingd.registry.redis_scripts`),
    for a fleet on a virtual clock.

    Args:
        now: seconds; what lapses does so by it.
        random_id: returns what no two calls return alike.
    """

    def __init__(self, now: Callable[[], float], random_id: Callable[[], str]) -> None:
        self._now = now
        self.run_id = random_id()
        self._hints: list[Callable[[str], None]] = []
        self.wipe()

    def wipe(self) -> None:
        """Lose everything."""
        self._generation: str | None = None
        self._stamp = ""
        self._state_until = 0.0
        self._leases: dict[str, tuple[bytes, float]] = {}
        self._owners: dict[str, tuple[bytes, float]] = {}
        self._inboxes: dict[str, tuple[dict[str, bytes], float]] = {}
        self._keys: dict[str, tuple[bytes, float]] = {}

    async def renew(self, lease_id: str, value: bytes, *, lease_s: float, fresh: str) -> Sighting:
        """Let a lease run; drop those that have lapsed."""
        now = self._now()
        running = {name: lease for name, lease in self._leases.items() if lease[1] > now}
        changed = len(running) < len(self._leases) or running.get(lease_id, (b"", 0.0))[0] != value
        self._leases = running | {lease_id: (value, now + lease_s)}
        if self._generation is None or self._state_until <= now:
            self._generation, changed = fresh, True
        self._state_until = now + KEEP_S
        if changed:
            self._changed(fresh)
        return Sighting(self._generation, self.run_id, self._stamp, len(self._inbox(lease_id)))

    async def leases(self) -> dict[str, bytes]:
        """Return those that run."""
        return {lease_id: value for lease_id, (value, until) in self._leases.items() if until > self._now()}

    async def leave(self, lease_id: str, *, fresh: str) -> None:
        """End a lease."""
        self._inboxes.pop(lease_id, None)
        if self._leases.pop(lease_id, None) is not None:
            self._changed(fresh)

    async def owner(self, upload_id: str) -> bytes | None:
        """Return an upload's entry."""
        value, until = self._owners.get(upload_id, (b"", 0.0))
        return value if until > self._now() else None

    async def publish(self, entries: Sequence[Entry]) -> list[bytes | None]:
        """Keep entries, unless something stands against them."""
        return [await self._publish(entry) for entry in entries]

    async def _publish(self, entry: Entry) -> bytes | None:
        value = await self.owner(entry.upload_id)
        stands = _fixed(entry.upload_id, value)
        if stands is not None and (
            stands.epoch > entry.epoch or (stands.epoch == entry.epoch and _run(stands) != _run(entry))
        ):
            return value
        self._keep(entry)
        return None

    async def correct(self, replaced: Entry, by: Entry) -> bytes | None:
        """Replace the entry that is named."""
        value = await self.owner(replaced.upload_id)
        stands = _fixed(replaced.upload_id, value)
        if stands is not None and (stands.epoch, _run(stands)) != (replaced.epoch, _run(replaced)):
            return value
        self._keep(by)
        return None

    async def release(self, entries: Sequence[Entry]) -> None:
        """Drop entries."""
        for entry in entries:
            stands = _fixed(entry.upload_id, await self.owner(entry.upload_id))
            if stands is not None and _run(stands) == _run(entry) and stands.epoch <= entry.epoch:
                del self._owners[entry.upload_id]

    async def keyed(self, key: str) -> bytes | None:
        """Return a key's value."""
        value, until = self._keys.get(key, (b"", 0.0))
        return value if until > self._now() else None

    async def bind_key(self, key: str, value: bytes, *, upload_id: str, instead_of: str, keep_s: float) -> bytes | None:
        """Keep a key's value, unless it leads elsewhere."""
        stands = await self.keyed(key)
        if _leads_to(stands) not in (None, upload_id, instead_of):
            return stands
        self._keys[key] = (value, self._now() + keep_s)
        return None

    async def invite(self, lease_id: str, invitations: Mapping[str, bytes]) -> None:
        """Keep invitations."""
        self._inboxes[lease_id] = (self._inbox(lease_id) | dict(invitations), self._now() + INVITATION_S)
        self._hint(lease_id)

    async def take(self, lease_id: str) -> dict[str, bytes]:
        """Return and drop invitations."""
        inbox = self._inbox(lease_id)
        return {upload_id: inbox.pop(upload_id) for upload_id in list(inbox)[:TAKEN_MAX]}

    async def listen(self, hint: Callable[[str], None]) -> None:
        """Call *hint* at every change, until cancelled."""
        self._hints.append(hint)
        hint("")
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self._hints.remove(hint)

    async def close(self) -> None:
        """Others may still use it."""

    def _inbox(self, lease_id: str) -> dict[str, bytes]:
        inbox, until = self._inboxes.get(lease_id, ({}, 0.0))
        return inbox if until > self._now() else {}

    def _keep(self, entry: Entry) -> None:
        self._owners.pop(entry.upload_id, None)
        if entry.value:
            self._owners[entry.upload_id] = (entry.value, self._now() + KEEP_S)

    def _changed(self, fresh: str) -> None:
        self._stamp = fresh
        self._hint("")

    def _hint(self, what: str) -> None:
        for hint in self._hints:
            hint(what)


def _fixed(upload_id: str, value: bytes | None) -> Entry | None:
    """Return what every format says in the same way; None: nothing, or nothing readable."""
    try:
        fields = json.loads(value or b"null")
        return Entry(upload_id, str(fields["name"]), str(fields["start_id"]), int(fields["epoch"]))
    except (ValueError, KeyError, TypeError):
        return None


def _leads_to(value: bytes | None) -> str | None:
    """Return the upload that a key's value names; None: none, or nothing readable."""
    try:
        return str(json.loads(value or b"null")["upload_id"])
    except (ValueError, KeyError, TypeError):
        return None


def _run(entry: Entry) -> tuple[str, str]:
    return entry.name, entry.start_id
