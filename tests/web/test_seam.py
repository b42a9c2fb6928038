"""The seam with Tornado: the private names that incomingd/web relies on do what it believes.

A failure here means that Tornado has changed, not that this program is wrong: read docs/decisions/0005-http-seam.md,
adapt incomingd/web/exchange.py, body.py or streams.py, and raise the version in pyproject.toml on purpose.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import socket
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import pytest
import tornado
from tornado import httputil
from tornado.http1connection import HTTP1Connection
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.iostream import IOStream, StreamClosedError
from tornado.netutil import bind_sockets

from incomingd.web.streams import HalfOpenStream


def changed(what: str) -> NoReturn:
    pytest.fail(
        f"Tornado {tornado.version} has changed: {what}."
        " incomingd/web relies on it; see docs/decisions/0005-http-seam.md."
    )


class Delegate(httputil.HTTPMessageDelegate):
    """Takes a request over as `Exchange` does, and notes what Tornado calls."""

    def __init__(self, connection: Any, calls: list[object], *, close: bool) -> None:
        self.connection = connection
        self.calls = calls
        self.close = close

    def headers_received(
        self, start_line: httputil.RequestStartLine | httputil.ResponseStartLine, headers: httputil.HTTPHeaders
    ) -> None:
        headers.pop("Expect", None)
        if "Content-Length" not in headers and "Transfer-Encoding" not in headers:
            headers["Content-Length"] = "0"

        async def fixed(length: int, delegate: object) -> None:
            self.calls.append(("fixed", length))
            while length:
                length -= len(await self.connection.stream.read_bytes(length, partial=True))

        async def chunked(delegate: object) -> None:
            self.calls.append("chunked")
            await self.connection.stream.read_until(b"0\r\n\r\n")

        self.connection._read_fixed_body = fixed
        self.connection._read_chunked_body = chunked

    def data_received(self, chunk: bytes) -> None:
        self.calls.append(("data", len(chunk)))

    def finish(self) -> None:
        self.calls.append("finish")
        if self.close:
            self.connection._disconnect_on_finish = True
        self.connection.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        self.connection.finish()

    def on_connection_close(self) -> None:
        self.calls.append("close")


class Server(httputil.HTTPServerConnectionDelegate):
    def __init__(self, *, close: bool = False) -> None:
        self.calls: list[object] = []
        self.close = close

    def start_request(self, server_conn: object, request_conn: httputil.HTTPConnection) -> Delegate:
        return Delegate(request_conn, self.calls, close=self.close)


async def exchange(delegate: httputil.HTTPServerConnectionDelegate, data: bytes, answers: int) -> tuple[bytes, bool]:
    """Send *data* to a server; return what came back until so many answers had come, and whether it was closed then."""
    server = HTTPServer(delegate)
    (listening,) = bind_sockets(0, "127.0.0.1")
    server.add_sockets([listening])
    reader, writer = await asyncio.open_connection(*listening.getsockname())
    try:
        writer.write(data)
        got = b""
        while got.count(b"\r\n\r\n") < answers:
            more = await reader.read(65536)
            if not more:
                break
            got += more
        writer.write_eof()
        ended = asyncio.ensure_future(reader.read())
        rest = await asyncio.wait_for(ended, 10)
        return got + rest, not rest
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        server.stop()
        await server.close_all_connections()


def request(method: str, *lines: str, body: bytes = b"") -> bytes:
    return "\r\n".join((f"{method} / HTTP/1.1", "Host: x", *lines, "", "")).encode() + body


@pytest.mark.parametrize(
    "name, parameters",
    [("_read_fixed_body", ["self", "content_length", "delegate"]), ("_read_chunked_body", ["self", "delegate"])],
)
def test_the_methods_that_are_replaced_are_there(name: str, parameters: list[str]) -> None:
    method: Callable[..., Awaitable[None]] | None = getattr(HTTP1Connection, name, None)
    if method is None:
        changed(f"HTTP1Connection.{name} is gone")
    if list(inspect.signature(method).parameters) != parameters:
        changed(f"HTTP1Connection.{name} takes {inspect.signature(method)}")


async def test_bodies_are_read_by_what_replaces_those_methods() -> None:
    """Each once, with the length; no data is pushed; finish() comes behind it; the connection goes on."""
    delegate = Server()
    data = (
        request("PATCH", "Content-Length: 3", body=b"abc")
        + request("PATCH", "Transfer-Encoding: chunked", body=b"3\r\nabc\r\n0\r\n\r\n")
        + request("HEAD")
        + request("PATCH", "Content-Length: 0")
    )
    answers, _ = await exchange(delegate, data, 4)
    if answers.count(b"HTTP/1.1 200 OK") != 4:
        changed(f"four requests on a connection were answered so: {answers!r}")
    expected = [("fixed", 3), "finish", "chunked", "finish", ("fixed", 0), "finish", ("fixed", 0), "finish"]
    if [call for call in delegate.calls if call != "close"] != expected:
        changed(f"a request calls its delegate so: {delegate.calls}")


async def test_a_header_that_is_taken_away_is_not_answered() -> None:
    """``Expect``: without it Tornado sends no 100 of its own."""
    answers, _ = await exchange(Server(), request("PATCH", "Expect: 100-continue", "Content-Length: 1", body=b"x"), 1)
    if b"100" in answers.split(b"\r\n")[0]:
        changed("it answers an Expect header that the delegate has removed")


async def test_a_connection_can_be_closed_behind_its_answer() -> None:
    """``_disconnect_on_finish``: nothing more is read."""
    with contextlib.closing(IOStream(socket.socket())) as stream:
        if not hasattr(HTTP1Connection(stream, is_client=False), "_disconnect_on_finish"):
            changed("HTTP1Connection._disconnect_on_finish is gone")
    delegate = Server(close=True)
    answers, closed = await exchange(delegate, request("HEAD"), 1)
    if answers.count(b"HTTP/1.1 200 OK") != 1:
        changed(f"the last request of a connection was answered so: {answers!r}")
    if not closed:
        changed("the connection stays open behind an answer that was to be the last")


async def test_a_head_that_is_written_as_bytes_goes_out_as_it_is() -> None:
    """``write`` without ``write_headers``: with a body or without, the connection goes on."""
    answers, _ = await exchange(Server(), request("HEAD") + request("PATCH", "Content-Length: 1", body=b"x"), 2)
    if answers != b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" * 2:
        changed(f"heads that are written as bytes come out as {answers!r}")


def test_the_timeout_of_headers_can_be_switched_off() -> None:
    """``conn_params.header_timeout``, in incomingd/daemon/listeners.py, which has its own."""
    if not hasattr(HTTPServer(Server()).conn_params, "header_timeout"):
        changed("HTTPServer.conn_params.header_timeout is gone")


async def test_a_body_that_raises_ends_the_connection_quietly() -> None:
    """What is behind a refused body is not read: `Exchange` ends it by StreamClosedError."""
    delegate = Server()

    class Refusing(Delegate):
        def headers_received(
            self, start_line: httputil.RequestStartLine | httputil.ResponseStartLine, headers: httputil.HTTPHeaders
        ) -> None:
            super().headers_received(start_line, headers)

            async def refused(length: int, delegate: object) -> None:
                self.calls.append(("refused", length))
                self.connection._disconnect_on_finish = True
                headers = httputil.HTTPHeaders({"Content-Length": "0"})
                self.connection.write_headers(httputil.ResponseStartLine("HTTP/1.1", 409, "No"), headers)
                self.connection.finish()
                raise StreamClosedError

            self.connection._read_fixed_body = refused

    def start_request(server_conn: object, request_conn: httputil.HTTPConnection) -> Delegate:
        return Refusing(request_conn, delegate.calls, close=False)

    delegate.start_request = start_request  # type: ignore[method-assign]  # another one for this test
    data = request("PATCH", "Content-Length: 3", body=b"abc") + request("DELETE")
    answers, _ = await exchange(delegate, data, 1)
    if answers.count(b"HTTP/1.1 ") != 1 or ("refused", 0) in delegate.calls:
        changed("a request behind a refused body is read")


async def test_a_stream_does_not_close_at_the_end_of_what_came_while_nobody_reads() -> None:
    """``_state`` and what it means, in incomingd/web/streams.py."""
    ours, theirs = socket.socketpair()
    with theirs:
        stream = HalfOpenStream(ours)
        try:
            if not hasattr(stream, "_state"):
                changed("BaseIOStream._state is gone")
            reading = stream.read_until(b"\n")
            theirs.sendall(b"request\n")
            await reading
            theirs.shutdown(socket.SHUT_WR)
            # The end is seen, and then not looked at again and again.
            for _ in range(100):
                await asyncio.sleep(0)
                if stream._state == IOLoop.ERROR:
                    break
            else:
                changed("a stream at rest goes on listening at the end of what came")
            if stream.closed():
                changed("a stream at rest closes at the end of what came")
            await stream.write(b"answer")
            assert theirs.recv(100) == b"answer"
            with pytest.raises(StreamClosedError):
                await stream.read_bytes(1)
        finally:
            stream.close()


async def test_a_socket_can_be_lent_and_taken_back() -> None:
    """``_read_buffer_size`` and ``_state``, in incomingd/web/streams.py: a lent socket's bytes are not Tornado's."""
    ours, theirs = socket.socketpair()
    with theirs:
        stream = HalfOpenStream(ours)
        try:
            theirs.sendall(b"header\nbody")
            await stream.read_until(b"\n")
            if getattr(stream, "_read_buffer_size", None) != len(b"body"):
                changed("BaseIOStream._read_buffer_size does not say how much was read ahead")
            if stream.lend():
                changed("a stream that has read ahead can be lent")
            await stream.read_bytes(4)
            # Registered with the loop, as behind a read that had to wait.
            reading = stream.read_bytes(1)
            theirs.sendall(b".")
            await reading
            if not stream.lend():
                changed("a stream at rest cannot be lent")
            theirs.sendall(b"taken by others")
            for _ in range(10):
                await asyncio.sleep(0)
            if ours.recv(100) != b"taken by others":
                changed("a stream whose _state is None reads from its socket")
            stream.take_back()
            reading = stream.read_bytes(4)
            theirs.sendall(b"next")
            if await asyncio.wait_for(reading, 10) != b"next":
                changed("a stream whose _state was set to None is not registered again by a read")
        finally:
            stream.close()
