"""Volumes of each kind for tests, and what is put on them."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path

from incomingd.core import ids
from incomingd.core.content import Content, Range
from incomingd.core.record import Record, Terms
from incomingd.core.status import Status
from incomingd.core.tenure import Claim, ClaimKind, Identity
from incomingd.storage.body import BodyCutError, CutReason
from incomingd.storage.directory import DirectoryOptions, DirectoryVolume
from incomingd.storage.memory import MemoryDisk, MemoryVolume
from incomingd.storage.volume import Segment, Taken

VOLUME_ID = "Volume000001"
ME = Identity("test", "start-1")

_numbers = itertools.count()

AnyVolume = DirectoryVolume | MemoryVolume


def open_directory(root: Path, *, shared: bool = False, start_id: str = "", **options: object) -> DirectoryVolume:
    chosen = dataclasses.replace(DirectoryOptions(threads=4, reserve_bytes=0), **options)  # type: ignore[arg-type] # by name
    holder: dict[str, object] = {"instance": "test", "pid": 1}
    return DirectoryVolume.open(root, new_id=VOLUME_ID, holder=holder, options=chosen, shared=shared, start_id=start_id)


class Machine:
    """One machine with one volume: the process can end in several ways, and begins again.

    `kind` says what the volume is, and whether the process may share it with others.
    """

    def __init__(self, kind: str, root: Path) -> None:
        self.kind, _, shared = kind.partition(" ")
        self.shared = bool(shared)
        self.root = root
        self.disk = MemoryDisk(VOLUME_ID)
        self._runs = 0
        self._opened: list[AnyVolume] = []
        self.volume: AnyVolume = self.open()

    def open(self, *, shared: bool | None = None, start_id: str | None = None) -> AnyVolume:
        """Open the volume as one more process; the run of the first one is that of `ME`."""
        self._runs += 1
        chosen = self.shared if shared is None else shared
        run = start_id or f"start-{self._runs}"
        if self.kind == "directory":
            self.volume = open_directory(self.root, shared=chosen, start_id=run)
        else:
            self.volume = self.disk.open(shared=chosen, start_id=run)
        self._opened.append(self.volume)
        return self.volume

    def join(self) -> AnyVolume:
        """Open the volume as one more process beside the others."""
        return self.open(shared=True)

    def names(self, upload_id: str) -> set[str]:
        """Return the names of all files in the upload's folder."""
        if self.kind == "directory":
            return set(os.listdir(self.root / "uploads" / upload_id[:2] / upload_id))
        return set(self.disk.uploads.names[upload_id].names)

    async def close(self) -> None:
        await close_all(self._opened)

    async def restart(self) -> AnyVolume:
        await self.volume.close()
        return self.open()


def new_id(number: int = 1) -> str:
    return ids.upload_id(number, VOLUME_ID)


def new_record(number: int = 1, **changes: object) -> Record:
    record = Record(
        upload_id=new_id(number), terms=Terms("http://app.example/done", "c2VjcmV0"), created_at=1.0, expires_at=2.0
    )
    return dataclasses.replace(record, **changes)  # type: ignore[arg-type] # by name


def claimed(
    record: Record, volume: AnyVolume, *, owner: Identity = ME, epoch: int | None = None
) -> tuple[Claim, Record]:
    """Return the next claim, and the record that follows it, with a segment that grows."""
    number = epoch if epoch is not None else record.epoch + 1
    claim = Claim(number, owner, f"create-{next(_numbers)}", volume.id, ClaimKind.PULL)
    growing = Content().grown_by(f"bytes.{claim.epoch}", volume.id, 0)
    return claim, dataclasses.replace(
        record, epoch=claim.epoch, owner=owner, claim_kind=claim.kind, content=growing, boot_id=volume.boot_id
    )


async def owned_upload(volume: AnyVolume, number: int = 1) -> Record:
    """Make an upload and pull it."""
    record = new_record(number)
    await volume.create(record)
    claim, record = claimed(record, volume)
    await volume.claim(record.upload_id, claim)
    await volume.write(record, sync=True)
    return record


def complete_record(record: Record, *pieces: tuple[str, int, int], volume: AnyVolume) -> Record:
    """Return *record* as complete, made of (segment, skip, size)."""
    ranges, at = [], 0
    for segment, skip, size in pieces:
        ranges.append(Range(segment, volume.id, at, at + size, skip))
        at += size
    content = Content(length=at, map=tuple(ranges), noted_offset=at)
    return dataclasses.replace(record, status=Status.COMPLETE, content=content)


class Bytes:
    """A body of given pieces, which may end by being cut."""

    def __init__(self, *pieces: bytes, cut: CutReason | None = None) -> None:
        self._pieces = list(pieces)
        self._cut = cut
        self.kept_offsets: list[int] = []

    @property
    def length(self) -> int | None:
        return None if self._cut else sum(map(len, self._pieces))

    async def read(self) -> bytes:
        if self._pieces:
            return self._pieces.pop(0)
        if self._cut is not None:
            raise BodyCutError(self._cut)
        return b""

    def cut(self, reason: CutReason) -> None:
        self._cut = reason
        self._pieces.clear()

    def kept(self, offset: int) -> None:
        self.kept_offsets.append(offset)


async def fill(segment: Segment, *pieces: bytes, room: int | None = None) -> Taken:
    return await segment.take(Bytes(*pieces), room=room, on_kept=lambda _: None)


async def put(volume: AnyVolume, upload_id: str, name: str, data: bytes, *, sync: bool = True) -> None:
    """Have the segment *name* hold *data*."""
    segment = await volume.open_segment(upload_id, name, create=True, size=0, sync=sync)
    await fill(segment, data)
    if sync:
        await segment.sync()
    await segment.close()


async def whole_file(volume: AnyVolume, record: Record) -> bytes | None:
    file = await volume.open_file(record)
    if file is None:
        return None
    try:
        return await file.read(0, file.size)
    finally:
        await file.close()


async def close_all(volumes: Iterable[AnyVolume]) -> None:
    for volume in volumes:
        await volume.close()


MakeVolumes = Callable[[], AsyncIterator[AnyVolume]]
