"""One request and its answer, for resources that take large bodies.

Tornado's `RequestHandler` costs twice the processor time of this for a small
request, closes connections on refusals, and pushes bodies. So the upload
resource stands directly on the delegate interface that Tornado offers below
it. This module is the only one that knows the seam: it replaces the two
methods by which Tornado's connection reads a body (``tests/web/test_seam.py``
fails with a clear word should a new Tornado change them).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from http.client import responses
from typing import TYPE_CHECKING, Any, Final

from tornado import httputil
from tornado.http1connection import HTTP1Connection
from tornado.iostream import StreamClosedError

from incomingd.web.body import BodyLimits, HttpBody
from incomingd.web.context import RequestContext, request_context
from incomingd.web.rates import Rates

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from incomingd.clock import Clock
    from incomingd.web.proxies import TrustedPeers

LINGER_S: Final = 2.0
LINGER_CUT_S: Final = 0.1
"""After a body that was cut here the client is to reconnect at once."""
LINGER_BYTES: Final = 64 * 1024 * 1024
BODY_BYTES_MAX: Final = 2**62


@dataclass(slots=True)
class Reply:
    """What is answered; without a body where `body` is empty."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    reason: str = ""
    close: bool = False
    """Close the connection behind it."""
    silent: bool = False
    """Say nothing at all: close the connection, so that a load balancer asks another instance."""


@dataclass(slots=True)
class Request:
    """What came, as far as HTTP goes."""

    method: str
    path: str
    query: str
    headers: httputil.HTTPHeaders
    context: RequestContext
    body: HttpBody | None
    """None: no body was announced."""

    def get_all(self, name: str) -> list[str]:
        """Return all values of a header field."""
        return self.headers.get_list(name)


@dataclass(slots=True)
class ExchangeOptions:
    """What all exchanges of a listener share."""

    clock: Clock
    trusted: TrustedPeers
    body_limits: BodyLimits
    close_after_answer: Callable[[], bool]
    rates: Rates = field(default_factory=Rates)


