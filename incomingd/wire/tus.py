"""tus 1.0.0 with all its extensions: requests -> commands, results -> headers.

Source: the tus resumable upload protocol, version 1.0.0 (2016-03-25, text of
2025-06-26). Section names in the docstrings are its own.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from email.utils import formatdate
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from incomingd.core.commands import Append, Checksum, Creation, Resource
from incomingd.core.digests import ALGORITHMS
from incomingd.core.errors import PROBLEMS, Code, Refusal
from incomingd.wire.headers import BLANKS, GetAll, media_type, number, single
from incomingd.wire.metadata import parse_metadata

if TYPE_CHECKING:
    from collections.abc import Callable

VERSION: Final = "1.0.0"
OFFSET_TYPE: Final = "application/offset+octet-stream"
EXTENSIONS: Final = (
    "creation",
    "creation-with-upload",
    "creation-defer-length",
    "expiration",
    "checksum",
    "termination",
    "concatenation",
    "concatenation-unfinished",
)
OVERRIDABLE: Final = frozenset({"PATCH", "DELETE", "HEAD", "OPTIONS"})

STATUS: Final[dict[Code, int]] = {
    **{code: problem.status for code, problem in PROBLEMS.items()},
}
"""Status of each refusal to a request other than HEAD."""

HEAD_STATUS: Final[dict[Code, int]] = {
    **STATUS,
    # Stock clients begin again from byte 0 after any answer to HEAD that is
    # neither 2xx nor 423; so nothing that passes by itself may be another.
    **{code: 423 for code, problem in PROBLEMS.items() if problem.status >= 500},
    Code.PREEMPTED: 423,
}
"""The same, to HEAD."""

REASONS: Final[dict[int, str]] = {460: "Checksum Mismatch"}
"""Reason phrases that are not registered."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What an operator chooses that a client may see."""

    upload_bytes_max: int | None = None
    metadata_chars_max: int = 8192
    checksum_trailer: bool = True


def effective_method(method: str, get_all: GetAll) -> str:
    """Return the method that is meant (core protocol, X-HTTP-Method-Override).

    Honoured for POST only: a GET must never delete.

    Raises:
        Refusal: `method_override_unknown`.
    """
    override = single(get_all, "X-HTTP-Method-Override")
    if override is None or method != "POST":
        return method
    meant = override.upper()
    if meant not in OVERRIDABLE:
        raise Refusal(Code.METHOD_OVERRIDE_UNKNOWN)
    return meant


def check_version(method: str, get_all: GetAll) -> None:
    """Refuse requests of another protocol or version, before anything is done.

    HEAD and GET without a version are let through: browsers and monitors send
    such.

    Raises:
        Refusal: `version_unsupported`, `protocol_not_offered`.
    """
    if method == "OPTIONS":
        return
    version = single(get_all, "Tus-Resumable")
    if version == VERSION:
        return
    if version is None:
        if get_all("Upload-Draft-Interop-Version") or get_all("Upload-Complete"):
            raise Refusal(Code.PROTOCOL_NOT_OFFERED, "Resumable uploads as drafted by the IETF are not offered.")
        if method in ("HEAD", "GET"):
            return
    raise Refusal(Code.VERSION_UNSUPPORTED)


# -- requests


