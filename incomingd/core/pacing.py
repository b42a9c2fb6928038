"""When to try again, and when two clients fight."""

from __future__ import annotations

from collections import deque
from typing import Final

PREEMPTIONS_FREE: Final = 6
"""So many pre-emptions within the window cost nothing."""
PREEMPTION_WINDOW_S: Final = 10.0
PREEMPTION_DELAY_FIRST_S: Final = 1.0
PREEMPTION_DELAY_MAX_S: Final = 8.0


class PreemptionPacer:
    """Slows down two clients that send the same upload and cut each other.

    A client that comes back after a lost connection pre-empts its own former
    request, which must be free. Two open tabs pre-empt each other for ever,
    which must not be.
    """

    __slots__ = ("_delay_s", "_times")

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=PREEMPTIONS_FREE + 1)
        self._delay_s = 0.0

    def preempted(self, now: float) -> float:
        """Tell of one pre-emption; return how long the newer request waits, in s.

        Args:
            now: any clock that does not jump, in s.
        """
        if not self._times or now - self._times[-1] > PREEMPTION_WINDOW_S:
            self._delay_s = 0.0
        self._times.append(now)
        full = len(self._times) > PREEMPTIONS_FREE
        if full and now - self._times[0] <= PREEMPTION_WINDOW_S + self._delay_s * PREEMPTIONS_FREE:
            self._delay_s = min(max(self._delay_s * 2, PREEMPTION_DELAY_FIRST_S), PREEMPTION_DELAY_MAX_S)
        elif full:
            self._delay_s = 0.0
        return self._delay_s


def backoff_s(attempt: int, *, first_s: float, max_s: float, jitter: float) -> float:
    """Return how long to wait after the failed attempt number *attempt*, in s.

    Doubles from *first_s* up to *max_s*; *jitter* in [0, 1) takes up to half of
    it away, so that many uploads that failed together do not come back together.
    """
    assert attempt >= 1, attempt
    assert 0.0 <= jitter < 1.0, jitter
    # 2 ** 64 s is for ever; a larger exponent only costs memory.
    wait_s = min(first_s * 2.0 ** min(attempt - 1, 64), max_s)
    return wait_s * (1.0 - jitter / 2)
