"""Many uploads at once from one process, each slow, each as patient as tus-js-client is, and what each cut cost it.

The client asks (HEAD) after a cut, and sends what comes next with `Expect: 100-continue`: so it is known when its bytes
are wanted again, and not only when they have left. It gives up where tus-js-client with its own settings would.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import ssl
import statistics
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Self

from tests.support.content import Content

KIB = 1024
MIB = 1024 * KIB
DELAYS_S = (0.0, 1.0, 3.0, 5.0)
"""tus-js-client's own `retryDelays`; any progress begins them anew."""
ANSWER_WITHIN_S = 30.0
PASSING_STATUSES = frozenset({409, 423})
"""Of 4xx those that tus-js-client tries again."""
VERSION = "Tus-Resumable: 1.0.0\r\n"

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[], Awaitable[Streams]]


class CutError(Exception):
    """The request brought no end: it is tried again."""


@dataclass(frozen=True)
class Cut:
    """What one interruption cost."""

    pause_s: float
    """From when the last byte that counts was sent until the next one was wanted."""
    again_bytes: int
    """Sent, and to be sent once more."""
    head_s: float
    """How long the question for the offset took, that of the last try."""
    tries: int


@dataclass
class Figures:
    """What all uploads of a load have met."""

    cuts: list[Cut] = field(default_factory=list)
    heads_s: list[float] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    """How many answers of which kind, such as ``PATCH 503``; ``PATCH cut``: a connection that was lost."""
    ended: int = 0

    def summary(self) -> dict[str, Any]:
        """Return the figures that documents tell."""
        pauses = [cut.pause_s for cut in self.cuts]
        return {
            "uploads": self.ended,
            "cuts": len(self.cuts),
            "pause_s": spread(pauses),
            "head_s": spread([cut.head_s for cut in self.cuts]),
            "all_heads_s": spread(self.heads_s),
            "again_bytes": spread([float(cut.again_bytes) for cut in self.cuts]),
            "again_bytes_all": sum(cut.again_bytes for cut in self.cuts),
            "tries": dict(Counter(cut.tries for cut in self.cuts)),
            "answers": dict(sorted(self.answers.items())),
        }


def spread(values: list[float]) -> dict[str, float]:
    """Return median, 99th percentile and maximum."""
    if not values:
        return {"p50": 0.0, "p99": 0.0, "max": 0.0}
    return {
        "p50": round(statistics.median(values), 4),
        "p99": round(percentile(values, 0.99), 4),
        "max": round(max(values), 4),
    }


def percentile(values: list[float], share: float) -> float:
    """Return the smallest of *values* that *share* of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1)]


def keep_figures(name: str, figures: dict[str, Any], folder: Path) -> None:
    """Write what was measured to *folder*, or to the one that ``INCOMING_TEST_FIGURES`` names: docs are made of it."""
    folder = Path(os.environ.get("INCOMING_TEST_FIGURES", folder))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(figures, indent=1) + "\n")


@contextmanager
def many_files() -> Iterator[None]:
    """Let this process, and what it starts, have a socket for each upload."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@dataclass
class Pace:
    """How fast uploads go; shared by all that are to be in a hurry together."""

    rate_bytes_per_s: float
    piece_bytes: int = 4 * KIB
    hurry: bool = False

    async def rest(self, sent_bytes: int, answer: asyncio.Future[Any]) -> None:
        """Wait for as long as so many bytes take, or until the *answer* is there: no client sends on then."""
        rest_s = 0 if self.hurry else sent_bytes / self.rate_bytes_per_s * random.uniform(0.7, 1.3)
        await asyncio.wait([answer], timeout=rest_s)


def through(address: tuple[str, int], tls: ssl.SSLContext | None = None) -> Connect:
    """Return what connects to *address*."""

    async def connect() -> Streams:
        name = "localhost" if tls is not None else None
        return await asyncio.open_connection(*address, ssl=tls, server_hostname=name)

    return connect


