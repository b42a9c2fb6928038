"""A fleet on virtual time: the product's own engine, registry, upkeep, hand-over and drain, several times over.

Only what they stand on is not real: the disk is in memory and breaks as disks
do, the network loses, repeats and delays, and processes are frozen and killed.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import random
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar, cast

from incomingd.config.redis_url import parse as parse_url
from incomingd.core.errors import Refusal
from incomingd.core.record import Record
from incomingd.core.ring import Instance
from incomingd.core.status import Status
from incomingd.core.tenure import Identity
from incomingd.daemon.fleet import PeerSide
from incomingd.drain import Drain
from incomingd.drain.drain import DrainOptions
from incomingd.engine.census import Census
from incomingd.engine.engine import Engine
from incomingd.engine.events import Events
from incomingd.engine.options import EngineOptions
from incomingd.engine.owned import Services
from incomingd.engine.upkeep import Upkeep
from incomingd.handover.handover import Handover, HandoverOptions
from incomingd.metrics import Metrics
from incomingd.registry.fleet import FleetRegistry
from incomingd.registry.memory import MemoryRegistry
from incomingd.registry.redis import RedisStore
from incomingd.registry.registry import AvailabilityChanged, Event, InvitationsWaiting, Registry
from incomingd.registry.store import Store
from incomingd.storage.memory import MemoryDisk
from incomingd.storage.memory_parts import Trouble
from incomingd.wire.callback import Answer, Callback, parse_answer
from tests.simulation.network import Network, Redis, SimPeers, SimStore
from tests.simulation.processes import HERE, FreezesHere, Gate, ProcessClock, outside
from tests.simulation.truth import BrokenError, Truth, bytes_of, stored, stored_on
from tests.simulation.wire import URL

T = TypeVar("T")

VOLUME_ID = "Volume000001"
"""That all share."""
ALL: Sequence[str] = ("ABC",)
EACH: Sequence[str] = ("A", "B", "C")
TWO_BESIDE: Sequence[Sequence[str]] = (("AB", "C"), ("A", "BC"))
"""Who share a volume: all of them, nobody, two beside a third."""
LEASE_S = 5.0
ANSWER_S = 15.0
"""So long a client waits for an answer."""


def volume_ids(volumes: Sequence[str]) -> dict[str, str]:
    """Return the id of each instance's volume.

    Args:
        volumes: for each volume the names, of one letter, of those who share it.
    """
    if len(volumes) == 1:
        return dict.fromkeys(volumes[0], VOLUME_ID)
    return {name: f"Volume{names[0]}00001" for names in volumes for name in names}


class NoAnswerError(Exception):
    """The connection has ended without an answer, or nobody took it."""


@dataclasses.dataclass
class Ambush:
    """A process is frozen when it makes the call *name* for the time number *count*."""

    name: str
    count: int
    late: bool
    """When the call is done, but before anybody hears of it."""
    for_s: float | None
    """Until it wakes; None: somebody wakes it."""


class WebApp:
    """Gets the files; the same for the whole fleet."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self.state = "done"
        """What it answers: ``done``, ``wait``, ``down``."""
        self.loses_answers = 0.0
        self.waiting: set[str] = set()
        """Uploads that it has to confirm."""

    async def call(self, process: Process, callback: Callback, delivery_type: str) -> Answer:
        fleet = self._fleet
        await asyncio.sleep(fleet.network.delay_s())
        upload_id = json.loads(callback.body)["data"]["id"]
        truth = fleet.truths.get(upload_id)
        if self.state == "down":
            return Answer("error", error="connecting: refused")
        if delivery_type == "upload.complete" and truth is not None:
            self._take(process, truth, callback.headers["webhook-id"])
        fleet.tell(process, f"web app hears {delivery_type} of {fleet.name_of(upload_id)}: {self.state}")
        if fleet.network.happens(self.loses_answers):
            return Answer("error", error="the connection ended")
        if delivery_type == "upload.complete" and self.state == "wait":
            self.waiting.add(upload_id)
        return parse_answer(delivery_type, 200, self.state.encode())

    def _take(self, process: Process, truth: Truth, webhook_id: str) -> None:
        truth.webhooks.add(webhook_id)
        if len(truth.webhooks) > 1:
            raise BrokenError(f"{truth.name}: handed over under several webhook ids")
        if truth.arrived is not None:
            return
        record = stored_on(process.volume.disk, truth.upload_id)
        if record is None or record.status.final:
            # A callback that comes late; what it tells of has ended meanwhile.
            return
        file = process.volume.disk.files.names.get(truth.upload_id)
        if file is None:
            raise BrokenError(f"{truth.name}: handed over, and there is no file")
        truth.check_bytes(beginning_of(record), bytes(file.data))
        if len(file.data) != record.content.length:
            raise BrokenError(f"{truth.name}: {len(file.data)} bytes handed over, not {record.content.length}")
        truth.arrived = bytes(file.data)
        wanted = hashlib.sha256(truth.arrived).hexdigest() if record.terms.digest is not None else None
        if record.digest != wanted:
            raise BrokenError(f"{truth.name}: handed over with another file's digest, or without its own")


