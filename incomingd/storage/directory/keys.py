"""Keys that lead to uploads: of racing instances, one binds a key; all of it blocks.

::

    keys/<2>/<digest>               the upload's id, where one process holds the volume alone
    keys/<2>/<digest>.bound/<n>     the same, for the n-th time: made once, never replaced; the highest counts.
                                    Empty: the key is forgotten
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import time
from typing import TYPE_CHECKING, Final

from incomingd.core import ids
from incomingd.storage.directory import files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

GROUP_CHARS: Final = 2
FORGOTTEN_S: Final = 3600.0
"""For so long a forgotten key keeps its number: whoever saw the one before may still be about to bind it."""
_BINDINGS: Final = ".bound"


class KeyFiles:
    """Reads and writes them."""

    def __init__(
        self, root: Path, *, token: str, numbered: bool, durable: bool, sync_group: Callable[[Path], None]
    ) -> None:
        """Set it up.

        Args:
            root: where they stand.
            token: that no other run has.
            numbered: others may bind keys at the same time.
            durable: what is bound survives a power loss.
            sync_group: syncs a group of keys, and that group's own name where it must be.
        """
        self._root = root
        self._token = token
        self._numbered = numbered
        self._durable = durable
        self._sync_group = sync_group
        self._count = itertools.count()

    def find(self, key: str) -> str | None:
        """Return the id that *key* is bound to."""
        path = self._path(key)
        if self._numbered:
            numbers = _numbers(_bindings(path))
            if numbers:
                return _id_at(_bindings(path) / str(numbers[-1]))
        return _id_at(path)

    def bind(self, key: str, upload_id: str, *, instead_of: str | None) -> str:
        """Bind *key*; see :class:`incomingd.storage.volume.Volume`."""
        path = self._path(key)
        while True:
            numbers = _numbers(_bindings(path)) if self._numbered else []
            bound = _id_at(_bindings(path) / str(numbers[-1])) if numbers else _id_at(path)
            if bound not in (None, instead_of):
                return bound or ""
            path.parent.mkdir(exist_ok=True)
            if not self._numbered:
                self._replace(path, upload_id)
                return upload_id
            if self._add(path, numbers[-1] + 1 if numbers else 1, upload_id):
                return upload_id

    def _replace(self, path: Path, upload_id: str) -> None:
        files.write_atomically(path, _line(upload_id), sync=self._durable, whole=self._durable)
        if self._durable:
            self._sync_group(path.parent)

    def _add(self, path: Path, number: int, upload_id: str) -> bool:
        """Bind it for the time *number*; return whether nobody else was first."""
        folder = _bindings(path)
        folder.mkdir(mode=0o700, exist_ok=True)
        fresh = path.with_name(f"{path.name}.{self._token}-{next(self._count)}.new")
        try:
            files.write_whole(fresh, _line(upload_id), sync=self._durable)
            if not _link(fresh, folder / str(number)):
                return False
        finally:
            with contextlib.suppress(OSError):
                fresh.unlink()
        if self._durable:
            files.sync_directory(folder)
            self._sync_group(path.parent)
        return True

    def forget(self, known: Callable[[str], bool]) -> None:
        """Forget the keys of which the upload is not *known* any more."""
        for path in self._root.glob("*/*"):
            with contextlib.suppress(FileNotFoundError):
                if path.suffix == _BINDINGS:
                    self._forget_bindings(path, known)
                elif path.suffix == ".new":
                    if self._numbered and _age_s(path) > FORGOTTEN_S:
                        path.unlink()
                else:
                    bound = _id_at(path)
                    if bound is None or not known(bound):
                        path.unlink()

    def _forget_bindings(self, folder: Path, known: Callable[[str], bool]) -> None:
        numbers = _numbers(folder)
        for number in numbers[:-1]:
            files.unlink_if_there(folder / str(number))
        last = folder / str(numbers[-1]) if numbers else None
        if last is None:
            with contextlib.suppress(OSError):
                folder.rmdir()
            return
        bound = _id_at(last)
        if bound is not None and not known(bound):
            # By the same exclusive creation as a binding: whoever binds it just now wins or comes after.
            with contextlib.suppress(FileExistsError):
                os.close(os.open(folder / str(numbers[-1] + 1), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        elif bound is None and _age_s(last) > FORGOTTEN_S:
            last.unlink()
            with contextlib.suppress(OSError):
                folder.rmdir()

    def _path(self, key: str) -> Path:
        digest = hashlib.sha256(key.encode("utf-8")).hexdigest()
        return self._root / digest[:GROUP_CHARS] / digest


def _bindings(path: Path) -> Path:
    return path.with_name(path.name + _BINDINGS)


def _numbers(folder: Path) -> list[int]:
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    return sorted(int(name) for name in names if name.isascii() and name.isdigit())


def _id_at(path: Path) -> str | None:
    try:
        text = path.read_text("ascii").strip()
    except (FileNotFoundError, UnicodeDecodeError):
        return None
    return text if ids.is_upload_id(text) else None


def _line(upload_id: str) -> bytes:
    return upload_id.encode("ascii") + b"\n"


def _link(fresh: Path, name: Path) -> bool:
    """Give *fresh* a second name; return False where that is taken, or its folder has just been deleted."""
    try:
        os.link(fresh, name)
    except OSError as error:
        with contextlib.suppress(FileNotFoundError):
            if os.path.samefile(fresh, name):
                # The answer to an attempt that succeeded was lost.
                return True
        if isinstance(error, FileExistsError) or (isinstance(error, FileNotFoundError) and not name.parent.exists()):
            return False
        raise
    return True


def _age_s(path: Path) -> float:
    return time.time() - path.stat().st_mtime
