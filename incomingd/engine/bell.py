"""Wakes a loop that waits for its next turn."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from incomingd.clock import Clock


class Bell:
    """Rung by anybody, heard by one: a ring while nobody listens is not lost."""

    def __init__(self) -> None:
        self._rung = False
        self._listener: asyncio.Future[None] | None = None

    def ring(self) -> None:
        """Wake whoever waits, or let the next wait end at once."""
        self._rung = True
        if self._listener is not None and not self._listener.done():
            self._listener.set_result(None)

    async def wait(self, clock: Clock, duration_s: float) -> None:
        """Return when it was rung, at the latest after *duration_s*."""
        if not self._rung:
            self._listener = asyncio.get_running_loop().create_future()
            await clock.timeout(duration_s, self._listener)
            self._listener = None
        self._rung = False
