"""How late the event loop comes: the first thing that shows when something blocks it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from incomingd.clock import Clock
    from incomingd.metrics import Metrics

INTERVAL_S: Final = 1.0


async def watch_loop(clock: Clock, metrics: Metrics) -> None:
    """Measure, until cancelled."""
    while True:
        due = clock.monotonic() + INTERVAL_S
        await clock.sleep(INTERVAL_S)
        metrics.loop_lagged(clock.monotonic() - due)
