"""An instance goes for good while calls get lost and processes die; whoever is left knows all that was born there."""

from __future__ import annotations

import asyncio
import os
import random

import pytest

from incomingd.core import ids
from incomingd.core.commands import Append, Creation, Resource
from incomingd.core.errors import Code, Refusal
from incomingd.core.status import Status
from incomingd.drain.retirement import Stage
from incomingd.engine.appending import AppendReport
from incomingd.engine.engine import View
from incomingd.storage.volume import VolumeRetiredError
from tests.engine.world import Feed, new_terms
from tests.simulation.fleet import EACH, Fleet, NoAnswerError, Process
from tests.simulation.processes import OUTSIDE, ProcessLoop
from tests.simulation.story import logging_to

UPLOADS = 9
PATIENCE_S = 600.0

Told = tuple[Status, int]


class _Run:
    """One fleet of three, each with a volume of its own, of which A goes for good."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.fleet = Fleet(seed, volumes=EACH)
        self.known: dict[str, Told] = {}
        """What each upload has to be told as, by its id."""

    async def run(self) -> None:
        fleet, chance = self.fleet, self.chance
        for name in fleet.names:
            fleet.start(name)
        await asyncio.sleep(fleet.lease_s + 2)
        for _ in range(UPLOADS):
            await self._make(fleet.running["A"])
        await asyncio.sleep(chance.uniform(0.0, 20.0))
        fleet.network.lost, fleet.network.twice, fleet.network.late = chance.choice([0.0, 0.1]), 0.1, 0.1
        dies = [(chance.uniform(0.0, 12.0), chance.choice("ABC")) for _ in range(chance.randrange(4))]
        began = asyncio.get_running_loop().time()
        for at_s, name in sorted(dies):
            await self._retire()
            await asyncio.sleep(max(began + at_s - asyncio.get_running_loop().time(), 0.0))
            if name in fleet.running:
                fleet.running[name].kill()
            await asyncio.sleep(chance.uniform(0.0, 8.0))
            self._start_all()
        fleet.network.heal()
        deadline = asyncio.get_running_loop().time() + PATIENCE_S
        while not self._retired():
            assert asyncio.get_running_loop().time() < deadline, "it does not retire"
            await self._retire()
            await asyncio.sleep(5.0)
        if "A" in fleet.running:
            fleet.running["A"].kill()
        heirs = [each for each, disk in fleet.disks.items() if disk.heir_of]
        assert heirs
        if chance.random() < 0.5:
            fleet.running[heirs[0][6]].kill()
        self._start_all()
        fleet.redis.store.wipe()
        await asyncio.sleep(fleet.lease_s * 3)
        await self._check()

    async def _make(self, process: Process) -> None:
        """Make an upload at *process*, bring it somewhere."""
        kind = self.chance.choice(["untouched", "open", "moved", "finished", "cancelled"])
        record, _ = await process.engine.create(new_terms(), expires_in_s=86400.0)
        upload_id = record.upload_id
        self.known[upload_id] = (Status.OPEN, 0)
        if kind == "cancelled":
            await self.fleet.request(process, lambda it: it.engine.cancel(upload_id, ""))
            self.known[upload_id] = (Status.CANCELLED, 0)
        if kind not in ("open", "moved", "finished"):
            return
        length = 3 if kind == "finished" else 5
        at = self.fleet.running[self.chance.choice("BC")] if kind == "moved" else process

        async def send(it: Process) -> None:
            await it.engine.begin(upload_id, Creation(length), None, AppendReport())
            await it.engine.append(upload_id, None, Append(0, 3), Feed(b"abc"), AppendReport())

        await self.fleet.request(at, send)
        self.known[upload_id] = (Status.FINISHED, 3) if kind == "finished" else (Status.OPEN, 3)
        while kind == "finished" and (await self._view(process, upload_id)).record.status is not Status.FINISHED:
            await asyncio.sleep(0.5)

    async def _view(self, process: Process, upload_id: str) -> View:
        return await self.fleet.request(process, lambda it: it.engine.view(upload_id))

    async def _head(self, process: Process, upload_id: str) -> Resource:
        return await self.fleet.request(process, lambda it: it.engine.head(upload_id, None))

    async def _retire(self) -> None:
        process = self.fleet.running.get("A")
        if process is None:
            return
        try:
            await self.fleet.request(process, lambda it: it.drain.retire())
        except Refusal as refusal:
            if refusal.code is not Code.NO_HEIR:
                raise
        except NoAnswerError:
            assert not process.alive

    def _retired(self) -> bool:
        retirement = self.fleet.disks["VolumeA00001"].retirement
        process = self.fleet.running.get("A")
        settled = retirement is not None and retirement.settled
        if settled and process is not None and process.engine.state.phase.value == "drained":
            found = process.drain.progress.retirement
            assert found is not None
            assert found["stage"] == Stage.DONE.value
        return settled

    def _start_all(self) -> None:
        for name in self.fleet.names:
            try:
                self.fleet.start(name)
            except VolumeRetiredError:
                assert self._retired()

    async def _check(self) -> None:
        left = [self.fleet.running[name] for name in "BC"]
        unborn = ids.upload_id(self.chance.getrandbits(300), "VolumeA00001")
        for process in left:
            for upload_id, told in self.known.items():
                view = await self._view(process, upload_id)
                assert (view.record.status, view.offset) == told, upload_id
            with pytest.raises(Refusal) as refused:
                await self._view(process, unborn)
            assert refused.value.code is Code.UPLOAD_UNKNOWN
        # Each one is somebody's, and goes on.
        for upload_id, (status, offset) in self.known.items():
            if status is Status.OPEN:
                process = self.chance.choice(left)
                found = await self._head(process, upload_id)
                assert found.offset == (offset or found.offset)


def run(seed: int) -> None:
    loop = ProcessLoop()
    this = _Run(seed)
    with logging_to(this.fleet):
        task = loop.create_task(this.run(), context=OUTSIDE.copy())
        try:
            loop.run_until_complete(task)
        except (AssertionError, Refusal, NoAnswerError) as broken:
            story = "\n".join(this.fleet.lines[-400:])
            raise AssertionError(f"seed {seed}: {broken!r}\n\n{story}") from broken
        finally:
            this.fleet.clear_away()
            loop.complaints.clear()
            loop.finish()


@pytest.mark.parametrize("seed", [6, 12, 15, 29])
def test_whoever_is_left_knows_all_that_was_born_there(seed: int) -> None:
    """Runs that once never ended: who had been given an upload had not heard of it, or had died over its copy."""
    run(int(os.environ.get("INCOMING_SIM_SEED", seed)))


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_whoever_is_left_knows_it_for_long() -> None:
    first = random.SystemRandom().randrange(1 << 32)
    for seed in range(first, first + 500):
        run(seed)
