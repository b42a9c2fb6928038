"""What a web app's answer means: `done`, `wait`, a refusal, or an error that is tried again."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from incomingd.core import codec
from incomingd.core.record import Handover, Record
from incomingd.wire.callback import ANSWER_BYTES_MAX, COMPLETE, parse_answer
from tests.core.records import json_values
from tests.support.golden import RECORD as FULL


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
@pytest.mark.parametrize(
    "body, result", [(b"done", "done"), (b"wait", "wait"), (b" done\r\n", "done"), (b'"wait"', "wait")]
)
def test_a_word_is_an_answer(status: int, body: bytes, result: str) -> None:
    answer = parse_answer(COMPLETE, status, body)
    assert (answer.result, answer.message, answer.client_data, answer.error) == (result, None, None, None)


@pytest.mark.parametrize("result", ["done", "wait", "refuse"])
def test_json_may_say_more(result: str) -> None:
    said = {"result": result, "message": "Thanks.", "client_data": {"see": ["/inbox", 1]}, "confirm_within_s": 30}
    answer = parse_answer(COMPLETE, 200, json.dumps(said).encode())
    assert (answer.result, answer.message, answer.client_data) == (result, "Thanks.", {"see": ["/inbox", 1]})
    assert answer.confirm_within_s == 30.0


def test_a_long_message_is_cut() -> None:
    answer = parse_answer(COMPLETE, 200, json.dumps({"result": "done", "message": "m" * 5000}).encode())
    assert answer.message == "m" * 1000


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"Done",
        b"DONE",
        b"donewait",
        b"refuse",
        b"ok",
        b"\xff\xfe",
        b"<html>done</html>",
        b"null",
        b"[]",
        b'"refuse"',
        b"{}",
        b'{"result": "ok"}',
        b'{"result": ["done"]}',
        b'{"result": {"done": 1}}',
        b'{"result": "done", "message": 1}',
        b'{"result": "done", "message": "\\ud800"}',
        b'{"result": "done", "client_data": "' + b"x" * 4096 + b'"}',
        b'{"result": "done", "client_data": NaN}',
        b'{"result": "done", "client_data": "\\udfff"}',
        b'{"result": "done", "client_data": ' + b"[" * 40 + b"]" * 40 + b"}",
        b'{"result": "wait", "confirm_within_s": 0}',
        b'{"result": "wait", "confirm_within_s": -1}',
        b'{"result": "wait", "confirm_within_s": true}',
        b'{"result": "wait", "confirm_within_s": "60"}',
        b'{"result": "wait", "confirm_within_s": 1e400}',
        b'{"result": "wait", "confirm_within_s": NaN}',
        b'{"result": "wait", "confirm_within_s": 99999999999}',
        b"[" * 60_000,
        b'{"result": "done"',
    ],
    ids=lambda body: repr(body[:48]),
)
def test_anything_else_is_an_error_that_says_what_was_wrong(body: bytes) -> None:
    answer = parse_answer(COMPLETE, 200, body)
    assert answer.result == "error"
    assert answer.error is not None
    assert answer.error.startswith("the web app")
    assert not answer.ends_attempts


@pytest.mark.parametrize("status", [100, 199, 300, 301, 302, 304, 400, 401, 404, 409, 410, 429, 500, 502, 503])
@pytest.mark.parametrize("kind", [COMPLETE, "upload.cancelled"])
def test_another_status_is_an_error_whatever_the_body_says(status: int, kind: str) -> None:
    answer = parse_answer(kind, status, b"done")
    assert answer.result == "error"
    assert answer.error == f"the web app answered {status}"
    assert answer.ends_attempts == (status == 410)


@pytest.mark.parametrize("body", [b"", b"done", b"\xff", b"{}"])
def test_a_notification_needs_a_2xx_only(body: bytes) -> None:
    assert parse_answer("upload.cancelled", 204, body).result == "ok"


@given(st.integers(200, 299), st.binary(max_size=50) | json_values.map(lambda value: json.dumps(value).encode()))
def test_no_answer_breaks_anything(status: int, body: bytes) -> None:
    assert parse_answer(COMPLETE, status, body).result in ("done", "wait", "refuse", "error")


@given(json_values, st.text(st.characters(codec=None), max_size=20))
def test_what_is_accepted_can_be_stored_and_given_back(client_data: object, message: str) -> None:
    body = json.dumps({"result": "done", "client_data": client_data, "message": message}).encode()
    assert len(body) <= ANSWER_BYTES_MAX
    answer = parse_answer(COMPLETE, 200, body)
    if answer.result == "done":
        record = codec.decode(codec.encode(_with(answer.message, answer.client_data)))
        assert (record.handover.client_data, record.handover.message) == (client_data, message)
        json.dumps(record.handover.client_data, allow_nan=False, ensure_ascii=False).encode()


def _with(message: str | None, client_data: object) -> Record:
    return dataclasses.replace(FULL, handover=Handover(message=message, client_data=client_data))
