"""Which uploads a list shall show, as web apps and operators ask for it in a query string."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from incomingd.core.record import Record
from incomingd.core.status import Status
from incomingd.wire.backend import LABEL_CHARS_MAX, invalid

FIELDS: Final = ("status", "label", "handover", "page")
STUCK: Final = "stuck"

_POSITION: Final = re.compile(r"(?P<group>[0-9A-Za-z_-]{1,32})\.(?P<after>[0-9A-Za-z_-]{1,63})", re.ASCII)
_PREFIX_CHARS: Final = 20
"""Enough of an id to find the place again, too little of it to send bytes to the upload."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where a list goes on: behind all ids of *group* that begin with *after*."""

    group: str
    after: str

    @classmethod
    def behind(cls, group: str, upload_id: str) -> Position:
        """Return the position behind *upload_id* of *group*."""
        return cls(group, upload_id[:_PREFIX_CHARS])

    def passed(self, group: str, upload_id: str) -> bool:
        """Whether *upload_id* of *group* was shown, or looked at, before."""
        return (group, upload_id[: len(self.after)]) <= (self.group, self.after)

    def __str__(self) -> str:
        return f"{self.group}.{self.after}"


@dataclass(frozen=True, slots=True)
class ListQuery:
    """What is looked for; empty: everything."""

    statuses: frozenset[Status] = frozenset()
    label: str | None = None
    stuck: bool = False
    """Only uploads whose hand-over was given up."""
    position: Position | None = None

    def wants(self, record: Record) -> bool:
        """Whether the upload of *record* belongs on the list."""
        if self.statuses and record.status not in self.statuses:
            return False
        if self.label is not None and self.label not in record.terms.labels:
            return False
        return not self.stuck or stuck(record)


def stuck(record: Record) -> bool:
    """Whether the web app does not have the file and nobody tries to give it any more."""
    delivery = record.handover.delivery
    return record.status is Status.COMPLETE and delivery is not None and delivery.given_up


def parse_query(arguments: Mapping[str, Sequence[str]]) -> ListQuery:
    """Return what a query string asks for.

    Args:
        arguments: name -> values, decoded.

    Raises:
        Refusal: `field_invalid`, with every mistake.
    """
    errors = [
        {"field": name[:LABEL_CHARS_MAX], "expected": f"one of {', '.join(FIELDS)}"}
        for name in arguments
        if name not in FIELDS
    ]
    errors += [
        {"field": name, "expected": "one value" if name != "status" else "one value; several separated by commas"}
        for name in FIELDS
        if len(arguments.get(name, ())) > 1
    ]
    words = [word.strip() for word in _one(arguments, "status").split(",") if word.strip()]
    known = {status.value: status for status in Status}
    if any(word not in known for word in words):
        errors.append({"field": "status", "expected": f"of {', '.join(known)}; several separated by commas"})
    handover = _one(arguments, "handover")
    if handover not in {"", STUCK}:
        errors.append({"field": "handover", "expected": f"`{STUCK}`"})
    page = _one(arguments, "page")
    position = _POSITION.fullmatch(page)
    if page and position is None:
        errors.append({"field": "page", "expected": "the next_page of an earlier answer"})
    if errors:
        raise invalid(errors)
    return ListQuery(
        statuses=frozenset(known[word] for word in words),
        label=_one(arguments, "label") or None,
        stuck=handover == STUCK,
        position=Position(position["group"], position["after"]) if position else None,
    )


def _one(arguments: Mapping[str, Sequence[str]], name: str) -> str:
    values = arguments.get(name, ())
    return values[0] if values else ""
