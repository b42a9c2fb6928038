"""The engine, its upkeep and the hand-over on virtual time, on a disk in memory, with a web app and clients."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from typing import Any, Self

from incomingd.core import codec
from incomingd.core.commands import Append, Checksum, Creation, Resource
from incomingd.core.errors import Code, Refusal
from incomingd.core.record import Record, Terms
from incomingd.core.status import Status
from incomingd.core.tenure import Identity
from incomingd.engine.appending import AppendReport
from incomingd.engine.engine import Engine, View
from incomingd.engine.events import Events
from incomingd.engine.options import EngineOptions
from incomingd.engine.owned import Services
from incomingd.engine.upkeep import Upkeep
from incomingd.handover.handover import Handover, HandoverOptions
from incomingd.metrics import Metrics
from incomingd.registry.memory import MemoryRegistry
from incomingd.storage.body import BodyCutError, CutReason
from incomingd.storage.memory import MemoryDisk, MemoryVolume
from incomingd.storage.memory_parts import Trouble
from incomingd.wire.callback import Answer, Callback, parse_answer
from tests.support.virtual import VirtualClock, settle

VOLUME_ID = "Volume000001"
APP_URL = "http://app.example/arrived"
DAY_S = 86400.0


class Feed:
    """A body that a test sends as it likes."""

    def __init__(self, *pieces: bytes, ended: bool = True, length: int | None = None) -> None:
        self._pieces = deque(pieces)
        self._ended = ended
        self._length = sum(map(len, pieces)) if ended else length
        self._cut: CutReason | None = None
        self._news = asyncio.Event()
        self.kept_offset: int | None = None
        self.read_bytes = 0

    @property
    def length(self) -> int | None:
        return self._length

    @property
    def was_cut(self) -> CutReason | None:
        return self._cut

    def send(self, data: bytes) -> None:
        assert not self._ended
        self._pieces.append(data)
        self._news.set()

    def end(self) -> None:
        self._ended = True
        self._news.set()

    async def read(self) -> bytes:
        while True:
            if self._cut is not None:
                raise BodyCutError(self._cut)
            if self._pieces:
                data = self._pieces.popleft()
                self.read_bytes += len(data)
                return data
            if self._ended:
                return b""
            self._news.clear()
            await self._news.wait()

    def cut(self, reason: CutReason) -> None:
        if self._cut is None:
            self._cut = reason
        self._news.set()

    def kept(self, offset: int) -> None:
        assert self.kept_offset is None or offset >= self.kept_offset
        self.kept_offset = offset


class WebApp:
    """Answers callbacks as a test says; `script` is asked first, `answer` is what it says otherwise."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self.calls: list[tuple[float, str, Callback]] = []
        """Virtual time, type of the delivery, what came."""
        self.answer: Answer | tuple[int, bytes] = (200, b"done")
        self.script: deque[Answer | tuple[int, bytes]] = deque()
        self.takes_s = 0.0
        self.hold: asyncio.Event | None = None
        """While it is there and not set, calls are not answered."""

    async def call(self, callback: Callback, delivery_type: str) -> Answer:
        self.calls.append((self._clock.monotonic(), delivery_type, callback))
        if self.takes_s:
            await self._clock.sleep(self.takes_s)
        if self.hold is not None:
            await self.hold.wait()
        answer = self.script.popleft() if self.script else self.answer
        return answer if isinstance(answer, Answer) else parse_answer(delivery_type, *answer)

    @property
    def types(self) -> list[str]:
        return [delivery_type for _, delivery_type, _ in self.calls]

    def ids_of(self, delivery_type: str) -> list[str]:
        return [call.headers["webhook-id"] for _, kind, call in self.calls if kind == delivery_type]


