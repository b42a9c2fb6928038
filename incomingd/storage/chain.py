"""How claims and records are called where each is a file of its own, and which of them count.

::

    claim.<epoch>.json     made once, by whoever begins that tenure; never changed
    record.<epoch>.json    written by that tenure alone, as often as it likes
    answer.<epoch>.json    made once, where an upload of another volume is given under that
                           claim: what became of that here for ever. The first record of
                           the tenure, if it was taken; the claim, if it was declined
    record.json            of an upload that was made before claims were files: the
                           record of the epoch that it tells, until the next tenure writes
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

RECORD: Final = "record.json"
"""The one record of an upload whose claims stand in it."""
_CLAIM: Final = re.compile(r"claim\.([1-9][0-9]{0,17})\.json")
_RECORD: Final = re.compile(r"record\.(0|[1-9][0-9]{0,17})\.json")


def claim_name(epoch: int) -> str:
    """Return what the claim that begins tenure *epoch* is called."""
    return f"claim.{epoch}.json"


def record_name(epoch: int) -> str:
    """Return what the record of tenure *epoch* is called."""
    return f"record.{epoch}.json"


def answer_name(epoch: int) -> str:
    """Return what the answer to a giving under claim *epoch* is called."""
    return f"answer.{epoch}.json"


@dataclass(frozen=True, slots=True)
class Chain:
    """What the names in an upload's folder tell of its tenures."""

    record: int | None
    """The last one that has a record under its number."""
    claim: int | None
    """The last one that was claimed by a file."""
    unnumbered: bool
    """There is a record of the time before."""

    @classmethod
    def of(cls, names: Iterable[str]) -> Chain:
        """Read it from the *names* of the files in the folder."""
        record = claim = None
        unnumbered = False
        for name in names:
            if name == RECORD:
                unnumbered = True
            elif found := _RECORD.fullmatch(name):
                record = max(int(found[1]), record or 0)
            elif found := _CLAIM.fullmatch(name):
                claim = max(int(found[1]), claim or 0)
        return cls(record, claim, unnumbered)

    @property
    def last_record(self) -> str | None:
        """The name of the record that counts; None: there is none."""
        if self.record is not None:
            return record_name(self.record)
        return RECORD if self.unnumbered else None

    @property
    def unrecorded(self) -> int | None:
        """The last claim, where its tenure has no record yet; None: the last record says all that it would."""
        return self.claim if self.claim is not None and self.claim > (self.record or 0) else None


def is_older_record(name: str, epoch: int) -> bool:
    """Return whether *name* is that of a record which the one of tenure *epoch* replaces."""
    found = _RECORD.fullmatch(name)
    return name == RECORD or (found is not None and int(found[1]) < epoch)
