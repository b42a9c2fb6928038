"""Making one file of an upload's segments; all of it blocks."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from incomingd.storage.directory.files import create_fresh, sync_directory, unlink_if_there
from incomingd.storage.directory.segment import RESERVE_BYTES
from incomingd.storage.volume import VolumeUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

_COPY_BYTES: Final = 64 * 1024 * 1024
"""For one call of copy_file_range: a stop interrupts between two."""
_NO_KERNEL_COPY: Final = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF})


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes ``[skip, skip + size)`` of the segment at *path*."""

    path: Path
    skip: int
    size: int
    contested: bool = False
    """Somebody who was taken for dead may still write behind the end: it never becomes the file itself."""


def join_pieces(
    pieces: Sequence[Piece],
    target: Path,
    *,
    fresh: Path,
    mode: int,
    group: int | None,
    sync: bool,
    interrupted: Callable[[], bool] = lambda: False,
) -> None:
    """Make *target* of *pieces*, one behind the other, a copy under the name *fresh* first; repeatable.

    *interrupted* is asked between two runs of bytes: a copy of many gigabytes
    must not hold up a stop.

    One piece that is a whole segment becomes the target by a second name for
    the same file, without a copy.
    """
    if len(pieces) == 1 and pieces[0].skip == 0 and not pieces[0].contested:
        _join_by_name(pieces[0], target, mode=mode, group=group, sync=sync)
    else:
        _join_by_copy(pieces, target, fresh, mode=mode, group=group, sync=sync, interrupted=interrupted)
    if sync:
        sync_directory(target.parent)


def _join_by_name(piece: Piece, target: Path, *, mode: int, group: int | None, sync: bool) -> None:
    fd = os.open(piece.path, os.O_RDWR | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if status.st_size < piece.size:
            msg = f"segment {piece.path.name} has {status.st_size} bytes of {piece.size}"
            raise VolumeUnavailableError(msg)
        if status.st_size > piece.size or status.st_blocks * 512 > piece.size + RESERVE_BYTES:
            # Room that was reserved for bytes that never came goes, too.
            os.ftruncate(fd, piece.size)
        _give(fd, mode=mode, group=group)
        if sync:
            os.fsync(fd)
    finally:
        os.close(fd)
    try:
        os.link(piece.path, target)
    except FileExistsError:
        # Not through a link, which a web app may put there: the segment is deleted next.
        if os.path.samestat(os.lstat(piece.path), os.lstat(target)):
            return
        unlink_if_there(target)
        os.link(piece.path, target)


def _join_by_copy(
    pieces: Sequence[Piece],
    target: Path,
    fresh: Path,
    *,
    mode: int,
    group: int | None,
    sync: bool,
    interrupted: Callable[[], bool],
) -> None:
    out = create_fresh(fresh)
    try:
        at = 0
        for piece in pieces:
            source = os.open(piece.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                _copy(source, out, piece, at, interrupted)
            finally:
                os.close(source)
            at += piece.size
        _give(out, mode=mode, group=group)
        if sync:
            os.fsync(out)
    except BaseException:
        # What a full disk left of a copy would keep it full, for everybody, until the next attempt and after it.
        unlink_if_there(fresh)
        raise
    finally:
        os.close(out)
    os.replace(fresh, target)


def _copy(source: int, out: int, piece: Piece, at: int, interrupted: Callable[[], bool]) -> None:
    done = 0
    in_kernel = True
    while done < piece.size:
        if interrupted():
            raise VolumeUnavailableError("interrupted by a stop; it is done again")
        size = min(piece.size - done, _COPY_BYTES)
        if in_kernel:
            try:
                copied = os.copy_file_range(source, out, size, piece.skip + done, at + done)
            except OSError as error:
                if error.errno not in _NO_KERNEL_COPY:
                    raise
                in_kernel = False
                continue
        else:
            data = os.pread(source, min(size, 1024 * 1024), piece.skip + done)
            copied = os.pwrite(out, data, at + done) if data else 0
        if copied == 0:
            msg = f"segment {piece.path.name} ends {piece.size - done} bytes early"
            raise VolumeUnavailableError(msg)
        done += copied


def _give(fd: int, *, mode: int, group: int | None) -> None:
    if group is not None:
        os.fchown(fd, -1, group)
    os.fchmod(fd, mode)
