"""Ranges of a stored file, and what it is called."""

from __future__ import annotations

from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from incomingd.wire.download import Piece, RangeNotSatisfiable, content_disposition, entity_tag, piece_of

RANGES = [
    (None, 10, None),
    ("bytes=0-", 10, Piece(0, 10)),
    ("bytes=0-0", 10, Piece(0, 1)),
    ("bytes=3-5", 10, Piece(3, 6)),
    ("bytes=3-99", 10, Piece(3, 10)),
    ("Bytes=9-9", 10, Piece(9, 10)),
    ("bytes=-3", 10, Piece(7, 10)),
    ("bytes=-99", 10, Piece(0, 10)),
    # What cannot be read, is no range of bytes, or is several, is answered with the whole file.
    ("bytes=5-3", 10, None),
    ("bytes=-", 10, None),
    ("bytes=0-1,4-5", 10, None),
    ("bytes=a-b", 10, None),
    ("bytes=+1-2", 10, None),
    ("bytes=1_0-", 100, None),
    ("bytes=\u0661-", 10, None),
    ("lines=1-2", 10, None),
    ("", 10, None),
]


@pytest.mark.parametrize("header,size,piece", RANGES)
def test_a_range_is_read(header: str | None, size: int, piece: Piece | None) -> None:
    assert piece_of(header, size) == piece


@pytest.mark.parametrize("header,size", [("bytes=10-", 10), ("bytes=99-100", 10), ("bytes=-0", 10), ("bytes=0-", 0)])
def test_a_range_without_a_byte_in_it_is_refused(header: str, size: int) -> None:
    with pytest.raises(RangeNotSatisfiable):
        piece_of(header, size)


@given(st.text(), st.integers(0, 100))
def test_any_header_is_a_piece_of_the_file_or_nothing(text: str, size: int) -> None:
    for header in (text, "bytes=" + text):
        try:
            piece = piece_of(header, size)
        except RangeNotSatisfiable:
            continue
        assert piece is None or 0 <= piece.start < piece.stop <= size


def test_a_name_survives_and_cannot_break_the_header() -> None:
    assert content_disposition(None) == "attachment"
    assert content_disposition("a b.txt") == "attachment; filename=\"a b.txt\"; filename*=UTF-8''a%20b.txt"
    assert content_disposition('"x\\%".txt').startswith('attachment; filename="_x___.txt";')
    assert "filename*=UTF-8''%E2%82%AC" in content_disposition("€")


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_name_can_be_told(name: str) -> None:
    header = content_disposition(name)
    assert header.isascii()
    assert header.isprintable()
    assert unquote(header.partition("UTF-8''")[2]) == name


def test_the_tag_does_not_tell_the_id() -> None:
    assert "A" * 55 not in entity_tag("A" * 55)
    assert entity_tag("A" * 55) != entity_tag("B" * 55)