class Exchange(httputil.HTTPMessageDelegate):
    """Receives one request, has it answered, and writes the answer."""

    def __init__(
        self,
        connection: httputil.HTTPConnection,
        answer: Callable[[Request], Awaitable[Reply]],
        options: ExchangeOptions,
    ) -> None:
        assert isinstance(connection, HTTP1Connection)
        self._connection = connection
        self._answer = answer
        self._options = options
        self._request: Request | None = None
        self._version = ""
        self._reply: Reply | None = None
        self._ended = False

    # -- what Tornado calls

    def headers_received(
        self,
        start_line: httputil.RequestStartLine | httputil.ResponseStartLine,
        headers: httputil.HTTPHeaders,
    ) -> None:
        """Note the request; a body is read by whoever answers."""
        assert isinstance(start_line, httputil.RequestStartLine)
        path, _, query = start_line.path.partition("?")
        self._version = start_line.version
        self._request = Request(
            method=start_line.method,
            path=path,
            query=query,
            headers=headers,
            context=request_context(headers, self._connection.context, self._options.trusted),
            body=None,
        )
        if start_line.version == "HTTP/1.0" and "Transfer-Encoding" in headers:
            # Who knows the one does not know the other (RFC 9112, section 6.1).
            raise httputil.HTTPInputError("Transfer-Encoding in HTTP/1.0")
        expectation = headers.get("Expect", "").strip().lower()
        if expectation:
            # Tornado would answer it before anybody has looked at the request.
            del headers["Expect"]
        expects = expectation == "100-continue" and start_line.version == "HTTP/1.1"
        if "Content-Length" not in headers and "Transfer-Encoding" not in headers:
            # Means the same (RFC 9112, section 6.3), and has Tornado ask for the
            # body here, too: while it waits for an answer after the request it
            # takes a client that sends no more for one that is gone.
            headers["Content-Length"] = "0"

        def fixed(length: int, delegate: httputil.HTTPMessageDelegate) -> Awaitable[None]:
            del delegate
            return self._receive(length, expects_continue=expects)

        def chunked(delegate: httputil.HTTPMessageDelegate) -> Awaitable[None]:
            del delegate
            return self._receive(None, expects_continue=expects)

        seam: Any = self._connection
        self._connection.set_max_body_size(BODY_BYTES_MAX)
        seam._body_timeout = None  # noqa: SLF001 -- the seam, see the module; HttpBody has its own limits
        seam._read_fixed_body = fixed  # noqa: SLF001 -- the seam, see the module
        seam._read_chunked_body = chunked  # noqa: SLF001 -- the seam, see the module

    def data_received(self, chunk: bytes) -> None:
        """Never called: bodies are pulled."""
        raise AssertionError(len(chunk))

    def finish(self) -> None:
        """Everything of the request has been read: write the answer."""
        if self._reply is not None and not self._ended:
            self._write(self._reply)

    def on_connection_close(self) -> None:
        """Nobody reads an answer any more."""
        self._ended = True

    # -- answering

    async def _receive(self, length: int | None, *, expects_continue: bool) -> None:
        assert self._request is not None
        # They are called once. What they hold, the connection among it, goes with the last who uses it then.
        seam: Any = self._connection
        del seam._read_fixed_body, seam._read_chunked_body  # noqa: SLF001 -- the seam, see the module
        if self._connection.stream.closed():
            # By the answer before: what was sent behind it is not to be done.
            raise StreamClosedError
        body = None
        if length != 0:
            body = self._request.body = HttpBody(
                self._connection.stream,
                length=length,
                limits=self._options.body_limits,
                monotonic=self._options.clock.monotonic,
                expects_continue=expects_continue,
            )
        reply = await self._get_reply()
        if body is None or body.ended:
            # Tornado now learns that the request is read, and calls finish():
            # only then the connection can be kept for another request.
            self._reply = reply
        else:
            await self._write_early(reply, body)

    async def _get_reply(self) -> Reply:
        assert self._request is not None
        request = self._request
        with request.context.bound():
            return await self._answer(request)

    async def _write_early(self, reply: Reply, body: HttpBody) -> None:
        """Answer while the client still sends, let it read that, and close."""
        if not self._start(reply, close=True):
            return
        await body.discard(
            bytes_max=LINGER_BYTES,
            duration_s=LINGER_CUT_S if body.cut_reason is not None else LINGER_S,
        )
        self._ended = True
        if not self._connection.stream.closed():
            self._connection.finish()
        # Whatever follows the body in the buffer is no request.
        raise StreamClosedError

    def _write(self, reply: Reply) -> None:
        if self._start(reply, close=reply.close):
            self._connection.finish()
        self._ended = True

    def _start(self, reply: Reply, *, close: bool) -> bool:
        """Write the answer; return False where nobody is there to read it."""
        assert self._request is not None
        if reply.silent or self._ended or self._connection.stream.closed():
            self._connection.close()
            return False
        with_body = self._request.method != "HEAD"
        headers = {"Server": "incomingd", "X-Request-ID": self._request.context.request_id, **reply.headers}
        if with_body and reply.status not in (204, 304):
            headers["Content-Length"] = str(len(reply.body))
        seam: Any = self._connection
        if close or seam._disconnect_on_finish or self._options.close_after_answer():  # noqa: SLF001 -- the seam
            headers["Connection"] = "close"
            seam._disconnect_on_finish = True  # noqa: SLF001 -- the seam, see the module
        elif self._version == "HTTP/1.0":
            # It has asked for that, else it would not be kept.
            headers["Connection"] = "Keep-Alive"
        head = _head(reply.status, reply.reason, headers)
        _ = self._connection.write(head + reply.body if with_body else head)
        return True


def _head(status: int, reason: str, headers: dict[str, str]) -> bytes:
    """Return the head of an answer (RFC 9112, sections 4 and 5).

    Tornado would put the fields into a mapping of its own, and take them out again.
    """
    lines = [f"HTTP/1.1 {status} {reason or responses.get(status, 'Unknown')}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    text = "\r\n".join(lines)
    breaks = len(lines) - 1
    # A line end in a value would begin another field, or another answer.
    assert text.count("\n") == breaks, headers
    assert text.count("\r") == breaks, headers
    return f"{text}\r\n\r\n".encode("latin-1")
