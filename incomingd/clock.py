"""Time, sleep, randomness and tasks: the only door to them.

Engine, registry, peers, hand-over and drain get an instance of :class:`Clock`
and nothing else, so that a test can run a fleet on a virtual clock and have the
same run again from the same seed.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Coroutine


class Clock(Protocol):
    """What the rest of the program may know of time and chance."""

    def now(self) -> float:
        """Unix time in s: for deadlines that are stored. May jump."""

    def monotonic(self) -> float:
        """Seconds since some instant: for durations. Never jumps."""

    async def sleep(self, duration_s: float) -> None:
        """Return after *duration_s*."""

    def random_bits(self, bits: int) -> int:
        """Return *bits* bits that nobody can guess."""

    def jitter(self) -> float:
        """Return a number in [0, 1), for spreading retries; not for secrets."""

    def spawn(self, coroutine: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        """Run *coroutine* as a task; the clock keeps it alive.

        An exception that leaves it is a programming error: it is told to the
        loop's exception handler, never swallowed.
        """

    async def timeout(self, duration_s: float, wait_for: asyncio.Future[Any]) -> bool:
        """Wait for *wait_for*, at most *duration_s*; return whether it is done.

        Neither cancels it nor raises what it raised.
        """


class SystemClock:
    """The real one."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def now(self) -> float:
        """Unix time in s."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds that never jump."""
        return time.monotonic()

    async def sleep(self, duration_s: float) -> None:
        """Return after *duration_s*."""
        await asyncio.sleep(duration_s)

    def random_bits(self, bits: int) -> int:
        """Return *bits* bits that nobody can guess."""
        return secrets.randbits(bits)

    def jitter(self) -> float:
        """Return a number in [0, 1)."""
        return random.random()  # noqa: S311 -- spreads retries, protects nothing

    def spawn(self, coroutine: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        """Run *coroutine* as a task that is kept until it has ended."""
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def close(self) -> None:
        """Cancel every task that is left, and return when all have ended."""
        own = asyncio.current_task()
        while left := [task for task in self._tasks if task is not own]:
            for task in left:
                task.cancel()
            await asyncio.wait(left)
            # Done callbacks, which take tasks off the set, run on the loop's next turn.
            await asyncio.sleep(0)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            task.get_loop().call_exception_handler(
                {
                    "message": f"the task {task.get_name()!r} failed",
                    "exception": error,
                    "task": task,
                }
            )

    async def timeout(self, duration_s: float, wait_for: asyncio.Future[Any]) -> bool:
        """Wait for *wait_for*, at most *duration_s*; return whether it is done."""
        done, _ = await asyncio.wait([wait_for], timeout=duration_s)
        return bool(done)
