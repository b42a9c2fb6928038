"""Reading a stored file over HTTP: ranges (RFC 9110, section 14) and what a file is called (RFC 6266)."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

_RANGE: Final = re.compile(
    r"bytes[ \t]*=[ \t]*(?P<first>[0-9]{0,18})[ \t]*-[ \t]*(?P<last>[0-9]{0,18})[ \t,]*", re.ASCII
)
_SAFE: Final = "!#$&+-.^_`|~"
"""What RFC 8187 lets stand as it is in an extended value, beside letters and digits."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes ``[start, stop)`` of a file."""

    start: int
    stop: int


class RangeNotSatisfiable(Exception):
    """No byte of the file lies in the range that was asked for."""


def piece_of(header: str | None, size: int) -> Piece | None:
    """Return the piece that a Range header asks for, or None: the whole file.

    What cannot be read, and what asks for several pieces, is ignored, as section 14.2 allows.

    Args:
        header: value of the Range header.
        size: of the file, in bytes.

    Raises:
        RangeNotSatisfiable: for a 416.
    """
    match = _RANGE.fullmatch(header.strip().lower()) if header else None
    if match is None or not (match["first"] or match["last"]):
        return None
    if not match["first"]:
        wanted = int(match["last"])
        if wanted == 0 or size == 0:
            raise RangeNotSatisfiable
        return Piece(max(size - wanted, 0), size)
    first = int(match["first"])
    last = int(match["last"]) if match["last"] else size - 1
    if match["last"] and last < first:
        return None
    if first >= size:
        raise RangeNotSatisfiable
    return Piece(first, min(last + 1, size))


def entity_tag(upload_id: str) -> str:
    """Return the ETag of an upload's file, which never changes; the id is not told by it."""
    return f'"{hashlib.sha256(upload_id.encode("ascii")).hexdigest()[:32]}"'


def repr_digest(sha256: str) -> str:
    """Return the header that tells the digest of the whole file, also with a piece of it (RFC 9530, section 3).

    Args:
        sha256: in hex.
    """
    return f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode('ascii')}:"


def content_disposition(filename: str | None) -> str:
    """Return the header that has a file saved, never shown, under its own name."""
    if not filename:
        return "attachment"
    plain = "".join(c if " " <= c <= "~" and c not in '"\\%' else "_" for c in filename)
    encoded = quote(filename, safe=_SAFE, encoding="utf-8")
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{encoded}"
