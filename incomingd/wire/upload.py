"""An upload as web apps see it: the same JSON in the backend API and in callbacks."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from incomingd.core.status import Status

if TYPE_CHECKING:
    from incomingd.core.record import Record

UPLOADS_PATH: Final = "/incoming/1.0/frontend/uploads"


def timestamp(at: float | None) -> str | None:
    """Return Unix time *at* in the form of RFC 3339, UTC, in ms; None for None."""
    if at is None:
        return None
    text = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def upload_url(record: Record, base_url: str | None) -> str:
    """Return where the client uploads; path-absolute without a configured base."""
    return f"{base_url or ''}{UPLOADS_PATH}/{record.upload_id}"


def upload_document(record: Record, *, offset: int, base_url: str | None) -> dict[str, Any]:
    """Return the upload's fields; offsets and lengths in bytes.

    Args:
        record: the last one.
        offset: bytes that are in.
        base_url: as configured.
    """
    terms, client = record.terms, record.client
    return {
        "id": record.upload_id,
        "upload_url": upload_url(record, base_url),
        "status": record.status.value,
        "offset": offset,
        "length": record.length,
        "filename": terms.filename or client.filename,
        "content_type": client.content_type,
        "client": {
            "metadata": dict(client.metadata),
            "relative_path": client.relative_path,
            "last_modified": client.last_modified,
            "address": client.address,
        },
        "labels": list(terms.labels),
        "app_data": terms.app_data,
        "digest": digest_document(record),
        "created_at": timestamp(record.created_at),
        "expires_at": timestamp(record.expires_at) if record.status is Status.OPEN else None,
        "handover": handover_document(record),
        "error": {"code": record.failure.code, "message": record.failure.message} if record.failure else None,
    }


def digest_document(record: Record) -> dict[str, str | None] | None:
    """Return the digest of the file; with null in it while it is not known, None where nobody asks for it."""
    return {"sha-256": record.digest} if record.terms.digest is not None else None


def handover_document(record: Record) -> dict[str, Any]:
    """Return how far the hand-over has come, for web apps and operators."""
    delivery = record.handover.delivery
    return {
        "state": handover_state(record),
        "attempts": delivery.attempts if delivery else 0,
        "last_error": delivery.last_error if delivery else None,
        "next_attempt_at": timestamp(delivery.next_attempt_at) if delivery else None,
    }


def handover_state(record: Record) -> str | None:
    """Return the hand-over's state in one word; None: not complete yet.

    ``arrived`` (all bytes are in), ``handing_over`` (the web app is being
    called), ``waiting`` (it will confirm later), ``done``, ``refused``.
    """
    status = record.status
    if status is Status.COMPLETE:
        return "arrived"
    if status is Status.HANDING_OVER:
        return "handing_over"
    if status is Status.AWAITING_APP:
        return "waiting"
    if status is Status.FINISHED:
        return "done"
    if status is Status.FAILED:
        return "refused"
    return None


def status_document(record: Record, *, offset: int) -> dict[str, Any]:
    """Return what a page may know of an upload (``/status``)."""
    terms = record.terms
    state = handover_state(record)
    return {
        "status": record.status.value,
        "offset": offset,
        "length": record.length,
        "handover": {
            "state": state,
            "message": record.handover.message
            if record.handover.message is not None or record.failure is None
            else record.failure.message,
            "client_data": record.handover.client_data,
        }
        if state is not None
        else None,
        "limits": {
            "length": terms.length,
            "max_length": terms.max_length,
            "content_types": list(terms.content_types),
            "expires_at": timestamp(record.expires_at) if record.status is Status.OPEN else None,
            "client_cancel": terms.client_cancel,
        },
        "error": {"code": record.failure.code, "message": record.failure.message} if record.failure else None,
    }
