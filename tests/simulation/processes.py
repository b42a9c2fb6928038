"""Processes on one virtual loop: each can be frozen as a whole, or ended, at any moment.

Every callback, task step and timer carries the context in which it was made, and
that names the process it belongs to. So a process that is frozen simply gets no
turn: its calls to a disk that were on their way are done after it wakes, its
answers come late, its timers ring when it wakes. One that is ended never gets a
turn again.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar, TypeVarTuple, Unpack

from tests.support.virtual import VirtualClock, VirtualLoop

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

HERE: contextvars.ContextVar[Gate | None] = contextvars.ContextVar("HERE", default=None)


class Gate:
    """Whether a process gets turns."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.frozen = False
        self.over = False
        """It is ended: no turn ever again (but those in which its tasks are cleared away)."""
        self._held: list[_Turn] = []
        self.context = contextvars.copy_context()
        self.context.run(HERE.set, self)

    def holds(self, turn: _Turn) -> bool:
        """Keep *turn* for later, if it is not the time for it."""
        if self.frozen or self.over:
            self._held.append(turn)
            return True
        return False

    def freeze(self) -> None:
        """Get no turn from now on."""
        self.frozen = True

    def thaw(self) -> None:
        """Get all turns that were missed, in their order."""
        self.frozen = False
        if self.over:
            return
        self._give_back()

    def clear_away(self) -> None:
        """Let what is left end."""
        self.frozen = self.over = False
        self._give_back()

    def _give_back(self) -> None:
        held, self._held = self._held, []
        for turn in held:
            turn.again()


class _Turn:
    """A callback of a process."""

    __slots__ = ("_args", "_callback", "_gate", "_loop", "handle")

    def __init__(self, loop: asyncio.AbstractEventLoop, gate: Gate, callback: Callable[..., Any], args: Any) -> None:
        self._loop = loop
        self._gate = gate
        self._callback = callback
        self._args = args
        self.handle: asyncio.Handle | None = None

    def __call__(self) -> None:
        assert self.handle is not None
        if not self.handle.cancelled() and not self._gate.holds(self):
            self._callback(*self._args)

    def again(self) -> None:
        if self.handle is None or not self.handle.cancelled():
            VirtualLoop.call_soon(self._loop, self, context=self.handle._context)  # type: ignore[arg-type,union-attr] # it is one


class ProcessLoop(VirtualLoop):
    """A virtual loop on which processes can be frozen, and whose network is a simulated one."""

    connect: Callable[[Callable[[], Any], str], tuple[Any, Any]] | None = None
    """Makes connections; None: there is no network."""

    async def create_connection(self, protocol_factory: Any, host: Any = None, *_: Any, **__: Any) -> tuple[Any, Any]:
        assert self.connect is not None, f"a connection to {host}"
        await asyncio.sleep(0)
        return self.connect(protocol_factory, host)

    def call_soon(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        context = context if context is not None else contextvars.copy_context()
        gate = context.get(HERE)
        if gate is None:
            return super().call_soon(callback, *args, context=context)
        turn = _Turn(self, gate, callback, args)
        turn.handle = super().call_soon(turn, context=context)
        return turn.handle

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        context = context if context is not None else contextvars.copy_context()
        gate = context.get(HERE)
        if gate is None:
            return super().call_at(when, callback, *args, context=context)
        turn = _Turn(self, gate, callback, args)
        turn.handle = handle = super().call_at(when, turn, context=context)
        return handle


OUTSIDE = contextvars.Context()
"""Of what belongs to no process: the network, clients, the web app."""


def outside(delay_s: float, callback: Callable[..., Any], *args: Any) -> None:
    """Have something happen whatever becomes of the process that brought it about."""
    _ = asyncio.get_running_loop().call_later(delay_s, callback, *args, context=OUTSIDE.copy())


def outside_task(work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
    """Run *work* in no process."""
    return asyncio.get_running_loop().create_task(work, name=name, context=OUTSIDE.copy())


class ProcessClock(VirtualClock):
    """A virtual clock whose tasks belong to one process."""

    def __init__(self, gate: Gate, seed: int) -> None:
        super().__init__(seed)
        self._gate = gate

    def spawn(self, coroutine: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        # Also where somebody else has brought it about: a message, a hint of the registry.
        return self._gate.context.copy().run(super().spawn, coroutine, name=name)


class FreezesHere:
    """Awaited by a call to a disk: there the process is frozen."""

    def __init__(self, freeze: Callable[[], None]) -> None:
        self._freeze = freeze

    def __await__(self) -> Generator[Any, None, None]:
        self._freeze()
        yield from asyncio.sleep(0).__await__()
