"""Connections to peers: plain or TLS, kept for the next call, and HTTP/1.1 as far as peers speak it.

Peers always say how long an answer is. Whoever does not is no peer.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections import deque
from typing import TYPE_CHECKING, Final

from tornado.httputil import HTTPHeaders, HTTPInputError, parse_response_start_line
from tornado.iostream import IOStream, SSLIOStream, StreamClosedError, UnsatisfiableReadError

from incomingd.config import TcpAddress, parse_address
from incomingd.peers.calls import PeerError, PeerGoneError, PeerRefusedError, PeerSilentError
from incomingd.wire.peer import ANSWER_BYTES_MAX
from incomingd.wire.peer_signing import PIECE_BYTES, number

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from incomingd.clock import Clock

HEAD_BYTES_MAX: Final = 16 * 1024
BUFFER_BYTES: Final = ANSWER_BYTES_MAX + HEAD_BYTES_MAX
READ_BYTES: Final = PIECE_BYTES
AT_ONCE: Final = 32
"""Calls to one peer; further ones wait, within their own time."""
IDLE_MAX: Final = AT_ONCE
"""Connections to one peer that are kept for further calls."""
IDLE_S: Final = 20.0
"""Kept for so long; the other side keeps them longer as a rule."""


class StaleError(PeerSilentError):
    """A kept connection had ended before the call: it can be made again on another one."""


class Head:
    """Status and headers of an answer."""

    def __init__(self, data: bytes) -> None:
        start, _, fields = data.decode("latin-1").partition("\r\n")
        self.status = parse_response_start_line(start).code
        self.headers = HTTPHeaders.parse(fields)
        size = number(self.headers.get("Content-Length"))
        if size is None or "Transfer-Encoding" in self.headers:
            raise HTTPInputError("no length")
        self.size = size
        """Of the body, in bytes."""

    @property
    def keeps(self) -> bool:
        """Whether the connection can be used again behind this answer."""
        return self.headers.get("Connection", "").lower() != "close"

    def get(self, name: str) -> str | None:
        """Return a header's value."""
        return self.headers.get(name)


class Connection:
    """One connection, used by one call at a time."""

    def __init__(self, stream: IOStream, peer: str) -> None:
        self._stream = stream
        self._peer = peer
        self._used = False
        self.idle_since = 0.0

    @property
    def closed(self) -> bool:
        """Whether it has ended."""
        return self._stream.closed()

    def close(self) -> None:
        """End it."""
        self._stream.close()

    def watch(self, ended: Callable[[], None] | None) -> None:
        """Call *ended* when the other side ends it while it is kept; None: no more."""
        self._stream.set_close_callback(ended)

    async def send(self, path: str, headers: Mapping[str, str], body: bytes) -> Head:
        """Send a call and return the head of its answer.

        Raises:
            PeerError: there is none.
        """
        lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        lines.append(f"Content-Length: {len(body)}")
        reused, self._used = self._used, True
        try:
            # An answer may come before all is sent: a listener that refuses closes.
            sent = self._stream.write("\r\n".join((*lines, "", "")).encode("latin-1") + body)
            sent.add_done_callback(_look_away)
            data = await self._stream.read_until(b"\r\n\r\n", max_bytes=HEAD_BYTES_MAX)
        except (StreamClosedError, UnsatisfiableReadError) as error:
            raise self._broken(error, reused=reused) from error
        try:
            return Head(data.removesuffix(b"\r\n"))
        except (HTTPInputError, ValueError) as error:
            self.close()
            raise PeerRefusedError(f"what answers at {self._peer} is no peer") from error

    async def read(self, size: int) -> bytes:
        """Return the next *size* bytes of the answer.

        Raises:
            PeerError: it broke off.
        """
        try:
            return await self._stream.read_bytes(size)
        except (StreamClosedError, UnsatisfiableReadError) as error:
            raise self._broken(error, reused=False) from error

    def _broken(self, error: BaseException, *, reused: bool) -> PeerError:
        self.close()
        if isinstance(error, UnsatisfiableReadError) or isinstance(
            getattr(error, "real_error", None), UnsatisfiableReadError
        ):
            return PeerRefusedError(f"what answers at {self._peer} is no peer")
        kind = StaleError if reused else PeerSilentError
        return kind(f"{self._peer} closed the connection without a whole answer")


class _Address:
    def __init__(self) -> None:
        self.idle: deque[Connection] = deque()
        self.turns = asyncio.Semaphore(AT_ONCE)
        self.users = 0


