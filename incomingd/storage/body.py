"""What a volume sees of the bytes that come in.

The interface stands here, below those who implement it: the HTTP/1.1
connection, and whatever else brings bytes.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol, runtime_checkable


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


class SourceState(Enum):
    """How a turn at a source has ended."""

    MORE = auto()
    """There may be more at once."""
    EMPTY = auto()
    """Nothing is there just now."""
    ENDED = auto()
    """Nothing will come any more: the sender has gone, or has said all."""


@dataclass(slots=True)
class Source:
    """Where the kernel can take a body's next bytes by itself: for one turn of one thread, which then closes it."""

    fd: int
    """Of a socket that does not block; this turn's own."""
    size: int
    """So many bytes are the body's; those behind them are not."""
    halted: bool = False
    """Set meanwhile: the turn is to end as soon as it can."""
    taken: int = 0
    """Set by the turn: how many bytes were taken from it, wherever they have gone."""
    state: SourceState = SourceState.MORE
    """Set by the turn."""

    def close(self) -> None:
        """Close its descriptor."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.close(fd)


@runtime_checkable
class DirectBody(Protocol):
    """A body whose bytes may be taken without being looked at; beside what :class:`Body` says."""

    async def source(self) -> Source | None:
        """Wait for bytes; return where they can be taken from, or None: `read` them, for now.

        Whoever gets one tells `passed` when the turn is over, before anything
        else is asked of the body.

        Raises:
            BodyCutError: no more bytes will come.
        """

    def passed(self, source: Source) -> None:
        """Hear that the turn at *source* is over: what was taken, and how it has ended."""
