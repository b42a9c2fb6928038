"""Small file operations that hold what they promise; all of them block."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING, Final

from incomingd.storage.volume import VolumeError, VolumeFullError, VolumeUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def as_volume_error(error: OSError, what: str) -> VolumeError:
    """Return the volume's own error for what the system said."""
    text = f"{what}: {error.strerror or error}"
    if error.errno in NO_ROOM:
        return VolumeFullError(text)
    return VolumeUnavailableError(text)


@contextlib.contextmanager
def translated(what: str) -> Iterator[None]:
    """Let no OSError out: it becomes a :class:`VolumeError` that says *what* failed."""
    try:
        yield
    except OSError as error:
        raise as_volume_error(error, what) from error


def sync_directory(path: Path) -> None:
    """Return when the names in the directory would survive a power loss."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_all(fd: int, data: bytes | memoryview, at: int) -> int:
    """Write *data* at the offset *at*; return how many bytes were written.

    Fewer than all only together with an error, which is then the second value
    of a :class:`PartialWriteError`.
    """
    view = memoryview(data)
    done = 0
    while done < len(view):
        try:
            done += os.pwrite(fd, view[done:], at + done)
        except OSError as error:
            raise PartialWriteError(done, error) from error
    return done


class PartialWriteError(Exception):
    """A write that stopped: so many bytes were written before the error."""

    def __init__(self, written: int, error: OSError) -> None:
        super().__init__(str(error))
        self.written = written
        self.error = error


def write_atomically(
    path: Path, data: bytes, *, sync: bool, whole: bool = True, mode: int = 0o600, fresh: Path | None = None
) -> None:
    """Replace the file at *path* as a whole, or leave it as it was.

    The new content gets another name first. Where nobody else writes in this
    directory at the same time one name for it is enough, and what a crash
    leaves of it is overwritten by the next write.

    Args:
        path: of the file.
        data: its new content.
        sync: return only when it would survive a power loss.
        whole: after a power loss there is the old content or the new one; else
            there may be an empty file, since a name can reach the disk before
            the bytes.
        mode: of the file.
        fresh: the other name; None: that of the file with `.new` behind it.
    """
    if fresh is None:
        fresh = path.with_name(path.name + ".new")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        try:
            write_all(fd, data, 0)
        except PartialWriteError as partial:
            raise partial.error from partial
        if sync or whole:
            os.fdatasync(fd)
    finally:
        os.close(fd)
    os.replace(fresh, path)
    if sync:
        sync_directory(path.parent)


def write_whole(path: Path, data: bytes, *, sync: bool) -> None:
    """Have a new file at *path* hold *data*; what stood there before is gone."""
    fd = create_fresh(path)
    try:
        try:
            write_all(fd, data, 0)
        except PartialWriteError as partial:
            raise partial.error from partial
        if sync:
            os.fdatasync(fd)
    finally:
        os.close(fd)


def create_fresh(path: Path) -> int:
    """Open a new, empty file at *path* for writing; what stood there before is gone.

    Also for directories that others may write to: what they put there, such as
    a link to one of our own files, is never opened.
    """
    unlink_if_there(path)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def unlink_if_there(path: Path) -> bool:
    """Delete the file at *path*; return whether there was one."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True


def boot_id() -> str:
    """Return the id of the running kernel's boot; empty where there is none."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""
