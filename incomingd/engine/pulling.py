"""Becoming the owner of an upload, whoever had it before: ask, wait, take.

The owner is asked to park it (*recall*). Where that is in vain (its address
refuses, another run answers there, it says nothing for one lease time, or its
lease has lapsed) the upload is an orphan and is taken all the same. A wrong
suspicion costs a move, never a byte: the owner finds out at its next look.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from incomingd.core.content import Content
from incomingd.core.errors import Code, Refusal
from incomingd.core.peering import Recall, Recalled
from incomingd.core.status import Event, Status
from incomingd.core.tenure import Claim, ClaimKind, same_run
from incomingd.engine import digesting
from incomingd.engine.events import Move
from incomingd.engine.options import Durability
from incomingd.engine.outcomes import LostBytesError, OwnedElsewhereError
from incomingd.engine.owned import OwnedUpload, segment_name
from incomingd.engine.taking import fetch
from incomingd.log import events, get_logger
from incomingd.peers.calls import PeerError, PeerGoneError, PeerRefusedError
from incomingd.storage.volume import ClaimTakenError

if TYPE_CHECKING:
    from incomingd.core.record import Record
    from incomingd.core.tenure import Identity
    from incomingd.engine.owned import Services
    from incomingd.storage.volume import Standing

log = get_logger()

AGAIN_S: Final = 0.05
"""Between two recalls of an owner that does not answer."""


async def acquire(upload_id: str, services: Services, *, leaving: bool = False) -> OwnedUpload:
    """Become the owner of the upload.

    Args:
        upload_id: which.
        services: of the engine.
        leaving: also while this instance is being emptied, to give it away.

    Raises:
        Refusal: `upload_unknown`; `not_ready`: not within `hold_s`; `stopping`: this instance takes none any more.
        OwnedElsewhereError: it stays where it is.
        LostBytesError: it is owned, and has lost bytes.
    """
    clock = services.clock
    began = clock.monotonic()
    deadline = began + services.options.hold_s
    asked: tuple[object, int] | None = None
    silent_since = began
    while True:
        standing = await services.volume.standing(upload_id)
        if standing is None or standing.given_from(services.volume.id) is not None:
            if not services.volume.shared:
                raise Refusal(Code.UPLOAD_UNKNOWN)
            taken = await fetch(upload_id, standing, services, leaving=leaving)
            if taken is not None:
                return taken
            if clock.monotonic() + AGAIN_S >= deadline:
                raise Refusal(Code.NOT_READY, retry_after_s=1)
            await clock.sleep(AGAIN_S)
            continue
        owner = standing.owner
        if asked != (owner, standing.epoch):
            asked, silent_since = (owner, standing.epoch), clock.monotonic()
        how = await _recalled(standing, services, silent_since=silent_since)
        if how is not None:
            if not leaving and (
                services.state.stopping or (services.state.draining and not _stays(standing, services))
            ):
                raise Refusal(Code.STOPPING, retry_after_s=0)
            try:
                return await pull(standing, services, how=how)
            except ClaimTakenError:
                # Somebody else was first.
                pass
        if clock.monotonic() + AGAIN_S >= deadline:
            raise Refusal(Code.NOT_READY, retry_after_s=1)
        await clock.sleep(AGAIN_S * clock.jitter())


async def _recalled(standing: Standing, services: Services, *, silent_since: float) -> str | None:
    """Ask the owner for the upload.

    Returns:
        Why it may be taken now, for the log; None: look at the volume again.
    """
    owner = standing.owner
    if owner is None:
        return "parked"
    if same_run(owner, services.identity):
        # A claim of this run whose record could not be written, or a tenure that it has let go of.
        return "own"
    if await surely_gone(owner, services):
        return "orphan"
    try:
        recall = Recall(standing.record.upload_id, standing.epoch, services.identity)
        answer = await services.peers.recall(owner, recall)
    except PeerGoneError:
        services.events.tell_move(Move.RECALLED, "gone")
        return "orphan"
    except PeerError as error:
        refused = isinstance(error, PeerRefusedError)
        services.events.tell_move(Move.RECALLED, "refused" if refused else "silent")
        silent_s = services.clock.monotonic() - silent_since
        if silent_s >= services.options.lease_s or await services.registry.lapsed(owner):
            return "silent"
        return None
    services.events.tell_move(Move.RECALLED, answer.value)
    if answer is Recalled.NOT_OPEN:
        raise OwnedElsewhereError(owner)
    if answer is Recalled.NOT_OWNER:
        # It lives and says that it has let go, or that its claim came to nothing.
        again = await services.volume.standing(standing.record.upload_id)
        if again is not None and (again.owner, again.epoch) == (owner, standing.epoch):
            return "abandoned"
    return None


def _stays(standing: Standing, services: Services) -> bool:
    """Whether the upload stays to its end: its web app was told a path on a volume that only this instance reaches."""
    if standing.record.status is not Status.AWAITING_APP:
        return False
    own = services.identity
    return not any(
        services.volume.id in each.volumes and not same_run(each.identity, own) for each in services.registry.instances
    )


async def surely_gone(owner: Identity, services: Services) -> bool:
    """Return whether *owner* need not be asked: the host shows that it is gone, or its lease has lapsed."""
    if await services.volume.gone(owner):
        return True
    if any(same_run(each.identity, owner) for each in services.registry.instances):
        return False
    return await services.registry.lapsed(owner)


async def pull(standing: Standing, services: Services, *, how: str) -> OwnedUpload:
    """Take the upload: claim - seal - measure - record.

    Args:
        standing: what stood there when it was looked at.
        services: of this engine.
        how: why it may be taken, for the log.

    Raises:
        ClaimTakenError: somebody else was first.
        LostBytesError: it is owned, and has lost bytes.
    """
    volume = services.volume
    upload_id = standing.record.upload_id
    claim = Claim(
        epoch=standing.epoch + 1,
        owner=services.identity,
        create_id=services.new_token(),
        volume_id=volume.id,
        kind=ClaimKind.PULL,
    )
    await volume.claim(upload_id, claim)
    record = standing.record
    if volume.shared:
        # Until the claim stood, the former owner may have changed its record. Now its looks fail.
        latest = await volume.standing(upload_id)
        if latest is None or latest.epoch != claim.epoch:
            raise ClaimTakenError(upload_id)
        record = latest.record
    calm = record.owner is None or await volume.gone(record.owner)
    upload = OwnedUpload(record, {}, services)
    async with upload.guard:
        pulled = replace(record, epoch=claim.epoch, owner=claim.owner, claim_kind=claim.kind, create_id=claim.create_id)
        if not record.status.final:
            pulled = pulled.after(Event.PULL)
        if record.status is Status.OPEN:
            pulled, lost = await _measured(pulled, upload, record, calm=calm)
            if lost:
                await upload.write(pulled, sync=True)
                raise LostBytesError(upload)
        await upload.write(pulled, sync=services.options.durability is not Durability.NONE)
        digesting.found_at_pull(upload, record.epoch)
    digesting.start(upload)
    services.publish(upload)
    services.events.tell_move(Move.PULLED, how)
    log.info(
        events.UPLOAD_PULLED, upload_id=upload_id, offset=upload.offsets.get(None, 0), reason=how, epoch=claim.epoch
    )
    return upload


async def _measured(record: Record, upload: OwnedUpload, before: Record, *, calm: bool) -> tuple[Record, bool]:
    """Return the record with its offsets measured, and whether bytes are lost.

    Args:
        record: with the new tenure.
        upload: gets the offsets.
        before: the record as it was found.
        calm: nobody writes into its segments any more; else new bytes go into a segment of their own.
    """
    services = upload.services
    lost = False
    targets: list[tuple[str | None, Content]] = [(None, record.content), *record.parts]
    for part, content in targets:
        if part is None and record.final_of is not None:
            upload.offsets[None] = 0
            continue
        offset = await services.volume.measure(before, content)
        lost = lost or offset < content.noted_offset
        upload.offsets[part] = offset
        behind = content.unverified_from is not None or record.boot_id != services.boot_id
        if services.volume.shared:
            # Whoever looked at it before, and was held up since, must find nothing that it could still cut: what lies
            # behind the offset stays, and is left out. Behind a parked one there is nothing.
            alone = calm and not (behind and before.owner is not None) and content.unverified_from is None
            found = content if alone else _contested(content, offset)
        else:
            if behind:
                # The record that follows does not tell these bytes from good ones.
                await services.volume.cut_back(record.upload_id, content, offset)
            found = content
        record = record.with_target(part, _to_go_on(part, record, found, offset, services.volume.id))
    return record, lost


def _contested(content: Content, offset: int) -> Content:
    """Return *content* with its growing range closed at *offset*: what is written behind it does not count."""
    growing = content.growing
    if growing is None:
        return content
    closed = content.cut_at(offset)
    if closed.map and closed.map[-1].segment == growing.segment:
        closed = replace(closed, map=(*closed.map[:-1], replace(closed.map[-1], contested=True)))
    return replace(closed, noted_offset=content.noted_offset)


def _to_go_on(part: str | None, record: Record, content: Content, offset: int, volume_id: str) -> Content:
    """Return *content*, measured, with the segment into which the next bytes go."""
    growing = content.growing
    noted_offset = min(content.noted_offset, offset)
    if growing is not None and offset < growing.start:
        content, growing = content.cut_at(offset), None
    if growing is None and (content.length is None or offset < content.length):
        content = content.grown_by(segment_name(part, record.epoch), volume_id, offset)
    return replace(content, noted_offset=noted_offset, unverified_from=None)
