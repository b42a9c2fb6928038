"""Upload-Metadata (tus 1.0.0, creation): keys and Base64 values."""

from __future__ import annotations

import base64
import binascii
from typing import Final

from incomingd.core.errors import Code, Refusal
from incomingd.wire.headers import BLANKS

_PRINTABLE: Final = range(0x21, 0x7F)


def parse_metadata(text: str, *, size_max: int) -> tuple[tuple[str, str], ...]:
    """Return the pairs in *text*; values that are no UTF-8 are left out.

    Args:
        text: the header's value.
        size_max: the most characters it may have.

    Raises:
        Refusal: `metadata_malformed` or `metadata_too_large`.
    """
    if len(text) > size_max:
        raise Refusal(Code.METADATA_TOO_LARGE, f"Upload-Metadata may have {size_max} characters.")
    if not text.strip(BLANKS):
        return ()
    pairs: dict[str, str] = {}
    seen: set[str] = set()
    for item in text.split(","):
        key, _, value = item.strip(BLANKS).partition(" ")
        if not key or any(ord(char) not in _PRINTABLE for char in key):
            raise Refusal(Code.METADATA_MALFORMED, "Upload-Metadata has an empty or illegal key.")
        if key in seen:
            raise Refusal(Code.METADATA_MALFORMED, "Upload-Metadata has a key twice.")
        seen.add(key)
        try:
            decoded = base64.b64decode(value.strip(BLANKS), validate=True)
        except (binascii.Error, ValueError):
            raise Refusal(Code.METADATA_MALFORMED, "Upload-Metadata has a value that is not Base64.") from None
        try:
            pairs[key] = decoded.decode("utf-8")
        except UnicodeDecodeError:
            continue
    return tuple(pairs.items())
