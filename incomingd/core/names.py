"""What clients call their files: cleaned, so that it can be shown and stored.

Nothing here is ever used as a path on this side; the web app may.
"""

from __future__ import annotations

import unicodedata
from typing import Final

NAME_BYTES_MAX: Final = 255
"""What common file systems take for one name."""
PATH_BYTES_MAX: Final = 1024
VALUE_CHARS_MAX: Final = 1024


def _printable(text: str) -> str:
    """Drop control, formatting (such as direction overrides) and lone surrogate characters."""
    return "".join(c for c in text if unicodedata.category(c) not in {"Cc", "Cf", "Cs", "Co", "Cn"})


def _capped(text: str, size_bytes: int) -> str:
    encoded = text.encode("utf-8")
    if len(encoded) <= size_bytes:
        return text
    return encoded[:size_bytes].decode("utf-8", "ignore")


def clean_filename(text: str) -> str | None:
    r"""Return *text* as a bare file name, or None if nothing is left of it.

    Directories before it are dropped, be they written with ``/`` or ``\``;
    control characters too; an over-long name keeps its extension.
    """
    text = unicodedata.normalize("NFC", _printable(text)).replace("\\", "/")
    name = text.rsplit("/", 1)[-1].strip()
    if name.strip(". ") == "":
        return None
    if len(name.encode("utf-8")) > NAME_BYTES_MAX:
        stem, dot, extension = name.rpartition(".")
        tail = dot + extension if dot and len(extension.encode()) <= 16 else ""
        stem = stem if tail else name
        name = _capped(stem, NAME_BYTES_MAX - len(tail.encode("utf-8"))) + tail
    return name


def clean_relative_path(text: str) -> str | None:
    """Return *text* as a relative path without ``..``, or None."""
    text = unicodedata.normalize("NFC", _printable(text)).replace("\\", "/")
    if len(text) > 1 and text[1] == ":":
        text = text[2:]
    steps = [step.strip() for step in text.split("/")]
    steps = [_capped(step, NAME_BYTES_MAX) for step in steps if step.strip(". ")]
    path = "/".join(steps)
    while len(path.encode("utf-8")) > PATH_BYTES_MAX:
        steps = steps[1:]
        path = "/".join(steps)
    return path or None


def clean_value(text: str) -> str:
    """Return *text* without control characters, at most 1,024 characters of it."""
    return _printable(text)[:VALUE_CHARS_MAX]


def clean_content_type(text: str) -> str | None:
    """Return the media type in *text*, lower case and without parameters, or None."""
    value = text.split(";", 1)[0].strip().lower()
    kind, slash, subtype = value.partition("/")
    token = set("abcdefghijklmnopqrstuvwxyz0123456789!#$&-^_.+")
    if not (slash and kind and subtype and len(value) <= NAME_BYTES_MAX):
        return None
    if set(kind) <= token and set(subtype) <= token:
        return value
    return None


def content_type_accepted(content_type: str | None, accepted: tuple[str, ...]) -> bool:
    """Whether *content_type* is one of *accepted* (``image/*`` takes any image)."""
    if not accepted:
        return True
    if content_type is None:
        return False
    for pattern in accepted:
        lowered = pattern.lower()
        if lowered in ("*/*", content_type):
            return True
        if lowered.endswith("/*") and content_type.startswith(lowered[:-1]):
            return True
    return False
