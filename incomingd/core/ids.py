"""Names of uploads, parts and volumes.

An upload's id is the whole of its permission: whoever knows the URL may send
bytes. It carries 256 random bits, and then the id of the volume of its birth,
so that any instance can tell where to ask (DESIGN: "an id carries the volume
of its birth"). Only letters and digits: such ids can be file names, command
line arguments and parts of URLs as they are.
"""

from __future__ import annotations

import re
from typing import Final

ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
SECRET_CHARS: Final = 43
"""62 ** 43 > 2 ** 256."""
VOLUME_CHARS: Final = 12
"""62 ** 12 > 2 ** 71: volumes of a fleet never share an id by chance."""
PART_CHARS: Final = 22
"""Parts are found only below their ticket's URL; 128 bits are plenty."""

_UPLOAD_ID: Final = re.compile(rf"[0-9A-Za-z]{{{SECRET_CHARS + VOLUME_CHARS}}}")
_PART_ID: Final = re.compile(rf"[0-9A-Za-z]{{{PART_CHARS}}}")
_VOLUME_ID: Final = re.compile(rf"[0-9A-Za-z]{{{VOLUME_CHARS}}}")


def spell(number: int, chars: int) -> str:
    """Write *number* with exactly *chars* letters and digits (its low end)."""
    out = []
    for _ in range(chars):
        number, digit = divmod(number, len(ALPHABET))
        out.append(ALPHABET[digit])
    return "".join(out)


def upload_id(random_bits: int, volume_id: str) -> str:
    """Return the id of a new upload that is born on *volume_id*.

    Args:
        random_bits: at least 256 random bits.
        volume_id: the id of the volume of its birth.
    """
    assert is_volume_id(volume_id), volume_id
    return spell(random_bits, SECRET_CHARS) + volume_id


def is_upload_id(text: str) -> bool:
    """Whether *text* could be an upload's id (well-formed, not: known)."""
    return _UPLOAD_ID.fullmatch(text) is not None


def is_part_id(text: str) -> bool:
    """Whether *text* could be the id of a part."""
    return _PART_ID.fullmatch(text) is not None


def is_volume_id(text: str) -> bool:
    """Whether *text* could be the id of a volume."""
    return _VOLUME_ID.fullmatch(text) is not None


def volume_of(upload: str) -> str:
    """Return the id of the volume on which *upload* was born."""
    assert is_upload_id(upload), upload
    return upload[SECRET_CHARS:]
