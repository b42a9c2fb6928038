"""The bytes of uploads and of complete files, as files; what is not a method of :class:`OpenFile` blocks."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from typing import TYPE_CHECKING, Final

from incomingd.storage.directory.files import sync_directory, translated, unlink_if_there
from incomingd.storage.directory.segment import close_in
from incomingd.storage.volume import VolumeUnavailableError

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from incomingd.core.content import Range
    from incomingd.storage.directory.threads import Threads

_SEGMENT_PREFIXES: Final = ("bytes.", "part-", "from-", "joined.")
_DIGESTS: Final = "digests."
_GONE: Final = "gone."
"""Before the name of an upload's folder that is being deleted."""
_FAR: Final = 2**48
"""Behind the end of any file."""


class OpenFile:
    """A complete file, open for reading; reads happen in threads."""

    def __init__(self, fd: int, size: int, pool: Threads) -> None:
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
            return await self._pool.run(os.pread, self._fd, size, start)

    async def close(self) -> None:
        """Close it."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            await close_in(self._pool, fd)


def read_range(path: Path, start: int, size: int) -> bytes:
    """Return bytes ``[start, start + size)`` of the file; fewer where it ends before."""
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


def shorten(path: Path, size: int) -> None:
    """Have the file be no longer than *size* bytes."""
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > size:
            os.truncate(path, size)


def sync_ranges(folder: Path, ranges: Collection[Range]) -> None:
    """Return when the bytes of all these ranges would survive a power loss."""
    hold = {each.segment for each in ranges if each.stop not in (None, each.start)}
    for name in sorted({each.segment for each in ranges}):
        try:
            fd = os.open(folder / name, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            if name in hold:
                raise
            # Nobody has written into it yet.
            continue
        try:
            os.fdatasync(fd)
        finally:
            os.close(fd)


def unlink_all(paths: list[Path]) -> None:
    """Delete these files, as far as they exist."""
    for path in paths:
        unlink_if_there(path)


def size_at_the_server(path: Path) -> int:
    """Return the size of a file that another host may have written to a moment ago."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # A read behind the end makes the client ask how long the file is now.
        os.pread(fd, 1, _FAR)
        return os.fstat(fd).st_size
    finally:
        os.close(fd)


def open_complete(path: Path) -> tuple[int, int] | None:
    """Open a complete file; return its descriptor and size, or None: what stands there is no file.

    Raises:
        FileNotFoundError: nothing stands there.
    """
    try:
        # Web apps may write to this directory: neither a link to a file of ours nor a pipe that blocks is opened.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            return None
        raise
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        return None
    return fd, status.st_size


def link_back(file: Path, segment: Path) -> None:
    """Give a complete file a second name as a segment, on the disk when this returns; repeatable."""
    if not stat.S_ISREG(os.lstat(file).st_mode):
        # A link that a web app has put there would show any file of the daemon's user.
        raise VolumeUnavailableError(f"{file} is no file")
    with contextlib.suppress(FileExistsError):
        os.link(file, segment)
    sync_directory(segment.parent)


def link_all(pairs: list[tuple[Path, Path]], synced: Path | None) -> None:
    """Give each first file a second name, as far as it has none; sync the directory *synced*, if any."""
    for old, new in pairs:
        with contextlib.suppress(FileExistsError):
            os.link(old, new)
    if synced is not None:
        sync_directory(synced)


def segments_in(folder: Path) -> list[Path]:
    """Return the segments in an upload's folder, and what is being copied there."""
    return _beginning_with(folder, _SEGMENT_PREFIXES)


def bytes_in(folder: Path) -> list[Path]:
    """Return what there is of an upload's bytes, and of their digests."""
    return _beginning_with(folder, (*_SEGMENT_PREFIXES, _DIGESTS))


def _beginning_with(folder: Path, prefixes: tuple[str, ...]) -> list[Path]:
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    return [folder / name for name in names if name.startswith(prefixes)]


def sizes_in(folder: Path) -> dict[str, int]:
    """Return name and size in bytes of the segments in an upload's folder."""
    sizes: dict[str, int] = {}
    for path in segments_in(folder):
        with contextlib.suppress(FileNotFoundError):
            sizes[path.name] = path.lstat().st_size
    return sizes


def remove_in_order(folder: Path, *, last: str) -> None:
    """Delete *folder*, of its files *last* after all others: as long as it is there, it can be told what it is."""
    with contextlib.suppress(FileNotFoundError):
        for name in sorted(os.listdir(folder), key=lambda name: name == last):
            unlink_if_there(folder / name)
        folder.rmdir()


def remove_at_once(folder: Path) -> None:
    """Delete *folder* so that it is gone as a whole: nobody can claim an upload of which half is deleted."""
    group = folder.parent
    with contextlib.suppress(FileNotFoundError):
        folder.rename(group / f"{_GONE}{folder.name}.{secrets.token_hex(4)}")
    # And what a crash has left of others.
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(group):
            if name.startswith(_GONE):
                _delete_folder(group / name)


def _delete_folder(folder: Path) -> None:
    """Delete *folder*, which another one may be deleting, or still be writing to."""
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(folder):
            unlink_if_there(folder / name)
        try:
            folder.rmdir()
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
