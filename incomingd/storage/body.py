"""What a volume sees of the bytes that come in.

The interface stands here, below those who implement it: the HTTP/1.1
connection, and whatever else brings bytes.
"""

from __future__ import annotations

from enum import Enum
from typing import Protocol


class CutReason(Enum):
    """Why a body ended before its end, and so who ended it: the log's `ended_by`."""

    CLIENT = "client"
    """The client went away."""
    PREEMPTED = "preempted"
    """A newer request for the same upload came."""
    STALLED = "timeout"
    """No byte came for too long."""
    TOO_SLOW = "rate"
    """Bytes came, but too few."""
    STOPPING = "shutdown"
    """This instance stops."""
    ENDED = "cancelled"
    """The upload, or this part of it, was cancelled meanwhile."""
    EXPIRING = "expired"
    """The time of the upload is over."""
    MALFORMED = "error"
    """The framing of the body is broken."""


class BodyCutError(Exception):
    """The body ended before its end. What was read before it counts."""

    def __init__(self, reason: CutReason) -> None:
        super().__init__(reason.value)
        self.reason = reason


class Body(Protocol):
    """The bytes of one request, read once, in order, by one reader."""

    @property
    def length(self) -> int | None:
        """How many bytes were announced; None where the end is marked in the body."""

    async def read(self) -> bytes:
        """Return the next bytes, as many as there are; ``b""`` at the proper end.

        Holds a bounded number of bytes, whatever the body's size; the sender
        waits while nobody reads.

        Raises:
            BodyCutError: no more bytes will come.
        """

    def cut(self, reason: CutReason) -> None:
        """End the body now: a read that waits, and all further ones, raise."""

    def kept(self, offset: int) -> None:
        """Hear that the upload's bytes before *offset* are kept."""
