"""Messages between instances: what is written is read again, and what is no message is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from incomingd.core.errors import Code, Refusal
from incomingd.core.formats import FORMER
from incomingd.core.peering import Act, Acted, ActName, Bequest, Elsewhere, Given, Question
from incomingd.core.record import Record
from incomingd.core.tenure import Identity
from incomingd.wire.peer import MESSAGE_BYTES_MAX, Document, Done, Formats, Refused, StatusWanted
from tests.core.records import json_values, records
from tests.support.golden import ANSWERS, CLAIM_OF_NOBODYS_QUESTION, MESSAGES, SMALL_RECORD, UPLOAD, VOLUME

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
    "a format of the future": ("status", body("status", format=3), Code.PEER_FORMAT_UNKNOWN),
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
    "the heir of a path": ("inherit", body("inherit", volumes=["../../etc/xx"]), Code.FIELD_INVALID),
    "the heir of a number": ("inherit", body("inherit", volumes=[1]), Code.FIELD_INVALID),
    "very many volumes": ("inherit", body("inherit", volumes=[VOLUME] * 1001), Code.FIELD_INVALID),
    "an heir's volume that is none": ("inherit", body("inherit", heir_volume_id="/"), Code.FIELD_INVALID),
    "a volume that nobody leaves": ("inherit", body("inherit", volume_id=None), Code.FIELD_INVALID),
    "givings that are none": ("inherit", body("inherit", givens=[{}]), Code.FIELD_INVALID),
    "givings of texts": ("inherit", body("inherit", givens=["x"]), Code.FIELD_INVALID),
    "very many givings": ("inherit", body("inherit", givens=[{}] * 1001), Code.FIELD_INVALID),
    "a claim that is older than its record": (
        "inherit",
        FORMATS.call(Bequest(VOLUME, "", (Given(CLAIM_OF_NOBODYS_QUESTION, replace(SMALL_RECORD, epoch=1)),)), 1),
        Code.FIELD_INVALID,
    ),
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


def test_nothing_is_an_empty_text_in_format_1_and_null_in_format_2() -> None:
    """Neither takes the other's word for it."""
    nobody = Identity("it", "2" * 32)
    asked = Question(UPLOAD, "", nobody, VOLUME)
    given = Given(replace(CLAIM_OF_NOBODYS_QUESTION, volume_id=VOLUME), SMALL_RECORD)
    for version, said, other in ((1, "", None), (2, None, "")):
        call = json.loads(FORMATS.call(asked, version))
        assert (call["question"], call["by"]["address"]) == (said, said)
        assert FORMATS.read_call("ask", json.dumps(call).encode()) == (asked, version)
        assert code_of("ask", json.dumps(call | {"question": other}).encode()) is Code.FIELD_INVALID
        assert code_of("ask", json.dumps(call | {"by": call["by"] | {"address": other}}).encode()) is Code.FIELD_INVALID
        answer = json.loads(FORMATS.answer(given, version))
        assert (answer["claim"]["question"], answer["claim"]["owner"]["address"]) == (said, said)
        assert FORMATS.read_answer(json.dumps(answer).encode()) == given
        left = Bequest(VOLUME, "", (given,))
        call = json.loads(FORMATS.call(left, version))
        assert (call["heir_volume_id"], call["givens"][0]["claim"]["owner"]["address"]) == (said, said)
        assert FORMATS.read_call("inherit", json.dumps(call).encode()) == (left, version)
        elsewhere = Elsewhere(nobody, 9, VOLUME)
        assert json.loads(FORMATS.answer(elsewhere, version))["owner"]["address"] == said
        assert FORMATS.read_answer(FORMATS.answer(elsewhere, version)) == elsewhere


def test_a_record_is_of_the_format_of_its_message() -> None:
    """Whoever understands one understands the other."""
    acted = Acted(SMALL_RECORD, 7)
    for version, other in ((1, 2), (2, 1)):
        answer = json.loads(FORMATS.answer(acted, version))
        assert answer["record"]["format"] == answer["format"] == version
        answer["record"]["format"] = other
        with pytest.raises(Refusal, match="record"):
            FORMATS.read_answer(json.dumps(answer).encode())


def test_the_former_program_understands_the_former_format_only() -> None:
    former = Formats(FORMER)
    assert code_of("status", FORMATS.call(StatusWanted(), 2), former) is Code.PEER_FORMAT_UNKNOWN
    assert former.read_call("status", FORMATS.call(StatusWanted(), 1)) == (StatusWanted(), 1)
    with pytest.raises(Refusal, match="format 1"):
        former.read_answer(FORMATS.answer(Done(), 2))
    assert former.read_answer(FORMATS.answer(Done(), 1)) == Done()
