"""Getting tickets: fields, secrets, keys, lists."""

from __future__ import annotations

import base64
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from incomingd.core.status import Status
from incomingd.storage.volume import VolumeFullError
from incomingd.wire import backend as wire
from tests.backend_api.conftest import MakeApi
from tests.backend_api.service import FINISH_URL, OTHER_SECRET, SECRET, ApiService, errors_of


def test_a_ticket_is_an_upload_that_waits_for_bytes(api: ApiService) -> None:
    answer = api.call("POST", "/uploads", {"finish_url": FINISH_URL, "length": 10, "labels": ["a"]})
    assert answer.status_code == 201
    upload = answer.json()
    assert answer.headers["Location"] == f"/incoming/1.0/backend/uploads/{upload['id']}"
    assert upload["upload_url"] == f"/incoming/1.0/frontend/uploads/{upload['id']}"
    assert (upload["status"], upload["offset"], upload["length"]) == ("open", 0, 10)
    assert upload["labels"] == ["a"]
    assert upload["handover"]["state"] is None
    told = api.call("GET", f"/uploads/{upload['id']}").json()
    assert told == {name: value for name, value in upload.items() if name != "secret"}
    assert api.patch(upload["upload_url"], 0, b"0123456789").status == 204


def test_all_fields_are_kept(api: ApiService) -> None:
    fields: dict[str, Any] = {
        "finish_url": "https://app.example:8443/done?x=1",
        "secret": SECRET,
        "length": 5,
        "max_length": 5,
        "filename": "../../etc/pass\u202ewd\x00.txt",
        "content_types": ["Image/*", "text/plain", "text/plain"],
        "expires_in_s": 60,
        "after_handover": "keep",
        "digest": None,
        "client_cancel": False,
        "events": ["started"],
        "callback_format": "form",
        "labels": ["ä", "b c"],
        "origins": ["HTTPS://App.example:443/", "http://[::1]:8080"],
        "app_data": {"a": [1, None, {"b": "c"}]},
    }
    upload = api.created(**fields)
    assert upload["filename"] == "passwd.txt"
    assert upload["app_data"] == fields["app_data"]
    terms = api.record(upload["upload_url"]).terms
    assert terms.finish_url == fields["finish_url"]
    assert "whsec_" + terms.secret == SECRET
    assert terms.secret_given
    assert (terms.length, terms.max_length) == (5, 5)
    assert terms.content_types == ("image/*", "text/plain")
    assert (terms.after_handover, terms.client_cancel, terms.callback_format) == ("keep", False, "form")
    assert (terms.events, terms.labels) == (("started",), ("ä", "b c"))
    assert terms.origins == ("https://app.example", "http://[::1]:8080")
    record = api.record(upload["upload_url"])
    assert record.expires_at - record.created_at == pytest.approx(60)


def test_null_is_as_good_as_nothing_where_nothing_is_allowed(api: ApiService) -> None:
    nulls = dict.fromkeys(("secret", "length", "max_length", "filename", "expires_in_s", "digest"))
    assert api.created(**nulls)["length"] is None


@pytest.mark.parametrize(
    "field,value", [("finish_url", "ftp://app.example/"), ("filename", "\ud800.txt"), ("app_data", {"a": float("inf")})]
)
def test_a_ticket_with_a_wrong_field_is_not_made(field: str, value: object, api: ApiService) -> None:
    body = json.dumps({"finish_url": FINISH_URL, field: value}).encode()
    answer = api.call("POST", "/uploads", data=body, headers={"Content-Type": "application/json"})
    assert set(errors_of(answer)) == {field}
    assert field in answer.json()["detail"]
    assert api.listed() == []


def test_all_mistakes_are_told_at_once(api: ApiService) -> None:
    errors = errors_of(api.call("POST", "/uploads", {"length": -1, "labels": ["", "a", ""], "lenght": 1}))
    assert set(errors) == {"finish_url", "length", "labels[0]", "labels[2]", "lenght"}


def test_a_secret_never_stands_in_a_refusal(api: ApiService) -> None:
    answer = api.call("POST", "/uploads", {"finish_url": FINISH_URL, "secret": "whsec_hunter2", "x": 1})
    assert "hunter2" not in answer.text
    assert "hunter2" not in json.dumps(api.log_events())


