"""A volume in a directory, held by one process alone or shared by several.

Held alone under its lock nobody else can write here, so claims are kept inside
the record: a claim costs nothing by itself and stands with the record that
follows it. From its first shared opening on, claims are files for ever
(:mod:`incomingd.storage.directory.tenures`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

from incomingd.core import codec
from incomingd.storage.chain import RECORD
from incomingd.storage.directory import files, splicing
from incomingd.storage.directory.block_files import BlockFiles
from incomingd.storage.directory.contents import (
    OpenFile,
    bytes_in,
    link_all,
    link_back,
    open_complete,
    read_range,
    remove_at_once,
    remove_in_order,
    shorten,
    size_at_the_server,
    sizes_in,
    sync_ranges,
    unlink_all,
)
from incomingd.storage.directory.files import translated
from incomingd.storage.directory.heirs import add_heir_of, read_heir_of, write_retirement
from incomingd.storage.directory.joining import Piece, join_pieces
from incomingd.storage.directory.kept_open import KeptOpen
from incomingd.storage.directory.keys import KeyFiles
from incomingd.storage.directory.opening import DirectoryOptions, Held, hold
from incomingd.storage.directory.place import Place
from incomingd.storage.directory.segment import FileSegment, open_for_append
from incomingd.storage.directory.splicing import Splicer
from incomingd.storage.directory.surveying import GROUP_CHARS, groups_in, ids_in, stamps_in, survey
from incomingd.storage.directory.syncing import Syncer
from incomingd.storage.directory.tenures import TenureFiles, read_record
from incomingd.storage.measuring import counted
from incomingd.storage.volume import (
    ClaimTakenError,
    Standing,
    UploadExistsError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from incomingd.core.content import Content
    from incomingd.core.record import Record
    from incomingd.core.tenure import Claim, Identity
    from incomingd.storage.volume import Found, Retirement

SPLICERS: Final = 2
"""One thread of so many moves what the kernel takes by itself: work that no slow client can hold up."""


class DirectoryVolume(Place):
    """See :class:`incomingd.storage.volume.Volume`."""

    def __init__(self, root: Path, held: Held, options: DirectoryOptions, formats: codec.Formats) -> None:
        super().__init__(root, held, threads=options.threads)
        self._formats = formats
        self._options = options
        self._durable = options.durable or held.network
        self._heir_of = held.heir_of
        self._retirement = held.retirement
        self._syncer = Syncer()
        self._kept_open = KeptOpen(self._pool)
        fast = options.fast_path and splicing.offered()
        self._splicer = Splicer(max(1, options.threads // SPLICERS)) if fast else None
        self._seer = Splicer(max(1, options.threads // SPLICERS), "see") if fast else None
        self._key_guard = asyncio.Lock()
        self._interrupted = threading.Event()
        self.blocks = BlockFiles(self._folder, self._interrupted.is_set)
        tenures = TenureFiles(token=held.token, durable=self._durable, formats=formats)
        self._tenures = tenures if held.claims_are_files else None
        self._keys = KeyFiles(
            root / "keys",
            token=held.token,
            numbered=held.claims_are_files,
            durable=self._durable,
            sync_group=self._sync_group,
        )

    # -- opening

    @classmethod
    def open(
        cls,
        root: Path,
        *,
        new_id: str,
        holder: dict[str, object],
        options: DirectoryOptions,
        shared: bool = False,
        start_id: str = "",
        formats: codec.Formats = codec.NEWEST,
    ) -> DirectoryVolume:
        """Open the volume at *root*, making it if nothing is there; blocks.

        Args:
            root: the directory.
            new_id: the volume's id, should it be made now.
            holder: who holds the lock, for those who come later.
            options: see there.
            shared: other processes may use it at the same time; claims are files then, and ever after.
            start_id: of this run of the program, so that others can be shown that it is over; empty: nobody is.
            formats: of records and claims.

        Raises:
            VolumeLockedError: another process holds it; alone, or where it is not to be shared.
            VolumeUnavailableError: it cannot be made, written, shared, or is of
                an unknown format, or files cannot be given the mode and group.
        """
        with translated(f"opening {root}"):
            held = hold(root, new_id=new_id, holder=holder, options=options, shared=shared, start_id=start_id)
        return cls(root, held, options, formats)

    @property
    def heir_of(self) -> frozenset[str]:
        """Ids of the retired volumes whose records are kept here."""
        return self._heir_of

    @property
    def retirement(self) -> Retirement | None:
        """How far this volume's own retirement has come."""
        return self._retirement

    # -- records and claims

    async def create(self, record: Record) -> None:
        """Store the record of a new upload; see the interface."""
        await self._run("making an upload", self._create, record)

    def _create(self, record: Record) -> None:
        # An upload that is born on another volume than its id says is never found.
        self._assert_there()
        folder = self._folder(record.upload_id)
        group = folder.parent
        group.mkdir(exist_ok=True)
        try:
            folder.mkdir()
        except FileExistsError:
            raise UploadExistsError(record.upload_id) from None
        try:
            self._write(record, self._durable)
            if self._durable:
                self._sync_group(group)
        except OSError:
            with contextlib.suppress(OSError):
                self._remove(record.upload_id)
            raise

    async def read(self, upload_id: str) -> Record | None:
        """Return the last record; see the interface."""
        return await self._ask("reading a record", self._read, upload_id)

    def _read(self, upload_id: str) -> Record | None:
        folder = self._folder(upload_id)
        record = None
        if self._tenures is not None:
            record = self._tenures.read(folder, upload_id, self._id)
        else:
            with contextlib.suppress(FileNotFoundError):
                record = read_record(folder / RECORD, upload_id, self._formats)
        if record is None:
            # Nothing may be called unknown by a volume that is not there.
            self._assert_there()
        return record

    async def standing(self, upload_id: str) -> Standing | None:
        """Return the last record and the last claim; see the interface."""
        return await self._ask("reading a record", self._standing, upload_id)

    def _standing(self, upload_id: str) -> Standing | None:
        if self._tenures is None:
            record = self._read(upload_id)
            return Standing(record, None) if record is not None else None
        standing = self._tenures.standing(self._folder(upload_id), upload_id)
        if standing is None:
            self._assert_there()
        return standing

    async def claim(self, upload_id: str, claim: Claim) -> None:
        """Begin a tenure: with a file, or, held alone, with the record that follows."""
        await self._run("claiming an upload", self._claim, upload_id, claim)

    def _claim(self, upload_id: str, claim: Claim) -> None:
        if self._tenures is None:
            record = self._read(upload_id)
            if record is None or record.epoch != claim.epoch - 1:
                raise ClaimTakenError(upload_id)
            return
        folder = self._folder(upload_id)
        if not folder.exists():
            self._assert_there()
        self._tenures.claim(folder, upload_id, claim)

    async def take(self, claim: Claim, record: Record) -> None:
        """Begin a tenure here that another volume's holder has given; see the interface."""

        def take(tenures: TenureFiles, folder: Path) -> None:
            tenures.take(folder, claim, record)

        await self._run("taking an upload", self._from_elsewhere, record.upload_id, take)

    async def decline(self, claim: Claim, upload_id: str) -> None:
        """Have what another volume's holder has given never be taken here; see the interface."""

        def decline(tenures: TenureFiles, folder: Path) -> None:
            tenures.decline(folder, upload_id, claim)

        await self._run("declining an upload", self._from_elsewhere, upload_id, decline)

    async def keep_given(self, claim: Claim, record: Record) -> None:
        """Keep what a volume that retires knew of an upload that it had given away; see the interface."""

        def keep(tenures: TenureFiles, folder: Path) -> None:
            tenures.keep_given(folder, claim, record)

        await self._run("keeping a claim", self._from_elsewhere, record.upload_id, keep)

    def _from_elsewhere(self, upload_id: str, act: Callable[[TenureFiles, Path], None]) -> None:
        """Do what concerns an upload of which nothing may lie here yet; it survives a power loss."""
        assert self._tenures is not None, "a fleet keeps its claims in files"
        self._assert_there()
        folder = self._folder(upload_id)
        folder.parent.mkdir(exist_ok=True)
        folder.mkdir(exist_ok=True)
        act(self._tenures, folder)
        self._sync_group(folder.parent)

    async def inherit(self, volumes: Collection[str]) -> None:
        """Be the heir of *volumes* for ever."""

        def inherit() -> None:
            self._assert_there()
            add_heir_of(self._root, volumes)

        await self._run("inheriting a volume", inherit)
        self._heir_of |= frozenset(volumes)

    async def look_for_heirdoms(self) -> frozenset[str]:
        """Look whose heir the volume is."""
        self._heir_of |= await self._ask("looking for heirdoms", read_heir_of, self._root)
        return self._heir_of

    async def retire(self, retirement: Retirement) -> None:
        """Note how far this volume's own retirement has come."""
        self._retirement = retirement
        await self._run("retiring a volume", write_retirement, self._root, retirement)

    async def look(self, upload_id: str, epoch: int) -> bool:
        """Return whether no claim has followed; nobody else can make one while the volume is held alone."""
        if self._tenures is None or not (self.shared or self.network):
            return True
        seen = await self._ask("looking for a claim", self._tenures.look, self._folder(upload_id), epoch)
        if seen is None:
            await self._ask("looking for a claim", self._assert_there)
        return bool(seen)

    async def gone(self, owner: Identity) -> bool:
        """Return whether the host shows that *owner* is over; see the interface."""
        held = self._held
        if owner.start_id == held.start_id:
            return False
        if not (self.shared or self.network):
            # Others had it before; the lock shows that their writes are over.
            return True
        return await self._ask("asking for a run", held.runs.gone, owner.start_id)

    async def write(self, record: Record, *, sync: bool) -> None:
        """Replace the record as a whole."""
        await self._run("writing a record", self._write, record, sync or self.network)

    def _write(self, record: Record, sync: bool) -> None:  # noqa: FBT001 -- for the executor
        folder = self._folder(record.upload_id)
        if self._tenures is not None:
            self._tenures.write(folder, record, sync=sync)
        else:
            files.write_atomically(folder / RECORD, self._formats.encode(record), sync=sync, whole=self._durable)

    # -- bytes

    async def measure(self, record: Record, content: Content) -> int:
        """Return how many bytes of *content* count; see the interface."""
        return await self._ask("measuring an upload", self._measure, record, content)

    def _measure(self, record: Record, content: Content) -> int:
        def size_of(segment: str) -> int:
            path = self._folder(record.upload_id) / segment
            try:
                return size_at_the_server(path) if self.network else path.stat().st_size
            except FileNotFoundError:
                self._assert_there()
                return 0

        return counted(
            record, content, size_of=size_of, boot_id=self._boot_id, network=self.network, volume_id=self._id
        )

    async def cut_back(self, upload_id: str, content: Content, offset: int) -> None:
        """Drop what lies in the growing segment behind *offset* of *content*."""
        growing = content.growing
        if growing is not None:
            size = max(offset - growing.start, 0) + growing.skip
            await self._run("cutting a segment", shorten, self._folder(upload_id) / growing.segment, size)

    async def open_segment(self, upload_id: str, name: str, *, create: bool, size: int, sync: bool) -> FileSegment:
        """Open a segment for one append."""

        def open_it() -> int:
            path = self._folder(upload_id) / name
            return open_for_append(path, create=create, size=size, sync=sync or self.network)

        fd, keep = await self._kept_open.fetch(upload_id, name, size, lambda: self._run("opening a segment", open_it))
        return FileSegment(
            fd,
            size,
            self._pool,
            self._syncer,
            splicer=self._splicer,
            seer=self._seer,
            # Alone, and with nothing promised of the disk, nobody will wait for it.
            write_back=self._durable or self.shared,
            # Other hosts see what was written once the file is closed.
            keep=None if self.network else keep,
        )

    async def read_range(self, upload_id: str, segment: str, start: int, size: int) -> bytes:
        """Return a run of bytes of a segment."""
        path = self._folder(upload_id) / segment
        return await self._ask("reading a segment", read_range, path, start, size)

    async def sync_segments(self, record: Record, content: Content) -> None:
        """Return when all bytes of *content* would survive a power loss."""
        own = [part for part in content.map if part.volume_id == self._id]
        await self._run("syncing an upload", sync_ranges, self._folder(record.upload_id), own)

    async def join(self, record: Record) -> None:
        """Make the complete file; see the interface."""
        await self._run("joining an upload", self._join, record)

    def _join(self, record: Record) -> None:
        folder = self._folder(record.upload_id)
        pieces = []
        for part in record.content.map:
            assert part.stop is not None, record.content
            if part.stop > part.start:
                pieces.append(Piece(folder / part.segment, part.skip, part.stop - part.start, part.contested))
        join_pieces(
            pieces,
            self._file(record.upload_id),
            # Two runs may be at it, one of which was taken for dead.
            fresh=folder / f"joined.{record.epoch}.{self._held.token}",
            mode=self._options.file_mode,
            group=self._options.file_group,
            sync=self._durable,
            interrupted=self._interrupted.is_set,
        )

    def path_of(self, record: Record) -> Path | None:
        """Return where the joined file stands."""
        return self._file(record.upload_id).absolute()

    async def open_file(self, record: Record) -> OpenFile | None:
        """Open the joined file; None if it was moved away or deleted."""
        return await self._run("opening a file", self._open_file, self._file(record.upload_id))

    def _open_file(self, path: Path) -> OpenFile | None:
        try:
            opened = open_complete(path)
        except FileNotFoundError:
            self._assert_there()
            return None
        return OpenFile(*opened, self._pool) if opened is not None else None

    async def unjoin(self, record: Record, segment: str) -> None:
        """Give the joined file a second name as a segment."""
        target = self._folder(record.upload_id) / segment
        await self._run("making a segment of a file", link_back, self._file(record.upload_id), target)

    async def adopt_segments(self, upload_id: str, source_id: str, names: Mapping[str, str]) -> None:
        """Give segments of another upload a second name in this one."""
        here, there = self._folder(upload_id), self._folder(source_id)
        pairs = [(there / old, here / new) for old, new in names.items()]
        await self._run("adopting segments", link_all, pairs, here if self._durable else None)

    async def drop_segments(self, upload_id: str, names: Sequence[str]) -> None:
        """Delete these segments, as far as they exist."""
        self._kept_open.drop(upload_id)
        folder = self._folder(upload_id)
        await self._run("deleting segments", unlink_all, [folder / name for name in names])

    async def drop_bytes(self, record: Record, *, file_too: bool) -> None:
        """Delete all segments and, where asked, the joined file."""
        self._kept_open.drop(record.upload_id)
        await self._run("deleting bytes", self._drop_bytes, record.upload_id, file_too)

    def _drop_bytes(self, upload_id: str, file_too: bool) -> None:  # noqa: FBT001 -- for the executor
        unlink_all(bytes_in(self._folder(upload_id)))
        target = self._file(upload_id)
        # Where former versions made their copies.
        files.unlink_if_there(target.with_name(target.name + ".new"))
        if file_too:
            files.unlink_if_there(target)

    async def segments_of(self, upload_id: str) -> dict[str, int]:
        """Return name and size of all of an upload's segments."""
        return await self._ask("listing segments", sizes_in, self._folder(upload_id))

    async def drop_file(self, upload_id: str) -> None:
        """Delete the joined file."""
        await self._run("deleting a file", files.unlink_if_there, self._file(upload_id))

    async def remove(self, upload_id: str) -> None:
        """Delete all that is left of an upload but a file that was kept."""
        self._kept_open.drop(upload_id)
        await self._run("removing an upload", self._remove, upload_id)

    def _remove(self, upload_id: str) -> None:
        folder = self._folder(upload_id)
        if self._tenures is not None:
            remove_at_once(folder)
        else:
            remove_in_order(folder, last=RECORD)

    # -- room

    async def has_room(self, size: int) -> bool:
        """Whether *size* more bytes fit, with the reserve left free."""
        return await self._ask("asking for room", self._has_room, size)

    def _has_room(self, size: int) -> bool:
        status = os.statvfs(self._root)
        return status.f_bavail * status.f_frsize - size >= self._options.reserve_bytes

    # -- all uploads

    async def groups(self) -> list[str]:
        """Return the names of the groups of uploads."""
        return await self._ask("listing uploads", groups_in, self._root / "uploads")

    async def stamps(self) -> dict[str, int]:
        """Return when something came into each group, or went: the directory's own time."""
        return await self._ask("listing uploads", stamps_in, self._root / "uploads")

    async def ids_in(self, group: str) -> list[str]:
        """Return the ids of one group's uploads."""
        found = await self._ask("listing uploads", ids_in, self._root / "uploads" / group)
        if found is None:
            await self._ask("listing uploads", self._assert_there)
        return found or []

    async def survey(self, group: str) -> list[Found]:
        """Return all uploads of one group, in one go; see the interface."""
        found = await self._ask("listing uploads", survey, self._root, group, self._standing, self._id)
        if not found:
            await self._ask("listing uploads", self._assert_there)
        return found

    def group_of(self, upload_id: str) -> str:
        """Return the group that *upload_id* belongs to."""
        return upload_id[:GROUP_CHARS]

    # -- keys

    async def find_key(self, key: str) -> str | None:
        """Return the id of the upload that was bound to *key*, if any."""
        return await self._ask("reading a key", self._find_key, key)

    def _find_key(self, key: str) -> str | None:
        found = self._keys.find(key)
        if found is None:
            self._assert_there()
        return found

    async def bind_key(self, key: str, upload_id: str, *, instead_of: str | None) -> str:
        """Bind *key* to *upload_id*; see the interface."""

        def bind() -> str:
            return self._keys.bind(key, upload_id, instead_of=instead_of)

        async with self._key_guard:
            return await self._run("writing a key", bind)

    async def forget_keys(self) -> None:
        """Forget the keys of uploads that are not here any more."""

        def forget() -> None:
            self._assert_there()
            self._keys.forget(lambda upload_id: self._folder(upload_id).exists())

        async with self._key_guard:
            await self._run("deleting keys", forget)

    async def close(self) -> None:
        """Let go of the volume and its lock; a join under way is given up, to be done again."""
        self._interrupted.set()
        await asyncio.get_running_loop().run_in_executor(None, self._let_go)

    def _let_go(self) -> None:
        for each in (self._splicer, self._seer, self.blocks, self._syncer, self._pool, self._kept_open):
            if each is not None:
                each.close()
        # Only now: every write has been answered.
        self._held.runs.leave()
        self._held.lock.release()