class Connections:
    """All connections to peers. `tls` is replaced when certificates are read again.

    Args:
        clock: tells how old a connection is.
        tls: how peers' certificates are checked.
    """

    def __init__(self, clock: Clock, tls: ssl.SSLContext) -> None:
        self.tls = tls
        self._clock = clock
        self._addresses: dict[str, _Address] = {}
        self._closed = False

    @contextlib.asynccontextmanager
    async def turn(self, url: str) -> AsyncIterator[None]:
        """Wait until not too many calls to this peer are under way."""
        address = self._addresses.setdefault(url, _Address())
        address.users += 1
        try:
            async with address.turns:
                yield
        finally:
            address.users -= 1
            self._forget(url)

    async def take(self, url: str) -> Connection:
        """Return a connection to *url*, one that was kept if there is one.

        Raises:
            PeerError: there is none to be had.
        """
        address = self._addresses.get(url)
        while address is not None and address.idle:
            # The one that was used last: the others may then end for lack of use.
            kept = address.idle.pop()
            kept.watch(None)
            if not kept.closed and self._clock.monotonic() - kept.idle_since < IDLE_S:
                return kept
            kept.close()
        return await self._connect(url)

    def put_back(self, url: str, connection: Connection, head: Head) -> None:
        """Keep a connection whose answer was read to its end."""
        address = self._addresses.setdefault(url, _Address())
        if self._closed or connection.closed or not head.keeps:
            connection.close()
        else:
            connection.idle_since = self._clock.monotonic()
            address.idle.append(connection)
            # Else it would stay half open for as long as nobody calls this peer again.
            connection.watch(lambda: self._ended(url, connection))
            if len(address.idle) > IDLE_MAX:
                address.idle.popleft().close()
        self._forget(url)

    def close(self) -> None:
        """Close all that are idle, and keep none from now on."""
        self._closed = True
        self.drop_idle()

    @property
    def idle(self) -> int:
        """How many are kept and not in use."""
        return sum(len(address.idle) for address in self._addresses.values())

    def drop_idle(self) -> None:
        """Close all that are idle: what they rest on has changed."""
        for url, address in list(self._addresses.items()):
            while address.idle:
                address.idle.pop().close()
            self._forget(url)

    def _ended(self, url: str, connection: Connection) -> None:
        address = self._addresses.get(url)
        if address is not None and connection in address.idle:
            address.idle.remove(connection)
            self._forget(url)

    def _forget(self, url: str) -> None:
        address = self._addresses.get(url)
        if address is not None and not address.users and not address.idle:
            del self._addresses[url]

    async def _connect(self, url: str) -> Connection:
        scheme, _, rest = url.partition("://")
        address = parse_address(rest)
        assert isinstance(address, TcpAddress), url
        found = await _resolve(address)
        refused = 0
        why = "no address"
        for family, target in found:
            stream = self._stream(scheme, socket.socket(family, socket.SOCK_STREAM))
            try:
                await stream.connect(target, server_hostname=address.host)
            except (StreamClosedError, OSError) as error:
                # A handshake that fails raises what has failed, everything else that the stream is closed.
                cause = error.real_error if isinstance(error, StreamClosedError) else error
                stream.close()
                if isinstance(cause, ssl.SSLError):
                    raise PeerRefusedError(f"{url}: {_words(cause)}") from error
                refused += isinstance(cause, ConnectionRefusedError)
                why = getattr(cause, "strerror", None) or "the connection was closed"
            except BaseException:
                # Cancelled: it took too long.
                stream.close()
                raise
            else:
                # Calls are short, and their answers waited for.
                stream.set_nodelay(True)
                return Connection(stream, url)
        if found and refused == len(found):
            raise PeerGoneError(f"{url} refuses connections")
        raise PeerSilentError(f"{url} cannot be reached: {why}")

    def _stream(self, scheme: str, plain: socket.socket) -> IOStream:
        if scheme == "https":
            return SSLIOStream(plain, ssl_options=self.tls, max_buffer_size=BUFFER_BYTES, read_chunk_size=READ_BYTES)
        return IOStream(plain, max_buffer_size=BUFFER_BYTES, read_chunk_size=READ_BYTES)


def is_peer_url(url: str) -> bool:
    """Whether *url* says where a peer is: ``http://host:port`` or ``https://host:port``."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in {"http", "https"}:
        return False
    try:
        return isinstance(parse_address(rest), TcpAddress)
    except ValueError:
        return False


def stays_here(url: str) -> bool:
    """Whether what goes to *url* does not leave this machine."""
    return parse_address(url.partition("://")[2]).is_local


async def _resolve(address: TcpAddress) -> list[tuple[socket.AddressFamily, tuple[str, int]]]:
    try:
        # An address in numbers needs nobody to be asked.
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        )
    except socket.gaierror:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise PeerSilentError(f"{address}: {error.strerror}") from error
    return [(family, (str(target[0]), int(target[1]))) for family, _, _, _, target in found]


def _words(error: BaseException) -> str:
    said = getattr(error, "verify_message", "") or getattr(error, "reason", "") or str(error)
    return f"TLS: {said}"


def _look_away(sent: asyncio.Future[None]) -> None:
    # Whether it arrived is seen from the answer.
    if not sent.cancelled():
        sent.exception()
