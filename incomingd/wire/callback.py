"""The callback to the web app: what is sent, how it is signed, what an answer means.

JSON and signature follow the Standard Webhooks convention; the form is that of
Incoming!! 0.1, for apps that were written for it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

from standardwebhooks.webhooks import Webhook

from incomingd.wire import free_json
from incomingd.wire.upload import timestamp, upload_document

if TYPE_CHECKING:
    from incomingd.core.record import Delivery, Record

COMPLETE: Final = "upload.complete"
ANSWER_BYTES_MAX: Final = 64 * 1024
CLIENT_DATA_BYTES_MAX: Final = 4096
MESSAGE_CHARS_MAX: Final = 1000
CONFIRM_WITHIN_MAX_S: Final = 366 * 86400.0
GONE: Final = 410


@dataclass(frozen=True, slots=True)
class Callback:
    """One attempt, ready to be sent."""

    url: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """What the web app said."""

    result: str
    """``done``, ``wait``, ``refuse``, ``ok`` (2xx where that is enough), ``error``."""
    message: str | None = None
    client_data: object = None
    confirm_within_s: float | None = None
    """Of a ``wait``: the app's own deadline."""
    error: str | None = None
    ends_attempts: bool = False


def callback(
    record: Record,
    delivery: Delivery,
    *,
    path: str | None,
    download_url: str | None,
    base_url: str | None,
    now: float,
) -> Callback:
    """Return the callback that tells the web app of *delivery*.

    Args:
        record: of the upload.
        delivery: which callback; its id is the same at every attempt.
        path: of the file, where it stands whole.
        download_url: of the file, likewise.
        base_url: public one, for the upload's URL.
        now: Unix time of this attempt, s.
    """
    if record.terms.callback_format == "form":
        content_type, body = "application/x-www-form-urlencoded", _form(record, delivery, path)
    else:
        content_type = "application/json"
        body = _json(record, delivery, path, download_url, base_url, now)
    headers = {"Content-Type": content_type, "User-Agent": "incomingd"}
    headers.update(signature_headers(record.terms.secret, delivery.webhook_id, now, body))
    if record.terms.traceparent:
        headers["traceparent"] = record.terms.traceparent
    return Callback(record.terms.finish_url, headers, body)


def signature_headers(secret: str, webhook_id: str, now: float, body: bytes) -> dict[str, str]:
    """Return the three headers by which a receiver knows who sent *body*, and when.

    Args:
        secret: the ticket's, Base64.
        webhook_id: the callback's.
        now: Unix time of the attempt, s.
        body: as it goes out.
    """
    at = datetime.fromtimestamp(int(now), UTC)
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(int(now)),
        "webhook-signature": Webhook(secret).sign(webhook_id, at, body.decode("utf-8")),
    }


def _json(
    record: Record,
    delivery: Delivery,
    path: str | None,
    download_url: str | None,
    base_url: str | None,
    now: float,
) -> bytes:
    offset = record.content.length if record.status.whole else record.content.noted_offset
    data: dict[str, Any] = upload_document(record, offset=offset or 0, base_url=base_url)
    if delivery.type == COMPLETE:
        data |= {"path": path, "download_url": download_url}
        if record.digest is None:
            # Asked for, but completed by a program that knows of no digests.
            data["digest"] = None
    document = {"type": delivery.type, "timestamp": timestamp(now), "data": data}
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8")


def _form(record: Record, delivery: Delivery, path: str | None) -> bytes:
    complete = delivery.type == COMPLETE
    fields = {
        "id": record.upload_id,
        "filename": path if complete and path else "",
        "filenameFromBrowser": record.terms.filename or record.client.filename or "",
        "backendSecret": record.terms.form_secret,
        "cancelled": "no" if complete else "yes",
        "cancelReason": "" if complete or record.failure is None else record.failure.message,
    }
    return urlencode(fields).encode("ascii")


def parse_answer(delivery_type: str, status: int, body: bytes) -> Answer:
    """Return what the web app's answer means.

    Args:
        delivery_type: what it was asked.
        status: HTTP status.
        body: at most :data:`ANSWER_BYTES_MAX` of it.
    """
    if not 200 <= status < 300:
        return Answer("error", error=f"the web app answered {status}", ends_attempts=status == GONE)
    if delivery_type != COMPLETE:
        return Answer("ok")
    text = body.decode("utf-8", "replace").strip()
    if text in ("done", "wait"):
        return Answer(text)
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        said = None
    if isinstance(said, str) and said in ("done", "wait"):
        return Answer(said)
    if not isinstance(said, dict) or said.get("result") not in ("done", "wait", "refuse"):
        return Answer("error", error=f"the web app answered {status} without done, wait or refuse")
    message = said.get("message")
    if message is not None and (not isinstance(message, str) or free_json.fault(message, bytes_max=ANSWER_BYTES_MAX)):
        return Answer("error", error="the web app's `message` is no text")
    client_data = said.get("client_data")
    fault = free_json.fault(client_data, bytes_max=CLIENT_DATA_BYTES_MAX)
    if fault is not None:
        return Answer("error", error=f"the web app's `client_data` {fault}")
    within = said.get("confirm_within_s")
    if within is not None and not _is_duration(within):
        return Answer("error", error="the web app's `confirm_within_s` is no positive number up to a year")
    return Answer(
        result=said["result"],
        message=message[:MESSAGE_CHARS_MAX] if message else message,
        client_data=client_data,
        confirm_within_s=float(within) if within is not None else None,
    )


def _is_duration(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= CONFIRM_WITHIN_MAX_S
