"""The lock by which one process says that a directory is its own.

It is an advisory lock that the kernel frees when the process is gone, however
it went: so whoever gets it knows that the former holder's writes are over.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from typing import TYPE_CHECKING

from incomingd.storage.volume import VolumeLockedError

if TYPE_CHECKING:
    from pathlib import Path


class DirectoryLock:
    """Held from its making until :meth:`release` or the end of the process."""

    def __init__(self, path: Path, *, holder: dict[str, object]) -> None:
        """Take the lock.

        Args:
            path: of the lock file.
            holder: who takes it, for those who come later.

        Raises:
            VolumeLockedError: another process holds it; the text says who.
            OSError: the file cannot be made.
        """
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            said = os.read(self._fd, 4096)
            os.close(self._fd)
            raise VolumeLockedError(_held_by(path, said)) from None
        except OSError:
            os.close(self._fd)
            raise
        # What it says helps people only; a full disk must not keep a daemon
        # from starting that could hand files over and so make room.
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, json.dumps(holder).encode() + b"\n", 0)

    def release(self) -> None:
        """Give the lock back; harmless when repeated."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _held_by(path: Path, said: bytes) -> str:
    try:
        holder = json.loads(said)
        who = ", ".join(f"{key} {value}" for key, value in holder.items())
    except (ValueError, AttributeError):
        who = "an unknown process"
    return f"{path.parent} is in use by {who}"
