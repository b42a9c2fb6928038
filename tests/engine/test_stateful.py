"""Anything in any order: uploads, cuts, questions, faults, evictions, kills and power losses, against a model.

The model knows what was acknowledged. An acknowledged offset never falls, but where a client begins anew; no answer
tells of bytes that were not sent; the file that the web app gets is the one that was sent last.
"""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from incomingd.core.commands import Resource
from incomingd.core.errors import Code, Refusal
from incomingd.core.status import Status
from incomingd.engine.options import Durability, EngineOptions
from incomingd.handover import HandoverOptions
from incomingd.log import events
from incomingd.storage.body import CutReason
from incomingd.storage.volume import VolumeFullError, VolumeUnavailableError
from tests.engine.clients import PASSING, content
from tests.engine.logs import Logged
from tests.engine.test_faults import EXPECTED
from tests.engine.world import Feed, Trouble, World, sha1
from tests.support.virtual import VirtualLoop, settle

LENGTH_MAX = 60
FILES = [content(LENGTH_MAX, seed) for seed in range(4)]


@dataclasses.dataclass
class Expected:
    """What the model knows of one upload."""

    data: bytes
    """The file as its client has it now."""
    begun: bool = False
    anew: bool = False
    """A beginning was asked for that nobody answered: both the old and the new state are right."""
    acknowledged: int = 0
    sent: int = 0
    """No byte behind this one was ever sent for this file."""
    formers: list[bytes] = dataclasses.field(default_factory=list)
    ended: bool = False


