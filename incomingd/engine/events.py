"""What the engine tells those above it, which it does not know."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from enum import Enum
from typing import TYPE_CHECKING, Final

from incomingd.core.peering import Recalled
from incomingd.storage.body import CutReason

if TYPE_CHECKING:
    from collections.abc import Callable

    from incomingd.core.record import Record


class Told(Enum):
    """Kinds of events."""

    CREATED = "created"
    """A ticket was made."""
    CHANGED = "changed"
    """The web app has changed the terms."""
    STARTED = "started"
    """A client has begun for the first time."""
    COMPLETED = "completed"
    """All bytes are in."""
    WHOLE = "whole"
    """Complete, and the file stands under its final name."""
    LEFT = "left"
    """Something may be left to be done that nobody here remembers: bytes to delete, what follows from a claim."""
    FORGOTTEN = "forgotten"
    """Nothing is left of the upload, not even its record."""
    ENDED = "ended"
    """The status is final."""
    DUE = "due"
    """A callback has to be made; told for what was found at the start, too."""


class Move(Enum):
    """Kinds of steps by which uploads come to an instance and leave it; each is told with a word of a closed list."""

    PULLED = "pulled"
    """This instance has become an owner; why it could, as in the log's `upload.pulled`."""
    PARKED = "parked"
    """It has given an upload up; why, as in the log's `upload.parked`."""
    RECALLED = "recalled"
    """It has asked another owner to park an upload; what came of it, as :data:`RECALL_RESULTS` says."""


PULL_REASONS: Final = ("parked", "orphan", "silent", "abandoned", "own")
PARK_REASONS: Final = (CutReason.PREEMPTED.value, CutReason.STOPPING.value, "idle")
RECALL_RESULTS: Final = (*(each.value for each in Recalled), "gone", "silent", "refused")
MOVE_WORDS: Final = {Move.PULLED: PULL_REASONS, Move.PARKED: PARK_REASONS, Move.RECALLED: RECALL_RESULTS}
"""All words with which each kind of step may be told."""


class Events:
    """Subscribers, and those who wait for a change of one upload."""

    def __init__(self) -> None:
        self._move_subscribers: list[Callable[[Move, str], None]] = []
        self._subscribers: dict[Told, list[Callable[[Record], None]]] = defaultdict(list)
        self._watchers: dict[str, set[asyncio.Future[None]]] = {}

    def subscribe(self, told: Told, call: Callable[[Record], None]) -> None:
        """Have *call* called, on the loop, at each event of this kind."""
        self._subscribers[told].append(call)

    def tell(self, told: Told, record: Record) -> None:
        """Tell all subscribers."""
        for call in self._subscribers[told]:
            call(record)

    def subscribe_moves(self, call: Callable[[Move, str], None]) -> None:
        """Have *call* called, on the loop, at each step of an upload to this instance or away from it."""
        self._move_subscribers.append(call)

    def tell_move(self, move: Move, word: str) -> None:
        """Tell those who subscribed to moves; *word* is one of :data:`MOVE_WORDS`."""
        assert word in MOVE_WORDS[move], word
        for call in self._move_subscribers:
            call(move, word)

    def changed(self, upload_id: str) -> None:
        """Wake those who wait for a change of this upload."""
        for watcher in self._watchers.pop(upload_id, ()):
            if not watcher.done():
                watcher.set_result(None)

    def watch(self, upload_id: str) -> asyncio.Future[None]:
        """Return a future that is done at the upload's next change.

        Hand it to :meth:`unwatch` afterwards.
        """
        watcher: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._watchers.setdefault(upload_id, set()).add(watcher)
        return watcher

    def unwatch(self, upload_id: str, watcher: asyncio.Future[None]) -> None:
        """Forget *watcher*."""
        watcher.cancel()
        watchers = self._watchers.get(upload_id)
        if watchers is not None:
            watchers.discard(watcher)
            if not watchers:
                del self._watchers[upload_id]
