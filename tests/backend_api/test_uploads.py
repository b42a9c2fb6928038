"""Looking at uploads, changing, cancelling, confirming, redelivering; tokens."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import requests

from incomingd.backend_api.description import ENDS
from incomingd.core.status import Status
from incomingd.engine import ending
from incomingd.engine.events import Told
from incomingd.frontends.uploads import PREFIX
from tests.backend_api.conftest import MakeApi
from tests.backend_api.service import BACKEND, FINISH_URL, ApiService, errors_of
from tests.support.machine import wait_until
from tests.support.tus import metadata_header

TOKENS = ["first-token", "second-token"]


def path_of(upload_id: str) -> str:
    return f"{PREFIX}/{upload_id}"


# -- tokens

CALLS = [
    ("POST", "/uploads"),
    ("GET", "/uploads"),
    ("GET", "/uploads/x"),
    ("PATCH", "/uploads/x"),
    ("POST", "/uploads/x/cancel"),
    ("POST", "/uploads/x/finish"),
    ("POST", "/uploads/x/redeliver"),
    ("GET", "/openapi.json"),
]


@pytest.mark.parametrize("method,path", CALLS)
def test_a_token_comes_before_anything_else(method: str, path: str, make_api: MakeApi) -> None:
    """Without one not even malformed JSON or an unknown upload is told apart."""
    api = make_api({"backend": {"tokens": TOKENS}})
    cases: list[tuple[bytes | None, str]] = [
        (None, "token_missing"),
        (b"", "token_missing"),
        (b"Bearer", "token_missing"),
        (b"Bearer  ", "token_missing"),
        (b"Basic " + TOKENS[0].encode(), "token_missing"),
        (b"Bearer wrong", "token_wrong"),
        (b"Bearer first-toke", "token_wrong"),
        (b"Bearer first-token second-token", "token_wrong"),
        (b"Bearer \xff\xfe", "token_wrong"),
    ]
    for authorization, code in cases:
        headers: dict[str, Any] = {"Authorization": authorization} if authorization is not None else {}
        answer = api.call(method, path, headers=headers, data=b"{" if method != "GET" else None)
        assert (answer.json()["code"], answer.status_code) == (code, 401 if code == "token_missing" else 403)
        assert ("WWW-Authenticate" in answer.headers) == (code == "token_missing")
    for token in TOKENS:
        answer = api.call(method, path, headers={"Authorization": f"bearer {token}"})
        assert answer.json().get("code") not in ("token_missing", "token_wrong")
    assert not [token for token in (*TOKENS, "first-toke") if token in json.dumps(api.log_events())]


def test_other_tokens_count_from_a_reload_on(make_api: MakeApi) -> None:
    api = make_api({"backend": {"tokens": TOKENS}})
    api.backend.options = replace(api.backend.options, tokens=("third-token",))
    for token, status in ((TOKENS[0], 403), ("third-token", 200)):
        assert api.call("GET", "/uploads", headers={"Authorization": f"Bearer {token}"}).status_code == status


def test_a_path_that_is_none(api: ApiService) -> None:
    for path in ("/", "/uploads/", "/upload", "/uploads/x/y", "/openapiXjson"):
        answer = api.call("GET", path)
        assert (answer.status_code, answer.json()["code"]) == (404, "path_unknown"), path
    answer = api.call("DELETE", "/uploads/x")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, HEAD, PATCH")


@pytest.mark.parametrize("upload_id", ["x", "a" * 55, "a" * 64, "..%2f..", "%00", "%ff", "é"])
@pytest.mark.parametrize(
    "method,rest", [("GET", ""), ("PATCH", ""), ("POST", "/cancel"), ("POST", "/finish"), ("GET", "/file?token=x")]
)
def test_an_unknown_id(method: str, rest: str, upload_id: str, api: ApiService) -> None:
    answer = api.call(method, f"/uploads/{upload_id}{rest}", {"outcome": "done"} if method != "GET" else None)
    assert answer.status_code in (404, 400), answer.text
    assert answer.json()["code"] == ("upload_unknown" if answer.status_code == 404 else "body_malformed")


# -- looking


def test_what_the_client_says_is_shown_cleaned(api: ApiService) -> None:
    upload = api.created(labels=["x"], app_data={"user": 7})
    metadata = metadata_header(
        filename="C:\\photos\\a\x00b.jpg", filetype="image/JPEG; x=y", relativePath="../../x/a b.jpg", lastModified="5"
    )
    headers = {"Upload-Length": "3", "Upload-Metadata": metadata}
    assert api.request("POST", upload["upload_url"], headers).status == 201
    found = api.call("GET", f"/uploads/{upload['id']}").json()
    assert (found["filename"], found["content_type"], found["length"]) == ("ab.jpg", "image/jpeg", 3)
    assert found["client"]["relative_path"] == "x/a b.jpg"
    assert found["client"]["last_modified"] == "5"
    assert found["client"]["address"] == "127.0.0.1"
    assert found["client"]["metadata"]["filename"] == "C:\\photos\\ab.jpg"
    assert (found["labels"], found["app_data"]) == (["x"], {"user": 7})


def test_the_offset_of_an_open_append_is_shown(api: ApiService) -> None:
    upload = api.created(length=10)
    api.open_append(upload["upload_url"], 0, b"0123", 10)
    assert api.call("GET", f"/uploads/{upload['id']}").json()["offset"] == 4


@pytest.mark.parametrize("status", list(Status))
def test_every_status_is_shown_as_described(status: Status, api: ApiService) -> None:
    states = {"complete": "arrived", "handing_over": "handing_over", "awaiting_app": "waiting"}
    states |= {"finished": "done", "failed": "refused"}
    upload_id = api.upload_in(status)
    found = api.call("GET", f"/uploads/{upload_id}").json()
    assert found["status"] == status.value
    assert found["handover"]["state"] == states.get(status.value)
    assert (found["error"] is not None) == status.gone
    assert found["error"] is None or found["error"]["code"] in ENDS
    assert (found["expires_at"] is not None) == (status is Status.OPEN)
    head = api.call("HEAD", f"/uploads/{upload_id}")
    assert (head.status_code, head.content) == (200, b"")


# -- changing


def test_terms_can_be_changed_under_way(api: ApiService) -> None:
    upload = api.created(max_length=100)
    api.create(upload["upload_url"], None)
    api.patch(upload["upload_url"], 0, b"0123")
    url = f"/uploads/{upload['id']}"
    before = api.record(upload["upload_url"])
    changed = api.call("PATCH", url, {"max_length": 4, "app_data": {"a": 1}, "expires_in_s": 3600}).json()
    assert (changed["app_data"], changed["offset"]) == ({"a": 1}, 4)
    after = api.record(upload["upload_url"])
    assert after.terms == replace(before.terms, max_length=4, app_data={"a": 1})
    assert after.expires_at == pytest.approx(api.clock.now() + 3600, abs=60)
    assert errors_of(api.call("PATCH", url, {"max_length": 3})) == {
        "max_length": "not less than the offset, which is 4"
    }
    assert api.patch(upload["upload_url"], 4, b"5").status == 413


def test_a_limit_is_held_against_bytes_that_are_coming_in(api: ApiService) -> None:
    """The offset of the record is 0; of what the open append has kept so far the limit must not fall short."""
    upload = api.created(max_length=100)
    api.create(upload["upload_url"], None)
    api.open_append(upload["upload_url"], 0, b"0123", 10)
    assert set(errors_of(api.call("PATCH", f"/uploads/{upload['id']}", {"max_length": 3}))) == {"max_length"}


def test_a_change_that_the_configuration_forbids(make_api: MakeApi) -> None:
    api = make_api(
        {"handover": {"allowed_hosts": ["127.0.0.1"]}, "uploads": {"expires_in_max_s": 10, "expires_in_s": 5}}
    )
    upload = api.created()
    answer = api.call("PATCH", f"/uploads/{upload['id']}", {"finish_url": "http://evil.example/", "expires_in_s": 11})
    assert set(errors_of(answer)) == {"finish_url", "expires_in_s"}
    assert api.record(upload["upload_url"]).terms.finish_url == FINISH_URL


@pytest.mark.parametrize("status", [status for status in Status if status.final])
def test_a_final_upload_does_not_change_any_more(status: Status, api: ApiService) -> None:
    upload_id = api.upload_in(status)
    for method, rest, document in (
        ("PATCH", "", {"app_data": {}}),
        ("POST", "/finish", {"outcome": "done" if status is not Status.FINISHED else "failed"}),
    ):
        answer = api.call(method, f"/uploads/{upload_id}{rest}", document)
        assert answer.status_code == 409, answer.text
    assert api.record(path_of(upload_id)).status is status


# -- cancelling


def test_a_cancelled_upload_is_gone_for_its_client_and_repeats_get_the_same_answer(api: ApiService) -> None:
    upload_id = api.upload_in(Status.OPEN)
    answer = api.call("POST", f"/uploads/{upload_id}/cancel", {"reason": "changed my\x00 mind"})
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    assert answer.json()["error"] == {"code": "upload_cancelled", "message": "changed my mind"}
    assert api.call("POST", f"/uploads/{upload_id}/cancel", {"reason": "again"}).json() == answer.json()
    gone = api.head(path_of(upload_id))
    assert gone.status == 410
    assert list(api.bytes_of(path_of(upload_id))) == ["record.json"]


def test_a_cancel_needs_no_body(api: ApiService) -> None:
    assert api.call("POST", f"/uploads/{api.created()['id']}/cancel").json()["status"] == "cancelled"


def test_a_cancel_cuts_what_is_coming_in(api: ApiService) -> None:
    upload = api.created(length=10)
    api.open_append(upload["upload_url"], 0, b"0123", 10)
    assert api.call("POST", f"/uploads/{upload['id']}/cancel").json()["status"] == "cancelled"
    assert api.wait_event("append.ended", upload_id=upload["id"])["ended_by"] == "cancelled"


@pytest.mark.parametrize(
    "status,http,code",
    [
        (Status.HANDING_OVER, 423, "handing_over"),
        (Status.AWAITING_APP, 423, "handing_over"),
        (Status.FINISHED, 409, "too_late"),
        (Status.FAILED, 409, "too_late"),
        (Status.EXPIRED, 409, "too_late"),
    ],
)
def test_too_late_to_cancel(status: Status, http: int, code: str, api: ApiService) -> None:
    upload_id = api.upload_in(status)
    answer = api.call("POST", f"/uploads/{upload_id}/cancel", {})
    assert (answer.status_code, answer.json()["code"]) == (http, code)
    assert api.record(path_of(upload_id)).status is status


# -- confirming


@pytest.mark.parametrize("outcome,status", [("done", "finished"), ("failed", "failed")])
def test_a_confirmation_ends_the_upload_and_repeats_get_the_same_answer(
    outcome: str, status: str, api: ApiService
) -> None:
    upload_id = api.upload_in(Status.AWAITING_APP)
    document = {"outcome": outcome, "message": "Welcome", "client_data": {"url": "/photos/7"}}
    answer = api.call("POST", f"/uploads/{upload_id}/finish", document)
    assert (answer.status_code, answer.json()["status"]) == (200, status)
    handover = api.record(path_of(upload_id)).handover
    assert (handover.message, handover.client_data) == ("Welcome", {"url": "/photos/7"})
    again = api.call("POST", f"/uploads/{upload_id}/finish", document | {"message": "Other"})
    assert again.json() == answer.json()
    assert api.record(path_of(upload_id)).handover.message == "Welcome"


@pytest.mark.parametrize("status", [Status.OPEN, Status.COMPLETE, Status.CANCELLED, Status.EXPIRED, Status.LOST])
def test_nothing_waits_for_a_confirmation(status: Status, api: ApiService) -> None:
    upload_id = api.upload_in(status)
    answer = api.call("POST", f"/uploads/{upload_id}/finish", {"outcome": "done"})
    assert (answer.status_code, answer.json()["code"]) == (409, "not_waiting")


def test_a_confirmation_that_is_faster_than_the_wait(api: ApiService) -> None:
    """The app has answered `wait` and confirms before this side has read it: the confirmation waits for the answer."""
    upload_id = api.upload_in(Status.HANDING_OVER)

    def wait() -> None:
        deadline = api.clock.now() + 600
        api.do(path_of(upload_id), lambda u: ending.app_waits(u, deadline=deadline, message=None, client_data=None))

    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(api.call, "POST", f"/uploads/{upload_id}/finish", {"outcome": "done"})
        watchers = api.engine.services.events._watchers
        wait_until(lambda: watchers.get(upload_id), "the call waits for a change", timeout_s=10)
        wait()
        assert (answer.result(30).status_code, answer.result(30).json()["status"]) == (200, "finished")


# -- redelivering


def test_a_callback_that_was_given_up_is_made_again_with_its_id(api: ApiService) -> None:
    upload_id = api.upload_in(Status.HANDING_OVER)
    due: list[str] = []
    api.engine.services.events.subscribe(Told.DUE, lambda record: due.append(record.upload_id))
    api.do(path_of(upload_id), lambda u: ending.handover_failed(u, error="down", next_attempt_at=None))
    stuck = api.call("GET", f"/uploads/{upload_id}").json()["handover"]
    assert (stuck["state"], stuck["last_error"], stuck["next_attempt_at"]) == ("arrived", "down", None)
    before = api.record(path_of(upload_id)).handover.delivery
    answer = api.call("POST", f"/uploads/{upload_id}/redeliver")
    assert (answer.status_code, answer.json()["status"]) == (200, "complete")
    after = api.record(path_of(upload_id)).handover.delivery
    assert before is not None
    assert after is not None
    assert (after.webhook_id, after.given_up, before.given_up) == (before.webhook_id, False, True)
    assert due == [upload_id]


@pytest.mark.parametrize("status", [Status.OPEN, Status.HANDING_OVER, Status.AWAITING_APP, Status.FINISHED])
def test_nothing_to_deliver(status: Status, api: ApiService) -> None:
    answer = api.call("POST", f"/uploads/{api.upload_in(status)}/redeliver", {})
    assert (answer.status_code, answer.json()["code"]) == (409, "nothing_to_deliver")


def test_a_redelivery_is_told_nothing(api: ApiService) -> None:
    answer = api.call("POST", f"/uploads/{api.upload_in(Status.COMPLETE)}/redeliver", {"when": "now"})
    assert errors_of(answer) == {"when": "no field at all"}


# -- the connection


def test_a_refused_call_leaves_its_connection_usable(make_api: MakeApi) -> None:
    """A client that got 401 or 400 goes on, on the same connection."""
    api = make_api({"backend": {"tokens": TOKENS}})
    with requests.Session() as kept:
        url = api.api_url + BACKEND + "/uploads"
        assert kept.post(url, json={"finish_url": FINISH_URL}, timeout=30).status_code == 401
        kept.headers["Authorization"] = f"Bearer {TOKENS[0]}"
        assert kept.post(url, json={"finish_url": ""}, timeout=30).status_code == 400
        assert kept.post(url, json={"finish_url": FINISH_URL}, timeout=30).status_code == 201
        assert kept.get(url + "/x", timeout=30).status_code == 404
    assert api.api_connections <= 1


def test_what_is_logged_of_a_refusal_names_no_upload_by_its_path(api: ApiService) -> None:
    upload_id = api.upload_in(Status.COMPLETE)
    api.call("GET", f"/uploads/{upload_id}/file", params={"token": "tell-nobody"})
    event = api.wait_event("request.refused", code="token_wrong")
    assert event["path"] == f"{BACKEND}/uploads/{{id}}/file"
    assert "tell-nobody" not in json.dumps(api.log_events())
