"""Reading header fields strictly: what is not plainly legal is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from incomingd.core.errors import Code, Refusal

GetAll = Callable[[str], list[str]]
"""Returns every value of a field, in order; names are case-insensitive."""

_NUMBER: Final = re.compile(r"[0-9]{1,18}", re.ASCII)
BLANKS: Final = " \t"
"""Blanks in header fields (RFC 9110, section 5.6.3). Python's own idea of them is wider."""


def single(get_all: GetAll, name: str) -> str | None:
    """Return the field's value without surrounding blanks, or None.

    Raises:
        Refusal: `header_repeated`: it was sent with different values.
    """
    values = get_all(name)
    if not values:
        return None
    value = values[0].strip(BLANKS)
    if len(values) > 1 and any(other.strip(BLANKS) != value for other in values):
        raise Refusal(Code.HEADER_REPEATED, f"{name} was sent with different values.")
    return value


def number(get_all: GetAll, name: str) -> int | None:
    """Return the field's value as a number, or None where there is none.

    1 to 18 ASCII digits, nothing else: no sign, blank, underscore or other digit.

    Raises:
        Refusal: `header_malformed` or `header_repeated`.
    """
    value = single(get_all, name)
    if value is None:
        return None
    if _NUMBER.fullmatch(value) is None:
        raise Refusal(Code.HEADER_MALFORMED, f"{name} must be 1 to 18 digits.")
    return int(value)


def media_type(value: str) -> str:
    """Return the media type in a Content-Type without its parameters, lower case."""
    return value.split(";", 1)[0].strip().lower()