class World:
    """One machine: a disk, and one run of the program at a time."""

    def __init__(
        self,
        *,
        seed: int = 0,
        options: EngineOptions | None = None,
        handover: HandoverOptions | None = None,
        upkeep_interval_s: float = 60.0,
        app: WebApp | None = None,
        volume: Callable[[], Any] | None = None,
    ) -> None:
        self.clock = VirtualClock(seed)
        self.disk = MemoryDisk(VOLUME_ID, seed)
        self.options = options or EngineOptions()
        self.handover_options = handover or HandoverOptions()
        self.upkeep_interval_s = upkeep_interval_s
        self.app = app or WebApp(self.clock)
        self._starts = 0
        self._open_volume = volume
        self.reports: list[AppendReport] = []

    # -- the process

    def start(self, *, upkeep: bool = True, handover: bool = True) -> None:
        """Begin a run of the program."""
        self._starts += 1
        self.clock = self._next_clock()
        self.volume = self._open_volume() if self._open_volume is not None else self.disk.open()
        identity = Identity("test", f"start-{self._starts}")
        self.registry = MemoryRegistry(identity)
        self.engine = Engine(
            Services(
                clock=self.clock,
                volume=self.volume,
                registry=self.registry,
                identity=identity,
                events=Events(),
                options=self.options,
                boot_id=self.volume.boot_id,
            )
        )
        self.upkeep = Upkeep(self.engine, interval_s=self.upkeep_interval_s)
        self.handover = Handover(self.engine, self.app, self.handover_options, Metrics(version="0", instance="test"))
        if handover:
            _ = self.clock.spawn(self.handover.run(), name="hand-over")
        if upkeep:
            _ = self.clock.spawn(self.upkeep.run(), name="upkeep")
        self.engine.state.ready()

    def _next_clock(self) -> VirtualClock:
        clock = VirtualClock(self.clock.random_bits(64))
        clock.jumped_s = self.clock.jumped_s
        return clock

    async def kill(self) -> None:
        """End the program as `kill -9` does: nothing of it is written any more."""
        self.disk.kill()
        await self.clock.end_tasks()

    async def lose_power(self) -> None:
        """End the program and the kernel, with what was not synced."""
        self.disk.lose_power()
        await self.clock.end_tasks()

    async def stop(self) -> None:
        """End the program as a signal does."""
        await self.engine.stop()
        await self.clock.end_tasks()
        await self.volume.close()

    async def restart(self, how: str = "kill", **kept: bool) -> None:
        """End the program by the method called *how*, and start it again."""
        await getattr(self, how)()
        self.start(**kept)

    # -- what web apps and clients do

    async def ticket(self, *, expires_in_s: float | None = None, key: str | None = None, **terms: Any) -> str:
        record, _ = await self.engine.create(new_terms(**terms), expires_in_s=expires_in_s, key=key)
        return record.upload_id

    async def begin(
        self,
        upload_id: str,
        length: int | None = None,
        *,
        body: Feed | None = None,
        **more: Any,
    ) -> Resource:
        command = Append(0, body.length) if body is not None else None
        return await self.engine.begin(upload_id, Creation(length, body=command, **more), body, self._report())

    async def append(
        self,
        upload_id: str,
        offset: int,
        body: Feed | bytes,
        *,
        part: str | None = None,
        length: int | None = None,
        checksum: Checksum | None = None,
    ) -> Resource:
        feed = Feed(body) if isinstance(body, bytes) else body
        wanted = Append(offset, feed.length, length=length, checksum=checksum)
        return await self.engine.append(upload_id, part, wanted, feed, self._report())

    def _report(self) -> AppendReport:
        self.reports.append(AppendReport())
        return self.reports[-1]

    def appending(self, upload_id: str, offset: int, body: Feed, **more: Any) -> asyncio.Task[Resource | Refusal]:
        """Append beside what else happens; the task's result is what came of it."""

        async def append() -> Resource | Refusal:
            try:
                return await self.append(upload_id, offset, body, **more)
            except Refusal as refusal:
                return refusal

        return asyncio.get_running_loop().create_task(append())

    async def head(self, upload_id: str, part: str | None = None) -> Resource:
        return await self.engine.head(upload_id, part)

    async def uploaded(self, data: bytes, **terms: Any) -> str:
        """Bring a whole file in; return the upload's id."""
        upload_id = await self.ticket(**terms)
        await self.begin(upload_id, len(data))
        await self.append(upload_id, 0, data)
        return upload_id

    # -- what is to be seen

    async def status(self, upload_id: str) -> Status:
        return (await self.engine.view(upload_id)).record.status

    async def view(self, upload_id: str) -> View:
        return await self.engine.view(upload_id)

    async def record(self, upload_id: str) -> Record:
        """Return the record as it is stored."""
        record = await self.volume.read(upload_id)
        assert record is not None
        return record

    def stored(self, upload_id: str) -> Record:
        """Return the record as it stands on the disk, whatever that does just now."""
        return codec.decode(bytes(self.disk.uploads.names[upload_id].names["record.json"].data))

    async def reached(self, upload_id: str, status: Status, *, within_s: float = 30 * DAY_S) -> Record:
        """Wait until the upload has *status*."""
        view = await self.engine.view(upload_id)
        deadline = self.clock.monotonic() + within_s
        while view.record.status is not status:
            left_s = deadline - self.clock.monotonic()
            assert left_s > 0, f"still {view.record.status}"
            view = await self.engine.wait(upload_id, left_s, lambda view: view.record.status)
        return view.record

    async def file(self, upload_id: str) -> bytes | None:
        """Return the joined file, or None."""
        stored = await self.volume.open_file(await self.record(upload_id))
        return None if stored is None else await stored.read(0, stored.size)

    def segments(self, upload_id: str) -> dict[str, int]:
        """Return name -> size of what lies beside the record."""
        folder = self.disk.uploads.names.get(upload_id)
        names = folder.names if folder is not None else {}
        return {name: len(file.data) for name, file in names.items() if name != "record.json"}