class Uploads(RuleBasedStateMachine):
    """The world on a virtual loop of its own; each rule runs until it is at rest."""

    uploads = Bundle("uploads")
    durability = Durability.ACKNOWLEDGEMENT

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        self.expected: dict[str, Expected] = {}
        self.open: list[tuple[str, Feed, asyncio.Task[Any]]] = []

    def do(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    @initialize(seed=st.integers(0, 2**16))
    def start(self, seed: int) -> None:
        options = EngineOptions(durability=self.durability, hold_s=2.0, idle_s=30.0)
        # What waits for the web app waits until the end of the test.
        handover = HandoverOptions(confirm_timeout_s=1e9)
        self.world = World(seed=seed, options=options, handover=handover, upkeep_interval_s=20.0)
        self.world.app.answer = (200, b"wait")

        async def begin() -> None:
            self.world.start()

        self.do(begin())

    def teardown(self) -> None:
        try:
            if hasattr(self, "world"):
                self.do(self._everything_arrives())
        finally:
            self.loop.finish()

    # -- what clients do

    @rule(target=uploads, file=st.integers(0, 3))
    def ticket(self, file: int) -> str | None:
        upload_id = self.do(self._try(self.world.ticket(expires_in_s=10**7)))
        if isinstance(upload_id, str):
            self.expected[upload_id] = Expected(FILES[file])
            return upload_id
        return None

    @rule(upload_id=uploads, file=st.integers(0, 3), size=st.integers(0, LENGTH_MAX), with_body=st.booleans())
    def begin(self, upload_id: str | None, file: int, size: int, with_body: bool) -> None:
        expected = self._open_one(upload_id)
        if upload_id is None or expected is None:
            return
        data = FILES[file][:LENGTH_MAX]
        body = Feed(data[:size]) if with_body else None
        former = dataclasses.replace(expected)
        result = self.do(self._try(self.world.begin(upload_id, LENGTH_MAX, body=body, metadata=str(file))))
        if isinstance(result, Resource):
            if result.status is not Status.OPEN and former.acknowledged == LENGTH_MAX:
                # The repeated creation of a complete upload.
                return
            self._began(expected, data, size if with_body else 0)
            self._hear(expected, result.offset)
        elif isinstance(result, Refusal) and result.code is Code.UPLOAD_COMPLETE:
            return
        else:
            # Nobody knows whether it has begun; the next question tells.
            expected.anew = True
            expected.formers.append(data)

    def _began(self, expected: Expected, data: bytes, sent: int) -> None:
        expected.data, expected.begun, expected.anew = data, True, False
        expected.acknowledged, expected.sent = 0, sent
        expected.formers = []

    @rule(upload_id=uploads, size=st.integers(0, 40), checked=st.booleans(), wrong=st.booleans())
    def append(self, upload_id: str | None, size: int, checked: bool, wrong: bool) -> None:
        expected = self._open_one(upload_id)
        if upload_id is None or expected is None or not expected.begun or expected.anew:
            return
        offset = expected.acknowledged
        piece = expected.data[offset : offset + size]
        checksum = sha1(b"another" if wrong else piece) if checked else None
        sent = piece
        if not (checked and wrong):
            expected.sent = max(expected.sent, offset + len(piece))
        result = self.do(self._try(self.world.append(upload_id, offset, Feed(sent), checksum=checksum)))
        self._learn(expected, result)
        if checked and wrong and piece and isinstance(result, Resource):
            pytest.fail("bytes were granted that do not match their checksum")

    @rule(upload_id=uploads, size=st.integers(1, 40), checked=st.booleans())
    def append_and_stay(self, upload_id: str | None, size: int, checked: bool) -> None:
        """Send a part of a body, and leave the connection open."""
        expected = self._open_one(upload_id)
        if upload_id is None or expected is None or not expected.begun or expected.anew:
            return
        offset = expected.acknowledged
        rest = expected.data[offset:]
        if len(rest) < 2:
            return
        piece = rest[: min(size, len(rest) - 1)]
        body = Feed(piece, ended=False, length=len(rest))
        checksum = sha1(rest) if checked else None
        expected.sent = max(expected.sent, offset + len(piece))
        task = self.loop.create_task(self._try(self.world.append(upload_id, offset, body, checksum=checksum)))
        self.open.append((upload_id, body, task))
        self.do(settle())

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def break_a_connection(self, data: st.DataObject) -> None:
        _, body, task = data.draw(st.sampled_from(self.open))
        body.cut(CutReason.CLIENT)
        self.do(asyncio.wait([task], timeout=30.0))
        self._reap()

    @rule(upload_id=uploads)
    def head(self, upload_id: str | None) -> None:
        expected = self._open_one(upload_id)
        if upload_id is None or expected is None:
            return
        self._learn(expected, self.do(self._try(self.world.head(upload_id))))

    @rule(upload_id=uploads)
    def cancel(self, upload_id: str | None) -> None:
        expected = self._open_one(upload_id)
        if upload_id is None or expected is None or len(self.expected) < 3:
            return
        result = self.do(self._try(self.world.engine.cancel(upload_id, "")))
        if not isinstance(result, Refusal):
            expected.ended = True
        elif result.code is not Code.HANDING_OVER:
            # It may have ended all the same.
            expected.ended = self.do(self._status(upload_id)) is Status.CANCELLED

    # -- what befalls the machine

    @rule(delay_s=st.sampled_from([0.1, 1.0, 20.0, 120.0, 3600.0]))
    def wait(self, delay_s: float) -> None:
        self.do(asyncio.sleep(delay_s))
        self._reap()

    @rule(how=st.sampled_from(["kill", "stop"]))
    def restart(self, how: str) -> None:
        self._restart(how)

    @precondition(lambda self: self.durability is Durability.ACKNOWLEDGEMENT)
    @rule()
    def lose_power(self) -> None:
        self._restart("lose_power")

    def _restart(self, how: str) -> None:
        async def restart() -> None:
            self.world.disk.trouble = None
            await getattr(self.world, how)()
            for _, _, task in self.open:
                task.cancel()
            await asyncio.gather(*(task for _, _, task in self.open), return_exceptions=True)
            self.world.start()

        self.do(restart())
        self.open.clear()

    @rule(
        calls=st.integers(1, 4),
        after=st.integers(0, 6),
        error=st.sampled_from([VolumeUnavailableError, VolumeFullError]),
        done=st.booleans(),
    )
    def disk_fails(self, calls: int, after: int, error: Any, done: bool) -> None:
        """Let so many calls go well, then so many fail."""
        count = 0

        def trouble(name: str) -> Trouble | None:
            nonlocal count
            count += 1
            return Trouble(error, done=done) if after < count <= after + calls else None

        self.world.disk.trouble = trouble

    @rule()
    def disk_recovers(self) -> None:
        self.world.disk.trouble = None

    # -- the model

    def _open_one(self, upload_id: str | None) -> Expected | None:
        expected = self.expected.get(upload_id or "")
        return None if expected is None or expected.ended else expected

    async def _try(self, work: Any) -> Any:
        """Return what *work* returns, or the refusal that a client gets over."""
        try:
            return await work
        except Refusal as refusal:
            if refusal.code not in PASSING | {Code.UPLOAD_COMPLETE, Code.UPLOAD_CANCELLED, Code.HANDING_OVER}:
                raise
            return refusal

    async def _status(self, upload_id: str) -> Status:
        return self.world.stored(upload_id).status

    def _learn(self, expected: Expected, result: Any) -> None:
        if isinstance(result, Resource):
            if expected.anew:
                self._settle_beginning(expected, result)
            self._hear(expected, result.offset)
        elif isinstance(result, Refusal) and result.offset is not None and expected.begun and not expected.anew:
            self._hear(expected, result.offset)

    def _settle_beginning(self, expected: Expected, result: Resource) -> None:
        """Find out from an answer which of the beginnings that nobody answered has happened."""
        begun = None if result.metadata is None else FILES[int(result.metadata)][:LENGTH_MAX]
        if begun is None:
            assert not expected.begun
            expected.anew = False
            return
        assert begun == expected.data or begun in expected.formers
        if (
            result.offset is not None
            and begun == expected.data
            and result.offset >= expected.acknowledged
            and expected.begun
        ):
            expected.anew = False
            expected.sent = LENGTH_MAX
            return
        self._began(expected, begun, LENGTH_MAX)

    def _hear(self, expected: Expected, offset: int | None) -> None:
        assert offset is not None
        assert expected.acknowledged <= offset, "an acknowledged offset fell"
        assert offset <= expected.sent or not expected.begun, "bytes are told that nobody has sent"
        expected.acknowledged = offset

    def _reap(self) -> None:
        for entry in list(self.open):
            if entry[2].done():
                self.open.remove(entry)
                # What it was told is of its own time: others have gone on since. It must only be an answer.
                assert isinstance(entry[2].result(), Resource | Refusal)

    @invariant()
    def nothing_was_complained_of(self) -> None:
        assert self.loop.complaints == []

    async def _everything_arrives(self) -> None:
        """When the disk works again, every upload that has not ended can be completed, and the file is right."""
        world = self.world
        world.disk.trouble = None
        for _, body, _ in self.open:
            body.cut(CutReason.CLIENT)
        if self.open:
            await asyncio.wait([task for _, _, task in self.open], timeout=60.0)
        await world.clock.sleep(120.0)
        for upload_id, expected in self.expected.items():
            if expected.ended:
                continue
            head = await world.head(upload_id)
            self._learn(expected, head)
            if not expected.begun:
                head = await world.begin(upload_id, LENGTH_MAX, metadata="0")
                self._began(expected, FILES[0], LENGTH_MAX)
            offset = head.offset or 0
            if head.status is Status.OPEN:
                rest = expected.data[offset:]
                whole = await world.append(upload_id, offset, rest, length=LENGTH_MAX)
                assert whole.status is Status.COMPLETE
            deadline = world.clock.monotonic() + 600.0
            while await world.file(upload_id) is None or not (await world.record(upload_id)).joined:
                assert world.clock.monotonic() < deadline, "the file does not come to be"
                await world.clock.sleep(1.0)
            assert await world.file(upload_id) == expected.data


class UploadsUnderNone(Uploads):
    durability = Durability.NONE


class UploadsUnderCompletion(Uploads):
    durability = Durability.COMPLETION


@pytest.mark.parametrize("machine", [Uploads, UploadsUnderNone, UploadsUnderCompletion])
def test_anything_in_any_order(machine: type[Uploads], logged: Logged) -> None:
    logged.expect(*EXPECTED, events.APPEND_PREEMPTED)
    run_state_machine_as_test(
        machine,
        settings=settings(max_examples=30, stateful_step_count=25, suppress_health_check=list(HealthCheck)),
    )


@pytest.mark.soak
@pytest.mark.parametrize("machine", [Uploads, UploadsUnderNone, UploadsUnderCompletion])
def test_anything_in_any_order_for_long(machine: type[Uploads], logged: Logged) -> None:
    logged.expect(*EXPECTED, events.APPEND_PREEMPTED)
    run_state_machine_as_test(
        machine,
        settings=settings(max_examples=2000, stateful_step_count=60, suppress_health_check=list(HealthCheck)),
    )
