"""A TCP link between a client and the daemon that can be slow, dead, cut, and that watches the HTTP which passes.

It changes no byte. What it saw is in `Link.exchanges`, one for each request that went through whole or in part.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

from tests.support.machine import free_port

T = TypeVar("T")

_PIECE_BYTES = 64 * 1024


@dataclass
class Exchange:
    """A request that passed, and the status of the final answer to it, if one came."""

    method: str
    """As it counts: of ``X-HTTP-Method-Override`` where a POST has it."""
    path: str
    headers: dict[str, str]
    status: int | None = None
    answer_headers: dict[str, str] = field(default_factory=dict)


class Link:
    """Listens on ``address`` and forwards to *target*; a context manager.

    ``rate_bytes_per_s`` limits what clients send, over all connections (None: as fast as it goes).
    """

    def __init__(self, target: tuple[str, int], *, rate_bytes_per_s: float | None = None) -> None:
        self.target = target
        self.address = ("127.0.0.1", free_port())
        self.rate_bytes_per_s = rate_bytes_per_s
        self.exchanges: list[Exchange] = []
        self.upstream_bytes = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="link", daemon=True)
        self._flowing: asyncio.Event
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._due_s = 0.0

    @property
    def url(self) -> str:
        """``http://host:port`` of the client's side."""
        return f"http://{self.address[0]}:{self.address[1]}"

    def through(self, url: str) -> str:
        """Return *url* with this link in the place of its target."""
        return url.replace(f"{self.target[0]}:{self.target[1]}", f"{self.address[0]}:{self.address[1]}")

    def __enter__(self) -> Self:
        self._thread.start()
        self._call(self._open())
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        assert not self._thread.is_alive()
        self._loop.close()

    # -- what can happen to a link

    def freeze(self) -> None:
        """Let nothing pass in either direction; connections stay open."""
        self._call(self._set_flowing(flowing=False))

    def thaw(self) -> None:
        """Let everything pass again."""
        self._call(self._set_flowing(flowing=True))

    def reset_all(self) -> int:
        """Cut every connection with a reset on both sides; return how many there were."""
        return self._call(self._cut(_reset))

    def close_all(self) -> int:
        """Close every connection in the orderly way on both sides; return how many there were."""
        return self._call(self._cut(lambda writer: writer.close()))

    def half_close_all(self) -> int:
        """Tell the target that the clients send no more; what it answers still passes."""
        return self._call(self._half_close())

    # -- what it saw

    def count(self, method: str, status: int | None = None) -> int:
        """Return how many requests of *method* passed (and were answered with *status*)."""
        return sum(exchange.method == method and status in (None, exchange.status) for exchange in list(self.exchanges))

    # -- inside the loop's thread

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    async def _open(self) -> None:
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._server = await asyncio.start_server(self._accept, *self.address, backlog=1024)

    async def _close(self) -> None:
        assert self._server is not None
        self._server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._cut(_reset)
        # One turn of the loop for the transports to say that they are gone.
        await asyncio.sleep(0)

    async def _set_flowing(self, *, flowing: bool) -> None:
        if flowing:
            self._flowing.set()
        else:
            self._flowing.clear()

    async def _cut(self, end: Callable[[asyncio.StreamWriter], None]) -> int:
        pairs = list(self._pairs)
        for pair in pairs:
            for writer in pair:
                end(writer)
        return len(pairs)

    async def _half_close(self) -> int:
        pairs = list(self._pairs)
        for _, upstream in pairs:
            with contextlib.suppress(OSError):
                upstream.write_eof()
        return len(pairs)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            try:
                up_reader, up_writer = await asyncio.open_connection(*self.target)
            except OSError:
                # The nearest thing to a refused connection that one who has accepted can say.
                _reset(writer)
                return
            pair = (writer, up_writer)
            self._pairs.add(pair)
            watch = _Watch(self.exchanges)
            try:
                async with asyncio.TaskGroup() as pumps:
                    pumps.create_task(self._pump(reader, up_writer, watch.request, limited=True))
                    pumps.create_task(self._pump(up_reader, writer, watch.response, limited=False))
            finally:
                self._pairs.discard(pair)
                for end in pair:
                    end.close()
        except* OSError:
            # One side is gone, so the other one learns of it in the same way.
            _reset(writer)
        except* asyncio.CancelledError:
            # The link is being closed. (asyncio would print a cancelled handler as a fault.)
            _reset(writer)
        finally:
            self._tasks.discard(task)

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        watch: Callable[[bytes], None],
        *,
        limited: bool,
    ) -> None:
        while True:
            data = await reader.read(_PIECE_BYTES if self.rate_bytes_per_s is None else self._slice_bytes())
            if limited and data:
                await self._pace(len(data))
            await self._flowing.wait()
            if not data:
                break
            watch(data)
            if limited:
                self.upstream_bytes += len(data)
            writer.write(data)
            await writer.drain()
        with contextlib.suppress(OSError, RuntimeError):
            writer.write_eof()

    def _slice_bytes(self) -> int:
        assert self.rate_bytes_per_s is not None
        return max(1, min(_PIECE_BYTES, int(self.rate_bytes_per_s / 50)))

    async def _pace(self, size_bytes: int) -> None:
        if self.rate_bytes_per_s is None:
            return
        now_s = self._loop.time()
        self._due_s = max(self._due_s, now_s) + size_bytes / self.rate_bytes_per_s
        await asyncio.sleep(self._due_s - now_s)


