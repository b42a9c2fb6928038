"""What a disk in memory holds, and what befalls it; those who use it stand in :mod:`incomingd.storage.memory`."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from incomingd.core import ids
from incomingd.storage.memory_parts import Directory, File, Trouble

if TYPE_CHECKING:
    from collections.abc import Callable

    from incomingd.storage.memory import MemoryVolume
    from incomingd.storage.volume import Retirement

GROUP_CHARS: Final = 2


@dataclass
class Platters:
    """What outlives a process."""

    volume_id: str
    seed: int = 0
    durable: bool = True
    """As :attr:`incomingd.storage.directory.DirectoryOptions.durable`."""
    free_bytes: int | None = None
    """Goes down as bytes come; None: there is always room. Deleting frees nothing: set it anew."""
    trouble: Callable[[str], Trouble | None] | None = None
    """Asked at each call, with its name: ``write``, ``take``, ``sync``, …"""
    calls: int = 0
    """Made so far."""
    boots: int = 1
    uploads: Directory[Directory[File]] = field(default_factory=Directory)
    files: Directory[File] = field(default_factory=Directory)
    keys: Directory[File] = field(default_factory=Directory)
    network: bool = False
    """Several kernels are at it: bytes count as noted, and what a killed process had not synced may hold anything."""
    claims_are_files: bool = False
    """It has been shared."""
    holders: list[MemoryVolume] = field(default_factory=list)
    """The processes that use it now."""
    runs: dict[str, MemoryVolume] = field(default_factory=dict)
    """All that have used it, by their start ids."""
    groups: dict[str, set[str]] = field(default_factory=dict)
    """Ids of the uploads, by group."""
    stamps: dict[str, int] = field(default_factory=dict)
    """How often an upload has come into each group."""
    heir_of: frozenset[str] = frozenset()
    """Volumes that have retired."""
    retirement: Retirement | None = None

    def __post_init__(self) -> None:
        assert ids.is_volume_id(self.volume_id), self.volume_id
        self._chance = random.Random(self.seed)  # noqa: S311 -- breaks things in a way that can be repeated

    @property
    def boot_id(self) -> str:
        """Of the kernel that runs."""
        return f"boot-{self.boots}"

    def kill(self, volume: MemoryVolume | None = None) -> None:
        """End a process that uses the disk, or all of them: its calls are never answered."""
        for holder in list(self.holders) if volume is None else [volume]:
            holder.dead = True
            if holder in self.holders:
                self.holders.remove(holder)
            if self.network:
                for file in holder.unsynced:
                    file.after_power_loss(self._chance)

    def lose_power(self) -> None:
        """End all processes, forget what was not synced, start another kernel."""
        self.kill()
        self.boots += 1
        found = [*self.files.after_power_loss(self._chance), *self.keys.after_power_loss(self._chance)]
        for folder in self.uploads.after_power_loss(self._chance):
            found += folder.after_power_loss(self._chance)
        for file in {id(file): file for file in found}.values():
            file.after_power_loss(self._chance)
        self.groups.clear()
        for upload_id in self.uploads.names:
            self.enter(upload_id)

    def enter(self, upload_id: str) -> None:
        """Have the upload found in its group."""
        self.stamps[upload_id[:GROUP_CHARS]] = self.stamps.get(upload_id[:GROUP_CHARS], 0) + 1
        self.groups.setdefault(upload_id[:GROUP_CHARS], set()).add(upload_id)

    def leave(self, upload_id: str) -> None:
        """Have it not found any more."""
        self.groups.get(upload_id[:GROUP_CHARS], set()).discard(upload_id)

    def leaves(self, upload_id: str) -> bool:
        """Return whether any bytes of an upload are here, or its complete file."""
        folder = self.uploads.names.get(upload_id) or Directory()
        return upload_id in self.files.names or not all(name.endswith(".json") for name in folder.names)

    def take_room(self, size: int) -> int:
        """Return how many of *size* bytes find room, and use it up."""
        if self.free_bytes is None:
            return size
        fits = min(size, self.free_bytes)
        self.free_bytes -= fits
        return fits
