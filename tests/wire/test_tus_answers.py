"""What a tus client is told: the headers of each answer, and a status for every refusal."""

from __future__ import annotations

from typing import Any

import pytest

from incomingd.core.commands import Resource
from incomingd.core.errors import PROBLEMS, Code, Refusal
from incomingd.core.status import Status
from incomingd.wire import tus

EXPIRES_AT = 784111777.9
EXPIRES = "Sun, 06 Nov 1994 08:49:37 GMT"  # the example of RFC 9110, section 5.6.7


def resource(**changes: Any) -> Resource:
    usual: dict[str, Any] = {
        "upload_id": "u",
        "part": None,
        "status": Status.OPEN,
        "offset": 4,
        "length": 10,
        "length_deferred": False,
        "length_limit": None,
        "metadata": None,
        "concat": None,
        "expires_at": None,
    }
    return Resource(**usual | changes)


# -- 1. OPTIONS


def test_discovery() -> None:
    """M1.1, M1.2, M1.4."""
    headers = tus.discovery(tus.Limits())
    assert headers["Tus-Version"] == "1.0.0"
    assert set(headers["Tus-Extension"].split(",")) == {
        "creation",
        "creation-with-upload",
        "creation-defer-length",
        "expiration",
        "checksum",
        "checksum-trailer",
        "termination",
        "concatenation",
        "concatenation-unfinished",
    }
    assert headers["Tus-Checksum-Algorithm"] == "sha1,md5,crc32,crc32c,sha256,sha512"
    assert "Tus-Max-Size" not in headers


def test_discovery_of_what_is_limited() -> None:
    """M1.2, S1.3."""
    headers = tus.discovery(tus.Limits(upload_bytes_max=99, checksum_trailer=False))
    assert headers["Tus-Max-Size"] == "99"
    assert "checksum-trailer" not in headers["Tus-Extension"].split(",")
    assert "checksum" in headers["Tus-Extension"].split(",")


# -- 2. HEAD


@pytest.mark.parametrize(
    "changes, present, absent",
    [
        ({}, {"Upload-Offset": "4", "Upload-Length": "10"}, {"Upload-Defer-Length", "Upload-Metadata"}),
        ({"offset": 0}, {"Upload-Offset": "0"}, set()),
        ({"offset": 10}, {"Upload-Offset": "10", "Upload-Length": "10"}, set()),
        ({"length": 0, "offset": 0}, {"Upload-Offset": "0", "Upload-Length": "0"}, {"Upload-Defer-Length"}),
        ({"length": None, "length_deferred": True}, {"Upload-Defer-Length": "1"}, {"Upload-Length"}),
        ({"metadata": "a YQ==, b"}, {"Upload-Metadata": "a YQ==, b"}, set()),
        ({"concat": "partial"}, {"Upload-Concat": "partial", "Upload-Length": "10"}, set()),
        (
            {"concat": "partial", "length": None, "length_deferred": True},
            {"Upload-Concat": "partial", "Upload-Defer-Length": "1"},
            {"Upload-Length"},
        ),
        ({"concat": "final;/a /b"}, {"Upload-Concat": "final;/a /b", "Upload-Offset": "4"}, set()),
        (
            # Its parts are not all there: no offset, and a length only where it can be told.
            {"concat": "final;/a /b", "offset": None, "length": None, "length_deferred": True},
            {"Upload-Concat": "final;/a /b"},
            {"Upload-Offset", "Upload-Length", "Upload-Defer-Length"},
        ),
        ({"concat": "final;/a", "offset": None}, {"Upload-Length": "10"}, {"Upload-Offset"}),
        ({"expires_at": EXPIRES_AT}, {"Upload-Expires": EXPIRES}, set()),
    ],
)
def test_head(changes: dict[str, Any], present: dict[str, str], absent: set[str]) -> None:
    """M2.1 to M2.7, M6.1."""
    headers = tus.head_headers(resource(**changes))
    always = {"Tus-Resumable": "1.0.0", "Cache-Control": "no-store"}
    assert headers.items() >= (always | present).items()
    assert not absent & headers.keys()
    # A body of that many bytes does not follow.
    assert "Content-Length" not in headers


# -- 3., 4., 6. answers to PATCH and POST


def test_created() -> None:
    """M4.2, M5.2, M6.1."""
    headers = tus.creation_headers(resource(expires_at=EXPIRES_AT), "/there")
    assert headers == {
        "Tus-Resumable": "1.0.0",
        "Location": "/there",
        "Upload-Offset": "4",
        "Upload-Expires": EXPIRES,
    }


