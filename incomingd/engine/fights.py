"""Two clients that send the same upload at two instances, and have it recalled from each other again and again.

Within one instance :mod:`incomingd.engine.turns` slows them down. Between two each
of them counts what was cut here because a client came elsewhere, and has the
client that comes back here wait before the upload is recalled for it.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from incomingd.core.pacing import PreemptionPacer

KEPT: Final = 1000
"""So many uploads are remembered; each is that of a client that was cut here of late."""


class Fights:
    """One for each instance."""

    def __init__(self) -> None:
        self._pacers: OrderedDict[str, PreemptionPacer] = OrderedDict()
        """The one that was cut last comes last."""
        self._owed_s: dict[str, float] = {}

    def cut(self, upload_id: str, now: float) -> None:
        """Tell that an append was cut here because a client of the upload came to a peer.

        Args:
            upload_id: whose.
            now: any clock that does not jump, in s.
        """
        pacer = self._pacers.setdefault(upload_id, PreemptionPacer())
        self._pacers.move_to_end(upload_id)
        self._owed_s[upload_id] = pacer.preempted(now)
        if len(self._pacers) > KEPT:
            oldest, _ = self._pacers.popitem(last=False)
            self._owed_s.pop(oldest, None)

    def owed_s(self, upload_id: str) -> float:
        """Return how long the next one waits before it is recalled for it, in s; owed once for each cut."""
        return self._owed_s.pop(upload_id, 0.0)
