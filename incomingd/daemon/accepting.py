"""From an accepted connection to a stream: the PROXY protocol first, then TLS."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from typing import TYPE_CHECKING, Any, Final

from tornado.netutil import ssl_wrap_socket

from incomingd.log import events, get_logger
from incomingd.web.streams import HalfOpenStream, HalfOpenTlsStream
from incomingd.wire.proxy_protocol import PEEK_BYTES, ProxyProtocolError, read_proxy_header

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from tornado.iostream import IOStream

log = get_logger()

HEADER_TIMEOUT_S: Final = 5.0
"""A proxy sends its header with the first packet."""
ACCEPTS_AT_ONCE: Final = 128
ACCEPT_PAUSE_S: Final = 0.5
"""After a connection that could not be taken: descriptors come back as other connections end."""


def accept_from(
    listening: socket.socket, accepted: Callable[[socket.socket, Any], None], *, name: str
) -> Callable[[], None]:
    """Call *accepted* with each connection to *listening* and its address; return what ends that.

    Tornado's own would try again at once, for ever, where the process has no
    descriptor left: a connection that cannot be taken stays in the queue. So
    this one leaves the socket alone for a while then.

    Args:
        listening: non-blocking.
        accepted: must not raise.
        name: of the listener, for the log.
    """
    loop = asyncio.get_running_loop()
    pause: asyncio.TimerHandle | None = None

    def go_on() -> None:
        nonlocal pause
        pause = None
        loop.add_reader(listening, accept)

    def accept() -> None:
        nonlocal pause
        for _ in range(ACCEPTS_AT_ONCE):
            if listening.fileno() < 0:
                return
            try:
                connection, address = listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:
                log.warning(events.CONNECTION_NOT_ACCEPTED, listener=name, detail=error.strerror or str(error))
                loop.remove_reader(listening)
                pause = loop.call_later(ACCEPT_PAUSE_S, go_on)
                return
            accepted(connection, address)

    def stop() -> None:
        if pause is not None:
            pause.cancel()
        loop.remove_reader(listening)

    loop.add_reader(listening, accept)
    return stop


def plain_address(address: Any) -> Any:
    """Return an accepted connection's address, an IPv4 one as such where the socket serves both families.

    Such a socket is never made here, yet may be inherited; rules for networks would not know `::ffff:192.0.2.1`.
    """
    if isinstance(address, tuple) and str(address[0]).startswith("::ffff:"):
        mapped = ipaddress.IPv6Address(address[0]).ipv4_mapped
        if mapped is not None:
            return (str(mapped), *address[1:])
    return address


async def real_address(connection: socket.socket, address: Any) -> Any:
    """Return who is behind a trusted proxy, taking its header off the connection.

    Only looks until it knows; what is no header stays where it is.

    Args:
        connection: non-blocking, of a peer that is trusted to say.
        address: the peer's, which is returned where it does not say.

    Raises:
        ProxyProtocolError: a malformed header, or none within the time.
        OSError: the connection is gone.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + HEADER_TIMEOUT_S
    seen = -1
    while True:
        try:
            data = connection.recv(PEEK_BYTES, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            data = b""
        else:
            if not data:
                return address
            header = read_proxy_header(data)
            if header is not None:
                if header.size:
                    connection.recv(header.size)
                return address if header.address is None else (header.address, header.port or 0)
        left_s = deadline - loop.time()
        if left_s <= 0 and not data:
            # A connection kept ready for later; it says nothing of itself yet.
            return address
        if left_s <= 0:
            raise ProxyProtocolError("no whole PROXY header in time")
        if len(data) == seen:
            # Readable, but nothing new: level-triggered waiting would spin.
            await asyncio.sleep(min(left_s, 0.01))
        else:
            await _readable(connection, left_s)
        seen = len(data)


async def _readable(connection: socket.socket, duration_s: float) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def set_ready() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(connection.fileno(), set_ready)
    try:
        await asyncio.wait((ready,), timeout=duration_s)
    finally:
        loop.remove_reader(connection.fileno())


def make_stream(
    connection: socket.socket,
    tls: ssl.SSLContext | None,
    *,
    buffer_bytes: int,
    read_bytes: int,
) -> IOStream:
    """Return the stream of an accepted connection; TLS shakes hands on it by itself."""
    if connection.family in (socket.AF_INET, socket.AF_INET6):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if tls is None:
        return HalfOpenStream(connection, max_buffer_size=buffer_bytes, read_chunk_size=read_bytes)
    wrapped = ssl_wrap_socket(connection, tls, server_side=True, do_handshake_on_connect=False)
    return HalfOpenTlsStream(wrapped, max_buffer_size=buffer_bytes, read_chunk_size=read_bytes)


def refuse(connection: socket.socket, reason: str, address: Any) -> None:
    """Close a connection that brought no proper header."""
    peer = address[0] if isinstance(address, tuple) else None
    log.info(events.PARSE_REFUSED, address=peer, detail=reason)
    with contextlib.suppress(OSError):
        connection.close()
