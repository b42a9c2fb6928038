"""Records on the volume: what is written is read again, and what is damaged is never believed."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from incomingd.core import codec
from incomingd.core.formats import FORMER, PRESENT
from incomingd.core.record import Handover, Record
from incomingd.core.tenure import Identity
from tests.core.records import json_values, records
from tests.support.golden import FOLDER
from tests.support.golden import RECORD as FULL

BEFORE_SHARING = FOLDER / "record-before-volumes-were-shared.json"
"""Of format 1; no range of it tells whether it is contested."""


def every_field_of(value: Any) -> None:
    """Fail if a record of the test leaves a field as it is by default: its format would not be held."""
    for field in dataclasses.fields(value):
        if field.name in ("digest", "ended_at", "open_creation"):
            continue
        assert getattr(value, field.name) != field.default, field.name


def uncontested(record: Record) -> Record:
    ranges = [dataclasses.replace(part, contested=False) for part in record.content.map]
    return dataclasses.replace(record, content=dataclasses.replace(record.content, map=tuple(ranges)))


def test_a_record_of_the_former_format_is_read_and_written() -> None:
    """A program of the former version may live beside this one."""
    assert codec.decode(BEFORE_SHARING.read_bytes()) == uncontested(FULL)
    assert codec.encode(uncontested(FULL), version=1) == BEFORE_SHARING.read_bytes()


def test_format_1_says_that_a_range_is_contested_only_where_it_is() -> None:
    document = json.loads(codec.encode(FULL, version=1))
    assert [part.get("contested") for part in document["content"]["map"]] == [True, None]
    document["content"]["map"][1]["contested"] = False
    with pytest.raises(codec.RecordFormatError, match="contested"):
        codec.decode(json.dumps(document).encode())


def test_no_address_is_an_empty_text_in_format_1_and_null_in_format_2() -> None:
    """Neither takes the other's word for it, so that each record has one spelling."""
    record = dataclasses.replace(FULL, owner=Identity("one", "start"))
    for version, said, other in ((1, "", None), (2, None, "")):
        document = json.loads(codec.encode(record, version=version))
        assert document["owner"]["address"] == said
        document["owner"]["address"] = other
        with pytest.raises(codec.RecordFormatError, match="address"):
            codec.decode(json.dumps(document).encode())


def test_the_former_program_reads_nothing_newer() -> None:
    with pytest.raises(codec.RecordFormatError, match="record format 2; this program reads format 1"):
        codec.decode(codec.encode(FULL), known=FORMER)
    assert codec.decode(codec.encode(FULL, version=1), known=FORMER) == FULL


def test_the_format_is_asked_for_at_each_write() -> None:
    spoken = 1
    formats = codec.Formats(PRESENT, lambda: spoken)
    assert formats.encode(FULL) == codec.encode(FULL, version=1)
    spoken = 2
    assert formats.encode(FULL) == codec.encode(FULL, version=2)


@given(st.data())
def test_a_damaged_record_of_the_former_format_is_refused_or_still_a_record(data: st.DataObject) -> None:
    document = json.loads(BEFORE_SHARING.read_bytes())
    path = data.draw(st.sampled_from(places(document)))
    parent = document
    for step in path[:-1]:
        parent = parent[step]
    parent[path[-1]] = data.draw(json_values)
    try:
        found = codec.decode(json.dumps(document).encode())
    except codec.RecordFormatError:
        return
    assert codec.decode(codec.encode(found)) == found


def test_the_golden_record_leaves_nothing_as_it_is_by_default() -> None:
    """Else its format would not be held: what stands on somebody's disk is read by every later version."""
    every_field_of(FULL)
    every_field_of(FULL.terms)
    every_field_of(FULL.client)
    every_field_of(FULL.handover)


def test_a_record_is_written_as_a_person_can_read_it() -> None:
    text = codec.encode(FULL).decode("utf-8")
    assert '"filename": "Übung.pdf"' in text
    assert text.startswith('{\n "format": 2,\n "upload_id":')
    assert text.endswith("}\n")


@settings(max_examples=40)
@given(records, st.sampled_from([1, 2]))
def test_what_is_written_is_read_again(record: Record, version: int) -> None:
    written = codec.encode(record, version=version)
    assert codec.decode(written) == record
    assert codec.encode(codec.decode(written), version=version) == written


@given(st.text(st.characters(codec=None, categories=["Cs", "L"]), min_size=1))
def test_text_that_is_no_unicode_is_kept_all_the_same(text: str) -> None:
    record = dataclasses.replace(FULL, handover=Handover(client_data=[text]))
    assert codec.decode(codec.encode(record)) == record


