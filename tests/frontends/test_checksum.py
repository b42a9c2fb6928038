"""Bytes with a checksum count once it was compared, and not before (tus checklist 7)."""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Callable

import google_crc32c
import pytest

from incomingd.core.status import Status
from tests.frontends.conftest import MakeService
from tests.frontends.service import CHUNKED, Service, chunked
from tests.support.tus import OFFSET_TYPE, VERSION
from tests.support.wire import Headers

CONTENT = b"0123456789"
TRAILER: Headers = CHUNKED | {"Trailer": "Upload-Checksum"}

DIGESTS: dict[str, Callable[[bytes], bytes]] = {
    "sha1": lambda data: hashlib.sha1(data).digest(),
    "md5": lambda data: hashlib.md5(data).digest(),
    "crc32": lambda data: zlib.crc32(data).to_bytes(4, "big"),
    "crc32c": lambda data: google_crc32c.value(data).to_bytes(4, "big"),
    "sha256": lambda data: hashlib.sha256(data).digest(),
    "sha512": lambda data: hashlib.sha512(data).digest(),
}


def checksum(algorithm: str, data: bytes) -> str:
    return f"{algorithm} {base64.b64encode(DIGESTS[algorithm](data)).decode()}"


def sha1(data: bytes) -> Headers:
    return {"Upload-Checksum": checksum("sha1", data)}


def test_known_digests() -> None:
    """The most significant byte comes first: the check values of the two CRCs' catalogue."""
    assert DIGESTS["crc32"](b"123456789").hex() == "cbf43926"
    assert DIGESTS["crc32c"](b"123456789").hex() == "e3069283"


@pytest.mark.parametrize("algorithm", list(DIGESTS))
@pytest.mark.parametrize("where", ["header", "trailer"])
def test_every_algorithm_is_compared(service: Service, where: str, algorithm: str) -> None:
    """M7.1, M7.2, M7.4."""
    path = service.ticket()
    service.create(path, 10)

    def send(digest_of: bytes) -> tuple[int, str | None, int]:
        value = checksum(algorithm, digest_of)
        if where == "header":
            answer = service.patch(path, 0, CONTENT, {"Upload-Checksum": value})
        else:
            trailer = f"Upload-Checksum: {value}\r\n".encode()
            answer = service.patch(path, 0, chunked(b"0123", b"456789", trailer=trailer), TRAILER)
        return answer.status, answer.code, answer.offset

    assert send(CONTENT[::-1]) == (460, "checksum_mismatch", 0)
    assert service.offset(path) == 0
    assert send(CONTENT) == (204, None, 10)
    assert service.file_of(path) == CONTENT


def test_a_mismatch_leaves_what_was_there(service: Service) -> None:
    """M7.2: the piece is discarded, the offset does not move, the connection goes on."""
    path = service.bring(Status.OPEN)
    wire = service.connect()
    answer = service.patch(path, 4, b"4567", sha1(b"wrong"), wire=wire)
    assert (answer.status, answer.reason, answer.code, answer.offset) == (
        460,
        "Checksum Mismatch",
        "checksum_mismatch",
        4,
    )
    assert service.bytes_of(path)["bytes.1"] == b"0123"
    assert service.record(path).content.unverified_from is None
    assert service.patch(path, 4, b"456789", sha1(b"456789"), wire=wire).status == 204
    assert service.file_of(path) == CONTENT
    assert service.wait_event("append.ended", ended_by="checksum")["bytes"] == 0


@pytest.mark.parametrize(
    "value, code",
    [
        ("sha3 AAAA", "checksum_algorithm_unknown"),
        ("", "checksum_algorithm_unknown"),
        ("sha1", "checksum_malformed"),
        ("sha1 not/base64", "checksum_malformed"),
        ("sha1 AAAA", "checksum_malformed"),
        ("sha256 " + base64.b64encode(bytes(20)).decode(), "checksum_malformed"),
    ],
)
def test_a_checksum_that_cannot_be_compared_is_refused_before_the_body(service: Service, value: str, code: str) -> None:
    """M7.1."""
    path = service.bring(Status.OPEN)
    wire = service.connect()
    headers = VERSION | OFFSET_TYPE | {"Upload-Offset": "4", "Content-Length": "6", "Upload-Checksum": value}
    wire.send_head("PATCH", path, headers)
    answer = wire.read_response()
    assert (answer.status, answer.code) == (400, code)
    assert service.offset(path) == 4


@pytest.mark.parametrize(
    "trailer",
    [
        b"",
        b"Other: x\r\n",
        b"Upload-Checksum:\r\n",
        b"Upload-Checksum: sha1\r\n",
        b"Upload-Checksum: sha1 AAAA\r\n",
        b"Upload-Checksum: nope AAAA\r\n",
        b"Upload-Checksum: sha1 AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n",
    ],
)
def test_a_trailer_that_was_announced_and_cannot_be_compared_is_a_mismatch(service: Service, trailer: bytes) -> None:
    """M7.4."""
    path = service.bring(Status.OPEN)
    answer = service.patch(path, 4, chunked(b"456789", trailer=trailer), TRAILER)
    assert (answer.status, answer.code, answer.offset) == (460, "checksum_mismatch", 4)
    assert service.offset(path) == 4


def test_two_different_checksums_in_the_trailer_are_a_mismatch(service: Service) -> None:
    path = service.bring(Status.OPEN)
    right = f"Upload-Checksum: {checksum('sha1', b'456789')}\r\n".encode()
    wrong = f"Upload-Checksum: {checksum('sha1', b'x')}\r\n".encode()
    for trailer in (right + wrong, wrong + right):
        answer = service.patch(path, 4, chunked(b"456789", trailer=trailer), TRAILER)
        assert (answer.status, answer.code) == (460, "checksum_mismatch")


