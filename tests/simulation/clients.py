"""Clients and their web app: they send as real ones do, and never give up."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable

from incomingd.core.commands import Append, Checksum, Creation, Resource
from incomingd.core.errors import Code, Refusal
from incomingd.core.status import Status
from incomingd.engine.appending import AppendReport
from incomingd.storage.body import CutReason
from tests.engine.world import Feed, new_terms
from tests.simulation.fleet import Fleet, NoAnswerError, Process
from tests.simulation.processes import outside, outside_task
from tests.simulation.truth import BrokenError, Truth

PASSING = frozenset(
    {
        Code.NOT_READY, Code.STORAGE_UNAVAILABLE, Code.STORAGE_FULL, Code.STOPPING, Code.PREEMPTED,
        Code.OFFSET_MISMATCH, Code.BODY_CUT, Code.BODY_STALLED, Code.UPLOAD_COMPLETE, Code.LENGTH_EXCEEDED,
        Code.LENGTH_DIFFERS, Code.HANDING_OVER, Code.TOO_LATE, Code.NOT_WAITING, Code.UPLOAD_CANCELLED,
        Code.UPLOAD_EXPIRED, Code.NOTHING_TO_DELIVER, Code.UPLOAD_OUT_OF_REACH, Code.CHECKSUM_MISMATCH,
    }
)  # fmt: skip
"""What a client may be told while the fleet is disturbed."""


class Client:
    """Sends the file of one upload, from several tabs if it likes."""

    def __init__(self, fleet: Fleet, truth: Truth, seed: int) -> None:
        self.fleet = fleet
        self.truth = truth
        self.chance = random.Random(seed)
        self.begun = False
        self.offset: int | None = None
        """As last told; None: it has to ask."""
        self.over = False
        """It has heard that the upload takes no more bytes."""
        self.lost = 0.0
        """Share of answers that it does not get."""
        self.at: str | None = None

    # -- where to

    def target(self) -> Process | None:
        """Return whom the balancer sends this to."""
        able = self.fleet.takers()
        if self.at is not None and self.chance.random() < 0.7:
            same = [each for each in able if each.name == self.at]
            if same:
                return same[0]
        open_ones = [each for each in able if not each.engine.state.draining]
        if open_ones and self.chance.random() < 0.9:
            able = open_ones
        chosen = self.chance.choice(able) if able else None
        self.at = chosen.name if chosen is not None else None
        return chosen

    # -- requests

    async def _ask(self, what: str, target: Process, work: Callable[[Process], Awaitable[Resource]]) -> Resource | None:
        """Make a request, and draw the consequences; None: it was refused, or nobody answered."""
        fleet, truth = self.fleet, self.truth

        async def checked(process: Process) -> Resource:
            floor, whole = fleet.before(truth), truth.told_whole
            try:
                resource = await work(process)
            except Refusal as refusal:
                told = f" offset={refusal.offset}" if refusal.offset is not None else ""
                fleet.tell(process, f"{what} {truth.name}: {refusal.code.value}{told}")
                self._check_refusal(refusal)
                fleet.answered(process, truth, refusal.offset, floor)
                raise
            fleet.tell(process, f"{what} {truth.name}: {resource.status.value} offset={resource.offset}")
            fleet.answered(process, truth, resource.offset, floor)
            if whole and not resource.status.whole:
                raise BrokenError(f"{truth.name}: was complete, and is open again")
            truth.told_whole = truth.told_whole or resource.status.whole
            return resource

        try:
            resource = await fleet.request(target, checked, lost=self.lost)
        except NoAnswerError:
            self.offset = None
            return None
        except Refusal as refusal:
            if refusal.code in (Code.UPLOAD_CANCELLED, Code.UPLOAD_EXPIRED) and refusal.offset is None:
                # With an offset: it was cut for an end that may come to nothing yet.
                self.over = True
            self.offset = refusal.offset
            return None
        if resource.status is not Status.OPEN:
            self.over = True
        self.offset = resource.offset
        return resource

    def _check_refusal(self, refusal: Refusal) -> None:
        truth = self.truth
        if refusal.code not in PASSING:
            raise BrokenError(f"{truth.name}: refused with {refusal.code.value}: {refusal.detail}")
        if refusal.code is Code.UPLOAD_CANCELLED and "cancelled" not in truth.may_end:
            raise BrokenError(f"{truth.name}: cancelled, and nobody has asked for that")
        if refusal.code is Code.UPLOAD_EXPIRED and "expired" not in truth.may_end:
            raise BrokenError(f"{truth.name}: expired long before its time")

    async def begin(self, target: Process) -> Resource | None:
        """Begin, or begin anew: with another file."""
        truth = self.truth
        truth.files += 1
        size = self.chance.randint(1, truth.length) if self.chance.random() < 0.3 else 0
        body = Feed(truth.ink(0, size).data) if size else None
        wanted = Creation(
            None if truth.deferred else truth.length,
            metadata=str(truth.files),
            pairs=(("filename", f"{truth.name}.txt"), ("filetype", "text/plain")),
            body=Append(0, size) if size else None,
        )
        self.begun = True
        return await self._ask(
            f"begin file {truth.files}",
            target,
            lambda process: process.engine.begin(truth.upload_id, wanted, body, AppendReport()),
        )

    async def head(self, target: Process) -> Resource | None:
        return await self._ask("head", target, lambda process: process.engine.head(self.truth.upload_id, None))

    async def append(
        self, target: Process, offset: int, size: int, *, pause_s: float = 0.0, fails: bool = False
    ) -> Resource | None:
        """Append *size* bytes, in pieces; *fails*: the connection ends amidst them."""
        truth = self.truth
        attempt = truth.ink(offset, size)
        feed = Feed(ended=False, length=size)
        last = truth.deferred and offset + size >= truth.length
        checksum = None
        if truth.checks and not fails:
            sent = attempt.data if self.chance.random() < 0.8 else b"other bytes"
            checksum = Checksum("sha1", hashlib.sha1(sent, usedforsecurity=False).digest())
        at_the_end = checksum is not None and self.chance.random() < 0.3
        wanted = Append(
            offset,
            size if not self.chance.random() < 0.1 else None,
            length=offset + size if last else None,
            checksum=None if at_the_end else checksum,
            trailing_checksum=(lambda: checksum) if at_the_end and checksum is not None else None,
        )

        async def send() -> None:
            pieces = self.chance.randint(1, 4)
            step = max(size // pieces, 1)
            stops_at = self.chance.randrange(size) if fails and size else size
            for start in range(0, stops_at, step):
                await asyncio.sleep(self.chance.expovariate(1 / pause_s) if pause_s else 0)
                feed.send(attempt.data[start : start + step][: max(stops_at - start, 0)])
            if fails:
                reason = self.chance.choice([CutReason.CLIENT, CutReason.STALLED])
                await asyncio.sleep(0.1 if reason is CutReason.CLIENT else 8.0)
                feed.cut(reason)
            else:
                feed.end()

        sending = outside_task(send(), f"send {truth.name}")
        try:
            return await self._ask(
                f"append {offset}+{size}",
                target,
                lambda process: process.engine.append(truth.upload_id, None, wanted, feed, AppendReport()),
            )
        finally:
            if not sending.done() and not fails:
                # The connection is gone; the other side hears of it some time.
                _ = sending.cancel()
                outside(self.chance.choice([0.05, 1.0, 10.0]), feed.cut, CutReason.CLIENT)

    async def tell_length(self, target: Process, offset: int) -> Resource | None:
        """Say that the file ends here."""
        wanted = Append(offset, 0, length=offset)
        return await self._ask(
            f"length {offset}",
            target,
            lambda process: process.engine.append(self.truth.upload_id, None, wanted, Feed(), AppendReport()),
        )

    async def terminate(self, target: Process) -> None:
        """Have the upload deleted."""
        self.truth.may_end.add("cancelled")

        async def work(process: Process) -> None:
            try:
                await process.engine.terminate(self.truth.upload_id, None)
            except Refusal as refusal:
                self._check_refusal(refusal)
                raise
            self.fleet.tell(process, f"terminate {self.truth.name}: done")
            self.truth.may_end.add("ended")

        try:
            await self.fleet.request(target, work)
            self.over = True
        except (NoAnswerError, Refusal):
            self.offset = None

    # -- behaviour

    async def step(self, pace: float = 1.0) -> None:
        """Do what a client does next."""
        chance, truth = self.chance, self.truth
        target = self.target()
        if target is None:
            await asyncio.sleep(0.5)
            return
        if not self.begun:
            if await self.begin(target) is None and chance.random() < 0.5:
                await asyncio.sleep(0.3)
            return
        if self.offset is None or chance.random() < 0.2:
            head = await self.head(target)
            if head is not None and head.metadata is None:
                self.begun = False
            if head is None:
                await asyncio.sleep(chance.uniform(0.05, 1.0))
            return
        offset = self.offset
        left = truth.length - offset
        if left <= 0 or (truth.deferred and chance.random() < 0.08):
            if truth.deferred:
                await self.tell_length(target, offset)
            else:
                self.offset = None
            return
        size = min(left, chance.randint(1, max(truth.length // 4, 2)))
        await self.append(
            target,
            offset,
            size,
            pause_s=chance.choice([0.0, 0.05, 0.5, 2.0]) * pace,
            fails=chance.random() < 0.2 * pace,
        )

    async def live(self, *, tabs: int = 1) -> None:
        """Go on until somebody ends this, or the file is in."""
        others = [outside_task(self._tab(), f"tab of {self.truth.name}") for _ in range(tabs - 1)]
        try:
            while not self.over:
                await self.step()
                await asyncio.sleep(self.chance.expovariate(2.0))
                if self.begun and self.chance.random() < 0.02 and (target := self.target()) is not None:
                    await self.begin(target)
        finally:
            for other in others:
                _ = other.cancel()

    async def _tab(self) -> None:
        tab = Client(self.fleet, self.truth, self.chance.getrandbits(32))
        tab.begun, tab.lost = True, self.lost
        while not tab.over:
            if self.begun:
                await tab.step()
            await asyncio.sleep(self.chance.expovariate(1.0))

    async def finish(self, within_s: float) -> None:
        """Send the rest: nothing is disturbed any more.

        Raises:
            BrokenError: that is not possible.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within_s
        self.offset, self.lost = None, 0.0
        while not self.over:
            if loop.time() > deadline:
                raise BrokenError(f"{self.truth.name}: cannot go on, although nothing is disturbed any more")
            await self.step(pace=0.0)
            await asyncio.sleep(0.1)


async def make_ticket(
    fleet: Fleet, target: Process, number: int, *, expires_in_s: float | None, seed: int
) -> Truth | None:
    """Have a web app make a ticket; None: in vain."""
    chance = random.Random(seed)
    keeps = chance.random() < 0.6

    async def work(process: Process) -> str:
        terms = new_terms(
            after_handover="keep" if keeps else "delete",
            digest="sha-256" if seed % 2 else None,
            events=("started", "cancelled", "expired", "failed") if chance.random() < 0.5 else (),
        )
        record, _ = await process.engine.create(terms, expires_in_s=expires_in_s, key=f"key {number}")
        return record.upload_id

    try:
        upload_id = await fleet.request(target, work)
    except (NoAnswerError, Refusal):
        return None
    if upload_id in fleet.truths:
        return None
    truth = Truth(
        upload_id,
        f"u{number}",
        seed,
        keeps=keeps,
        deferred=chance.random() < 0.3,
        length=chance.randint(8, 80),
        checks=chance.random() < 0.3,
    )
    if expires_in_s is not None:
        truth.may_end.add("expired")
    fleet.truths[upload_id] = truth
    fleet.tell(target, f"ticket {truth.name}: {truth.length} bytes{' deferred' if truth.deferred else ''}")
    return truth
