"""Open creation: uploads that clients begin without a ticket.

Parts of parallel uploads are uploads of their own here, since no ticket holds
them together. They are never handed over and expire by themselves; a final
upload takes second names of their bytes, so that it does not depend on how
long they last.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from incomingd.core.content import Content, concatenated
from incomingd.core.errors import Code, Refusal
from incomingd.core.status import Status
from incomingd.engine import appending, ending
from incomingd.engine.beginning import client_of

if TYPE_CHECKING:
    from incomingd.core.commands import Creation, Resource
    from incomingd.engine.keeper import Keeper
    from incomingd.engine.owned import OwnedUpload


async def begin_final(keeper: Keeper, upload: OwnedUpload, wanted: Creation, parts: tuple[str, ...]) -> Resource:
    """Make a new upload of other uploads, now or when they are all complete.

    Args:
        keeper: to reach the parts by.
        upload: the new one.
        wanted: what the client says.
        parts: ids of the parts, in order and with repeats.

    Raises:
        Refusal: `concat_part_unknown`: one of them is no partial upload.
    """
    lengths = []
    for part in parts:
        try:
            record = await keeper.record_of(part)
        except Refusal as refusal:
            if refusal.code is not Code.UPLOAD_UNKNOWN:
                raise
            raise Refusal(Code.CONCAT_PART_UNKNOWN, refusal.detail) from refusal
        partial = record.terms.open_creation and record.content.concat == "partial"
        if not partial or record.status is not Status.OPEN:
            raise Refusal(Code.CONCAT_PART_UNKNOWN, "It is no partial upload, or has ended.")
        lengths.append(record.content.length)
    known = all(length is not None for length in lengths)
    if known:
        appending.check_length(upload, None, sum(length or 0 for length in lengths))
    async with upload.guard:
        await upload.write(
            replace(
                upload.record,
                client=client_of(wanted),
                protocol=wanted.protocol,
                beginnings=1,
                final_of=parts,
                content=Content(
                    length=sum(length or 0 for length in lengths) if known else None,
                    metadata=wanted.metadata,
                    concat=wanted.concat,
                ),
            ),
            sync=upload.syncs_completion,
        )
    for part in dict.fromkeys(parts):
        async with keeper.owning(part) as source, source.guard:
            if upload.id not in source.record.wanted_by:
                await source.write(
                    replace(source.record, wanted_by=(*source.record.wanted_by, upload.id)),
                    sync=source.syncs_completion,
                )
    await try_to_complete(keeper, upload)
    async with upload.guard:
        await upload.look()
        return upload.resource(None)


async def try_to_complete(keeper: Keeper, upload: OwnedUpload) -> None:
    """Complete a final upload if all its parts are there."""
    record = upload.record
    if record.status is not Status.OPEN or record.final_of is None:
        return
    contents: dict[str, Content] = {}
    for index, part in enumerate(dict.fromkeys(record.final_of)):
        async with keeper.owning(part) as source, source.guard:
            length = source.record.content.length
            at_rest = source.record.status is Status.OPEN and source.turns(None).open is None
            if not at_rest or length is None or source.offsets.get(None, 0) != length:
                return
            content = source.record.content.cut_at(length)
            names = {r.segment: f"from-{index}.{r.segment}" for r in content.map if length}
            await upload.services.volume.adopt_segments(upload.id, source.id, names)
            contents[part] = replace(
                content,
                map=tuple(replace(r, segment=names[r.segment]) for r in content.map if length),
            )
    async with upload.guard:
        if upload.record.status is Status.OPEN:
            whole = concatenated(tuple(contents[part] for part in record.final_of))
            await ending.complete_with(
                upload,
                replace(
                    whole,
                    metadata=upload.record.content.metadata,
                    concat=upload.record.content.concat,
                ),
            )
