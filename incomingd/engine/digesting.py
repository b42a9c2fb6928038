"""The SHA-256 of an upload whose ticket asks for it: of the whole file, and of its blocks.

* *Of the whole*: computed from the bytes on their way to the disk, by the thread
  that writes them. What it has seen counts once the append is settled, and only
  if that is just what the append has kept; else it is as if nothing was seen.
* What nobody has seen on its way (before a restart, at another instance, of
  parts) is read anew from the segments, in the background. The hand-over waits
  for that, and nobody else does.
* *Of blocks*: they are there to be compared when a client resumes. One that
  sends its file in one go has nothing compared; so they are computed when an
  upload has come to rest before its end, or is read anew anyway, and kept in a
  file (:mod:`incomingd.core.blocks`). A second SHA-256 of each byte on its way
  would double what a digest costs.

A digest never tells of bytes that do not count: only settled ones are read, and
of the file that a former tenure wrote nothing counts behind the offset with
which this one began.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from incomingd.core import blocks
from incomingd.core.blocks import BLOCK_BYTES
from incomingd.core.status import Status
from incomingd.log import events, get_logger
from incomingd.storage.volume import VolumeError, VolumeUnavailableError

if TYPE_CHECKING:
    from hashlib import _Hash

    from incomingd.core.content import Content
    from incomingd.engine.owned import OwnedUpload

log = get_logger()

REST_S: Final = 1.0
"""An upload has come to rest when its client has sent nothing for so long."""


@dataclass(slots=True)
class Progress:
    """How far the digests of one beginning of an upload have come, in this run's memory."""

    beginnings: int
    """Of the record: with each further one it all begins anew."""
    epoch: int
    """Of the tenure that computes them: blocks are kept under its number."""
    found: tuple[int, int] | None
    """Epoch of the tenure whose file is to be read first, and how many bytes it may vouch for; None: it has been."""
    whole: _Hash = field(default_factory=hashlib.sha256)
    """Of the first `at` bytes."""
    at: int = 0
    blocks: list[bytes] = field(default_factory=list)
    """SHA-256 of the first blocks."""
    stored: int = 0
    """So many of them stand in this tenure's file."""
    guard: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by who reads anew."""


class Seen:
    """What is seen of one append on its way; the first part of it is the same as that of `Progress`."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.whole = progress.whole.copy()
        self.end = progress.at
        """Of the upload's bytes that went into it."""

    def see(self, data: bytes | memoryview) -> None:
        """See further bytes; in a thread."""
        self.whole.update(data)
        self.end += len(data)


def found_at_pull(upload: OwnedUpload, epoch: int) -> None:
    """Go on with what the tenure before has computed, of the bytes that count now. Before any byte comes."""
    if upload.record.terms.digest is not None:
        upload.digests = _progress(upload, epoch)


def begin(upload: OwnedUpload, part: str | None, offset: int) -> Seen | None:
    """Return what is to see the bytes of an append; None: nothing needs to, or it would miss what came before."""
    if part is not None or upload.record.terms.digest is None:
        return None
    progress = _of(upload)
    return Seen(progress) if progress.at == offset else None


def settled(upload: OwnedUpload, seen: Seen | None) -> None:
    """Take over what was seen, if all of it, and nothing else, is kept."""
    if seen is not None and upload.digests is seen.progress and seen.end == upload.offsets.get(None, 0):
        seen.progress.whole, seen.progress.at = seen.whole, seen.end


def start(upload: OwnedUpload) -> None:
    """Compute in the background what is missing, once the upload has come to rest."""
    if upload.record.terms.digest is None or upload.record.status is not Status.OPEN:
        return
    if upload.digesting is None or upload.digesting.done():
        offset = upload.offsets.get(None, 0)
        progress = _of(upload)
        if progress.at < offset or len(progress.blocks) < offset // BLOCK_BYTES:
            upload.busy += 1
            upload.digesting = upload.services.clock.spawn(_run(upload), name=f"digest {upload.id}")


async def finished(upload: OwnedUpload) -> str | None:
    """Return the SHA-256 of the complete file in hex, when it is known; None: nobody asks for it.

    All bytes lie on this instance's volume.

    Raises:
        VolumeError: not now.
    """
    record = upload.record
    if record.terms.digest is None or record.digest is not None:
        return record.digest
    progress = _of(upload)
    await _read_anew(upload, progress)
    assert progress.at == (record.content.length or 0) or upload.superseded or upload.record.status.final
    return progress.whole.hexdigest()


def _of(upload: OwnedUpload) -> Progress:
    progress = upload.digests
    if progress is None or progress.beginnings != upload.record.beginnings:
        progress = upload.digests = _progress(upload, upload.record.epoch)
    return progress


