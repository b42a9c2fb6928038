"""Files that hold secrets, one a line: the twins of secret keys."""

import stat
from pathlib import Path
from typing import Final

FILE_BYTES_MAX: Final = 1 << 20


def read_secrets(path: Path) -> list[str]:
    """Read the entries of a file: one a line; empty lines and those that begin with `#` do not count.

    Raises ValueError with a sentence that shows nothing of the file.
    """
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror}"
        raise ValueError(msg) from None
    if len(content) > FILE_BYTES_MAX:
        msg = f"{path} is larger than {FILE_BYTES_MAX >> 20} MiB"
        raise ValueError(msg)
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        msg = f"{path} is not UTF-8 text"
        raise ValueError(msg) from None
    entries = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not entries:
        msg = f"{path} holds no entry"
        raise ValueError(msg)
    return entries


def readable_by_others(path: Path) -> bool:
    """Whether users other than the file's owner and group may read it; nobody can where it is not there."""
    try:
        return bool(path.stat().st_mode & stat.S_IROTH)
    except OSError:
        return False
