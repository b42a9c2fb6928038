"""The bytes of uploads and of complete files, as files; what is not a method of :class:`OpenFile` blocks."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from typing import TYPE_CHECKING, Final

from incomingd.storage.directory.files import translated, unlink_if_there
from incomingd.storage.directory.segment import close_in

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor
    from pathlib import Path

_FAR: Final = 2**48
"""Behind the end of any file."""


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


def sync_files(paths: list[Path]) -> None:
    """Return when the bytes of all these files would survive a power loss."""
    for path in paths:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
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


def delete_folder(folder: Path) -> None:
    """Delete *folder*, which another one may be deleting, or still be writing to."""
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(folder):
            unlink_if_there(folder / name)
        try:
            folder.rmdir()
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
