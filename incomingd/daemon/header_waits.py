"""Connections that wait for a request: closed where it does not come in time.

Tornado does the same with a timer and two futures for each request, which is a
twentieth of what a small one costs. Here it is an entry of a dictionary for each
connection, and one timer for all of them.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tornado import httputil

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from tornado.iostream import IOStream


class HeaderWaits:
    """Those of one listener.

    Args:
        within_s: from the connection's beginning, or from the end of the answer before, until a whole header section.
    """

    def __init__(self, within_s: float) -> None:
        self._within_s = within_s
        self._waiting: dict[object, tuple[float, IOStream]] = {}
        """By connection, each with when it began to wait; who has waited for longest stands first."""
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, connection: object, stream: IOStream) -> None:
        """Close *stream* if :meth:`end` is not called in time."""
        loop = asyncio.get_running_loop()
        # Behind all others, also where the one before has never ended.
        self._waiting.pop(connection, None)
        self._waiting[connection] = (loop.time(), stream)
        if self._timer is None:
            self._timer = loop.call_later(self._within_s, self._look)

    def end(self, connection: object) -> None:
        """What was waited for is there, or will never come."""
        self._waiting.pop(connection, None)

    def _look(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        while self._waiting:
            connection, (began, stream) = next(iter(self._waiting.items()))
            left_s = began + self._within_s - loop.time()
            if left_s > 0:
                self._timer = loop.call_later(left_s, self._look)
                return
            del self._waiting[connection]
            stream.close()


class Awaited(httputil.HTTPMessageDelegate):
    """Ends the wait of *connection* when the header section of its request is there."""

    def __init__(self, waits: HeaderWaits, connection: object, delegate: httputil.HTTPMessageDelegate) -> None:
        self._waits = waits
        self._connection = connection
        self._delegate = delegate

    def headers_received(
        self, start_line: httputil.RequestStartLine | httputil.ResponseStartLine, headers: httputil.HTTPHeaders
    ) -> Awaitable[None] | None:
        """Called by Tornado."""
        self._waits.end(self._connection)
        return self._delegate.headers_received(start_line, headers)

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        """Called by Tornado."""
        return self._delegate.data_received(chunk)

    def finish(self) -> None:
        """Called by Tornado."""
        self._delegate.finish()

    def on_connection_close(self) -> None:
        """Called by Tornado."""
        self._delegate.on_connection_close()
