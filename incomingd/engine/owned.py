"""One upload that this instance owns: the only place that changes it.

The modules beside this one say what can be done to it (:mod:`appending`,
:mod:`beginning`, :mod:`ending`); here stands what they all keep to:

* every change of the record happens under :attr:`OwnedUpload.guard`;
* the order of an answer that tells an offset is *keep - note - look - answer*;
* what cannot be taken back begins with a claim.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from incomingd.core.commands import Resource
from incomingd.core.errors import Code, Refusal
from incomingd.core.status import Event, Status
from incomingd.core.tenure import Claim, ClaimKind, Identity
from incomingd.engine.events import Events, Told
from incomingd.engine.health import VolumeHealth
from incomingd.engine.options import Durability
from incomingd.engine.state import InstanceState
from incomingd.engine.turns import Turns
from incomingd.log import events, get_logger
from incomingd.peers.calls import LonePeers, Peers
from incomingd.storage.body import CutReason
from incomingd.storage.volume import ClaimTakenError, VolumeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import EllipsisType

    from incomingd.clock import Clock
    from incomingd.core.content import Content
    from incomingd.core.record import Record
    from incomingd.engine.digesting import Progress
    from incomingd.engine.options import EngineOptions
    from incomingd.registry.registry import Registry
    from incomingd.storage.volume import Volume

log = get_logger()

GONE: dict[Status, Code] = {
    Status.CANCELLED: Code.UPLOAD_CANCELLED,
    Status.EXPIRED: Code.UPLOAD_EXPIRED,
    Status.FAILED: Code.UPLOAD_FAILED,
    Status.LOST: Code.UPLOAD_LOST,
}


@dataclass
class Services:
    """What an owned upload works with; one for the whole engine."""

    clock: Clock
    volume: Volume
    registry: Registry
    identity: Identity
    events: Events
    options: EngineOptions
    boot_id: str
    peers: Peers = field(default_factory=LonePeers)
    state: InstanceState = field(default_factory=InstanceState)
    health: VolumeHealth = field(init=False)
    rewritten: Callable[[Record, Record], None] = lambda _before, _now: None
    """Told of each change of a record that may name segments on other volumes."""

    def __post_init__(self) -> None:
        self.health = VolumeHealth(self.volume.id, self.clock)

    def new_token(self) -> str:
        """Return 128 random bits, spelled in hex."""
        return f"{self.clock.random_bits(128):032x}"

    def publish(self, upload: OwnedUpload) -> None:
        """Tell the registry who owns the upload. Nothing waits for that, since nothing is proved by it."""
        epoch = upload.record.epoch
        _ = self.clock.spawn(self._publish(upload.id, epoch), name=f"publish {upload.id}")

    async def _publish(self, upload_id: str, epoch: int) -> None:
        await self.registry.owned(upload_id, self.identity, epoch)

    def unpublish(self, upload: OwnedUpload) -> None:
        """Tell the registry that this instance owns it no more."""
        epoch = upload.record.epoch
        _ = self.clock.spawn(self.registry.released(upload.id, self.identity, epoch), name=f"unpublish {upload.id}")

    def report_join_failure(self, record: Record, error: VolumeError) -> None:
        """Log that the complete file could not be made; it is tried again."""
        log.warning(events.UPLOAD_JOIN_FAILED, upload_id=record.upload_id, detail=str(error))

    def report_drop_failure(self, record: Record, error: VolumeError) -> None:
        """Log that bytes nobody needs could not be deleted; it is tried again."""
        log.warning(events.UPLOAD_DROP_FAILED, upload_id=record.upload_id, detail=str(error))
        self.events.tell(Told.LEFT, record)


class OwnedUpload:
    """See the module."""

    def __init__(self, record: Record, offsets: dict[str | None, int], services: Services) -> None:
        self.record = record
        """As last written, by this tenure."""
        self.offsets = offsets
        """True offset of the upload and of each part, at rest."""
        self.services = services
        self.guard = asyncio.Lock()
        self.used_at = services.clock.monotonic()
        self.busy = 0
        """Requests and deliveries under way; memory keeps what is busy."""
        self.superseded = False
        """Another tenure has begun: nothing may be answered from here."""
        self.parked = False
        """This instance has given it up itself."""
        self.joining: asyncio.Task[None] | None = None
        self.backfilling: asyncio.Task[None] | None = None
        self.digests: Progress | None = None
        """Of an upload whose ticket asks for them; made by :mod:`incomingd.engine.digesting`."""
        self.digesting: asyncio.Task[None] | None = None
        self._given_up: asyncio.Future[None] | None = None
        """Done when it is parked; made when somebody waits for that."""
        self._ends_open = 0
        """Acts under way that cut appends in order to end the upload, or a part of it."""
        self._turns: dict[str | None, Turns] = {}

    # -- what it is

    @property
    def id(self) -> str:
        """The upload's id."""
        return self.record.upload_id

    def turns(self, part: str | None) -> Turns:
        """Return whose turn it is on the upload's bytes, or on a part's."""
        turns = self._turns.get(part)
        if turns is None:
            turns = self._turns[part] = Turns(self.services.clock, lambda delay_s: self._tell_fight(part, delay_s))
        return turns

    def _tell_fight(self, part: str | None, delay_s: float) -> None:
        offset = self.live_offset(part)
        log.warning(events.APPEND_PREEMPTED, upload_id=self.id, part=part, offset=offset, delay_s=delay_s)

    @property
    def in_use(self) -> bool:
        """Whether anything is done to it just now: memory must keep it."""
        return self.busy > 0 or self.appending

    @property
    def appending(self) -> bool:
        """Whether bytes are coming in just now."""
        return any(turns.open is not None for turns in self._turns.values())

    def touch(self) -> None:
        """Somebody asked for it."""
        self.used_at = self.services.clock.monotonic()

    def target(self, part: str | None) -> Content:
        """Return the content of the upload or of *part*.

        Raises:
            Refusal: `upload_unknown` for a part that is not there.
        """
        content = self.record.target(part)
        if content is None:
            raise Refusal(Code.UPLOAD_UNKNOWN, "There is no such part.")
        return content

    def refuse_if_gone(self) -> None:
        """Refuse what needs an upload that has not ended badly."""
        code = GONE.get(self.record.status)
        if code is not None:
            failure = self.record.failure
            raise Refusal(code, failure.message if failure else "")
        if self.record.let_go:
            raise Refusal(Code.UPLOAD_CANCELLED, "The client has deleted it after it was handed over.")

    def live_offset(self, part: str | None = None) -> int:
        """Return how many bytes are in just now, those of an open append too."""
        append = self.turns(part).open
        return self.offsets.get(part, 0) + (append.taken if append else 0)

    def offset(self, part: str | None) -> int | None:
        """Return the offset at rest; None: of a concatenation whose parts are not all there."""
        if part is not None:
            content = self.target(part)
            return content.length if content.closed else self.offsets.get(part, 0)
        if self.record.status.whole:
            return self.record.content.length
        return None if self.record.final_of is not None else self.offsets.get(None, 0)

    def length(self, part: str | None) -> int | None:
        """Return how many bytes it is to have, as far as that is known."""
        content = self.target(part)
        if content.length is None and part is None and not content.length_deferred:
            return self.record.terms.length
        return content.length

    def resource(self, part: str | None, *, bytes_taken: int = 0) -> Resource:
        """Return what an answer tells now; the caller has noted and looked."""
        record = self.record
        content = self.target(part)
        length = self.length(part)
        return Resource(
            upload_id=record.upload_id,
            part=part,
            status=record.status,
            offset=self.offset(part),
            length=length,
            length_deferred=length is None,
            length_limit=record.length_limit,
            metadata=content.metadata,
            concat=content.concat,
            expires_at=record.expires_at if record.status is Status.OPEN else None,
            bytes_taken=bytes_taken,
        )

    # -- changing it (under the guard)

    @property
    def syncs_acknowledgements(self) -> bool:
        """Whether an offset that is told must survive a power loss."""
        return self.services.options.durability is Durability.ACKNOWLEDGEMENT

    @property
    def syncs_completion(self) -> bool:
        """Whether what happens once to an upload must survive a power loss: beginnings, completion, ends."""
        return self.services.options.durability is not Durability.NONE

    async def write(self, record: Record, *, sync: bool, look: bool = True) -> None:
        """Replace the record; what is in memory follows what is stored.

        Only this tenure writes this record, so that a tenure that is over harms nobody by it. But nothing may follow
        from it then.

        Args:
            record: the new one.
            sync: it must survive a power loss.
            look: make sure that this tenure is the last; not where the caller looks before it answers.

        Raises:
            Refusal: `not_ready`: another tenure has begun.
        """
        assert self.guard.locked()
        if self.superseded:
            raise Refusal(Code.NOT_READY, retry_after_s=1)
        record = replace(record, boot_id=self.services.boot_id)
        try:
            await self.services.volume.write(record, sync=sync)
        except VolumeError as error:
            self.services.health.failed(error)
            if record.epoch != self.record.epoch:
                # It may stand all the same, as the last word of this run, which does not know it: what follows from it
                # is found on the volume.
                self.services.events.tell(Told.LEFT, record)
            raise
        self.services.health.worked()
        before, self.record = self.record, record
        parts = {name for name, _ in record.parts}
        for name in [name for name in self._turns if name is not None and name not in parts]:
            del self._turns[name]
            self.offsets.pop(name, None)
        self.services.events.changed(record.upload_id)
        if self.services.volume.shared:
            if look:
                await self._look_behind()
            self.services.rewritten(before, record)

    async def _look_behind(self) -> None:
        """Look when the record has been written."""
        try:
            await self.look()
        except VolumeError:
            # The record stands, but the caller draws no consequence from it: what else is in memory is as before.
            self.superseded = True
            raise

    async def claim(self, kind: ClaimKind) -> Record:
        """Claim the next epoch; return the record with it, for :meth:`write`.

        Raises:
            Refusal: `not_ready`: another tenure has begun.
        """
        assert self.guard.locked()
        services = self.services
        claim = Claim(
            epoch=self.record.epoch + 1,
            owner=services.identity,
            create_id=services.new_token(),
            volume_id=services.volume.id,
            kind=kind,
        )
        try:
            await services.volume.claim(self.id, claim)
        except ClaimTakenError:
            self.superseded = True
            raise Refusal(Code.NOT_READY, retry_after_s=1) from None
        return replace(
            self.record,
            epoch=claim.epoch,
            owner=claim.owner,
            claim_kind=kind,
            create_id=claim.create_id,
        )

    async def look(self) -> None:
        """Make sure that this tenure is still the last; before every answer.

        Raises:
            Refusal: `not_ready`: it is not.
        """
        if self.superseded or not await self.services.volume.look(self.id, self.record.epoch):
            self.superseded = True
            raise Refusal(Code.NOT_READY, retry_after_s=1)

    async def note(self, part: str | None) -> None:
        """Make the record vouch for the offset where an answer rests on it."""
        if self.record.status is not Status.OPEN:
            return
        content, sync = self.target(part), self.syncs_acknowledgements
        noted_offset = self.offsets.get(part, 0) if sync else content.noted_offset
        # A mark that stayed, because a full disk did not let it be taken off, would have recovery drop bytes that
        # were verified, and are told now.
        if content.unverified_from is None and content.noted_offset == noted_offset:
            return
        noted = replace(content, noted_offset=noted_offset, unverified_from=None)
        await self.write(self.record.with_target(part, noted), sync=sync, look=False)

    # -- coming to rest

    def quiet(self, reason: CutReason, *, part: str | EllipsisType | None = ..., arrival: int | None = None) -> Quiet:
        """Hold the guard while no append is under way on *part*; ``...``: on any target.

        What is under way is cut. An append begins under the guard, so a look at
        the turns before the guard is held proves nothing: another one may have
        begun while this one waited for it.

        Args:
            reason: told to what is cut.
            part: the target; None: the upload itself.
            arrival: of the request that asks, at *part* (``...``: at the upload
                itself): what came after it is not cut but waited for. None:
                everything is cut.

        Raises:
            Refusal: `not_ready`, when it did not come to rest within `hold_s`.
        """
        return Quiet(self, reason, part, arrival)

    async def quiesce(self, reason: CutReason, part: str | EllipsisType | None, arrival: int | None) -> None:
        """Do what :meth:`quiet` begins with; the caller releases the guard."""
        asked_at = self.turns(None if part is ... else part)
        deadline = self.services.clock.monotonic() + self.services.options.hold_s
        while True:
            for turns in self._turns_of(part):
                place = arrival if arrival is not None and turns is asked_at else turns.arrive()
                if turns.open is not None:
                    left_s = deadline - self.services.clock.monotonic()
                    await turns.quiesce(place, reason, hold_s=left_s)
            if self.guard.locked():
                await self._hold_guard(deadline - self.services.clock.monotonic())
            else:
                await self.guard.acquire()
            if self.superseded:
                self.guard.release()
                raise Refusal(Code.NOT_READY, retry_after_s=1)
            if all(turns.open is None for turns in self._turns_of(part)):
                break
            self.guard.release()

    async def _hold_guard(self, within_s: float) -> None:
        """Acquire the guard, or refuse `not_ready`: who holds it may wait for a disk that hangs."""
        held: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def acquire() -> None:
            await self.guard.acquire()
            if held.done():
                self.guard.release()
            else:
                held.set_result(None)

        clock = self.services.clock
        _ = clock.spawn(acquire(), name=f"guard of {self.id}")
        in_time = False
        try:
            in_time = await clock.timeout(max(within_s, 0.0), held)
        finally:
            if not in_time and not held.cancel():
                self.guard.release()
        if not in_time:
            raise Refusal(Code.NOT_READY, retry_after_s=1)

    def _turns_of(self, part: str | EllipsisType | None) -> list[Turns]:
        return list(self._turns.values()) if part is ... else [self.turns(part)]

    async def rest(self) -> None:
        """Note the offsets durably: after this a restart loses nothing of them.

        For uploads that leave the memory, and at a stop; never under an append.
        """
        async with self.guard:
            await self.note_all()

    async def note_all(self) -> None:
        """Do what :meth:`rest` does, under the guard."""
        if self.superseded:
            return
        record = await self._noted()
        if record is not self.record:
            await self.write(record, sync=True)

    async def park(self) -> None:
        """Give the upload up, so that any peer can have it. Under the guard, with every append at rest."""
        if self.superseded:
            return
        if self.services.volume.shared:
            # Whose upload it is now may have deleted these bytes: that is no trouble of the disk.
            await self.look()
        record = await self._noted()
        changed = record is not self.record
        if not record.status.final:
            record = record.after(Event.PARK)
        await self.write(replace(record, owner=None), sync=changed or self.syncs_completion)
        # Whoever waited for it here finds it gone.
        self.superseded = self.parked = True
        if self._given_up is not None and not self._given_up.done():
            self._given_up.set_result(None)

    async def until_parked(self, within_s: float) -> None:
        """Return when it is parked or another tenure has begun, or after *within_s*."""
        if self.superseded:
            return
        if self._given_up is None:
            self._given_up = asyncio.get_running_loop().create_future()
        await self.services.clock.timeout(within_s, self._given_up)

    @contextlib.contextmanager
    def ends(self) -> Iterator[None]:
        """While this lasts the upload, or a part of it, is about to end, which may yet fail."""
        self._ends_open += 1
        try:
            yield
        finally:
            self._ends_open -= 1
            self.services.events.changed(self.id)

    async def until_ended(self, part: str | None, within_s: float) -> None:
        """Return when the upload, or *part* of it, has ended, or what should have ended it has failed."""
        clock = self.services.clock
        deadline = clock.monotonic() + within_s
        while self._ends_open and not self.record.status.final and self.record.target(part) is not None:
            left_s = deadline - clock.monotonic()
            if left_s <= 0:
                break
            watcher = self.services.events.watch(self.id)
            try:
                await clock.timeout(left_s, watcher)
            finally:
                self.services.events.unwatch(self.id, watcher)

    async def _noted(self) -> Record:
        """Return the record with the true offsets, which are durable then; the same one if it has them."""
        record = self.record
        if record.status is not Status.OPEN:
            return record
        for part, offset in self.offsets.items():
            content = record.target(part)
            if content is None or content.noted_offset == offset:
                continue
            await self.services.volume.sync_segments(record, content)
            noted = replace(content, noted_offset=offset, unverified_from=None)
            record = record.with_target(part, noted)
        return record


class Quiet:
    """An upload at rest, for ``async with``; see :meth:`OwnedUpload.quiet`."""

    __slots__ = ("_arrival", "_part", "_reason", "_upload")

    def __init__(
        self, upload: OwnedUpload, reason: CutReason, part: str | EllipsisType | None, arrival: int | None
    ) -> None:
        self._upload = upload
        self._reason = reason
        self._part = part
        self._arrival = arrival

    async def __aenter__(self) -> None:
        await self._upload.quiesce(self._reason, self._part, self._arrival)

    async def __aexit__(self, *_: object) -> None:
        self._upload.guard.release()


def segment_name(part: str | None, epoch: int) -> str:
    """Return the name of the segment that tenure *epoch* begins."""
    return f"bytes.{epoch}" if part is None else f"part-{part}.{epoch}"
