"""How fast clients are cut whose uploads move to other volumes: not faster than they get going again.

Each of them comes to a peer, which asks this instance for the upload; where more are cut than such moves are done,
each waits for those before it. How many a second that is depends on both sides, their disks, and what else they do:
so it is not reckoned but seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from incomingd.engine.bell import Bell
from incomingd.engine.giving import Step

if TYPE_CHECKING:
    from incomingd.engine.engine import Engine

AWAY_AT_ONCE: Final = 8
"""Uploads that were cut and not asked for yet. A few more than are moved at the same time, so that nobody idles."""
RETURN_S: Final = 1.5
"""Who has not come within so long may not come at all, and is not waited for."""


class Returns:
    """One for each time that clients are cut in turn; :meth:`close` ends it.

    Args:
        engine: that is emptied.
        moving: whether uploads go to other volumes. Else nobody asks for them here, and nobody is waited for.
    """

    def __init__(self, engine: Engine, *, moving: bool) -> None:
        self._moving = moving
        self._clock = engine.services.clock
        self._away: dict[str, float] = {}
        """Who was cut when, those that were cut first coming first."""
        self._bell = Bell()
        self._returned = 0
        self._missed = 0
        self._unwatch = engine.giving.watch(self._heard)

    def close(self) -> None:
        """Watch no more."""
        self._unwatch()

    def _heard(self, upload_id: str, step: Step) -> None:
        if step is Step.GIVEN and self._away.pop(upload_id, None) is not None:
            self._returned += 1
            self._bell.ring()

    async def turn(self, upload_id: str) -> None:
        """Wait until the next client may be cut, that of *upload_id*."""
        while len(self._away) >= AWAY_AT_ONCE:
            first = next(iter(self._away))
            left_s = self._away[first] + RETURN_S - self._clock.monotonic()
            # Where most do not come back there is nothing to be learned from them.
            if left_s <= 0 or self._missed > self._returned + AWAY_AT_ONCE:
                del self._away[first]
                self._missed += 1
            else:
                await self._bell.wait(self._clock, left_s)
        if self._moving:
            self._away[upload_id] = self._clock.monotonic()
