"""Records on the volume: what is written is read again, and what is damaged is never believed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from incomingd.core import codec
from incomingd.core.content import Content, Range
from incomingd.core.record import Client, Delivery, Failure, Handover, Record, Terms
from incomingd.core.status import Status
from incomingd.core.tenure import ClaimKind, Identity
from tests.core.records import json_values, records

GOLDEN = Path(__file__).with_name("record-format-2.json")
FORMER = Path(__file__).with_name("record-format-1.json")

FULL = Record(
    upload_id="i" * 43 + "Volume000001",
    terms=Terms(
        finish_url="https://app.example/arrived",
        secret="c2VjcmV0",
        secret_given=True,
        length=7,
        max_length=9,
        filename="Übung.pdf",
        content_types=("application/pdf", "image/*"),
        after_handover="keep",
        digest=None,
        client_cancel=False,
        events=("started",),
        callback_format="form",
        form_secret="old",
        labels=("a", "b"),
        origins=("https://page.example",),
        app_data={"user": 7, "deep": [1.5, None, {"x": True}]},
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        open_creation=False,
    ),
    created_at=1_800_000_000.25,
    expires_at=1_800_604_800.25,
    status=Status.AWAITING_APP,
    epoch=3,
    owner=Identity("one:4000", "start", "10.0.0.1:4002"),
    claim_kind=ClaimKind.COMPLETE,
    create_id="create",
    content=Content(
        length=7,
        map=(Range("bytes.1", "Volume000001", 0, 3, contested=True), Range("bytes.2", "Volume000001", 3, 7, skip=1)),
        noted_offset=7,
        metadata="filename w5xidW5nLnBkZg==",
        concat="final;a b",
    ),
    parts=(
        ("first", Content(length=3, map=(Range("part-first.1", "Volume000001", 0, None),), unverified_from=2)),
        ("other", Content(length_deferred=True)),
    ),
    final_of=("first", "other"),
    wanted_by=("another",),
    protocol="tus",
    client=Client(
        filename="Übung.pdf",
        content_type="application/pdf",
        relative_path="a/Übung.pdf",
        last_modified="1700000000000",
        metadata=(("filename", "Übung.pdf"), ("z", "")),
        address="192.0.2.1",
    ),
    beginnings=2,
    boot_id="boot",
    joined=True,
    completed_at=1_800_000_100.5,
    ended_at=None,
    handover=Handover(
        delivery=Delivery("upload.complete", "msg_1", 3, 1.5, None, "the web app answered 500", delivered=True),
        download_token="token",
        wait_deadline=1_800_000_700.5,
        message="Looking at it.",
        client_data={"see": "/inbox"},
    ),
    notifications=(Delivery("upload.started", "msg_2", 1, 2.5, 3.5, None, given_up=True),),
    failure=Failure("refused", "No room in the inbox."),
    let_go=True,
)


def every_field_of(value: Any) -> None:
    """Fail if a record of the test leaves a field as it is by default: its format would not be held."""
    for field in dataclasses.fields(value):
        if field.name in ("digest", "ended_at", "open_creation"):
            continue
        assert getattr(value, field.name) != field.default, field.name


def of_format_1(record: Record) -> Record:
    """Return what format 1 can tell of *record*."""
    tell = [dataclasses.replace(part, contested=False) for part in record.content.map]
    return dataclasses.replace(record, content=dataclasses.replace(record.content, map=tuple(tell)))


def test_a_record_of_the_former_format_is_read_and_written() -> None:
    """A program of the former version may live beside this one."""
    assert codec.decode(FORMER.read_bytes()) == of_format_1(FULL)
    written = codec.encode(FULL, version=1)
    assert written.startswith(b'{\n "format": 1,\n')
    assert json.loads(written) == json.loads(FORMER.read_bytes())


def test_a_field_of_the_present_format_is_no_part_of_the_former() -> None:
    document = json.loads(codec.encode(FULL)) | {"format": 1}
    with pytest.raises(codec.RecordFormatError, match="contested"):
        codec.decode(json.dumps(document).encode())


@given(st.data())
def test_a_damaged_record_of_the_former_format_is_refused_or_still_a_record(data: st.DataObject) -> None:
    document = json.loads(FORMER.read_bytes())
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


def test_a_record_of_format_2_stays_readable() -> None:
    """What stands on somebody's disk is read by every later version, to the same record."""
    every_field_of(FULL)
    every_field_of(FULL.terms)
    every_field_of(FULL.client)
    every_field_of(FULL.handover)
    assert codec.decode(GOLDEN.read_bytes()) == FULL


def test_a_record_is_written_as_a_person_can_read_it() -> None:
    text = codec.encode(FULL).decode("utf-8")
    assert '"filename": "Übung.pdf"' in text
    assert text.startswith('{\n "format": 2,\n "upload_id":')
    assert text.endswith("}\n")


@settings(max_examples=40)
@given(records)
def test_what_is_written_is_read_again(record: Record) -> None:
    assert codec.decode(codec.encode(record)) == record


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
