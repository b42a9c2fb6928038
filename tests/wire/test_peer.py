"""Messages between instances: what is written is read again, and what is no message is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from incomingd.core import codec
from incomingd.core.errors import Code, Refusal
from incomingd.core.peering import (
    Act,
    Acted,
    ActName,
    BytesWanted,
    Elsewhere,
    Given,
    NotNow,
    Question,
    Recall,
    Recalled,
    Recorded,
    Release,
    Unknown,
    Voided,
)
from incomingd.core.record import Record, Terms
from incomingd.core.tenure import Claim, ClaimKind, Identity
from incomingd.wire.peer import (
    MESSAGE_BYTES_MAX,
    Answer,
    Dialect,
    Document,
    Done,
    Formats,
    ListingWanted,
    Message,
    Page,
    Refused,
    StatusWanted,
    name_of,
)
from tests.core.records import json_values, records

FIXTURE = Path(__file__).with_name("peer-format-1.json")
VOLUME = "vvvvvvvvvvvv"
UPLOAD = "u" * 43 + VOLUME
IT = Identity("it:4000", "2" * 32, "https://it:4002")
RECORD = Record(UPLOAD, Terms("https://app.example/done", "c2VjcmV0"), created_at=1.0, expires_at=2.0)
MESSAGES: dict[str, Message] = {
    "recall": Recall(UPLOAD, 3, IT),
    "act": Act(UPLOAD, ActName.CONFIRM, {"done": True, "client_data": [1, "ü", None]}),
    "ask": Question(UPLOAD, "q" * 22, IT, VOLUME),
    "void": Voided(UPLOAD, "q" * 22, 4),
    "recorded": Recorded(UPLOAD, 4),
    "release": Release(UPLOAD, ("bytes.1", "part-" + "p" * 22 + ".2")),
    "read": BytesWanted(UPLOAD, "bytes.1", 5, 2**40),
    "listing": ListingWanted({"status": ["open"]}),
    "status": StatusWanted(),
}
ANSWERS: dict[str, Answer] = {
    **{each.value: each for each in Recalled},
    "acted": Acted(RECORD, 7),
    "given": Given(Claim(4, IT, "c" * 22, VOLUME, ClaimKind.PULL, "q" * 22), RECORD),
    "elsewhere": Elsewhere(IT, 9, VOLUME, keeps=True),
    "unknown": Unknown(),
    "not_now": NotNow("the disk says nothing"),
    "done": Done(),
    "document": Page({"uploads": [{"id": UPLOAD}]}),
}
FORMATS = Formats()


def refused(read: Callable[[], object]) -> Code | None:
    try:
        read()
    except Refusal as refusal:
        return refusal.code
    return None


def code_of(name: str, body: bytes, formats: Formats = FORMATS) -> Code:
    with pytest.raises(Refusal) as refused:
        formats.read_call(name, body)
    return refused.value.code


def test_the_tables_here_have_every_message_and_answer() -> None:
    stored = json.loads(FIXTURE.read_text())
    assert stored["calls"].keys() == MESSAGES.keys()
    assert stored["answers"].keys() == ANSWERS.keys()


@pytest.mark.parametrize("name", MESSAGES)
def test_a_call_of_format_1_stays_as_it_is(name: str) -> None:
    """A change of it needs a new format: another instance may be of the former version."""
    message = MESSAGES[name]
    assert name_of(message) == name
    written = FORMATS.call(message, 1)
    assert json.loads(written) == json.loads(FIXTURE.read_text())["calls"][name]
    assert FORMATS.read_call(name, written) == (message, 1)


@pytest.mark.parametrize("word", ANSWERS)
def test_an_answer_of_format_1_stays_as_it_is(word: str) -> None:
    written = FORMATS.answer(ANSWERS[word], 1)
    said = json.loads(written)
    if "record" in said:
        # Its format is its own, and held by tests of its own.
        assert said["record"] == json.loads(codec.encode(RECORD))
        said["record"] = {}
    assert said == json.loads(FIXTURE.read_text())["answers"][word]
    assert FORMATS.read_answer(written) == ANSWERS[word]


@settings(max_examples=25)
@given(record=records, offset=st.integers(0, 2**60), arguments=st.dictionaries(st.text(max_size=9), json_values))
def test_whatever_stands_in_a_record_or_an_act_arrives(
    record: Record, offset: int, arguments: dict[str, object]
) -> None:
    assert FORMATS.read_answer(FORMATS.answer(Acted(record, offset), 1)) == Acted(record, offset)
    act = Act(UPLOAD, ActName.CHANGE, arguments)
    assert FORMATS.read_call("act", FORMATS.call(act, 1)) == (act, 1)


def test_a_refusal_arrives_as_it_was_raised() -> None:
    refusal = Refusal(Code.OFFSET_MISMATCH, "it is 5", offset=5, retry_after_s=2, extra={"errors": [{"field": "x"}]})
    found = FORMATS.read_answer(FORMATS.answer(Refused(refusal, understood=True), 1))
    assert isinstance(found, Refused)
    assert found.understood
    said = found.refusal
    assert (said.code, said.detail, said.offset, said.retry_after_s, said.extra) == (
        refusal.code,
        refusal.detail,
        refusal.offset,
        refusal.retry_after_s,
        refusal.extra,
    )


def test_a_refusal_of_a_newer_version_is_an_error_that_says_what_it_said() -> None:
    document = json.loads(FORMATS.answer(Refused(Refusal(Code.TOO_LATE, "so late"), understood=True), 1))
    found = FORMATS.read_answer(json.dumps(document | {"code": "of_the_future", "format": 99}).encode())
    assert isinstance(found, Refused)
    assert (found.refusal.code, found.refusal.detail) == (Code.INTERNAL_ERROR, "so late")


# ------------------------------------------------------------------------------------------------------------ malformed


def body(name: str, /, **changed: object) -> bytes:
    document: Document = json.loads(FORMATS.call(MESSAGES[name], 1)) | changed
    return json.dumps({field: value for field, value in document.items() if value is not ...}).encode()


MALFORMED: dict[str, tuple[str, bytes, Code]] = {
    "no such message": ("forget", body("status"), Code.PATH_UNKNOWN),
    "nothing": ("status", b"", Code.BODY_MALFORMED),
    "no JSON": ("status", b"{", Code.BODY_MALFORMED),
    "no UTF-8": ("status", b'{"format": "\xff"}', Code.BODY_MALFORMED),
    "a list": ("status", b"[]", Code.BODY_MALFORMED),
    "too deep": ("status", b"[" * 100_000, Code.BODY_MALFORMED),
    "no number": ("recall", body("recall").replace(b": 3", b": NaN"), Code.BODY_MALFORMED),
    "too large": ("status", b" " * (MESSAGE_BYTES_MAX + 1), Code.BODY_TOO_LARGE),
    "no format": ("status", b"{}", Code.PEER_FORMAT_UNKNOWN),
    "the format before the first": ("status", body("status", format=0), Code.PEER_FORMAT_UNKNOWN),
    "a format of the future": ("status", body("status", format=2), Code.PEER_FORMAT_UNKNOWN),
    "true for a format": ("status", body("status", format=True), Code.PEER_FORMAT_UNKNOWN),
    "a field more": ("status", body("status", more=1), Code.FIELD_INVALID),
    "a field less": ("recall", body("recall", epoch=...), Code.FIELD_INVALID),
    "a text for a number": ("recall", body("recall", epoch="3"), Code.FIELD_INVALID),
    "true for a number": ("recall", body("recall", epoch=True), Code.FIELD_INVALID),
    "a negative epoch": ("recall", body("recall", epoch=-1), Code.FIELD_INVALID),
    "an endless epoch": ("recall", body("recall", epoch=10**30), Code.FIELD_INVALID),
    "no upload's id": ("recall", body("recall", upload_id="../x"), Code.FIELD_INVALID),
    "nobody": ("recall", body("recall", by=None), Code.FIELD_INVALID),
    "somebody with more to him": (
        "recall",
        body("recall", by={"name": "a", "start_id": "b", "address": "c", "d": 1}),
        Code.FIELD_INVALID,
    ),
    "an endless name": (
        "recall",
        body("recall", by={"name": "a" * 300, "start_id": "b", "address": "c"}),
        Code.FIELD_INVALID,
    ),
    "an act that there is not": ("act", body("act", name="explode"), Code.FIELD_INVALID),
    "arguments that are none": ("act", body("act", arguments=[]), Code.FIELD_INVALID),
    "no volume's id": ("ask", body("ask", volume_id="/"), Code.FIELD_INVALID),
    "a segment elsewhere": ("read", body("read", segment="../record"), Code.FIELD_INVALID),
    "a hidden segment": ("read", body("read", segment=".lock"), Code.FIELD_INVALID),
    "bytes backwards": ("read", body("read", start=9, stop=8), Code.FIELD_INVALID),
    "segments elsewhere": ("release", body("release", segments=["bytes.1", "a/b"]), Code.FIELD_INVALID),
    "segments of numbers": ("release", body("release", segments=[1]), Code.FIELD_INVALID),
    "very many segments": ("release", body("release", segments=["b.1"] * 10_001), Code.FIELD_INVALID),
    "a query that is none": ("listing", body("listing", query="x"), Code.FIELD_INVALID),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_what_is_no_call_is_refused_by_name(case: str) -> None:
    name, sent, code = MALFORMED[case]
    assert code_of(name, sent) is code


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"{}",
        b'{"format": 1}',
        b'{"format": 1, "answer": "perhaps"}',
        b'{"format": 1, "answer": ["done"]}',
        b'{"format": 1, "answer": "done", "more": 1}',
        b'{"format": 9, "answer": "done"}',
        b'{"format": 1, "answer": "acted", "offset": 1, "record": {}}',
        b'{"answer": "refused", "code": 1, "detail": "", "extra": {}, "understood": true}',
    ],
)
def test_what_is_no_answer_is_refused(sent: bytes) -> None:
    with pytest.raises(Refusal):
        FORMATS.read_answer(sent)


@given(name=st.sampled_from(sorted(MESSAGES)), data=st.data())
def test_nothing_that_is_sent_makes_anything_but_a_message_or_a_refusal(name: str, data: st.DataObject) -> None:
    """Each field in turn is replaced by any JSON."""
    document = json.loads(FORMATS.call(MESSAGES[name], 1))
    field = data.draw(st.sampled_from(sorted(document)))
    document[field] = data.draw(json_values)
    answer = json.loads(FORMATS.answer(ANSWERS["given"], 1))
    field = data.draw(st.sampled_from(sorted(answer)))
    answer[field] = data.draw(json_values)
    codes = [
        refused(lambda: FORMATS.read_call(name, json.dumps(document).encode())),
        refused(lambda: FORMATS.read_answer(json.dumps(answer).encode())),
    ]
    assert set(codes) <= {None, Code.FIELD_INVALID, Code.PEER_FORMAT_UNKNOWN}


# -------------------------------------------------------------------------------------------------------------- formats


def _renamed(one: str, other: str) -> Callable[[Document], Document]:
    return lambda document: {other if field == one else field: value for field, value in document.items()}


# What a program of the next version would know: the format before its own had other names for two things.
NEXT = Formats(
    {
        1: Dialect(
            write={"recall": _renamed("epoch", "number"), "not_now": _renamed("detail", "why")},
            read={"recall": _renamed("number", "epoch"), "not_now": _renamed("why", "detail")},
        ),
        2: Dialect(),
    }
)
AFTER_NEXT = Formats({2: Dialect(), 3: Dialect()})


def test_a_program_knows_its_own_format_and_the_one_before() -> None:
    assert (FORMATS.newest, FORMATS.oldest) == (1, 1)
    assert (NEXT.newest, NEXT.oldest) == (2, 1)
    with pytest.raises(AssertionError):
        Formats({1: Dialect(), 3: Dialect()})


def test_the_former_format_is_written_and_read_in_its_own_words() -> None:
    recall = Recall(UPLOAD, 3, IT)
    former, present = NEXT.call(recall, 1), NEXT.call(recall, 2)
    assert json.loads(former)["number"] == json.loads(present)["epoch"] == 3
    assert NEXT.read_call("recall", former) == (recall, 1)
    assert NEXT.read_call("recall", present) == (recall, 2)
    assert json.loads(NEXT.answer(NotNow("x"), 1)) == {"format": 1, "answer": "not_now", "why": "x"}
    for version in (1, 2):
        assert NEXT.read_answer(NEXT.answer(NotNow("x"), version)) == NotNow("x")


def test_formats_two_versions_apart_do_not_understand_each_other() -> None:
    assert code_of("status", AFTER_NEXT.call(StatusWanted(), 3), NEXT) is Code.PEER_FORMAT_UNKNOWN
    assert code_of("status", FORMATS.call(StatusWanted(), 1), AFTER_NEXT) is Code.PEER_FORMAT_UNKNOWN
    assert NEXT.read_call("status", AFTER_NEXT.call(StatusWanted(), 2)) == (StatusWanted(), 2)
    assert NEXT.read_call("status", FORMATS.call(StatusWanted(), 1)) == (StatusWanted(), 1)
