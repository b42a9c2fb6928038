"""The digests of an upload's blocks, as they stand in a file beside its record.

::

    8 bytes   "incblock"
    4 bytes   version of this format, 1
    4 bytes   size of a block in bytes, 8 MiB
    36 bytes  for each block from the first one on, without a gap:
              its SHA-256 (32), CRC-32 of its number and that (4)

Numbers are unsigned, most significant byte first. How many there are follows
from the length. The file is never synced: what a power loss leaves of an entry
does not fit its CRC, and ends the list. A block that is not full yet has none.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

BLOCK_BYTES: Final = 8 * 1024 * 1024
"""Block n is bytes ``[n * BLOCK_BYTES, (n + 1) * BLOCK_BYTES)`` of the upload."""
VERSION: Final = 1
_HEADER: Final = struct.Struct(">8sII")
_ENTRY: Final = struct.Struct(">32sI")
_NUMBER: Final = struct.Struct(">Q")
_BEGINNING: Final = _HEADER.pack(b"incblock", VERSION, BLOCK_BYTES)


def place_of(number: int) -> int:
    """Return where in the file the entry of block *number* begins; the header comes with that of block 0."""
    return _HEADER.size + number * _ENTRY.size if number else 0


def encode(digests: Sequence[bytes], *, first: int = 0) -> bytes:
    """Return what stands at the place of block *first*, for the SHA-256 of it and of those behind it."""
    entries = [_ENTRY.pack(each, _check(number, each)) for number, each in enumerate(digests, first)]
    return b"".join([b"" if first else _BEGINNING, *entries])


def decode(data: bytes) -> list[bytes]:
    """Return the SHA-256 of the blocks from the first one on, as far as the file *data* vouches for them.

    What is of another version, or damaged, vouches for nothing: it is computed anew.
    """
    if data[: _HEADER.size] != _BEGINNING:
        return []
    found: list[bytes] = []
    for at in range(_HEADER.size, len(data) - _ENTRY.size + 1, _ENTRY.size):
        digest, check = _ENTRY.unpack_from(data, at)
        if check != _check(len(found), digest):
            break
        found.append(digest)
    return found


def _check(number: int, digest: bytes) -> int:
    return zlib.crc32(_NUMBER.pack(number) + digest)
