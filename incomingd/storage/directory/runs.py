"""Which runs of instances are over, told by the kernel: process ids lie between containers, locks do not.

::

    instances/<start id>.lock   locked by that run for its whole life; says under which boot of a kernel it lives,
                                and by which mount it came here
    instances/<start id>.over   that run is over: it closed the volume, or somebody has shown that it is gone

The file of a run is locked before it gets its name, so one that is there and
free is that of a run that is over, where this kernel knows all locks: on a local
file system, or where the run lived under this very kernel and came by this very
mount, whose locks may end with it. What is not there shows nothing: the run may
never have been here, or a person has deleted its file.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
from typing import TYPE_CHECKING, Final

from incomingd.storage.directory.files import PartialWriteError, write_all
from incomingd.storage.directory.lock import told

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OVER_MAX: Final = 1000
"""So many runs that are over are remembered; of one that is forgotten nothing is shown any more."""
_START_ID: Final = re.compile(r"[0-9A-Za-z_-]{1,128}")


_REACH: Final = ("boot_id", "device")


class Runs:
    """The files of all runs in one volume; all of it blocks."""

    def __init__(self, directory: Path, *, boot_id: str, network: bool) -> None:
        """Read them.

        Args:
            directory: where they stand.
            boot_id: of the running kernel.
            network: whether other kernels may hold locks that this one does not see.
        """
        self._directory = directory
        self._boot_id = boot_id
        self._network = network
        self._start_id = ""
        self._fd = -1

    def enter(self, start_id: str, holder: dict[str, object]) -> None:
        """Say that the run *start_id* lives, until :meth:`leave` or the end of the process.

        Raises:
            OSError: it cannot be said.
        """
        assert _START_ID.fullmatch(start_id), start_id
        while self._fd < 0:
            fresh = self._directory / f".{start_id}.{secrets.token_hex(4)}.new"
            fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                # The kernel's own file, which nobody else knows yet but one that sweeps.
                fcntl.flock(fd, fcntl.LOCK_EX)
                text = json.dumps({**holder, **self._reach(fd)}).encode() + b"\n"
                with contextlib.suppress(PartialWriteError):
                    # On a full disk it says nothing, and shows nothing to other boots; the lock holds all the same.
                    write_all(fd, text, 0)
                os.rename(fresh, self._lock_path(start_id))
            except FileNotFoundError:
                # Swept as what a crash had left, in the moment before it was locked.
                os.close(fd)
            except BaseException:
                os.close(fd)
                with contextlib.suppress(OSError):
                    fresh.unlink()
                raise
            else:
                self._fd, self._start_id = fd, start_id

    def leave(self) -> None:
        """Say that this run writes nothing here any more. Harmless when repeated; never raises."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                os.rename(self._lock_path(self._start_id), self._over_path(self._start_id))
            with contextlib.suppress(OSError):
                os.close(self._fd)
            self._fd = -1

    def gone(self, start_id: str) -> bool:
        """Return whether it is shown that the run *start_id* is over."""
        if not _START_ID.fullmatch(start_id) or (self._fd >= 0 and start_id == self._start_id):
            return False
        try:
            fd = os.open(self._lock_path(start_id), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return self._over_path(start_id).exists()
        try:
            return self._free(fd) and (not self._network or self._reach(fd).items() <= _holder(fd).items())
        finally:
            os.close(fd)

    def sweep(self) -> None:
        """Note which runs are over, and forget the oldest of many; never raises."""
        with contextlib.suppress(OSError):
            for name in os.listdir(self._directory):
                start_id, dot, kind = name.rpartition(".")
                if dot and kind == "lock" and self.gone(start_id):
                    with contextlib.suppress(OSError):
                        os.rename(self._lock_path(start_id), self._over_path(start_id))
                elif dot and kind == "new":
                    self._drop_if_free(self._directory / name)
            self._forget()

    def _forget(self) -> None:
        ended = []
        for path in self._directory.iterdir():
            # On a network there may be those of whom nothing will ever be shown.
            if path.suffix in (".over", ".lock"):
                with contextlib.suppress(OSError):
                    ended.append((path.stat().st_mtime_ns, path))
        for _, path in sorted(ended)[:-OVER_MAX]:
            if path.suffix == ".over":
                with contextlib.suppress(OSError):
                    path.unlink()
            else:
                self._drop_if_free(path)

    def _drop_if_free(self, path: Path) -> None:
        with contextlib.suppress(OSError):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if self._free(fd):
                    path.unlink()
            finally:
                os.close(fd)

    def living(self) -> list[str]:
        """Return who is here now, as people read it."""
        return sorted(self._living())

    def _living(self) -> Iterator[str]:
        for path in self._directory.glob("*.lock"):
            with contextlib.suppress(OSError):
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    if not self._free(fd):
                        yield told({key: value for key, value in _holder(fd).items() if key not in _REACH})
                finally:
                    os.close(fd)

    def _reach(self, fd: int) -> dict[str, object]:
        """Return how far the locks of this process reach: another one's lock is seen where it says the same."""
        return {"boot_id": self._boot_id, "device": os.fstat(fd).st_dev}

    def _free(self, fd: int) -> bool:
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _lock_path(self, start_id: str) -> Path:
        return self._directory / f"{start_id}.lock"

    def _over_path(self, start_id: str) -> Path:
        return self._directory / f"{start_id}.over"


def _holder(fd: int) -> dict[str, object]:
    try:
        found = json.loads(os.pread(fd, 4096, 0))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
