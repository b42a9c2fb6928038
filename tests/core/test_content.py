"""The map of an upload's bytes: what may be said of it, and what it makes of cuts, growth and concatenation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from incomingd.core.content import Content, Range, concatenated
from incomingd.core.record import Record, Terms


def content(*sizes: int, grows: bool = False, **more: object) -> Content:
    ranges, at = [], 0
    for number, size in enumerate(sizes):
        ranges.append(Range(f"bytes.{number}", "v", at, at + size))
        at += size
    if grows:
        ranges.append(Range("bytes.grows", "v", at, None))
    return dataclasses.replace(Content(map=tuple(ranges)), **more)  # type: ignore[arg-type] # by name


@pytest.mark.parametrize(
    "ranges",
    [
        (Range("a", "v", 1, 2),),
        (Range("a", "v", 0, 2), Range("b", "v", 3, 4)),
        (Range("a", "v", 0, 2), Range("b", "v", 1, 4)),
        (Range("a", "v", 0, None), Range("b", "v", 0, 4)),
        (Range("a", "v", 0, None), Range("b", "v", 0, None)),
    ],
)
def test_a_map_with_a_gap_or_an_overlap_cannot_be_made(ranges: tuple[Range, ...]) -> None:
    with pytest.raises(AssertionError):
        Content(map=ranges)


@pytest.mark.parametrize("start, stop", [(-1, 2), (3, 2)])
def test_a_range_that_is_none_cannot_be_made(start: int, stop: int) -> None:
    with pytest.raises(AssertionError):
        Range("a", "v", start, stop)


@pytest.mark.parametrize(
    "make", [lambda: Content(length=-1), lambda: Content(noted_offset=-1)], ids=["length", "noted"]
)
def test_no_length_and_no_offset_is_negative(make: Callable[[], Content]) -> None:
    with pytest.raises(AssertionError):
        make()


def test_only_the_last_open_range_grows() -> None:
    assert content(3).growing is None
    assert Content().growing is None
    growing = content(3, grows=True).growing
    assert growing is not None
    assert (growing.segment, growing.start) == ("bytes.grows", 3)


@pytest.mark.parametrize("sizes, stop", [((), 0), ((3,), 3), ((3, 4), 7)])
def test_closed_ranges_end_where_the_last_one_does(sizes: tuple[int, ...], stop: int) -> None:
    assert content(*sizes).closed_stop == content(*sizes, grows=True).closed_stop == stop


@pytest.mark.parametrize(
    "given_content, closed",
    [
        (content(3, length=3, noted_offset=3), True),
        (content(0, length=0), True),
        (content(length=0), True),
        (content(3, length=3, noted_offset=2), False),
        (content(3, grows=True, length=3, noted_offset=3), False),
        (content(3, length=4, noted_offset=3), False),
        (content(3, noted_offset=3), False),
    ],
)
def test_closed_means_all_bytes_are_in_and_noted(given_content: Content, closed: bool) -> None:
    assert given_content.closed == closed


@given(st.lists(st.integers(0, 9), max_size=4), st.booleans(), st.integers(0, 40))
def test_a_cut_leaves_a_closed_map_up_to_the_offset(sizes: list[int], grows: bool, offset: int) -> None:
    whole = content(*sizes, grows=grows, length=50, metadata="m", concat="c", unverified_from=1)
    reached = offset if grows else min(offset, sum(sizes))
    cut = whole.cut_at(offset)
    assert (cut.growing, cut.closed_stop, cut.noted_offset, cut.unverified_from) == (None, reached, offset, None)
    assert (cut.length, cut.metadata, cut.concat) == (50, "m", "c")
    # Each byte that is left lies where it lay.
    assert [(r.segment, r.start) for r in cut.map] == [(r.segment, r.start) for r in whole.map[: len(cut.map)]]
    assert whole.map == content(*sizes, grows=grows).map


def test_growth_begins_where_the_closed_ranges_end() -> None:
    grown = content(3, metadata="m").grown_by("bytes.7", "w", 3)
    assert grown.map[1:] == (Range("bytes.7", "w", 3, None),)
    assert grown.metadata == "m"


@pytest.mark.parametrize("whole, at", [(content(3), 2), (content(3), 4), (content(3, grows=True), 3)])
def test_growth_anywhere_else_is_a_mistake(whole: Content, at: int) -> None:
    with pytest.raises(AssertionError):
        whole.grown_by("bytes.7", "v", at)


@given(st.lists(st.lists(st.integers(0, 9), max_size=3), max_size=4))
def test_a_concatenation_is_the_bytes_one_behind_the_other(parts: list[list[int]]) -> None:
    contents = [
        Content(map=tuple(dataclasses.replace(r, segment=f"{n}/{r.segment}", skip=5) for r in content(*sizes).map))
        for n, sizes in enumerate(parts)
    ]
    whole = concatenated(tuple(contents))
    total = sum(map(sum, parts))
    assert (whole.length, whole.noted_offset, whole.closed_stop) == (total, total, total)
    assert whole.closed
    expected = [
        (r.segment, r.skip, r.stop - r.start)
        for part in contents
        for r in part.map
        if r.stop is not None and r.stop > r.start
    ]
    assert [(r.segment, r.skip, (r.stop or 0) - r.start) for r in whole.map] == expected


def test_a_part_may_come_twice() -> None:
    part = content(3)
    assert [(r.segment, r.start, r.stop) for r in concatenated((part, part)).map] == [
        ("bytes.0", 0, 3),
        ("bytes.0", 3, 6),
    ]


def test_what_still_grows_is_not_concatenated() -> None:
    with pytest.raises(AssertionError):
        concatenated((content(3, grows=True),))


# -- contents in a record


def record(**changes: object) -> Record:
    plain = Record("id", Terms("http://app.example/", "c2VjcmV0"), created_at=1.0, expires_at=2.0)
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type] # by name


def test_a_record_has_targets_by_name() -> None:
    one = record(content=content(1), parts=(("p", content(2)), ("q", content(3))))
    assert [one.target(name) for name in (None, "p", "q", "r")] == [content(1), content(2), content(3), None]
    changed = one.with_target("p", content(9)).with_target("r", content(4)).with_target(None, content(7))
    assert changed.parts == (("p", content(9)), ("q", content(3)), ("r", content(4)))
    assert changed.content == content(7)
    assert one == record(content=content(1), parts=(("p", content(2)), ("q", content(3))))


@pytest.mark.parametrize(
    "told, exact, most, length, limit",
    [
        (None, None, None, None, None),
        (5, None, 9, 5, 9),
        (None, 7, None, 7, 7),
        (None, 7, 9, 7, 7),
        (None, 9, 7, 9, 7),
        (5, 5, None, 5, 5),
    ],
)
def test_length_and_limit_are_the_clients_or_the_tickets(
    told: int | None, exact: int | None, most: int | None, length: int | None, limit: int | None
) -> None:
    one = record(terms=Terms("u", "s", length=exact, max_length=most), content=Content(length=told))
    assert (one.length, one.length_limit) == (length, limit)