class Upload:
    """One file to one ticket."""

    def __init__(self, path: str, content: Content, connect: Connect, pace: Pace, figures: Figures) -> None:
        self.path = path
        self.content = content
        self.creations = 0
        self.offset = 0
        self._connect = connect
        self._pace = pace
        self._figures = figures
        self._sent: list[tuple[int, float]] = []
        """Of the request for bytes that was cut last: up to which byte was sent when."""
        self._taken_at: float | None = None
        self._again_bytes = 0
        self._head_s = 0.0
        self._tries = 0
        self._streams: Streams | None = None

    @property
    def upload_id(self) -> str:
        """Its id."""
        return self.path.rpartition("/")[2]

    @property
    def open(self) -> bool:
        """Whether it is under way."""
        return self.creations > 0 and self.offset < self.content.size_bytes

    async def run(self) -> None:
        """Upload it whole; fail where tus-js-client would have called `onError`."""
        await self._patiently(self._create)
        asked = True
        failures = 0
        while self.offset < self.content.size_bytes:
            before = self.offset
            try:
                if not asked:
                    await self._ask()
                    asked = True
                if self.offset < self.content.size_bytes:
                    await self._send()
            except CutError as cut:
                asked = False
                self._tries += 1
                failures = 0 if self.offset > before else failures
                if failures == len(DELAYS_S):
                    raise self._gave_up() from cut
                await asyncio.sleep(DELAYS_S[failures])
                failures += 1
        self._close()
        self._figures.ended += 1

    async def _patiently(self, work: Callable[[], Awaitable[None]]) -> None:
        for delay_s in (*DELAYS_S, None):
            try:
                return await work()
            except CutError as cut:
                if delay_s is None:
                    raise self._gave_up() from cut
                await asyncio.sleep(delay_s)
        return None

    def _gave_up(self) -> AssertionError:
        return AssertionError(f"gave up at {self.offset} of {self.content.size_bytes}: {self.path}")

    # -- the requests

    async def _create(self) -> None:
        status, _ = await self._exchange("POST", f"Upload-Length: {self.content.size_bytes}\r\nContent-Length: 0\r\n")
        assert status == 201, f"creation was answered {status}"
        self.creations += 1

    async def _ask(self) -> None:
        began = time.monotonic()
        status, headers = await self._exchange("HEAD", "")
        assert status == 200, f"HEAD was answered {status}"
        self._head_s = time.monotonic() - began
        self._figures.heads_s.append(self._head_s)
        self._found(int(headers["upload-offset"]))

    def _found(self, offset: int) -> None:
        """Note what counts of what was sent."""
        assert offset >= self.offset, f"the offset fell from {self.offset} to {offset}"
        if self._sent:
            self._again_bytes += max(self._sent[-1][0] - offset, 0)
            if offset > self.offset:
                place = bisect_left(self._sent, (offset, 0.0))
                self._taken_at = self._sent[min(place, len(self._sent) - 1)][1]
        self._sent = []
        self.offset = offset

    async def _send(self) -> None:
        """Send from the offset on, until all is there or the request is cut."""
        again = self._taken_at is not None
        reader, writer = await self._connected()
        length = self.content.size_bytes - self.offset
        head = f"Content-Type: application/offset+octet-stream\r\nUpload-Offset: {self.offset}\r\n"
        head += f"Content-Length: {length}\r\n" + ("Expect: 100-continue\r\n" if again else "")
        answer: asyncio.Task[tuple[int, dict[str, str]]] | None = None
        try:
            writer.write(self._head("PATCH", head))
            if again:
                status, headers = await asyncio.wait_for(_read_head(reader), ANSWER_WITHIN_S)
                if status != 100:
                    return self._answered(status, headers)
                self._wanted_again()
            answer = asyncio.create_task(_read_head(reader))
            position = self.offset
            while position < self.content.size_bytes and not answer.done():
                piece = self.content.read(position, self._pace.piece_bytes)
                writer.write(piece)
                position += len(piece)
                self._sent.append((position, time.monotonic()))
                await writer.drain()
                await self._pace.rest(len(piece), answer)
            return self._answered(*await asyncio.wait_for(answer, ANSWER_WITHIN_S))
        except (OSError, EOFError, TimeoutError) as error:
            self._lost("PATCH", error)
        finally:
            if answer is not None:
                answer.cancel()
                with suppress(OSError, EOFError, asyncio.CancelledError):
                    await answer

    def _wanted_again(self) -> None:
        assert self._taken_at is not None
        pause_s = time.monotonic() - self._taken_at
        self._figures.cuts.append(Cut(pause_s, self._again_bytes, self._head_s, self._tries))
        self._taken_at, self._again_bytes, self._tries = None, 0, 0

    def _answered(self, status: int, headers: dict[str, str]) -> None:
        self._figures.answers[f"PATCH {status}"] += 1
        if status == 204:
            self._found(int(headers["upload-offset"]))
            self._taken_at = None
            return
        self._close()
        self._check_passing("PATCH", status)

    @staticmethod
    def _check_passing(method: str, status: int) -> NoReturn:
        assert status >= 500 or status in PASSING_STATUSES, f"{method} was answered {status}"
        message = f"{method} was answered {status}"
        raise CutError(message)

    async def _exchange(self, method: str, head: str) -> tuple[int, dict[str, str]]:
        """Send a request without a body; return status and headers of the answer, if it is 2xx."""
        try:
            reader, writer = await self._connected()
            writer.write(self._head(method, head))
            status, headers = await asyncio.wait_for(_read_head(reader), ANSWER_WITHIN_S)
        except (OSError, EOFError, TimeoutError) as error:
            self._lost(method, error)
        self._figures.answers[f"{method} {status}"] += 1
        if headers.get("connection") == "close" or status >= 300:
            self._close()
        if status >= 300:
            self._check_passing(method, status)
        return status, headers

    def _head(self, method: str, head: str) -> bytes:
        return f"{method} {self.path} HTTP/1.1\r\nHost: localhost\r\n{VERSION}{head}\r\n".encode()

    # -- the connection

    async def _connected(self) -> Streams:
        if self._streams is None:
            try:
                self._streams = await asyncio.wait_for(self._connect(), ANSWER_WITHIN_S)
            except (OSError, TimeoutError) as error:
                self._lost("connection", error)
        assert self._streams is not None
        return self._streams

    def _close(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None

    def _lost(self, what: str, error: Exception) -> NoReturn:
        self._close()
        self._figures.answers[f"{what} cut"] += 1
        message = f"{what}: {error!r}"
        raise CutError(message) from error


async def _read_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    """Return status and headers of an answer."""
    text = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = text.split("\r\n")
    pairs = (line.partition(":") for line in lines if line)
    return int(first.split(" ")[1]), {name.lower(): value.strip() for name, _, value in pairs}


class SlowRelay:
    """Passes TCP connections on to *target*, what clients send not faster than *rate* (of each connection).

    For clients that cannot be slow by themselves, TLS included. A context manager of the loop it runs in.
    """

    def __init__(self, target: tuple[str, int], rate_bytes_per_s: float) -> None:
        self._target = target
        self.rate_bytes_per_s: float | None = rate_bytes_per_s
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    async def __aenter__(self) -> Self:
        # Little is on its way inside: what a client has sent is soon what the balancer has.
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0, limit=16 * KIB)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        far: asyncio.StreamWriter | None = None
        try:
            far_reader, far = await asyncio.open_connection(*self._target, limit=64 * KIB)
            back = asyncio.create_task(self._pass(far_reader, writer, slow=False))
            self._tasks.add(back)
            try:
                await self._pass(reader, far, slow=True)
                await back
            finally:
                back.cancel()
                self._tasks.discard(back)
        except (OSError, asyncio.CancelledError):
            # Either side has gone; so does the other.
            pass
        finally:
            self._tasks.discard(task)
            for each in (writer, far):
                if each is not None:
                    each.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, slow: bool) -> None:
        while data := await reader.read(8 * KIB if slow else 64 * KIB):
            writer.write(data)
            await writer.drain()
            if slow and self.rate_bytes_per_s is not None:
                await asyncio.sleep(len(data) / self.rate_bytes_per_s)
        if writer.can_write_eof():
            writer.write_eof()