def parse_creation(
    get_all: GetAll,
    *,
    limits: Limits,
    body_length: int | None,
    has_body: bool,
    address: str | None,
    trailing: Callable[[], Checksum] | None,
) -> Creation:
    """Return what a POST asks for (creation and the extensions on top of it).

    Args:
        get_all: the header fields.
        limits: as configured.
        body_length: bytes announced; None where the body marks its own end.
        has_body: whether any body comes along.
        address: the client's, for the record.
        trailing: returns the checksum behind the body, where a trailer is announced.

    Raises:
        Refusal: what the client said is malformed or contradictory.
    """
    length = number(get_all, "Upload-Length")
    deferred = single(get_all, "Upload-Defer-Length")
    concat = single(get_all, "Upload-Concat")
    partial, final_of = _concat(concat)
    if deferred not in (None, "1"):
        raise Refusal(Code.HEADER_MALFORMED, "Upload-Defer-Length must be 1.")
    if final_of is not None:
        if length is not None or deferred is not None:
            raise Refusal(Code.LENGTH_CONTRADICTORY, "A final upload's length is the sum of its parts.")
        if has_body:
            raise Refusal(Code.CONCAT_FINAL, "A final upload takes no bytes.")
    elif length is None and deferred is None:
        raise Refusal(Code.LENGTH_MISSING)
    elif length is not None and deferred is not None:
        raise Refusal(Code.LENGTH_CONTRADICTORY)
    metadata = single(get_all, "Upload-Metadata")
    pairs = parse_metadata(metadata, size_max=limits.metadata_chars_max) if metadata else ()
    body = None
    if has_body:
        content_type = single(get_all, "Content-Type") or ""
        if media_type(content_type) != OFFSET_TYPE:
            raise Refusal(Code.CONTENT_TYPE_WRONG, f"A body must be {OFFSET_TYPE}.")
        if length is not None and body_length is not None and body_length > length:
            raise Refusal(Code.LENGTH_EXCEEDED, f"{body_length} bytes come for a length of {length}.")
        body = Append(
            offset=0,
            body_length=body_length,
            checksum=_checksum(get_all, trailing),
            trailing_checksum=trailing,
        )
    return Creation(
        length=length,
        metadata=metadata or None,
        pairs=pairs,
        concat=concat,
        partial=partial,
        final_of=final_of,
        body=body,
        address=address,
    )


def parse_append(
    get_all: GetAll,
    *,
    body_length: int | None,
    trailing: Callable[[], Checksum] | None,
) -> Append:
    """Return what a PATCH asks for (core protocol, checksum, deferred length).

    Raises:
        Refusal: what the client said is malformed.
    """
    content_type = single(get_all, "Content-Type") or ""
    if media_type(content_type) != OFFSET_TYPE:
        raise Refusal(Code.CONTENT_TYPE_WRONG, f"A PATCH must be {OFFSET_TYPE}.")
    offset = number(get_all, "Upload-Offset")
    if offset is None:
        raise Refusal(Code.HEADER_MISSING, "Upload-Offset is missing.")
    return Append(
        offset=offset,
        body_length=body_length,
        length=number(get_all, "Upload-Length"),
        checksum=_checksum(get_all, trailing),
        trailing_checksum=trailing,
    )


def _concat(value: str | None) -> tuple[bool, tuple[str, ...] | None]:
    """Return whether a partial upload is wanted, or the URLs of a final one."""
    if value is None:
        return False, None
    if value == "partial":
        return True, None
    kind, semicolon, urls = value.partition(";")
    names = tuple(urls.split())
    if kind.strip() != "final" or not semicolon or not names:
        raise Refusal(Code.CONCAT_MALFORMED)
    return False, names


def _checksum(get_all: GetAll, trailing: Callable[[], Checksum] | None) -> Checksum | None:
    value = single(get_all, "Upload-Checksum")
    if value is None:
        return None
    if trailing is not None:
        raise Refusal(Code.CHECKSUM_MALFORMED, "Upload-Checksum is both a header and announced as a trailer.")
    return parse_checksum(value)


def parse_checksum(value: str) -> Checksum:
    """Return the digest in an Upload-Checksum header or trailer.

    Raises:
        Refusal: `checksum_malformed`, `checksum_algorithm_unknown`.
    """
    algorithm, _, encoded = value.strip(BLANKS).partition(" ")
    algorithm = algorithm.lower()
    if algorithm not in ALGORITHMS:
        raise Refusal(Code.CHECKSUM_ALGORITHM_UNKNOWN, f"Offered: {', '.join(ALGORITHMS)}.")
    try:
        digest = base64.b64decode(encoded.strip(BLANKS), validate=True)
    except (binascii.Error, ValueError):
        raise Refusal(Code.CHECKSUM_MALFORMED, "The digest is not Base64.") from None
    if len(digest) != ALGORITHMS[algorithm]:
        raise Refusal(
            Code.CHECKSUM_MALFORMED,
            f"A digest of {algorithm} has {ALGORITHMS[algorithm]} bytes, not {len(digest)}.",
        )
    return Checksum(algorithm, digest)


