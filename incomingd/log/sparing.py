"""What happens very often is logged now and then: a log that is flooded tells nothing."""

import time
from collections import deque
from collections.abc import Callable
from typing import Final

LINES: Final = 6
PER_S: Final = 60.0


class Sparing:
    """Lets so many lines pass within a time, and counts the others."""

    def __init__(
        self, *, lines: int = LINES, per_s: float = PER_S, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_s = per_s
        self._monotonic = monotonic
        self._passed: deque[float] = deque(maxlen=lines)
        self._left_out = 0

    def next(self) -> int | None:
        """Return how many lines were left out since the last one, or None: leave this one out, too."""
        now_s = self._monotonic()
        if len(self._passed) == self._passed.maxlen and now_s - self._passed[0] < self._per_s:
            self._left_out += 1
            return None
        self._passed.append(now_s)
        left_out, self._left_out = self._left_out, 0
        return left_out
