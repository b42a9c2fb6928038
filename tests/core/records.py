"""Records of every shape, for hypothesis."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from incomingd.core.content import Content, Range
from incomingd.core.record import Client, Delivery, Failure, Handover, Record, Terms
from incomingd.core.status import Status
from incomingd.core.tenure import ClaimKind, Identity

texts = st.text(max_size=8)
offsets = st.integers(0, 10**18)
times = st.floats(0, 4e9) | st.integers(0, 4 * 10**9)
maybe_text = st.none() | texts
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


def tuples_of(items: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(items, max_size=3).map(tuple)


def named(items: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.dictionaries(texts, items, max_size=3).map(lambda found: tuple(found.items()))


@st.composite
def contents(draw: st.DrawFn) -> Content:
    sizes = draw(st.lists(st.integers(0, 1000), max_size=3))
    ranges, at = [], 0
    for number, size in enumerate(sizes):
        ranges.append(Range(f"bytes.{number}", draw(texts), at, at + size, draw(st.integers(0, 9))))
        at += size
    if draw(st.booleans()):
        ranges.append(Range("bytes.last", "v", at, None))
    return Content(
        length=draw(st.none() | offsets),
        map=tuple(ranges),
        noted_offset=draw(offsets),
        unverified_from=draw(st.none() | offsets),
        metadata=draw(maybe_text),
        concat=draw(maybe_text),
        length_deferred=draw(st.booleans()),
    )


terms = st.builds(
    Terms,
    finish_url=texts,
    secret=texts,
    secret_given=st.booleans(),
    length=st.none() | offsets,
    max_length=st.none() | offsets,
    filename=maybe_text,
    content_types=tuples_of(texts),
    after_handover=st.sampled_from(["delete", "keep"]),
    digest=st.sampled_from([None, "sha-256"]),
    client_cancel=st.booleans(),
    events=tuples_of(texts),
    callback_format=texts,
    form_secret=texts,
    labels=tuples_of(texts),
    origins=tuples_of(texts),
    app_data=st.dictionaries(texts, json_values, max_size=3),
    traceparent=maybe_text,
    open_creation=st.booleans(),
)
clients = st.builds(
    Client,
    filename=maybe_text,
    content_type=maybe_text,
    relative_path=maybe_text,
    last_modified=maybe_text,
    metadata=named(texts),
    address=maybe_text,
)
deliveries = st.builds(
    Delivery,
    type=texts,
    webhook_id=texts,
    attempts=st.integers(0, 99),
    first_attempt_at=st.none() | times,
    next_attempt_at=st.none() | times,
    last_error=maybe_text,
    given_up=st.booleans(),
    delivered=st.booleans(),
)
handovers = st.builds(
    Handover,
    delivery=st.none() | deliveries,
    download_token=maybe_text,
    wait_deadline=st.none() | times,
    message=maybe_text,
    client_data=json_values,
)
identities = st.builds(Identity, name=texts, start_id=texts, address=texts)
_records = st.builds(
    Record,
    upload_id=texts,
    terms=terms,
    created_at=times,
    expires_at=times,
    status=st.sampled_from(Status),
    epoch=st.integers(0, 99),
    owner=st.none() | identities,
    claim_kind=st.none() | st.sampled_from(ClaimKind),
    create_id=texts,
    content=contents(),
    parts=named(contents()),
    final_of=st.none() | tuples_of(texts),
    wanted_by=tuples_of(texts),
    protocol=maybe_text,
    client=clients,
    beginnings=st.integers(0, 99),
    boot_id=texts,
    joined=st.booleans(),
    completed_at=st.none() | times,
    ended_at=st.none() | times,
    handover=handovers,
    notifications=tuples_of(deliveries),
    failure=st.none() | st.builds(Failure, code=texts, message=texts),
    let_go=st.booleans(),
)


@st.composite
def _with_digest(draw: st.DrawFn) -> Record:
    record = draw(_records)
    known = record.terms.digest is not None and draw(st.booleans())
    return replace(record, digest=draw(st.from_regex("[0-9a-f]{64}", fullmatch=True)) if known else None)


records = _with_digest()
