"""The system's file calls, watched and disturbed: the n-th fails, blocks, or is the last one of the process."""

from __future__ import annotations

import contextlib
import io
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

CALLS = (
    "chmod",
    "chown",
    "copy_file_range",
    "fchmod",
    "fchown",
    "fdatasync",
    "fstat",
    "fsync",
    "ftruncate",
    "link",
    "listdir",
    "mkdir",
    "open",
    "pread",
    "pwrite",
    "replace",
    "rmdir",
    "scandir",
    "stat",
    "statvfs",
    "truncate",
    "unlink",
)
# Those that change what a later process finds.
CHANGING = frozenset(
    {
        "chmod", "chown", "copy_file_range", "fchmod", "fchown", "fdatasync", "fsync", "ftruncate", "link", "mkdir",
        "open", "pwrite", "replace", "rmdir", "truncate", "unlink",
    }
)  # fmt: skip


class KilledError(BaseException):
    """The process would be gone now; nobody catches this."""


class Disturbed:
    """Every file call of this process goes through `before`, which may raise or block."""

    def __init__(self) -> None:
        self.made: list[tuple[str, tuple[Any, ...]]] = []
        self.threads: set[threading.Thread] = set()
        self.before: Callable[[str, tuple[Any, ...]], None] = lambda name, args: None
        self.instead: dict[str, Callable[..., Any]] = {}
        self._guard = threading.Lock()

    def call(self, name: str, real: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with self._guard:
            self.made.append((name, args))
            self.threads.add(threading.current_thread())
        self.before(name, args)
        return self.instead.get(name, real)(*args, **kwargs)

    def names(self) -> list[str]:
        return [name for name, _ in self.made]


@contextlib.contextmanager
def disturbed() -> Iterator[Disturbed]:
    """Watch the file calls within; give what disturbs them."""
    watch = Disturbed()

    def wrap(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            return watch.call(name, real, args, kwargs)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, wrap(name, getattr(os, name)))
        # pathlib reads files this way.
        patch.setattr(io, "open", wrap("open", io.open))
        yield watch


def dying_at(number: int) -> Callable[[str, tuple[Any, ...]], None]:
    """Have the changing call *number*, and all after it, not be made any more."""
    count = 0
    guard = threading.Lock()

    def before(name: str, args: tuple[Any, ...]) -> None:
        nonlocal count
        if name not in CHANGING:
            return
        with guard:
            count += 1
            if count > number:
                raise KilledError

    return before


def failing_at(number: int, error: OSError) -> Callable[[str, tuple[Any, ...]], None]:
    """Have the call *number* fail, and only that one."""
    count = 0
    guard = threading.Lock()

    def before(name: str, args: tuple[Any, ...]) -> None:
        nonlocal count
        with guard:
            count += 1
            if count == number + 1:
                raise error

    return before
