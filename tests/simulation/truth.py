"""What nobody in the fleet can see: how an upload really stands on the disk, and what was promised of it.

An upload's bytes are ink: every attempt of a client writes its own, so that a
byte tells who sent it. What the fleet has told anybody as an offset is a
promise: those bytes must never be other ones again, and no later answer may
tell less.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from incomingd.core import codec
from incomingd.core.record import Record
from incomingd.storage.chain import Chain
from incomingd.storage.memory_disk import Platters


class BrokenError(AssertionError):
    """A promise was broken."""


Beginning = tuple[int, int]
"""Number of the beginning in the record; number of the file that its client named."""


def stored_on(disk: Platters, upload_id: str) -> Record | None:
    """Return the last record of an upload as it lies on one disk."""
    folder = disk.uploads.names.get(upload_id)
    name = Chain.of(folder.names).last_record if folder is not None else None
    return codec.decode(bytes(folder.names[name].data)) if folder is not None and name is not None else None


def stored(disks: Iterable[Platters], upload_id: str) -> tuple[Record, Platters] | None:
    """Return the last record of an upload, and where it lies."""
    found = [(record, disk) for disk in disks if (record := stored_on(disk, upload_id)) is not None]
    return max(found, key=lambda each: each[0].epoch, default=None)


def bytes_of(disks: Mapping[str, Platters], at: Platters, record: Record) -> bytes:
    """Return the bytes that the record's map names, on whichever disk they lie."""
    if record.joined:
        file = at.files.names.get(record.upload_id)
        return bytes(file.data) if file is not None else b""
    found = bytearray()
    for part in record.content.map:
        disk = disks.get(part.volume_id, at)
        folder = disk.uploads.names.get(record.upload_id)
        segment = folder.names.get(part.segment) if folder is not None else None
        lies = bytes(segment.data[part.skip :]) if segment is not None else b""
        if part.stop is not None:
            found += lies[: part.stop - part.start]
            if len(found) < part.stop:
                break
        else:
            found += lies
    return bytes(found)


@dataclass
class Attempt:
    """Bytes that a client has begun to send."""

    offset: int
    data: bytes


@dataclass
class Promises:
    """Of one beginning of one upload."""

    offset: int = 0
    data: bytes = b""
    """Of the promised bytes."""


@dataclass
class Truth:
    """One upload as the world outside knows it."""

    upload_id: str
    name: str
    seed: int
    keeps: bool
    deferred: bool
    length: int
    checks: bool = False
    """Its client tells checksums, right ones and wrong ones."""
    parallel: bool = False
    """It is sent in parts."""
    files: int = 0
    """How many files its client has named."""
    attempts: list[Attempt] = field(default_factory=list)
    promises: dict[Beginning, Promises] = field(default_factory=dict)
    beginning: Beginning = (0, 0)
    """The last one of which an answer has told."""
    answered: dict[int, str] = field(default_factory=dict)
    """Epoch -> the run that has answered under it."""
    epoch: int = 0
    """The highest under which somebody has answered."""
    webhooks: set[str] = field(default_factory=set)
    arrived: bytes | None = None
    """The file as the web app took it."""
    may_end: set[str] = field(default_factory=set)
    """Statuses to which somebody may have brought it."""
    told_whole: bool = False
    """Somebody was told that all bytes are in."""

    def ink(self, offset: int, size: int) -> Attempt:
        """Return the next bytes that the client sends."""
        chance = random.Random(f"{self.seed} {len(self.attempts)}")
        self.attempts.append(Attempt(offset, chance.randbytes(size)))
        return self.attempts[-1]

    @property
    def sent(self) -> int:
        """How many bytes can be there at most."""
        return max((each.offset + len(each.data) for each in self.attempts), default=0)

    def check_bytes(self, beginning: Beginning, data: bytes) -> None:
        """Check that *data* is what was promised, and that each byte of it was sent for its place."""
        promised = self.promises.get(beginning, Promises())
        if not data.startswith(promised.data):
            at = next(
                (n for n, (a, b) in enumerate(zip(data, promised.data, strict=False)) if a != b),
                min(len(data), len(promised.data)),
            )
            raise BrokenError(f"{self.name}: acknowledged bytes are lost or others from {at} on, of {promised.offset}")
        for at, byte in enumerate(data):
            if at < len(promised.data):
                continue
            if not any(0 <= at - a.offset < len(a.data) and a.data[at - a.offset] == byte for a in self.attempts):
                raise BrokenError(f"{self.name}: nobody has sent the byte at {at}")

    def promise(self, beginning: Beginning, offset: int, data: bytes | None) -> None:
        """Note what was told; *data* is what lies there, None where nobody can tell."""
        kept = self.promises.setdefault(beginning, Promises())
        self.beginning = max(self.beginning, beginning)
        if data is not None:
            if len(data) < offset:
                raise BrokenError(f"{self.name}: {offset} is told, and {len(data)} bytes are there")
            self.check_bytes(beginning, data[: max(offset, len(kept.data))])
            if offset > len(kept.data):
                kept.data = data[:offset]
        kept.offset = max(kept.offset, offset)
