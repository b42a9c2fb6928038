"""Files for tests: any size, made block by block, and every block unlike every other of every file.

So a byte at the wrong place, of another file or of nowhere is always seen, whatever its file's length is.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

BLOCK_BYTES = 64 * 1024
_HEAD_BYTES = 32


@dataclass(frozen=True)
class Content:
    """The content of a file of *size_bytes*; another *seed* makes another content."""

    seed: int
    size_bytes: int

    def read(self, offset: int, size_bytes: int) -> bytes:
        """Return up to *size_bytes* from *offset* on; less only at the end."""
        end = min(offset + size_bytes, self.size_bytes)
        if end <= offset:
            return b""
        first = offset // BLOCK_BYTES
        last = (end - 1) // BLOCK_BYTES
        joined = b"".join(self._block(index) for index in range(first, last + 1))
        return joined[offset - first * BLOCK_BYTES : end - first * BLOCK_BYTES]

    def blocks(self, offset: int = 0, size_bytes: int = 4 * BLOCK_BYTES) -> Iterator[bytes]:
        """Yield the content from *offset* to the end in pieces of up to *size_bytes*."""
        while offset < self.size_bytes:
            piece = self.read(offset, size_bytes)
            yield piece
            offset += len(piece)

    def sha256(self) -> str:
        """Return the SHA-256 of the whole as hex."""
        digest = hashlib.sha256()
        for piece in self.blocks(size_bytes=16 * BLOCK_BYTES):
            digest.update(piece)
        return digest.hexdigest()

    def write(self, path: Path) -> Path:
        """Write the whole to *path* and return it."""
        with path.open("wb") as file:
            for piece in self.blocks(size_bytes=16 * BLOCK_BYTES):
                file.write(piece)
        return path

    def _block(self, index: int) -> bytes:
        head = hashlib.sha256(f"{self.seed}/{index}".encode()).digest()
        # Rotating by the index keeps two blocks apart over their whole length, at the price of a copy.
        turn = (self.seed * 7919 + index * 104_729) % (BLOCK_BYTES - _HEAD_BYTES)
        return head + _TILE[turn : turn + BLOCK_BYTES - _HEAD_BYTES]


_TILE = random.Random(20261123).randbytes(2 * BLOCK_BYTES)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of the file at *path* as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
