"""A segment in a file: appended to by one append at a time."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import os
from typing import TYPE_CHECKING, Any, Final, cast

from incomingd.storage.body import DirectBody
from incomingd.storage.directory import syscalls
from incomingd.storage.directory.files import (
    PartialWriteError,
    as_volume_error,
    sync_directory,
    translated,
    write_all,
)
from incomingd.storage.directory.writeback import WriteBack
from incomingd.storage.volume import Taken, VolumeError, VolumeUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor
    from pathlib import Path

    from incomingd.storage.body import Body, Source
    from incomingd.storage.directory.splicing import Splicer
    from incomingd.storage.directory.syncing import Syncer
    from incomingd.storage.directory.threads import Threads
    from incomingd.storage.volume import See

_READ_BYTES: Final = 1024 * 1024
RESERVE_BYTES: Final = 1024 * 1024
"""Room is reserved for bodies of so many bytes and more."""


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
    status = os.fstat(fd)
    there = status.st_size
    if there < size:
        # Making it longer would fill in zeros for bytes that were acknowledged.
        msg = f"segment {name} has {there} bytes of {size}"
        raise VolumeUnavailableError(msg)
    if there > size or status.st_blocks * 512 > size + RESERVE_BYTES:
        # Also what a process had reserved that was killed: it is in nobody's way but its own upload's.
        os.ftruncate(fd, size)


class FileSegment:
    """An open file; its writes happen in threads, one at a time.

    Args:
        fd: of the file.
        size: how many bytes it has.
        pool: where it is written and read.
        syncer: sees to it that it reaches the disk.
        splicer: takes bytes from sockets by itself; None: none does.
        seer: does so with bytes that somebody looks at, in threads of its own; None: none does.
        write_back: bytes go to the disk while more come.
        keep: takes the descriptor of a file with which all went well, in place of closing it.
    """

    def __init__(
        self,
        fd: int,
        size: int,
        pool: Threads,
        syncer: Syncer,
        *,
        splicer: Splicer | None = None,
        seer: Splicer | None = None,
        write_back: bool = False,
        keep: Callable[[int], None] | None = None,
    ) -> None:
        self._fd = fd
        self._size = size
        self._pool = pool
        self._syncer = syncer
        self._splicer = splicer
        self._seer = seer
        self._write_back = WriteBack(fd, size) if write_back else None
        self._keep_open = keep
        self._start = size
        self._sound = True
        """Nothing has failed, or was left to itself."""
        self._reserved = 0
        """Up to here there is room of its own, which is given back in the end."""
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
        see: See | None = None,
    ) -> Taken:
        """Keep the bytes of *body*; see :class:`incomingd.storage.volume.Segment`."""
        announced = body.length
        if announced is not None and announced >= RESERVE_BYTES:
            await self._in_thread(self._reserve, announced if room is None else min(announced, room))
        mover = self._splicer if see is None else self._seer
        direct = cast("DirectBody", body) if mover is not None and _is_direct(type(body)) else None
        left = room
        while True:
            if direct is not None and left != 0:
                source = await direct.source()
                if source is not None:
                    before = self._size
                    await self._pass_on(direct, source, left, see)
                    if self._size > before:
                        on_kept(self._size)
                    if left is not None:
                        left -= self._size - before
                    continue
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

    def _reserve(self, size: int) -> None:
        with translated("reserving room for a segment"):
            status = os.fstatvfs(self._fd)
            if size > status.f_bavail * status.f_frsize:
                # Not even tried: what there is would be taken from others, until it turns out not to be enough.
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._reserved = self._size + size
            syscalls.reserve(self._fd, self._size, size)

    async def _pass_on(self, body: DirectBody, source: Source, left: int | None, see: See | None) -> None:
        mover = self._splicer if see is None else self._seer
        assert mover is not None
        most = source.size if left is None else min(source.size, left)
        mover.want()
        try:
            await self._in_thread(self._turn, source, most, see, pool=mover.pool)
        except asyncio.CancelledError:
            # The thread goes on to the end of its turn, which is to be soon; nobody asks the body for more.
            source.halted = True
            raise
        except VolumeError:
            body.passed(source)
            raise
        except RuntimeError:
            # The pool is shut down: the program ends.
            source.close()
            raise
        body.passed(source)

    def _turn(self, source: Source, most: int, see: See | None) -> None:
        mover = self._splicer if see is None else self._seer
        assert mover is not None
        try:
            self._size += mover.turn(source, self._fd, self._size, most, see)
        except PartialWriteError as partial:
            self._size += partial.written
            raise as_volume_error(partial.error, "writing a segment") from partial
        self._follow()

    def _keep(self, data: bytes, see: See | None) -> None:
        try:
            written = write_all(self._fd, data, self._size)
        except PartialWriteError as partial:
            self._size += partial.written
            if see is not None:
                see(data[: partial.written])
            raise as_volume_error(partial.error, "writing a segment") from partial
        self._size += written
        self._follow()
        if see is not None:
            see(data)

    def _follow(self) -> None:
        if self._write_back is not None:
            self._write_back.follow(self._size)

    async def sync(self) -> None:
        """Return when all kept bytes would survive a power loss."""
        assert self._fd >= 0, "the segment is closed"
        assert self._busy is None or self._busy.done(), "one call at a time"
        with translated("syncing a segment"):
            if self._write_back is not None and self._write_back.failure is not None:
                raise self._write_back.failure
            self._busy = self._syncer.sync(self._fd)
            sound, self._sound = self._sound, False
            await asyncio.shield(self._busy)
            self._sound = sound

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

    async def read_back(self, start: int, see: See) -> None:
        """Hand the kept bytes from *start* on to *see*."""
        await self._in_thread(self._read_back, start, see)

    def _read_back(self, start: int, see: See) -> None:
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
        if fd < 0:
            return
        # Whoever sends large pieces gains nothing by it.
        small = not self._reserved and self._size - self._start < RESERVE_BYTES
        if self._keep_open is not None and self._sound and small:
            self._keep_open(fd)
        else:
            await close_in(self._pool, fd, cut_to=self._size if self._reserved > self._size else None)

    async def _in_thread(self, call: Callable[..., None], *args: Any, pool: Executor | None = None) -> None:
        assert self._fd >= 0, "the segment is closed"
        assert self._busy is None or self._busy.done(), "one call at a time"
        sound = self._sound
        if pool is None:
            self._busy = self._pool.run(call, *args)
        else:
            self._busy = asyncio.get_running_loop().run_in_executor(pool, call, *args)
        self._sound = False
        await asyncio.shield(self._busy)
        self._sound = sound


@functools.cache
def _is_direct(kind: type) -> bool:
    """Whether bodies of this class are direct ones: to look that up each time costs as much as to open a file."""
    return issubclass(kind, DirectBody)


async def close_in(pool: Threads, fd: int, *, cut_to: int | None = None) -> None:
    """Close *fd* in a thread; what a disk says to that changes nothing any more.

    Args:
        pool: of the thread.
        fd: to close.
        cut_to: first give back what is reserved behind so many bytes.
    """
    try:
        await pool.run(_close, fd, cut_to)
    except RuntimeError:
        # The pool is shut down: the program ends.
        _close(fd, cut_to)


def _close(fd: int, cut_to: int | None) -> None:
    if cut_to is not None:
        with contextlib.suppress(OSError):
            # To the length that it has: blocks behind it go.
            os.ftruncate(fd, cut_to)
    with contextlib.suppress(OSError):
        os.close(fd)
