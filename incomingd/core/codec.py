"""Records and claims as JSON: what stands on the volume.

Each says its format (:mod:`incomingd.core.formats`). What a program does not
know in one of a format that it reads it refuses, since leaving a field out
would be losing it at the next write. So it does with
what is missing or of another kind than it should be: a record that is believed
although it is damaged does more harm than one that is not.

Format 1 leaves ``contested`` out of a range where it is false, and says nothing
by an empty text: no address, no question. In format 2 ``contested`` always
stands there, and nothing is ``null``.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Final, Union, get_args, get_origin, get_type_hints

from incomingd.core.formats import FORMAT, PRESENT, Known
from incomingd.core.record import Record
from incomingd.core.tenure import Claim

if TYPE_CHECKING:
    from collections.abc import Callable

_AS_IT_IS: Final = json.JSONEncoder(ensure_ascii=False)
_ASCII: Final = json.JSONEncoder()


class RecordFormatError(Exception):
    """A record, or a claim, that cannot be read: damaged, or of an unknown format."""


def encode(record: Record, *, version: int = FORMAT) -> bytes:
    """Return *record* as JSON that a person can read, in format *version*: a line for each field."""
    document = _to_json(Record)(record)
    _digest_into_terms(document)
    _RECORDS[version].write(document)
    return _encode({"format": version, **document})


def encode_claim(claim: Claim, *, version: int = FORMAT) -> bytes:
    """Return *claim* as JSON that a person can read, in format *version*: a line for each field."""
    document = _to_json(Claim)(claim)
    _CLAIMS[version].write(document)
    return _encode({"format": version, **document})


def _encode(document: dict[str, Any]) -> bytes:
    try:
        return _lines(document, _AS_IT_IS).encode("utf-8")
    except UnicodeEncodeError:
        # Half of a surrogate pair, from JSON that somebody sent.
        return _lines(document, _ASCII).encode("ascii")


def _lines(document: dict[str, Any], encoder: json.JSONEncoder) -> str:
    # Indenting everything would take the encoder that is written in Python,
    # four times as long, at every acknowledgement.
    lines = (f' "{name}": {encoder.encode(value)}' for name, value in document.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def decode(data: bytes, *, known: Known = PRESENT) -> Record:
    """Return the record that *data* holds.

    Raises:
        RecordFormatError: the bytes are no record of a *known* format.
    """
    record = _decode(Record, "record", _RECORDS, data, known)
    assert isinstance(record, Record)
    return record


def decode_claim(data: bytes, *, known: Known = PRESENT) -> Claim:
    """Return the claim that *data* holds.

    Raises:
        RecordFormatError: the bytes are no claim of a *known* format.
    """
    claim = _decode(Claim, "claim", _CLAIMS, data, known)
    assert isinstance(claim, Claim)
    return claim


def _decode(kind: type, what: str, spellings: dict[int, _Spelling], data: bytes, known: Known) -> object:
    found = None
    try:
        document = json.loads(data)
        version = document.pop("format")
        if version in known:
            spellings[version].read(document)
            if kind is Record:
                _digest_out_of_terms(document)
            found = _from_json(kind)(document)
    except RecursionError as error:
        msg = f"no readable {what}: nested too deeply"
        raise RecordFormatError(msg) from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, AssertionError) as error:
        msg = f"no readable {what}: {type(error).__name__}: {error}"
        raise RecordFormatError(msg) from error
    if found is None:
        msg = f"{what} format {version!r}; this program reads {known}"
        raise RecordFormatError(msg)
    return found


@dataclass(frozen=True, slots=True)
class Formats:
    """In which format a volume's records and claims are written, and which are read."""

    known: Known = PRESENT
    spoken: Callable[[], int] = lambda: FORMAT
    """Asked at each write, from any thread."""

    def encode(self, record: Record) -> bytes:
        """Return *record* in the format that is written now."""
        return encode(record, version=self.spoken())

    def encode_claim(self, claim: Claim) -> bytes:
        """Return *claim* in the format that is written now."""
        return encode_claim(claim, version=self.spoken())

    def decode(self, data: bytes) -> Record:
        """Return a record; see :func:`decode`."""
        return decode(data, known=self.known)

    def decode_claim(self, data: bytes) -> Claim:
        """Return a claim; see :func:`decode_claim`."""
        return decode_claim(data, known=self.known)


NEWEST: Final = Formats()
"""For who is alone: nobody else has to read it."""


# -- what the formats spell otherwise; all of it changes a document as the dataclasses make it


@dataclass(frozen=True, slots=True)
class _Spelling:
    write: Callable[[dict[str, Any]], None]
    read: Callable[[dict[str, Any]], None]


_DIGEST: Final = re.compile("sha-256=([0-9a-f]{64})")


def _digest_into_terms(record: dict[str, Any]) -> None:
    """Have the digest of the file stand behind the wish for it, as one text."""
    digest = record.pop("digest")
    if digest is not None:
        record["terms"]["digest"] = f"sha-256={digest}"


def _digest_out_of_terms(record: dict[str, Any]) -> None:
    if "digest" in record:
        raise ValueError("digest: it stands in the terms")
    said = record["terms"]["digest"]
    known = _DIGEST.fullmatch(said) if said is not None else None
    record["digest"] = known[1] if known is not None else None
    if known is not None:
        record["terms"]["digest"] = "sha-256"
    elif said not in (None, "sha-256"):
        raise ValueError("digest: neither a wish nor a digest")


def _ranges(record: dict[str, Any]) -> list[dict[str, Any]]:
    contents = [record["content"], *record["parts"].values()]
    return [part for content in contents for part in content["map"]]


