"""Documents of the backend API: every field's bounds, what is told of mistakes, and what changes may change."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from incomingd.core.content import Content
from incomingd.core.errors import Code, Refusal
from incomingd.core.record import Record, Terms
from incomingd.core.status import Status
from incomingd.wire import backend as wire

FINISH_URL = "http://127.0.0.1:9/finish"
RULES = wire.Rules(expires_in_max_s=30 * 86400)


def mistakes(kind: type[wire.Document], document: object) -> dict[str, str]:
    """Return the mistakes that *document* is refused for: field -> what was expected."""
    with pytest.raises(Refusal) as caught:
        wire.parse(kind, document, RULES)
    assert caught.value.code is Code.FIELD_INVALID
    errors = caught.value.extra["errors"]
    assert isinstance(errors, list)
    return {error["field"]: error["expected"] for error in errors}


TICKETS = [
    ("finish_url", None, "URL"),
    ("finish_url", "", "URL"),
    ("finish_url", "/done", "URL"),
    ("finish_url", "ftp://app.example/", "URL"),
    ("finish_url", "http:///done", "URL"),
    ("finish_url", "http://app.example:0/", "URL"),
    ("finish_url", "http://app.example:99999/", "URL"),
    ("finish_url", "http://[::1/", "URL"),
    ("finish_url", "http://user:password@app.example/", "without user name"),
    ("finish_url", "http://app.example/#top", "fragment"),
    ("finish_url", "http://app.example/a b", "percent-encoded"),
    ("finish_url", "http://app.example/\r\nX: y", "percent-encoded"),
    ("finish_url", "http://exämple.example/", "percent-encoded"),
    ("finish_url", "http://app.example\\@evil.example/", "percent-encoded"),
    ("finish_url", "http://app.example/" + "a" * 2000, "2000 characters"),
    ("secret", "", "24 to 64 bytes"),
    ("secret", "not base64!", "24 to 64 bytes"),
    ("secret", base64.b64encode(bytes(23)).decode(), "24 to 64 bytes"),
    ("secret", "whsec_" + base64.b64encode(bytes(65)).decode(), "24 to 64 bytes"),
    ("secret", base64.urlsafe_b64encode(b"\xff" * 30).decode(), "24 to 64 bytes"),
    ("secret", "é" * 40, "24 to 64 bytes"),
    ("secret", "A" * 16 + " \n!" + "A" * 16, "24 to 64 bytes"),
    ("length", -1, "whole number"),
    ("length", 10**18, "whole number"),
    ("length", 10**40, "whole number"),
    ("length", 1.5, "whole number"),
    ("length", "10", "whole number"),
    ("length", True, "whole number"),
    ("max_length", -1, "whole number"),
    ("max_length", [], "whole number"),
    ("filename", "..", "file name"),
    ("filename", "a/", "file name"),
    ("filename", "\x00", "file name"),
    ("filename", "\ud800.txt", "Unicode"),
    ("content_types", "image/png", "list"),
    ("content_types", None, "list"),
    ("content_types", ["image/png; q=1"], "media type"),
    ("content_types", ["image"], "media type"),
    ("content_types", ["*/png"], "media type"),
    ("content_types", ["a/b"] * 65, "up to 64"),
    ("expires_in_s", 0, "greater than 0"),
    ("expires_in_s", -5, "greater than 0"),
    ("expires_in_s", "60", "seconds"),
    ("expires_in_s", 31 * 86400, "at most 2592000 s (uploads.expires_in_max_s)"),
    ("after_handover", "burn", "`delete` or `keep`"),
    ("after_handover", None, "`delete` or `keep`"),
    ("digest", "md5", "`sha-256`, `none` or null"),
    ("client_cancel", "yes", "true or false"),
    ("client_cancel", 1, "true or false"),
    ("events", ["finished"], "`started`"),
    ("events", "started", "list"),
    ("callback_format", "xml", "`json`"),
    ("labels", [""], "1 to 64 printable"),
    ("labels", ["a" * 65], "1 to 64 printable"),
    ("labels", ["a\nb"], "1 to 64 printable"),
    ("labels", ["\ud800"], "1 to 64 printable"),
    ("labels", ["a"] * 9, "up to 8"),
    ("labels", [1], "labels"),
    ("origins", ["app.example"], "origin"),
    ("origins", ["null"], "origin"),
    ("origins", ["https://app.example/path"], "origin"),
    ("origins", ["https://*.example"], "origin"),
    ("origins", ["https://app.example:x"], "origin"),
    ("app_data", [], "JSON object"),
    ("app_data", {"a": "b" * 16384}, "16384 bytes"),
    ("app_data", {"a": float("nan")}, "finite"),
    ("app_data", {"\ud800": 1}, "Unicode"),
    ("lenght", 5, "did you mean `length`"),
    ("zzzzzz", 5, "one of finish_url"),
]


@pytest.mark.parametrize("field,value,expected", TICKETS, ids=lambda value: repr(value)[:40])
def test_a_wrong_field_is_named_with_what_was_expected(field: str, value: object, expected: str) -> None:
    errors = mistakes(wire.TicketDocument, {"finish_url": FINISH_URL, field: value})
    assert [name.partition("[")[0] for name in errors] == [field]
    assert expected in next(iter(errors.values()))


FINE = [
    ("finish_url", "https://app.example:8443/a/b?c=d&e=%20"),
    ("finish_url", "HTTP://[::1]:80/"),
    ("secret", base64.b64encode(bytes(24)).decode()),
    ("secret", "whsec_" + base64.b64encode(bytes(64)).decode()),
    ("length", 0),
    ("length", 10**18 - 1),
    ("content_types", ["*/*", "image/*", "application/vnd.api+json"]),
    ("expires_in_s", 0.5),
    ("expires_in_s", 30 * 86400),
    ("digest", "none"),
    ("digest", "sha-256"),
    ("labels", ["a" * 64] * 8),
    ("app_data", {"a": "b" * (16384 - len('{"a":""}'))}),
]


@pytest.mark.parametrize("field,value", FINE, ids=lambda value: repr(value)[:40])
def test_what_is_just_within_the_bounds_is_taken(field: str, value: object) -> None:
    wire.parse(wire.TicketDocument, {"finish_url": FINISH_URL, field: value}, RULES)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.text(st.characters(categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=20,
)
FIELDS = st.sampled_from([*wire.TicketDocument.model_fields, "x", ""])


@given(st.dictionaries(FIELDS, JSON) | JSON)
def test_any_json_is_a_ticket_or_is_refused_in_words(document: object) -> None:
    """Nothing that can be sent ends in anything but terms that can be stored, or a refusal that can be told."""
    if isinstance(document, dict) and len(document) % 2:
        document = document | {"finish_url": FINISH_URL}
    try:
        ticket = wire.parse(wire.TicketDocument, document, RULES)
    except Refusal as refusal:
        json.dumps([refusal.detail, refusal.extra], ensure_ascii=False).encode("utf-8")
    else:
        terms = ticket.terms(new_secret="c2VjcmV0", traceparent=None)
        json.dumps([terms.app_data, terms.filename, terms.labels], allow_nan=False, ensure_ascii=False).encode("utf-8")


@given(JSON)
def test_any_json_goes_to_the_page_as_it_is_or_is_refused(value: object) -> None:
    document = {"outcome": "done", "client_data": value}
    try:
        encoded = json.dumps(value, allow_nan=False, ensure_ascii=False).encode("utf-8")
    except ValueError:
        assert set(mistakes(wire.FinishDocument, document)) == {"client_data"}
        return
    found = wire.parse(wire.FinishDocument, document).client_data
    assert json.dumps(found, ensure_ascii=False).encode("utf-8") == encoded


def test_the_confirmation_and_its_bounds() -> None:
    assert mistakes(wire.FinishDocument, {}) == {"outcome": "`done` or `failed`"}
    assert set(mistakes(wire.FinishDocument, {"outcome": "maybe", "message": 5, "x": 1})) == {"outcome", "message", "x"}
    assert "4096 bytes" in mistakes(wire.FinishDocument, {"outcome": "done", "client_data": "a" * 4095})["client_data"]
    found = wire.parse(wire.FinishDocument, {"outcome": "failed", "message": "a\x1b[2J" + "b" * 2000})
    assert found.message == "a[2J" + "b" * 996


# -- changes

RECORD = Record(
    upload_id="u",
    terms=Terms(finish_url=FINISH_URL, secret="c2VjcmV0", max_length=100),
    created_at=1.0,
    expires_at=50.0,
)


def change(record: Record, offset: int = 0, **fields: object) -> Record:
    document = wire.parse(wire.ChangeDocument, fields, RULES)
    return wire.changed(record, document, offset=offset, now=1000.0)


def test_what_is_left_out_of_a_change_stays() -> None:
    assert change(RECORD) == RECORD
    assert change(RECORD, expires_in_s=5) == replace(RECORD, expires_at=1005.0)
    assert change(RECORD, app_data={"a": 1}).terms == replace(RECORD.terms, app_data={"a": 1})
    assert change(RECORD, finish_url="http://b/").terms == replace(RECORD.terms, finish_url="http://b/")
    assert change(RECORD, max_length=None).terms == replace(RECORD.terms, max_length=None)


def test_a_limit_is_not_lowered_below_what_has_come_or_was_announced() -> None:
    assert change(RECORD, offset=40, max_length=40).terms.max_length == 40
    with pytest.raises(Refusal, match="the offset, which is 41"):
        change(RECORD, offset=41, max_length=40)
    announced = replace(RECORD, content=Content(length=60))
    assert change(announced, offset=1, max_length=60).terms.max_length == 60
    with pytest.raises(Refusal, match="length, which is 60"):
        change(announced, offset=1, max_length=59)


@pytest.mark.parametrize("status", [s for s in Status if s.whole and not s.final])
def test_what_only_counts_while_bytes_are_missing_cannot_be_changed_later(status: Status) -> None:
    record = replace(RECORD, status=status)
    assert change(record, finish_url="http://b/").terms.finish_url == "http://b/"
    for fields in ({"expires_in_s": 5}, {"max_length": 5}):
        with pytest.raises(Refusal) as caught:
            change(record, **fields)
        assert caught.value.code is Code.TOO_LATE


@pytest.mark.parametrize(
    "fields,field",
    [({"expires_in_s": None}, "expires_in_s"), ({"finish_url": None}, "finish_url"), ({"secret": "x"}, "secret")],
)
def test_a_change_knows_only_what_can_change(fields: dict[str, object], field: str) -> None:
    assert set(mistakes(wire.ChangeDocument, fields)) == {field}


# -- secrets


def test_a_secret_fits_in_each_of_its_spellings_and_no_other_does() -> None:
    terms = Terms(finish_url=FINISH_URL, secret=base64.b64encode(b"a" * 24).decode())
    for fits in (terms.secret, "whsec_" + terms.secret, f" {terms.secret} "):
        assert wire.secret_fits(fits, terms), fits
    for wrong in (None, "", "whsec_", terms.secret[:-4], base64.b64encode(b"a" * 25).decode(), "é", "whsec_whsec_"):
        assert not wire.secret_fits(wrong, terms), wrong
