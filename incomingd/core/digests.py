"""Names and sizes of the digests that clients may send."""

from __future__ import annotations

from typing import Final

ALGORITHMS: Final[dict[str, int]] = {
    "sha1": 20,
    "md5": 16,
    "crc32": 4,
    "crc32c": 4,
    "sha256": 32,
    "sha512": 64,
}
"""Name -> size of the digest in bytes, in the order in which they are offered."""
