"""Calls to a volume in memory, and what they hand out: segments and complete files."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol, TypeVar

from incomingd.storage.volume import Taken, VolumeFullError

if TYPE_CHECKING:
    from collections.abc import Callable

    from incomingd.storage.body import Body
    from incomingd.storage.memory_parts import File, Trouble
    from incomingd.storage.volume import See

T = TypeVar("T")


class Disk(Protocol):
    """What calls need of the disk."""

    calls: int
    trouble: Callable[[str], Trouble | None] | None

    def take_room(self, size: int) -> int:
        """Return how many of *size* bytes find room, and use it up."""


class Process(Protocol):
    """What calls need of the process that makes them."""

    dead: bool
    trouble: Callable[[str], Trouble | None] | None

    @property
    def disk(self) -> Disk:
        """That it uses."""

    def wrote(self, file: File) -> None:
        """Bytes have been written to *file*."""


class Calls:
    """Makes calls that wait their turn, can fail, and end with the process."""

    def __init__(self, process: Process) -> None:
        self._process = process

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
        disk = self._process.disk
        disk.calls += 1
        ask = self._process.trouble or disk.trouble
        trouble = ask(name) if ask is not None else None
        await asyncio.sleep(0)
        if trouble is not None and trouble.hold is not None and not trouble.late:
            await trouble.hold
        if self._process.dead:
            await asyncio.get_running_loop().create_future()
        return trouble

    async def end(self, trouble: Trouble) -> None:
        """Wait with an answer that comes late."""
        if trouble.hold is not None and trouble.late:
            await trouble.hold


class MemorySegment:
    """See :class:`incomingd.storage.volume.Segment`."""

    def __init__(self, file: File, calls: Calls, process: Process) -> None:
        self._file = file
        self._process = process
        self._size = len(file.data)
        self._calls = calls
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
        see: See | None = None,
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

    async def _keep(self, data: bytes, see: See | None) -> None:
        assert self._open, "the segment is closed"
        trouble = await self._calls.begin("take")
        failing = trouble is not None and trouble.error is not None
        wanted = data
        if trouble is not None and failing and not trouble.done:
            wanted = data[: int(len(data) * trouble.share)]
        kept = wanted[: self._process.disk.take_room(len(wanted))]
        self._file.write(self._size, kept)
        self._process.wrote(self._file)
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

    async def read_back(self, start: int, see: See) -> None:
        """Hand the kept bytes from *start* on to *see*."""
        see(await self._calls.make("read_back", lambda: bytes(self._file.data[start : self._size])))

    async def close(self) -> None:
        """Let go of it."""
        self._open = False


class MemoryFile:
    """See :class:`incomingd.storage.volume.StoredFile`."""

    def __init__(self, file: File, calls: Calls) -> None:
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
