"""JSON that others may fill as they like, and that is kept and given back."""

from __future__ import annotations

import json
from typing import Final

DEPTH_MAX: Final = 32
"""Levels. Far below what any JSON reader takes, and deeper than anybody needs."""


def depth(value: object) -> int:
    """Return how many levels *value* has, counted up to one more than may be."""
    levels, level = 0, [value]
    while level and levels <= DEPTH_MAX:
        levels += 1
        level = [
            item
            for parent in level
            if isinstance(parent, dict | list)
            for item in (parent.values() if isinstance(parent, dict) else parent)
        ]
    return levels


def fault(value: object, *, bytes_max: int) -> str | None:
    """Return why *value* cannot be kept, as the end of a sentence; None: it can."""
    if depth(value) > DEPTH_MAX:
        return f"is more than {DEPTH_MAX} levels deep"
    try:
        encoded = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8")
    except ValueError:
        return "has numbers that are none, or text that is not Unicode"
    if len(encoded) > bytes_max:
        return f"has {len(encoded)} bytes; at most {bytes_max} are kept"
    return None
