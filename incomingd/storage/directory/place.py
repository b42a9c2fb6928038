"""The directory of a volume: where in it what lies, who asks it, and whether it is still there."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Final, TypeVar

from incomingd.core import ids
from incomingd.storage.directory import files
from incomingd.storage.directory.files import translated
from incomingd.storage.directory.surveying import GROUP_CHARS
from incomingd.storage.directory.threads import Threads
from incomingd.storage.volume import VolumeUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from incomingd.storage.directory.opening import Held

T = TypeVar("T")

ANSWER_S: Final = 30.0
"""So long a network is given to answer a question that changes nothing."""


class Place:
    """What all that a volume in a directory does stands on."""

    def __init__(self, root: Path, held: Held, *, threads: int) -> None:
        self._root = root
        self._id = held.volume_id
        self._held = held
        self._boot_id = files.boot_id()
        self._pool = Threads(threads, "storage")
        self._synced_groups: set[Path] = set()
        """Groups, of uploads and of keys, whose names were brought to the disk."""

    @property
    def id(self) -> str:
        """The volume's own id."""
        return self._id

    @property
    def shared(self) -> bool:
        """Whether other processes may claim uploads here meanwhile."""
        return self._held.shared

    @property
    def network(self) -> bool:
        """Whether bytes count only as noted, since other kernels may be at work here."""
        return self._held.network

    @property
    def root(self) -> Path:
        """The directory."""
        return self._root

    @property
    def boot_id(self) -> str:
        """Of the kernel under which records are written now."""
        return self._boot_id

    # -- paths

    def _folder(self, upload_id: str) -> Path:
        assert ids.is_upload_id(upload_id), upload_id
        return self._root / "uploads" / upload_id[:GROUP_CHARS] / upload_id

    def _file(self, upload_id: str) -> Path:
        assert ids.is_upload_id(upload_id), upload_id
        return self._root / "files" / upload_id

    async def _run(self, what: str, call: Callable[..., T], *args: Any) -> T:
        with translated(what):
            return await self._pool.run(call, *args)

    async def _ask(self, what: str, call: Callable[..., T], *args: Any) -> T:
        """Do what changes nothing; a network that does not answer is not waited for for ever."""
        if not self.network:
            return await self._run(what, call, *args)
        asked = self._pool.run(call, *args)
        answered, _ = await asyncio.wait([asked], timeout=ANSWER_S)
        if not answered:
            # One that has not begun does not begin any more.
            asked.add_done_callback(_ignore)
            asked.cancel()
            raise VolumeUnavailableError(f"{what}: no answer within {ANSWER_S:g} s")
        with translated(what):
            return asked.result()

    def _sync_group(self, group: Path) -> None:
        """Have a new name in *group* survive a power loss, and the group's own."""
        files.sync_directory(group)
        if group not in self._synced_groups:
            # By whom it was made, and whether they came to sync it, nobody knows.
            files.sync_directory(group.parent)
            self._synced_groups.add(group)

    def _assert_there(self) -> None:
        try:
            there = json.loads((self._root / "volume.json").read_bytes())["id"]
        except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, RecursionError) as error:
            msg = f"{self._root} is not the volume that it was: {error}"
            raise VolumeUnavailableError(msg) from error
        if there != self._id:
            msg = f"{self._root} is another volume now"
            raise VolumeUnavailableError(msg)


def _ignore(asked: asyncio.Future[Any]) -> None:
    """Take note of what nobody waits for any more."""
    if not asked.cancelled():
        asked.exception()
