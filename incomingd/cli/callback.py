"""A test callback: signed as the daemon signs, sent from here, so that a web app can be tried before it is needed."""

from __future__ import annotations

import base64
import http.client
import json
import secrets
import ssl
import time
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from incomingd.core.record import Record, Terms
from incomingd.wire.backend import Rules, TicketDocument, parse, told_secret
from incomingd.wire.callback import ANSWER_BYTES_MAX, COMPLETE, parse_answer, signature_headers
from incomingd.wire.upload import timestamp, upload_document

TEST: Final = "upload.test"
"""No event of an upload: an app that does not know it must not take it for a file."""


class NoAnswerError(Exception):
    """The web app did not answer; the text says why."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What was sent, and what came back."""

    webhook_id: str
    secret: str
    status: int
    reason: str
    content_type: str
    body: bytes
    duration_s: float


def told(sent: Sent, *, secret_given: bool) -> dict[str, Any]:
    """Return what an operator wants to know of a test callback."""
    meant = parse_answer(COMPLETE, sent.status, sent.body)
    return {
        "status": sent.status,
        "reason": sent.reason,
        "content_type": sent.content_type,
        "duration_s": round(sent.duration_s, 3),
        "body": sent.body.decode("utf-8", "replace"),
        "as_answer_to_complete": meant.result if meant.error is None else f"{meant.result}: {meant.error}",
        "webhook_id": sent.webhook_id,
        # A secret that the caller knows is not shown to whoever looks over the shoulder.
        **({} if secret_given else {"signed_with": sent.secret}),
    }


def send(url: str, secret: str | None, *, timeout_s: float) -> Sent:
    """Make the callback once.

    Args:
        url: a ticket's `finish_url`.
        secret: a ticket's; None: one is made.
        timeout_s: for each step of the connection.

    Raises:
        Refusal: URL or secret are none that a ticket could have.
        NoAnswerError: see there.
    """
    fields: dict[str, Any] = {"finish_url": url} | ({"secret": secret} if secret is not None else {})
    ticket = parse(TicketDocument, fields, Rules(expires_in_max_s=float("inf")))
    new_secret = base64.b64encode(secrets.token_bytes(32)).decode("ascii")
    terms: Terms = ticket.terms(new_secret=new_secret, traceparent=None)
    now = time.time()
    record = Record(upload_id="test", terms=terms, created_at=now, expires_at=now)
    data = upload_document(record, offset=0, base_url=None) | {"path": None, "download_url": None, "digest": None}
    body = json.dumps({"type": TEST, "timestamp": timestamp(now), "data": data}).encode("utf-8")
    webhook_id = f"msg_{secrets.token_hex(16)}"
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "incomingctl",
        **signature_headers(terms.secret, webhook_id, now, body),
    }
    started = time.monotonic()
    try:
        answer, answered = _post(url, headers, body, timeout_s)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        msg = f"{urlsplit(url).netloc} does not answer: {reason}"
        raise NoAnswerError(msg) from error
    return Sent(
        webhook_id=webhook_id,
        secret=told_secret(terms),
        status=answer.status,
        reason=answer.reason,
        content_type=answer.getheader("Content-Type", ""),
        body=answered,
        duration_s=time.monotonic() - started,
    )


def _post(url: str, headers: dict[str, str], body: bytes, timeout_s: float) -> tuple[http.client.HTTPResponse, bytes]:
    parts = urlsplit(url)
    host = parts.hostname or ""
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        context = ssl.create_default_context()
        connection = http.client.HTTPSConnection(host, parts.port, timeout=timeout_s, context=context)
    else:
        connection = http.client.HTTPConnection(host, parts.port, timeout=timeout_s)
    try:
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("POST", path, body=body, headers=headers)
        answer = connection.getresponse()
        return answer, answer.read(ANSWER_BYTES_MAX)
    finally:
        connection.close()
