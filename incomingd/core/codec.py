"""Records as JSON: what stands on the volume.

The format carries a version. A program reads the version that it writes and
the one before; what it does not know in a record of its own version it refuses,
since leaving a field out would be losing it at the next write.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any, Final

from incomingd.core.content import Content, Range
from incomingd.core.record import (
    Client,
    Delivery,
    Failure,
    Handover,
    Record,
    Terms,
)
from incomingd.core.status import Status
from incomingd.core.tenure import ClaimKind, Identity

FORMAT: Final = 1
"""Version of the record's format."""


class RecordFormatError(Exception):
    """A record that cannot be read: damaged, or of an unknown format."""


def encode(record: Record) -> bytes:
    """Return *record* as JSON that a person can read."""
    plain = asdict(record)
    plain["status"] = record.status.value
    plain["claim_kind"] = record.claim_kind.value if record.claim_kind else None
    plain["parts"] = dict(plain["parts"])
    plain["client"]["metadata"] = dict(plain["client"]["metadata"])
    document = {"format": FORMAT, **plain}
    return json.dumps(document, ensure_ascii=False, indent=1).encode("utf-8") + b"\n"


def decode(data: bytes) -> Record:
    """Return the record that *data* holds.

    Raises:
        RecordFormatError: the bytes are no record of a known format.
    """
    try:
        document = json.loads(data)
        version = document.pop("format")
        record = _record(document) if version == FORMAT else None
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        msg = f"no readable record: {type(error).__name__}: {error}"
        raise RecordFormatError(msg) from error
    if record is None:
        raise RecordFormatError(f"record format {version!r}; this program reads format {FORMAT}")
    return record


def _record(plain: dict[str, Any]) -> Record:
    plain = dict(plain)
    plain["status"] = Status(plain["status"])
    kind = plain["claim_kind"]
    plain["claim_kind"] = ClaimKind(kind) if kind else None
    plain["owner"] = Identity(**plain["owner"]) if plain["owner"] else None
    plain["terms"] = _terms(plain["terms"])
    plain["client"] = _client(plain["client"])
    plain["content"] = _content(plain["content"])
    plain["parts"] = tuple((n, _content(part)) for n, part in plain["parts"].items())
    plain["final_of"] = _tuple(plain["final_of"])
    plain["wanted_by"] = tuple(plain["wanted_by"])
    plain["handover"] = _handover(plain["handover"])
    plain["notifications"] = tuple(Delivery(**n) for n in plain["notifications"])
    plain["failure"] = Failure(**plain["failure"]) if plain["failure"] else None
    return Record(**plain)


def _tuple(value: list[str] | None) -> tuple[str, ...] | None:
    return None if value is None else tuple(value)


def _terms(plain: dict[str, Any]) -> Terms:
    lists = ("content_types", "events", "labels", "origins")
    return Terms(**{**plain, **{name: tuple(plain[name]) for name in lists}})


def _client(plain: dict[str, Any]) -> Client:
    return Client(**{**plain, "metadata": tuple(plain["metadata"].items())})


def _content(plain: dict[str, Any]) -> Content:
    return Content(**{**plain, "map": tuple(Range(**part) for part in plain["map"])})


def _handover(plain: dict[str, Any]) -> Handover:
    delivery = Delivery(**plain["delivery"]) if plain["delivery"] else None
    return Handover(**{**plain, "delivery": delivery})