def _without_uncontested(record: dict[str, Any]) -> None:
    for part in _ranges(record):
        if not part["contested"]:
            del part["contested"]


def _with_uncontested(record: dict[str, Any]) -> None:
    for part in _ranges(record):
        if "contested" in part and part["contested"] is not True:
            raise ValueError("contested: format 1 says it only where it is true")
        part.setdefault("contested", False)


def _owner_to_null(document: dict[str, Any]) -> None:
    if document["owner"] is not None:
        to_null(document["owner"], "address")


def _owner_from_null(document: dict[str, Any]) -> None:
    if document["owner"] is not None:
        from_null(document["owner"], "address")


def _claim_to_null(claim: dict[str, Any]) -> None:
    _owner_to_null(claim)
    to_null(claim, "question")


def _claim_from_null(claim: dict[str, Any]) -> None:
    _owner_from_null(claim)
    from_null(claim, "question")


def to_null(document: dict[str, Any], name: str) -> None:
    """Have a field of format 2 say nothing by ``null``, where the program means an empty text."""
    document[name] = document[name] or None


def from_null(document: dict[str, Any], name: str) -> None:
    """Undo :func:`to_null`.

    Raises:
        ValueError: an empty text: nothing is written in one way only.
        KeyError: there is no such field.
    """
    if document[name] == "":
        raise ValueError(f"{name}: an empty text")
    if document[name] is None:
        document[name] = ""


def _as_the_program_has_it(document: dict[str, Any]) -> None:
    """Change nothing."""


_RECORDS: Final = {
    1: _Spelling(_without_uncontested, _with_uncontested),
    2: _Spelling(_owner_to_null, _owner_from_null),
}
_CLAIMS: Final = {
    1: _Spelling(_as_the_program_has_it, _as_the_program_has_it),
    2: _Spelling(_claim_to_null, _claim_from_null),
}


# Both directions follow the types of the dataclasses. What is to be done for a
# type is put together once, since a record is written at every acknowledgement.


@cache
def _kinds(of: type) -> dict[str, Any]:
    """Return field -> type of a dataclass."""
    hints = get_type_hints(of)
    return {field.name: hints[field.name] for field in fields(of)}


def _optional(kind: Any) -> Any:
    """Return X of ``X | None``; None for any other type."""
    if get_origin(kind) in (UnionType, Union):
        return next(option for option in get_args(kind) if option is not NoneType)
    return None


def _named(kind: Any) -> Any:
    """Return X of ``tuple[tuple[str, X], ...]``, which is an object in JSON; None for any other type."""
    if get_origin(kind) is tuple and get_origin(get_args(kind)[0]) is tuple:
        return get_args(get_args(kind)[0])[1]
    return None


# -- to JSON


def _as_it_is(value: Any) -> Any:
    return value


@cache
def _to_json(kind: Any) -> Callable[[Any], Any]:
    """Return what makes JSON of a *kind*."""
    if (inner := _optional(kind)) is not None:
        make = _to_json(inner)
        return _as_it_is if make is _as_it_is else lambda value: None if value is None else make(value)
    if (inner := _named(kind)) is not None:
        make_item = _to_json(inner)
        return lambda value: {name: make_item(item) for name, item in value}
    if get_origin(kind) is tuple:
        make_item = _to_json(get_args(kind)[0])
        return lambda value: [make_item(item) for item in value]
    if is_dataclass(kind):
        assert isinstance(kind, type)
        steps = [(name, _to_json(inner)) for name, inner in _kinds(kind).items()]
        return lambda value: {name: make(getattr(value, name)) for name, make in steps}
    if isinstance(kind, type) and issubclass(kind, Enum):
        return lambda value: value.value
    return _as_it_is


# -- from JSON; a ValueError or an AssertionError where it is not what it should be


@cache
def _from_json(kind: Any) -> Callable[[Any], Any]:
    """Return what makes a *kind* of JSON."""
    if kind is object:
        return _as_it_is
    if (inner := _optional(kind)) is not None:
        read = _from_json(inner)
        return lambda value: None if value is None else read(value)
    if (inner := _named(kind)) is not None:
        read_item = _from_json(inner)
        return lambda value: tuple((name, read_item(item)) for name, item in _a(dict, value).items())
    if get_origin(kind) is tuple:
        read_item = _from_json(get_args(kind)[0])
        return lambda value: tuple(read_item(item) for item in _a(list, value))
    if is_dataclass(kind):
        assert isinstance(kind, type)
        return _reader_of_objects(kind)
    plain = get_origin(kind) or kind
    return plain if issubclass(plain, Enum) else _reader_of(plain)


def _reader_of(kind: type) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        # All that is usual, without a further call: a record has many fields, and a volume many records.
        return value if type(value) is kind and kind is not float else _a(kind, value)

    return read


def _reader_of_objects(kind: type) -> Callable[[Any], Any]:
    readers = {name: _from_json(inner) for name, inner in _kinds(kind).items()}
    items = tuple(readers.items())

    def read(value: Any) -> Any:
        if _a(dict, value).keys() != readers.keys():
            odd = sorted(value.keys() ^ readers.keys())
            raise ValueError(f"{kind.__name__}: missing or unknown: {', '.join(odd)}")
        found = {}
        name = ""
        try:
            for name, reader in items:
                found[name] = reader(value[name])
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        return kind(**found)

    return read


def _a(kind: type, value: Any) -> Any:
    """Return *value* if it is a *kind*: no bool for a number, no number that is none."""
    of_kind = type(value) is kind or (kind is float and type(value) is int)
    if not of_kind or (kind is float and not math.isfinite(value)):
        raise ValueError(f"no {kind.__name__}")
    return value
