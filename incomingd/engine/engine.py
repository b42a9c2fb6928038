"""What listeners, the hand-over and the upkeep call: each call finds its upload and runs the rules on it."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from incomingd.core.errors import Code, Refusal
from incomingd.core.peering import Act, Acted, ActName
from incomingd.core.record import Record, Terms
from incomingd.core.status import Status
from incomingd.engine import appending, beginning, ending, opening
from incomingd.engine.events import Told
from incomingd.engine.giving import Giving
from incomingd.engine.inheriting import Inheriting
from incomingd.engine.keeper import HOLD_RETRY_S, Keeper
from incomingd.engine.outcomes import OwnedElsewhereError, refusing
from incomingd.engine.owned import OwnedUpload, Services
from incomingd.engine.owning import Owning
from incomingd.engine.remote_file import RemoteFile
from incomingd.engine.tickets import Tickets
from incomingd.log import events, get_logger
from incomingd.peers.calls import PeerError
from incomingd.registry.registry import RegistryUnavailableError
from incomingd.storage.body import CutReason
from incomingd.storage.volume import VolumeError
from incomingd.wire.backend import ChangeDocument, parse
from incomingd.wire.backend import changed as changed_record

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from incomingd.core.commands import Append, Creation, Resource
    from incomingd.core.peering import Recall, Recalled
    from incomingd.engine.appending import AppendReport
    from incomingd.storage.body import Body
    from incomingd.storage.volume import StoredFile

log = get_logger()
T = TypeVar("T")

PARKED_WITHIN_S = 1.0
"""A disk that takes longer to note the offset does not hold up who was cut."""
POLL_S = 1.0
"""How often an upload is looked at whose owner is another instance."""


@dataclass(frozen=True, slots=True)
class View:
    """An upload as it stands, told without owning it."""

    record: Record
    offset: int
    """Bytes that are in, those of an open append too."""


class Engine:
    """One for each process."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.state = services.state
        self.keeper = Keeper(services)
        self.giving = Giving(self.keeper)
        self.inheriting = Inheriting(self.keeper)
        self._tickets = Tickets(self.keeper, self.forget)

    @property
    def live(self) -> list[OwnedUpload]:
        """The uploads in memory just now."""
        return self.keeper.live

    # -- tickets

    async def create(
        self, terms: Terms, *, expires_in_s: float | None = None, key: str | None = None
    ) -> tuple[Record, bool]:
        """Make a ticket; see :meth:`incomingd.engine.tickets.Tickets.create`."""
        async with refusing():
            return await self._tickets.create(terms, expires_in_s=expires_in_s, key=key)

    async def change(self, upload_id: str, change: ChangeDocument) -> View:
        """Change the terms of an upload that has not ended, as its web app wants.

        Args:
            upload_id: whose.
            change: already checked against what is configured.
        """

        async def here() -> View:
            async with refusing(), self.keeper.changing(upload_id) as upload:
                async with upload.guard:
                    if upload.record.status.final:
                        raise Refusal(Code.TOO_LATE, f"The upload is {upload.record.status.value}.")
                    await upload.look()
                    offset, now = upload.live_offset(), self.services.clock.now()
                    changed = changed_record(upload.record, change, offset=offset, now=now)
                    await upload.write(changed, sync=upload.syncs_completion)
                self.services.events.tell(Told.CHANGED, upload.record)
                return View(upload.record, upload.live_offset())

        wanted = change.model_dump(mode="json", include=change.model_fields_set)
        return await self._at_owner(Act(upload_id, ActName.CHANGE, wanted), here)

    async def _at_owner(self, act: Act, here: Callable[[], Awaitable[View]]) -> View:
        """Do it here, or have it done by the live instance that owns the upload and keeps it."""
        try:
            return await here()
        except OwnedElsewhereError as elsewhere:
            try:
                acted = await self.services.peers.act(elsewhere.owner, act)
            except PeerError as error:
                log.warning(events.UPKEEP_DELAYED, upload_id=act.upload_id, detail=str(error))
                raise Refusal(Code.NOT_READY, retry_after_s=1) from error
            return View(acted.record, acted.offset)

    async def act(self, act: Act) -> Acted:
        """Do what arrived at a peer for an upload that is owned here.

        Raises:
            Refusal: as the call itself; `field_invalid`: the peer's message makes no sense.
        """
        view = await self._act(act)
        return Acted(view.record, view.offset)

    async def _act(self, act: Act) -> View:
        upload_id, arguments = act.upload_id, act.arguments
        if act.name is ActName.VIEW:
            if self.keeper.find(upload_id) is None:
                async with refusing():
                    # Else two instances that take each other for the owner would ask each other for ever.
                    await self.keeper.read(upload_id)
            return await self.view(upload_id)
        if act.name is ActName.CHANGE:
            return await self.change(upload_id, parse(ChangeDocument, arguments))
        if act.name is ActName.CANCEL:
            return await self.cancel(upload_id, str(arguments.get("reason", "")))
        if act.name is ActName.REDELIVER:
            return await self.redeliver(upload_id)
        if act.name is ActName.TERMINATE:
            await self.terminate(upload_id, None)
            return await self.view(upload_id)
        message = arguments.get("message")
        return await self.confirm(
            upload_id,
            done=arguments.get("done") is True,
            message=message if isinstance(message, str) else None,
            client_data=arguments.get("client_data"),
        )

    # -- looking

    async def view(self, upload_id: str) -> View:
        """Return the upload as it stands; never pulls, never pre-empts.

        Raises:
            Refusal: `upload_unknown`.
        """
        live = self.keeper.find(upload_id)
        if live is not None:
            return View(live.record, _offset_for_people(live.record, live.live_offset()))
        async with refusing():
            record = await self.keeper.local(upload_id)
            if record is None:
                acted = await self.keeper.view(upload_id)
                return View(acted.record, acted.offset)
            if record.status is not Status.OPEN:
                return View(record, _offset_for_people(record, 0))
            if record.final_of is not None:
                return View(record, 0)
            return View(record, await self.services.volume.measure(record, record.content))

    async def open_file(self, record: Record) -> StoredFile | None:
        """Open the joined file of an upload, wherever it lies; None: it was moved away or deleted."""
        services = self.services
        async with refusing():
            file = await services.volume.open_file(record)
            elsewhere = file is None and services.volume.shared and record.joined and record.owner is not None
            if elsewhere and await self.keeper.local(record.upload_id) is None:
                assert record.owner is not None, record
                return RemoteFile(record, record.owner, services.peers)
            return file

    async def read_file(self, upload_id: str, start: int, size: int) -> bytes:
        """Return bytes of the joined file of an upload that lies here, for a peer."""
        record = await self.keeper.read(upload_id)
        file = await self.services.volume.open_file(record)
        if file is None:
            return b""
        try:
            return await file.read(start, size)
        finally:
            await file.close()

    async def wait(self, upload_id: str, wait_s: float, stand: Callable[[View], object]) -> View:
        """Return the upload when *stand* of it has changed, or after *wait_s*."""
        clock = self.services.clock
        deadline = clock.monotonic() + wait_s
        watcher = self.services.events.watch(upload_id)
        try:
            view = await self.view(upload_id)
            before = stand(view)
            while stand(view) == before and not self.state.stopping:
                left_s = deadline - clock.monotonic()
                if left_s <= 0:
                    break
                # Nobody tells here what happens at another instance.
                elsewhere = self.services.volume.shared and self.keeper.find(upload_id) is None
                await clock.timeout(min(left_s, POLL_S) if elsewhere else left_s, watcher)
                self.services.events.unwatch(upload_id, watcher)
                watcher = self.services.events.watch(upload_id)
                view = await self.view(upload_id)
            return view
        finally:
            self.services.events.unwatch(upload_id, watcher)

    # -- the upload resource

    async def head(self, upload_id: str, part: str | None) -> Resource:
        """Return the resume point: durable, and usable by the next append.

        Held until it can be told truly; `not_ready` after `hold_s` in vain.
        """
        clock = self.services.clock
        deadline = clock.monotonic() + self.services.options.hold_s
        while True:
            left_s = deadline - clock.monotonic()
            try:
                return await self._within(left_s, self._head(upload_id, part))
            except Refusal as refusal:
                transient = refusal.code in (
                    Code.NOT_READY,
                    Code.UPLOAD_OUT_OF_REACH,
                    Code.STORAGE_FULL,
                    Code.STORAGE_UNAVAILABLE,
                )
                if not transient:
                    raise
                leaving = self.state.stopping or self.state.draining
                if clock.monotonic() + HOLD_RETRY_S >= deadline or leaving:
                    raise Refusal(Code.NOT_READY, refusal.detail, retry_after_s=1) from refusal
            await clock.sleep(HOLD_RETRY_S)

    async def _head(self, upload_id: str, part: str | None) -> Resource:
        async with refusing(), self.keeper.using(upload_id) as upload:
            if upload.record.status is not Status.OPEN:
                upload.refuse_if_gone()
                return upload.resource(part)
            if upload.record.terms.open_creation and upload.record.final_of is not None:
                await opening.try_to_complete(self.keeper, upload)
            upload.target(part)
            # A client that was cut asks where to go on: so two tabs fight, too.
            await upload.turns(part).slow_down()
            arrival = upload.turns(part).arrive()
            async with upload.quiet(CutReason.PREEMPTED, part=part, arrival=arrival):
                upload.refuse_if_gone()
                if ending.reached(upload, part):
                    await ending.complete_target(upload, part)
                else:
                    await upload.note(part)
                await upload.look()
                return upload.resource(part)

    async def _within(self, duration_s: float, work: Coroutine[Any, Any, T]) -> T:
        """Return what *work* returns, or refuse `not_ready`; it goes on meanwhile."""
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        async def run() -> None:
            try:
                result = await work
            except Refusal as refusal:
                if not done.done():
                    done.set_exception(refusal)
            except Exception as error:
                if done.done():
                    raise
                done.set_exception(error)
            else:
                if not done.done():
                    done.set_result(result)

        _ = self.services.clock.spawn(run(), name="held request")
        if not await self.services.clock.timeout(max(duration_s, 0.0), done):
            done.cancel()
            raise Refusal(Code.NOT_READY, retry_after_s=1)
        return done.result()

    async def begin(self, upload_id: str, wanted: Creation, body: Body | None, report: AppendReport) -> Resource:
        """Begin an upload at its ticket, with the bytes that came along, if any."""
        self._refuse_while_stopping()
        async with refusing(), self.keeper.beginning(upload_id) as upload:
            if wanted.final_of is not None:
                return await beginning.begin_final(upload, wanted)
            if wanted.partial:
                resource = await beginning.begin_part(upload, wanted)
            else:
                before = upload.live_offset()
                resource = await beginning.begin(upload, wanted)
                if before and upload.record.status is Status.OPEN:
                    log.info(events.UPLOAD_BEGUN_ANEW, upload_id=upload_id, offset=before)
            count = upload.record.beginnings
            if wanted.body is None or body is None:
                return resource
            if upload.record.status is not Status.OPEN:
                # The repeated creation of a complete upload: its bytes are there.
                return resource
            return await self._append(
                upload, resource.part, wanted.body, body, report, beginning=None if wanted.partial else count
            )

    async def begin_openly(self, terms: Terms, wanted: Creation, body: Body | None, report: AppendReport) -> Resource:
        """Begin an upload without a ticket, where that is offered."""
        self._refuse_while_stopping()
        async with refusing():
            record = await self._tickets.create_now(terms)
        try:
            return await self.begin(record.upload_id, replace(wanted, partial=False), body, report)
        except Refusal:
            # A refused creation leaves nothing behind. One whose bytes were cut
            # has begun, and its client knows nothing of it: it expires.
            live = self.keeper.find(record.upload_id)
            if live is not None and live.record.beginnings == 0:
                async with refusing():
                    await self.forget(record)
            raise

    async def begin_openly_of(self, terms: Terms, wanted: Creation, parts: tuple[str, ...]) -> Resource:
        """Begin an upload without a ticket that is made of partial uploads."""
        self._refuse_while_stopping()
        async with refusing():
            record = await self._tickets.create_now(terms)
            try:
                async with self.keeper.owning(record.upload_id) as upload:
                    return await opening.begin_final(self.keeper, upload, wanted, parts)
            except Refusal:
                await self.forget(record)
                raise

    async def append(
        self,
        upload_id: str,
        part: str | None,
        wanted: Append,
        body: Body,
        report: AppendReport,
    ) -> Resource:
        """Append the bytes of one request."""
        self._refuse_while_stopping()
        async with refusing(), self.keeper.using(upload_id) as upload:
            resource = await self._append(upload, part, wanted, body, report)
            finals = upload.record.wanted_by
        await self._try_finals(finals)
        return resource

    async def _append(
        self,
        upload: OwnedUpload,
        part: str | None,
        wanted: Append,
        body: Body,
        report: AppendReport,
        *,
        beginning: int | None = None,
    ) -> Resource:
        try:
            return await appending.append(upload, part, wanted, body, report, beginning=beginning)
        except Refusal as refusal:
            if refusal.code is Code.STOPPING and self.state.draining:
                # Whom a drain cuts hears of it when the upload is parked, since a peer is asked at once: it would have
                # to recall what it finds owned.
                await upload.until_parked(PARKED_WITHIN_S)
            raise

    async def _try_finals(self, finals: tuple[str, ...]) -> None:
        """Complete the final uploads that may have waited for this."""
        for final in finals:
            async with refusing():
                try:
                    async with self.keeper.owning(final) as upload:
                        await opening.try_to_complete(self.keeper, upload)
                except Refusal as refusal:
                    # It is tried again when somebody asks for it.
                    log.info(events.UPKEEP_DELAYED, upload_id=final, detail=str(refusal))

    async def terminate(self, upload_id: str, part: str | None) -> None:
        """End an upload because its client does not want it any more."""

        async def here() -> View:
            await self._terminate(upload_id, part)
            return await self.view(upload_id)

        await self._at_owner(Act(upload_id, ActName.TERMINATE), here)

    async def _terminate(self, upload_id: str, part: str | None) -> None:
        async with refusing(), self.keeper.changing(upload_id) as upload:
            upload.refuse_if_gone()
            upload.target(part)
            if part is not None:
                await beginning.drop_part(upload, part)
                return
            if not upload.record.terms.client_cancel:
                raise Refusal(Code.CLIENT_CANCEL_REFUSED)
            if upload.record.status is Status.FINISHED:
                await self._let_go(upload_id)
                return
            await ending.cancel(upload, reason="", by_client=True)
            log.info(events.UPLOAD_CANCELLED, upload_id=upload_id, reason="client")

    async def _let_go(self, upload_id: str) -> None:
        async with self.keeper.owning(upload_id) as upload, upload.guard:
            await upload.write(replace(upload.record, let_go=True), sync=upload.syncs_completion)

    # -- the web app

    async def cancel(self, upload_id: str, reason: str) -> View:
        """End an upload because the web app does not want it any more."""

        async def here() -> View:
            async with refusing(), self.keeper.changing(upload_id) as upload:
                await ending.cancel(upload, reason=reason, by_client=False)
                log.info(events.UPLOAD_CANCELLED, upload_id=upload_id, reason="web app")
                return View(upload.record, 0)

        return await self._at_owner(Act(upload_id, ActName.CANCEL, {"reason": reason}), here)

    async def confirm(self, upload_id: str, *, done: bool, message: str | None, client_data: object) -> View:
        """Hear from the web app what it promised with ``wait``.

        An app may confirm before this side has read its ``wait``: then the
        confirmation is held until the callback has ended.
        """
        arguments = {"done": done, "message": message, "client_data": client_data}
        return await self._at_owner(
            Act(upload_id, ActName.CONFIRM, arguments),
            lambda: self._confirm(upload_id, done=done, message=message, client_data=client_data),
        )

    async def _confirm(self, upload_id: str, *, done: bool, message: str | None, client_data: object) -> View:
        clock = self.services.clock
        deadline = clock.monotonic() + self.services.options.hold_s
        watcher = self.services.events.watch(upload_id)
        try:
            while True:
                view = await self.view(upload_id)
                left_s = deadline - clock.monotonic()
                elsewhere = self.keeper.find(upload_id) is None
                if view.record.status is not Status.HANDING_OVER or left_s <= 0 or elsewhere:
                    break
                await clock.timeout(left_s, watcher)
                self.services.events.unwatch(upload_id, watcher)
                watcher = self.services.events.watch(upload_id)
        finally:
            self.services.events.unwatch(upload_id, watcher)
        async with refusing(), self.keeper.changing(upload_id) as upload:
            if _confirmed(upload.record, done=done):
                # Its answer was lost; it says the same again.
                return View(upload.record, upload.record.content.length or 0)
            if upload.record.status is not Status.AWAITING_APP:
                raise Refusal(Code.NOT_WAITING, f"The upload is {upload.record.status.value}.")
            if done:
                await ending.app_done(upload, message=message, client_data=client_data)
            else:
                await ending.app_refused(upload, message=message, client_data=client_data)
            return View(upload.record, upload.record.content.length or 0)

    async def redeliver(self, upload_id: str) -> View:
        """Make the callback again."""

        async def here() -> View:
            async with refusing(), self.keeper.owning(upload_id) as upload:
                await ending.redeliver(upload)
                return View(upload.record, upload.record.content.length or 0)

        return await self._at_owner(Act(upload_id, ActName.REDELIVER), here)

    # -- the hand-over, the upkeep

    def owning(self, upload_id: str) -> Owning:
        """Own an upload for what is done to it here, whatever its status."""
        return self.keeper.owning(upload_id)

    async def resume(self, record: Record) -> None:
        """Take up what a former run, or an instance that is gone, left undone of an upload found on the volume."""
        # A live instance that keeps it looks after it.
        with contextlib.suppress(OwnedElsewhereError):
            await self.keeper.resume(record)

    async def expire(self, upload_id: str) -> bool:
        """End an upload whose time is over; return whether it was."""
        try:
            async with self.keeper.owning(upload_id) as upload:
                expired = await ending.expire(upload)
        except OwnedElsewhereError:
            return False
        if expired:
            log.info(events.UPLOAD_EXPIRED, upload_id=upload_id, offset=upload.offsets.get(None, 0))
            # Thousands may expire at once: none stays in memory.
            await self.keeper.evict(upload)
        return expired

    async def forget(self, record: Record) -> None:
        """Delete the record of an upload that ended long ago."""
        live = self.keeper.find(record.upload_id)
        if live is not None:
            await self.keeper.evict(live)
        if record.status is not Status.FINISHED or not ending.keeps_file(record):
            # Kept till now, or left behind when deleting it was cut short.
            await self.services.volume.drop_bytes(record, file_too=True)
        await self.services.volume.remove(record.upload_id)
        self.services.events.tell(Told.FORGOTTEN, record)

    async def recall(self, recall: Recall) -> Recalled:
        """Park an open upload because its client came to a peer."""
        async with refusing():
            return await self.keeper.recall(recall)

    async def take_invited(self) -> None:
        """Pull what peers ask this instance to look after; open uploads only where bytes have to leave."""
        try:
            invitations = await self.services.registry.invitations()
        except RegistryUnavailableError:
            # They are parked: their guardians find them.
            return
        for invitation in invitations:
            if self.state.draining or self.state.stopping:
                return
            try:
                await self._take_invited(invitation.upload_id)
            except (Refusal, VolumeError, OwnedElsewhereError) as error:
                log.warning(events.UPKEEP_DELAYED, upload_id=invitation.upload_id, detail=str(error))

    async def _take_invited(self, upload_id: str) -> None:
        record = await self.keeper.local(upload_id)
        if record is None:
            # On a volume that only the one who invites reaches: its bytes have to leave.
            async with refusing(), self.keeper.owning(upload_id) as upload:
                record = upload.record
            await self.resume(record)
        elif record.status is Status.OPEN:
            await self.keeper.go_on_copying(record)
        elif record.owner is None:
            await self.resume(record)

    async def release_idle(self) -> None:
        """Let the uploads out of memory that nobody asked for of late."""
        await self.keeper.release_idle()

    async def stop(self) -> None:
        """Cut every append and note where it stands; nothing starts any more."""
        self.state.stop()
        for upload in self.live:
            self.services.events.changed(upload.id)
        results = await asyncio.gather(*(self._put_down(upload) for upload in self.live), return_exceptions=True)
        for result in results:
            if isinstance(result, VolumeError):
                self.services.health.failed(result)
            elif isinstance(result, Refusal):
                log.warning(events.UPKEEP_DELAYED, detail=str(result))
            elif isinstance(result, BaseException):
                raise result

    async def _put_down(self, upload: OwnedUpload) -> None:
        async with upload.quiet(CutReason.STOPPING):
            await upload.note_all()

    def _refuse_while_stopping(self) -> None:
        if self.state.stopping or self.state.draining:
            raise Refusal(Code.STOPPING, retry_after_s=0)


def _confirmed(record: Record, *, done: bool) -> bool:
    """Whether the web app has said just this before."""
    if done:
        return record.status is Status.FINISHED
    return record.status is Status.FAILED and record.failure is not None and record.failure.code == ending.REFUSED


def _offset_for_people(record: Record, live: int) -> int:
    if record.status.whole:
        return record.content.length or 0
    return live
