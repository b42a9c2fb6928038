"""How a client begins: the length, what it says of its file, parts.

A client that POSTs has no memory of an earlier beginning (a client that has one
asks with HEAD and goes on). So a creation on an upload that has bytes *begins
anew*: were the old bytes kept, another file of the same length would end as a
mixture of the two.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from incomingd.core import ids, names
from incomingd.core.commands import Creation, Resource
from incomingd.core.content import Content
from incomingd.core.errors import Code, Refusal
from incomingd.core.record import PARTS_MAX, Client, Delivery
from incomingd.core.status import Status
from incomingd.core.tenure import ClaimKind
from incomingd.engine import appending, ending
from incomingd.engine.events import Told
from incomingd.engine.owned import segment_name
from incomingd.storage.body import CutReason
from incomingd.storage.volume import VolumeError

if TYPE_CHECKING:
    from incomingd.core.record import Record
    from incomingd.engine.owned import OwnedUpload


async def begin(upload: OwnedUpload, wanted: Creation) -> Resource:
    """Begin the upload, or begin it anew; bytes that came along are not taken yet.

    Raises:
        Refusal: the ticket does not allow it, or it is too late.
    """
    repeated = _repeated(upload, wanted)
    if repeated is not None:
        return repeated
    _refuse_unsuitable(upload, wanted)
    turns = upload.turns(None)
    arrival = turns.arrive()
    await turns.take(arrival, hold_s=upload.services.options.hold_s)
    async with upload.quiet(CutReason.PREEMPTED, arrival=arrival):
        turns.check_newest(arrival)
        repeated = _repeated(upload, wanted)
        if repeated is not None:
            return repeated
        client = _suitable_client(upload, wanted)
        if wanted.length is not None:
            # What a former beginning holds gives way to this one.
            await refuse_without_room(upload, max(wanted.length - upload.offsets.get(None, 0), 0))
        first = upload.record.beginnings == 0
        record, dropped = await _emptied(upload)
        record = replace(
            record,
            client=client,
            protocol=wanted.protocol,
            beginnings=record.beginnings + 1,
            content=replace(
                record.content,
                length=wanted.length,
                length_deferred=wanted.length is None,
                metadata=wanted.metadata,
                concat=wanted.concat,
            ),
        )
        if first and "started" in record.terms.events:
            services = upload.services
            told = Delivery("upload.started", webhook_id=f"msg_{services.new_token()}")
            record = replace(record, notifications=(*record.notifications, told))
        await upload.write(record, sync=upload.syncs_completion)
        upload.offsets[None] = 0
        if first:
            upload.services.events.tell(Told.STARTED, upload.record)
            if ending.pending(upload.record):
                upload.services.events.tell(Told.DUE, upload.record)
        await _drop(upload, dropped)
        if ending.reached(upload, None):
            await ending.complete_target(upload, None)
        await upload.look()
        return upload.resource(None)


async def begin_part(upload: OwnedUpload, wanted: Creation) -> Resource:
    """Make a part of a parallel upload."""
    if wanted.length is not None:
        _refuse_over_limits(upload, wanted.length)
    upload.refuse_if_gone()
    async with upload.guard:
        if upload.record.status is not Status.OPEN:
            raise Refusal(Code.UPLOAD_COMPLETE)
        record, dropped = _with_space_for_part(upload, wanted)
        if wanted.length is not None:
            await refuse_without_room(upload, wanted.length)
        name = ids.spell(upload.services.clock.random_bits(132), ids.PART_CHARS)
        content = Content(
            length=wanted.length,
            length_deferred=wanted.length is None,
            metadata=wanted.metadata,
            concat=wanted.concat,
        ).grown_by(segment_name(name, record.epoch), upload.services.volume.id, 0)
        await upload.write(
            replace(record.with_target(name, content), protocol=wanted.protocol),
            sync=upload.syncs_completion,
        )
        upload.offsets[name] = 0
        await _drop(upload, dropped)
        if ending.reached(upload, name):
            await ending.complete_target(upload, name)
        await upload.look()
        return upload.resource(name)


async def begin_final(upload: OwnedUpload, wanted: Creation) -> Resource:
    """Make the upload of its parts, now or as soon as they are all there.

    The same request again gets the same answer.
    """
    assert wanted.final_of is not None
    upload.refuse_if_gone()
    async with upload.quiet(CutReason.PREEMPTED, part=None):
        record = upload.record
        if record.status.whole:
            if record.content.concat == wanted.concat:
                return upload.resource(None)
            raise Refusal(Code.UPLOAD_COMPLETE)
        contents = [record.target(name) for name in wanted.final_of]
        if any(content is None for content in contents):
            raise Refusal(Code.CONCAT_PART_UNKNOWN)
        lengths = [content.length for content in contents if content is not None]
        if all(length is not None for length in lengths):
            appending.check_length(upload, None, sum(length or 0 for length in lengths))
        client = _suitable_client(upload, wanted)
        record, dropped = await _emptied(upload, keep_parts=True)
        await upload.write(
            replace(
                record,
                client=client,
                protocol=wanted.protocol,
                beginnings=record.beginnings + 1,
                final_of=wanted.final_of,
                content=Content(
                    length=sum(length or 0 for length in lengths)
                    if all(length is not None for length in lengths)
                    else None,
                    metadata=wanted.metadata,
                    concat=wanted.concat,
                ),
            ),
            sync=upload.syncs_completion,
        )
        upload.offsets[None] = 0
        await _drop(upload, dropped)
        if ending.reached(upload, None):
            await ending.complete_target(upload, None)
        await upload.look()
        return upload.resource(None)


async def drop_part(upload: OwnedUpload, part: str) -> None:
    """Delete a part that is not needed any more."""
    with upload.ends():
        await _drop_part(upload, part)


async def _drop_part(upload: OwnedUpload, part: str) -> None:
    async with upload.quiet(CutReason.ENDED, part=part):
        content = upload.target(part)
        parts = tuple((n, c) for n, c in upload.record.parts if n != part)
        if upload.record.status is Status.OPEN:
            await upload.write(replace(upload.record, parts=parts), sync=upload.syncs_completion)
            await _drop(upload, [part_range.segment for part_range in content.map])


# -- what a beginning has to satisfy


def _repeated(upload: OwnedUpload, wanted: Creation) -> Resource | None:
    """Return the answer to a creation whose first answer was lost."""
    upload.refuse_if_gone()
    record = upload.record
    if not record.status.whole:
        return None
    content = record.content
    if wanted.length == content.length and wanted.metadata == content.metadata:
        return upload.resource(None)
    raise Refusal(Code.UPLOAD_COMPLETE)


def _refuse_unsuitable(upload: OwnedUpload, wanted: Creation) -> None:
    """Refuse before anything that is under way is cut."""
    if wanted.length is not None:
        appending.check_length(upload, None, wanted.length)
    _suitable_client(upload, wanted)


def _suitable_client(upload: OwnedUpload, wanted: Creation) -> Client:
    client = client_of(wanted)
    accepted = upload.record.terms.content_types
    if not names.content_type_accepted(client.content_type, accepted):
        raise Refusal(
            Code.CONTENT_TYPE_NOT_ACCEPTED,
            f"Accepted: {', '.join(accepted)}.",
            extra={"content_types": list(accepted)},
        )
    return client


def _refuse_over_limits(upload: OwnedUpload, length: int) -> None:
    limits = [upload.record.length_limit, upload.services.options.upload_bytes_max]
    known = [limit for limit in limits if limit is not None]
    if known and length > min(known):
        raise Refusal(
            Code.UPLOAD_TOO_LARGE,
            f"{length} bytes are more than the {min(known)} that may come.",
            extra={"max_length": min(known)},
        )


async def refuse_without_room(upload: OwnedUpload, length: int) -> None:
    """Refuse a length for which the volume has no room."""
    if length and not await upload.services.volume.has_room(length):
        raise Refusal(Code.STORAGE_FULL, f"There is no room for {length} bytes.")


def client_of(wanted: Creation) -> Client:
    """Return what the client says of its file, capped and cleaned."""
    pairs = dict(wanted.pairs)
    name = pairs.get("filename") or pairs.get("name")
    kind = pairs.get("filetype") or pairs.get("type") or pairs.get("contentType")
    path = pairs.get("relativePath") or pairs.get("relative_path")
    modified = pairs.get("lastModified") or pairs.get("last_modified")
    return Client(
        filename=names.clean_filename(name) if name else None,
        content_type=names.clean_content_type(kind) if kind else None,
        relative_path=names.clean_relative_path(path) if path and path != "null" else None,
        last_modified=names.clean_value(modified) if modified else None,
        metadata=tuple((key, names.clean_value(value)) for key, value in wanted.pairs),
        address=wanted.address,
    )


# -- making it empty


async def _emptied(upload: OwnedUpload, *, keep_parts: bool = False) -> tuple[Record, list[str]]:
    """Return the record without bytes, and the segments to delete once it is written."""
    record = upload.record
    dropped = [part_range.segment for part_range in record.content.map]
    if not keep_parts:
        for _, content in record.parts:
            dropped += [part_range.segment for part_range in content.map]
    if upload.offsets.get(None, 0) > 0 or record.parts or record.final_of is not None:
        record = await upload.claim(ClaimKind.ANEW)
        content = Content().grown_by(segment_name(None, record.epoch), upload.services.volume.id, 0)
    else:
        # No byte has come: the segment that the pull named is as good as new.
        dropped = []
        content = replace(record.content, unverified_from=None)
    if not keep_parts:
        record = replace(record, parts=())
    return replace(record, content=content, final_of=None), dropped


def _with_space_for_part(upload: OwnedUpload, wanted: Creation) -> tuple[Record, list[str]]:
    """Return the record with room for one more part.

    A client that begins a parallel upload anew leaves the parts of its former
    attempt behind. They give way, oldest first, as far as they must; parts that
    are being sent stay.
    """
    record = upload.record
    dropped: list[str] = []

    def too_much() -> Code | None:
        if len(record.parts) >= PARTS_MAX:
            return Code.TOO_MANY_PARTS
        limit = record.length_limit
        if limit is None or wanted.length is None:
            return None
        total = sum(content.length or 0 for _, content in record.parts)
        return Code.UPLOAD_TOO_LARGE if total + wanted.length > limit else None

    idle = [name for name, _ in record.parts if upload.turns(name).open is None]
    if record.final_of is not None:
        idle = [name for name in idle if name not in record.final_of]
    while (code := too_much()) is not None:
        if not idle:
            raise Refusal(code)
        oldest = idle.pop(0)
        content = record.target(oldest)
        assert content is not None
        dropped += [part_range.segment for part_range in content.map]
        record = replace(record, parts=tuple((n, c) for n, c in record.parts if n != oldest))
    return record, dropped


async def _drop(upload: OwnedUpload, segments: list[str]) -> None:
    if not segments:
        return
    try:
        await upload.services.volume.drop_segments(upload.id, segments)
    except VolumeError as error:
        upload.services.report_drop_failure(upload.record, error)