def _progress(upload: OwnedUpload, epoch: int) -> Progress:
    found = (epoch, upload.offsets.get(None, 0))
    return Progress(upload.record.beginnings, upload.record.epoch, found)


async def _run(upload: OwnedUpload) -> None:
    try:
        await upload.services.clock.sleep(REST_S)
        await _read_anew(upload, _of(upload))
    except VolumeError as error:
        if not (upload.superseded or upload.record.status.final):
            # It is tried again behind the next append, at the latest when the upload is complete.
            log.warning(events.UPKEEP_DELAYED, upload_id=upload.id, detail=str(error))
    finally:
        upload.busy -= 1


async def _read_anew(upload: OwnedUpload, progress: Progress) -> None:
    """Bring *progress* to what is settled now, piece by piece: it may be cut between two of them."""
    async with progress.guard:
        if progress.found is not None:
            await _read_found(upload, progress, *progress.found)
            progress.found = None
        while upload.digests is progress and not (upload.superseded or upload.record.status.final):
            stop = _stop(upload)
            keeps_blocks = upload.record.status is Status.OPEN
            at, block = progress.at, len(progress.blocks) * BLOCK_BYTES
            if keeps_blocks and upload.appending and at >= stop:
                # What comes now is seen on its way; the blocks have time.
                break
            if keeps_blocks and at >= block and block + BLOCK_BYTES <= stop:
                await _hash_block(upload, progress, block)
            elif at < stop:
                end = min(at + BLOCK_BYTES, stop)
                if keeps_blocks and at < block:
                    end = min(end, block)
                whole = progress.whole.copy()
                await _show(upload, at, end, whole)
                _advance(progress, at, end, whole)
            else:
                break


async def _hash_block(upload: OwnedUpload, progress: Progress, start: int) -> None:
    """Compute the digest of a block, and of the whole up to its end where that is as far; keep it."""
    end = start + BLOCK_BYTES
    hashes = [hashlib.sha256()]
    at = progress.at
    if at == start:
        hashes.append(progress.whole.copy())
    await _show(upload, start, end, *hashes)
    if len(hashes) > 1:
        _advance(progress, at, end, hashes[1])
    if upload.digests is not progress or upload.superseded:
        return
    progress.blocks.append(hashes[0].digest())
    await _store(upload, progress)


async def _store(upload: OwnedUpload, progress: Progress) -> None:
    first = progress.stored
    data = blocks.encode(progress.blocks[first:], first=first)
    await upload.services.volume.blocks.write(upload.id, progress.epoch, blocks.place_of(first), data)
    progress.stored = len(progress.blocks)


def _advance(progress: Progress, at: int, end: int, whole: _Hash) -> None:
    """Have the digest of the whole be that of the first *end* bytes, unless an append has brought it on meanwhile."""
    if progress.at == at:
        progress.whole, progress.at = whole, end


async def _read_found(upload: OwnedUpload, progress: Progress, epoch: int, offset: int) -> None:
    found = blocks.decode(await upload.services.volume.blocks.read(upload.id, epoch))
    progress.blocks = found[: offset // BLOCK_BYTES]
    if epoch == progress.epoch:
        progress.stored = len(progress.blocks)
    elif progress.blocks:
        await _store(upload, progress)


def _stop(upload: OwnedUpload) -> int:
    """Return how many bytes are settled, and lie here without a gap."""
    content = upload.record.content
    offset = content.length or 0 if upload.record.status.whole else upload.offsets.get(None, 0)
    own = upload.services.volume.id
    return min((r.start for r in content.map if r.volume_id != own and r.stop != r.start), default=offset)


async def _show(upload: OwnedUpload, start: int, end: int, *hashes: _Hash) -> None:
    """Show bytes ``[start, end)`` of the upload to *hashes*.

    Raises:
        VolumeError: not all of them.
    """

    def see(data: bytes | memoryview) -> None:
        for each in hashes:
            each.update(data)

    at = start
    for segment, skip, size in _pieces(upload.record.content, start, end):
        shown = await upload.services.volume.blocks.look_through(upload.id, segment, skip, size, see)
        at += shown
        if shown < size:
            break
    if at < end:
        raise VolumeUnavailableError(f"bytes from {at} on could not be read for the digest")


def _pieces(content: Content, start: int, end: int) -> list[tuple[str, int, int]]:
    """Return where bytes ``[start, end)`` lie: segment, offset in it, how many."""
    found = []
    for r in content.map:
        first, last = max(r.start, start), min(end if r.stop is None else r.stop, end)
        if first < last:
            found.append((r.segment, r.skip + first - r.start, last - first))
    return found