@contextlib.asynccontextmanager
async def running(**options: Any) -> AsyncIterator[World]:
    """Give a world whose program runs."""
    background = {name: options.pop(name) for name in ("upkeep", "handover_runs") if name in options}
    world = World(**options)
    world.start(upkeep=background.get("upkeep", True), handover=background.get("handover_runs", True))
    yield world
    await settle()


def new_terms(**changes: Any) -> Terms:
    return dataclasses.replace(Terms(APP_URL, "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"), **changes)


def sha1(data: bytes) -> Checksum:
    return Checksum("sha1", hashlib.sha1(data).digest())


class Refused:
    """``with refused(Code.X) as refusal:``, then look at `refusal.value`."""

    def __init__(self, *codes: Code) -> None:
        self._codes = codes
        self.value: Refusal = Refusal(Code.INTERNAL_ERROR, "nothing was refused")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if error is None:
            raise AssertionError(f"not refused: {[code.value for code in self._codes]}")
        if not isinstance(error, Refusal):
            return False
        assert error.code in self._codes, error
        self.value = error
        return True


refused = Refused


class CallCounter:
    """Disturbs the call number *fails_at*, counted from when it was put in place; counts calls by name."""

    def __init__(self, disk: MemoryDisk, fails_at: int | None = None, trouble: Trouble | None = None) -> None:
        self.made: list[str] = []
        self.names: Counter[str] = Counter()
        self._fails_at = fails_at
        self._trouble = trouble or Trouble()
        disk.trouble = self

    def __call__(self, name: str) -> Trouble | None:
        number = len(self.made)
        self.made.append(name)
        self.names[name] += 1
        return self._trouble if number == self._fails_at else None


__all__ = [
    "APP_URL", "DAY_S", "CallCounter", "Feed", "MemoryVolume", "Trouble", "WebApp", "World", "new_terms", "refused",
    "running", "sha1",
]  # fmt: skip
