"""Which pages may talk to the upload resource (Fetch standard, CORS protocol).

One table for every answer, refusals too: a header that is missing from the
exposed ones makes clients start anew instead of going on, and nobody sees why.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from incomingd.core.errors import Code, Refusal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from incomingd.config import Origins

METHODS: Final = "POST, HEAD, PATCH, DELETE, OPTIONS, GET, PUT"
REQUEST_HEADERS: Final = (
    "Authorization",
    "Content-Type",
    "Content-Disposition",
    "X-Requested-With",
    "X-Request-ID",
    "X-HTTP-Method-Override",
    "Tus-Resumable",
    "Upload-Length",
    "Upload-Offset",
    "Upload-Metadata",
    "Upload-Defer-Length",
    "Upload-Concat",
    "Upload-Checksum",
    "Upload-Complete",
    "Upload-Incomplete",
    "Upload-Draft-Interop-Version",
    "Content-Digest",
    "Repr-Digest",
    "Want-Content-Digest",
    "Want-Repr-Digest",
    "Incremental",
    "Idempotency-Key",
    "traceparent",
)
EXPOSED: Final = (
    "Location",
    "Upload-Offset",
    "Upload-Length",
    "Upload-Metadata",
    "Upload-Defer-Length",
    "Upload-Concat",
    "Upload-Expires",
    "Upload-Complete",
    "Upload-Incomplete",
    "Upload-Limit",
    "Upload-Draft-Interop-Version",
    "Tus-Resumable",
    "Tus-Version",
    "Tus-Extension",
    "Tus-Max-Size",
    "Tus-Checksum-Algorithm",
    "Content-Digest",
    "Repr-Digest",
    "Retry-After",
    "X-Request-ID",
)
PREFLIGHT_AGE_S: Final = 86400
ANSWER_HEADERS: Final = ("Access-Control-Allow-Origin", "Access-Control-Expose-Headers", "Vary")
"""What :func:`answer_headers` may return."""


def answer_headers(origin: str | None) -> dict[str, str]:
    """Return the headers of any answer to a page of *origin*; none without one."""
    if origin is None:
        return {"Vary": "Origin"}
    return {
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Expose-Headers": ", ".join(EXPOSED),
        "Vary": "Origin",
    }


def preflight_headers() -> dict[str, str]:
    """Return what an answer to a preflight has on top."""
    return {
        "Access-Control-Allow-Methods": METHODS,
        "Access-Control-Allow-Headers": ", ".join(REQUEST_HEADERS),
        "Access-Control-Max-Age": str(PREFLIGHT_AGE_S),
    }


def check_origin(origin: str | None, allowed: Origins, own: Sequence[str] = ()) -> None:
    """Refuse a page that may not upload here.

    Args:
        origin: the request's Origin header; None: no page, or one of ours.
        allowed: by configuration.
        own: by the ticket; empty: no restriction of its own.

    Raises:
        Refusal: `origin_not_allowed`.
    """
    if origin is None:
        return
    if not allowed.allows(origin) or (own and origin.rstrip("/").lower() not in _lower(own)):
        raise Refusal(Code.ORIGIN_NOT_ALLOWED, f"{origin[:200]!r} is not allowed.")


def _lower(origins: Sequence[str]) -> set[str]:
    return {origin.rstrip("/").lower() for origin in origins}
