"""Records and claims as JSON: what stands on the volume.

The format carries a version. A program reads the version that it writes and
the one before; what it does not know in a record of its own version it refuses,
since leaving a field out would be losing it at the next write. So it does with
what is missing or of another kind than it should be: a record that is believed
although it is damaged does more harm than one that is not.
"""

from __future__ import annotations

import json
import math
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Final, Union, get_args, get_origin, get_type_hints

from incomingd.core.record import Record
from incomingd.core.tenure import Claim

if TYPE_CHECKING:
    from collections.abc import Callable

FORMAT: Final = 2
"""Version of the record's format; this program reads the one before it, too."""
CLAIM_FORMAT: Final = 1
"""Version of a claim's format."""

_AS_IT_IS: Final = json.JSONEncoder(ensure_ascii=False)
_ASCII: Final = json.JSONEncoder()


class RecordFormatError(Exception):
    """A record, or a claim, that cannot be read: damaged, or of an unknown format."""


def encode(record: Record, *, version: int = FORMAT) -> bytes:
    """Return *record* as JSON that a person can read: a line for each field.

    Args:
        record: to be written.
        version: of the format: the present one, or the one before it, for
            programs that know no newer one.
    """
    assert version in (FORMAT, FORMAT - 1), version
    document = _to_json(Record)(record)
    if version < FORMAT:
        for part in _ranges(document):
            del part["contested"]
    return _encode({"format": version, **document})


def encode_claim(claim: Claim) -> bytes:
    """Return *claim* as JSON that a person can read: a line for each field."""
    return _encode({"format": CLAIM_FORMAT, **_to_json(Claim)(claim)})


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


def decode(data: bytes) -> Record:
    """Return the record that *data* holds.

    Raises:
        RecordFormatError: the bytes are no record of a known format.
    """
    record = _decode(Record, "record", FORMAT, data, former=_from_format_1)
    assert isinstance(record, Record)
    return record


def decode_claim(data: bytes) -> Claim:
    """Return the claim that *data* holds.

    Raises:
        RecordFormatError: the bytes are no claim of a known format.
    """
    claim = _decode(Claim, "claim", CLAIM_FORMAT, data)
    assert isinstance(claim, Claim)
    return claim


def _decode(
    kind: type, what: str, known_version: int, data: bytes, *, former: Callable[[Any], None] | None = None
) -> object:
    found = None
    try:
        document = json.loads(data)
        version = document.pop("format")
        if former is not None and version == known_version - 1:
            former(document)
            version = known_version
        if version == known_version:
            found = _from_json(kind)(document)
    except RecursionError as error:
        msg = f"no readable {what}: nested too deeply"
        raise RecordFormatError(msg) from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, AssertionError) as error:
        msg = f"no readable {what}: {type(error).__name__}: {error}"
        raise RecordFormatError(msg) from error
    if found is None:
        msg = f"{what} format {version!r}; this program reads format {known_version}"
        raise RecordFormatError(msg)
    return found


def _from_format_1(document: Any) -> None:
    """Make of a record as it was before instances shared volumes one of the present format: no range was contested."""
    for part in _ranges(document):
        if "contested" in part:
            raise ValueError("contested, in a record of format 1")
        part["contested"] = False


def _ranges(document: Any) -> list[dict[str, Any]]:
    contents = [document["content"], *document["parts"].values()]
    return [part for content in contents for part in content["map"]]


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
    return plain if issubclass(plain, Enum) else lambda value: _a(plain, value)


def _reader_of_objects(kind: type) -> Callable[[Any], Any]:
    readers = {name: _from_json(inner) for name, inner in _kinds(kind).items()}

    def read(value: Any) -> Any:
        if _a(dict, value).keys() != readers.keys():
            odd = sorted(value.keys() ^ readers.keys())
            raise ValueError(f"{kind.__name__}: missing or unknown: {', '.join(odd)}")
        found = {}
        for name, reader in readers.items():
            try:
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
