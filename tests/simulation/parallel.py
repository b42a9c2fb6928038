"""Clients that send one file in several parts at the same time, and have them put together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from incomingd.core.commands import Append, Creation, Resource
from incomingd.core.errors import Code, Refusal
from incomingd.core.status import Status
from incomingd.engine.appending import AppendReport
from tests.engine.world import Feed
from tests.simulation.clients import PASSING, Client
from tests.simulation.fleet import Fleet, NoAnswerError, Process
from tests.simulation.processes import outside_task
from tests.simulation.truth import Attempt, BrokenError, Truth


class ParallelClient(Client):
    """Sends its file in parts; what was acknowledged of a part must stay so as long as there is that part."""

    def __init__(self, fleet: Fleet, truth: Truth, seed: int) -> None:
        super().__init__(fleet, truth, seed)
        self.data = self.chance.randbytes(truth.length)
        # Whenever it is sent, and in whichever part: a byte belongs to its place.
        truth.attempts.append(Attempt(0, self.data))
        cuts = sorted(self.chance.sample(range(1, truth.length), self.chance.randint(1, 3)))
        self.spans = list(zip([0, *cuts], [*cuts, truth.length], strict=True))
        self.names: list[str | None] = [None] * len(self.spans)
        self.acknowledged: dict[str, int] = {}

    async def _try(
        self, what: str, work: Callable[[Process], Awaitable[Resource]], part: str | None
    ) -> Resource | None:
        """Make a request and check what it promises; None: it was refused, or nobody answered."""
        fleet, truth = self.fleet, self.truth
        target = self.target()
        if target is None:
            await asyncio.sleep(0.5)
            return None
        before, whole = self.acknowledged.get(part or "", 0), truth.told_whole

        async def checked(process: Process) -> Resource:
            try:
                resource = await work(process)
            except Refusal as refusal:
                fleet.tell(process, f"{what} {truth.name}: {refusal.code.value}")
                if refusal.code not in PASSING | {Code.UPLOAD_UNKNOWN, Code.CONCAT_PART_UNKNOWN, Code.TOO_MANY_PARTS}:
                    raise BrokenError(f"{truth.name}: refused with {refusal.code.value}: {refusal.detail}") from refusal
                raise
            fleet.tell(process, f"{what} {truth.name}: {resource.status.value} offset={resource.offset}")
            fleet.owns(process, truth)
            if whole and not resource.status.whole:
                raise BrokenError(f"{truth.name}: was complete, and is open again")
            truth.told_whole = truth.told_whole or resource.status.whole
            if part is not None and not resource.status.whole:
                self._check_part(part, resource.offset or 0, before)
            return resource

        try:
            resource = await fleet.request(target, checked, lost=self.lost)
        except NoAnswerError:
            return None
        except Refusal as refusal:
            self._refused(refusal, part)
            return None
        self.over = self.over or resource.status is not Status.OPEN
        return resource

    def _check_part(self, part: str, offset: int, before: int) -> None:
        if offset < before:
            raise BrokenError(f"{self.truth.name}: part {part} fell from {before} to {offset}")
        self.acknowledged[part] = max(self.acknowledged.get(part, 0), offset)

    def _refused(self, refusal: Refusal, part: str | None) -> None:
        if refusal.code is Code.UPLOAD_UNKNOWN and part is None:
            raise BrokenError(f"{self.truth.name}: nobody knows it") from refusal
        if refusal.code in (Code.UPLOAD_UNKNOWN, Code.CONCAT_PART_UNKNOWN):
            # Its parts are gone: somebody has begun anew.
            self.names = [None] * len(self.spans)
        if refusal.code in (Code.UPLOAD_CANCELLED, Code.UPLOAD_EXPIRED, Code.UPLOAD_COMPLETE):
            self.over = True

    async def _send(self, index: int) -> bool:
        """Bring one part further; return whether all of it is there."""
        truth = self.truth
        start, stop = self.spans[index]
        name = self.names[index]
        if name is None:
            wanted = Creation(stop - start, concat="partial", partial=True)
            made = await self._try(
                "part", lambda process: process.engine.begin(truth.upload_id, wanted, None, AppendReport()), None
            )
            if made is not None:
                self.names[index] = made.part
            return False
        found = await self._try(f"head of {index}", lambda process: process.engine.head(truth.upload_id, name), name)
        if found is None or self.over:
            return False
        offset = found.offset or 0
        if offset == stop - start:
            return True
        size = self.chance.randint(1, stop - start - offset)
        data = self.data[start + offset : start + offset + size]
        feed = Feed(ended=False, length=size)

        async def send() -> None:
            middle = self.chance.randint(0, size)
            feed.send(data[:middle])
            await asyncio.sleep(self.chance.choice([0.0, 0.05, 0.5]))
            feed.send(data[middle:])
            feed.end()

        sending = outside_task(send(), f"send {truth.name}")
        _ = await self._try(
            f"append {offset}+{size} to {index}",
            lambda process: process.engine.append(truth.upload_id, name, Append(offset, size), feed, AppendReport()),
            name,
        )
        _ = sending.cancel()
        feed.end()
        return False

    async def step(self, pace: float = 1.0) -> None:
        """Bring every part further, then have them put together."""
        there = await asyncio.gather(*(self._send(index) for index in range(len(self.spans))))
        names = tuple(name for name in self.names if name is not None)
        early = self.chance.random() < 0.1 * pace and len(names) == len(self.spans)
        if not self.over and (all(there) or early):
            wanted = Creation(None, metadata="1", concat=f"final;{' '.join(names)}", final_of=names)
            _ = await self._try(
                "final",
                lambda process: process.engine.begin(self.truth.upload_id, wanted, None, AppendReport()),
                None,
            )
            if early and not self.over:
                _ = await self._try("head", lambda process: process.engine.head(self.truth.upload_id, None), None)

    async def live(self, *, tabs: int = 1) -> None:
        """Go on until somebody ends this, or the file is in."""
        del tabs
        while not self.over:
            await self.step()
            await asyncio.sleep(self.chance.expovariate(2.0))
            if self.chance.random() < 0.02 and self.names[0] is not None:
                name, self.names[0] = self.names[0], None
                target = self.target()
                if target is not None:
                    await self._drop(target, name)

    async def _drop(self, target: Process, name: str) -> None:
        """Have one part deleted; it is sent again."""

        async def work(process: Process) -> None:
            await process.engine.terminate(self.truth.upload_id, name)
            self.fleet.tell(process, f"terminate part of {self.truth.name}: done")

        try:
            await self.fleet.request(target, work)
        except (NoAnswerError, Refusal):
            # Should it be there still, it is in nobody's way.
            return
