"""Queries of lists, and places in them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from incomingd.core import ids
from incomingd.core.errors import Refusal
from incomingd.core.status import Status
from incomingd.wire.listing import ListQuery, Position, parse_query


def test_a_query_is_read() -> None:
    position = Position.behind("ab", "ab" + "c" * 53)
    found = parse_query({"status": ["open, complete"], "label": ["x"], "handover": ["stuck"], "page": [str(position)]})
    assert found == ListQuery(frozenset({Status.OPEN, Status.COMPLETE}), "x", stuck=True, position=position)
    assert parse_query({}) == ListQuery()
    assert parse_query({"status": [""], "label": [""], "page": [""]}) == ListQuery()


@pytest.mark.parametrize(
    "arguments,field",
    [
        ({"status": ["opened"]}, "status"),
        ({"status": ["open", "lost"]}, "status"),
        ({"handover": ["yes"]}, "handover"),
        ({"page": ["../.."]}, "page"),
        ({"page": ["ab"]}, "page"),
        ({"page": ["é.é"]}, "page"),
        ({"label": ["a", "b"]}, "label"),
        ({"labels": ["a"]}, "labels"),
    ],
)
def test_a_wrong_filter_is_named(arguments: dict[str, list[str]], field: str) -> None:
    with pytest.raises(Refusal) as caught:
        parse_query(arguments)
    assert [error["field"] for error in caught.value.extra["errors"]] == [field]  # type: ignore[attr-defined] # a list of dicts


IDS = st.text(ids.ALPHABET, min_size=55, max_size=55)


@given(IDS, IDS)
def test_a_place_divides_what_was_shown_from_what_comes(one: str, other: str) -> None:
    """As text, too: what a caller hands back is the same place."""
    position = parse_query({"page": [str(Position.behind(one[:2], one))]}).position
    assert position is not None
    assert position.passed(one[:2], one)
    assert position.passed(other[:2], other) == (other <= one)


@given(IDS)
def test_a_place_does_not_tell_an_id(upload_id: str) -> None:
    """It stands in logs of web apps and proxies; the id is the permission to send bytes."""
    assert len(str(Position.behind(upload_id[:2], upload_id))) < len(upload_id) - 22
