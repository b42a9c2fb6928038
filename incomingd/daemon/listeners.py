"""Listening: addresses, TLS, and how many connections at once."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets, bind_unix_socket

from incomingd.config import Address, UnixAddress, parse_address
from incomingd.daemon.accepting import accept_from, make_stream, plain_address, real_address, refuse
from incomingd.daemon.inherited import where
from incomingd.log import events, get_logger
from incomingd.wire.proxy_protocol import ProxyProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tornado.httputil import HTTPServerConnectionDelegate
    from tornado.iostream import IOStream

    from incomingd.clock import Clock
    from incomingd.config.settings import Tls

log = get_logger()

READ_CHUNK_BYTES: Final = 128 * 1024
BUFFER_BYTES: Final = 1024 * 1024
"""At the most so much of a connection is in memory."""
BACKLOG: Final = 1024
WHOLE_BODY_TIMEOUT_S: Final = 60.0
"""For a body that is read whole and held in memory; those of uploads have limits of their own."""


class ListenError(Exception):
    """An address that cannot be listened at; the text says which, and why."""


class LimitedServer(HTTPServer):
    """Tornado's server with an upper limit of open connections."""

    name = ""
    connections_max = 0

    def handle_stream(self, stream: IOStream, address: Any) -> None:
        """Serve a connection, or close it where there are too many."""
        if self.connections_max and len(self._connections) >= self.connections_max:
            log.warning(events.CONNECTION_LIMIT_REACHED, listener=self.name, limit=self.connections_max)
            stream.close()
            return
        super().handle_stream(stream, address)

    @property
    def open_connections(self) -> int:
        """How many are open now."""
        return len(self._connections)


@dataclass(frozen=True, slots=True)
class ListenerOptions:
    """What all listeners have in common."""

    header_bytes: int
    """Of a request's header section."""
    idle_timeout_s: float
    """A connection without a whole request for so long is closed."""
    body_bytes: int
    """Of a body that is read whole."""
    connections_max: int
    trusts: Callable[[str], bool]
    """Whether a peer may speak for others; empty for a Unix socket."""
    clock: Clock


class Listener:
    """One address with what answers there."""

    def __init__(
        self,
        name: str,
        address: Address,
        delegate: HTTPServerConnectionDelegate,
        *,
        tls: Tls,
        options: ListenerOptions,
    ) -> None:
        self.name = name
        self.address = address
        self._options = options
        self._tls = _tls_context(tls) if tls.enabled else None
        self._server = LimitedServer(
            delegate,
            max_header_size=options.header_bytes,
            idle_connection_timeout=options.idle_timeout_s,
            max_body_size=options.body_bytes,
            body_timeout=WHOLE_BODY_TIMEOUT_S,
            chunk_size=READ_CHUNK_BYTES,
            max_buffer_size=BUFFER_BYTES,
        )
        self._server.name = name
        self._server.connections_max = options.connections_max
        self._sockets: list[socket.socket] = []
        self._inherited = False
        self._stop_accepting: list[Callable[[], None]] = []

    def inherit(self, handed: Sequence[socket.socket]) -> None:
        """Listen at sockets that the service manager holds, instead of taking the address; at none: nothing changes."""
        if handed:
            self._sockets = list(handed)
            self._inherited = True
            self.address = parse_address(where(handed[0]))

    def bind(self) -> None:
        """Take the address, unless sockets were inherited; connections wait until :meth:`start`.

        Raises:
            ListenError: it cannot be had.
        """
        if self._inherited:
            return
        try:
            if isinstance(self.address, UnixAddress):
                self._sockets = [bind_unix_socket(str(self.address.path), 0o660, BACKLOG)]
            else:
                self._sockets = bind_sockets(self.address.port, self.address.host, backlog=BACKLOG)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            msg = f"{self.name}.address: cannot listen at {self.address}: {reason}"
            raise ListenError(msg) from error

    def start(self) -> None:
        """Answer from now on."""
        self._stop_accepting = [accept_from(each, self._accepted, name=self.name) for each in self._sockets]

    def _accepted(self, connection: socket.socket, address: Any) -> None:
        connection.setblocking(False)  # noqa: FBT003 -- the socket's own interface
        address = plain_address(address)
        peer = address[0] if isinstance(address, tuple) else ""
        if self._options.trusts(peer):
            _ = self._options.clock.spawn(self._serve_behind_proxy(connection, address), name="accept")
        else:
            self._serve(connection, address)

    async def _serve_behind_proxy(self, connection: socket.socket, address: Any) -> None:
        try:
            real = await real_address(connection, address)
        except (OSError, ProxyProtocolError) as error:
            refuse(connection, str(error), address)
        else:
            self._serve(connection, real)

    def _serve(self, connection: socket.socket, address: Any) -> None:
        try:
            stream = make_stream(connection, self._tls, buffer_bytes=BUFFER_BYTES, read_bytes=READ_CHUNK_BYTES)
        except OSError as error:
            refuse(connection, str(error), address)
        else:
            self._server.handle_stream(stream, address)

    def stop(self) -> None:
        """Take no more connections; open ones go on."""
        for stop in self._stop_accepting:
            stop()
        self._stop_accepting = []
        for each in self._sockets:
            each.close()
        self._sockets = []
        # The name of an inherited one stays: connections to it wait for the next process.
        if isinstance(self.address, UnixAddress) and not self._inherited:
            _unlink(self.address.path)

    @property
    def open_connections(self) -> int:
        """How many connections are open now."""
        return self._server.open_connections

    def set_connections_max(self, connections_max: int) -> None:
        """Allow so many connections from now on."""
        self._server.connections_max = connections_max

    def check_tls(self, tls: Tls) -> None:
        """Read the certificate that stands on the disk now, without using it.

        Raises:
            OSError, ssl.SSLError: it cannot be read, or the key is not its.
        """
        if self._tls is not None and tls.enabled:
            _tls_context(tls)

    def reload_tls(self, tls: Tls) -> None:
        """Use the certificate that stands on the disk now, for new connections."""
        if self._tls is not None and tls.enabled:
            assert tls.cert is not None
            assert tls.key is not None
            self._tls.load_cert_chain(tls.cert, tls.key)
            log.info(events.TLS_RELOADED, listener=self.name)

    async def close(self) -> None:
        """Close every connection."""
        await self._server.close_all_connections()


def _tls_context(tls: Tls) -> ssl.SSLContext:
    assert tls.cert is not None
    assert tls.key is not None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(tls.cert, tls.key)
    return context


def _unlink(path: Path) -> None:
    path.unlink(missing_ok=True)
