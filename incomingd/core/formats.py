"""Versions of what instances write for each other: records and claims, registry values, peer messages.

All of it has one number. A program reads its own format and the one before it,
and writes the older one while an instance is alive that reads no newer: so two
versions run side by side, and one instance after the other changes over in
either direction. What format 2 spells otherwise than format 1 stands with each
kind; both say the same, so that nothing is lost on the way there and back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from incomingd.core.ring import Instance

FORMAT: Final = 2
"""What this program writes where all who live read it."""
OLDEST: Final = 1
"""The format before it, which it reads and writes, too."""


@dataclass(frozen=True, slots=True)
class Known:
    """The formats that a program reads and writes, from the oldest to the newest."""

    oldest: int
    newest: int

    def __post_init__(self) -> None:
        assert OLDEST <= self.oldest <= self.newest <= FORMAT, self

    def __contains__(self, version: object) -> bool:
        # JSON's `true` is 1 for Python, but for nobody else.
        return type(version) is int and self.oldest <= version <= self.newest

    def __str__(self) -> str:
        several = self.oldest != self.newest
        return f"the formats {self.oldest} and {self.newest}" if several else f"format {self.newest}"

    def spoken(self, instances: Iterable[Instance], *, settled: bool) -> int:
        """Return the format to write in.

        Args:
            instances: those with live leases.
            settled: whether all who live are known. Else the older format is understood by all.
        """
        if not settled or any(each.format < self.newest for each in instances):
            return self.oldest
        return self.newest


PRESENT: Final = Known(OLDEST, FORMAT)
"""What this program knows."""
FORMER: Final = Known(OLDEST, OLDEST)
"""What the program of the version before knows: it has never heard of the present format."""

VARIABLE: Final = "INCOMINGD_FORMATS"
"""Of the environment: 1 makes a program behave as the version before in all that others read; 2 is the default."""
_BY_NAME: Final = {"": PRESENT, "1": FORMER, "2": PRESENT}


def known_by(environment: Mapping[str, str]) -> Known:
    """Return the formats that this run knows.

    Raises:
        ValueError: the variable names none.
    """
    said = environment.get(VARIABLE, "")
    if said.strip() not in _BY_NAME:
        raise ValueError(f"{VARIABLE}: expected 1 or 2, not {said!r}")
    return _BY_NAME[said.strip()]
