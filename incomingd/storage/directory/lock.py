"""The lock on a whole directory: held by one process alone, or shared by several.

It is an advisory lock that the kernel frees when the process is gone, however
it went: so whoever gets it alone knows that the writes of all former holders are
over, as far as the lock reaches.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from typing import TYPE_CHECKING, Final

from incomingd.storage.volume import VolumeLockedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

OPENING_S: Final = 10.0
"""So long a shared opening waits for another one that is still alone with the directory."""
SAYING_S: Final = 2.0
"""So long a shared opening waits for the word of who has it: the kernel gives the lock before its holder can say who
it is, and until then the file says nothing, or what a former holder said."""
_AGAIN_S: Final = 0.01
_SHARED: Final[dict[str, object]] = {"shared": True}


class DirectoryLock:
    """Held from its making until :meth:`release` or the end of the process."""

    def __init__(
        self,
        path: Path,
        *,
        holder: dict[str, object],
        shared: bool = False,
        sharers: Callable[[], list[str]] = list,
    ) -> None:
        """Take the lock; one that is to be shared is held alone at first where that is possible.

        Args:
            path: of the lock file.
            holder: who takes it, for those who come later.
            shared: whether others may hold it, too.
            sharers: says who shares it now, for a refusal.

        Raises:
            VolumeLockedError: another process holds it; the text says who.
            OSError: the file cannot be made.
        """
        self._path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self.alone = self._take(fcntl.LOCK_EX)
            """Nobody else holds it; what only one may do can be done until :meth:`share`."""
            held = self.alone or (shared and self._take_shared())
            said = b"" if held else self._said()
        except BaseException:
            os.close(self._fd)
            raise
        if not held:
            os.close(self._fd)
            raise VolumeLockedError(_held_by(path, said, sharers))
        if self.alone:
            self._say(_SHARED if shared else holder)

    def _take(self, how: int) -> bool:
        try:
            fcntl.flock(self._fd, how | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _take_shared(self) -> bool:
        begun = time.monotonic()
        while not self._take(fcntl.LOCK_SH):
            shared = _holder(self._said()) == _SHARED
            if time.monotonic() - begun > (OPENING_S if shared else SAYING_S):
                return False
            # Another one opens it to share it, and is alone with it for a moment.
            time.sleep(_AGAIN_S)
        return True

    def _said(self) -> bytes:
        return os.pread(self._fd, 4096, 0)

    def _say(self, holder: dict[str, object]) -> None:
        # What it says helps people only; a full disk must not keep a daemon
        # from starting that could hand files over and so make room.
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, json.dumps(holder).encode() + b"\n", 0)

    def share(self) -> None:
        """Let others have it, too.

        Raises:
            VolumeLockedError: in the moment between, another process has taken it for itself alone.
        """
        # The kernel gives the one lock back before it takes the other.
        if not self._take_shared():
            raise VolumeLockedError(_held_by(self._path, self._said(), list))
        self.alone = False

    def release(self) -> None:
        """Give the lock back; harmless when repeated."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                # It is closed also where a network that is gone says that it failed.
                os.close(self._fd)
            self._fd = -1


def _holder(said: bytes) -> object:
    try:
        return json.loads(said)
    except ValueError:
        return None


def _held_by(path: Path, said: bytes, sharers: Callable[[], list[str]]) -> str:
    holder = _holder(said)
    if holder == _SHARED:
        who = "; ".join(sharers()) or "instances that share it"
    elif isinstance(holder, dict):
        who = told(holder)
    else:
        who = "an unknown process"
    return f"{path.parent} is in use by {who}"


def told(holder: dict[str, object]) -> str:
    """Return *holder* as people read it."""
    return ", ".join(f"{key} {value}" for key, value in holder.items())
