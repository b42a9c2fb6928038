"""What a tus request asks for, or why it is refused: every rule about headers as a table."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest

from incomingd.core.commands import Append, Checksum, Creation
from incomingd.core.digests import ALGORITHMS
from incomingd.core.errors import Code, Refusal
from incomingd.wire import tus
from tests.wire.headers import fields

OFFSET_TYPE = "application/offset+octet-stream"
SHA1 = base64.b64encode(bytes(20)).decode()


def never() -> Checksum:
    raise AssertionError


def creation(
    *pairs: tuple[str, str],
    body_length: int | None = 0,
    has_body: bool = False,
    trailing: Callable[[], Checksum] | None = None,
    **named: str,
) -> Creation:
    return tus.parse_creation(
        fields(*pairs, **named),
        limits=tus.Limits(metadata_chars_max=256),
        body_length=body_length,
        has_body=has_body,
        address="192.0.2.1",
        trailing=trailing,
    )


def append(
    *pairs: tuple[str, str],
    body_length: int | None = 5,
    trailing: Callable[[], Checksum] | None = None,
    **named: str,
) -> Append:
    return tus.parse_append(fields(*pairs, **named), body_length=body_length, trailing=trailing)


def code_of(call: Callable[..., object], *args: Any, **kwargs: Any) -> Code:
    with pytest.raises(Refusal) as caught:
        call(*args, **kwargs)
    assert caught.value.detail
    return caught.value.code


# -- 0. which method, which protocol


@pytest.mark.parametrize(
    "method, override, meant",
    [
        ("POST", "PATCH", "PATCH"),
        ("POST", "patch", "PATCH"),
        ("POST", " Delete ", "DELETE"),
        ("POST", "HEAD", "HEAD"),
        ("POST", "OPTIONS", "OPTIONS"),
        ("POST", None, "POST"),
        ("PATCH", None, "PATCH"),
        # Only a POST can be meant for another method: a GET never deletes.
        ("GET", "DELETE", "GET"),
        ("HEAD", "DELETE", "HEAD"),
        ("PATCH", "DELETE", "PATCH"),
        ("OPTIONS", "nonsense", "OPTIONS"),
    ],
)
def test_the_method_that_is_meant(method: str, override: str | None, meant: str) -> None:
    """D0.1."""
    headers = fields() if override is None else fields(X_HTTP_Method_Override=override)
    assert tus.effective_method(method, headers) == meant


@pytest.mark.parametrize("override", ["", "GET", "POST", "PUT", "TRACE", "PATCH, DELETE", "delete\u0131"])
def test_an_unknown_override_is_refused(override: str) -> None:
    """D0.1."""
    assert code_of(tus.effective_method, "POST", fields(X_HTTP_Method_Override=override)) is (
        Code.METHOD_OVERRIDE_UNKNOWN
    )


DRAFT = {"Upload_Draft_Interop_Version": "8"}
DRAFT_COMPLETE = {"Upload_Complete": "?1"}


@pytest.mark.parametrize(
    "method, headers",
    [
        ("POST", {"Tus_Resumable": "1.0.0"}),
        ("PATCH", {"Tus_Resumable": " 1.0.0 "}),
        ("DELETE", {"Tus_Resumable": "1.0.0"}),
        ("HEAD", {"Tus_Resumable": "1.0.0"}),
        ("HEAD", {}),
        ("GET", {}),
        ("OPTIONS", {}),
        ("OPTIONS", {"Tus_Resumable": "0.0.0-bogus"}),
        ("OPTIONS", DRAFT),
        # The version decides, whatever else is there.
        ("PATCH", {"Tus_Resumable": "1.0.0"} | DRAFT | DRAFT_COMPLETE),
    ],
)
def test_a_version_that_is_let_through(method: str, headers: dict[str, str]) -> None:
    """D0.2, M0.3, T under M0.5."""
    tus.check_version(method, fields(**headers))


@pytest.mark.parametrize(
    "method, headers, code",
    [
        ("POST", {}, Code.VERSION_UNSUPPORTED),
        ("PATCH", {}, Code.VERSION_UNSUPPORTED),
        ("DELETE", {}, Code.VERSION_UNSUPPORTED),
        ("POST", {"Tus_Resumable": ""}, Code.VERSION_UNSUPPORTED),
        ("POST", {"Tus_Resumable": "0.2.2"}, Code.VERSION_UNSUPPORTED),
        ("POST", {"Tus_Resumable": "1.0"}, Code.VERSION_UNSUPPORTED),
        ("PATCH", {"Tus_Resumable": "1.0.0, 1.0.0"}, Code.VERSION_UNSUPPORTED),
        ("HEAD", {"Tus_Resumable": "2.0.0"}, Code.VERSION_UNSUPPORTED),
        ("GET", {"Tus_Resumable": "2.0.0"}, Code.VERSION_UNSUPPORTED),
        ("DELETE", {"Tus_Resumable": "2.0.0"} | DRAFT, Code.VERSION_UNSUPPORTED),
        ("POST", DRAFT, Code.PROTOCOL_NOT_OFFERED),
        ("PATCH", DRAFT_COMPLETE, Code.PROTOCOL_NOT_OFFERED),
        ("HEAD", DRAFT, Code.PROTOCOL_NOT_OFFERED),
    ],
)
def test_a_version_that_is_refused(method: str, headers: dict[str, str], code: Code) -> None:
    """D0.2, M0.5."""
    assert code_of(tus.check_version, method, fields(**headers)) is code


def test_a_version_that_came_twice() -> None:
    get_all = fields(("Tus-Resumable", "1.0.0"), ("Tus-Resumable", "2.0.0"))
    assert code_of(tus.check_version, "PATCH", get_all) is Code.HEADER_REPEATED


# -- 3. PATCH


def test_an_append_as_a_whole() -> None:
    wanted = append(
        Content_Type=OFFSET_TYPE,
        Upload_Offset="7",
        Upload_Length="12",
        Upload_Checksum=f"sha1 {SHA1}",
        body_length=5,
    )
    assert wanted == Append(offset=7, body_length=5, length=12, checksum=Checksum("sha1", bytes(20)))


@pytest.mark.parametrize("kind", ["application/offset+octet-stream;x=y", "APPLICATION/offset+octet-stream"])
def test_parameters_of_the_content_type_mean_nothing(kind: str) -> None:
    """M3.1."""
    assert append(Content_Type=kind, Upload_Offset="0").offset == 0


@pytest.mark.parametrize(
    "headers, code",
    [
        ({"Upload_Offset": "0"}, Code.CONTENT_TYPE_WRONG),
        ({"Content_Type": "", "Upload_Offset": "0"}, Code.CONTENT_TYPE_WRONG),
        ({"Content_Type": "application/octet-stream", "Upload_Offset": "0"}, Code.CONTENT_TYPE_WRONG),
        ({"Content_Type": "application/partial-upload", "Upload_Offset": "0"}, Code.CONTENT_TYPE_WRONG),
        ({"Content_Type": OFFSET_TYPE + "2", "Upload_Offset": "0"}, Code.CONTENT_TYPE_WRONG),
        ({"Content_Type": OFFSET_TYPE}, Code.HEADER_MISSING),
        ({"Content_Type": OFFSET_TYPE, "Upload_Offset": ""}, Code.HEADER_MALFORMED),
        ({"Content_Type": OFFSET_TYPE, "Upload_Offset": "-1"}, Code.HEADER_MALFORMED),
        ({"Content_Type": OFFSET_TYPE, "Upload_Offset": "0", "Upload_Length": "x"}, Code.HEADER_MALFORMED),
        ({"Content_Type": OFFSET_TYPE, "Upload_Offset": "0", "Upload_Checksum": "x"}, Code.CHECKSUM_ALGORITHM_UNKNOWN),
    ],
)
def test_an_append_that_is_refused(headers: dict[str, str], code: Code) -> None:
    """M3.1, M3.2, M7.1."""
    assert code_of(append, **headers) is code


# -- 4. creation


def test_a_creation_as_a_whole() -> None:
    wanted = creation(Upload_Length="10", Upload_Metadata="filename YQ==,empty", Content_Type="text/html")
    assert wanted == Creation(
        length=10,
        metadata="filename YQ==,empty",
        pairs=(("filename", "a"), ("empty", "")),
        address="192.0.2.1",
    )


def test_metadata_is_kept_as_it_was_sent() -> None:
    """M4.6: HEAD gives it back to the byte."""
    sent = "b  Yg== ,  a YQ=="
    assert creation(Upload_Length="1", Upload_Metadata=f"  {sent}  ").metadata == sent


def test_an_empty_metadata_header_is_as_good_as_none() -> None:
    """M4.6: tuspy sends one."""
    wanted = creation(Upload_Length="1", Upload_Metadata="")
    assert (wanted.metadata, wanted.pairs) == (None, ())


def test_a_deferred_length() -> None:
    wanted = creation(Upload_Defer_Length="1")
    assert wanted.length is None


@pytest.mark.parametrize(
    "headers, code",
    [
        ({}, Code.LENGTH_MISSING),
        ({"Upload_Concat": "partial"}, Code.LENGTH_MISSING),
        ({"Upload_Length": "5", "Upload_Defer_Length": "1"}, Code.LENGTH_CONTRADICTORY),
        ({"Upload_Defer_Length": "0"}, Code.HEADER_MALFORMED),
        ({"Upload_Defer_Length": "2"}, Code.HEADER_MALFORMED),
        ({"Upload_Defer_Length": "true"}, Code.HEADER_MALFORMED),
        ({"Upload_Defer_Length": ""}, Code.HEADER_MALFORMED),
        ({"Upload_Length": "5", "Upload_Defer_Length": "0"}, Code.HEADER_MALFORMED),
        ({"Upload_Length": "-5"}, Code.HEADER_MALFORMED),
        ({"Upload_Length": "5.0"}, Code.HEADER_MALFORMED),
        ({"Upload_Length": "1" * 19}, Code.HEADER_MALFORMED),
        ({"Upload_Length": "5", "Upload_Metadata": "a b c"}, Code.METADATA_MALFORMED),
        ({"Upload_Length": "5", "Upload_Metadata": "a " + "A" * 256}, Code.METADATA_TOO_LARGE),
        # 10. concatenation
        ({"Upload_Length": "5", "Upload_Concat": "Partial"}, Code.CONCAT_MALFORMED),
        ({"Upload_Length": "5", "Upload_Concat": ""}, Code.CONCAT_MALFORMED),
        ({"Upload_Length": "5", "Upload_Concat": "partial;/a"}, Code.CONCAT_MALFORMED),
        ({"Upload_Concat": "final"}, Code.CONCAT_MALFORMED),
        ({"Upload_Concat": "final;"}, Code.CONCAT_MALFORMED),
        ({"Upload_Concat": "final; "}, Code.CONCAT_MALFORMED),
        ({"Upload_Concat": "final /a"}, Code.CONCAT_MALFORMED),
        ({"Upload_Concat": "final;/a", "Upload_Length": "5"}, Code.LENGTH_CONTRADICTORY),
        ({"Upload_Concat": "final;/a", "Upload_Defer_Length": "1"}, Code.LENGTH_CONTRADICTORY),
    ],
)
def test_a_creation_that_is_refused(headers: dict[str, str], code: Code) -> None:
    """M4.1, M4.6, D0.6, M10.1, M10.2."""
    assert code_of(creation, **headers) is code


def test_a_length_that_came_twice() -> None:
    """D0.6."""
    assert code_of(creation, ("Upload-Length", "5"), ("Upload-Length", "6")) is Code.HEADER_REPEATED


# -- 5. creation with upload


def test_a_body_that_comes_along() -> None:
    wanted = creation(
        Upload_Length="10", Content_Type=OFFSET_TYPE, Upload_Checksum=f"sha1 {SHA1}", body_length=10, has_body=True
    )
    assert wanted.body == Append(offset=0, body_length=10, checksum=Checksum("sha1", bytes(20)))


def test_a_body_of_unknown_length_that_comes_along() -> None:
    wanted = creation(Upload_Defer_Length="1", Content_Type=OFFSET_TYPE, body_length=None, has_body=True)
    assert wanted.body == Append(offset=0, body_length=None)


@pytest.mark.parametrize(
    "headers, code",
    [
        ({"Upload_Length": "10"}, Code.CONTENT_TYPE_WRONG),
        ({"Upload_Length": "10", "Content_Type": "application/json"}, Code.CONTENT_TYPE_WRONG),
        ({"Upload_Length": "4", "Content_Type": OFFSET_TYPE}, Code.LENGTH_EXCEEDED),
        ({"Upload_Length": "0", "Content_Type": OFFSET_TYPE}, Code.LENGTH_EXCEEDED),
        ({"Upload_Concat": "final;/a", "Content_Type": OFFSET_TYPE}, Code.CONCAT_FINAL),
        ({"Upload_Concat": "final;/a"}, Code.CONCAT_FINAL),
        ({"Upload_Length": "10", "Content_Type": OFFSET_TYPE, "Upload_Checksum": "sha1"}, Code.CHECKSUM_MALFORMED),
    ],
)
def test_a_body_that_may_not_come_along(headers: dict[str, str], code: Code) -> None:
    """M5.2, T5.3, M5.4, D5.6."""
    assert code_of(creation, body_length=5, has_body=True, **headers) is code


# -- 7. checksum


@pytest.mark.parametrize("algorithm", list(ALGORITHMS))
def test_each_algorithm(algorithm: str) -> None:
    digest = bytes(range(ALGORITHMS[algorithm]))
    encoded = base64.b64encode(digest).decode()
    assert tus.parse_checksum(f"{algorithm} {encoded}") == Checksum(algorithm, digest)
    assert tus.parse_checksum(f" {algorithm.upper()}   {encoded} ") == Checksum(algorithm, digest)


@pytest.mark.parametrize(
    "value, code",
    [
        ("", Code.CHECKSUM_ALGORITHM_UNKNOWN),
        ("sha3 AAAA", Code.CHECKSUM_ALGORITHM_UNKNOWN),
        ("sha-1 " + SHA1, Code.CHECKSUM_ALGORITHM_UNKNOWN),
        (SHA1, Code.CHECKSUM_ALGORITHM_UNKNOWN),
        ("__class__ AAAA", Code.CHECKSUM_ALGORITHM_UNKNOWN),
        ("sha1", Code.CHECKSUM_MALFORMED),
        ("sha1 ", Code.CHECKSUM_MALFORMED),
        ("sha1 not-base64", Code.CHECKSUM_MALFORMED),
        ("sha1 " + SHA1[:-1], Code.CHECKSUM_MALFORMED),
        ("sha1 " + SHA1 + " x", Code.CHECKSUM_MALFORMED),
        ("sha1 AAAA", Code.CHECKSUM_MALFORMED),
        ("sha256 " + SHA1, Code.CHECKSUM_MALFORMED),
        ("sha1 " + "\u00e9" * 28, Code.CHECKSUM_MALFORMED),
    ],
)
def test_a_checksum_that_is_refused(value: str, code: Code) -> None:
    """M7.1: decided before a byte of the body is read."""
    assert code_of(tus.parse_checksum, value) is code


def test_a_checksum_is_a_header_or_a_trailer() -> None:
    """M7.4."""
    headers = {"Content_Type": OFFSET_TYPE, "Upload_Offset": "0", "Upload_Checksum": f"sha1 {SHA1}"}
    assert code_of(append, body_length=None, trailing=never, **headers) is Code.CHECKSUM_MALFORMED


def test_an_announced_checksum_is_asked_for_behind_the_body() -> None:
    wanted = append(Content_Type=OFFSET_TYPE, Upload_Offset="0", body_length=None, trailing=never)
    assert wanted.trailing_checksum is never
    assert wanted.checksum is None


def test_the_checksum_in_the_trailer() -> None:
    assert tus.trailing_checksum({"upload-checksum": f"sha1 {SHA1}"}) == Checksum("sha1", bytes(20))


@pytest.mark.parametrize("trailers", [{}, {"other": "x"}, {"upload-checksum": ""}, {"upload-checksum": "sha1 x"}])
def test_a_trailer_that_is_missing_or_malformed_is_a_mismatch(trailers: dict[str, str]) -> None:
    """M7.4: nobody can say that the bytes are right."""
    assert code_of(tus.trailing_checksum, trailers) is Code.CHECKSUM_MISMATCH


# -- 10. concatenation


def test_a_part() -> None:
    wanted = creation(Upload_Length="5", Upload_Concat="partial")
    assert (wanted.partial, wanted.concat, wanted.final_of) == (True, "partial", None)


@pytest.mark.parametrize(
    "value, urls",
    [
        ("final;/a", ("/a",)),
        ("final;/b /a /b", ("/b", "/a", "/b")),
        ("final; https://example.com/a   /b ", ("https://example.com/a", "/b")),
    ],
)
def test_a_final_upload_names_its_parts_in_order(value: str, urls: tuple[str, ...]) -> None:
    """M10.2, M10.3."""
    wanted = creation(Upload_Concat=value)
    assert wanted.final_of == urls
    assert wanted.concat == value.strip()
    assert wanted.length is None
    assert not wanted.partial
