"""Memory that the host has given already, held back for the next run.

In a virtual machine that gives free memory back to its host, a page that nobody touched lately costs several times the
time of one that was: the host has to find it first, and the time is charged to whoever touches it. What is measured
then is how long ago somebody else had used the memory. So before each run a balloon touches as much as the run's files
will take, and gives it up piece by piece as the page cache grows: the server gets pages that are warm, and all get the
same. On a machine that keeps its memory nothing changes.
"""

from __future__ import annotations

import mmap
import threading
from types import TracebackType
from typing import Self

from benchmarks.machine import MIB, memory_info

PIECE_BYTES = 64 * MIB
AHEAD_BYTES = 384 * MIB
"""How much of it is free ahead of the page cache: what a server takes between two looks."""
LOOK_INTERVAL_S = 0.01
PAGE_BYTES = mmap.PAGESIZE
SPARE = 2
"""At most one part in so many of what is available is taken."""


class Balloon:
    """A context manager: the memory is touched before the block, and given up while it runs."""

    def __init__(self, size_bytes: int) -> None:
        self._pieces: list[mmap.mmap] = []
        size_bytes = min(size_bytes, memory_info("MemAvailable") // SPARE)
        while len(self._pieces) * PIECE_BYTES < size_bytes:
            piece = mmap.mmap(-1, PIECE_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            piece.madvise(mmap.MADV_HUGEPAGE)
            piece[::PAGE_BYTES] = bytes(PIECE_BYTES // PAGE_BYTES)
            self._pieces.append(piece)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._give_up, name="balloon", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()
        for piece in self._pieces:
            piece.close()

    def _give_up(self) -> None:
        before_bytes = memory_info("Cached")
        given_bytes = 0
        while not self._end.is_set():
            wanted_bytes = memory_info("Cached") - before_bytes + AHEAD_BYTES
            while self._pieces and given_bytes < wanted_bytes:
                self._pieces.pop().close()
                given_bytes += PIECE_BYTES
            self._end.wait(LOOK_INTERVAL_S)
