"""Taking over an upload from a volume that this instance does not reach.

The new owner goes on at once: its record names, in its map, where the earlier
bytes lie. They are copied behind (:mod:`incomingd.engine.backfill`).
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

from incomingd.core.content import Content
from incomingd.core.errors import Code, Refusal
from incomingd.core.peering import Given, Recall, Recorded, Voided
from incomingd.core.status import Event, Status
from incomingd.core.tenure import ClaimKind, same_run
from incomingd.engine import reach
from incomingd.engine.outcomes import OwnedElsewhereError
from incomingd.engine.owned import OwnedUpload, segment_name
from incomingd.log import events, get_logger
from incomingd.peers.calls import PeerError
from incomingd.storage.volume import ClaimTakenError, DeclinedError, VolumeError

if TYPE_CHECKING:
    from incomingd.core.record import Record
    from incomingd.core.tenure import Claim, Identity
    from incomingd.engine.owned import Services
    from incomingd.storage.volume import Standing

log = get_logger()


async def fetch(
    upload_id: str, standing: Standing | None, services: Services, *, leaving: bool = False
) -> OwnedUpload | None:
    """Become the owner of an upload that lies elsewhere.

    Args:
        upload_id: which.
        standing: what this instance's own volume says.
        services: of the engine.
        leaving: ask also while this instance is being emptied, so that what was given to it before goes back.

    Returns:
        The upload; None: look at the own volume again.

    Raises:
        Refusal: `upload_unknown`, `upload_out_of_reach`, `not_ready`, `storage_full`, `stopping`.
        OwnedElsewhereError: it stays where it is.
        VolumeError: it was given, and could not be recorded.
    """
    if (services.state.draining or services.state.stopping) and not leaving:
        raise Refusal(Code.STOPPING, retry_after_s=0)
    question = services.new_token()
    holder, reply = await reach.ask(upload_id, standing, services, question=question)
    if holder is None:
        return None
    if not isinstance(reply, Given):
        if reply.keeps:
            raise OwnedElsewhereError(reply.owner)
        raise Refusal(Code.NOT_READY, retry_after_s=1)
    if standing is not None and reply.claim.epoch <= standing.epoch:
        await remind(standing, services)
        return None
    return await _take(reply, holder, question, services)


async def remind(standing: Standing, services: Services) -> None:
    """Have an instance take what this one has given it, and of which it has no record: it may not know of it."""
    given = standing.given_from(services.volume.id)
    if given is None:
        return
    recall = Recall(standing.record.upload_id, given.epoch, services.identity)
    for holder in reach.holders(given.volume_id, None, services):
        # Whatever comes of it, the own volume and the others are asked again.
        with contextlib.suppress(PeerError, Refusal):
            await services.peers.recall(holder, recall)
            return


async def _take(given: Given, holder: Identity, question: str, services: Services) -> OwnedUpload | None:
    """Write the record of what was given: before that nothing is promised."""
    claim = given.claim
    record, offsets = pulled(given.record, claim, services)
    try:
        await _refuse_if_it_cannot(record, services)
        await services.volume.take(claim, record)
    except DeclinedError:
        # And the giver has not heard of it, or not yet.
        await _decline(given, holder, question, services)
        return None
    except ClaimTakenError:
        # It was taken before, and has gone on since: this was an old giving.
        return None
    except (Refusal, VolumeError):
        if not await _decline(given, holder, question, services):
            return None
        raise
    _ = services.clock.spawn(_tell(holder, Recorded(record.upload_id, claim.epoch), services), name="recorded")
    if not same_run(claim.owner, services.identity):
        # It was given to a former run of this volume, which is over; now it stands here, and is pulled like any other.
        return None
    upload = OwnedUpload(record, offsets, services)
    services.publish(upload)
    log.info(events.UPLOAD_PULLED, upload_id=upload.id, offset=offsets.get(None, 0), reason="given", epoch=claim.epoch)
    return upload


async def _decline(given: Given, holder: Identity, question: str, services: Services) -> bool:
    """Let the giver have it back, unless it is taken here; return whether it is not.

    That a record stands, or may still be written by another instance that shares the volume, no memory tells: so the
    volume decides, and once it is declined there nobody takes it any more.
    """
    upload_id, epoch = given.record.upload_id, given.claim.epoch
    if given.record.status.final:
        # Of one that retires: it never changes any more, there is no way back, and it may be taken later.
        return True
    try:
        await services.volume.decline(given.claim, upload_id)
        await services.peers.void(holder, Voided(upload_id, question, epoch))
    except ClaimTakenError:
        return False
    except (VolumeError, PeerError) as error:
        # Whoever asks next gets the same giving again, and finds that it is declined, or the record, or neither.
        log.warning(events.UPKEEP_DELAYED, upload_id=upload_id, detail=str(error))
    return True


async def _refuse_if_it_cannot(record: Record, services: Services) -> None:
    """Refuse what this instance has no room for, or no time."""
    length = record.content.length or 0
    if not await services.volume.has_room(length):
        raise Refusal(Code.STORAGE_FULL, f"There is no room for {length} bytes.")
    if services.state.draining or services.state.stopping:
        raise Refusal(Code.STOPPING, retry_after_s=0)


async def _tell(holder: Identity, recorded: Recorded, services: Services) -> None:
    # Who was not told asks, before it relies on it.
    with contextlib.suppress(PeerError):
        await services.peers.recorded(holder, recorded)


def pulled(found: Record, claim: Claim, services: Services) -> tuple[Record, dict[str | None, int]]:
    """Return the record of the tenure that begins with *claim*, and its offsets: those that were noted."""
    record = replace(
        found,
        epoch=claim.epoch,
        owner=claim.owner,
        claim_kind=ClaimKind.PULL,
        create_id=claim.create_id,
        boot_id=services.boot_id,
    )
    if not record.status.final:
        record = record.after(Event.PULL)
    offsets: dict[str | None, int] = {}
    targets: list[tuple[str | None, Content]] = [(None, found.content), *found.parts]
    for part, content in targets:
        offsets[part] = 0 if part is None and found.final_of is not None else content.noted_offset
        if found.status is Status.OPEN and not (part is None and found.final_of is not None):
            record = record.with_target(part, _going_on(part, content, claim, services.volume.id))
    if found.status is not Status.OPEN:
        offsets[None] = found.content.length or 0
    return record, offsets


def _going_on(part: str | None, content: Content, claim: Claim, volume_id: str) -> Content:
    """Return *content* with the segment, on this volume, into which the next bytes go."""
    offset = content.noted_offset
    if content.closed:
        return content
    closed = content.cut_at(offset)
    if content.length is None or offset < content.length:
        closed = closed.grown_by(segment_name(part, claim.epoch), volume_id, offset)
    return replace(closed, noted_offset=offset)
