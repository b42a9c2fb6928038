"""How an upload completes, is joined, is handed over, and ends.

Completion and every end begin with a claim: they cannot be taken back, so they
must not rest on a look (DESIGN: an act that cannot be repeated needs a claim).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from incomingd.core.content import Content, Range, concatenated
from incomingd.core.errors import Code, Refusal
from incomingd.core.pacing import backoff_s
from incomingd.core.record import Delivery, Failure, Handover, Record
from incomingd.core.status import Event, Status, legal
from incomingd.core.tenure import ClaimKind
from incomingd.engine import backfill, digesting
from incomingd.engine.events import Told
from incomingd.engine.owned import segment_name
from incomingd.storage.body import CutReason
from incomingd.storage.volume import VolumeError

if TYPE_CHECKING:
    from incomingd.engine.owned import OwnedUpload, Services

CONFIRM_TIMEOUT = "confirm_timeout"
"""An app that has crashed has not refused: its file stays as long as the record does."""
REFUSED = "refused"
JOIN_RETRY_FIRST_S = 1.0
JOIN_RETRY_MAX_S = 60.0


# -- completion


def reached(upload: OwnedUpload, part: str | None) -> bool:
    """Whether all bytes are in and nobody has drawn the consequence yet."""
    record = upload.record
    if record.status is not Status.OPEN:
        return False
    if part is None and record.final_of is not None:
        # Under open creation the parts are uploads of their own (`opening`).
        return not record.terms.open_creation and all(_part_done(record.target(name)) for name in record.final_of)
    content = upload.target(part)
    if part is None and content.concat == "partial":
        return False
    # Only a beginning that told the length, or a ticket that has it, makes the
    # offset an end. An upload of unknown length never ends by itself.
    length = content.length if content.length is not None else _exact_length(upload, part)
    if length is None or not (content.growing or content.map or length == 0):
        return False
    if part is None and record.beginnings == 0 and length == 0:
        return False
    return upload.offsets.get(part, 0) == length and (part is None or not _part_done(content))


def _exact_length(upload: OwnedUpload, part: str | None) -> int | None:
    if part is not None or upload.target(None).length_deferred:
        return None
    return upload.record.terms.length


def _part_done(content: Content | None) -> bool:
    return content is not None and content.closed


async def complete_target(upload: OwnedUpload, part: str | None) -> None:
    """Complete the upload, or close a part that has all its bytes."""
    if part is not None:
        await _close_part(upload, part)
        return
    record = upload.record
    if record.final_of is not None:
        content = replace(
            concatenated(tuple(upload.target(name) for name in record.final_of)),
            metadata=record.content.metadata,
            concat=record.content.concat,
        )
    else:
        length = upload.offsets[None]
        content = replace(record.content.cut_at(length), length=length, length_deferred=False)
    await complete_with(upload, content)


async def complete_with(upload: OwnedUpload, content: Content) -> None:
    """Claim the completion, with the map that it rests on. Under the guard."""
    if upload.syncs_completion:
        await upload.services.volume.sync_segments(upload.record, _of_bytes(content))
    claimed = await upload.claim(ClaimKind.COMPLETE)
    services = upload.services
    await upload.write(
        claimed.after(
            Event.COMPLETED,
            content=content,
            completed_at=services.clock.now(),
            handover=Handover(
                delivery=Delivery("upload.complete", webhook_id=f"msg_{services.new_token()}"),
                download_token=services.new_token(),
            ),
        ),
        sync=upload.syncs_completion,
    )
    upload.offsets[None] = content.length or 0
    services.events.tell(Told.COMPLETED, upload.record)
    start_joining(upload)


def _of_bytes(content: Content) -> Content:
    """Leave out ranges without a byte: their segments may never have been made."""
    return Content(map=content.map if content.length else (), noted_offset=content.noted_offset)


async def _close_part(upload: OwnedUpload, part: str) -> None:
    content = upload.target(part)
    closed = replace(content.cut_at(upload.offsets[part]))
    if upload.syncs_completion:
        await upload.services.volume.sync_segments(upload.record, _of_bytes(closed))
    await upload.write(upload.record.with_target(part, closed), sync=upload.syncs_completion)
    if upload.record.final_of is not None and reached(upload, None):
        await complete_target(upload, None)


# -- joining


async def unjoin(upload: OwnedUpload) -> None:
    """Make a segment of the joined file, so that another volume can copy it. Under the guard."""
    record = upload.record
    length = record.content.length or 0
    segment = f"{segment_name(None, record.epoch)}-whole"
    await upload.services.volume.unjoin(record, segment)
    whole = Range(segment, upload.services.volume.id, 0, length)
    content = replace(record.content, map=(whole,) if length else ())
    await upload.write(replace(record, content=content, joined=False), sync=True)
    await upload.services.volume.drop_file(upload.id)


def start_joining(upload: OwnedUpload) -> None:
    """Make the complete file in the background, until it stands or the upload ends."""
    if upload.joining is None or upload.joining.done():
        upload.busy += 1
        upload.joining = upload.services.clock.spawn(_join(upload), name=f"join {upload.id}")


async def _join(upload: OwnedUpload) -> None:
    services = upload.services
    attempt = 0
    try:
        while upload.record.status is Status.COMPLETE and not upload.record.joined:
            attempt += 1
            try:
                await backfill.finished(upload)
                if not _is_complete(upload):
                    break
                digest = await digesting.finished(upload)
                if not _is_complete(upload):
                    break
                await services.volume.join(upload.record)
                async with upload.guard:
                    if not _is_complete(upload):
                        break
                    await upload.write(replace(upload.record, joined=True, digest=digest), sync=upload.syncs_completion)
                await _drop_bytes(upload, file_too=False)
            except Refusal:
                # Whoever owns it now makes the same file.
                break
            except VolumeError as error:
                services.report_join_failure(upload.record, error)
                await services.clock.sleep(
                    backoff_s(
                        attempt,
                        first_s=JOIN_RETRY_FIRST_S,
                        max_s=JOIN_RETRY_MAX_S,
                        jitter=services.clock.jitter(),
                    )
                )
        if upload.superseded:
            return
        if upload.record.joined:
            services.events.tell(Told.WHOLE, upload.record)
        elif upload.record.status.gone:
            # Cancelled under the join, which may have left its file behind.
            await _drop_bytes(upload, file_too=True)
    finally:
        upload.busy -= 1


async def _drop_bytes(upload: OwnedUpload, *, file_too: bool) -> None:
    """Delete bytes that nobody needs any more; what cannot be deleted now is later."""
    try:
        await upload.services.volume.drop_bytes(upload.record, file_too=file_too)
    except VolumeError as error:
        upload.services.report_drop_failure(upload.record, error)


def keeps_file(record: Record) -> bool:
    """Whether an ended upload leaves its file, as the web app asked or because it never said what became of it."""
    if record.status is Status.FAILED:
        return record.failure is not None and record.failure.code == CONFIRM_TIMEOUT
    return record.status is Status.FINISHED and record.terms.after_handover == "keep"


def _is_complete(upload: OwnedUpload) -> bool:
    return upload.record.status is Status.COMPLETE and not upload.superseded


# -- ends


async def end(
    upload: OwnedUpload,
    event: Event,
    *,
    failure: Failure | None = None,
    notify: str | None = None,
    handover: Handover | None = None,
) -> None:
    """Claim the end, record it, and only then delete. Under the guard.

    Args:
        upload: at rest.
        event: legal in its status.
        failure: why, where it is no success.
        notify: type of the callback that tells the web app.
        handover: what the hand-over has come to.
    """
    services = upload.services
    claimed = await upload.claim(ClaimKind.ENDED)
    notifications = claimed.notifications
    if notify is not None and claimed.terms.finish_url:
        notifications = (
            *notifications,
            Delivery(notify, webhook_id=f"msg_{services.new_token()}"),
        )
    ended = claimed.after(
        event,
        ended_at=services.clock.now(),
        failure=failure,
        notifications=notifications,
        handover=handover if handover is not None else claimed.handover,
    )
    await upload.write(ended, sync=upload.syncs_completion)
    services.events.tell(Told.ENDED, upload.record)
    if notifications:
        services.events.tell(Told.DUE, upload.record)
    # The end stands, whatever becomes of the bytes.
    await _drop_bytes(upload, file_too=not keeps_file(upload.record))


async def cancel(upload: OwnedUpload, *, reason: str, by_client: bool) -> None:
    """Cancel: cut what is under way, end, delete. Repeats are harmless.

    Raises:
        Refusal: `handing_over` or `too_late`.
    """
    with upload.ends():
        await _cancel(upload, reason=reason, by_client=by_client)


async def _cancel(upload: OwnedUpload, *, reason: str, by_client: bool) -> None:
    async with upload.quiet(CutReason.ENDED):
        record = upload.record
        if record.status is Status.CANCELLED:
            return
        if not legal(record.status, Event.CANCEL):
            if record.status.final:
                raise Refusal(Code.TOO_LATE, f"The upload is {record.status.value}.")
            raise Refusal(Code.HANDING_OVER, retry_after_s=5)
        failure = Failure(
            Code.UPLOAD_CANCELLED.value,
            reason or f"Cancelled by the {'client' if by_client else 'web app'}.",
        )
        await end(upload, Event.CANCEL, failure=failure, notify="upload.cancelled")


async def expire(upload: OwnedUpload) -> bool:
    """End an upload whose time is over; return whether it was.

    The deadline is looked at again when everything is at rest: the web app may
    have moved it meanwhile.
    """
    services = upload.services
    if upload.record.expires_at > services.clock.now():
        return False
    async with upload.quiet(CutReason.EXPIRING):
        record = upload.record
        if record.status is not Status.OPEN or record.expires_at > services.clock.now():
            return False
        deferred = record.length is None and upload.offsets.get(None, 0) > 0
        failure = Failure(
            "length_unknown" if deferred else Code.UPLOAD_EXPIRED.value,
            "The client never told the upload's length." if deferred else "The upload was not complete in time.",
        )
        await end(upload, Event.EXPIRE, failure=failure, notify="upload.expired")
        return True


async def lose(upload: OwnedUpload) -> None:
    """End an upload of which the volume has lost bytes."""
    async with upload.guard:
        failure = Failure(Code.UPLOAD_LOST.value, "The volume has fewer bytes than were acknowledged.")
        await end(upload, Event.BYTES_LOST, failure=failure, notify="upload.lost")


# -- the hand-over, as its caller reports it


async def handover_started(upload: OwnedUpload) -> bool:
    """An attempt begins; return False where there is nothing to hand over (any more)."""
    async with upload.guard:
        record = upload.record
        delivery = record.handover.delivery
        if record.status is not Status.COMPLETE or not record.joined or delivery is None:
            return False
        now = upload.services.clock.now()
        delivery = replace(
            delivery,
            attempts=delivery.attempts + 1,
            first_attempt_at=delivery.first_attempt_at or now,
            next_attempt_at=None,
        )
        started = record.after(Event.HANDOVER_STARTED, handover=replace(record.handover, delivery=delivery))
        await upload.write(started, sync=False)
        return True


async def app_done(upload: OwnedUpload, *, message: str | None, client_data: object) -> None:
    """The web app has the file."""
    async with upload.guard:
        record = upload.record
        if not legal(record.status, Event.APP_DONE):
            raise Refusal(Code.NOT_WAITING, f"The upload is {record.status.value}.")
        await end(
            upload,
            Event.APP_DONE,
            handover=_settled(record, message=message, client_data=client_data),
        )


async def app_refused(
    upload: OwnedUpload, *, message: str | None, client_data: object, by_deadline: bool = False
) -> None:
    """The web app does not want the file, or has not confirmed it in time."""
    async with upload.guard:
        record = upload.record
        event = Event.EXPIRE if by_deadline else Event.APP_REFUSED
        if not legal(record.status, event):
            raise Refusal(Code.NOT_WAITING, f"The upload is {record.status.value}.")
        text = message or "The web app refused the file."
        await end(
            upload,
            event,
            failure=Failure(CONFIRM_TIMEOUT if by_deadline else REFUSED, text),
            # The app need not be told what it has just said.
            notify="upload.failed" if by_deadline else None,
            handover=_settled(record, message=message, client_data=client_data),
        )


def _settled(record: Record, *, message: str | None, client_data: object) -> Handover:
    delivery = record.handover.delivery
    return replace(
        record.handover,
        delivery=replace(delivery, delivered=True, last_error=None) if delivery else None,
        download_token=None,
        wait_deadline=None,
        message=message,
        client_data=client_data,
    )


async def app_waits(upload: OwnedUpload, *, deadline: float, message: str | None, client_data: object) -> None:
    """The web app has heard, and will confirm later."""
    async with upload.guard:
        record = upload.record
        if record.status is not Status.HANDING_OVER:
            return
        delivery = record.handover.delivery
        waiting = record.after(
            Event.APP_WAITS,
            handover=replace(
                record.handover,
                delivery=replace(delivery, delivered=True, last_error=None) if delivery else None,
                wait_deadline=deadline,
                message=message,
                client_data=client_data,
            ),
        )
        await upload.write(waiting, sync=upload.syncs_completion)


async def handover_failed(upload: OwnedUpload, *, error: str | None, next_attempt_at: float | None) -> None:
    """An attempt failed; the file stays. None for the next: attempts have ended."""
    async with upload.guard:
        record = upload.record
        delivery = record.handover.delivery
        if record.status is not Status.HANDING_OVER or delivery is None:
            return
        failed = record.after(
            Event.APP_UNREACHABLE,
            handover=replace(
                record.handover,
                delivery=replace(
                    delivery,
                    last_error=error,
                    next_attempt_at=next_attempt_at,
                    given_up=next_attempt_at is None,
                ),
            ),
        )
        await upload.write(failed, sync=False)


async def redeliver(upload: OwnedUpload) -> None:
    """Make the callback again, with its old id."""
    async with upload.guard:
        record = upload.record
        delivery = record.handover.delivery
        if record.status is Status.COMPLETE and delivery is not None:
            fresh = replace(delivery, given_up=False, next_attempt_at=None, first_attempt_at=None)
            record = replace(record, handover=replace(record.handover, delivery=fresh))
        elif record.status.final and record.notifications:
            record = replace(
                record,
                notifications=tuple(
                    replace(n, given_up=False, delivered=False, next_attempt_at=None, first_attempt_at=None)
                    for n in record.notifications
                ),
            )
        else:
            raise Refusal(Code.NOTHING_TO_DELIVER, f"The upload is {record.status.value}.")
        await upload.write(record, sync=upload.syncs_completion)
    upload.services.events.tell(Told.DUE, upload.record)


async def notified(upload: OwnedUpload, webhook_id: str, outcome: Delivery) -> None:
    """Record what became of an attempt to tell the web app something."""
    async with upload.guard:
        notifications = tuple(outcome if n.webhook_id == webhook_id else n for n in upload.record.notifications)
        await upload.write(replace(upload.record, notifications=notifications), sync=outcome.delivered)


def resume(upload: OwnedUpload, services: Services) -> None:
    """Take up what a former tenure left: joins, callbacks, deletions."""
    record = upload.record
    if record.status is Status.COMPLETE and not record.joined:
        start_joining(upload)
    elif record.status is Status.COMPLETE:
        services.events.tell(Told.WHOLE, record)
    elif record.status is Status.AWAITING_APP or pending(record):
        services.events.tell(Told.DUE, record)


def pending(record: Record) -> bool:
    """Whether a callback of an ended or open upload has still to be made."""
    return any(not (n.delivered or n.given_up) for n in record.notifications)
