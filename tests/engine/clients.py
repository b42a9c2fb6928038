"""Clients that never give up, and that hold the service to what it told them."""

from __future__ import annotations

import dataclasses
import hashlib
import random

from incomingd.core.commands import Checksum, Resource
from incomingd.core.errors import Code, Refusal
from incomingd.core.status import Status
from tests.engine.world import Feed, World

RETRY_S = 1.0

# What a client that comes back later gets over.
PASSING = frozenset(
    {
        Code.NOT_READY,
        Code.STORAGE_UNAVAILABLE,
        Code.STORAGE_FULL,
        Code.STOPPING,
        Code.PREEMPTED,
        Code.OFFSET_MISMATCH,
        Code.CHECKSUM_MISMATCH,
        Code.BODY_CUT,
    }
)


def passing(refusal: Refusal) -> None:
    """Raise *refusal* unless it is one that a client gets over."""
    if refusal.code not in PASSING:
        raise refusal


class LiedError(AssertionError):
    """The service told less than it had told before."""


@dataclasses.dataclass
class Client:
    """Sends one file against one ticket; what it remembers outlives the service."""

    data: bytes
    piece_bytes: int = 40
    checksums: bool = False
    deferred: bool = False
    key: str = "key"
    upload_id: str | None = None
    begun: bool = False
    acknowledged: int = 0
    done: bool = False

    async def run(self, world: World) -> None:
        """Send until the file is whole; start again wherever that breaks off."""
        while not self.done:
            try:
                await self._go_on(world)
            except Refusal as refusal:
                passing(refusal)
                if refusal.offset is not None and self.begun:
                    self._hear(refusal.offset)
                await world.clock.sleep(RETRY_S)

    async def _go_on(self, world: World) -> None:
        if self.upload_id is None:
            self.upload_id = await world.ticket(key=self.key)
        if not self.begun:
            begun = await world.begin(self.upload_id, None if self.deferred else len(self.data))
            self.begun = True
            self._hear(begun.offset or 0)
        head = await world.head(self.upload_id)
        self._hear(head.offset or 0)
        while not self.done:
            self._look(await self._send(world, self.upload_id))

    async def _send(self, world: World, upload_id: str) -> Resource:
        offset = self.acknowledged
        piece = self.data[offset : offset + self.piece_bytes]
        length = len(self.data) if self.deferred and offset + len(piece) == len(self.data) else None
        checksum = Checksum("sha256", hashlib.sha256(piece).digest()) if self.checksums else None
        return await world.append(upload_id, offset, Feed(piece), length=length, checksum=checksum)

    def _look(self, resource: Resource) -> None:
        self._hear(resource.offset or 0)
        self.done = resource.status is not Status.OPEN

    def _hear(self, offset: int) -> None:
        if not self.acknowledged <= offset <= len(self.data):
            raise LiedError(f"told {offset} after {self.acknowledged}")
        self.acknowledged = offset


@dataclasses.dataclass
class AnewClient(Client):
    """Begins with another file of the same length, and then begins anew with the right one."""

    former_begun: bool = False
    former_sent: bool = False

    async def _go_on(self, world: World) -> None:
        if self.upload_id is None:
            self.upload_id = await world.ticket(key=self.key)
        former = self.data[::-1]
        if not self.former_begun:
            await world.begin(self.upload_id, len(former), metadata="former")
            self.former_begun = True
        if not self.former_sent and not self.begun:
            offset = (await world.head(self.upload_id)).offset or 0
            if offset < self.piece_bytes:
                await world.append(self.upload_id, offset, Feed(former[offset : self.piece_bytes]))
            self.former_sent = True
        if not self.begun:
            await world.begin(self.upload_id, len(self.data), metadata="right")
            self.begun = True
        await super()._go_on(world)


@dataclasses.dataclass
class PartsClient(Client):
    """Sends the file in two parts, the second one first, and then has them made one."""

    parts: dict[int, str] = dataclasses.field(default_factory=dict)
    reached: dict[int, int] = dataclasses.field(default_factory=dict)
    asked: bool = False

    async def _go_on(self, world: World) -> None:
        if self.upload_id is None:
            self.upload_id = await world.ticket(key=self.key)
        half = len(self.data) // 2
        pieces = {1: self.data[half:], 0: self.data[:half]}
        for number, data in pieces.items():
            if number not in self.parts:
                begun = await world.begin(self.upload_id, len(data), partial=True, concat="partial")
                assert begun.part is not None
                self.parts[number] = begun.part
            part = self.parts[number]
            offset = (await world.head(self.upload_id, part)).offset or 0
            self._hear_of(number, offset)
            while offset < len(data):
                piece = data[offset : offset + self.piece_bytes]
                checksum = Checksum("sha256", hashlib.sha256(piece).digest()) if self.checksums else None
                resource = await world.append(self.upload_id, offset, Feed(piece), part=part, checksum=checksum)
                offset = resource.offset or 0
                self._hear_of(number, offset)
        names = tuple(self.parts[number] for number in sorted(self.parts))
        whole = await world.begin(self.upload_id, None, final_of=names, concat=f"final;{' '.join(names)}")
        self.done = whole.status is not Status.OPEN
        assert self.done
        self.acknowledged = whole.offset or 0

    def _hear_of(self, number: int, offset: int) -> None:
        if offset < self.reached.get(number, 0):
            raise LiedError(f"part {number}: told {offset} after {self.reached[number]}")
        self.reached[number] = offset

    def _hear(self, offset: int) -> None:
        """Offsets in refusals are those of some part."""


def content(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)
