"""Streams that a client may half-close: it has said all it has to say, and waits for the answer.

Tornado takes the end of what a client sends for its departure, and closes: the
answer to a request that is still being worked on is lost then. Here the end
counts only for who reads. A client that is really gone is found when its
answer is written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tornado.ioloop import IOLoop
from tornado.iostream import IOStream, SSLIOStream

if TYPE_CHECKING:
    _Base = IOStream
else:
    _Base = object


class _HalfOpen(_Base):
    def read_from_fd(self, buf: bytearray | memoryview) -> int | None:
        """Return how many bytes came, 0 at their end if somebody reads, else None."""
        size = super().read_from_fd(buf)
        if size != 0 or self.reading():
            return size
        # Behind the event that is being handled; else it would come again at once, for ever.
        self.io_loop.add_callback(self._listen_for_errors_only)
        return None

    def _listen_for_errors_only(self) -> None:
        seam: Any = self
        idle = not (self.closed() or self.reading() or self.writing())
        if idle and seam._state is not None:  # noqa: SLF001 -- a seam: what the stream is registered for
            seam._state = IOLoop.ERROR  # noqa: SLF001 -- the same
            self.io_loop.update_handler(self.fileno(), IOLoop.ERROR)


class HalfOpenStream(_HalfOpen, IOStream):
    """A plain connection."""


class HalfOpenTlsStream(_HalfOpen, SSLIOStream):
    """The same through TLS."""
