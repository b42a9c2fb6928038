"""The process behind :mod:`tests.support.slowfs`: serves the file system until it is unmounted or killed."""

from __future__ import annotations

import errno
import os
import sys
import threading
from typing import Any

import mfusepy  # type: ignore[import-untyped] # comes without types

ATTRIBUTES = (
    "st_atime_ns", "st_blocks", "st_ctime_ns", "st_dev", "st_gid", "st_ino", "st_mode", "st_mtime_ns", "st_nlink",
    "st_size", "st_uid",
)  # fmt: skip


class Files(mfusepy.Operations):  # type: ignore[misc] # comes without types
    use_ns = True

    def __init__(self, shown: str, *, remembers_missing: bool) -> None:
        self._shown = shown
        self._remembers_missing = remembers_missing
        self._guard = threading.Lock()
        self._late: dict[tuple[int, int], list[tuple[int, bytes]]] = {}
        self._missing: set[str] = set()
        self._linked: set[str] = set()

    def _path(self, path: str) -> str:
        return self._shown + path

    def _made(self, path: str) -> None:
        with self._guard:
            self._missing.discard(path)

    # -- names

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        with self._guard:
            if path in self._linked:
                # FUSE itself asks, to answer the link.
                self._linked.remove(path)
            elif path in self._missing:
                raise FileNotFoundError(errno.ENOENT, path)
        try:
            status = os.lstat(self._path(path)) if fh is None else os.fstat(fh)
        except FileNotFoundError:
            if self._remembers_missing:
                with self._guard:
                    self._missing.add(path)
            raise
        return {name.removesuffix("_ns"): getattr(status, name) for name in ATTRIBUTES}

    def readdir(self, path: str, fh: int) -> list[tuple[str, dict[str, int], int]]:
        with os.scandir(self._path(path)) as entries:
            return [(entry.name, {"st_ino": entry.inode()}, 0) for entry in entries]

    def mkdir(self, path: str, mode: int) -> int:
        os.mkdir(self._path(path), mode)
        self._made(path)
        return 0

    def link(self, target: str, source: str) -> int:
        os.link(self._path(source), self._path(target))
        with self._guard:
            self._linked.add(target)
        return 0

    def rename(self, old: str, new: str) -> int:
        os.rename(self._path(old), self._path(new))
        self._made(new)
        return 0

    def unlink(self, path: str) -> int:
        os.unlink(self._path(path))
        return 0

    def rmdir(self, path: str) -> int:
        os.rmdir(self._path(path))
        return 0

    def chmod(self, path: str, mode: int) -> int:
        os.chmod(self._path(path), mode)
        return 0

    def chown(self, path: str, uid: int, gid: int) -> int:
        os.chown(self._path(path), uid, gid)
        return 0

    def statfs(self, path: str) -> dict[str, int]:
        status = os.statvfs(self._path(path))
        names = ("f_bavail", "f_bfree", "f_blocks", "f_bsize", "f_frsize", "f_namemax")
        return {name: getattr(status, name) for name in names}

    # -- bytes

    def create(self, path: str, mode: int, fi: Any = None) -> int:
        fd = os.open(self._path(path), os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
        self._made(path)
        return fd

    def open(self, path: str, flags: int) -> int:
        return os.open(self._path(path), (flags & ~(os.O_ACCMODE | os.O_APPEND | os.O_NOFOLLOW)) | os.O_RDWR)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        data = bytearray(os.pread(fh, size, offset))
        with self._guard:
            for at, piece in self._late.get(self._key(fh), ()):
                start, stop = max(at, offset), min(at + len(piece), offset + len(data))
                if start < stop:
                    data[start - offset : stop - offset] = piece[start - at : stop - at]
        return bytes(data)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        with self._guard:
            if os.fstat(fh).st_size < offset + len(data):
                os.ftruncate(fh, offset + len(data))
            self._late.setdefault(self._key(fh), []).append((offset, data))
        return len(data)

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        fd = os.open(self._path(path), os.O_RDWR) if fh is None else os.dup(fh)
        try:
            self._deliver(fd)
            os.ftruncate(fd, length)
        finally:
            os.close(fd)
        return 0

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        self._deliver(fh)
        return 0

    def flush(self, path: str, fh: int) -> int:
        self._deliver(fh)
        return 0

    def release(self, path: str, fh: int) -> int:
        self._deliver(fh)
        os.close(fh)
        return 0

    def fsyncdir(self, path: str, datasync: int, fh: int) -> int:
        return 0

    def _key(self, fd: int) -> tuple[int, int]:
        status = os.fstat(fd)
        return status.st_dev, status.st_ino

    def _deliver(self, fd: int) -> None:
        with self._guard:
            for at, piece in self._late.pop(self._key(fd), ()):
                os.pwrite(fd, piece, at)


def main(shown: str, mount: str, remembers_missing: str) -> None:
    """Mount it at *mount*, showing the directory *shown*."""
    files = Files(shown, remembers_missing=remembers_missing == "True")
    # The kernel keeps nothing of what it is told.
    nothing = {"direct_io": True, "attr_timeout": 0, "entry_timeout": 0, "negative_timeout": 0}
    own = {"fsname": "slow", "subtype": "slow", "use_ino": True, "hard_remove": True, "default_permissions": True}
    mfusepy.FUSE(files, mount, foreground=True, **own, **nothing)


if __name__ == "__main__":
    main(*sys.argv[1:])
