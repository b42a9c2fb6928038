"""One run: a fleet, its clients, what befalls it, and what must hold when it is over."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import structlog

from incomingd.core.errors import Refusal
from incomingd.core.status import Status
from incomingd.engine.state import Phase
from incomingd.log import logger
from tests.simulation.clients import Client, make_ticket
from tests.simulation.faults import Faults
from tests.simulation.fleet import ALL, EACH, TWO_BESIDE, Fleet, NoAnswerError, Process, beginning_of
from tests.simulation.onlookers import Onlookers
from tests.simulation.parallel import ParallelClient
from tests.simulation.processes import OUTSIDE, ProcessLoop, outside_task
from tests.simulation.truth import BrokenError, Truth
from tests.simulation.wire import Server, connecting

LINES_SHOWN = 400
WIRE = 0.15
ALONE = 0.08
PRIVATE = 0.35
"""Share of fleets in which each instance has a volume of its own, where the profile does not say so."""
BESIDE = 0.2
"""Share of fleets in which two share a volume, and the third has its own."""


@dataclass(frozen=True)
class Profile:
    """What a run is made of; what is left open is chosen by its seed."""

    kinds: Sequence[str] | None = None
    """Of faults; None: some of all."""
    every_s: float | None = None
    """Between two of them, on average."""
    lasts_s: float = 30.0
    uploads: int | None = None
    tabs: int | None = None
    network_disk: bool | None = None
    private: bool | None = None
    """A volume for each instance; else one for all."""
    beside: bool | None = None
    """Of private ones: two instances share one."""
    cancels: float = 0.03
    """How often somebody cancels, in each second."""
    expires: float = 0.15
    """Share of tickets with little time."""
    stays_frozen: bool | None = None
    deferred: bool | None = None
    alone: bool | None = None
    """One instance, without a registry."""
    wire: float | None = None
    """Share of fleets that speak to Redis over connections, with the product's own store."""
    parallel: float = 0.15
    """Share of uploads that are sent in parts."""
    looks: float = 0.3
    """How often somebody looks, lists, changes or downloads, in each second."""


class Story(AssertionError):
    """What led to a broken promise."""


def run(seed: int, profile: Profile | None = None) -> Fleet:
    """Run the fleet that *seed* makes.

    Raises:
        Story: a promise was broken.
    """
    loop = ProcessLoop()
    profile = profile or Profile()
    chance = random.Random(seed)
    network_disk = profile.network_disk if profile.network_disk is not None else chance.random() < 0.3
    fleet = Fleet(seed, network_disk=network_disk, volumes=_volumes(profile, chance))
    if chance.random() < (WIRE if profile.wire is None else profile.wire):
        fleet.redis.server = Server(fleet.redis)
        loop.connect = connecting(fleet.redis.server)
    errors: list[BaseException] = []
    with logging_to(fleet):
        task = loop.create_task(_Run(fleet, profile, chance).run(), context=OUTSIDE.copy())
        try:
            loop.run_until_complete(task)
        except AssertionError as broken:
            errors.append(broken)
        fleet.clear_away()
        found = [each.get("exception") or AssertionError(each.get("message")) for each in loop.complaints]
        loop.complaints.clear()
        loop.finish()
        fleet.forget_connections()
    errors = [*fleet.broken, *found, *errors]
    if errors:
        story = "\n".join(fleet.lines[-LINES_SHOWN:])
        raise Story(f"{errors[0]!r}\n\n{story}\n\nagain: INCOMING_SIM_SEED={seed}") from errors[0]
    return fleet


def _volumes(profile: Profile, chance: random.Random) -> Sequence[str]:
    """Choose who shares a volume with whom, as far as *profile* leaves that open."""
    private, beside = profile.private, bool(profile.beside)
    if private is None:
        drawn = chance.random()
        private = drawn < PRIVATE + BESIDE
        beside = drawn >= PRIVATE
    if private:
        return chance.choice(TWO_BESIDE) if beside else EACH
    alone = chance.random() < ALONE if profile.alone is None else profile.alone
    return ("A",) if alone else ALL


