"""The public listener on a real socket, in a thread of its own, on a real directory; the engine is within reach.

No web app is called: a test moves an upload from status to status itself, as the hand-over would. Everything else is
what the daemon runs.
"""

from __future__ import annotations

import asyncio
import io
import json
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from incomingd import log
from incomingd.clock import SystemClock
from incomingd.config import Settings, TcpAddress
from incomingd.config.settings import Tls
from incomingd.core import ids
from incomingd.core.errors import PROBLEMS, Code
from incomingd.core.record import Record, Terms
from incomingd.core.status import Status
from incomingd.core.tenure import Identity
from incomingd.daemon import options
from incomingd.daemon.listeners import Listener, ListenerOptions
from incomingd.engine import ending
from incomingd.engine.engine import Engine, View
from incomingd.engine.events import Events
from incomingd.engine.owned import Services
from incomingd.frontends import pages
from incomingd.frontends.uploads import PATTERN, PREFIX, UploadResource
from incomingd.registry.memory import MemoryRegistry
from incomingd.storage.directory import DirectoryOptions, DirectoryVolume
from incomingd.web.body import BodyLimits
from incomingd.web.exchange import ExchangeOptions
from incomingd.web.handler import JSON_BYTES_MAX
from incomingd.web.paths import ByPath
from incomingd.web.proxies import TrustedPeers
from incomingd.web.rates import Rates
from tests.support.machine import free_port, wait_until
from tests.support.tus import OFFSET_TYPE, VERSION, metadata_header
from tests.support.wire import Headers, Response, Wire

T = TypeVar("T")

LONG_S: Final = 0.9
"""Sleeps of so long, and longer ones, take no time: a test that waits a second waits too long."""
BAD_LEVELS: Final = frozenset({"error", "critical", "exception"})


class TestClock(SystemClock):
    """The system's clock; its Unix time can be put forward, and long sleeps cost nothing."""

    __test__ = False

    def __init__(self) -> None:
        super().__init__()
        self.ahead_s = 0.0
        self.slept_s: list[float] = []

    def now(self) -> float:
        return super().now() + self.ahead_s

    async def sleep(self, duration_s: float) -> None:
        self.slept_s.append(duration_s)
        await super().sleep(duration_s if duration_s < LONG_S else 0.0)


class OneAtATime:
    """A TLS socket that one thread may read while another one sends: OpenSSL's state allows only one at a time.

    Without it, the two spoil each other's state now and then, and a read finds an end that nobody sent.
    """

    def __init__(self, plain: socket.socket, context: ssl.SSLContext) -> None:
        self._timeout_s = plain.gettimeout()
        self._tls = context.wrap_socket(plain)
        self._tls.setblocking(False)
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tls, name)

    def settimeout(self, timeout_s: float | None) -> None:
        self._timeout_s = timeout_s

    def sendall(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self._when_ready(lambda: self._tls.send(rest)) :]  # noqa: B023  # called at once

    def recv(self, size: int) -> bytes:
        return self._when_ready(lambda: self._tls.recv(size))

    def _when_ready(self, call: Callable[[], T]) -> T:
        wanted: tuple[list[ssl.SSLSocket], list[ssl.SSLSocket]]
        while True:
            try:
                with self._lock:
                    return call()
            except ssl.SSLWantReadError:
                wanted = ([self._tls], [])
            except ssl.SSLWantWriteError:
                wanted = ([], [self._tls])
            if not any(select.select(*wanted, [], self._timeout_s)):
                raise TimeoutError


class TlsWire(Wire):
    """A `Wire` through TLS that believes whatever certificate it is shown."""

    def __init__(self, address: tuple[str, int], *, timeout_s: float = 30) -> None:
        super().__init__(address, timeout_s=timeout_s)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self.socket: Any = OneAtATime(self.socket, context)