def trailing_checksum(trailers: dict[str, str]) -> Checksum:
    """Return the digest that stood behind the body.

    A trailer that was announced and is missing or malformed counts as a
    mismatch: the bytes are there, but nobody can say that they are right.

    Raises:
        Refusal: `checksum_mismatch`.
    """
    value = trailers.get("upload-checksum")
    if value is None:
        raise Refusal(Code.CHECKSUM_MISMATCH, "The announced Upload-Checksum did not come.")
    try:
        return parse_checksum(value)
    except Refusal as refusal:
        raise Refusal(Code.CHECKSUM_MISMATCH, refusal.detail) from refusal


# -- answers


def discovery(limits: Limits) -> dict[str, str]:
    """Return the headers of an answer to OPTIONS."""
    extensions = list(EXTENSIONS)
    if limits.checksum_trailer:
        extensions.append("checksum-trailer")
    headers = {
        "Tus-Resumable": VERSION,
        "Tus-Version": VERSION,
        "Tus-Extension": ",".join(extensions),
        "Tus-Checksum-Algorithm": ",".join(ALGORITHMS),
    }
    if limits.upload_bytes_max is not None:
        headers["Tus-Max-Size"] = str(limits.upload_bytes_max)
    return headers


def head_headers(resource: Resource) -> dict[str, str]:
    """Return the headers of an answer to HEAD."""
    headers = {"Tus-Resumable": VERSION, "Cache-Control": "no-store"}
    if resource.offset is not None:
        headers["Upload-Offset"] = str(resource.offset)
    if resource.length is not None:
        headers["Upload-Length"] = str(resource.length)
    elif (resource.length_deferred and resource.concat is None) or (
        resource.length_deferred and resource.concat == "partial"
    ):
        headers["Upload-Defer-Length"] = "1"
    if resource.metadata is not None:
        headers["Upload-Metadata"] = resource.metadata
    if resource.concat is not None:
        headers["Upload-Concat"] = resource.concat
    headers.update(_expires(resource))
    return headers


def creation_headers(resource: Resource, location: str) -> dict[str, str]:
    """Return the headers of a 201."""
    headers = {"Tus-Resumable": VERSION, "Location": location}
    if resource.offset is not None:
        headers["Upload-Offset"] = str(resource.offset)
    headers.update(_expires(resource))
    return headers


def append_headers(resource: Resource) -> dict[str, str]:
    """Return the headers of a 204 to a PATCH."""
    headers = {"Tus-Resumable": VERSION, "Upload-Offset": str(resource.offset)}
    headers.update(_expires(resource))
    return headers


def refusal_status(refusal: Refusal, method: str) -> int:
    """Return the HTTP status of a refusal to *method*."""
    table = HEAD_STATUS if method == "HEAD" else STATUS
    return table[refusal.code]


def refusal_headers(refusal: Refusal) -> dict[str, str]:
    """Return the headers of a refusal."""
    headers = {"Tus-Resumable": VERSION}
    if refusal.code is Code.VERSION_UNSUPPORTED:
        headers["Tus-Version"] = VERSION
    if refusal.offset is not None and refusal.code not in NO_OFFSET:
        headers["Upload-Offset"] = str(refusal.offset)
    if refusal.retry_after_s is not None:
        headers["Retry-After"] = str(refusal.retry_after_s)
    return headers


NO_OFFSET: Final = frozenset(
    {
        Code.UPLOAD_UNKNOWN,
        Code.UPLOAD_CANCELLED,
        Code.UPLOAD_EXPIRED,
        Code.UPLOAD_FAILED,
        Code.UPLOAD_LOST,
    }
)
"""Refusals that must not tell an offset (tests of the protocol assert it)."""


def _expires(resource: Resource) -> dict[str, str]:
    """Upload-Expires, in the date format of RFC 9110, section 5.6.7."""
    if resource.expires_at is None:
        return {}
    return {"Upload-Expires": _date(int(resource.expires_at))}


@lru_cache(maxsize=1024)
def _date(at_s: int) -> str:
    """Return a date for a header; every answer to an upload tells the same one."""
    return formatdate(at_s, usegmt=True)
