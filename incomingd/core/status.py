"""The life of one upload, as a table.

Two things are told apart: *status* says what has become of an upload,
*ownership* (:mod:`incomingd.core.tenure`) which instance may say so.
"""

from __future__ import annotations

from enum import Enum
from typing import Final


class Status(Enum):
    """What has become of an upload; stored, and shown to web apps."""

    OPEN = "open"
    COMPLETE = "complete"
    HANDING_OVER = "handing_over"
    AWAITING_APP = "awaiting_app"
    FINISHED = "finished"
    CANCELLED = "cancelled"
    FAILED = "failed"
    EXPIRED = "expired"
    LOST = "lost"

    @property
    def final(self) -> bool:
        """Nothing leads out of this status."""
        return self not in TRANSITIONS

    @property
    def gone(self) -> bool:
        """Final without a file that was handed over: clients are told 410."""
        return self.final and self is not Status.FINISHED

    @property
    def whole(self) -> bool:
        """All bytes are, or were, in."""
        return self is not Status.OPEN and not self.gone


class Event(Enum):
    """What can happen to an upload."""

    STORED = "stored"
    COMPLETED = "completed"
    HANDOVER_STARTED = "handover_started"
    APP_DONE = "app_done"
    APP_WAITS = "app_waits"
    APP_UNREACHABLE = "app_unreachable"
    APP_REFUSED = "app_refused"
    CANCEL = "cancel"
    EXPIRE = "expire"
    BYTES_LOST = "bytes_lost"
    PARK = "park"
    PULL = "pull"


S, E = Status, Event

# Read a row as: in this status, these events are legal, and lead there.
# A status without a row is final.
TRANSITIONS: Final[dict[Status, dict[Event, Status]]] = {
    S.OPEN: {
        E.STORED: S.OPEN,
        E.COMPLETED: S.COMPLETE,
        E.CANCEL: S.CANCELLED,
        E.EXPIRE: S.EXPIRED,
        E.BYTES_LOST: S.LOST,
        E.PARK: S.OPEN,
        E.PULL: S.OPEN,
    },
    S.COMPLETE: {
        E.HANDOVER_STARTED: S.HANDING_OVER,
        E.CANCEL: S.CANCELLED,
        E.BYTES_LOST: S.LOST,
        E.PARK: S.COMPLETE,
        E.PULL: S.COMPLETE,
    },
    S.HANDING_OVER: {
        E.APP_DONE: S.FINISHED,
        E.APP_WAITS: S.AWAITING_APP,
        E.APP_UNREACHABLE: S.COMPLETE,
        E.APP_REFUSED: S.FAILED,
        E.BYTES_LOST: S.LOST,
        # The callback may have arrived or not. The next owner asks again,
        # which is why an app sees it at least once and never exactly once.
        E.PARK: S.COMPLETE,
        E.PULL: S.COMPLETE,
    },
    S.AWAITING_APP: {
        E.APP_DONE: S.FINISHED,
        E.APP_REFUSED: S.FAILED,
        E.EXPIRE: S.FAILED,
        E.BYTES_LOST: S.LOST,
        E.PARK: S.AWAITING_APP,
        E.PULL: S.AWAITING_APP,
    },
}


class IllegalEventError(Exception):
    """An event that the status has no row for: a programming error."""


def next_status(status: Status, event: Event) -> Status:
    """Return what *status* becomes by *event*.

    Raises:
        IllegalEventError: the table has no such row. Callers that pass on what
            a client wants check :func:`legal` first and refuse in words.
    """
    try:
        return TRANSITIONS[status][event]
    except KeyError:
        msg = f"{event.value} while {status.value}"
        raise IllegalEventError(msg) from None


def legal(status: Status, event: Event) -> bool:
    """Whether the table has a row for *event* in *status*."""
    return event in TRANSITIONS.get(status, {})
