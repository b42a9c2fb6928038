"""HAProxy's agent check: one line for each connection, which says what this instance wants to get.

Source: HAProxy's configuration manual, `agent-check`. The words are those of
:class:`incomingd.engine.state.Balancing`; what they do at the balancer stands in
``haproxy/haproxy.cfg``.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any, Final

from tornado.iostream import IOStream, StreamClosedError

from incomingd.daemon.accepting import accept_from
from incomingd.daemon.listeners import ListenError

if TYPE_CHECKING:
    from collections.abc import Callable

    from incomingd.clock import Clock
    from incomingd.config.values import TcpAddress
    from incomingd.engine.state import InstanceState

CONNECTIONS_MAX: Final = 64
"""A balancer has one open, for a moment; so has each of its processes while it is reloaded."""
PATIENCE_S: Final = 2.0
"""A balancer closes as soon as it has the line."""
READ_BYTES: Final = 4096


class AgentListener:
    """Tells whoever connects what a load balancer is to do with this instance."""

    name = "agent"

    def __init__(self, address: TcpAddress, state: InstanceState, clock: Clock) -> None:
        self.address = address
        self._state = state
        self._clock = clock
        self._sockets: list[socket.socket] = []
        self._stop_accepting: list[Callable[[], None]] = []
        self._open = 0

    def bind(self) -> None:
        """Take the address; connections wait until :meth:`start`.

        Raises:
            ListenError: it cannot be had.
        """
        family = socket.AF_INET6 if ":" in self.address.host else socket.AF_INET
        try:
            listening = socket.create_server((self.address.host, self.address.port), family=family)
        except OSError as error:
            msg = f"agent.address: cannot listen at {self.address}: {error.strerror or error}"
            raise ListenError(msg) from error
        listening.setblocking(False)  # noqa: FBT003 -- the socket's own interface
        self._sockets = [listening]

    def start(self) -> None:
        """Answer from now on."""
        self._stop_accepting = [accept_from(each, self._accepted, name=self.name) for each in self._sockets]

    def stop(self) -> None:
        """Answer no more: a balancer keeps to what it has heard last."""
        for stop in self._stop_accepting:
            stop()
        self._stop_accepting = []
        for each in self._sockets:
            each.close()
        self._sockets = []

    def _accepted(self, connection: socket.socket, address: Any) -> None:
        del address
        if self._open >= CONNECTIONS_MAX:
            connection.close()
            return
        connection.setblocking(False)  # noqa: FBT003 -- the socket's own interface
        self._open += 1
        stream = IOStream(connection, max_buffer_size=READ_BYTES, read_chunk_size=READ_BYTES)
        _ = self._clock.spawn(self._tell(stream), name="agent check")

    async def _tell(self, stream: IOStream) -> None:
        word = self._state.balancing
        written = False
        try:
            async with asyncio.timeout(PATIENCE_S):
                await stream.write(f"{word.value}\n".encode("ascii"))
                written = True
                # A balancer may say something first (`agent-send`); nobody wants it.
                while True:
                    _ = await stream.read_bytes(READ_BYTES, partial=True)
        except StreamClosedError:
            # The balancer closes once it has the line: what is counted has been heard, and what is left of ten
            # connections a second (TIME_WAIT) does not pile up here.
            if written:
                told = self._state.balancing_told
                told[word] = told.get(word, 0) + 1
        except TimeoutError:
            pass
        finally:
            self._open -= 1
            stream.close()
