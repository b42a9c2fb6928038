"""A volume in memory that can break like a disk: for tests and simulations.

:class:`MemoryDisk` is what outlives a process, :class:`MemoryVolume` one
process's use of it; several may share it, as instances share a directory. The
disk keeps two states: what a reader sees now (the page
cache) and what is on the platters. :meth:`MemoryDisk.kill` ends the process and
keeps the first; :meth:`MemoryDisk.lose_power` goes back to the second, plus as
much of what was not synced as chance allows: changes of names in the order in
which they were made, for each directory by itself, and any number of a file's
bytes, which may then hold anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from incomingd.storage.chain import RECORD, claim_name, is_older_record, record_name
from incomingd.storage.measuring import counted
from incomingd.storage.memory_blocks import PREFIX, MemoryBlocks
from incomingd.storage.memory_calls import MemoryFile, MemorySegment
from incomingd.storage.memory_disk import GROUP_CHARS, Platters
from incomingd.storage.memory_parts import Directory, File
from incomingd.storage.memory_tenures import MemoryTenures
from incomingd.storage.volume import (
    ClaimTakenError,
    Found,
    RecordUnreadableError,
    Standing,
    UploadExistsError,
    VolumeFullError,
    VolumeLockedError,
    VolumeRetiredError,
    VolumeUnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from incomingd.core.content import Content
    from incomingd.core.record import Record
    from incomingd.core.tenure import Claim, Identity
    from incomingd.storage.volume import Retirement


class MemoryDisk(Platters):
    """What outlives a process, and what processes begin with."""

    def open(self, *, shared: bool = False, start_id: str = "", host: str = "") -> MemoryVolume:
        """Use the disk, as one process.

        Args:
            shared: other processes may use it at the same time.
            start_id: of the run of an instance that this is.
            host: on which it runs; matters on a network.

        Raises:
            VolumeLockedError: another one does.
            VolumeRetiredError: it has an heir.
        """
        if self.retirement is not None and (self.retirement.settled or not shared):
            raise VolumeRetiredError("the memory disk has retired")
        if any(not (shared and holder.shared) for holder in self.holders):
            raise VolumeLockedError("the memory disk is in use")
        self.claims_are_files = self.claims_are_files or shared
        volume = MemoryVolume(self, start_id, host=host, shared=shared)
        for run in self.runs.values():
            run.over = run.over or volume.sees_the_end_of(run)
        self.holders.append(volume)
        if start_id:
            self.runs[start_id] = volume
        return volume


class MemoryVolume(MemoryTenures):
    """See :class:`incomingd.storage.volume.Volume`; claims stand where a directory has them."""

    def __init__(self, disk: MemoryDisk, start_id: str, *, host: str = "", shared: bool = False) -> None:
        super().__init__(disk)
        self.start_id = start_id
        self.over = False
        """It has closed the volume, or somebody has seen that it is gone."""
        self.boot_id = f"{disk.boot_id}{f' of {host}' if host else ''}"
        self.unsynced: list[File] = []
        """That it has written to, and may not have synced."""
        self._shared = shared
        self.blocks = MemoryBlocks(disk.uploads, self._calls)

    def wrote(self, file: File) -> None:
        """Bytes have been written to *file*."""
        if self.disk.network:
            others = [each for each in self.unsynced if each is not file and each.synced < len(each.data)]
            self.unsynced = [*others, file]
            for other in self.disk.holders:
                if other is not self:
                    # What it had written was synced before another one went on in the same file.
                    other.unsynced = [each for each in other.unsynced if each is not file]

    @property
    def shared(self) -> bool:
        """Whether other processes may claim uploads here meanwhile."""
        return self._shared

    @property
    def network(self) -> bool:
        """Whether bytes count only as noted."""
        return self.disk.network

    @property
    def heir_of(self) -> frozenset[str]:
        """Ids of the retired volumes whose records are kept here."""
        return self.disk.heir_of

    @property
    def retirement(self) -> Retirement | None:
        """How far this volume's own retirement has come."""
        return self.disk.retirement

    # -- records and claims

    async def create(self, record: Record) -> None:
        """Store the record of a new upload, parked at offset 0."""

        def create() -> None:
            if record.upload_id in self.disk.uploads.names:
                raise UploadExistsError(record.upload_id)
            folder: Directory[File] = Directory()
            name = record_name(record.epoch) if self.disk.claims_are_files else RECORD
            self._replace(folder, name, self.formats.encode(record), sync=self._durable)
            self.disk.uploads.put(record.upload_id, folder)
            self.disk.enter(record.upload_id)
            if self._durable:
                self.disk.uploads.sync()

        await self._calls.make("create", create)

    async def read(self, upload_id: str) -> Record | None:
        """Return the last record, or None: there is no such upload here."""

        def read() -> Record | None:
            standing = self._standing(upload_id)
            given = standing is not None and standing.given_from(self.id) is not None
            return None if standing is None or given else standing.record

        return await self._calls.make("read", read)

    async def standing(self, upload_id: str) -> Standing | None:
        """Return the last record and the last claim."""
        return await self._calls.make("standing", lambda: self._standing(upload_id))

    async def claim(self, upload_id: str, claim: Claim) -> None:
        """Begin a tenure: with a file, or, held alone, with the record that follows."""

        def claim_it() -> None:
            standing = self._standing(upload_id)
            if standing is None:
                raise ClaimTakenError(upload_id)
            if claim.create_id == (standing.claim or standing.record).create_id:
                return
            if standing.epoch != claim.epoch - 1:
                raise ClaimTakenError(upload_id)
            if self.disk.claims_are_files:
                folder = self._folder(upload_id)
                data = self.formats.encode_claim(claim)
                self._replace(folder, claim_name(claim.epoch), data, sync=self._durable)

        await self._calls.make("claim", claim_it)

    async def inherit(self, volumes: Collection[str]) -> None:
        """Be the heir of *volumes* for ever."""

        def inherit() -> None:
            self.disk.heir_of |= frozenset(volumes)

        await self._calls.make("inherit", inherit)

    async def look_for_heirdoms(self) -> frozenset[str]:
        """Look whose heir the volume is."""
        return await self._calls.make("look_for_heirdoms", lambda: self.disk.heir_of)

    async def retire(self, retirement: Retirement) -> None:
        """Note how far this volume's own retirement has come."""

        def retire() -> None:
            self.disk.retirement = retirement

        await self._calls.make("retire", retire)

    async def look(self, upload_id: str, epoch: int) -> bool:
        """Return whether no claim has followed; nobody else can make one while the disk is held alone."""

        def look() -> bool:
            if not self.disk.claims_are_files or not (self.shared or self.network):
                return True
            folder = self.disk.uploads.names.get(upload_id)
            return folder is not None and claim_name(epoch + 1) not in folder.names

        return await self._calls.make("look", look)

    async def gone(self, owner: Identity) -> bool:
        """Return whether the host shows that *owner* is over."""

        def gone() -> bool:
            if owner.start_id == self.start_id:
                return False
            if not (self.shared or self.network):
                return True
            run = self.disk.runs.get(owner.start_id)
            return run is not None and self.sees_the_end_of(run)

        return await self._calls.make("gone", gone)

    def sees_the_end_of(self, run: MemoryVolume) -> bool:
        """Return whether this process can tell that *run* is over."""
        return run.over or (run.dead and (not self.network or run.boot_id == self.boot_id))

    async def write(self, record: Record, *, sync: bool) -> None:
        """Replace the record as a whole."""
        data = self.formats.encode(record)

        def write() -> None:
            folder = self._folder(record.upload_id)
            if not self.disk.claims_are_files:
                self._replace(folder, RECORD, data, sync=sync or self.network)
                return
            name = record_name(record.epoch)
            first = name not in folder.names
            self._replace(folder, name, data, sync=sync or self.network)
            if first and (sync or not self._durable):
                for older in [each for each in folder.names if is_older_record(each, record.epoch)]:
                    folder.drop(older)

        await self._calls.make("write", write)

    # -- bytes

    async def measure(self, record: Record, content: Content) -> int:
        """Return how many bytes of *content* count."""

        def size_of(segment: str) -> int:
            folder = self.disk.uploads.names.get(record.upload_id)
            file = folder.names.get(segment) if folder is not None else None
            return len(file.data) if file is not None else 0

        return await self._calls.make(
            "measure",
            lambda: counted(
                record, content, size_of=size_of, boot_id=self.boot_id, network=self.network, volume_id=self.id
            ),
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
            if create and (sync or self.network):
                folder.sync()
            if len(file.data) < size:
                raise VolumeUnavailableError(f"segment {name} is too short")
            file.cut(size)
            return file

        return MemorySegment(await self._calls.make("open_segment", open_it), self._calls, self)

    async def read_range(self, upload_id: str, segment: str, start: int, size: int) -> bytes:
        """Return a run of bytes of a segment."""

        def read() -> bytes:
            return bytes(self._segment(upload_id, segment).data[start : start + size])

        return await self._calls.make("read_range", read)

    async def sync_segments(self, record: Record, content: Content) -> None:
        """Return when all bytes of *content* would survive a power loss."""

        def sync() -> None:
            for part in content.map:
                if part.volume_id != self.id:
                    continue
                if part.stop in (None, part.start) and part.segment not in self._folder(record.upload_id).names:
                    continue
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
        contested = any(part.contested for part in record.content.map)
        if len(pieces) == 1 and pieces[0][1] == 0 and not contested:
            joined = pieces[0][0]
            joined.cut(pieces[0][2])
        else:
            joined = File(b"".join(bytes(file.data[skip : skip + size]) for file, skip, size in pieces))
            if self.disk.take_room(len(joined.data)) < len(joined.data):
                raise VolumeFullError("join: no room")
        self.disk.files.put(record.upload_id, joined)
        if self._durable:
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

    async def unjoin(self, record: Record, segment: str) -> None:
        """Give the joined file a second name as a segment."""

        def unjoin() -> None:
            folder = self._folder(record.upload_id)
            folder.put(segment, self.disk.files.names[record.upload_id])
            folder.sync()

        await self._calls.make("unjoin", unjoin)

    async def adopt_segments(self, upload_id: str, source_id: str, names: Mapping[str, str]) -> None:
        """Give segments of another upload a second name in this one."""

        def adopt() -> None:
            here = self._folder(upload_id)
            for old, new in names.items():
                file = self._segment(source_id, old)
                if new not in here.names:
                    here.put(new, file)
            if self._durable:
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
                if folder is not None and not name.endswith(".json"):
                    folder.drop(name)
            if file_too:
                self.disk.files.drop(record.upload_id)

        await self._calls.make("drop_bytes", drop)

    async def segments_of(self, upload_id: str) -> dict[str, int]:
        """Return name and size of all of an upload's segments."""
        return await self._calls.make("segments_of", lambda: self._sizes(upload_id))

    def _sizes(self, upload_id: str) -> dict[str, int]:
        folder = self.disk.uploads.names.get(upload_id) or Directory()
        return {
            name: len(file.data)
            for name, file in folder.names.items()
            if not (name.endswith(".json") or name.startswith(PREFIX))
        }

    async def drop_file(self, upload_id: str) -> None:
        """Delete the joined file."""
        await self._calls.make("drop_file", lambda: self.disk.files.drop(upload_id))

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

    async def survey(self, group: str) -> list[Found]:
        """Return all uploads of one group, as they stand."""

        def look_through() -> list[Found]:
            found: list[Found] = []
            for upload_id in sorted(self.disk.groups.get(group, ())):
                try:
                    standing = self._standing(upload_id)
                except RecordUnreadableError:
                    found.append(Found(upload_id, None, has_bytes=True))
                    continue
                if standing is None:
                    has_bytes = False
                elif standing.given_from(self.id) is not None:
                    has_bytes = bool(self._sizes(upload_id))
                else:
                    has_bytes = standing.record.status.final and self.disk.leaves(upload_id)
                found.append(Found(upload_id, standing, has_bytes=has_bytes))
            return found

        return await self._calls.make("survey", look_through)

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
            self._replace(self.disk.keys, key, upload_id.encode("ascii"), sync=self._durable)
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
        if self in self.disk.holders:
            self.disk.holders.remove(self)
            self.over = True
