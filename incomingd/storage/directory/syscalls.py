"""Two calls of Linux that Python does not have; both block, and both are help, not promises.

``os.posix_fallocate`` makes the file longer, and its length is how many bytes
count; so fallocate(2) is called with ``FALLOC_FL_KEEP_SIZE``. sync_file_range(2)
starts the writing of a range that is still in memory.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Any, Final

_KEEP_SIZE: Final = 0x01
_WAIT_BEFORE: Final = 0x01
_WRITE: Final = 0x02
_NOT_OFFERED: Final = frozenset({errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.ENODEV, errno.ESPIPE})
"""What a kernel or a file system says that has no such call."""


def _find(*names: str) -> Any:
    library = ctypes.CDLL(None, use_errno=True)
    for name in names:
        found = getattr(library, name, None)
        if found is not None:
            found.restype = ctypes.c_int
            return found
    return None


_fallocate = _find("fallocate64", "fallocate")
if _fallocate is not None:
    _fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_sync_file_range = _find("sync_file_range")
if _sync_file_range is not None:
    _sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)


def _call(function: Any, *args: int) -> bool:
    """Return whether there is such a call; what else goes wrong is raised."""
    if function is None:
        return False
    while function(*args) != 0:
        error = ctypes.get_errno()
        if error in _NOT_OFFERED:
            return False
        if error != errno.EINTR:
            raise OSError(error, os.strerror(error))
    return True


def reserve(fd: int, start: int, size: int) -> bool:
    """Have room for bytes ``[start, start + size)`` of a file kept for it; its length stays.

    Returns:
        Whether the file system can do that.

    Raises:
        OSError: ENOSPC above all; a part may be kept all the same.
    """
    return _call(_fallocate, fd, _KEEP_SIZE, start, size)


def begin_writing(fd: int, start: int, size: int) -> bool:
    """Begin to bring bytes ``[start, start + size)`` to the disk; return whether that can be done.

    Raises:
        OSError: they cannot be written.
    """
    return _call(_sync_file_range, fd, start, size, _WRITE)


def wait_written(fd: int, start: int, size: int) -> bool:
    """Wait until what was begun of ``[start, start + size)`` is written; return whether that can be done.

    Not durable yet: neither the file's length nor the disk's own cache is seen
    to. An error that this raises is *not told again* by a later fdatasync of
    the same open file.

    Raises:
        OSError: they could not be written.
    """
    return _call(_sync_file_range, fd, start, size, _WAIT_BEFORE)
