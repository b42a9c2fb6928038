"""What is sent to a web app: the body, its signature, and the form of Incoming!! 0.1."""

from __future__ import annotations

import base64
import dataclasses
import json
import time
from typing import Any
from urllib.parse import parse_qs

import pytest
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

from incomingd.core.record import Delivery, Failure, Record
from incomingd.core.status import Status
from incomingd.wire.callback import COMPLETE, Callback, callback
from tests.support.golden import RECORD as FULL

SECRET = base64.b64encode(bytes(range(32))).decode()
NOW = 1_800_000_000.9


def record(**changes: Any) -> Record:
    terms: dict[str, Any] = {"secret": SECRET, "callback_format": "json"}
    terms |= {name: changes.pop(name) for name in ("callback_format", "traceparent", "form_secret") if name in changes}
    plain = dataclasses.replace(FULL.terms, **terms)
    return dataclasses.replace(FULL, terms=plain, failure=None, status=Status.HANDING_OVER, **changes)


def made(of: Record, kind: str = COMPLETE, *, now: float = NOW, path: str | None = "/data/files/x") -> Callback:
    return callback(
        of,
        Delivery(kind, webhook_id="msg_1"),
        path=path,
        download_url="http://127.0.0.1:4001/file?token=t",
        base_url="https://up.example",
        now=now,
    )


def test_the_complete_file_is_told_with_all_that_is_known_of_it() -> None:
    call = made(record())
    assert call.url == "https://app.example/arrived"
    body = json.loads(call.body)
    assert (body["type"], body["timestamp"]) == ("upload.complete", "2027-01-15T08:00:00.900Z")
    data = body["data"]
    assert data["id"] == FULL.upload_id
    assert data["upload_url"] == f"https://up.example/incoming/1.0/frontend/uploads/{FULL.upload_id}"
    assert (data["status"], data["offset"], data["length"]) == ("handing_over", 7, 7)
    assert (data["path"], data["download_url"], data["digest"]) == (
        "/data/files/x",
        "http://127.0.0.1:4001/file?token=t",
        None,
    )
    assert data["filename"] == "Übung.pdf"
    assert data["app_data"] == FULL.terms.app_data
    assert data["labels"] == ["a", "b"]
    assert data["client"] == {
        "metadata": {"filename": "Übung.pdf", "z": ""},
        "relative_path": "a/Übung.pdf",
        "last_modified": "1700000000000",
        "address": "192.0.2.1",
    }
    assert data["handover"]["attempts"] == 3


@pytest.mark.parametrize(
    "kind", ["upload.cancelled", "upload.expired", "upload.failed", "upload.lost", "upload.started"]
)
def test_other_callbacks_lead_to_no_file(kind: str) -> None:
    failure = Failure("upload_cancelled", "Not wanted.")
    body = json.loads(made(dataclasses.replace(record(), status=Status.CANCELLED, failure=failure), kind).body)
    assert body["type"] == kind
    assert not {"path", "download_url"} & body["data"].keys()
    assert body["data"]["error"] == {"code": "upload_cancelled", "message": "Not wanted."}


@pytest.mark.parametrize("callback_format", ["json", "form"])
def test_the_signature_is_what_the_convention_says(callback_format: str) -> None:
    """As the reference library verifies it; a byte more, and it does not."""
    call = made(record(callback_format=callback_format), now=time.time())
    for spelling in (SECRET, f"whsec_{SECRET}"):
        if callback_format == "json":
            Webhook(spelling).verify(call.body, call.headers)
        else:
            # It verifies first, and then wants JSON.
            with pytest.raises(json.JSONDecodeError):
                Webhook(spelling).verify(call.body, call.headers)
    verifier = Webhook(SECRET)
    for body, headers in (
        (call.body + b" ", call.headers),
        (call.body, call.headers | {"webhook-id": "msg_2"}),
        (call.body, call.headers | {"webhook-timestamp": str(int(time.time()) - 1)}),
        (call.body, call.headers | {"webhook-signature": "v1,AAAA"}),
    ):
        with pytest.raises(WebhookVerificationError):
            verifier.verify(body, headers)
    other = Webhook(base64.b64encode(b"x" * 32).decode())
    with pytest.raises(WebhookVerificationError):
        other.verify(call.body, call.headers)


def test_each_attempt_has_the_same_id_and_a_time_of_its_own() -> None:
    first, second = made(record()), made(record(), now=NOW + 60)
    assert first.headers["webhook-id"] == second.headers["webhook-id"] == "msg_1"
    assert int(second.headers["webhook-timestamp"]) - int(first.headers["webhook-timestamp"]) == 60
    assert first.headers["webhook-signature"] != second.headers["webhook-signature"]


def test_a_trace_goes_on_where_the_ticket_had_one() -> None:
    assert made(record()).headers["traceparent"] == FULL.terms.traceparent
    assert "traceparent" not in made(record(traceparent=None)).headers


def test_no_secret_is_in_what_is_sent() -> None:
    for kind in (COMPLETE, "upload.cancelled"):
        call = made(record(), kind)
        assert SECRET.encode() not in call.body
        assert SECRET not in " ".join(call.headers.values())


def form(call: Callback) -> dict[str, str]:
    assert call.headers["Content-Type"] == "application/x-www-form-urlencoded"
    fields = parse_qs(call.body.decode("ascii"), keep_blank_values=True, strict_parsing=True)
    return {name: values[0] for name, values in fields.items()}


def test_the_form_of_0_1_tells_where_the_file_is() -> None:
    assert form(made(record(callback_format="form", form_secret="s&=ü"), path="/data/a b&c")) == {
        "id": FULL.upload_id,
        "filename": "/data/a b&c",
        "filenameFromBrowser": "Übung.pdf",
        "backendSecret": "s&=ü",
        "cancelled": "no",
        "cancelReason": "",
    }


def test_the_form_of_0_1_tells_that_there_is_no_file() -> None:
    failure = Failure("upload_cancelled", "Nicht gewünscht & weg.")
    gone = dataclasses.replace(
        record(callback_format="form", form_secret="s"), status=Status.CANCELLED, failure=failure
    )
    assert form(made(gone, "upload.cancelled")) == {
        "id": FULL.upload_id,
        "filename": "",
        "filenameFromBrowser": "Übung.pdf",
        "backendSecret": "s",
        "cancelled": "yes",
        "cancelReason": "Nicht gewünscht & weg.",
    }
