"""Virtual time: an event loop whose clock jumps to the next thing that is due, and chance from a seed.

Hours pass in milliseconds, and a test that fails fails again in the same way. Only what has no other sockets and
threads than those of the loop's executor runs on it: while a thread works, no time passes.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import random
import selectors
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, ParamSpec, TypeVar, TypeVarTuple

Ts = TypeVarTuple("Ts")
P = ParamSpec("P")
T = TypeVar("T")

EPOCH_S = 1_800_000_000.0
"""Unix time at which every virtual run begins."""
TURNS_MAX = 300_000
"""Of the loop at one instant; far more than tens of thousands of uploads take."""


class StuckError(AssertionError):
    """Everything waits, and nothing is due: the real program would hang for ever."""


class _JumpingSelector(selectors.SelectSelector):
    """Instead of waiting, moves the loop's time on."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop
        self._turns = 0
        """Of the loop, in which no time has passed."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self._loop.in_threads and timeout != 0:
            return super().select(None)
        ready = super().select(0)
        if ready or timeout == 0:
            self._turns += 1
            if self._turns > TURNS_MAX:
                self._turns = 0
                raise StuckError(f"no time passes: something spins at {self._loop.virtual_s} s")
            return ready
        self._turns = 0
        if timeout is None:
            tasks = "\n".join(sorted(repr(task) for task in asyncio.all_tasks(self._loop)))
            raise StuckError(f"everything waits for ever:\n{tasks}")
        self._loop.virtual_s += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only when nothing else is left to do."""

    def __init__(self) -> None:
        self.virtual_s = 0.0
        self.in_threads = 0
        """Calls that the executor has not answered yet."""
        self.complaints: list[dict[str, Any]] = []
        """What nobody caught."""
        super().__init__(_JumpingSelector(self))
        # Sums of small differences must not leave a timer a hair's breadth in the future, for ever.
        self._clock_resolution = 1e-6
        self.set_exception_handler(lambda _, context: self.complaints.append(context))

    def time(self) -> float:
        return self.virtual_s

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        future = super().run_in_executor(executor, func, *args)
        self.in_threads += 1
        future.add_done_callback(self._answered)
        return future

    def _answered(self, _: object) -> None:
        self.in_threads -= 1

    def finish(self) -> None:
        """End all tasks and close; raise what nobody caught."""
        try:
            # What ends may begin something more, to close what it has open.
            while tasks := asyncio.all_tasks(self):
                for task in tasks:
                    task.cancel()
                self.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            self.run_until_complete(self.shutdown_asyncgens())
            self.run_until_complete(self.shutdown_default_executor())
        finally:
            self.close()
        for complaint in self.complaints:
            raise AssertionError(complaint.get("message")) from complaint.get("exception")


class VirtualClock:
    """The project's clock on a loop's virtual time; see :class:`incomingd.clock.Clock`."""

    def __init__(self, seed: int = 0) -> None:
        self._chance = random.Random(seed)
        self._tasks: set[asyncio.Task[None]] = set()
        self.jumped_s = 0.0
        """How far somebody has put the wall clock forward (or back)."""

    def now(self) -> float:
        return EPOCH_S + asyncio.get_running_loop().time() + self.jumped_s

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, duration_s: float) -> None:
        await asyncio.sleep(duration_s)

    def random_bits(self, bits: int) -> int:
        return self._chance.getrandbits(bits)

    def jitter(self) -> float:
        return self._chance.random()

    def spawn(self, coroutine: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            task.get_loop().call_exception_handler(
                {"message": f"the task {task.get_name()!r} failed", "exception": error}
            )

    async def timeout(self, duration_s: float, wait_for: asyncio.Future[Any]) -> bool:
        done, _ = await asyncio.wait([wait_for], timeout=duration_s)
        return bool(done)

    async def end_tasks(self) -> None:
        """Cancel what was spawned, as the end of a process would."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def run(work: Awaitable[T]) -> T:
    """Return what *work* returns, on virtual time."""
    loop = VirtualLoop()

    async def main() -> T:
        return await work

    try:
        return loop.run_until_complete(main())
    finally:
        loop.finish()


def virtual(test: Callable[P, Awaitable[None]]) -> Callable[P, None]:
    """Make of a test that awaits one that runs on virtual time; its fixtures stay what they are."""

    @functools.wraps(test)
    def on_virtual_time(*args: P.args, **kwargs: P.kwargs) -> None:
        run(test(*args, **kwargs))

    on_virtual_time.__signature__ = inspect.signature(test)  # type: ignore[attr-defined] # what pytest asks for fixtures
    return on_virtual_time


async def settle() -> None:
    """Let everything happen that needs no time."""
    loop = asyncio.get_running_loop()
    before = loop.time()
    # A sleep of nothing goes to the back of the queue once; an instant of virtual time only when the queue is empty.
    await asyncio.sleep(1e-5)
    assert loop.time() - before < 1.0