def test_a_checksum_is_in_the_header_or_in_the_trailer(service: Service) -> None:
    """M7.4."""
    path = service.bring(Status.OPEN)
    answer = service.patch(path, 4, chunked(b"456789"), TRAILER | sha1(b"456789"))
    assert (answer.status, answer.code) == (400, "checksum_malformed")
    assert service.offset(path) == 4


@pytest.mark.parametrize("headers", [{"Trailer": "Upload-Checksum"}, {"Trailer": "X, upload-checksum"}])
def test_a_trailer_needs_a_chunked_body(service: Service, headers: Headers) -> None:
    """M7.4: one that was announced and cannot come would leave the bytes unverified."""
    path = service.bring(Status.OPEN)
    answer = service.patch(path, 4, b"456789", headers)
    assert (answer.status, answer.code) == (400, "checksum_malformed")
    assert service.offset(path) == 4


def test_a_trailer_that_is_not_offered_is_refused(make_service: MakeService) -> None:
    """M1.2: where a proxy drops trailers, a client must not believe that its bytes were verified."""
    service = make_service({"tus": {"checksum_trailer": False}})
    path = service.bring(Status.OPEN)
    trailer = f"Upload-Checksum: {checksum('sha1', b'456789')}\r\n".encode()
    answer = service.patch(path, 4, chunked(b"456789", trailer=trailer), TRAILER)
    assert (answer.status, answer.code) == (400, "checksum_malformed")
    assert service.offset(path) == 4


def test_other_trailers_mean_nothing(service: Service) -> None:
    path = service.bring(Status.OPEN)
    trailer = b"Upload-Offset: 0\r\nX-HTTP-Method-Override: DELETE\r\n"
    assert service.patch(path, 4, chunked(b"456789", trailer=trailer), CHUNKED).status == 204
    assert service.file_of(path) == CONTENT


@pytest.mark.parametrize("where", ["header", "trailer"])
@pytest.mark.parametrize("how", ["reset", "close", "head"])
def test_bytes_that_were_cut_cannot_be_verified_and_are_discarded(service: Service, how: str, where: str) -> None:
    """D7.3, M7.2: the offset told meanwhile is the committed one."""
    path = service.bring(Status.OPEN)
    wire = service.connect()
    headers = VERSION | OFFSET_TYPE | {"Upload-Offset": "4"}
    if where == "header":
        wire.send_head("PATCH", path, headers | sha1(b"456789") | {"Content-Length": "6"})
        wire.send(b"456")
    else:
        wire.send_head("PATCH", path, headers | TRAILER)
        wire.send(b"3\r\n456\r\n")
    service.wait_offset(path, 7)
    assert service.record(path).content.unverified_from == 4
    if how != "head":
        getattr(wire, how)()
    assert service.offset(path) == 4
    if how == "head":
        answer = wire.read_response()
        assert (answer.status, answer.offset) == (503, 4)
    assert service.patch(path, 4, b"456789", sha1(b"456789")).status == 204
    assert service.file_of(path) == CONTENT


def test_bytes_that_a_crash_left_unverified_are_discarded(service: Service) -> None:
    """M7.2, crash recovery: only what was compared counts."""
    path = service.bring(Status.OPEN)
    wire = service.connect()
    headers = VERSION | OFFSET_TYPE | sha1(b"456789") | {"Upload-Offset": "4", "Content-Length": "6"}
    wire.send_head("PATCH", path, headers)
    wire.send(b"456")
    service.wait_offset(path, 7)
    left = service.bytes_of(path)
    assert left["bytes.1"] == b"0123456"
    service.close(check=False)
    folder = service.folder / "uploads" / path.rsplit("/", 1)[1][:2] / path.rsplit("/", 1)[1]
    # As if it had been killed in that moment.
    for name, data in left.items():
        (folder / name).write_bytes(data)
    service.start()
    assert service.offset(path) == 4


def test_a_creation_with_a_checksum(service: Service) -> None:
    """D5.6."""
    path = service.ticket()
    answer = service.create(path, 10, sha1(b"wrong"), body=CONTENT)
    assert (answer.status, answer.code) == (460, "checksum_mismatch")
    assert service.offset(path) == 0
    answer = service.create(path, 10, sha1(CONTENT), body=CONTENT)
    assert (answer.status, answer.headers["upload-offset"]) == (201, "10")
    assert service.file_of(path) == CONTENT


@pytest.mark.parametrize("right", [True, False])
def test_the_checksum_of_nothing(service: Service, right: bool) -> None:
    path = service.bring(Status.OPEN)
    answer = service.patch(path, 4, b"", sha1(b"" if right else b"x"))
    assert answer.status == (204 if right else 460)
    assert service.offset(path) == 4


def test_more_bytes_than_the_length_under_a_checksum_are_discarded(service: Service) -> None:
    """D3.5, M7.2."""
    path = service.bring(Status.OPEN)
    answer = service.patch(path, 4, chunked(b"456789xyz"), CHUNKED | sha1(b"456789xyz"))
    assert (answer.status, answer.code) == (413, "length_exceeded")
    assert service.offset(path) == 4


def test_large_pieces_are_compared_as_they_stream(service: Service) -> None:
    """D7.5."""
    data = bytes(range(256)) * 4096 * 4
    path = service.ticket()
    service.create(path, len(data))
    assert service.patch(path, 0, data, {"Upload-Checksum": checksum("sha256", data[::-1])}).status == 460
    assert service.offset(path) == 0
    assert service.patch(path, 0, data, {"Upload-Checksum": checksum("sha256", data)}).status == 204
    assert service.file_of(path) == data
