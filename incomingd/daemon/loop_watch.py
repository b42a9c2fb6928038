"""Who blocks the event loop: a turn of more than 100 ms is logged with the stack that it had, and counted.

Everybody waits while one callback runs. The loop notes when a turn begins and
when it rests (its selector is asked for the next events); a thread looks at
that note, and takes the stack of the loop's thread as soon as a turn has lasted
too long. The thread looks ten times a second while there is work, and sleeps
while the loop does; the loop itself asks the clock twice a turn.
"""

from __future__ import annotations

import asyncio
import selectors
import sys
import threading
import time
from typing import TYPE_CHECKING, Final

from incomingd.log import Sparing, events, get_logger

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

log = get_logger()

BLOCKED_S: Final = 0.1
TOLD_AFTER_S: Final = 5.0
"""A turn that lasts so long is told while it lasts: it may never end."""
FRAMES_MAX: Final = 24
_OF_THE_LOOP: Final = ("asyncio.", "tornado.platform.")


class LoopWatch:
    """Makes the event loop, and watches it between :meth:`start` and :meth:`stop`.

    Args:
        blocked_s: turns of more are told.
        monotonic: time in s; never 0.
    """

    def __init__(self, *, blocked_s: float = BLOCKED_S, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._blocked_s = blocked_s
        self._monotonic = monotonic
        self._began_s = 0.0
        """When the turn that is under way began; 0 while the loop rests. Written by the loop's thread alone."""
        self._parked = False
        """The watching thread sleeps until it is woken."""
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._seen: tuple[float, list[str]] | None = None
        """The stack of a turn, by its beginning. Written by the watching thread alone."""
        self._told_s = 0.0
        """Beginning of the turn that was told while it lasted."""
        self._loop_thread = 0
        self._thread: threading.Thread | None = None
        self._count: Callable[[float], None] | None = None
        self._sparing = Sparing(monotonic=monotonic)

    def make_loop(self) -> asyncio.SelectorEventLoop:
        """Return the loop to watch."""
        return asyncio.SelectorEventLoop(_WatchedSelector(self))

    @property
    def stack(self) -> list[str] | None:
        """What was seen of the turn that is under way, or was the last to be seen."""
        return None if self._seen is None else self._seen[1]

    def start(self, count: Callable[[float], None]) -> None:
        """Watch the loop of this thread from now on; *count* is told how long each turn lasted that was too long."""
        assert self._thread is None
        self._count = count
        self._loop_thread = threading.get_ident()
        # From here on: what went before was the start.
        self._began_s = self._monotonic()
        self._thread = threading.Thread(target=self._run, name="loop watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Watch no more; harmless where nobody watches."""
        if self._thread is not None:
            self._count = None
            self._stopping.set()
            self._wake.set()
            self._thread.join()
            self._thread = None

    # -- in the loop's thread

    def rests(self) -> None:
        """Called by the selector: the turn is over."""
        if self._began_s:
            lasted_s = self._monotonic() - self._began_s
            if lasted_s > self._blocked_s and self._count is not None:
                self._ended(self._began_s, lasted_s)
            self._began_s = 0.0

    def begins(self) -> None:
        """Called by the selector: a turn begins."""
        self._began_s = self._monotonic()
        if self._parked:
            self._wake.set()

    def _ended(self, began_s: float, lasted_s: float) -> None:
        assert self._count is not None
        self._count(lasted_s)
        if self._told_s != began_s:
            self._tell(began_s, lasted_s)

    # -- in both

    def _tell(self, began_s: float, lasted_s: float) -> None:
        left_out = self._sparing.next()
        if left_out is not None:
            seen = self._seen
            stack = seen[1] if seen is not None and seen[0] == began_s else None
            log.warning(events.LOOP_BLOCKED, duration_s=round(lasted_s, 3), stack=stack, left_out=left_out)

    # -- in the watching thread

    def _run(self) -> None:
        while not self._stopping.is_set():
            began_s = self._began_s
            if not began_s:
                self._sleep_while_it_rests()
                continue
            lasted_s = self._monotonic() - began_s
            if lasted_s < self._blocked_s:
                self._stopping.wait(self._blocked_s - lasted_s)
                continue
            if self._seen is None or self._seen[0] != began_s:
                stack = stack_of(self._loop_thread)
                if self._began_s == began_s:
                    self._seen = began_s, stack
            if lasted_s >= TOLD_AFTER_S and self._told_s != began_s:
                self._told_s = began_s
                self._tell(began_s, lasted_s)
            self._stopping.wait(self._blocked_s)

    def _sleep_while_it_rests(self) -> None:
        self._wake.clear()
        self._parked = True
        # In this order: the loop looks whether to wake somebody after it has said that it works.
        if not self._began_s and not self._stopping.is_set():
            self._wake.wait()
        self._parked = False


class _WatchedSelector(selectors.DefaultSelector):
    """The loop's selector: asked when nothing is left to be done just now."""

    def __init__(self, watch: LoopWatch) -> None:
        super().__init__()
        self._watch = watch

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._watch.rests()
        try:
            return super().select(timeout)
        finally:
            self._watch.begins()


def stack_of(thread: int) -> list[str]:
    """Return what a thread is doing: `module.function:line` from the outermost to the innermost, without the loop's."""
    frame: FrameType | None = sys._current_frames().get(thread)  # noqa: SLF001 -- its only door; documented by Python
    stack: list[str] = []
    while frame is not None and len(stack) < FRAMES_MAX:
        module = str(frame.f_globals.get("__name__", "?"))
        if module.startswith(_OF_THE_LOOP) and stack:
            break
        stack.append(f"{module}.{frame.f_code.co_qualname}:{frame.f_lineno}")
        frame = frame.f_back
    return stack[::-1]