def test_created_final_whose_parts_are_not_all_there() -> None:
    assert "Upload-Offset" not in tus.creation_headers(resource(offset=None), "/there")


def test_appended() -> None:
    """M3.3, M6.1."""
    headers = tus.append_headers(resource(expires_at=EXPIRES_AT))
    assert headers == {"Tus-Resumable": "1.0.0", "Upload-Offset": "4", "Upload-Expires": EXPIRES}


# -- refusals


@pytest.mark.parametrize("code", list(Code))
@pytest.mark.parametrize("method", ["HEAD", "PATCH", "POST", "DELETE", "GET", "OPTIONS"])
def test_every_refusal_has_a_status(method: str, code: Code) -> None:
    status = tus.refusal_status(Refusal(code), method)
    assert 400 <= status < 600
    assert tus.refusal_headers(Refusal(code))["Tus-Resumable"] == "1.0.0"


@pytest.mark.parametrize("code", list(Code))
def test_head_is_never_answered_5xx(code: Code) -> None:
    """Q2.11: stock clients begin again from byte 0 after it, and after any 4xx but 423."""
    status = tus.refusal_status(Refusal(code), "HEAD")
    assert status < 500
    if PROBLEMS[code].status >= 500:
        assert status == 423


TRANSIENT = (
    Code.BODY_STALLED,
    Code.BODY_TOO_SLOW,
    Code.PREEMPTED,
    Code.STORAGE_FULL,
    Code.STORAGE_UNAVAILABLE,
    Code.NOT_READY,
    Code.STOPPING,
    Code.INTERNAL_ERROR,
    Code.OFFSET_MISMATCH,
)


@pytest.mark.parametrize("code", TRANSIENT)
def test_what_passes_by_itself_is_retried_by_stock_clients(code: Code) -> None:
    """Q3.12: they retry after 409, 423 and 5xx, and give up after any other 4xx."""
    status = tus.refusal_status(Refusal(code), "PATCH")
    assert status >= 500 or status in (409, 423)
    assert tus.refusal_status(Refusal(code), "HEAD") in (409, 423)


def test_statuses_that_the_protocol_names() -> None:
    named = {
        Code.OFFSET_MISMATCH: 409,
        Code.CONTENT_TYPE_WRONG: 415,
        Code.VERSION_UNSUPPORTED: 412,
        Code.CHECKSUM_MISMATCH: 460,
        Code.CHECKSUM_ALGORITHM_UNKNOWN: 400,
        Code.CHECKSUM_MALFORMED: 400,
        Code.UPLOAD_TOO_LARGE: 413,
        Code.LENGTH_EXCEEDED: 413,
        Code.UPLOAD_UNKNOWN: 404,
        Code.UPLOAD_EXPIRED: 410,
        Code.UPLOAD_CANCELLED: 410,
        Code.CONCAT_FINAL: 403,
        Code.STORAGE_FULL: 507,
        Code.HANDING_OVER: 423,
    }
    assert {code: tus.refusal_status(Refusal(code), "PATCH") for code in named} == named
    assert tus.REASONS[460] == "Checksum Mismatch"


@pytest.mark.parametrize("code", list(Code))
def test_the_offset_is_told_with_a_refusal_unless_the_upload_is_gone(code: Code) -> None:
    """T2.9: an answer that an upload is gone carries no offset."""
    headers = tus.refusal_headers(Refusal(code, offset=7))
    gone = tus.refusal_status(Refusal(code), "PATCH") in (404, 410) and code not in (Code.PATH_UNKNOWN, Code.FILE_GONE)
    assert ("Upload-Offset" in headers) is not gone
    assert "Upload-Offset" not in tus.refusal_headers(Refusal(code))


def test_a_refused_version_names_the_ones_that_are_spoken() -> None:
    """M0.5."""
    assert tus.refusal_headers(Refusal(Code.VERSION_UNSUPPORTED))["Tus-Version"] == "1.0.0"
    assert "Tus-Version" not in tus.refusal_headers(Refusal(Code.OFFSET_MISMATCH))


def test_when_to_try_again_is_told_where_it_is_known() -> None:
    assert tus.refusal_headers(Refusal(Code.PREEMPTED, retry_after_s=0))["Retry-After"] == "0"
    assert "Retry-After" not in tus.refusal_headers(Refusal(Code.PREEMPTED))
