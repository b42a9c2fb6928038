"""One append: a request's bytes going into an upload, or into a part of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from incomingd.core.errors import Code, Refusal
from incomingd.core.status import Status
from incomingd.engine import digesting, ending
from incomingd.engine.turns import OpenAppend
from incomingd.storage import checksums
from incomingd.storage.body import BodyCutError, CutReason
from incomingd.storage.volume import VolumeError, VolumeFullError

if TYPE_CHECKING:
    from incomingd.core.commands import Append, Checksum, Resource
    from incomingd.core.content import Content
    from incomingd.engine.digesting import Seen
    from incomingd.engine.owned import OwnedUpload
    from incomingd.storage.body import Body
    from incomingd.storage.checksums import Digest
    from incomingd.storage.volume import See, Segment

CUT_REFUSALS: dict[CutReason, Code] = {
    CutReason.CLIENT: Code.BODY_CUT,
    CutReason.PREEMPTED: Code.PREEMPTED,
    CutReason.STALLED: Code.BODY_STALLED,
    CutReason.TOO_SLOW: Code.BODY_TOO_SLOW,
    CutReason.STOPPING: Code.STOPPING,
    # Until the end is claimed it may come to nothing.
    CutReason.ENDED: Code.NOT_READY,
    CutReason.EXPIRING: Code.NOT_READY,
    CutReason.MALFORMED: Code.BODY_MALFORMED,
}


@dataclass(slots=True)
class AppendReport:
    """What became of one append, for the log; filled in as it goes."""

    offset_before: int | None = None
    offset_after: int | None = None
    ended_by: str = "refusal"
    """``complete``, a :class:`CutReason`, ``checksum``, ``disk``, ``length``."""
    slowed_s: float = 0.0


async def append(
    upload: OwnedUpload,
    part: str | None,
    wanted: Append,
    body: Body,
    report: AppendReport,
    *,
    beginning: int | None = None,
) -> Resource:
    """Append *body*; return the resource as it is then.

    A newer request for the same target cuts an older one. What was received of
    a cut body is kept, but under a checksum, where nothing is.

    Raises:
        Refusal: with the true offset where that helps the client.
    """
    upload.target(part)
    turns = upload.turns(part)
    arrival = turns.arrive()
    report.slowed_s = await turns.take(arrival, hold_s=upload.services.options.hold_s)
    async with upload.quiet(CutReason.PREEMPTED, part=part, arrival=arrival):
        turns.check_newest(arrival)
        if beginning is not None and beginning != upload.record.beginnings:
            raise Refusal(Code.PREEMPTED, retry_after_s=0)
        try:
            content = check(upload, part, wanted)
        except Refusal as refusal:
            if refusal.offset is not None and upload.record.status is Status.OPEN:
                # It is told, so it is a promise like any other.
                await upload.note(part)
                await upload.look()
            raise
        report.offset_before = report.offset_after = wanted.offset
        if wanted.body_length == 0 and not wanted.trailing_checksum:
            # Lost answers are repeated this way; the length may be told this way.
            if wanted.checksum is not None:
                _check_empty(wanted.checksum, wanted.offset, report)
            report.ended_by = "complete"
            if content is not upload.target(part):
                # A length is told once: it must not be forgotten.
                await upload.write(upload.record.with_target(part, content), sync=upload.syncs_completion)
            return await _answer(upload, part, bytes_taken=0)
        segment = await _open(upload, part, wanted, content)
        under_way = OpenAppend(arrival, body)
        turns.begin(under_way)
    try:
        try:
            return await _take_and_settle(upload, part, wanted, segment, under_way, report)
        finally:
            await segment.close()
            turns.end(under_way)
            digesting.start(upload)
            upload.services.events.changed(upload.id)
    except Refusal:
        if report.ended_by == CutReason.ENDED.value:
            await _tell_end(upload, part)
        raise


async def _tell_end(upload: OwnedUpload, part: str | None) -> None:
    """Refuse who was cut for an end with that end, if it came to be."""
    await upload.until_ended(part, upload.services.options.hold_s)
    upload.refuse_if_gone()
    if upload.record.target(part) is None:
        raise Refusal(Code.UPLOAD_CANCELLED, "The part was deleted.")


def _check_empty(checksum: Checksum, offset: int, report: AppendReport) -> None:
    """Refuse a body without a byte whose checksum is that of another one."""
    if checksums.running(checksum.algorithm).digest() != checksum.digest:
        report.ended_by = "checksum"
        raise Refusal(Code.CHECKSUM_MISMATCH, offset=offset)


def check(upload: OwnedUpload, part: str | None, wanted: Append) -> Content:
    """Return the content that *wanted* may go into, with the length it tells.

    Raises:
        Refusal: it may not; nothing was changed.
    """
    upload.refuse_if_gone()
    record = upload.record
    content = upload.target(part)
    offset = upload.offset(part)
    if part is None and record.final_of is not None:
        raise Refusal(Code.CONCAT_FINAL)
    if wanted.offset != offset:
        raise Refusal(
            Code.OFFSET_MISMATCH,
            f"The upload is at {offset}, the request starts at {wanted.offset}.",
            offset=offset,
        )
    length = upload.length(part)
    if wanted.length is not None:
        content = _with_length(upload, part, content, wanted, length)
        length = wanted.length
    most = length if length is not None else most_bytes(upload, part)
    if wanted.body_length and most is not None and wanted.offset + wanted.body_length > most:
        code = Code.LENGTH_EXCEEDED if length is not None else Code.UPLOAD_TOO_LARGE
        raise Refusal(
            code,
            f"{wanted.body_length} bytes from {wanted.offset} on would go beyond {most}.",
            offset=offset,
        )
    if record.status is not Status.OPEN and wanted.body_length != 0:
        raise Refusal(Code.LENGTH_EXCEEDED, "The upload is complete.", offset=offset)
    if content.length is None and length is not None:
        content = replace(content, length=length, length_deferred=False)
    return content


def _with_length(
    upload: OwnedUpload,
    part: str | None,
    content: Content,
    wanted: Append,
    known: int | None,
) -> Content:
    assert wanted.length is not None
    if known is not None:
        if known != wanted.length:
            raise Refusal(
                Code.LENGTH_DIFFERS,
                f"The length is {known} already; the request says {wanted.length}.",
                offset=upload.offsets.get(part),
            )
        return content
    check_length(upload, part, wanted.length)
    if wanted.length < wanted.offset + (wanted.body_length or 0):
        raise Refusal(
            Code.LENGTH_EXCEEDED,
            f"A length of {wanted.length} is less than what has come or comes now.",
            offset=upload.offsets.get(part),
        )
    return replace(content, length=wanted.length, length_deferred=False)


def most_bytes(upload: OwnedUpload, part: str | None) -> int | None:
    """Return how many bytes the ticket and the configuration leave for a target."""
    limits = [upload.record.length_limit, upload.services.options.upload_bytes_max]
    known = [limit for limit in limits if limit is not None]
    if not known:
        return None
    if part is None:
        return min(known)
    others = sum(
        content.length if content.length is not None else upload.offsets.get(name, 0)
        for name, content in upload.record.parts
        if name != part
    )
    return max(min(known) - others, 0)


def check_length(upload: OwnedUpload, part: str | None, length: int) -> None:
    """Refuse a length that the ticket or the configuration do not allow."""
    exact = upload.record.terms.length
    if part is None and exact is not None and length != exact:
        raise Refusal(
            Code.LENGTH_DIFFERS,
            f"The ticket is for {exact} bytes; the request says {length}.",
        )
    most = most_bytes(upload, part)
    if most is not None and length > most:
        raise Refusal(
            Code.UPLOAD_TOO_LARGE,
            f"{length} bytes are more than the {most} that may come.",
            extra={"max_length": most},
        )


async def _open(upload: OwnedUpload, part: str | None, wanted: Append, content: Content) -> Segment:
    """Write down what must be written before the first byte; open the segment."""
    record = upload.record
    checked = wanted.checksum is not None or wanted.trailing_checksum is not None
    told_length = content is not record.target(part)
    if checked:
        content = replace(content, unverified_from=wanted.offset)
    if content != record.target(part):
        sync = (checked and upload.syncs_acknowledgements) or (told_length and upload.syncs_completion)
        await upload.write(record.with_target(part, content), sync=sync)
    growing = content.growing
    assert growing is not None, content
    size = wanted.offset - growing.start + growing.skip
    return await upload.services.volume.open_segment(
        upload.id,
        growing.segment,
        create=size == 0,
        size=size,
        sync=upload.syncs_acknowledgements,
    )


async def _take_and_settle(
    upload: OwnedUpload,
    part: str | None,
    wanted: Append,
    segment: Segment,
    under_way: OpenAppend,
    report: AppendReport,
) -> Resource:
    before = segment.size
    digest = checksums.running(wanted.checksum.algorithm) if wanted.checksum else None
    under_way.seen = seen = digesting.begin(upload, part, wanted.offset)
    refusal: Refusal | None = None
    room = _room(upload, part, wanted.offset)

    def on_kept(size: int) -> None:
        under_way.taken = size - before
        under_way.body.kept(wanted.offset + size - before)
        upload.touch()

    try:
        taken = await segment.take(under_way.body, room=room, on_kept=on_kept, see=_see(digest, seen))
        report.ended_by = "complete"
        if taken.overflow:
            report.ended_by = "length"
            refusal = Refusal(Code.LENGTH_EXCEEDED, "The body went on behind the end of the upload.")
    except BodyCutError as cut:
        report.ended_by = cut.reason.value
        refusal = Refusal(CUT_REFUSALS[cut.reason], retry_after_s=0)
    except VolumeError as error:
        report.ended_by = "disk"
        upload.services.health.failed(error)
        full = isinstance(error, VolumeFullError)
        refusal = Refusal(Code.STORAGE_FULL if full else Code.STORAGE_UNAVAILABLE)
    expected = _expected(wanted, refusal)
    if isinstance(expected, Refusal) or (refusal is not None and wanted.checksum):
        report.ended_by = report.ended_by if refusal else "checksum"
        refusal = refusal or (expected if isinstance(expected, Refusal) else None)
        await segment.cut_back(before)
    elif expected is not None:
        if digest is None:
            digest = checksums.running(expected.algorithm)
            await segment.read_back(before, digest.update)
        if digest.digest() != expected.digest:
            report.ended_by = "checksum"
            refusal = Refusal(Code.CHECKSUM_MISMATCH)
            await segment.cut_back(before)
    return await _settle(upload, part, under_way, wanted.offset, segment, before, refusal, report)


def _see(digest: Digest | None, seen: Seen | None) -> See | None:
    """Return what is to see the bytes on their way; None: nothing."""
    if digest is None or seen is None:
        return digest.update if digest is not None else seen.see if seen is not None else None
    check = digest.update

    def see(data: bytes | memoryview) -> None:
        check(data)
        seen.see(data)

    return see


def _expected(wanted: Append, refusal: Refusal | None) -> Checksum | Refusal | None:
    """Return the digest to compare with, or why there is none although there should be."""
    if wanted.trailing_checksum is None:
        return wanted.checksum
    if refusal is not None:
        return refusal
    try:
        return wanted.trailing_checksum()
    except Refusal as missing:
        return missing


def _room(upload: OwnedUpload, part: str | None, offset: int) -> int | None:
    length = upload.length(part)
    most = length if length is not None else most_bytes(upload, part)
    return None if most is None else max(most - offset, 0)


async def _settle(
    upload: OwnedUpload,
    part: str | None,
    under_way: OpenAppend,
    offset: int,
    segment: Segment,
    before: int,
    refusal: Refusal | None,
    report: AppendReport,
) -> Resource:
    """Bring what was kept into the record, and answer."""
    gained = segment.size - before
    async with upload.guard:
        if upload.syncs_acknowledgements and gained:
            try:
                await segment.sync()
            except VolumeError:
                # The kernel tells of a failed write-back once and then forgets
                # it: what was not synced now must not count later.
                await segment.cut_back(before)
                raise
        upload.offsets[part] = offset + gained
        digesting.settled(upload, under_way.seen)
        # They count from here on, and not twice.
        under_way.taken = 0
        report.offset_after = upload.offsets[part]
        content = upload.target(part)
        if content.unverified_from is not None:
            verified = replace(content, unverified_from=None)
            if upload.syncs_acknowledgements:
                verified = replace(verified, noted_offset=upload.offsets[part])
            await upload.write(upload.record.with_target(part, verified), sync=upload.syncs_acknowledgements)
        if refusal is None:
            return await _answer(upload, part, bytes_taken=gained)
        resource = await _answer(upload, part, bytes_taken=gained)
        refusal.offset = resource.offset
        raise refusal


async def _answer(upload: OwnedUpload, part: str | None, *, bytes_taken: int) -> Resource:
    """Note, complete what is complete, look: now an offset may be told."""
    if ending.reached(upload, part):
        await ending.complete_target(upload, part)
    else:
        await upload.note(part)
    await upload.look()
    return upload.resource(part, bytes_taken=bytes_taken)
