"""Listening: addresses, TLS, and how many connections at once."""

from __future__ import annotations

import socket
import ssl
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets, bind_unix_socket

from incomingd.config import Address, UnixAddress, parse_address
from incomingd.daemon.accepting import accept_from, make_stream, plain_address, real_address, refuse
from incomingd.daemon.header_waits import Awaited, HeaderWaits
from incomingd.daemon.inherited import where
from incomingd.log import Sparing, events, get_logger
from incomingd.web.rates import network_of
from incomingd.wire.proxy_protocol import ProxyProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tornado.http1connection import HTTP1Connection
    from tornado.httputil import HTTPConnection, HTTPMessageDelegate, HTTPServerConnectionDelegate
    from tornado.iostream import IOStream

    from incomingd.clock import Clock
    from incomingd.config.settings import Tls
    from incomingd.metrics import Metrics

log = get_logger()

READ_CHUNK_BYTES: Final = 24 * 1024
"""So much comes with a request's header at the most. It is read and written in Python, and in memory twice meanwhile;
what is behind it goes its own way."""
BUFFER_BYTES: Final = 1024 * 1024
"""At the most so much of a connection is in memory."""
BACKLOG: Final = 1024
WHOLE_BODY_TIMEOUT_S: Final = 60.0
"""For a body that is read whole and held in memory; those of uploads have limits of their own."""


class ListenError(Exception):
    """An address that cannot be listened at; the text says which, and why."""


class LimitedServer(HTTPServer):
    """Tornado's server with upper limits of open connections: of all, and of each client's."""

    name = ""
    connections_max = 0
    per_address_max: int | None = None
    exempt: Callable[[str], bool]
    """Whether connections of an address are those of many clients."""
    metrics: Metrics | None = None
    waits: HeaderWaits

    def initialize(self, *args: Any, **kwargs: Any) -> None:
        """Called by Tornado in place of a constructor."""
        super().initialize(*args, **kwargs)
        # What its timeout is for is done by the waits.
        self.conn_params.header_timeout = None
        self._of_address: Counter[str] = Counter()
        self._lines = {setting: Sparing() for setting in ("limits.connections", "limits.connections_per_address")}

    def admits(self, address: Any) -> bool:
        """Return whether there may be one more connection from *address*; say so in the log where not."""
        peer = address[0] if isinstance(address, tuple) else ""
        if self.connections_max and len(self._connections) >= self.connections_max:
            self._tell("limits.connections", self.connections_max, peer)
            return False
        most = self.per_address_max
        if most is not None and peer and self._of_address[network_of(peer)] >= most and not self.exempt(peer):
            self._tell("limits.connections_per_address", most, peer)
            return False
        return True

    def _tell(self, setting: str, limit: int, peer: str) -> None:
        if self.metrics is not None:
            self.metrics.connection_refused(self.name, "all" if setting == "limits.connections" else "address")
        left_out = self._lines[setting].next()
        if left_out is not None:
            log.warning(
                events.CONNECTION_LIMIT_REACHED,
                listener=self.name,
                setting=setting,
                limit=limit,
                address=peer or None,
                left_out=left_out,
            )

    def handle_stream(self, stream: IOStream, address: Any) -> None:
        """Serve a connection that was admitted."""
        # Counted whether or not there is a limit now: there may be one later.
        if isinstance(address, tuple):
            self._of_address[network_of(address[0])] += 1
        super().handle_stream(stream, address)

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        """Called by Tornado when a connection begins to wait for a request."""
        self.waits.begin(server_conn, cast("HTTP1Connection", request_conn).stream)
        return Awaited(self.waits, server_conn, super().start_request(server_conn, request_conn))

    def on_close(self, server_conn: object) -> None:
        """Called by Tornado when a connection has ended."""
        super().on_close(server_conn)
        self.waits.end(server_conn)
        address = cast("Any", server_conn).context.address
        if isinstance(address, tuple):
            peer = network_of(address[0])
            self._of_address[peer] -= 1
            if self._of_address[peer] <= 0:
                del self._of_address[peer]

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
    per_address_max: int | None = None
    """Connections of one client's address; None: as many as all together."""
    metrics: Metrics | None = None


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
            max_body_size=options.body_bytes,
            body_timeout=WHOLE_BODY_TIMEOUT_S,
            chunk_size=READ_CHUNK_BYTES,
            max_buffer_size=BUFFER_BYTES,
        )
        self._server.name = name
        self._server.waits = HeaderWaits(options.idle_timeout_s)
        self._server.exempt = options.trusts
        self._server.metrics = options.metrics
        if options.metrics is not None:
            options.metrics.listens(name)
        self.set_connections_max(options.connections_max, options.per_address_max)
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
        if not self._server.admits(address):
            connection.close()
            return
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

    def set_connections_max(self, connections_max: int, per_address_max: int | None = None) -> None:
        """Allow so many connections from now on; who has more keeps them."""
        self._server.connections_max = connections_max
        self._server.per_address_max = per_address_max

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
