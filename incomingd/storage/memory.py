"""A volume in memory that can break like a disk: for tests and simulations.

:class:`MemoryDisk` is what outlives a process, :class:`MemoryVolume` one
process's use of it. The disk keeps two states: what a reader sees now (the page
cache) and what is on the platters. :meth:`MemoryDisk.kill` ends the process and
keeps the first; :meth:`MemoryDisk.lose_power` goes back to the second, plus as
much of what was not synced as chance allows: changes of names in the order in
which they were made, for each directory by itself, and any number of a file's
bytes, which may then hold anything.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

from incomingd.core import codec, ids
from incomingd.storage.measuring import counted
from incomingd.storage.memory_parts import Directory, File, Trouble
from incomingd.storage.volume import (
    ClaimTakenError,
    RecordUnreadableError,
    Standing,
    Taken,
    UploadExistsError,
    VolumeFullError,
    VolumeLockedError,
    VolumeUnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from incomingd.core.content import Content
    from incomingd.core.record import Record
    from incomingd.core.tenure import Claim, Identity
    from incomingd.storage.body import Body

T = TypeVar("T")

RECORD: Final = "record.json"
GROUP_CHARS: Final = 2


@dataclass
class MemoryDisk:
    """What outlives a process."""

    volume_id: str
    seed: int = 0
    durable: bool = True
    """As :attr:`incomingd.storage.directory.DirectoryOptions.durable`."""
    free_bytes: int | None = None
    """Goes down as bytes come; None: there is always room. Deleting frees nothing: set it anew."""
    trouble: Callable[[str], Trouble | None] | None = None
    """Asked at each call, with its name: ``write``, ``take``, ``sync``, …"""
    calls: int = 0
    """Made so far."""
    boots: int = 1
    uploads: Directory[Directory[File]] = field(default_factory=Directory)
    files: Directory[File] = field(default_factory=Directory)
    keys: Directory[File] = field(default_factory=Directory)
    holder: MemoryVolume | None = None
    groups: dict[str, set[str]] = field(default_factory=dict)
    """Ids of the uploads, by group."""
    stamps: dict[str, int] = field(default_factory=dict)
    """How often an upload has come into each group."""

    def __post_init__(self) -> None:
        assert ids.is_volume_id(self.volume_id), self.volume_id
        self._chance = random.Random(self.seed)  # noqa: S311 -- breaks things in a way that can be repeated

    @property
    def boot_id(self) -> str:
        """Of the kernel that runs."""
        return f"boot-{self.boots}"

    def open(self, *, start_id: str = "") -> MemoryVolume:
        """Use the disk, as one process, the run *start_id* of an instance.

        Raises:
            VolumeLockedError: another one does.
        """
        if self.holder is not None:
            raise VolumeLockedError("the memory disk is in use")
        self.holder = MemoryVolume(self, start_id)
        return self.holder

    def kill(self) -> None:
        """End the process that uses the disk: its calls are never answered."""
        if self.holder is not None:
            self.holder.dead = True
            self.holder = None

    def lose_power(self) -> None:
        """End the process, forget what was not synced, start another kernel."""
        self.kill()
        self.boots += 1
        found = [*self.files.after_power_loss(self._chance), *self.keys.after_power_loss(self._chance)]
        for folder in self.uploads.after_power_loss(self._chance):
            found += folder.after_power_loss(self._chance)
        for file in {id(file): file for file in found}.values():
            file.after_power_loss(self._chance)
        self.groups.clear()
        for upload_id in self.uploads.names:
            self.enter(upload_id)

    def enter(self, upload_id: str) -> None:
        """Have the upload found in its group."""
        self.stamps[upload_id[:GROUP_CHARS]] = self.stamps.get(upload_id[:GROUP_CHARS], 0) + 1
        self.groups.setdefault(upload_id[:GROUP_CHARS], set()).add(upload_id)

    def leave(self, upload_id: str) -> None:
        """Have it not found any more."""
        self.groups.get(upload_id[:GROUP_CHARS], set()).discard(upload_id)

    def take_room(self, size: int) -> int:
        """Return how many of *size* bytes find room, and use it up."""
        if self.free_bytes is None:
            return size
        fits = min(size, self.free_bytes)
        self.free_bytes -= fits
        return fits


class _Calls:
    """Makes calls that wait their turn, can fail, and end with the process."""

    def __init__(self, volume: MemoryVolume) -> None:
        self._volume = volume

    async def make(self, name: str, work: Callable[[], T]) -> T:
        """Do *work* as the call *name*."""
        trouble = await self.begin(name)
        if trouble is not None and trouble.error is not None and not trouble.done:
            raise trouble.error(f"{name}: made to fail")
        result = work()
        if trouble is not None:
            await self.end(trouble)
            if trouble.error is not None:
                raise trouble.error(f"{name}: made to lose its answer")
        return result

    async def begin(self, name: str) -> Trouble | None:
        """Wait as for a disk; return what befalls the call."""
        disk = self._volume.disk
        disk.calls += 1
        trouble = disk.trouble(name) if disk.trouble is not None else None
        await asyncio.sleep(0)
        if trouble is not None and trouble.hold is not None and not trouble.late:
            await trouble.hold
        if self._volume.dead:
            await asyncio.get_running_loop().create_future()
        return trouble

    async def end(self, trouble: Trouble) -> None:
        """Wait with an answer that comes late."""
        if trouble.hold is not None and trouble.late:
            await trouble.hold


class MemorySegment:
    """See :class:`incomingd.storage.volume.Segment`."""

    def __init__(self, file: File, calls: _Calls, disk: MemoryDisk) -> None:
        self._file = file
        self._size = len(file.data)
        self._calls = calls
        self._disk = disk
        self._open = True

    @property
    def size(self) -> int:
        """Bytes kept in it so far."""
        return self._size

    async def take(
        self,
        body: Body,
        *,
        room: int | None,
        on_kept: Callable[[int], None],
        see: Callable[[bytes], None] | None = None,
    ) -> Taken:
        """Keep the bytes of *body*, piece by piece."""
        left = room
        while True:
            data = await body.read()
            if not data:
                return Taken(overflow=False)
            fits = data if left is None else data[:left]
            if fits:
                await self._keep(fits, see)
                on_kept(self._size)
            if left is not None:
                left -= len(fits)
                if len(fits) < len(data):
                    return Taken(overflow=True)

    async def _keep(self, data: bytes, see: Callable[[bytes], None] | None) -> None:
        assert self._open, "the segment is closed"
        trouble = await self._calls.begin("take")
        failing = trouble is not None and trouble.error is not None
        wanted = data
        if trouble is not None and failing and not trouble.done:
            wanted = data[: int(len(data) * trouble.share)]
        kept = wanted[: self._disk.take_room(len(wanted))]
        del self._file.data[self._size :]
        self._file.data.extend(kept)
        self._size += len(kept)
        if see is not None and kept:
            see(kept)
        if trouble is not None:
            await self._calls.end(trouble)
            if trouble.error is not None:
                raise trouble.error("take: made to fail")
        if len(kept) < len(wanted):
            raise VolumeFullError("take: no room")

    async def sync(self) -> None:
        """Return when all kept bytes would survive a power loss."""
        await self._calls.make("sync", self._sync)

    def _sync(self) -> None:
        self._file.synced = len(self._file.data)

    async def cut_back(self, size: int) -> None:
        """Forget the bytes behind the first *size*, even where that fails."""
        assert size <= self._size, (size, self._size)
        self._size = size
        await self._calls.make("cut_back", lambda: self._file.cut(size))

    async def read_back(self, start: int, see: Callable[[bytes], None]) -> None:
        """Hand the kept bytes from *start* on to *see*."""
        see(await self._calls.make("read_back", lambda: bytes(self._file.data[start : self._size])))

    async def close(self) -> None:
        """Let go of it."""
        self._open = False


class MemoryVolume:
    """See :class:`incomingd.storage.volume.Volume`; claims stand in the record, as under a directory's lock."""

    def __init__(self, disk: MemoryDisk, start_id: str) -> None:
        self.disk = disk
        self.start_id = start_id
        self.dead = False
        """The process is gone; nothing of it changes anything any more."""
        self.boot_id = disk.boot_id
        self._calls = _Calls(self)

    @property
    def id(self) -> str:
        """The volume's own id."""
        return self.disk.volume_id

    @property
    def shared(self) -> bool:
        """Whether other processes may claim uploads here meanwhile."""
        return False

    @property
    def network(self) -> bool:
        """Whether bytes count only as noted."""
        return False

    # -- records and claims

    def _folder(self, upload_id: str) -> Directory[File]:
        folder = self.disk.uploads.names.get(upload_id)
        if folder is None:
            raise VolumeUnavailableError(f"no upload {upload_id}")
        return folder

    def _segment(self, upload_id: str, name: str) -> File:
        file = self._folder(upload_id).names.get(name)
        if file is None:
            raise VolumeUnavailableError(f"no segment {name}")
        return file

    async def create(self, record: Record) -> None:
        """Store the record of a new upload, parked at offset 0."""

        def create() -> None:
            if record.upload_id in self.disk.uploads.names:
                raise UploadExistsError(record.upload_id)
            folder: Directory[File] = Directory()
            self._replace(folder, RECORD, codec.encode(record), sync=self.disk.durable)
            self.disk.uploads.put(record.upload_id, folder)
            self.disk.enter(record.upload_id)
            if self.disk.durable:
                self.disk.uploads.sync()

        await self._calls.make("create", create)

    async def read(self, upload_id: str) -> Record | None:
        """Return the last record, or None: there is no such upload here."""
        return await self._calls.make("read", lambda: self._read(upload_id))

    def _read(self, upload_id: str) -> Record | None:
        folder = self.disk.uploads.names.get(upload_id)
        file = folder.names.get(RECORD) if folder is not None else None
        if file is None:
            return None
        try:
            return codec.decode(bytes(file.data))
        except codec.RecordFormatError as error:
            raise RecordUnreadableError(str(error)) from error

    async def standing(self, upload_id: str) -> Standing | None:
        """Return the last record; the claim stands in it."""
        record = await self.read(upload_id)
        return Standing(record, None) if record is not None else None

    async def claim(self, upload_id: str, claim: Claim) -> None:
        """Begin a tenure: it stands with the record that follows."""

        def claim_it() -> None:
            record = self._read(upload_id)
            if record is None or record.epoch != claim.epoch - 1:
                raise ClaimTakenError(upload_id)

        await self._calls.make("claim", claim_it)

    async def look(self, upload_id: str, epoch: int) -> bool:
        """Return True: only one process uses the disk at a time."""
        del upload_id, epoch
        return await self._calls.make("look", lambda: True)

    async def gone(self, owner: Identity) -> bool:
        """Return True for every run but this one."""
        return await self._calls.make("gone", lambda: owner.start_id != self.start_id)

    async def write(self, record: Record, *, sync: bool) -> None:
        """Replace the record as a whole."""
        data = codec.encode(record)
        await self._calls.make("write", lambda: self._replace(self._folder(record.upload_id), RECORD, data, sync=sync))

    def _replace(self, folder: Directory[File], name: str, data: bytes, *, sync: bool) -> None:
        if self.disk.free_bytes == 0:
            raise VolumeFullError("no room for a record")
        file = File(data)
        # Whole or not at all: the bytes are down before the name points to them.
        file.synced = len(data)
        folder.put(name, file)
        if sync:
            folder.sync()

    # -- bytes

    async def measure(self, record: Record, content: Content) -> int:
        """Return how many bytes of *content* count."""

        def size_of(segment: str) -> int:
            folder = self.disk.uploads.names.get(record.upload_id)
            file = folder.names.get(segment) if folder is not None else None
            return len(file.data) if file is not None else 0

        return await self._calls.make(
            "measure", lambda: counted(record, content, size_of=size_of, boot_id=self.boot_id)
        )

    async def cut_back(self, upload_id: str, content: Content, offset: int) -> None:
        """Drop what lies in the growing segment behind *offset* of *content*."""

        def cut() -> None:
            growing = content.growing
            file = self._folder(upload_id).names.get(growing.segment) if growing is not None else None
            if growing is not None and file is not None:
                file.cut(min(len(file.data), max(offset - growing.start, 0) + growing.skip))

        await self._calls.make("cut_back", cut)

    async def open_segment(self, upload_id: str, name: str, *, create: bool, size: int, sync: bool) -> MemorySegment:
        """Open a segment for the one append that goes into it."""

        def open_it() -> File:
            folder = self._folder(upload_id)
            file = folder.names.get(name)
            if file is None:
                if not create:
                    raise VolumeUnavailableError(f"no segment {name}")
                file = File()
                folder.put(name, file)
            if create and sync:
                folder.sync()
            if len(file.data) < size:
                raise VolumeUnavailableError(f"segment {name} is too short")
            file.cut(size)
            return file

        return MemorySegment(await self._calls.make("open_segment", open_it), self._calls, self.disk)

    async def read_range(self, upload_id: str, segment: str, start: int, size: int) -> bytes:
        """Return a run of bytes of a segment."""

        def read() -> bytes:
            return bytes(self._segment(upload_id, segment).data[start : start + size])

        return await self._calls.make("read_range", read)

    async def sync_segments(self, record: Record, content: Content) -> None:
        """Return when all bytes of *content* would survive a power loss."""

        def sync() -> None:
            for part in content.map:
                file = self._segment(record.upload_id, part.segment)
                file.synced = len(file.data)
            self._folder(record.upload_id).sync()

        await self._calls.make("sync_segments", sync)

    async def join(self, record: Record) -> None:
        """Make the complete file of its segments, under its final name."""
        await self._calls.make("join", lambda: self._join(record))

    def _join(self, record: Record) -> None:
        pieces = []
        for part in record.content.map:
            assert part.stop is not None, record.content
            size = part.stop - part.start
            if size:
                file = self._segment(record.upload_id, part.segment)
                if len(file.data) < part.skip + size:
                    raise VolumeUnavailableError(f"segment {part.segment} is too short")
                pieces.append((file, part.skip, size))
        if len(pieces) == 1 and pieces[0][1] == 0:
            joined = pieces[0][0]
            joined.cut(pieces[0][2])
        else:
            joined = File(b"".join(bytes(file.data[skip : skip + size]) for file, skip, size in pieces))
            if self.disk.take_room(len(joined.data)) < len(joined.data):
                raise VolumeFullError("join: no room")
        self.disk.files.put(record.upload_id, joined)
        if self.disk.durable:
            joined.synced = len(joined.data)
            self.disk.files.sync()

    def path_of(self, record: Record) -> Path | None:
        """Return None: nobody shares this memory."""
        del record
        return None

    async def open_file(self, record: Record) -> MemoryFile | None:
        """Open the joined file for reading; None if it is not there any more."""
        file = await self._calls.make("open_file", lambda: self.disk.files.names.get(record.upload_id))
        return MemoryFile(file, self._calls) if file is not None else None

    async def adopt_segments(self, upload_id: str, source_id: str, names: Mapping[str, str]) -> None:
        """Give segments of another upload a second name in this one."""

        def adopt() -> None:
            here = self._folder(upload_id)
            for old, new in names.items():
                file = self._segment(source_id, old)
                if new not in here.names:
                    here.put(new, file)
            if self.disk.durable:
                here.sync()

        await self._calls.make("adopt_segments", adopt)

    async def drop_segments(self, upload_id: str, names: Sequence[str]) -> None:
        """Delete these segments, as far as they exist."""

        def drop() -> None:
            folder = self.disk.uploads.names.get(upload_id)
            for name in names:
                if folder is not None:
                    folder.drop(name)

        await self._calls.make("drop_segments", drop)

    async def drop_bytes(self, record: Record, *, file_too: bool) -> None:
        """Delete all segments and, where asked, the joined file."""

        def drop() -> None:
            folder = self.disk.uploads.names.get(record.upload_id)
            for name in list(folder.names) if folder is not None else ():
                if folder is not None and name != RECORD:
                    folder.drop(name)
            if file_too:
                self.disk.files.drop(record.upload_id)

        await self._calls.make("drop_bytes", drop)

    async def remove(self, upload_id: str) -> None:
        """Delete all that is left of an upload but a file that was kept."""

        def remove() -> None:
            self.disk.uploads.drop(upload_id)
            self.disk.leave(upload_id)

        await self._calls.make("remove", remove)

    # -- room

    async def has_room(self, size: int) -> bool:
        """Whether *size* more bytes fit."""
        return await self._calls.make("has_room", lambda: self.disk.free_bytes is None or size <= self.disk.free_bytes)

    # -- all uploads

    async def groups(self) -> list[str]:
        """Return the names of the groups into which uploads are divided."""
        return await self._calls.make("groups", lambda: sorted(self.disk.groups))

    async def stamps(self) -> dict[str, int]:
        """Return how often something came into each group, or went."""
        return await self._calls.make("stamps", lambda: {group: self.disk.stamps[group] for group in self.disk.groups})

    async def ids_in(self, group: str) -> list[str]:
        """Return the ids of the uploads of one group, sorted."""
        return await self._calls.make("ids_in", lambda: sorted(self.disk.groups.get(group, ())))

    def group_of(self, upload_id: str) -> str:
        """Return the group that *upload_id* belongs to."""
        return upload_id[:GROUP_CHARS]

    # -- keys

    async def find_key(self, key: str) -> str | None:
        """Return the id of the upload that was bound to *key*, if any."""
        file = await self._calls.make("find_key", lambda: self.disk.keys.names.get(key))
        return file.data.decode("ascii") if file is not None else None

    async def bind_key(self, key: str, upload_id: str, *, instead_of: str | None) -> str:
        """Bind *key* to *upload_id*; see the interface."""

        def bind() -> str:
            file = self.disk.keys.names.get(key)
            bound = file.data.decode("ascii") if file is not None else None
            if bound is not None and bound != instead_of:
                return bound
            self._replace(self.disk.keys, key, upload_id.encode("ascii"), sync=self.disk.durable)
            return upload_id

        return await self._calls.make("bind_key", bind)

    async def forget_keys(self) -> None:
        """Forget the keys of uploads that are not here any more."""

        def forget() -> None:
            for key, file in list(self.disk.keys.names.items()):
                if file.data.decode("ascii") not in self.disk.uploads.names:
                    self.disk.keys.drop(key)

        await self._calls.make("forget_keys", forget)

    async def close(self) -> None:
        """Let go of the volume and its lock."""
        if self.disk.holder is self:
            self.disk.holder = None


class MemoryFile:
    """See :class:`incomingd.storage.volume.StoredFile`."""

    def __init__(self, file: File, calls: Any) -> None:
        self._file = file
        self._calls = calls

    @property
    def size(self) -> int:
        """Its size in bytes."""
        return len(self._file.data)

    async def read(self, start: int, size: int) -> bytes:
        """Return up to *size* bytes from *start* on."""
        return bytes(await self._calls.make("read_file", lambda: self._file.data[start : start + size]))

    async def close(self) -> None:
        """Let go of it."""
