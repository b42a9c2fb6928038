"""What web apps, operators and pages do beside the clients: look, list, wait, change, download, deliver again."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from contextlib import suppress

from incomingd.core.errors import Code, Refusal
from incomingd.engine import fleet_listing
from incomingd.engine.engine import View
from incomingd.storage.volume import VolumeError
from incomingd.wire.backend import ChangeDocument, parse
from incomingd.wire.upload import upload_document
from tests.simulation.clients import PASSING
from tests.simulation.fleet import Fleet, NoAnswerError, Process
from tests.simulation.truth import BrokenError, Truth

WAIT_S = 5.0


class Onlookers:
    """Look at a fleet; what they see must fit what was promised.

    Args:
        fleet: that they look at.
        chance: decides everything.
    """

    def __init__(self, fleet: Fleet, chance: random.Random) -> None:
        self.fleet = fleet
        self.chance = chance

    async def act(self, target: Process) -> None:
        """Do one thing."""
        if not self.fleet.truths:
            return
        truth = self.fleet.truths[self.chance.choice(sorted(self.fleet.truths))]
        acts: list[Callable[[Process, Truth], Awaitable[None]]] = [
            self._view, self._view, self._list, self._wait, self._change, self._redeliver, self._download,
        ]  # fmt: skip
        act = self.chance.choice(acts)

        async def work(process: Process) -> None:
            try:
                await act(process, truth)
            except Refusal as refusal:
                if refusal.code not in PASSING:
                    raise BrokenError(f"{truth.name}: refused with {refusal.code.value}: {refusal.detail}") from refusal
                raise

        with suppress(NoAnswerError, Refusal):
            await self.fleet.request(target, work)

    def _check(self, process: Process, truth: Truth, view: View) -> None:
        self.fleet.tell(process, f"view {truth.name}: {view.record.status.value} offset={view.offset}")
        if view.record.upload_id != truth.upload_id:
            raise BrokenError(f"{truth.name}: another upload is told of")
        if view.offset > max(truth.sent, truth.length):
            raise BrokenError(f"{truth.name}: {view.offset} is told, and so much was never sent")

    async def _view(self, process: Process, truth: Truth) -> None:
        self._check(process, truth, await process.engine.view(truth.upload_id))

    async def _wait(self, process: Process, truth: Truth) -> None:
        view = await process.engine.wait(truth.upload_id, WAIT_S, lambda each: each.record.status)
        self._check(process, truth, view)

    async def _change(self, process: Process, truth: Truth) -> None:
        change = parse(ChangeDocument, {"app_data": {"n": self.chance.randint(1, 9)}})
        self._check(process, truth, await process.engine.change(truth.upload_id, change))

    async def _redeliver(self, process: Process, truth: Truth) -> None:
        self._check(process, truth, await process.engine.redeliver(truth.upload_id))

    async def _list(self, process: Process, truth: Truth) -> None:
        """Read the whole list: an upload that somebody was told of is on it, unless an instance could not be asked."""
        del truth
        known = {each.upload_id for each in self.fleet.truths.values()}
        query: dict[str, list[str]] = {}
        found: list[str] = []
        while True:
            answer = await fleet_listing.page(
                process.engine,
                query,
                lambda view: upload_document(view.record, offset=view.offset, base_url="http://u.example"),
                base_url="http://u.example",
            )
            found += [str(each["id"]) for each in answer["uploads"]]
            if answer["next_page"] is None:
                break
            query = {"page": [answer["next_page"]]}
        self.fleet.tell(process, f"list: {len(found)} of {len(known)}{' partial' if answer['partial'] else ''}")
        if found != sorted(found):
            raise BrokenError("a list out of order")

    async def _download(self, process: Process, truth: Truth) -> None:
        """Read the file as a web app does over HTTP; what comes must be the file's bytes."""
        view = await process.engine.view(truth.upload_id)
        if not (view.record.joined and truth.arrived is not None and truth.keeps):
            raise Refusal(Code.NOT_READY)
        file = await process.engine.open_file(view.record)
        if file is None:
            raise Refusal(Code.NOT_READY)
        try:
            data = b""
            while len(data) < len(truth.arrived):
                try:
                    piece = await file.read(len(data), 16)
                except VolumeError as error:
                    # Whoever has it does not answer: the download breaks off.
                    raise Refusal(Code.NOT_READY) from error
                if not piece:
                    raise Refusal(Code.NOT_READY)
                data += piece
        finally:
            await file.close()
        self.fleet.tell(process, f"download {truth.name}: {len(data)} bytes")
        if data != truth.arrived:
            raise BrokenError(f"{truth.name}: other bytes are downloaded than were handed over")