class Process:
    """One run of one instance."""

    def __init__(self, fleet: Fleet, name: str, run: int) -> None:
        self.fleet = fleet
        self.name = name
        self.run = f"{name}{run}"
        self.gate = Gate(self.run)
        self.clock = ProcessClock(self.gate, fleet.chance.getrandbits(64))
        self.identity = Identity(name, f"{run}f{name.lower()}", f"{name}.example:1")
        self.ambush: Ambush | None = None
        self.redis: RedisStore | None = None
        self.sick: Callable[[str], Trouble | None] | None = None
        self.connections: set[asyncio.Future[Any]] = set()
        self.ready = False
        self.alive = True
        disk = fleet.disk_of(name)
        host = name if disk.network else ""
        self.volume = disk.open(shared=not fleet.alone, start_id=self.identity.start_id, host=host)
        self.volume.trouble = self._trouble
        self.gate.context.run(self._build)

    def _build(self) -> None:
        fleet = self.fleet
        volumes = frozenset({self.volume.id}) | self.volume.heir_of
        instance = Instance(self.identity, started_at=self.clock.now(), volumes=volumes, version="1.0.0")
        self.registry = self._registry(instance)
        self.engine = Engine(
            Services(
                clock=self.clock,
                volume=self.volume,
                registry=self.registry,
                identity=self.identity,
                events=Events(),
                options=fleet.options,
                boot_id=self.volume.boot_id,
                peers=SimPeers(fleet, self),
            )
        )
        self.upkeep = Upkeep(self.engine, interval_s=10.0)
        self.handover = Handover(self.engine, self, fleet.handover_options, Metrics(version="0", instance=self.name))
        self._taking = False
        _ = self.registry.watch(self._heard)
        self.census = Census(self.engine)
        self.drain = Drain(self.engine, DrainOptions(), callbacks_open=lambda: self.handover.under_way)
        self.peer_side = PeerSide(self.engine, self._status)
        _ = self.spawn(self._start(), "start")

    def _registry(self, instance: Instance) -> Registry:
        fleet = self.fleet
        if fleet.alone:
            return MemoryRegistry(instance.identity)
        store: Store = SimStore(fleet.redis, self)
        if fleet.redis.server is not None:
            store = self.redis = RedisStore(parse_url(URL), self.clock)
        return FleetRegistry(store, self.clock, instance, lease_s=fleet.lease_s)

    async def _status(self) -> dict[str, Any]:
        return {"instance": self.name, "state": self.engine.state.phase.value}

    def _heard(self, event: Event) -> None:
        if isinstance(event, AvailabilityChanged):
            self.engine.state.registry_away = event.trouble is not None
        elif isinstance(event, InvitationsWaiting) and not self._taking:
            self._taking = True
            _ = self.clock.spawn(self._take(), name="invitations")

    async def _take(self) -> None:
        try:
            await self.engine.take_invited()
        finally:
            self._taking = False

    async def _start(self) -> None:
        await self.registry.start()
        _ = self.clock.spawn(self.handover.run(), name="hand-over")
        _ = self.clock.spawn(self.upkeep.run(), name="upkeep")
        _ = self.clock.spawn(self.census.run(), name="census")
        _ = self.clock.spawn(self.engine.inheriting.run(), name="heirdoms")
        if self.volume.retirement is None:
            self.engine.state.ready()
        else:
            self.drain.resume_retirement()
        self.ready = True
        self.fleet.tell(self, "ready")

    async def call(self, callback: Callback, delivery_type: str) -> Answer:
        """Call the web app; see :class:`incomingd.handover.caller.Caller`."""
        return await self.fleet.app.call(self, callback, delivery_type)

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run *work* in this process."""
        return self.clock.spawn(work, name=f"{self.run} {name}")

    # -- what befalls it

    def _trouble(self, name: str) -> Trouble | None:
        fleet, ambush = self.fleet, self.ambush
        if ambush is not None and ambush.name == name:
            ambush.count -= 1
            if ambush.count <= 0:
                self.ambush = None
                fleet.tell(self, f"frozen {'after' if ambush.late else 'at'} {name}")
                here = FreezesHere(lambda: self.freeze(ambush.for_s))
                return Trouble(error=None, hold=cast("asyncio.Future[None]", here), late=ambush.late)
        if self.sick is not None and (trouble := self.sick(name)) is not None:
            fleet.tell(self, f"disk: {name} fails{' although done' if trouble.done else ''}")
            return trouble
        if fleet.disk_delays and fleet.chance.random() < fleet.disk_delays:
            hold: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            outside(fleet.chance.expovariate(1 / fleet.disk_slow_s), _release, hold)
            return Trouble(error=None, hold=hold, late=fleet.chance.random() < 0.5)
        return None

    def freeze(self, for_s: float | None = None) -> None:
        """Stop it as a whole, as SIGSTOP does."""
        self.gate.freeze()
        if for_s is not None:
            outside(for_s, self.thaw)

    def thaw(self) -> None:
        """Let it go on."""
        if self.gate.frozen and self.alive:
            self.fleet.tell(self, "thawed")
            self.gate.thaw()

    def kill(self) -> None:
        """End it as SIGKILL does."""
        self.alive = self.ready = False
        self.volume.disk.kill(self.volume)
        self._end()

    def _end(self) -> None:
        self.alive = self.ready = False
        self.gate.over = True
        for connection in list(self.connections):
            _release(connection)
        if self.fleet.running.get(self.name) is self:
            del self.fleet.running[self.name]

    async def stop(self) -> None:
        """End it as SIGTERM does."""
        self.drain.start()
        await self.drain.wait(20.0)
        self.ready = False
        await self.engine.stop()
        await self.registry.close()
        await self.volume.close()
        self._end()
        self.fleet.tell(self, "stopped")


def _release(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_result(None)


def beginning_of(record: Record) -> tuple[int, int]:
    """Return which beginning of the upload the record is of."""
    return (record.beginnings, int(record.content.metadata or 0))


class Fleet:
    """Everything; made anew for every run."""

    def __init__(self, seed: int, *, network_disk: bool = False, volumes: Sequence[str] = ALL) -> None:
        self.seed = seed
        self.chance = random.Random(seed)
        self.lines: list[str] = []
        self.network = Network(random.Random(self.chance.getrandbits(64)))
        self.redis = Redis(self, random.Random(self.chance.getrandbits(64)))
        self.names = list("".join(volumes))
        self.alone = len(self.names) == 1
        """One instance without a registry, as it is set up by default."""
        self.homes = volume_ids(volumes)
        """Name of an instance -> id of its volume."""
        ids = dict.fromkeys(self.homes.values())
        self.disks = {each: MemoryDisk(each, self.chance.getrandbits(32), network=network_disk) for each in ids}
        """By the ids of their volumes."""
        self.lease_s = LEASE_S
        self.options = EngineOptions(hold_s=10.0, lease_s=LEASE_S, idle_s=8.0, expires_in_s=7 * 86400.0)
        self.handover_options = HandoverOptions(confirm_timeout_s=1e9, backoff_max_s=10.0)
        self.disk_delays = 0.0
        self.disk_slow_s = 0.01
        self.app = WebApp(self)
        self.running: dict[str, Process] = {}
        self.all: list[Process] = []
        self.truths: dict[str, Truth] = {}
        self.jumps: dict[str, float] = {}
        self.furthest_s = 0.0
        """How far ahead a wall clock was at most."""
        self.broken: list[BaseException] = []

    # -- the story

    def tell(self, who: Process | None, what: str) -> None:
        """Add a line to the story."""
        at = asyncio.get_running_loop().time()
        self.lines.append(f"{at:9.3f}  {who.run if who else '--':4} {what}")

    def log(self, _: object, level: str, event: dict[str, Any]) -> dict[str, Any]:
        """Take what the product logs into the story (a processor of structlog)."""
        gate = HERE.get()
        fields = " ".join(f"{k}={self._short(v)}" for k, v in event.items() if k not in ("event", "timestamp"))
        at = asyncio.get_running_loop().time()
        self.lines.append(f"{at:9.3f}  {gate.name if gate else '--':4}     {event['event']} {fields}")
        if event["event"] == "drain.ended":
            self._check_drained(next(each for each in self.all if each.gate is gate))
        return event

    def _check_drained(self, process: Process) -> None:
        """Whoever is drained has given away every upload and every byte, where anybody takes them."""
        # A lease of a former run of the same instance may still hold; nobody has to take anything there.
        others = [each for each in process.registry.instances if each.identity.name != process.name]
        own = process.volume.id
        # What somebody else reaches may stay where it is.
        alone_there = not any(own in each.volumes for each in others)
        if not self.private or not alone_there or not any(each.takes() for each in others):
            return
        for truth in self.truths.values():
            found = stored(self.disks.values(), truth.upload_id)
            if found is None or found[0].status.final:
                continue
            record, disk = found
            contents = [record.content, *(content for _, content in record.parts)]
            needed = any(r.volume_id == own and (r.stop is None or r.stop > r.start) for c in contents for r in c.map)
            if disk.volume_id == own or needed:
                self.broken.append(BrokenError(f"{process.run} is drained, and {truth.name} still needs it"))

    def _short(self, value: object) -> str:
        return self.name_of(value) if isinstance(value, str) else str(value)

    def name_of(self, upload_id: str) -> str:
        """Return what the story calls an upload."""
        truth = self.truths.get(upload_id)
        return truth.name if truth is not None else upload_id

    # -- processes

    def start(self, name: str) -> Process:
        """Begin a run of an instance, unless one goes on."""
        if name in self.running:
            return self.running[name]
        process = Process(self, name, 1 + sum(1 for each in self.all if each.name == name))
        process.clock.jumped_s = self.jumps.get(name, 0.0)
        self.running[name] = process
        self.all.append(process)
        self.tell(process, "starts")
        return process

    # -- disks

    @property
    def private(self) -> bool:
        """Whether there is a volume that not all of them reach."""
        return len(self.disks) > 1

    @property
    def disk(self) -> MemoryDisk:
        """That all share."""
        return self.disks[VOLUME_ID]

    def separate(self, volumes: Sequence[str]) -> None:
        """Give the instances these volumes, before the first of them starts."""
        assert not self.all
        self.homes = volume_ids(volumes)
        self.disks = {each: MemoryDisk(each, number) for number, each in enumerate(dict.fromkeys(self.homes.values()))}

    def disk_of(self, name: str) -> MemoryDisk:
        """Return the disk that an instance uses."""
        return self.disks[self.homes.get(name, VOLUME_ID)]

    def stored(self, upload_id: str) -> Record | None:
        """Return the last record of an upload."""
        found = stored(self.disks.values(), upload_id)
        return found[0] if found is not None else None

    def bytes_of(self, upload_id: str) -> bytes:
        """Return the bytes that its last record names."""
        found = stored(self.disks.values(), upload_id)
        return bytes_of(self.disks, found[1], found[0]) if found is not None else b""

    def file_of(self, upload_id: str) -> bytes | None:
        """Return the joined file, where the last record lies."""
        found = stored(self.disks.values(), upload_id)
        file = found[1].files.names.get(upload_id) if found is not None else None
        return bytes(file.data) if file is not None else None

    def jump(self, name: str, by_s: float) -> None:
        """Set the wall clock of an instance's host."""
        self.jumps[name] = self.jumps.get(name, 0.0) + by_s
        self.furthest_s = max(self.furthest_s, self.jumps[name])
        if name in self.running:
            self.running[name].clock.jumped_s = self.jumps[name]

    def takers(self) -> list[Process]:
        """Return those to whom a balancer sends requests."""
        return [each for each in self.running.values() if each.ready and not each.engine.state.stopping]

    # -- requests

    async def request(self, target: Process, work: Callable[[Process], Awaitable[T]], *, lost: float = 0.0) -> T:
        """Have a request served; its answer may be lost.

        Raises:
            NoAnswerError: nobody knows what came of it.
            Refusal: that of the instance.
        """
        answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        target.connections.add(answered)

        async def serve() -> None:
            try:
                result: Any = await work(target)
            except Refusal as refusal:
                result = refusal
            except BrokenError as error:
                self.broken.append(error)
                return
            if not self.network.happens(lost):
                outside(self.network.delay_s(), _answer, answered, result)

        if not target.alive:
            raise NoAnswerError
        outside(self.network.delay_s(), lambda: target.alive and target.spawn(serve(), "request"))
        await asyncio.wait([answered], timeout=ANSWER_S)
        target.connections.discard(answered)
        if not answered.done() or answered.result() is None:
            raise NoAnswerError
        result = answered.result()[0]
        if isinstance(result, Refusal):
            raise result
        return cast("T", result)

    # -- what an answer promises

    def before(self, truth: Truth) -> tuple[tuple[int, int], int, int]:
        """Return what every later answer must not fall behind: beginning, its offset, epoch."""
        promised = truth.promises.get(truth.beginning)
        return truth.beginning, promised.offset if promised is not None else 0, truth.epoch

    def answered(
        self, process: Process, truth: Truth, offset: int | None, floor: tuple[tuple[int, int], int, int]
    ) -> None:
        """Check an answer at the instant at which it is made, and note what it promises."""
        live = process.engine.keeper.find(truth.upload_id)
        record = self.stored(truth.upload_id)
        if offset is None or record is None or record.status.gone:
            return
        if live is None or live.superseded or live.record.status is not Status.OPEN:
            if record.status.whole:
                self._check_promise(truth, beginning_of(record), record, offset, floor)
            return
        epoch = self.owns(process, truth)
        if epoch < floor[2]:
            raise BrokenError(f"{truth.name}: {process.run} answers as owner {epoch}, after owner {floor[2]} has")
        truth.epoch = max(truth.epoch, epoch)
        if record.epoch < epoch:
            raise BrokenError(f"{truth.name}: an answer of owner {epoch}, who is on no record")
        self._check_promise(truth, beginning_of(live.record), record, offset, floor)

    def owns(self, process: Process, truth: Truth) -> int:
        """Check that nobody else answers under the same tenure; return its epoch."""
        live = process.engine.keeper.find(truth.upload_id)
        if live is None or live.superseded or live.record.status is not Status.OPEN:
            return 0
        epoch = live.record.epoch
        whose = truth.answered.setdefault(epoch, process.run)
        if whose != process.run:
            raise BrokenError(f"{truth.name}: {whose} and {process.run} have both answered as owner {epoch}")
        return epoch

    def _check_promise(
        self,
        truth: Truth,
        beginning: tuple[int, int],
        record: Record,
        offset: int,
        floor: tuple[tuple[int, int], int, int],
    ) -> None:
        if beginning < floor[0]:
            raise BrokenError(f"{truth.name}: beginning {floor[0]} is forgotten, {beginning} is back")
        if beginning == floor[0] and offset < floor[1]:
            raise BrokenError(f"{truth.name}: the acknowledged offset fell from {floor[1]} to {offset}")
        if offset > truth.sent:
            raise BrokenError(f"{truth.name}: {offset} is told, and so much was never sent")
        if record.status.final:
            return
        data = self.bytes_of(truth.upload_id) if beginning_of(record) == beginning else None
        truth.promise(beginning, offset, data)

    # -- the end

    def clear_away(self) -> None:
        """Let what is left of all processes end."""
        for process in self.all:
            process.gate.clear_away()

    def forget_connections(self) -> None:
        """Let go of what killed processes had open; a system does that for them."""
        if self.redis.server is not None:
            self.redis.server.forget()
        for process in self.all:
            if process.redis is not None:
                pool: Any = process.redis._redis
                for connection in (
                    *pool.connection_pool._available_connections,
                    *pool.connection_pool._in_use_connections,
                ):
                    connection._reader = connection._writer = None


def _answer(answered: asyncio.Future[Any], result: object) -> None:
    if not answered.done():
        answered.set_result((result,))
