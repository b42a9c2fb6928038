"""A volume in a local directory that one process holds under a lock.

Since nobody else can write here while the lock is held, claims are kept inside
the record: a claim costs nothing by itself and stands with the record that
follows it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import json
import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from incomingd.core import codec, ids
from incomingd.storage.directory import files
from incomingd.storage.directory.files import translated
from incomingd.storage.directory.joining import Piece, join_pieces
from incomingd.storage.directory.lock import DirectoryLock
from incomingd.storage.directory.segment import FileSegment, close_in, open_for_append
from incomingd.storage.measuring import counted
from incomingd.storage.volume import (
    ClaimTakenError,
    RecordUnreadableError,
    Standing,
    UploadExistsError,
    VolumeUnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from incomingd.core.content import Content
    from incomingd.core.record import Record
    from incomingd.core.tenure import Claim, Identity

T = TypeVar("T")

FORMAT: Final = 1
RECORD: Final = "record.json"
GROUP_CHARS: Final = 2
_SEGMENT_PREFIXES: Final = ("bytes.", "part-", "from-")


@dataclass(frozen=True, slots=True)
class DirectoryOptions:
    """What an operator chooses."""

    threads: int = 16
    """At the most so many calls wait for the disk at once."""
    file_mode: int = 0o640
    """Of complete files."""
    file_group: int | None = None
    """Group id of complete files and of the way to them; None: the process's."""
    reserve_bytes: int = 64 * 1024 * 1024
    """Kept free: a length that would go below it is refused beforehand."""
    durable: bool = True
    """Joined files survive a power loss before anybody hears of them."""


