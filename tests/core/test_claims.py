"""Claims on the volume: what is written is read again, and what is damaged is never believed."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from incomingd.core import codec
from incomingd.core.formats import FORMER
from incomingd.core.tenure import Claim, ClaimKind, Identity
from tests.core.records import json_values, texts
from tests.support.golden import CLAIM as FULL
from tests.support.golden import CLAIM_OF_NOBODYS_QUESTION, FOLDER

claims = st.builds(
    Claim,
    epoch=st.integers(1, 10**18),
    owner=st.builds(Identity, name=texts, start_id=texts, address=texts),
    create_id=texts,
    volume_id=texts,
    kind=st.sampled_from(ClaimKind),
    question=texts,
)


def test_the_golden_claim_leaves_nothing_as_it_is_by_default() -> None:
    for field in dataclasses.fields(FULL):
        assert getattr(FULL, field.name) != field.default, field.name


def test_nothing_is_an_empty_text_in_format_1_and_null_in_format_2() -> None:
    for version, said, other in ((1, "", None), (2, None, "")):
        document = json.loads(codec.encode_claim(CLAIM_OF_NOBODYS_QUESTION, version=version))
        assert (document["question"], document["owner"]["address"]) == (said, said)
        with pytest.raises(codec.RecordFormatError, match="question"):
            codec.decode_claim(json.dumps(document | {"question": other}).encode())


def test_the_former_program_reads_nothing_newer() -> None:
    with pytest.raises(codec.RecordFormatError, match="claim format 2; this program reads format 1"):
        codec.decode_claim(codec.encode_claim(FULL), known=FORMER)


@given(claims, st.sampled_from([1, 2]))
def test_what_is_written_is_read_again(claim: Claim, version: int) -> None:
    written = codec.encode_claim(claim, version=version)
    assert codec.decode_claim(written) == claim
    assert codec.encode_claim(codec.decode_claim(written), version=version) == written


@given(st.data())
def test_a_truncated_claim_is_refused(data: st.DataObject) -> None:
    whole = codec.encode_claim(FULL)
    # Without its last line feed it is still whole.
    size = data.draw(st.integers(0, len(whole) - 2))
    with pytest.raises(codec.RecordFormatError):
        codec.decode_claim(whole[:size])


@given(st.data())
def test_a_damaged_claim_is_refused_or_still_a_claim(data: st.DataObject) -> None:
    damaged = bytearray(codec.encode_claim(FULL))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        damaged[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        found = codec.decode_claim(bytes(damaged))
    except codec.RecordFormatError:
        return
    assert codec.decode_claim(codec.encode_claim(found)) == found


@given(st.binary() | json_values.map(lambda value: json.dumps(value).encode()))
def test_what_is_no_claim_is_refused(data: bytes) -> None:
    with pytest.raises(codec.RecordFormatError):
        codec.decode_claim(data)


PLACES = [
    ("epoch",), ("owner",), ("owner", "name"), ("owner", "start_id"), ("owner", "address"), ("create_id",),
    ("volume_id",), ("kind",), ("question",), ("format",),
]  # fmt: skip


@pytest.mark.parametrize("path", PLACES, ids=".".join)
def test_a_missing_field_is_refused(path: tuple[str, ...]) -> None:
    document = json.loads(codec.encode_claim(FULL))
    parent = document
    for step in path[:-1]:
        parent = parent[step]
    del parent[path[-1]]
    with pytest.raises(codec.RecordFormatError):
        codec.decode_claim(json.dumps(document).encode())


@pytest.mark.parametrize("path", PLACES, ids=".".join)
@pytest.mark.parametrize("value", [None, True, 1.5, [], {}, 0, -1])
def test_a_value_of_another_kind_is_refused(path: tuple[str, ...], value: object) -> None:
    document = json.loads(codec.encode_claim(FULL))
    parent = document
    for step in path[:-1]:
        parent = parent[step]
    if path == ("format",) and value is True:
        value = "1"
    if value is None and path[-1] in ("question", "address"):
        # Where nothing is right, an empty text is wrong.
        value = ""
    parent[path[-1]] = value
    with pytest.raises(codec.RecordFormatError):
        codec.decode_claim(json.dumps(document).encode())


@pytest.mark.parametrize("where", [None, "owner"])
def test_an_unknown_field_is_refused(where: str | None) -> None:
    """Claims are never written again; but what a later version means by it, this one must not ignore."""
    document = json.loads(codec.encode_claim(FULL))
    (document[where] if where else document)["of_a_later_version"] = 1
    with pytest.raises(codec.RecordFormatError, match="of_a_later_version"):
        codec.decode_claim(json.dumps(document).encode())


@pytest.mark.parametrize("version", [0, 3, "1", None, 1.5, True])
def test_another_format_is_refused_by_name(version: object) -> None:
    document = json.loads(codec.encode_claim(FULL)) | {"format": version}
    with pytest.raises(codec.RecordFormatError, match="claim format"):
        codec.decode_claim(json.dumps(document).encode())


def test_a_bottomless_claim_is_refused() -> None:
    with pytest.raises(codec.RecordFormatError, match="no readable claim"):
        codec.decode_claim(b"[" * 100_000)


def test_a_record_is_no_claim_and_a_claim_no_record() -> None:
    with pytest.raises(codec.RecordFormatError):
        codec.decode(codec.encode_claim(FULL))
    with pytest.raises(codec.RecordFormatError):
        codec.decode_claim((FOLDER / "2" / "record.json").read_bytes())
