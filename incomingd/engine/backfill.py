"""Copying an upload's earlier bytes from where they lie, while new bytes already arrive.

Only the owner copies. A copy is a segment of the tenure that made it; the map
changes once the copied bytes are durable, piece by piece, so that a crash of
either side costs one piece. When the map names a segment of another volume no
more, whoever holds that is told that it may delete it.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from incomingd.core.content import Content, Range
from incomingd.core.errors import Refusal
from incomingd.core.pacing import backoff_s
from incomingd.core.peering import BytesWanted, Release
from incomingd.engine import digesting, reach
from incomingd.engine.owned import segment_name
from incomingd.log import events, get_logger
from incomingd.peers.calls import PeerError
from incomingd.storage.body import BodyCutError
from incomingd.storage.volume import VolumeError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from incomingd.core.record import Record
    from incomingd.engine.owned import OwnedUpload, Services

log = get_logger()

PIECE_BYTES: Final = 64 * 1024 * 1024
"""Copied between two changes of the map."""
RETRY_FIRST_S: Final = 0.2
RETRY_MAX_S: Final = 10.0
RELEASE_ATTEMPTS: Final = 8
"""Then the holder finds out by itself, when it asks."""


def left_bytes(record: Record, volume_id: str) -> int:
    """Return how many bytes of the upload lie on other volumes."""
    return sum((r.stop or r.start) - r.start for _, _, r in _remote(record, volume_id))


def start(upload: OwnedUpload, *, behind: Callable[[], Awaitable[None]] | None = None) -> None:
    """Copy what lies on other volumes, in the background.

    Args:
        upload: whose bytes.
        behind: returns when it may begin; None: at once.
    """
    if upload.backfilling is not None and not upload.backfilling.done():
        return
    if left_bytes(upload.record, upload.services.volume.id):
        upload.busy += 1
        upload.backfilling = upload.services.clock.spawn(_run(upload, behind), name=f"backfill {upload.id}")


async def finished(upload: OwnedUpload) -> None:
    """Return when nothing of the upload lies elsewhere, or nobody needs it here any more."""
    own = upload.services.volume.id
    while not (upload.superseded or upload.record.status.final) and left_bytes(upload.record, own):
        start(upload)
        if upload.backfilling is not None:
            await asyncio.wait([upload.backfilling])


def _remote(record: Record, volume_id: str) -> list[tuple[str | None, int, Range]]:
    """Return target, place in its map, and range of all that lies on other volumes."""
    targets: list[tuple[str | None, Content]] = [(None, record.content), *record.parts]
    return [
        (part, index, r)
        for part, content in targets
        for index, r in enumerate(content.map)
        if r.volume_id != volume_id and r.stop is not None and r.stop > r.start
    ]


async def _run(upload: OwnedUpload, behind: Callable[[], Awaitable[None]] | None) -> None:
    services = upload.services
    clock = services.clock
    began = clock.monotonic()
    size = left_bytes(upload.record, services.volume.id)
    attempt = 0
    try:
        if behind is not None:
            await behind()
        while not upload.superseded and not upload.record.status.final:
            left = _remote(upload.record, services.volume.id)
            if not left:
                duration_s = round(clock.monotonic() - began, 3)
                log.info(events.UPLOAD_BACKFILLED, upload_id=upload.id, bytes=size, duration_s=duration_s)
                # What nobody could read as long as it lay elsewhere.
                digesting.start(upload)
                return
            part, index, wanted = left[0]
            try:
                gained = await _copy(upload, part, index, wanted)
                attempt = 0 if gained else attempt + 1
                failure = "" if gained else "Whoever holds them does not send them."
            except VolumeError as error:
                services.health.failed(error)
                attempt, failure = attempt + 1, str(error)
            except Refusal as refusal:
                # Given to another instance, or taken by one.
                attempt, failure = attempt + 1, str(refusal)
            if failure and not upload.superseded:
                log.info(events.BACKFILL_DELAYED, upload_id=upload.id, detail=failure)
                pause_s = backoff_s(attempt, first_s=RETRY_FIRST_S, max_s=RETRY_MAX_S, jitter=clock.jitter())
                await clock.sleep(pause_s)
    finally:
        upload.busy -= 1


async def _copy(upload: OwnedUpload, part: str | None, index: int, wanted: Range) -> int:
    """Copy one piece, and have the map name it; return its size."""
    services = upload.services
    volume = services.volume
    content = upload.record.target(part)
    assert content is not None, part
    assert wanted.stop is not None, wanted
    before = content.map[index - 1] if index else None
    prefix = f"{segment_name(part, upload.record.epoch)}-"
    if before is not None and before.volume_id == volume.id and before.segment.startswith(prefix):
        name, size = before.segment, before.skip + (wanted.start - before.start)
    else:
        name, size = f"{prefix}{wanted.start}", 0
    began = services.clock.monotonic()
    rate = services.options.backfill_bytes_per_s
    most = PIECE_BYTES if rate is None else min(PIECE_BYTES, max(rate, 1))
    stop = min(wanted.stop, wanted.start + most)
    at = wanted.skip
    asked = BytesWanted(upload.id, wanted.segment, at, at + (stop - wanted.start))
    gained = 0
    for holder in reach.holders(wanted.volume_id, None, services):
        segment = await volume.open_segment(upload.id, name, create=size == 0, size=size, sync=True)
        try:
            # What came before it broke off is checked, and counts.
            with contextlib.suppress(BodyCutError, PeerError):
                await segment.take(services.peers.read(holder, asked), room=stop - wanted.start, on_kept=_unheard)
            await segment.sync()
            gained = segment.size - size
        finally:
            await segment.close()
        if gained:
            break
    if gained:
        await _name_it(upload, part, wanted, name, gained)
    if rate is not None:
        await services.clock.sleep(max(gained / rate - (services.clock.monotonic() - began), 0.0))
    return gained


def _unheard(size: int) -> None:
    """Nobody waits for the bytes of a copy."""
    del size


async def _name_it(upload: OwnedUpload, part: str | None, wanted: Range, name: str, gained: int) -> None:
    """Change the map: the first *gained* bytes of the range lie in the copy now."""
    async with upload.guard:
        content = upload.record.target(part)
        if upload.superseded or content is None or wanted not in content.map:
            # Begun anew, deleted, or given away meanwhile: the copy is thrown away with what else is not named.
            return
        index = content.map.index(wanted)
        middle = wanted.start + gained
        before = content.map[index - 1] if index else None
        copied = Range(name, upload.services.volume.id, wanted.start, middle)
        ranges = list(content.map)
        rest = [] if middle == wanted.stop else [replace(wanted, start=middle, skip=wanted.skip + gained)]
        if before is not None and before.segment == name:
            ranges[index - 1 : index + 1] = [before.closed_at(middle), *rest]
        else:
            ranges[index : index + 1] = [copied, *rest]
        changed = replace(content, map=tuple(ranges))
        await upload.write(upload.record.with_target(part, changed), sync=True)


# -- what is not needed elsewhere any more


def release_dropped(before: Record, now: Record, services: Services) -> None:
    """Tell the holders of segments that a record named and names no more."""
    own = services.volume.id
    if now.status.final and not before.status.final:
        dropped = _segments(before, own)
    else:
        dropped = _segments(before, own) - _segments(now, own)
    by_volume: dict[str, list[str]] = {}
    for volume_id, segment in sorted(dropped):
        by_volume.setdefault(volume_id, []).append(segment)
    for volume_id, segments in by_volume.items():
        release = Release(before.upload_id, tuple(segments))
        _ = services.clock.spawn(_release(volume_id, release, services), name=f"release {before.upload_id}")


def _segments(record: Record, own: str) -> set[tuple[str, str]]:
    contents = [record.content, *(content for _, content in record.parts)]
    return {(r.volume_id, r.segment) for content in contents for r in content.map if r.volume_id != own}


async def _release(volume_id: str, release: Release, services: Services) -> None:
    for attempt in range(1, RELEASE_ATTEMPTS + 1):
        for holder in reach.holders(volume_id, None, services):
            try:
                await services.peers.release(holder, release)
            except (PeerError, Refusal):
                continue
            return
        pause_s = backoff_s(attempt, first_s=RETRY_FIRST_S, max_s=RETRY_MAX_S, jitter=services.clock.jitter())
        await services.clock.sleep(pause_s)
