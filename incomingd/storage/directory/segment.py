"""A segment in a file: appended to by one append at a time."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING, Any, Final

from incomingd.storage.directory.files import (
    PartialWriteError,
    as_volume_error,
    sync_directory,
    translated,
    write_all,
)
from incomingd.storage.volume import Taken, VolumeUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor
    from pathlib import Path

    from incomingd.storage.body import Body

_READ_BYTES: Final = 1024 * 1024


def open_for_append(path: Path, *, create: bool, size: int, sync: bool) -> int:
    """Open the segment's file with exactly *size* bytes in it; blocks."""
    flags = os.O_RDWR | os.O_CLOEXEC
    if create:
        flags |= os.O_CREAT
    fd = os.open(path, flags, 0o600)
    try:
        _cut_to(fd, size, path.name)
        if create and sync:
            sync_directory(path.parent)
    except (OSError, VolumeUnavailableError):
        os.close(fd)
        raise
    return fd


def _cut_to(fd: int, size: int, name: str) -> None:
    there = os.fstat(fd).st_size
    if there < size:
        # Making it longer would fill in zeros for bytes that were acknowledged.
        msg = f"segment {name} has {there} bytes of {size}"
        raise VolumeUnavailableError(msg)
    if there > size:
        os.ftruncate(fd, size)


class FileSegment:
    """An open file; its writes happen in threads, one at a time."""

    def __init__(self, fd: int, size: int, pool: Executor) -> None:
        self._fd = fd
        self._size = size
        self._pool = pool
        self._busy: asyncio.Future[Any] | None = None

    @property
    def size(self) -> int:
        """Bytes kept so far."""
        return self._size

    async def take(
        self,
        body: Body,
        *,
        room: int | None,
        on_kept: Callable[[int], None],
        see: Callable[[bytes], None] | None = None,
    ) -> Taken:
        """Keep the bytes of *body*; see :class:`incomingd.storage.volume.Segment`."""
        left = room
        while True:
            data = await body.read()
            if not data:
                return Taken(overflow=False)
            fits = data if left is None else data[:left]
            if fits:
                await self._in_thread(self._keep, fits, see)
                on_kept(self._size)
            if left is not None:
                left -= len(fits)
                if len(fits) < len(data):
                    return Taken(overflow=True)
            # Not to be kept in memory while the next bytes of a slow sender are waited for.
            del data, fits

    def _keep(self, data: bytes, see: Callable[[bytes], None] | None) -> None:
        try:
            written = write_all(self._fd, data, self._size)
        except PartialWriteError as partial:
            self._size += partial.written
            if see is not None:
                see(data[: partial.written])
            raise as_volume_error(partial.error, "writing a segment") from partial
        self._size += written
        if see is not None:
            see(data)

    async def sync(self) -> None:
        """Return when all kept bytes would survive a power loss."""
        await self._in_thread(self._sync)

    def _sync(self) -> None:
        with translated("syncing a segment"):
            os.fdatasync(self._fd)

    async def cut_back(self, size: int) -> None:
        """Forget the bytes behind the first *size*."""
        assert size <= self._size, (size, self._size)
        await self._in_thread(self._cut_back, size)

    def _cut_back(self, size: int) -> None:
        # First forgotten, then deleted: where deleting fails, the bytes lie
        # behind the end and are written over or cut by the map.
        self._size = size
        with translated("cutting a segment"):
            os.ftruncate(self._fd, size)

    async def read_back(self, start: int, see: Callable[[bytes], None]) -> None:
        """Hand the kept bytes from *start* on to *see*."""
        await self._in_thread(self._read_back, start, see)

    def _read_back(self, start: int, see: Callable[[bytes], None]) -> None:
        while start < self._size:
            with translated("reading a segment back"):
                data = os.pread(self._fd, min(self._size - start, _READ_BYTES), start)
            if not data:
                msg = f"a segment ends {self._size - start} bytes early"
                raise VolumeUnavailableError(msg)
            see(data)
            start += len(data)

    async def close(self) -> None:
        """Close the file, after a write that is still under way."""
        if self._busy is not None:
            # A cancelled append may have left its write in a thread; the
            # descriptor must not be closed, and reused, under it.
            with contextlib.suppress(Exception):
                await asyncio.shield(self._busy)
        fd, self._fd = self._fd, -1
        if fd >= 0:
            await close_in(self._pool, fd)

    async def _in_thread(self, call: Callable[..., None], *args: Any) -> None:
        assert self._fd >= 0, "the segment is closed"
        assert self._busy is None or self._busy.done(), "one call at a time"
        self._busy = asyncio.get_running_loop().run_in_executor(self._pool, call, *args)
        await asyncio.shield(self._busy)


async def close_in(pool: Executor, fd: int) -> None:
    """Close *fd* in a thread; what a disk says to that changes nothing any more."""
    try:
        await asyncio.get_running_loop().run_in_executor(pool, _close, fd)
    except RuntimeError:
        # The pool is shut down: the program ends.
        _close(fd)


def _close(fd: int) -> None:
    with contextlib.suppress(OSError):
        os.close(fd)