@given(st.data())
def test_a_truncated_record_is_refused(data: st.DataObject) -> None:
    whole = codec.encode(FULL)
    # Without its last line feed it is still whole.
    size = data.draw(st.integers(0, len(whole) - 2))
    with pytest.raises(codec.RecordFormatError):
        codec.decode(whole[:size])


@given(st.data())
def test_a_damaged_record_is_refused_or_still_a_record(data: st.DataObject) -> None:
    """Whatever a disk returns, there is a record whose fields are what they should be, or a RecordFormatError."""
    damaged = bytearray(codec.encode(FULL))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        damaged[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        found = codec.decode(bytes(damaged))
    except codec.RecordFormatError:
        return
    assert codec.decode(codec.encode(found)) == found


@given(st.binary() | json_values.map(lambda value: json.dumps(value).encode()))
def test_what_is_no_record_is_refused(data: bytes) -> None:
    with pytest.raises(codec.RecordFormatError):
        codec.decode(data)


def places(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Return the path to every value in a document."""
    found = [path] if path else []
    if isinstance(value, dict):
        found += [place for name, item in value.items() for place in places(item, (*path, name))]
    elif isinstance(value, list):
        found += [place for index, item in enumerate(value) for place in places(item, (*path, index))]
    return found


# Fields that hold whatever others have sent.
FREE = {("terms", "app_data"), ("handover", "client_data")}


@settings(max_examples=150)
@given(st.data())
def test_a_value_of_another_kind_is_refused_or_keeps_its_kind(data: st.DataObject) -> None:
    """No field ever holds what its type does not allow, so that nothing far away fails of it."""
    document = json.loads(codec.encode(FULL))
    path = data.draw(st.sampled_from(places(document)))
    value = data.draw(json_values | st.just(10**400))
    parent = document
    for step in path[:-1]:
        parent = parent[step]
    parent[path[-1]] = value
    try:
        found = codec.decode(json.dumps(document).encode())
    except codec.RecordFormatError:
        return
    assert dataclasses.replace(found) == found
    before = FULL
    for step in path:
        if tuple(path[:2]) in FREE or not dataclasses.is_dataclass(before):
            break
        after, before = getattr(found, str(step)), getattr(before, str(step))
        if before is not None and after is not None and not isinstance(before, float):
            assert type(after) is type(before), path
        found = after


def is_field(path: tuple[str | int, ...]) -> bool:
    """Whether the format names it; the rest are elements of lists, or names that others have given."""
    given = path[:-1] in (("parts",), ("client", "metadata")) or (path[:2] in FREE and len(path) > 2)
    return isinstance(path[-1], str) and not given


@pytest.mark.parametrize(
    "path",
    [path for path in places(json.loads(codec.encode(FULL))) if is_field(path)],
    ids=lambda path: ".".join(map(str, path)),
)
def test_a_missing_field_is_refused(path: tuple[str | int, ...]) -> None:
    document = json.loads(codec.encode(FULL))
    parent = document
    for step in path[:-1]:
        parent = parent[step]
    del parent[path[-1]]
    with pytest.raises(codec.RecordFormatError):
        codec.decode(json.dumps(document).encode())


def test_an_unknown_field_is_refused() -> None:
    """Leaving it out would be losing it at the next write."""
    document = json.loads(codec.encode(FULL))
    document["terms"]["of_a_later_version"] = 1
    with pytest.raises(codec.RecordFormatError, match="of_a_later_version"):
        codec.decode(json.dumps(document).encode())


@pytest.mark.parametrize("version", [0, 3, "2", None, 2.5])
def test_another_format_is_refused_by_name(version: object) -> None:
    document = json.loads(codec.encode(FULL)) | {"format": version}
    with pytest.raises(codec.RecordFormatError, match="format"):
        codec.decode(json.dumps(document).encode())


def test_a_bottomless_record_is_refused() -> None:
    with pytest.raises(codec.RecordFormatError):
        codec.decode(b"[" * 100_000)


@pytest.mark.parametrize("version", [1, 2])
def test_a_digest_stands_behind_the_wish_for_it(version: int) -> None:
    """So that a program which knows of no digests keeps it."""
    digest = "0123456789abcdef" * 4
    terms = dataclasses.replace(FULL.terms, digest="sha-256")
    record = dataclasses.replace(FULL, terms=terms, digest=digest)
    data = codec.encode(record, version=version)
    assert json.loads(data)["terms"]["digest"] == f"sha-256={digest}"
    assert codec.decode(data) == record
    for odd in (b"sha-256=", b"sha-512", b"sha-256=" + digest[:-1].encode() + b"G"):
        with pytest.raises(codec.RecordFormatError):
            codec.decode(data.replace(f"sha-256={digest}".encode(), odd))
    with pytest.raises(codec.RecordFormatError):
        codec.decode(data.replace(b'"joined"', b'"digest": null, "joined"'))
