"""Whether several processes can share a directory: tried, since options and documentation do not tell; blocks.

What is tried here is tried through one mount. That names which another host
makes are seen at once cannot be tried alone: :mod:`mounts` reads it from the
options.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from incomingd.storage.directory.files import create_fresh

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor
    from pathlib import Path

RACERS: Final = 4
ROUNDS: Final = 6
_ANSWER_S: Final = 60.0
"""A racer that the file system holds back for longer lets the others go on without it."""


class UnfitError(Exception):
    """The file system does not keep what sharing rests on; the text says what."""


def probe(directory: Path) -> None:
    """Try all that sharing rests on, in the empty *directory*, which is deleted at the end.

    Raises:
        UnfitError: it does not hold.
        OSError: it could not be tried.
    """
    directory.mkdir(mode=0o700)
    try:
        _look_after_making(directory)
        _replace(directory)
        _locks(directory)
        with ThreadPoolExecutor(RACERS, thread_name_prefix="probe") as pool:
            for number in range(ROUNDS):
                _race(pool, directory, number, _linked)
                _race(pool, directory, number, _opened)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _look_after_making(directory: Path) -> None:
    """A name that was missed and then made is seen at once; one that was there and then deleted is missed."""
    source, name = directory / "source", directory / "looked-for"
    os.close(create_fresh(source))
    if _there(name):
        raise UnfitError("it shows a name that was never made")
    try:
        os.link(source, name)
    except OSError as error:
        msg = f"it cannot give a file a second name: {error.strerror}"
        raise UnfitError(msg) from error
    if not _there(name):
        raise UnfitError("it remembers missing names: a claim would be seen too late")
    if name.name not in os.listdir(directory):
        raise UnfitError("a list of its names lacks one that was just made")
    try:
        os.link(source, name)
    except FileExistsError:
        pass
    else:
        raise UnfitError("it gives one name to two files")
    name.unlink()
    if _there(name):
        raise UnfitError("it shows a name that was deleted")


def _replace(directory: Path) -> None:
    """A file that replaces another is the one that is read."""
    fresh, name = directory / "fresh", directory / "replaced"
    for said in (b"one", b"two"):
        fd = create_fresh(fresh)
        try:
            os.write(fd, said)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(fresh, name)
        if name.read_bytes() != said:
            raise UnfitError("a file that was replaced is still read")


def _locks(directory: Path) -> None:
    """What one holds locked nobody else can lock."""
    path = directory / "locked"
    with contextlib.ExitStack() as stack:
        fds = []
        for _ in range(2):
            fds.append(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            stack.callback(os.close, fds[-1])
        try:
            fcntl.flock(fds[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            msg = f"it has no locks: {error.strerror}"
            raise UnfitError(msg) from error
        for how in (fcntl.LOCK_EX, fcntl.LOCK_SH):
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(fds[1], how | fcntl.LOCK_NB)
                raise UnfitError("it gives one lock to two")


def _race(pool: Executor, directory: Path, number: int, make: Callable[[Path, Path, bytes], bool]) -> None:
    """Of all that make one name at the same time, one succeeds, and all see that one's file."""
    name = directory / f"{make.__name__}-{number}"
    start = threading.Barrier(RACERS, timeout=_ANSWER_S)

    def run(racer: int) -> bool:
        mine = directory / f"{name.name}.{racer}"
        start.wait()
        return make(name, mine, b"%d" % racer)

    won = [racer for racer, first in enumerate(pool.map(run, range(RACERS))) if first]
    if len(won) != 1:
        msg = f"of {RACERS} that made one file at the same time, {len(won)} were told that they were first"
        raise UnfitError(msg)
    if name.read_bytes() != b"%d" % won[0]:
        raise UnfitError("the file of one that came second is read")


def _linked(name: Path, mine: Path, said: bytes) -> bool:
    fd = create_fresh(mine)
    try:
        os.write(fd, said)
    finally:
        os.close(fd)
    try:
        os.link(mine, name)
    except FileExistsError:
        return False
    return True


def _opened(name: Path, mine: Path, said: bytes) -> bool:
    del mine
    try:
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return False
    try:
        os.write(fd, said)
    finally:
        os.close(fd)
    return True


def _there(path: Path) -> bool:
    try:
        os.stat(path)
    except FileNotFoundError:
        return False
    return True