class Service:
    """`start` it, and `close` it in the end; `settings` are those of the configuration (``{"hold_s": 1}``)."""

    def __init__(
        self,
        folder: Path,
        settings: dict[str, Any] | None = None,
        *,
        body_limits: BodyLimits | None = None,
        tls: Tls | None = None,
    ) -> None:
        self.settings = Settings.model_validate({"data_dir": folder, **(settings or {})})
        self.folder = folder
        self.address = ("127.0.0.1", free_port())
        self.errors_expected: set[str] = set()
        """Names of log events of level error that the test provokes on purpose."""
        self._body_limits = body_limits
        self._tls = tls or Tls()
        self._wires: list[Wire] = []
        self._faults: list[dict[str, Any]] = []
        self._log = io.StringIO()
        self._loop: asyncio.AbstractEventLoop
        self._thread: threading.Thread
        self.clock: TestClock
        self.engine: Engine
        self.volume: DirectoryVolume
        self.uploads: UploadResource
        self.exchange_options: ExchangeOptions
        self._listener: Listener

    # -- life

    def start(self) -> Self:
        """Open the directory and listen."""
        log.configure(
            self.settings.log.model_copy(update={"format": "json", "level": "debug"}),
            instance="test",
            stream=self._log,
            strict=True,
        )
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(lambda _, context: self._faults.append(context))
        self._thread = threading.Thread(target=self._loop.run_forever, name="service", daemon=True)
        self._thread.start()
        self.run(self._open())
        return self

    async def _open(self) -> None:
        settings = self.settings
        self.clock = TestClock()
        self.volume = DirectoryVolume.open(
            self.folder,
            new_id=ids.spell(self.clock.random_bits(128), ids.VOLUME_CHARS),
            holder={},
            options=DirectoryOptions(
                threads=4,
                reserve_bytes=settings.limits.free_space_reserve_bytes,
                durable=settings.durability != "none",
                fast_path=settings.storage.fast_path == "auto",
            ),
        )
        identity = Identity(name="test", start_id=f"{self.clock.random_bits(128):032x}")
        self.engine = Engine(
            Services(
                clock=self.clock,
                volume=self.volume,
                registry=MemoryRegistry(identity),
                identity=identity,
                events=Events(),
                options=options.engine_options(settings),
                boot_id=self.volume.boot_id,
            )
        )
        trusted = TrustedPeers(settings.public.trusted_proxies, setting="public.trusted_proxies")
        self.exchange_options = ExchangeOptions(
            clock=self.clock,
            trusted=trusted,
            body_limits=self._body_limits or options.body_limits(settings),
            close_after_answer=lambda: self.engine.state.close_after_answer,
            rates=Rates(options.rate_limits(settings)),
        )
        self.uploads = UploadResource(self.engine, self.exchange_options, options.upload_options(settings))
        rest = pages.application(self.engine, self.uploads.options, trusted, self.exchange_options.close_after_answer)
        router = ByPath(PATTERN, self.uploads, rest)
        self._listener = Listener(
            "public",
            TcpAddress(*self.address),
            router,
            tls=self._tls,
            options=ListenerOptions(
                header_bytes=settings.limits.header_bytes,
                idle_timeout_s=settings.limits.idle_connection_timeout_s,
                body_bytes=JSON_BYTES_MAX,
                connections_max=settings.limits.connections,
                per_address_max=settings.limits.connections_per_address,
                trusts=trusted.trusts,
                clock=self.clock,
            ),
        )
        self._listener.bind()
        self.engine.state.ready()
        self._listener.start()

    def close(self, *, check: bool = True) -> None:
        """Stop in the order in which the daemon does; fail if something went wrong that nobody was told of."""
        if not self._thread.is_alive():
            return
        for wire in self._wires:
            wire.close()
        self._wires.clear()
        self.run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        assert not self._thread.is_alive()
        self._loop.close()
        log.flush()
        if check:
            self.check()

    async def _close(self) -> None:
        self._listener.stop()
        await self.engine.stop()
        while any(upload.busy for upload in self.engine.live):
            await asyncio.sleep(0.001)
        await self._listener.close()
        await self.volume.close()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        if rest:
            await asyncio.wait(rest, timeout=5)
        left = [task for task in rest if not task.done()]
        assert not left, left

    def check(self) -> None:
        """Fail if there was an error in the log, or one that only the event loop heard of."""
        bad = [
            event
            for event in self.log_events()
            if event["level"] in BAD_LEVELS and event["event"] not in self.errors_expected
        ]
        assert not bad, json.dumps(bad[0], indent=1)
        assert not self._faults, self._faults

    def restart(self) -> None:
        """Stop, and start again on the same directory: a new start id, nothing in memory."""
        self.close(check=False)
        self.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run *coroutine* on the service's loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    # -- the log

    def log_events(self, name: str | None = None, **fields: object) -> list[dict[str, Any]]:
        """Return the log's events so far, those called *name* whose *fields* are as given."""
        log.flush()
        found = [json.loads(line) for line in self._log.getvalue().splitlines()]
        return [
            event
            for event in found
            if name in (None, event["event"]) and all(event.get(key) == value for key, value in fields.items())
        ]

    def wait_event(self, name: str, **fields: object) -> dict[str, Any]:
        """Wait until the log has such an event; return the first."""
        return wait_until(lambda: self.log_events(name, **fields), f"{name} {fields}", timeout_s=10)[0]

    # -- tickets, and what the hand-over would do

    def ticket(self, **terms: Any) -> str:
        """Make a ticket; return its path."""
        upload_id = self.run(self._ticket(terms)).upload_id
        return f"{PREFIX}/{upload_id}"

    async def _ticket(self, terms: dict[str, Any]) -> Record:
        expires_in_s = terms.pop("expires_in_s", None)
        record, _ = await self.engine.create(
            Terms(finish_url="http://127.0.0.1:9/", secret="c2VjcmV0", **terms), expires_in_s=expires_in_s
        )
        return record

    def view(self, path: str) -> View:
        """Look at an upload without a request."""
        return self.run(self.engine.view(id_of(path)))

    def record(self, path: str) -> Record:
        """Return an upload's record."""
        return self.view(path).record

    def wait_offset(self, path: str, offset: int) -> None:
        """Wait until so many bytes of an upload are kept, those of an open append too."""
        wait_until(
            lambda: self.view(path).offset == offset, f"offset {offset} of {path}", timeout_s=10, interval_s=0.002
        )

    def part_offset(self, path: str) -> int:
        """Return how many bytes of a part are kept just now."""
        upload_id, _, part = path.removeprefix(PREFIX + "/").partition("/parts/")

        async def look() -> int:
            async with self.engine.owning(upload_id) as upload:
                return upload.live_offset(part)

        return self.run(look())

    def wait_joined(self, path: str) -> None:
        """Wait until the complete file stands."""
        wait_until(lambda: self.record(path).joined, f"{path} joined", timeout_s=10, interval_s=0.002)

    def file_of(self, path: str) -> bytes:
        """Return the complete file's content."""
        self.wait_joined(path)
        file = self.volume.path_of(self.record(path))
        assert file is not None
        return file.read_bytes()

    def bytes_of(self, path: str) -> dict[str, bytes]:
        """Return all that lies on the disk of an upload, by name: record and segments."""
        folder = self.folder / "uploads" / id_of(path)[:2] / id_of(path)
        return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}

    def do(self, path: str, act: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
        """Do to an upload what another part of the daemon does: ``do(path, ending.handover_started)``."""

        async def owned() -> T:
            async with self.engine.owning(id_of(path)) as upload:
                return await act(upload)

        return self.run(owned())

    def expire(self, path: str) -> None:
        """Let the time of an upload be over, and the upkeep notice it."""
        self.clock.ahead_s += self.record(path).expires_at - self.clock.now() + 1
        self.run(self.engine.expire(id_of(path)))

    def bring(self, status: Status, content: bytes = b"0123456789", **terms: Any) -> str:
        """Make an upload of *content* that has this status (an open one has the first four bytes); return its path."""
        path = self.ticket(**terms)
        whole = status not in (Status.OPEN, Status.CANCELLED, Status.EXPIRED, Status.LOST)
        created = self.request("POST", path, {"Upload-Length": str(len(content)), "Upload-Metadata": "filename YQ=="})
        assert created.status == 201, created
        sent = self.patch(path, 0, content if whole else content[:4])
        assert sent.status == 204, sent
        if whole:
            self.wait_joined(path)
        if status is Status.CANCELLED:
            assert self.request("DELETE", path).status == 204
        elif status is Status.EXPIRED:
            self.expire(path)
        elif status is Status.LOST:
            self._lose(path)
        elif status not in (Status.OPEN, Status.COMPLETE):
            self.do(path, ending.handover_started)
            if status is Status.AWAITING_APP:
                deadline = self.clock.now() + 600
                self.do(path, lambda u: ending.app_waits(u, deadline=deadline, message=None, client_data=None))
            elif status is Status.FINISHED:
                self.do(path, lambda u: ending.app_done(u, message=None, client_data=None))
            elif status is Status.FAILED:
                self.do(path, lambda u: ending.app_refused(u, message="no", client_data=None))
        assert self.record(path).status is status
        return path

    def _lose(self, path: str) -> None:
        """Have a disk lose acknowledged bytes, and the daemon find out at its next start."""
        self.errors_expected.add("upload.lost")
        self.close(check=False)
        folder = self.folder / "uploads" / id_of(path)[:2] / id_of(path)
        for segment in folder.glob("bytes.*"):
            segment.write_bytes(b"0")
        self.start()
        self.request("HEAD", path)

    # -- requests

    def connect(self) -> Wire:
        """Open a connection; it is closed with the service."""
        wire = TlsWire(self.address) if self._tls.enabled else Wire(self.address)
        self._wires.append(wire)
        return wire

    def request(
        self,
        method: str,
        path: str,
        headers: Headers | None = None,
        body: bytes | None = None,
        *,
        wire: Wire | None = None,
        tus: bool = True,
    ) -> Response:
        """Send one tus request, and return its answer when what holds for all answers is checked.

        Without *tus* it is sent without a version.
        """
        given = (VERSION if tus else {}) | (headers or {})
        if wire is not None:
            answer = wire.request(method, path, given, body)
        else:
            with TlsWire(self.address) if self._tls.enabled else Wire(self.address) as own:
                answer = own.request(method, path, given, body)
        return checked(answer, "HEAD" if method == "HEAD" else given.get("X-HTTP-Method-Override", method))

    def patch(self, path: str, offset: int, body: bytes, headers: Headers | None = None, **how: Any) -> Response:
        """Append *body* at *offset*."""
        given = OFFSET_TYPE | {"Upload-Offset": str(offset)} | (headers or {})
        return self.request("PATCH", path, given, body, **how)

    def create(
        self, path: str, length: int | None, headers: Headers | None = None, body: bytes | None = None, **metadata: str
    ) -> Response:
        """Create at a ticket (or openly, or a part), with *body* if one is given; a length of None is deferred."""
        given: Headers = {"Upload-Length": str(length)} if length is not None else {"Upload-Defer-Length": "1"}
        if metadata:
            given["Upload-Metadata"] = metadata_header(**metadata)
        if body is not None:
            given |= OFFSET_TYPE
        return self.request("POST", path, given | (headers or {}), body)

    def head(self, path: str, headers: Headers | None = None) -> Response:
        """Ask for the resume point."""
        return self.request("HEAD", path, headers)

    def offset(self, path: str) -> int:
        """Return the resume point."""
        answer = self.head(path)
        assert answer.status == 200, answer
        return answer.offset

    def wait_connections(self, count: int) -> None:
        """Wait until no more than so many connections are open: what came over the others is done with."""
        wait_until(
            lambda: self._listener.open_connections <= count, f"{count} connections", timeout_s=10, interval_s=0.0005
        )

    def open_append(self, path: str, offset: int, begun: bytes, announced: int, headers: Headers | None = None) -> Wire:
        """Begin a PATCH of *announced* bytes, send those *begun*, and return its connection once they are kept."""
        wire = self.connect()
        given = VERSION | OFFSET_TYPE | {"Upload-Offset": str(offset), "Content-Length": str(announced)}
        wire.send_head("PATCH", path, given | (headers or {}))
        wire.send(begun)
        if "/parts/" in path:
            wait_until(lambda: self.part_offset(path) == offset + len(begun), "part", timeout_s=10, interval_s=0.002)
        else:
            self.wait_offset(path, offset + len(begun))
        return wire


def id_of(path: str) -> str:
    """Return the id in an upload's path."""
    return path.removeprefix(PREFIX + "/").partition("/")[0]


def chunked(*pieces: bytes, trailer: bytes = b"") -> bytes:
    """Return a chunked body of *pieces*, with *trailer* lines behind it."""
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n" + trailer + b"\r\n"


CHUNKED: Final[Headers] = {"Transfer-Encoding": "chunked"}


def checked(answer: Response, method: str) -> Response:
    """Return *answer*, having checked what holds for every answer of the upload resource."""
    headers = answer.headers
    assert headers["tus-resumable"] == "1.0.0", answer
    assert headers["x-request-id"], answer
    assert "Origin" in headers["vary"], answer
    if method == "HEAD":
        assert answer.body == b"", answer
        assert answer.status < 500, answer
        assert headers["cache-control"] == "no-store", answer
    elif answer.status >= 400:
        check_problem(answer)
    if "x-upload-id" in headers:
        assert answer.status < 300, answer
    return answer


def check_problem(answer: Response) -> Code:
    """Fail unless *answer* is a problem document with a code of the catalogue; return the code."""
    assert answer.headers["content-type"] == "application/problem+json", answer
    document = answer.json()
    code = Code(document["code"])
    assert document["status"] == answer.status, answer
    assert document["title"] == PROBLEMS[code].title
    assert document["type"].endswith(":" + code.value)
    assert document["detail"].strip(), document
    assert document["request_id"] == answer.headers["x-request-id"]
    return code


def wait_closed(wire: Wire, timeout_s: float = 10) -> float:
    """Wait until the other side has closed; return how long that took, in s."""
    began = time.monotonic()
    assert wire.is_closed(timeout_s), "the connection is still open"
    return time.monotonic() - began
