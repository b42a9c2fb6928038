"""Digests of an upload's blocks: the files in which they stand, and bytes that are read anew for them.

What is looked at on its way to a file (:mod:`incomingd.storage.directory.splicing`)
need not be read again; after a restart, or at another instance, it must.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from incomingd.storage.directory.files import PartialWriteError, translated, unlink_if_there, write_all

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from incomingd.storage.volume import See

BUFFER_BYTES: Final = 256 * 1024
"""So much is read at once."""
NICENESS: Final = 10
"""Of the thread that reads bytes anew: whoever waits for an answer comes first."""
_PREFIX: Final = "digests."


class BlockFiles:
    """See :class:`incomingd.storage.volume.Blocks`: ``digests.<epoch>`` in an upload's folder.

    One thread for the whole volume, of a low priority: however many uploads have to be read anew, they take no more.
    """

    def __init__(self, folder_of: Callable[[str], Path], interrupted: Callable[[], bool]) -> None:
        self._folder_of = folder_of
        self._interrupted = interrupted
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="digests", initializer=_give_way)

    def close(self) -> None:
        """Wait for what is under way, which is short."""
        self._pool.shutdown()

    async def read(self, upload_id: str, epoch: int) -> bytes:
        """Return what tenure *epoch* has written."""
        path = self._folder_of(upload_id) / f"{_PREFIX}{epoch}"

        def read() -> bytes:
            with contextlib.suppress(FileNotFoundError):
                return path.read_bytes()
            return b""

        with translated("reading block digests"):
            return await asyncio.get_running_loop().run_in_executor(self._pool, read)

    async def write(self, upload_id: str, epoch: int, at: int, data: bytes) -> None:
        """Write *data* at the offset *at* of the file of tenure *epoch*."""
        folder = self._folder_of(upload_id)
        with translated("writing block digests"):
            await asyncio.get_running_loop().run_in_executor(self._pool, _write, folder, epoch, at, data)

    async def look_through(self, upload_id: str, segment: str, start: int, size: int, see: See) -> int:
        """Show bytes of a segment to *see*; return how many there were."""
        path = self._folder_of(upload_id) / segment
        with translated("reading a segment anew"):
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._look, path, start, size, see)

    def _look(self, path: Path, start: int, size: int, see: See) -> int:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            buffer = memoryview(bytearray(min(size, BUFFER_BYTES)))
            done = 0
            while done < size and not self._interrupted():
                came = os.preadv(fd, [buffer[: min(size - done, BUFFER_BYTES)]], start + done)
                if came == 0:
                    break
                see(buffer[:came])
                done += came
            return done
        finally:
            os.close(fd)


def files_in(names: list[str]) -> list[str]:
    """Return those of *names* that are files of block digests."""
    return [name for name in names if name.startswith(_PREFIX)]


def _write(folder: Path, epoch: int, at: int, data: bytes) -> None:
    if at == 0:
        for name in files_in(os.listdir(folder)):
            number = name.removeprefix(_PREFIX)
            if number.isdecimal() and int(number) < epoch:
                unlink_if_there(folder / name)
    fd = os.open(folder / f"{_PREFIX}{epoch}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(fd, at)
        write_all(fd, data, at)
    except PartialWriteError as partial:
        raise partial.error from partial
    finally:
        os.close(fd)


def _give_way() -> None:
    """Have this thread wait for all others that want the processor."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