def test_the_length_and_its_limit_must_agree(api: ApiService) -> None:
    answer = api.call("POST", "/uploads", {"finish_url": FINISH_URL, "length": 5, "max_length": 4})
    assert errors_of(answer) == {"max_length": "not less than length"}


def test_deep_json_is_refused_and_harms_nothing(api: ApiService) -> None:
    """33 levels are too deep for us, 100,000 for any parser: neither may end in a 500."""
    for depth, code in ((32, "field_invalid"), (100_000, "body_malformed")):
        data = b'{"finish_url": "http://a/", "app_data": ' + b'{"a":' * depth + b"1" + b"}" * depth + b"}"
        answer = api.call("POST", "/uploads", data=data, headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.json()["code"]) == (400, code)
    assert api.created(app_data={"a": {"b": {"c": {}}}})


@pytest.mark.parametrize(
    "data,code",
    [
        (b"", "body_malformed"),
        (b"{", "body_malformed"),
        (b"\xff\xfe", "body_malformed"),
        (b'{"finish_url": "\xff"}', "body_malformed"),
        (b"null", "field_invalid"),
        (b"5", "field_invalid"),
        (b'"x"', "field_invalid"),
        (b"[]", "field_invalid"),
        (b"[5]", "field_invalid"),
        (b"[" + b"9" * 5000 + b"]", "body_malformed"),
    ],
)
def test_a_body_that_is_no_ticket(data: bytes, code: str, api: ApiService) -> None:
    answer = api.call("POST", "/uploads", data=data, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (400, code)


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded"])
def test_what_a_page_can_send_to_any_origin_makes_no_ticket(content_type: str | None, api: ApiService) -> None:
    """A browser asks before it sends JSON elsewhere; a form or text it sends at once."""
    headers = {"Content-Type": content_type} if content_type else {}
    answer = api.call("POST", "/uploads", data=json.dumps({"finish_url": FINISH_URL}).encode(), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (415, "content_type_wrong")


# -- secrets


def test_a_secret_that_is_made_here_is_told_once(api: ApiService) -> None:
    upload = api.created()
    secret = upload["secret"]
    assert len(base64.b64decode(secret.removeprefix("whsec_"))) == 32
    assert "secret" not in api.call("GET", f"/uploads/{upload['id']}").json()
    assert "secret" not in api.listed()[0]
    assert api.created()["secret"] != secret
    assert secret.removeprefix("whsec_") not in json.dumps(api.log_events())


def test_a_secret_that_was_given_is_not_told(api: ApiService) -> None:
    assert "secret" not in api.created(secret=SECRET)


CALLS_ON_ONE: list[tuple[str, str, dict[str, Any] | None]] = [
    ("GET", "", None),
    ("PATCH", "", {"app_data": {}}),
    ("POST", "/cancel", {}),
    ("POST", "/finish", {"outcome": "done"}),
    ("POST", "/redeliver", None),
]


@pytest.mark.parametrize("method,path,document", CALLS_ON_ONE)
def test_calls_on_a_ticket_with_a_given_secret_need_it(
    method: str, path: str, document: object, api: ApiService
) -> None:
    """With or without `whsec_`; no other ticket's, no half of it."""
    upload_id = api.upload_in(Status.AWAITING_APP, secret=SECRET.removeprefix("whsec_"), secret_given=True)
    url = f"/uploads/{upload_id}{path}"
    for wrong in (None, "", "whsec_", SECRET[:-4], OTHER_SECRET, "é", "0"):
        headers = {"X-Incoming-Secret": wrong.encode()} if wrong is not None else {}
        answer = api.call(method, url, document, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "secret_wrong"), wrong
    assert api.record(f"/incoming/1.0/frontend/uploads/{upload_id}").status is Status.AWAITING_APP
    for right in (SECRET, SECRET.removeprefix("whsec_")):
        answer = api.call(method, url, document, headers={"X-Incoming-Secret": right})
        assert answer.status_code != 403
        assert answer.json().get("code") != "secret_wrong"


def test_a_ticket_without_a_given_secret_needs_none(api: ApiService) -> None:
    upload = api.created()
    for headers in ({}, {"X-Incoming-Secret": OTHER_SECRET}):
        assert api.call("GET", f"/uploads/{upload['id']}", headers=headers).status_code == 200


# -- keys


def test_a_key_leads_to_the_same_ticket_while_it_is_not_final(api: ApiService) -> None:
    headers = {"Idempotency-Key": "user 7, file 3"}
    first = api.call("POST", "/uploads", {"finish_url": FINISH_URL, "length": 4}, headers=headers).json()
    again = api.call("POST", "/uploads", {"finish_url": FINISH_URL, "length": 9}, headers=headers).json()
    assert again["id"] == first["id"]
    assert again["length"] == 4
    assert "secret" not in again
    api.call("POST", f"/uploads/{first['id']}/cancel", {})
    new = api.call("POST", "/uploads", {"finish_url": FINISH_URL, "length": 9}, headers=headers).json()
    assert new["id"] != first["id"]
    assert new["length"] == 9


def test_a_repeat_under_a_key_tells_how_far_the_upload_is(api: ApiService) -> None:
    headers = {"Idempotency-Key": "k"}
    first = api.call("POST", "/uploads", {"finish_url": FINISH_URL, "length": 4}, headers=headers).json()
    api.patch(first["upload_url"], 0, b"ab")
    again = api.call("POST", "/uploads", {"finish_url": FINISH_URL, "length": 4}, headers=headers).json()
    assert (again["id"], again["offset"]) == (first["id"], 2)


def test_another_app_does_not_get_a_ticket_by_its_key(api: ApiService) -> None:
    """Two apps that name their keys alike: the secret says whose ticket it is."""
    headers = {"Idempotency-Key": "1"}
    first = api.call("POST", "/uploads", {"finish_url": FINISH_URL, "secret": SECRET}, headers=headers).json()
    for fields in ({"secret": OTHER_SECRET}, {}):
        answer = api.call("POST", "/uploads", {"finish_url": FINISH_URL, **fields}, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "secret_wrong")
        assert first["id"] not in answer.text
    same = api.call("POST", "/uploads", {"finish_url": FINISH_URL, "secret": SECRET}, headers=headers).json()
    assert same["id"] == first["id"]


@pytest.mark.parametrize("key", ["", "a" * 256, "\xe9"])
def test_a_key_must_be_short_and_printable(key: str, api: ApiService) -> None:
    headers = {"Idempotency-Key": key.encode("latin-1")}
    answer = api.call("POST", "/uploads", {"finish_url": FINISH_URL}, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "header_malformed")
    assert api.listed() == []


def test_one_key_at_the_same_time_makes_one_ticket(api: ApiService) -> None:
    """A double click, or a web app of many processes."""

    def create(_: int) -> str:
        answer = api.call("POST", "/uploads", {"finish_url": FINISH_URL}, headers={"Idempotency-Key": "k"})
        return str(answer.json()["id"])

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(create, range(24)))) == 1
    assert len(api.listed()) == 1


