"""One callback over real sockets: what goes out, and that whatever comes back is an answer, never an exception."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from incomingd.config.values import parse_hosts
from incomingd.handover.caller import HttpCaller
from incomingd.wire.callback import ANSWER_BYTES_MAX, COMPLETE, Answer, Callback

BODY = '{"type":"upload.complete","name":"Übung"}'.encode()
HEADERS = {"Content-Type": "application/json", "User-Agent": "incomingd", "webhook-id": "msg_1"}

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """Answers each connection with given bytes; remembers what came."""

    def __init__(self, answer: bytes | None) -> None:
        self._answer = answer
        self.requests: list[tuple[bytes, bytes]] = []
        """Head and body."""
        self.port = 0
        self.closing = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError):
                return
            length = next(
                int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")
            )
            self.requests.append((head, await reader.readexactly(length)))
            if self._answer is None:
                await self.closing.wait()
            else:
                writer.write(self._answer)
                with contextlib.suppress(ConnectionError):
                    await writer.drain()
        finally:
            writer.close()


@contextlib.asynccontextmanager
async def serving(answer: bytes | None, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    server = Server(answer)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        server.closing.set()
        listening.close()
        await listening.wait_closed()


def http(status: str, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


async def call(url: str, *, timeout_s: float = 20.0, allowed: list[str] | None = None) -> Answer:
    caller = HttpCaller(timeout_s=timeout_s, allowed=parse_hosts(allowed or ["all"]), concurrency=2)
    try:
        return await caller.call(Callback(url, HEADERS, BODY), COMPLETE)
    finally:
        caller.close()


async def answered(answer: bytes | None, *, timeout_s: float = 20.0) -> tuple[Answer, Server]:
    async with serving(answer) as server:
        return await call(f"http://127.0.0.1:{server.port}/hook?a=1", timeout_s=timeout_s), server


async def test_the_callback_goes_out_as_it_was_made() -> None:
    answer, server = await answered(http("200 OK", b"done"))
    assert answer.result == "done"
    head, body = server.requests[0]
    assert body == BODY
    assert head.startswith(b"POST /hook?a=1 HTTP/1.1\r\n")
    lines = head.decode().lower().split("\r\n")
    assert f"host: 127.0.0.1:{server.port}" in lines
    assert {"content-type: application/json", "user-agent: incomingd", "webhook-id: msg_1"} <= set(lines)
    # What is signed must not be touched on its way.
    assert not [line for line in lines if line.startswith(("content-encoding", "accept-encoding", "expect"))]


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
async def test_a_redirect_is_not_followed(status: str) -> None:
    """It would take the file's address to somewhere else."""
    async with serving(http("200 OK", b"done")) as other:
        elsewhere = f"Location: http://127.0.0.1:{other.port}/"
        answer, server = await answered(http(status, b"done", elsewhere))
        assert (answer.result, answer.error) == ("error", f"the web app answered {status[:3]}")
        assert (len(server.requests), other.requests) == (1, [])


async def test_an_answer_may_be_as_large_as_is_read() -> None:
    padded = b"done" + b" " * (ANSWER_BYTES_MAX - 4)
    assert (await answered(http("200 OK", padded)))[0].result == "done"


@pytest.mark.parametrize(
    "answer",
    [
        http("200 OK", b"done" + b" " * ANSWER_BYTES_MAX),
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (3 * ANSWER_BYTES_MAX),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"8000\r\n" + b"x" * 0x8000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 500_000,
        b"",
        b"HTTP/1.1 200",
        b"no http at all\r\n\r\n",
        b"HTTP/1.1 two-hundred OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\ndone",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\ndone",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\ndone",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\ndone",
        b"\x16\x03\x01\x00\x05\x01",
        bytes(range(256)) * 40,
    ],
    ids=lambda answer: repr(answer[17:48]) if answer.startswith(b"HTTP/1.1 200 OK") else repr(answer[:12]),
)
async def test_garbage_is_an_error(answer: bytes) -> None:
    result, server = await answered(answer)
    assert result.result == "error"
    assert result.error
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "answer, result",
    [
        (b"HTTP/1.0 200 OK\r\n\r\ndone", "done"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nwa\r\n2\r\nit\r\n0\r\n\r\n", "wait"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone", "done"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "error"),
    ],
)
async def test_every_framing_of_an_answer_is_read(answer: bytes, result: str) -> None:
    assert (await answered(answer))[0].result == result


@pytest.mark.parametrize("answer", [None, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ndo"])
async def test_an_app_that_does_not_answer_in_time(answer: bytes | None) -> None:
    server_closes_early = answer is not None
    result, _ = await answered(answer, timeout_s=0.3)
    assert result.result == "error"
    assert server_closes_early or result.error == "the web app did not answer in time"


async def test_an_app_that_is_down() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        answer = await call(f"http://127.0.0.1:{unused.getsockname()[1]}/")
    assert (answer.result, answer.error) == ("error", "connecting: Connection refused")


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:99999/",
        "http://127.0.0.1:port/",
        "http://[::1/",
        "http:///nowhere",
        "ftp://127.0.0.1/",
        "mailto:somebody",
        "",
        "http://" + "a" * 300 + ".example/",
        "http://\ud800/",
        "http://127.0.0.1:1/\r\nX-Injected: 1",
    ],
)
async def test_a_url_that_leads_nowhere_is_an_error(url: str) -> None:
    answer = await call(url)
    assert answer.result == "error"
    assert answer.error


async def test_tls_that_cannot_be_trusted_is_an_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is sent to who cannot show who it is; the text says that it is TLS."""
    command = (
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=127.0.0.1 -keyout key -out cert"
    )
    subprocess.run(["openssl", *command.split()], cwd=tmp_path, check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    async with serving(http("200 OK", b"done"), tls=tls) as server:
        answer = await call(f"https://127.0.0.1:{server.port}/")
    assert answer.result == "error"
    assert str(answer.error).startswith("TLS: ")
    assert server.requests == []
    # Tornado's warning says the same.
    assert {record.name for record in caplog.records} <= {"tornado.general"}


@pytest.mark.parametrize(
    "allowed, answer",
    [
        (["app.example"], "handover.allowed_hosts does not name 127.0.0.1"),
        (["127.0.0.1:1"], "handover.allowed_hosts does not name 127.0.0.1"),
        (["10.0.0.0/8"], "handover.allowed_hosts does not name 127.0.0.1"),
        (["app.example", "127.0.0.0/8"], None),
        (["127.0.0.1"], None),
    ],
)
async def test_only_hosts_that_are_allowed_are_called(allowed: list[str], answer: str | None) -> None:
    """Also where a ticket was made before the configuration said so."""
    async with serving(http("200 OK", b"done")) as server:
        result = await call(f"http://127.0.0.1:{server.port}/", allowed=allowed)
        assert result.error == answer
        assert len(server.requests) == (0 if answer else 1)


async def test_what_went_wrong_is_told_without_the_url() -> None:
    """It may carry the web app's own secrets, and the text goes into logs and answers."""
    for url in ("http://user:hidden@127.0.0.1:1/?token=hidden", "http://127.0.0.1:99999/?token=hidden"):
        answer = await call(url)
        assert answer.result == "error"
        assert "hidden" not in str(answer.error)