class DirectoryVolume:
    """See :class:`incomingd.storage.volume.Volume`."""

    def __init__(
        self,
        root: Path,
        volume_id: str,
        lock: DirectoryLock,
        options: DirectoryOptions,
        start_id: str,
    ) -> None:
        self._root = root
        self._start_id = start_id
        self._id = volume_id
        self._lock = lock
        self._options = options
        self._boot_id = files.boot_id()
        self._pool = ThreadPoolExecutor(options.threads, thread_name_prefix="storage")
        self._key_guard = asyncio.Lock()
        self._interrupted = threading.Event()
        self._synced_groups: set[Path] = set()
        """Groups, of uploads and of keys, whose names were brought to the disk."""

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
    ) -> DirectoryVolume:
        """Open the volume at *root*, making it if nothing is there; blocks.

        Args:
            root: the directory.
            new_id: the volume's id, should it be made now.
            holder: who holds the lock, for those who come later.
            options: see there.
            shared: other processes may use it at the same time.
            start_id: of this run of the program; empty: nobody asks for it.

        Raises:
            VolumeLockedError: another process holds it.
            VolumeUnavailableError: it cannot be made, written, or is of an
                unknown format, or files cannot be given the mode and group.
        """
        if shared:
            raise VolumeUnavailableError(f"{root} cannot be shared yet")
        with translated(f"opening {root}"):
            if not root.is_dir():
                root.mkdir(parents=True, exist_ok=True)
                files.sync_directory(root.parent)
            lock = DirectoryLock(root / "lock", holder=holder)
            try:
                volume_id = _identify(root, new_id)
                _lay_out(root, options)
            except BaseException:
                lock.release()
                raise
        return cls(root, volume_id, lock, options, start_id)

    @property
    def id(self) -> str:
        """The volume's own id."""
        return self._id

    @property
    def shared(self) -> bool:
        """Whether other processes may claim uploads here meanwhile."""
        return False

    @property
    def network(self) -> bool:
        """Whether bytes count only as noted."""
        return False

    @property
    def root(self) -> Path:
        """The directory."""
        return self._root

    @property
    def boot_id(self) -> str:
        """Of the kernel under which records are written now."""
        return self._boot_id

    # -- paths

    def _folder(self, upload_id: str) -> Path:
        assert ids.is_upload_id(upload_id), upload_id
        return self._root / "uploads" / upload_id[:GROUP_CHARS] / upload_id

    def _file(self, upload_id: str) -> Path:
        assert ids.is_upload_id(upload_id), upload_id
        return self._root / "files" / upload_id

    async def _run(self, what: str, call: Callable[..., T], *args: Any) -> T:
        with translated(what):
            return await asyncio.get_running_loop().run_in_executor(self._pool, call, *args)

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
            self._write(record, self._options.durable)
            if self._options.durable:
                self._sync_group(group)
        except OSError:
            with contextlib.suppress(OSError):
                self._remove(record.upload_id)
            raise

    def _sync_group(self, group: Path) -> None:
        """Have a new name in *group* survive a power loss, and the group's own."""
        files.sync_directory(group)
        if group not in self._synced_groups:
            # By whom it was made, and whether they came to sync it, nobody knows.
            files.sync_directory(group.parent)
            self._synced_groups.add(group)

    async def read(self, upload_id: str) -> Record | None:
        """Return the last record; see the interface."""
        return await self._run("reading a record", self._read, upload_id)

    def _read(self, upload_id: str) -> Record | None:
        path = self._folder(upload_id) / RECORD
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            # Nothing may be called unknown by a volume that is not there.
            self._assert_there()
            return None
        try:
            record = codec.decode(data)
        except codec.RecordFormatError as error:
            msg = f"{path}: {error}"
            raise RecordUnreadableError(msg) from error
        if record.upload_id != upload_id:
            # A copy that somebody made: what is done by it would be done to the other upload.
            msg = f"{path}: the record of another upload"
            raise RecordUnreadableError(msg)
        return record

    def _assert_there(self) -> None:
        try:
            there = json.loads((self._root / "volume.json").read_bytes())["id"]
        except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, RecursionError) as error:
            msg = f"{self._root} is not the volume that it was: {error}"
            raise VolumeUnavailableError(msg) from error
        if there != self._id:
            msg = f"{self._root} is another volume now"
            raise VolumeUnavailableError(msg)

    async def standing(self, upload_id: str) -> Standing | None:
        """Return the last record; the claim stands in it."""
        record = await self.read(upload_id)
        return Standing(record, None) if record is not None else None

    async def claim(self, upload_id: str, claim: Claim) -> None:
        """Begin a tenure: under the lock it stands with the record that follows."""
        record = await self.read(upload_id)
        if record is None or record.epoch != claim.epoch - 1:
            raise ClaimTakenError(upload_id)

    async def look(self, upload_id: str, epoch: int) -> bool:
        """Return True: while the lock is held nobody else can claim."""
        del upload_id, epoch
        return True

    async def gone(self, owner: Identity) -> bool:
        """Return True for every run but this one: the lock shows it."""
        return owner.start_id != self._start_id

    async def write(self, record: Record, *, sync: bool) -> None:
        """Replace the record as a whole."""
        await self._run("writing a record", self._write, record, sync)

    def _write(self, record: Record, sync: bool) -> None:  # noqa: FBT001 -- for the executor
        path = self._folder(record.upload_id) / RECORD
        files.write_atomically(path, codec.encode(record), sync=sync, whole=self._options.durable)

    # -- bytes

    async def measure(self, record: Record, content: Content) -> int:
        """Return how many bytes of *content* count; see the interface."""
        return await self._run("measuring an upload", self._measure, record, content)

    def _measure(self, record: Record, content: Content) -> int:
        def size_of(segment: str) -> int:
            try:
                return (self._folder(record.upload_id) / segment).stat().st_size
            except FileNotFoundError:
                self._assert_there()
                return 0

        return counted(record, content, size_of=size_of, boot_id=self._boot_id)

    async def cut_back(self, upload_id: str, content: Content, offset: int) -> None:
        """Drop what lies in the growing segment behind *offset* of *content*."""
        growing = content.growing
        if growing is not None:
            size = max(offset - growing.start, 0) + growing.skip
            await self._run("cutting a segment", _shorten, self._folder(upload_id) / growing.segment, size)

    async def open_segment(self, upload_id: str, name: str, *, create: bool, size: int, sync: bool) -> FileSegment:
        """Open a segment for one append."""
        path = self._folder(upload_id) / name

        def open_it() -> int:
            return open_for_append(path, create=create, size=size, sync=sync)

        fd = await self._run("opening a segment", open_it)
        return FileSegment(fd, size, self._pool)

    async def read_range(self, upload_id: str, segment: str, start: int, size: int) -> bytes:
        """Return a run of bytes of a segment."""
        path = self._folder(upload_id) / segment
        return await self._run("reading a segment", _read_range, path, start, size)

    async def sync_segments(self, record: Record, content: Content) -> None:
        """Return when all bytes of *content* would survive a power loss."""
        paths = {self._folder(record.upload_id) / part.segment for part in content.map}
        await self._run("syncing an upload", _sync_files, sorted(paths))

    async def join(self, record: Record) -> None:
        """Make the complete file; see the interface."""
        await self._run("joining an upload", self._join, record)

    def _join(self, record: Record) -> None:
        folder = self._folder(record.upload_id)
        pieces = []
        for part in record.content.map:
            assert part.stop is not None, record.content
            if part.stop > part.start:
                pieces.append(Piece(folder / part.segment, part.skip, part.stop - part.start))
        join_pieces(
            pieces,
            self._file(record.upload_id),
            mode=self._options.file_mode,
            group=self._options.file_group,
            sync=self._options.durable,
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
            # Web apps may write to this directory: neither a link to a file of ours nor a pipe that blocks is opened.
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            self._assert_there()
            return None
        except OSError as error:
            if error.errno == errno.ELOOP:
                return None
            raise
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(fd)
            return None
        return OpenFile(fd, status.st_size, self._pool)

    async def adopt_segments(self, upload_id: str, source_id: str, names: Mapping[str, str]) -> None:
        """Give segments of another upload a second name in this one."""

        def adopt() -> None:
            here, there = self._folder(upload_id), self._folder(source_id)
            for old, new in names.items():
                with contextlib.suppress(FileExistsError):
                    os.link(there / old, here / new)
            if self._options.durable:
                files.sync_directory(here)

        await self._run("adopting segments", adopt)

    async def drop_segments(self, upload_id: str, names: Sequence[str]) -> None:
        """Delete these segments, as far as they exist."""
        folder = self._folder(upload_id)
        await self._run("deleting segments", _unlink_all, [folder / name for name in names])

    async def drop_bytes(self, record: Record, *, file_too: bool) -> None:
        """Delete all segments and, where asked, the joined file."""
        await self._run("deleting bytes", self._drop_bytes, record.upload_id, file_too)

    def _drop_bytes(self, upload_id: str, file_too: bool) -> None:  # noqa: FBT001 -- for the executor
        folder = self._folder(upload_id)
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(folder):
                if name.startswith(_SEGMENT_PREFIXES):
                    files.unlink_if_there(folder / name)
        target = self._file(upload_id)
        files.unlink_if_there(target.with_name(target.name + ".new"))
        if file_too:
            files.unlink_if_there(target)

    async def remove(self, upload_id: str) -> None:
        """Delete all that is left of an upload but a file that was kept."""
        await self._run("removing an upload", self._remove, upload_id)

    def _remove(self, upload_id: str) -> None:
        folder = self._folder(upload_id)
        with contextlib.suppress(FileNotFoundError):
            for name in sorted(os.listdir(folder), key=lambda name: name == RECORD):
                files.unlink_if_there(folder / name)
            folder.rmdir()

    # -- room

    async def has_room(self, size: int) -> bool:
        """Whether *size* more bytes fit, with the reserve left free."""
        return await self._run("asking for room", self._has_room, size)

    def _has_room(self, size: int) -> bool:
        status = os.statvfs(self._root)
        return status.f_bavail * status.f_frsize - size >= self._options.reserve_bytes

    # -- all uploads

    async def groups(self) -> list[str]:
        """Return the names of the groups of uploads."""
        return await self._run("listing uploads", self._groups)

    def _groups(self) -> list[str]:
        # Beside them may lie what is none of ours, such as lost+found, which nobody but root may read.
        with os.scandir(self._root / "uploads") as entries:
            return sorted(entry.name for entry in entries if len(entry.name) == GROUP_CHARS and entry.is_dir())

    async def stamps(self) -> dict[str, int]:
        """Return when something came into each group, or went: the directory's own time."""

        def stamps() -> dict[str, int]:
            with os.scandir(self._root / "uploads") as entries:
                return {
                    entry.name: entry.stat().st_mtime_ns
                    for entry in entries
                    if len(entry.name) == GROUP_CHARS and entry.is_dir()
                }

        return await self._run("listing uploads", stamps)

    async def ids_in(self, group: str) -> list[str]:
        """Return the ids of one group's uploads."""
        return await self._run("listing uploads", self._ids_in, group)

    def _ids_in(self, group: str) -> list[str]:
        try:
            names = os.listdir(self._root / "uploads" / group)
        except FileNotFoundError:
            self._assert_there()
            return []
        return sorted(filter(ids.is_upload_id, names))

    def group_of(self, upload_id: str) -> str:
        """Return the group that *upload_id* belongs to."""
        return upload_id[:GROUP_CHARS]

    # -- keys

    def _key_path(self, key: str) -> Path:
        digest = hashlib.sha256(key.encode("utf-8")).hexdigest()
        return self._root / "keys" / digest[:GROUP_CHARS] / digest

    async def find_key(self, key: str) -> str | None:
        """Return the id of the upload that was bound to *key*, if any."""

        def find() -> str | None:
            try:
                text = self._key_path(key).read_text("ascii").strip()
            except (FileNotFoundError, UnicodeDecodeError):
                self._assert_there()
                return None
            return text if ids.is_upload_id(text) else None

        return await self._run("reading a key", find)

    async def bind_key(self, key: str, upload_id: str, *, instead_of: str | None) -> str:
        """Bind *key* to *upload_id*; see the interface."""

        def bind() -> None:
            path = self._key_path(key)
            path.parent.mkdir(exist_ok=True)
            durable = self._options.durable
            files.write_atomically(path, upload_id.encode("ascii") + b"\n", sync=durable, whole=durable)
            if durable:
                self._sync_group(path.parent)

        async with self._key_guard:
            bound = await self.find_key(key)
            if bound is not None and bound != instead_of:
                return bound
            await self._run("writing a key", bind)
            return upload_id

    async def forget_keys(self) -> None:
        """Forget the keys of uploads that are not here any more."""

        def forget() -> None:
            for path in (self._root / "keys").glob("*/*"):
                with contextlib.suppress(FileNotFoundError, UnicodeDecodeError):
                    upload_id = path.read_text("ascii").strip()
                    if not ids.is_upload_id(upload_id) or not self._folder(upload_id).exists():
                        path.unlink()

        async with self._key_guard:
            await self._run("deleting keys", forget)

    async def close(self) -> None:
        """Let go of the volume and its lock; a join under way is given up, to be done again."""
        self._interrupted.set()
        await asyncio.get_running_loop().run_in_executor(None, self._pool.shutdown)
        self._lock.release()


class OpenFile:
    """A complete file, open for reading; reads happen in threads."""

    def __init__(self, fd: int, size: int, pool: ThreadPoolExecutor) -> None:
        self._fd = fd
        self._size = size
        self._pool = pool

    @property
    def size(self) -> int:
        """Its size in bytes."""
        return self._size

    async def read(self, start: int, size: int) -> bytes:
        """Return up to *size* bytes from *start* on."""
        with translated("reading a file"):
            return await asyncio.get_running_loop().run_in_executor(self._pool, os.pread, self._fd, size, start)

    async def close(self) -> None:
        """Close it."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            await close_in(self._pool, fd)


def _read_range(path: Path, start: int, size: int) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        found = bytearray()
        while len(found) < size:
            data = os.pread(fd, size - len(found), start + len(found))
            if not data:
                break
            found += data
        return bytes(found)
    finally:
        os.close(fd)


def _shorten(path: Path, size: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > size:
            os.truncate(path, size)


def _sync_files(paths: list[Path]) -> None:
    for path in paths:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fdatasync(fd)
        finally:
            os.close(fd)


def _unlink_all(paths: list[Path]) -> None:
    for path in paths:
        files.unlink_if_there(path)


def _identify(root: Path, new_id: str) -> str:
    """Return the id that the volume carries, giving it *new_id* if it has none."""
    path = root / "volume.json"
    try:
        known = json.loads(path.read_bytes())
        version, volume_id = known["format"], str(known["id"])
    except FileNotFoundError:
        if (root / "uploads").exists():
            msg = f"{root} has uploads but no volume.json that says which volume it is"
            raise VolumeUnavailableError(msg) from None
        files.write_atomically(path, json.dumps({"format": FORMAT, "id": new_id}).encode() + b"\n", sync=True)
        return new_id
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        msg = f"{path} cannot be read: {error}"
        raise VolumeUnavailableError(msg) from error
    if version != FORMAT or not ids.is_volume_id(volume_id):
        msg = f"{path} is of format {version!r}; this program knows format {FORMAT}"
        raise VolumeUnavailableError(msg)
    return volume_id


def _lay_out(root: Path, options: DirectoryOptions) -> None:
    """Make the directories, and see that files can be given away as configured."""
    for name, mode in (("uploads", 0o700), ("keys", 0o700), ("files", 0o770)):
        (root / name).mkdir(exist_ok=True)
        (root / name).chmod(mode)
    if options.file_group is not None:
        # The app's user comes through the data directory to its files, and may
        # move them away; it cannot look into the other directories.
        for path in (root, root / "files"):
            os.chown(path, -1, options.file_group)
        root.chmod(0o710)
    files.sync_directory(root)
    probe = root / "files" / ".probe"
    fd = files.create_fresh(probe)
    try:
        if options.file_group is not None:
            os.fchown(fd, -1, options.file_group)
        os.fchmod(fd, options.file_mode)
    except OSError as error:
        msg = f"files.mode or files.group cannot be set in {root / 'files'}: {error.strerror}"
        raise VolumeUnavailableError(msg) from error
    finally:
        os.close(fd)
        probe.unlink()