# -- lists of tickets


def test_many_tickets_in_one_call_are_answered_in_order(api: ApiService) -> None:
    answer = api.call("POST", "/uploads", [{"finish_url": FINISH_URL, "length": n} for n in range(100)])
    assert answer.status_code == 201
    assert [upload["length"] for upload in answer.json()] == list(range(100))
    assert len({upload["id"] for upload in answer.json()}) == 100
    assert all(upload["secret"].startswith("whsec_") for upload in answer.json())


def test_a_large_list_is_read_beside_the_event_loop(api: ApiService, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever uploads does not wait for a web app that asks for a thousand tickets."""
    threads: list[str] = []
    parse_tickets = wire.parse_tickets

    def noted(document: object, rules: wire.Rules) -> list[wire.TicketDocument]:
        threads.append(threading.current_thread().name)
        return parse_tickets(document, rules)

    monkeypatch.setattr(wire, "parse_tickets", noted)
    tickets = [{"finish_url": FINISH_URL, "app_data": {"a": "b" * 1000}}] * 100
    assert len(api.call("POST", "/uploads", tickets).json()) == 100
    assert set(errors_of(api.call("POST", "/uploads", [*tickets, {}]))) == {"[100].finish_url"}
    assert len(threads) == 2
    assert api._thread.name not in threads


def test_one_wrong_ticket_of_a_list_and_none_is_made(api: ApiService) -> None:
    tickets = [{"finish_url": FINISH_URL}, {"finish_url": "x"}, {"finish_url": FINISH_URL}, {"length": -1}]
    errors = errors_of(api.call("POST", "/uploads", tickets))
    assert set(errors) == {"[1].finish_url", "[3].finish_url", "[3].length"}
    assert api.listed() == []


def test_a_list_of_more_than_a_thousand_is_refused(api: ApiService) -> None:
    errors = errors_of(api.call("POST", "/uploads", [{"finish_url": FINISH_URL}] * 1001))
    assert errors == {"": "one ticket, or a list of 1 to 1000"}
    assert api.listed() == []


def test_a_refusal_names_at_most_a_hundred_mistakes(api: ApiService) -> None:
    answer = api.call("POST", "/uploads", [{}] * 1000)
    assert len(errors_of(answer)) == 100
    assert "999 more mistakes" in answer.json()["detail"]


def test_a_key_counts_for_each_place_of_a_list(api: ApiService) -> None:
    headers = {"Idempotency-Key": "drop"}
    first = api.call("POST", "/uploads", [{"finish_url": FINISH_URL}] * 3, headers=headers).json()
    again = api.call("POST", "/uploads", [{"finish_url": FINISH_URL}] * 4, headers=headers).json()
    assert [upload["id"] for upload in again[:3]] == [upload["id"] for upload in first]
    single = api.call("POST", "/uploads", {"finish_url": FINISH_URL}, headers=headers).json()
    assert len({upload["id"] for upload in [*again, single]}) == 5


def test_a_list_of_which_one_cannot_be_made_leaves_nothing_behind(
    api: ApiService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The volume is full after the twentieth: no ticket is left of which nobody knows, and none that was there goes."""
    headers = {"Idempotency-Key": "k"}
    known = api.call("POST", "/uploads", [{"finish_url": FINISH_URL}], headers=headers).json()[0]
    create, made = api.volume.create, 0

    async def full(record: Any) -> None:
        nonlocal made
        made += 1
        if made > 20:
            raise VolumeFullError("no space left")
        await create(record)

    monkeypatch.setattr(api.volume, "create", full)
    answer = api.call("POST", "/uploads", [{"finish_url": FINISH_URL}] * 30, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (507, "storage_full")
    assert [upload["id"] for upload in api.listed()] == [known["id"]]


# -- what the configuration says


def test_the_configuration_bounds_what_tickets_may_ask_for(make_api: MakeApi) -> None:
    api = make_api(
        {
            "limits": {"upload_bytes": 1000},
            "uploads": {"expires_in_s": 10, "expires_in_max_s": 20},
            "handover": {"allowed_hosts": ["app.example", "10.0.0.0/8", "*.apps.example:8443", "tls.example:443"]},
            "public": {"base_url": "https://up.example/files"},
        }
    )
    fine = {"finish_url": "http://app.example/"}
    assert set(errors_of(api.call("POST", "/uploads", fine | {"length": 1001}))) == {"length"}
    assert set(errors_of(api.call("POST", "/uploads", fine | {"max_length": 1001}))) == {"max_length"}
    assert set(errors_of(api.call("POST", "/uploads", fine | {"expires_in_s": 21}))) == {"expires_in_s"}
    for url in (
        "http://evil.example/",
        "http://app.example.evil.example/",
        "http://127.0.0.1/",
        "https://a.apps.example/",
        "http://apps.example:8443/",
        "http://tls.example/",
    ):
        assert "handover.allowed_hosts" in errors_of(api.call("POST", "/uploads", {"finish_url": url}))["finish_url"]
    for url in ("http://APP.example:81/", "http://10.1.2.3/", "https://a.apps.example:8443/", "https://tls.example/"):
        upload = api.created(finish_url=url, length=1000, expires_in_s=20)
        assert upload["upload_url"].startswith("https://up.example/files/incoming/1.0/frontend/uploads/")
    record = api.record("/incoming/1.0/frontend/uploads/" + api.created(finish_url="http://app.example/")["id"])
    assert record.expires_at - record.created_at == pytest.approx(10)


def test_the_trace_of_the_request_goes_with_the_ticket(api: ApiService) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    for headers, kept in (({"traceparent": trace}, trace), ({"traceparent": "nonsense"}, None), ({}, None)):
        answer = api.call("POST", "/uploads", {"finish_url": FINISH_URL}, headers=headers)
        assert api.record(answer.json()["upload_url"]).terms.traceparent == kept
