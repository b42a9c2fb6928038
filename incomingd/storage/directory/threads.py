"""The threads in which a volume waits for its disk: as few at a time as the disk lets do.

Most of what a volume is asked for takes some microseconds, since the kernel has
it in memory. What costs then is not the call but the way to a thread and back:
an executor of the standard library wakes a thread for each call, which then
wait for each other's turn at the interpreter, and wakes the event loop for each
answer. Here one thread works off what has been asked for, and answers all of it
at once. Only where that takes longer than a moment, since a disk is at work,
others come to help.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from enum import Enum, auto
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

PATIENCE_S: Final = 0.002
"""What has not begun after so long gets a thread of its own."""


class _Wake(Enum):
    WORK = auto()
    END = auto()


class Threads:
    """Asked on the event loop.

    Args:
        most: so many calls wait for the disk at once, and no more.
        name: of the threads.
    """

    def __init__(self, most: int, name: str) -> None:
        self._most = most
        self._name = name
        self._threads: list[threading.Thread] = []
        self._timer: asyncio.TimerHandle | None = None
        self._looked_at = 0
        """What was asked for before this was looked at by the timer already."""
        self._asked_count = 0
        self._wake: SimpleQueue[_Wake] = SimpleQueue()
        self._lock = threading.Lock()
        # What follows is guarded by the lock.
        self._asked: deque[tuple[asyncio.Future[Any], Callable[..., Any], tuple[Any, ...]]] = deque()
        self._begun_count = 0
        self._active = 0
        """Threads that are at work, or are about to be."""
        self._due = False
        """The first thread is about to be woken: at the end of the loop's turn."""
        self._closed = False
        self._answers: deque[tuple[asyncio.Future[Any], Any, BaseException | None]] = deque()
        self._told: asyncio.AbstractEventLoop | None = None
        """The loop that knows of answers, and has not come for them yet."""

    def run(self, call: Callable[..., T], *args: Any) -> asyncio.Future[T]:
        """Return a future of what *call* returns or raises; once it is cancelled, *call* does not begin any more.

        Raises:
            RuntimeError: it is closed.
        """
        loop = asyncio.get_running_loop()
        asked: asyncio.Future[T] = loop.create_future()
        with self._lock:
            if self._closed:
                raise RuntimeError("the volume is closed")
            self._asked.append((asked, call, args))
            self._asked_count += 1
            alone = self._active == 0
            if alone:
                self._active = 1
                self._due = True
        if alone:
            # Not in the middle of what the loop does now: the thread would fight it for the interpreter, and what else
            # is asked for in this turn would need another one.
            loop.call_soon(self._begin)
        elif self._timer is None:
            self._look_later(loop)
        return asked

    def _begin(self) -> None:
        with self._lock:
            due, self._due = self._due, False
        if due:
            self._put_to_work(1)

    def _put_to_work(self, count: int) -> None:
        """Wake *count* threads, which count as active already."""
        for _ in range(count):
            if len(self._threads) < min(self._active, self._most):
                thread = threading.Thread(target=self._work, name=f"{self._name}_{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()
            self._wake.put(_Wake.WORK)

    # -- where one thread is not enough

    def _look_later(self, loop: asyncio.AbstractEventLoop) -> None:
        self._looked_at = self._asked_count
        self._timer = loop.call_later(PATIENCE_S, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have others help where something has waited for as long as the timer ran."""
        with self._lock:
            late = self._looked_at - self._begun_count
            more = min(late, self._most - self._active) if late > 0 and not self._closed else 0
            self._active += more
            waiting = bool(self._asked)
        self._timer = None
        self._put_to_work(more)
        if waiting:
            self._look_later(loop)

    # -- in a thread

    def _work(self) -> None:
        while self._wake.get() is _Wake.WORK:
            while True:
                with self._lock:
                    if not self._asked:
                        self._active -= 1
                        break
                    asked, call, args = self._asked.popleft()
                    self._begun_count += 1
                if not asked.cancelled():
                    self._do(asked, call, args)
                # Not to be held while this thread waits.
                del asked, call, args

    def _do(self, asked: asyncio.Future[Any], call: Callable[..., Any], args: tuple[Any, ...]) -> None:
        try:
            result, error = call(*args), None
        except BaseException as raised:  # noqa: BLE001 -- whoever asked gets it, whatever it is
            result, error = None, raised
        loop = asked.get_loop()
        with self._lock:
            self._answers.append((asked, result, error))
            tell = self._told is not loop
            self._told = loop
        if tell:
            # Closed: nobody waits any more.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._answer)

    # -- back on the loop

    def _answer(self) -> None:
        with self._lock:
            answers, self._answers = self._answers, deque()
            self._told = None
        for asked, result, error in answers:
            if asked.cancelled():
                continue
            if error is not None:
                asked.set_exception(error)
            else:
                asked.set_result(result)

    def close(self) -> None:
        """Take no more; return when all that was asked for is done. Blocks; not for the event loop."""
        with self._lock:
            self._closed = True
        self._begin()
        for _ in self._threads:
            self._wake.put(_Wake.END)
        for thread in self._threads:
            thread.join()