class _Watch:
    """Reads along: finds the heads of requests and of their answers in the two streams of one connection."""

    def __init__(self, exchanges: list[Exchange]) -> None:
        self._exchanges = exchanges
        self._waiting: deque[Exchange] = deque()
        self._requests = _Heads(self._request_head)
        self._responses = _Heads(self._response_head)

    def request(self, data: bytes) -> None:
        self._requests.feed(data)

    def response(self, data: bytes) -> None:
        self._responses.feed(data)

    def _request_head(self, first: str, headers: dict[str, str]) -> bool:
        method, path, _ = first.split(" ", 2)
        if method == "POST":
            method = headers.get("x-http-method-override", method).upper()
        exchange = Exchange(method, path, headers)
        self._exchanges.append(exchange)
        self._waiting.append(exchange)
        return "content-length" in headers or "transfer-encoding" in headers

    def _response_head(self, first: str, headers: dict[str, str]) -> bool:
        status = int(first.split(" ", 2)[1])
        if status < 200 or not self._waiting:
            return False
        exchange = self._waiting.popleft()
        exchange.status = status
        exchange.answer_headers = headers
        return exchange.method != "HEAD" and status not in (204, 304)


class _Heads:
    """Finds the heads of HTTP/1.1 messages in a stream; *on_head* returns whether a body follows."""

    def __init__(self, on_head: Callable[[str, dict[str, str]], bool]) -> None:
        self._on_head = on_head
        self._buffer = b""
        self._skip_bytes = 0
        self._in_chunks = False
        self._to_the_end = False

    def feed(self, data: bytes) -> None:
        self._buffer += data
        while self._buffer and not self._to_the_end:
            if self._skip_bytes:
                skipped = min(self._skip_bytes, len(self._buffer))
                self._buffer = self._buffer[skipped:]
                self._skip_bytes -= skipped
            elif self._in_chunks:
                if not self._chunk():
                    return
            elif not self._head():
                return
        if self._to_the_end:
            self._buffer = b""

    def _head(self) -> bool:
        if b"\r\n\r\n" not in self._buffer:
            return False
        head, self._buffer = self._buffer.split(b"\r\n\r\n", 1)
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        if self._on_head(first, headers):
            if headers.get("transfer-encoding", "").lower() == "chunked":
                self._in_chunks = True
            elif "content-length" in headers:
                self._skip_bytes = int(headers["content-length"])
            else:
                self._to_the_end = True
        return True

    def _chunk(self) -> bool:
        if b"\r\n" not in self._buffer:
            return False
        line, rest = self._buffer.split(b"\r\n", 1)
        size = int(line.split(b";")[0], 16)
        if size:
            self._skip_bytes = size + 2
            self._buffer = rest
            return True
        # The last chunk: trailers, if any, end with an empty line.
        if not rest.startswith(b"\r\n") and b"\r\n\r\n" not in rest:
            return False
        self._buffer = rest[2:] if rest.startswith(b"\r\n") else rest.split(b"\r\n\r\n", 1)[1]
        self._in_chunks = False
        return True


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
