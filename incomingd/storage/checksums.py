"""Digest algorithms that an append may be checked with."""

from __future__ import annotations

import hashlib
import zlib
from typing import TYPE_CHECKING, Final, Protocol

import google_crc32c

if TYPE_CHECKING:
    from collections.abc import Callable


class Digest(Protocol):
    """A digest of the bytes seen so far."""

    def update(self, data: bytes | memoryview, /) -> None:
        """See further bytes."""

    def digest(self) -> bytes:
        """Return the digest of all bytes seen."""


class _Crc32:
    """CRC-32 as in Ethernet and zip; 4 bytes, most significant first."""

    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes | memoryview, /) -> None:
        self._value = zlib.crc32(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(4, "big")


class _Crc32c:
    """CRC-32C (Castagnoli, RFC 9260 appendix A); 4 bytes, most significant first."""

    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes | memoryview, /) -> None:
        # That library takes nothing else.
        self._value = google_crc32c.extend(self._value, bytes(data))

    def digest(self) -> bytes:
        return self._value.to_bytes(4, "big")


def _md5() -> Digest:
    return hashlib.md5(usedforsecurity=False)


def _sha1() -> Digest:
    return hashlib.sha1(usedforsecurity=False)


_MAKERS: Final[dict[str, Callable[[], Digest]]] = {
    "sha1": _sha1,
    "md5": _md5,
    "crc32": _Crc32,
    "crc32c": _Crc32c,
    "sha256": hashlib.sha256,
    "sha512": hashlib.sha512,
}


def running(algorithm: str) -> Digest:
    """Return a digest that has seen nothing yet.

    Args:
        algorithm: one of :data:`incomingd.core.digests.ALGORITHMS`.
    """
    return _MAKERS[algorithm]()
