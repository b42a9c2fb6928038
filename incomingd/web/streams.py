"""Streams that a client may half-close: it has said all it has to say, and waits for the answer.

Tornado takes the end of what a client sends for its departure, and closes: the
answer to a request that is still being worked on is lost then. Here the end
counts only for who reads. A client that is really gone is found when its
answer is written.
"""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING, Any

from tornado.ioloop import IOLoop
from tornado.iostream import IOStream, SSLIOStream

if TYPE_CHECKING:
    from collections.abc import Callable

    _Base = IOStream
else:
    _Base = object


class ReadsNow(_Base):
    """What plain connections and those through TLS have in common."""

    def set_nodelay(self, value: bool) -> None:  # noqa: FBT001 -- Tornado's interface
        """Leave it as it was when the connection was accepted: nothing waits to be sent with more.

        Tornado switches it on behind each answer and off again: two calls of the kernel for what need not change.
        """

    def read_from_fd(self, buf: bytearray | memoryview) -> int | None:
        """Return how many bytes came, 0 at their end if somebody reads, else None."""
        size = super().read_from_fd(buf)
        if size != 0 or self.reading():
            return size
        # Behind the event that is being handled; else it would come again at once, for ever.
        self.io_loop.add_callback(self._listen_for_errors_only)
        return None

    def read_now(self, into: memoryview) -> int:
        """Read into a buffer of the caller's what is there already; return how many bytes, 0: read as ever.

        Tornado takes 64 KiB at a time, TLS gives 16 KiB, and each time costs a buffer and two copies.
        """
        seam: Any = self
        if self.closed() or self.reading() or seam._read_buffer_size:  # noqa: SLF001 -- a seam: earlier bytes
            return 0
        done = 0
        try:
            while done < len(into) and (came := super().read_from_fd(into[done:])):
                done += came
        except OSError as error:
            # What came before it counts; whoever reads next meets the end of the connection.
            self.close(exc_info=error)
        return done

    def _listen_for_errors_only(self) -> None:
        seam: Any = self
        idle = not (self.closed() or self.reading() or self.writing())
        if idle and seam._state is not None:  # noqa: SLF001 -- a seam: what the stream is registered for
            seam._state = IOLoop.ERROR  # noqa: SLF001 -- the same
            self.io_loop.update_handler(self.fileno(), IOLoop.ERROR)


class HalfOpenStream(ReadsNow, IOStream):
    """A plain connection, whose socket can be lent to who reads from it without Tornado.

    While it is lent Tornado does not look at the socket at all: what it read
    would be missing from the middle of a body. Nothing is written meanwhile.
    """

    # Beside Tornado's own they would be too many for a dictionary that shares its keys: 1.3 KiB for each connection.
    __slots__ = ("_lent", "_lowat", "_on_event")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._lent = False
        self._lowat = 1
        self._on_event: Callable[[], None] | None = None
        super().__init__(*args, **kwargs)

    @property
    def lent(self) -> bool:
        """Whether it is lent just now."""
        return self._lent

    def lend(self) -> bool:
        """Leave the socket to the caller until :meth:`take_back`; return False where bytes were read from it already.

        Those are to be taken by `read_bytes` first.
        """
        assert not self._lent
        seam: Any = self
        if self.closed() or self.reading() or self.writing() or seam._read_buffer_size:  # noqa: SLF001 -- a seam
            return False
        if seam._state is not None:  # noqa: SLF001 -- a seam: what the stream is registered for
            self.io_loop.remove_handler(self.socket)
            seam._state = None  # noqa: SLF001 -- the same; it registers itself anew when it is read again
        self._lent = True
        return True

    def take_back(self) -> None:
        """Leave the socket to Tornado again; harmless where it is not lent."""
        if self._lent:
            self._lent = False
            self.unwatch()
            if not self.closed():
                self._set_lowat(1)

    def descriptor(self) -> int:
        """Return one more descriptor of the socket, the caller's own."""
        assert self._lent
        return os.dup(self.socket.fileno())

    def watch(self, on_event: Callable[[], None], *, bytes_min: int) -> None:
        """Call *on_event* once, as soon as so many bytes are there, or fewer and nothing more will come."""
        assert self._lent
        assert self._on_event is None
        self._set_lowat(bytes_min)
        self._on_event = on_event
        # By number: asyncio would spell the socket out each time, to say that it did not know it yet.
        asyncio.get_running_loop().add_reader(self.socket.fileno(), self._seen)

    def unwatch(self) -> None:
        """Call nobody; harmless where nobody would be called, and behind the stream's end."""
        if self._on_event is not None:
            self._on_event = None
            asyncio.get_running_loop().remove_reader(self.socket.fileno())

    def _seen(self) -> None:
        on_event = self._on_event
        self.unwatch()
        if on_event is not None:
            on_event()

    def _set_lowat(self, size: int) -> None:
        # The kernel wakes nobody for less (tcp(7)); other kinds of sockets do not know it.
        if size != self._lowat and self.socket.family in (socket.AF_INET, socket.AF_INET6):
            self._lowat = size
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)

    def close_fd(self) -> None:
        """Called by Tornado when the stream is closed, by whomever."""
        # Who waits for the socket learns that it is gone before its number is another's.
        if self._on_event is not None:
            self._seen()
        self._lent = False
        super().close_fd()


class HalfOpenTlsStream(ReadsNow, SSLIOStream):
    """The same through TLS."""
