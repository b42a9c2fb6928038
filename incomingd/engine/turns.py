"""Whose turn it is to append: a newer request pre-empts an older one.

A client that comes back after a lost connection must not wait for the server
to notice that its former connection is dead. So the request that arrived last
always wins: the older body is cut, what came of it is kept, and the newer
request goes on from there.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from incomingd.core.errors import Code, Refusal
from incomingd.core.pacing import PreemptionPacer
from incomingd.storage.body import Body, CutReason

if TYPE_CHECKING:
    from collections.abc import Callable

    from incomingd.clock import Clock
    from incomingd.engine.digesting import Seen


class OpenAppend:
    """An append that is under way."""

    def __init__(self, arrival: int, body: Body) -> None:
        self.arrival = arrival
        self.body = body
        self.quiesced: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when no more bytes are taken and every write is answered."""
        self.taken = 0
        """Bytes kept so far."""
        self.seen: Seen | None = None
        """What a digest has seen of them."""


class Turns:
    """The one place from which one target of an upload is appended to."""

    def __init__(self, clock: Clock, on_fight: Callable[[float], None]) -> None:
        self._clock = clock
        self._on_fight = on_fight
        """Told for how long a request is slowed down, in s."""
        self._newest = 0
        self._open: OpenAppend | None = None
        self._pacer: PreemptionPacer | None = None

    @property
    def open(self) -> OpenAppend | None:
        """The append that is under way, if any."""
        return self._open

    def arrive(self) -> int:
        """Register a request; return its place in the order of arrival."""
        self._newest += 1
        return self._newest

    def check_newest(self, arrival: int) -> None:
        """Refuse a request that would change bytes after a newer one came."""
        if arrival != self._newest:
            raise Refusal(Code.PREEMPTED, retry_after_s=0)

    async def take(self, arrival: int, *, hold_s: float) -> float:
        """Wait for the turn of a request that appends or begins anew.

        Returns how long it was slowed down, in s, because of a fight.
        """
        if self._open is None:
            return 0.0
        delay_s = await self.slow_down()
        if delay_s:
            self.check_newest(arrival)
        await self.quiesce(arrival, CutReason.PREEMPTED, hold_s=hold_s)
        self.check_newest(arrival)
        return delay_s

    async def slow_down(self) -> float:
        """Count what is about to be pre-empted; have the newer request wait where two fight.

        Returns how long it waited, in s.
        """
        if self._open is None:
            return 0.0
        # Made when it is needed: most uploads are never pre-empted.
        self._pacer = self._pacer or PreemptionPacer()
        delay_s = self._pacer.preempted(self._clock.monotonic())
        if delay_s:
            self._on_fight(delay_s)
            await self._clock.sleep(delay_s)
        return delay_s

    async def quiesce(self, arrival: int, reason: CutReason, *, hold_s: float) -> None:
        """Cut what is older than *arrival*; return when nothing is under way.

        Raises:
            Refusal: `not_ready`, when it did not come to rest within *hold_s*.
        """
        deadline = self._clock.monotonic() + hold_s
        while self._open is not None:
            append = self._open
            if append.arrival < arrival:
                append.body.cut(reason)
            left_s = deadline - self._clock.monotonic()
            if left_s <= 0 or not await self._clock.timeout(left_s, append.quiesced):
                raise Refusal(Code.NOT_READY, retry_after_s=1)

    def begin(self, append: OpenAppend) -> None:
        """Enter an append; nothing may be under way."""
        assert self._open is None
        self._open = append

    def end(self, append: OpenAppend) -> None:
        """The append has come to rest and its offset is settled."""
        assert self._open is append
        self._open = None
        if not append.quiesced.done():
            append.quiesced.set_result(None)