@contextmanager
def logging_to(fleet: Fleet) -> Iterator[None]:
    def drop(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        fleet.log(_, __, dict(event))
        raise structlog.DropEvent

    structlog.configure(processors=[drop])
    logger.set_strict(True)
    try:
        yield
    finally:
        logger.set_strict(False)
        structlog.reset_defaults()


class _Run:
    def __init__(self, fleet: Fleet, profile: Profile, chance: random.Random) -> None:
        self.fleet = fleet
        self.profile = profile
        self.chance = chance
        self.clients: list[Client] = []
        self.faults = Faults(fleet, random.Random(chance.getrandbits(64)))
        self.onlookers = Onlookers(fleet, random.Random(chance.getrandbits(64)))
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        fleet = self.fleet
        for name in fleet.names:
            fleet.start(name)
        await asyncio.sleep(self.chance.choice([0.5, 7.0]))
        self._tasks.append(outside_task(self._make_uploads(), "uploads"))
        self._tasks.append(outside_task(self._disturb(), "faults"))
        self._tasks.append(outside_task(self._meddle(), "web app"))
        await self._for(self.profile.lasts_s)
        await self._heal()
        await self._finish()
        await self._check_fleet()

    async def _for(self, duration_s: float) -> None:
        """Let time pass, as long as nothing is broken."""
        loop = asyncio.get_running_loop()
        until = loop.time() + duration_s
        while loop.time() < until:
            self._check()
            await asyncio.sleep(min(1.0, until - loop.time()))
        self._check()

    def _check(self) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, ProcessLoop)
        for task in self._tasks:
            if task.done() and not task.cancelled() and task.exception() is not None:
                raise BrokenError("a part of the simulation failed") from task.exception()
        if self.fleet.broken or loop.complaints:
            raise BrokenError

    # -- what happens

    async def _make_uploads(self) -> None:
        fleet, chance = self.fleet, self.chance
        for number in range(1, 1 + (self.profile.uploads or chance.randint(2, 4))):
            expires_in_s = chance.uniform(5, 40) if chance.random() < self.profile.expires else None
            truth, seed = None, chance.getrandbits(32)
            while truth is None:
                able = fleet.takers()
                if able:
                    truth = await make_ticket(fleet, chance.choice(able), number, expires_in_s=expires_in_s, seed=seed)
                if truth is None:
                    await asyncio.sleep(0.5)
            if self.profile.deferred is not None:
                truth.deferred = self.profile.deferred
            truth.parallel = chance.random() < self.profile.parallel and not truth.deferred
            kind = ParallelClient if truth.parallel else Client
            client = kind(fleet, truth, chance.getrandbits(32))
            client.lost = chance.choice([0.0, 0.1, 0.3])
            self.clients.append(client)
            tabs = self.profile.tabs or chance.choice([1, 1, 2])
            self._tasks.append(outside_task(client.live(tabs=tabs), f"client of {truth.name}"))
            await asyncio.sleep(chance.expovariate(0.5))

    async def _disturb(self) -> None:
        chance, kinds = self.chance, self.faults.kinds()
        names = list(self.profile.kinds or chance.sample(sorted(kinds), chance.randint(3, 8)))
        every_s = self.profile.every_s or chance.choice([0.7, 2.0, 5.0])
        self.fleet.tell(None, f"what befalls the fleet: {', '.join(names)}, every {every_s} s")
        while True:
            await asyncio.sleep(chance.expovariate(1 / every_s))
            kinds[chance.choice(names)]()

    async def _meddle(self) -> None:
        """Cancel, confirm and look, as web apps and operators do."""
        fleet, chance = self.fleet, self.chance
        while True:
            await asyncio.sleep(1.0)
            able = fleet.takers()
            if not able:
                continue
            target = chance.choice(able)
            if chance.random() < self.profile.cancels and self.clients:
                client = chance.choice(self.clients)
                if chance.random() < 0.5:
                    await client.terminate(target)
                else:
                    await self._act(target, client.truth, "cancel")
            if chance.random() < self.profile.looks:
                self._tasks.append(outside_task(self.onlookers.act(target), "onlooker"))
            for upload_id in sorted(fleet.app.waiting):
                if chance.random() < 0.3:
                    await self._confirm(target, fleet.truths[upload_id])

    async def _act(self, target: Process, truth: Truth, what: str) -> None:
        truth.may_end.add("cancelled")

        async def work(process: Process) -> None:
            await process.engine.cancel(truth.upload_id, "the app says so")
            fleet.tell(process, f"{what} {truth.name}: done")
            truth.may_end.add("ended")

        fleet = self.fleet
        with suppress(NoAnswerError, Refusal):
            await fleet.request(target, work)

    async def _confirm(self, target: Process, truth: Truth) -> None:
        fleet = self.fleet

        async def work(process: Process) -> None:
            await process.engine.confirm(truth.upload_id, done=True, message=None, client_data=None)
            fleet.tell(process, f"confirm {truth.name}: done")

        with suppress(NoAnswerError, Refusal):
            await fleet.request(target, work)
            fleet.app.waiting.discard(truth.upload_id)

    # -- the end

    async def _heal(self) -> None:
        fleet = self.fleet
        for task in self._tasks:
            _ = task.cancel()
        self._tasks.clear()
        self.faults.heal()
        fleet.tell(None, "nothing is disturbed any more")
        stays = self.profile.stays_frozen if self.profile.stays_frozen is not None else self.chance.random() < 0.4
        # What lies with it alone is out of reach then.
        stays = stays and not (fleet.private or fleet.alone)
        left = [each for each in fleet.running.values() if each.gate.frozen] if stays else []
        for process in left:
            fleet.tell(process, "stays frozen")
            # It is no use to anybody: whoever else has the name is another process.
            del fleet.running[process.name]
            process.alive = False
        for name in fleet.names:
            if name in fleet.running:
                fleet.running[name].thaw()
        self.left_frozen = left
        await self._for(0.5)
        for name in fleet.names[: 2 if left else None]:
            fleet.start(name)
        if not any(not each.engine.state.draining for each in fleet.takers()):
            self.faults.undrain()
        await self._for(1.0)
        # What was set going before must not disturb what comes now.
        await self._for(0.0)
        self.faults.heal()

    async def _finish(self) -> None:
        fleet = self.fleet
        finishing = [outside_task(client.finish(120.0), client.truth.name) for client in self.clients]
        self._tasks += finishing
        loop = asyncio.get_running_loop()
        deadline = loop.time() + 150.0
        while not all(task.done() for task in finishing) and loop.time() < deadline:
            self._check_causes(finishing)
            self.faults.heal()
            await self._for(1.0)
        self._check_causes(finishing)
        deadline = loop.time() + 200.0
        while unfinished := [each for each in fleet.truths.values() if not self._final(each)]:
            if loop.time() > deadline:
                statuses = [f"{each.name}: {self._status(each)}" for each in unfinished]
                raise BrokenError(f"not handed over, although nothing is disturbed any more: {statuses}")
            for truth in unfinished:
                if (able := fleet.takers()) and truth.upload_id in fleet.app.waiting:
                    await self._confirm(self.chance.choice(able), truth)
            self.faults.heal()
            await self._for(1.0)
        for process in self.left_frozen:
            process.alive = True
            process.thaw()
        await self._for(40.0)
        for truth in fleet.truths.values():
            self._check_upload(truth)

    def _check_causes(self, tasks: list[asyncio.Task[None]]) -> None:
        for task in tasks:
            if task.done() and (error := task.exception()) is not None:
                raise error

    def _status(self, truth: Truth) -> str:
        record = self.fleet.stored(truth.upload_id)
        return record.status.value if record is not None else "gone"

    def _final(self, truth: Truth) -> bool:
        record = self.fleet.stored(truth.upload_id)
        return record is None or record.status.final

    def _check_upload(self, truth: Truth) -> None:
        fleet = self.fleet
        record = fleet.stored(truth.upload_id)
        if record is None:
            raise BrokenError(f"{truth.name}: nothing is left of it")
        status = record.status.value
        if record.status is not Status.FINISHED:
            if status not in truth.may_end:
                raise BrokenError(f"{truth.name}: {status}, and nobody has asked for that: {record.failure}")
            return
        if truth.arrived is None:
            raise BrokenError(f"{truth.name}: finished, and no web app has it")
        if record.content.length != len(truth.arrived):
            raise BrokenError(f"{truth.name}: {record.content.length} bytes are told, {len(truth.arrived)} came")
        truth.check_bytes(beginning_of(record), truth.arrived)
        if truth.keeps and fleet.file_of(truth.upload_id) != truth.arrived:
            raise BrokenError(f"{truth.name}: the file that was kept is not the one that was handed over")

    async def _check_fleet(self) -> None:
        """Everybody sees everybody; what is owned is published; who drains is empty."""
        fleet = self.fleet
        running = list(fleet.running.values())
        for process in running:
            seen = {each.identity.name for each in process.registry.instances}
            if missing := {each.name for each in running} - seen:
                raise BrokenError(f"{process.run} does not see {sorted(missing)}")
            self._check_published(process)
            if process.engine.state.draining and process.engine.state.phase is not Phase.DRAINED:
                raise BrokenError(f"{process.run} drains, and does not come to an end: {process.drain.progress}")

    def _check_published(self, process: Process) -> None:
        fleet = self.fleet
        if fleet.redis.forged or fleet.alone:
            # What stands there with a higher number is left there.
            return
        entries = fleet.redis.owners()
        for upload in process.engine.live:
            lasts = asyncio.get_running_loop().time() - upload.used_at > 5.0
            if upload.superseded or upload.record.status.final or not lasts:
                continue
            if entries.get(upload.id) != process.identity.start_id:
                raise BrokenError(f"{process.run} owns {fleet.name_of(upload.id)}, and the registry does not know it")
