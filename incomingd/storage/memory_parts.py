"""What a volume in memory is made of, each part breaking as it does on a disk."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import Generic, TypeVar

from incomingd.storage.volume import VolumeError, VolumeUnavailableError

T = TypeVar("T")


@dataclass(frozen=True)
class Trouble:
    """What befalls one call."""

    error: type[VolumeError] | None = VolumeUnavailableError
    """Raised; None: the call goes well in the end."""
    done: bool = False
    """What was asked for happens all the same, and only its answer is lost."""
    share: float = 0.5
    """Of a piece of a body, so much of it is kept before the error."""
    hold: asyncio.Future[None] | None = None
    """The call waits for this, as for a disk that does not answer."""
    late: bool = False
    """It waits when the work is done already."""


class File:
    """Bytes, of which a front part is on the platters."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = bytearray(data)
        self.synced = 0

    def cut(self, size: int) -> None:
        """Make it *size* bytes long."""
        if size < len(self.data):
            del self.data[size:]
        else:
            self.data.extend(bytes(size - len(self.data)))
        self.synced = min(self.synced, size)

    def write(self, at: int, data: bytes) -> None:
        """Have *data* stand at the offset *at*; a gap before it is filled with zeros."""
        if len(self.data) < at:
            self.data.extend(bytes(at - len(self.data)))
        self.data[at : at + len(data)] = data
        self.synced = min(self.synced, at)

    def after_power_loss(self, chance: random.Random) -> None:
        """Keep what was synced, and perhaps a length that the bytes never had."""
        lost = len(self.data) - self.synced
        if lost > 0:
            del self.data[self.synced :]
            self.data.extend(chance.randbytes(chance.randint(0, lost)))
        self.synced = len(self.data)


class Directory(Generic[T]):
    """Names, and the changes of them that are not on the platters yet."""

    def __init__(self) -> None:
        self.names: dict[str, T] = {}
        self._durable: dict[str, T] = {}
        self._pending: list[tuple[str, T | None]] = []

    def put(self, name: str, entry: T) -> None:
        """Enter *entry*, in place of what had the name."""
        self.names[name] = entry
        self._pending.append((name, entry))

    def drop(self, name: str) -> None:
        """Take the name away, if it is there."""
        if self.names.pop(name, None) is not None:
            self._pending.append((name, None))

    def sync(self) -> None:
        """Bring all changes to the platters."""
        self._apply(len(self._pending))

    def _apply(self, count: int) -> None:
        for name, entry in self._pending[:count]:
            if entry is None:
                self._durable.pop(name, None)
            else:
                self._durable[name] = entry
        del self._pending[:count]

    def after_power_loss(self, chance: random.Random) -> list[T]:
        """Keep the changes up to some point; return what is there then."""
        self._apply(chance.randint(0, len(self._pending)))
        self._pending.clear()
        self.names = dict(self._durable)
        return list(self.names.values())
