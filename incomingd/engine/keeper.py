"""The uploads that this instance owns and has in memory; finding, pulling, letting go."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import TYPE_CHECKING, Final, TypeVar

from incomingd.core import ids
from incomingd.core.errors import Code, Refusal
from incomingd.core.pacing import backoff_s
from incomingd.core.peering import Recall, Recalled
from incomingd.core.status import Status
from incomingd.core.tenure import same_run
from incomingd.engine import backfill, ending, reach
from incomingd.engine.events import Move, Told
from incomingd.engine.fights import Fights
from incomingd.engine.outcomes import LostBytesError, OwnedElsewhereError
from incomingd.engine.owned import OwnedUpload, Services
from incomingd.engine.owning import Owning
from incomingd.engine.pulling import acquire
from incomingd.log import events, get_logger
from incomingd.storage.body import CutReason
from incomingd.storage.volume import VolumeError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from incomingd.core.peering import Acted
    from incomingd.core.record import Record

T = TypeVar("T")

log = get_logger()

AGAIN_FIRST_S: Final = 0.5
AGAIN_MAX_S: Final = 30.0
"""Between two attempts to take up what this instance owns and cannot take up now."""
BACKFILL_WAITS_S: Final = 0.5
"""A copy begins so much later at most."""
HOLD_RETRY_S: Final = 0.25
"""Between two looks whether a held request can be answered."""
PASSING: Final = frozenset({Code.NOT_READY, Code.UPLOAD_OUT_OF_REACH})
_ELSEWHERE: Final = frozenset({Code.UPLOAD_UNKNOWN, Code.UPLOAD_OUT_OF_REACH})


class Keeper:
    """One for each engine.

    Memory holds what is in use and what was a short while ago; everything else
    is read, and pulled where it must be, when somebody asks for it.
    """

    def __init__(self, services: Services) -> None:
        self.services = services
        services.rewritten = lambda before, now: backfill.release_dropped(before, now, services)
        self._live: dict[str, OwnedUpload] = {}
        self._pulling: dict[str, asyncio.Future[OwnedUpload]] = {}
        self._fights = Fights()
        self._kept: set[str] = set()
        """Owned, but not in memory: complete, and their web apps have not taken them yet."""

    @property
    def moves_open(self) -> int:
        """How many uploads are being pulled just now."""
        return len(self._pulling)

    @property
    def backfills_open(self) -> int:
        """How many uploads have bytes elsewhere that are being copied here."""
        return sum(1 for each in self._live.values() if each.backfilling is not None and not each.backfilling.done())

    @property
    def at_rest(self) -> list[str]:
        """Ids of what is owned and not in memory, as far as this run knows."""
        return [upload_id for upload_id in self._kept if upload_id not in self._live]

    @property
    def live(self) -> list[OwnedUpload]:
        """The uploads in memory just now."""
        return list(self._live.values())

    def find(self, upload_id: str) -> OwnedUpload | None:
        """Return the upload, if it is in memory."""
        return self._live.get(upload_id)

    async def record_of(self, upload_id: str) -> Record:
        """Return the record as it stands, from memory where it is.

        Raises:
            Refusal: `upload_unknown`.
        """
        live = self._live.get(upload_id)
        return live.record if live is not None else await self.read(upload_id)

    async def read(self, upload_id: str) -> Record:
        """Return the record of an upload that lies on this instance's volume.

        Raises:
            Refusal: `upload_unknown`; `upload_out_of_reach`: it lies elsewhere.
        """
        record = await self.local(upload_id)
        if record is None:
            raise Refusal(Code.UPLOAD_OUT_OF_REACH, retry_after_s=1)
        return record

    async def local(self, upload_id: str) -> Record | None:
        """Return the record of an upload; None: it lies elsewhere, or did and nobody knows it.

        Raises:
            Refusal: `upload_unknown`.
        """
        volume = self.services.volume
        if not ids.is_upload_id(upload_id):
            raise Refusal(Code.UPLOAD_UNKNOWN)
        if not volume.shared and not reach.born_here(upload_id, self.services):
            raise Refusal(Code.UPLOAD_UNKNOWN)
        record = await volume.read(upload_id)
        if record is None and (not volume.shared or await self._unknown(upload_id)):
            raise Refusal(Code.UPLOAD_UNKNOWN)
        return record

    async def _unknown(self, upload_id: str) -> bool:
        """Whether the volume on which the upload would have been born, or its heir, says that it was not."""
        return reach.born_here(upload_id, self.services) and await self.services.volume.standing(upload_id) is None

    async def view(self, upload_id: str) -> Acted:
        """Return record and offset of an upload that lies elsewhere, from its owner.

        Raises:
            Refusal: `upload_unknown`, `upload_out_of_reach`, `not_ready`.
        """
        standing = await self.services.volume.standing(upload_id)
        return await reach.view(upload_id, standing, self.services)

    def using(self, upload_id: str) -> Owning:
        """Own an upload that takes bytes; any other is answered from its record."""
        # Where it is found elsewhere, whoever keeps it has yet to find out that it is complete.
        return Owning(self, upload_id, _takes_no_bytes, elsewhere=Code.NOT_READY)

    @contextlib.asynccontextmanager
    async def beginning(self, upload_id: str) -> AsyncIterator[OwnedUpload]:
        """Use an upload for a creation, which is held for up to `hold_s` while nobody reaches the upload.

        Its host may be back in a moment, and stock clients do not try for long.

        Raises:
            Refusal: `not_ready`: its bytes came while it was held. The client may have begun elsewhere meanwhile, and
                nobody reads this answer any more; whoever does begins anew by asking again.
        """
        clock = self.services.clock
        deadline = clock.monotonic() + self.services.options.hold_s
        upload, held = None, False
        async with contextlib.AsyncExitStack() as stack:
            while upload is None:
                try:
                    upload = await stack.enter_async_context(self.using(upload_id))
                except Refusal as refusal:
                    leaving = self.services.state.stopping or self.services.state.draining
                    if refusal.code not in PASSING or leaving or clock.monotonic() + HOLD_RETRY_S >= deadline:
                        raise
                    held = True
                    await clock.sleep(HOLD_RETRY_S)
            if held and upload.live_offset():
                raise Refusal(Code.NOT_READY, retry_after_s=0)
            yield upload

    def changing(self, upload_id: str) -> Owning:
        """Own an upload whose status can still change."""
        return Owning(self, upload_id, _is_final)

    def owning(self, upload_id: str) -> Owning:
        """Own an upload for what is done to it here, whatever its status."""
        return Owning(self, upload_id)

    async def hold(self, upload_id: str, shown: Callable[[Status], bool] | None) -> tuple[OwnedUpload, bool]:
        """Return an upload for what is done to it here, and whether it is owned, to be handed to :meth:`let_go` then.

        Args:
            upload_id: which.
            shown: of which status the record says all there is to be said: such an upload is not owned, only told.
        """
        if shown is not None and upload_id not in self._live:
            told = await self._told(shown, upload_id)
            if told is not None:
                return OwnedUpload(told, {None: told.content.length or 0}, self.services), False
        upload = self._live.get(upload_id) or await self._owned(upload_id)
        upload.busy += 1
        upload.touch()
        return upload, True

    def let_go(self, upload: OwnedUpload) -> None:
        """End what :meth:`hold` began."""
        upload.busy -= 1
        upload.touch()
        if upload.superseded and self._live.get(upload.id) is upload:
            if self.services.volume.shared:
                log.warning(events.UPLOAD_SUPERSEDED, upload_id=upload.id, epoch=upload.record.epoch)
            self._drop(upload)
            _ = self.services.clock.spawn(self._look_again(upload.id), name=f"look again at {upload.id}")

    async def _told(self, shown: Callable[[Status], bool], upload_id: str) -> Record | None:
        """Return the record if it says all there is to be said; None: the upload has to be owned."""
        record = await self.local(upload_id)
        if record is not None and shown(record.status):
            return record
        try:
            await self._owned(upload_id, found=record)
        except OwnedElsewhereError:
            # It lies elsewhere, or has come further since its record was read here.
            record = await self.local(upload_id) or (await self.view(upload_id)).record
            if not shown(record.status):
                raise
            return record
        return None

    async def _look_again(self, upload_id: str) -> None:
        """Take up what stands on the volume in place of what was in memory.

        It may be this instance's own act, of which the volume said that it had
        failed: then nobody has heard of it yet.
        """
        record = await self._insist(upload_id, lambda: self.read(upload_id))
        if record is None or not same_run(record.owner, self.services.identity):
            # Whoever superseded this instance looks after it.
            return
        if record.status.final:
            self.services.events.tell(Told.ENDED, record)
        elif record.status is Status.COMPLETE:
            self.services.events.tell(Told.COMPLETED, record)
        await self._insist(upload_id, lambda: self.resume(record))

    async def _insist(self, upload_id: str, work: Callable[[], Awaitable[T]]) -> T | None:
        """Return what *work* does, as often as it takes: nobody else looks after what this instance owns.

        None: it is not this instance's any more, or not now that it stops.
        """
        clock = self.services.clock
        for attempt in itertools.count(1):
            try:
                return await work()
            except OwnedElsewhereError:
                break
            except (Refusal, VolumeError) as error:
                log.warning(events.UPKEEP_DELAYED, upload_id=upload_id, detail=str(error))
                unknown = isinstance(error, Refusal) and error.code in _ELSEWHERE
                if unknown or self.services.state.stopping:
                    break
            await clock.sleep(backoff_s(attempt, first_s=AGAIN_FIRST_S, max_s=AGAIN_MAX_S, jitter=clock.jitter()))
        return None

    async def resume(self, record: Record) -> None:
        """Take up what was left undone of an upload found on the volume, unless a live instance looks after it."""
        if await self._looked_after(record):
            return
        if record.upload_id not in self._live:
            await self._resume_callbacks(record)
        if record.status.final or record.joined:
            # Deleting may have been cut short.
            keeps = not record.status.final or ending.keeps_file(record)
            await self.services.volume.drop_bytes(record, file_too=not keeps)

    async def go_on_copying(self, record: Record) -> None:
        """Own an open upload of which bytes lie elsewhere, unless a live instance does: who has them goes."""
        if backfill.left_bytes(record, self.services.volume.id) and not await self._looked_after(record):
            async with self.owning(record.upload_id):
                pass

    async def _looked_after(self, record: Record) -> bool:
        """Return whether another instance owns the upload, and seems to live."""
        owner, services = record.owner, self.services
        if owner is None or same_run(owner, services.identity) or not services.volume.shared:
            return False
        if any(same_run(each.identity, owner) for each in services.registry.instances):
            return True
        return not (await services.volume.gone(owner) or await services.registry.lapsed(owner))

    async def _resume_callbacks(self, record: Record) -> None:
        if record.status in (Status.COMPLETE, Status.HANDING_OVER) and not record.joined:
            async with self.owning(record.upload_id) as upload:
                ending.resume(upload, self.services)
        elif record.status in (Status.COMPLETE, Status.HANDING_OVER, Status.AWAITING_APP) or ending.pending(record):
            self.services.events.tell(Told.DUE, record)

    async def _owned(self, upload_id: str, *, leaving: bool = False, found: Record | None = None) -> OwnedUpload:
        """Return the upload, owned.

        Args:
            upload_id: which.
            leaving: also while this instance is being emptied.
            found: its record, where the caller has read that just now.
        """
        while True:
            live = self._live.get(upload_id)
            if live is not None:
                return live
            under_way = self._pulling.get(upload_id)
            if under_way is None:
                break
            await self.services.clock.timeout(self.services.options.hold_s, under_way)
            if not under_way.done():
                raise Refusal(Code.NOT_READY, retry_after_s=1)
            # Whoever pulled it has changed it.
            found = None
        under_way = asyncio.get_running_loop().create_future()
        self._pulling[upload_id] = under_way
        try:
            upload = await self._pull(upload_id, leaving=leaving, found=found)
            self._live[upload_id] = upload
            return upload
        finally:
            del self._pulling[upload_id]
            under_way.cancel()

    async def _pull(self, upload_id: str, *, leaving: bool, found: Record | None) -> OwnedUpload:
        record = found or await self.local(upload_id)
        try:
            upload = None
            if record is not None and same_run(record.owner, self.services.identity):
                # Evicted from memory earlier; the tenure may still be ours.
                upload = await self._reloaded(record)
            if upload is None:
                if not leaving:
                    await self._slow_down(upload_id)
                upload = await acquire(upload_id, self.services, leaving=leaving)
        except LostBytesError as lost:
            await ending.lose(lost.upload)
            log.error(events.UPLOAD_LOST, upload_id=upload_id)
            return lost.upload
        async with upload.guard:
            for part in (*dict(upload.record.parts), None):
                if ending.reached(upload, part):
                    await ending.complete_target(upload, part)
        # Whoever asked for it, the file must come to be and be handed over: the first pass leaves out what is in use
        # already, and others leave it to its owner.
        ending.resume(upload, self.services)
        backfill.start(upload, behind=self._moves_first)
        return upload

    async def _moves_first(self) -> None:
        """Return when no client waits here for its upload, at the latest after `BACKFILL_WAITS_S`.

        When a peer is emptied many come at once; for the bytes nobody waits yet.
        """
        clock = self.services.clock
        deadline = clock.monotonic() + BACKFILL_WAITS_S
        while self._pulling and clock.monotonic() < deadline:
            await clock.timeout(deadline - clock.monotonic(), next(iter(self._pulling.values())))

    async def _slow_down(self, upload_id: str) -> None:
        """Have a client wait whose upload is taken from it elsewhere, and by it from there, again and again."""
        delay_s = self._fights.owed_s(upload_id)
        if delay_s:
            log.warning(events.APPEND_PREEMPTED, upload_id=upload_id, part=None, offset=None, delay_s=delay_s)
            await self.services.clock.sleep(delay_s)

    async def _reloaded(self, record: Record) -> OwnedUpload | None:
        """Return the upload as this run's own tenure left it; None: another tenure has begun."""
        if not await self.services.volume.look(record.upload_id, record.epoch):
            return None
        offsets: dict[str | None, int] = {}
        upload = OwnedUpload(record, offsets, self.services)
        if record.status is Status.OPEN:
            offsets[None] = 0
            if record.final_of is None:
                offsets[None] = await self.services.volume.measure(record, record.content)
            for name, content in record.parts:
                offsets[name] = await self.services.volume.measure(record, content)
                if offsets[name] < content.noted_offset:
                    raise LostBytesError(upload)
            if offsets[None] < record.content.noted_offset:
                raise LostBytesError(upload)
        return upload

    async def release_idle(self) -> None:
        """Let the uploads out of memory that nobody asked for of late."""
        horizon = self.services.clock.monotonic() - self.services.options.idle_s
        for upload in self.live:
            if upload.used_at < horizon:
                await self.evict(upload)

    async def evict(self, upload: OwnedUpload) -> None:
        """Let one upload out of memory, unless it is in use."""
        if upload.in_use:
            return
        try:
            if self.services.volume.shared and upload.record.status is Status.OPEN:
                # Whoever gets its client next need not ask.
                async with upload.guard:
                    if not _still_in_use(upload):
                        await upload.park()
                        if upload.parked:
                            self.services.events.tell_move(Move.PARKED, "idle")
            else:
                await upload.rest()
        except VolumeError as error:
            # What is in memory is all that knows the true offset; keep it.
            self.services.health.failed(error)
            return
        except Refusal:
            # Another instance has it, or an act of this one is done of which the volume said that it had failed.
            assert upload.superseded, upload.id
        if _still_in_use(upload) and not upload.superseded:
            return
        self._drop(upload)
        if upload.superseded:
            _ = self.services.clock.spawn(self._look_again(upload.id), name=f"look again at {upload.id}")

    def _drop(self, upload: OwnedUpload) -> None:
        """Have the upload in memory no more."""
        if self._live.get(upload.id) is upload:
            del self._live[upload.id]
        status = upload.record.status
        if not (upload.superseded or status is Status.OPEN or status.final):
            self._kept.add(upload.id)
        else:
            self._kept.discard(upload.id)
        self.services.unpublish(upload)

    # -- giving up

    async def park(self, upload: OwnedUpload, reason: CutReason) -> None:
        """Give an upload up, so that any peer can have it; what is under way is cut.

        Raises:
            Refusal: `not_ready`: it did not come to rest, or another tenure has begun.
            VolumeError: it could not be recorded; it is still owned.
        """
        async with upload.quiet(reason):
            await upload.park()
        self._drop(upload)
        self.services.events.tell_move(Move.PARKED, reason.value)
        log.info(events.UPLOAD_PARKED, upload_id=upload.id, offset=upload.offsets.get(None, 0), reason=reason.value)
        complete = upload.record.status is not Status.OPEN
        if complete and reason is CutReason.PREEMPTED and not self.services.state.draining:
            # It was completed while it came to rest. Whoever asked for it may never come: then it is handed over here.
            taking_up = self._insist(upload.id, lambda: self.resume(upload.record))
            _ = self.services.clock.spawn(taking_up, name=f"take up {upload.id}")

    async def write_again(self) -> None:
        """Write the records of all uploads in memory once more: somebody has come who cannot read them as they are."""
        for upload in self.live:
            with contextlib.suppress(Refusal, VolumeError):
                async with upload.guard:
                    # Whoever was given up or superseded meanwhile is not written.
                    await upload.write(upload.record, sync=False)

    def disown(self, upload_id: str) -> None:
        """Forget that an upload at rest was owned: it is gone, or another instance has it."""
        self._kept.discard(upload_id)

    async def put_down(self, upload_id: str) -> None:
        """Park an upload, to give it away; what is under way is cut.

        Raises:
            Refusal, VolumeError: not now.
            OwnedElsewhereError: a live instance has it.
            LostBytesError: it has lost bytes.
        """
        upload = self._live.get(upload_id)
        if upload is None:
            record = await self.local(upload_id)
            if record is not None and same_run(record.owner, self.services.identity):
                upload = await self._reloaded(record)
            if upload is None:
                upload = await acquire(upload_id, self.services, leaving=True)
            self._live[upload_id] = upload
        if upload.record.joined:
            async with upload.guard:
                await ending.unjoin(upload)
        await self.park(upload, CutReason.PREEMPTED)

    async def recall(self, recall: Recall) -> Recalled:
        """Park an open upload because its client came to a peer.

        Raises:
            Refusal, VolumeError: not now.
        """
        upload_id = recall.upload_id
        under_way = self._pulling.get(upload_id)
        if under_way is not None:
            await self.services.clock.timeout(self.services.options.hold_s, under_way)
        upload = self._live.get(upload_id)
        if upload is None:
            record = await self.local(upload_id)
            if record is None:
                # It was given to this instance, which has not recorded it: it is taken now, or declared void.
                with contextlib.suppress(OwnedElsewhereError, LostBytesError):
                    await self._owned(upload_id, leaving=True)
                return Recalled.NOT_OWNER
            if not same_run(record.owner, self.services.identity) or record.epoch != recall.epoch:
                return Recalled.NOT_OWNER
            if record.status is not Status.OPEN:
                return Recalled.NOT_OPEN
            upload = await self._owned(upload_id)
        if upload.record.epoch != recall.epoch:
            # An old one: the upload has been here anew since.
            return Recalled.NOT_OWNER
        if upload.record.status is not Status.OPEN:
            return Recalled.NOT_OPEN
        if upload.appending:
            self._fights.cut(upload_id, self.services.clock.monotonic())
        try:
            await self.park(upload, CutReason.PREEMPTED)
        except Refusal:
            if not upload.superseded:
                raise
            self._drop(upload)
        return Recalled.PARKED if upload.parked else Recalled.NOT_OWNER


def _takes_no_bytes(status: Status) -> bool:
    return status is not Status.OPEN


def _is_final(status: Status) -> bool:
    return status.final


def _still_in_use(upload: OwnedUpload) -> bool:
    """Ask once more, after something was waited for."""
    return upload.in_use
