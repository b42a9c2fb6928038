"""Bringing the bytes of many appends to the disk at once: group commit.

Each acknowledgement that promises to survive a power loss waits for one
fdatasync. Many at once share the disk's work: a few threads take what is asked
for in groups, have all writes of a group begin, and only then wait for them one
by one. The file system commits its journal for all that is under way together.
And reads and records, which the other threads see to, never queue behind it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from incomingd.storage.directory import syscalls

SYNCERS: Final = 4
"""Groups at the same time. One alone waits for the disk's cache as often as there are files in it."""
_WHOLE_FILE: Final = 2**62


class Syncer:
    """The threads of one volume that wait for the disk; asked on the event loop."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(SYNCERS, thread_name_prefix="sync")
        self._asked: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._active = 0

    def sync(self, fd: int) -> asyncio.Future[None]:
        """Return a future that is done when all bytes written to *fd* until now would survive a power loss.

        *fd* stays open until then, whoever waits for it. The future fails with
        what the disk says: OSError.
        """
        asked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # Also where its asker has gone.
        asked.add_done_callback(_see)
        self._asked.append((fd, asked))
        if self._active < SYNCERS:
            self._active += 1
            self._next()
        return asked

    def _next(self) -> None:
        if not self._asked:
            self._active -= 1
            return
        size = -(-len(self._asked) // SYNCERS)
        group = [self._asked.popleft() for _ in range(size)]
        done = asyncio.get_running_loop().run_in_executor(self._pool, sync_group, [fd for fd, _ in group])

        def settle(done: asyncio.Future[list[OSError | None]]) -> None:
            # What is no OSError is a mistake of ours, and everybody's.
            mistake = done.exception()
            errors = [mistake] * size if mistake is not None else done.result()
            for (_, asked), error in zip(group, errors, strict=True):
                if asked.cancelled():
                    continue
                if error is not None:
                    asked.set_exception(error)
                else:
                    asked.set_result(None)
            self._next()

        done.add_done_callback(settle)

    def close(self) -> None:
        """Wait for what is under way; blocks."""
        self._pool.shutdown()


def sync_group(fds: list[int]) -> list[OSError | None]:
    """Sync each of *fds*; return for each what went wrong. Blocks."""
    if len(fds) > 1:
        for fd in fds:
            # Whatever this says, the sync says it again.
            with contextlib.suppress(OSError):
                syscalls.begin_writing(fd, 0, _WHOLE_FILE)
    errors: list[OSError | None] = []
    for fd in fds:
        try:
            os.fdatasync(fd)
        except OSError as error:
            errors.append(error)
        else:
            errors.append(None)
    return errors


def _see(asked: asyncio.Future[None]) -> None:
    if not asked.cancelled():
        asked.exception()
