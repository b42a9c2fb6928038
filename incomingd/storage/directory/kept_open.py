"""Segments stay open for a moment behind an append: most clients that send small pieces send the next one at once.

To open a file, and to close it, each take a way to a thread and back, which
costs more than to write 64 KiB.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from incomingd.storage.directory.threads import Threads

KEPT_MAX: Final = 128
KEPT_S: Final = 2.0
"""For so long, or a little longer, nobody needs to ask for it."""
OPEN_S: Final = 10.0
"""However often it is asked for: then its name is looked up anew, since the volume may have been moved away."""


class KeptOpen:
    """Descriptors by upload and segment.

    Args:
        pool: where they are closed.
    """

    def __init__(self, pool: Threads) -> None:
        self._pool = pool
        self._kept: dict[tuple[str, str], tuple[int, float, float]] = {}
        """Each with when it was opened, and until when it is kept; the one that was kept first stands first."""
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._kept)

    async def fetch(
        self, upload_id: str, name: str, size: int, open_it: Callable[[], Awaitable[int]]
    ) -> tuple[int, Callable[[int], None]]:
        """Return a descriptor of a segment of exactly *size* bytes, and what may keep it in place of a close.

        What is at hand is looked at here and now: of an open file the kernel knows all that is asked, and no disk is
        waited for. Else *open_it* opens it.
        """
        kept = self._kept.pop((upload_id, name), None)
        if kept is not None and not _is_sound(kept[0], size):
            self._close(kept[0])
            kept = None
        fd, opened_at = kept[:2] if kept is not None else (await open_it(), asyncio.get_running_loop().time())
        return fd, functools.partial(self._keep, upload_id, name, opened_at)

    def _keep(self, upload_id: str, name: str, opened_at: float, fd: int) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        if now >= opened_at + OPEN_S:
            self._close(fd)
            return
        former = self._kept.pop((upload_id, name), None)
        if former is None and len(self._kept) >= KEPT_MAX:
            former = self._kept.pop(next(iter(self._kept)))
        if former is not None:
            self._close(former[0])
        self._kept[upload_id, name] = (fd, opened_at, now + KEPT_S)
        if self._timer is None:
            self._timer = loop.call_later(KEPT_S, self._sweep)

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        now = loop.time()
        while self._kept:
            key, (fd, _, until) = next(iter(self._kept.items()))
            if until > now:
                self._timer = loop.call_later(KEPT_S, self._sweep)
                break
            del self._kept[key]
            self._close(fd)

    def drop(self, upload_id: str) -> None:
        """Close what is kept of an upload."""
        for key in [key for key in self._kept if key[0] == upload_id]:
            self._close(self._kept.pop(key)[0])

    def _close(self, fd: int) -> None:
        try:
            self._pool.run(os.close, fd).add_done_callback(_ignore)
        except RuntimeError:
            # The threads have ended: the program ends.
            with contextlib.suppress(OSError):
                os.close(fd)

    def close(self) -> None:
        """Close everything; blocks."""
        while self._kept:
            with contextlib.suppress(OSError):
                os.close(self._kept.popitem()[1][0])


def _is_sound(fd: int, size: int) -> bool:
    """Whether nobody has written since, or deleted it, and nothing is to be cut back."""
    status = os.fstat(fd)
    return status.st_size == size and status.st_nlink > 0


def _ignore(closed: asyncio.Future[Any]) -> None:
    """What a disk says to a close changes nothing any more."""
    if not closed.cancelled():
        closed.exception()
