"""What no honest client sends: each has a stable code or is closed, and harms nobody else's upload."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from incomingd.core.status import Status
from incomingd.frontends.uploads import PREFIX
from tests.frontends.conftest import MakeService
from tests.frontends.service import CHUNKED, Service, chunked, id_of
from tests.support.tus import OFFSET_TYPE, VERSION
from tests.support.wire import Headers


@pytest.fixture
def service(make_service: MakeService) -> Service:
    # What survives a power loss is not in question here.
    return make_service({"durability": "none"})


@pytest.fixture
def path(service: Service) -> Iterator[str]:
    """An open upload at offset 4, beside another one that must not change, whatever is sent to the first."""
    bystander, waiting = service.bring(Status.OPEN), service.bring(Status.OPEN)
    before = service.bytes_of(bystander)
    wire = service.open_append(waiting, 4, b"45", 6)
    yield service.bring(Status.OPEN)
    assert service.bytes_of(bystander) == before
    assert service.offset(bystander) == 4
    wire.send(b"6789")
    assert wire.read_response().offset == 10
    assert service.file_of(waiting) == b"0123456789"


# -- numbers


NUMBERS_THAT_ARE_NONE = [
    *("-1", "-4", "+4", "4.0", "4e0", "0x4", "1_000", "4,4", "4 4", "4;", "four", "", "NaN", "inf"),
    *("1" * 19, "9" * 4000, "\u00b2", "\u00bc", "4\u00a0"),
]


@pytest.mark.parametrize("header", ["Upload-Offset", "Upload-Length"])
def test_numbers_that_are_none(service: Service, path: str, header: str) -> None:
    """D0.6, M3.2."""
    for number in NUMBERS_THAT_ARE_NONE:
        answer = service.patch(path, 4, b"x", {header: number})
        assert (answer.status, answer.code) == (400, "header_malformed"), number
    assert service.offset(path) == 4


def test_content_lengths_that_are_none_are_refused_by_the_parser(service: Service, path: str) -> None:
    """A bare 400 and a closed connection, and a line in the log."""
    lengths = [
        *("-1", "+1", "1.0", "1_0", "0x1", "one", "", "1 1", "1, 2", "\u00b2", "9" * 30),
        *(str(2**62 + 1), str(2**64)),
    ]
    for number, length in enumerate(lengths, 1):
        wire = service.connect()
        wire.send_head("PATCH", path, VERSION | OFFSET_TYPE | {"Upload-Offset": "4", "Content-Length": length})
        assert wire.read_to_end() == b"HTTP/1.1 400 Bad Request\r\n\r\n", length
        assert len(service.log_events("parse.refused")) == number
    assert service.offset(path) == 4


@pytest.mark.parametrize(
    "headers, body, status, code",
    [
        ({"Upload-Offset": "3"}, b"x", 409, "offset_mismatch"),
        ({"Upload-Offset": "5"}, b"x", 409, "offset_mismatch"),
        ({"Upload-Offset": "999999999999999999"}, b"x", 409, "offset_mismatch"),
        ({"Upload-Length": "11"}, b"x", 400, "length_differs"),
        ({"Upload-Length": "4"}, b"", 400, "length_differs"),
        ({"Upload-Length": "999999999999999999"}, b"x", 400, "length_differs"),
        ({}, b"4567890", 413, "length_exceeded"),
        (CHUNKED, chunked(b"4567890"), 413, "length_exceeded"),
        ({"Content-Type": "text/html"}, b"x", 415, "content_type_wrong"),
        ({"Tus-Resumable": "1.0.1"}, b"x", 412, "version_unsupported"),
        ({"Upload-Checksum": "sha1 !"}, b"x", 400, "checksum_malformed"),
        ({"X-HTTP-Method-Override": "PATCH"}, b"x", 204, None),
    ],
)
def test_requests_that_do_not_suit_the_upload(
    service: Service, path: str, headers: Headers, body: bytes, status: int, code: str | None
) -> None:
    answer = service.patch(path, 4, body, headers)
    assert (answer.status, answer.code) == (status, code)
    if status != 204 and "chunked" not in headers.values():
        assert service.offset(path) == 4


# -- what is no HTTP, or is ambiguous HTTP


def raw(*lines: str, body: str = "") -> bytes:
    return ("\r\n".join((*lines, "", "")) + body).encode("latin-1")


HOST = "Host: x"
TUS = "Tus-Resumable: 1.0.0"
BYTES = "Content-Type: application/offset+octet-stream"
AT = "Upload-Offset: 4"
CL = "Content-Length: 2"
TE = "Transfer-Encoding: chunked"
REFUSED = "refused"
CLOSED = "closed"

# Every one carries a second request behind it, which deletes the upload if the first one's end is taken for another
# place than the client means.
ODD: dict[str, tuple[bytes, str]] = {
    "both framings": (raw("PATCH {path} HTTP/1.1", HOST, TUS, BYTES, AT, CL, TE, body="0\r\n\r\n"), REFUSED),
    "both framings, other order": (raw("PATCH {path} HTTP/1.1", HOST, TUS, BYTES, AT, TE, CL, body="45"), REFUSED),
    "two lengths": (raw("PATCH {path} HTTP/1.1", HOST, TUS, BYTES, AT, CL, "Content-Length: 9", body="45"), REFUSED),
    "two lengths in one": (raw("PATCH {path} HTTP/1.1", HOST, TUS, BYTES, AT, "Content-Length: 2, 9"), REFUSED),
    "two codings": (raw("PATCH {path} HTTP/1.1", HOST, TUS, BYTES, AT, TE, "Transfer-Encoding: identity"), REFUSED),
    "chunked twice": (raw("PATCH {path} HTTP/1.1", HOST, TUS, BYTES, AT, f"{TE}, chunked"), REFUSED),
    "chunked not last": (raw("PATCH {path} HTTP/1.1", HOST, TUS, BYTES, AT, f"{TE}, gzip"), REFUSED),
    "another coding": (raw("PATCH {path} HTTP/1.1", HOST, TUS, BYTES, AT, "Transfer-Encoding: gzip"), REFUSED),
    "nearly chunked": (raw("PATCH {path} HTTP/1.1", HOST, TUS, BYTES, AT, "Transfer-Encoding: xchunked"), REFUSED),
    "chunked after a tab": (
        raw("PATCH {path} HTTP/1.1", HOST, TUS, BYTES, AT, "Transfer-Encoding:\x0bchunked"),
        REFUSED,
    ),
    "coding of an old client": (raw("PATCH {path} HTTP/1.0", HOST, TUS, BYTES, AT, TE, body="0\r\n\r\n"), REFUSED),
    "blank before the colon": (raw("PATCH {path} HTTP/1.1", HOST, TUS, BYTES, AT, "Content-Length : 2"), REFUSED),
    "folded": (raw("PATCH {path} HTTP/1.1", HOST, TUS, BYTES, AT, "X: a", " Content-Length: 2"), REFUSED),
    "folded with a tab": (raw("PATCH {path} HTTP/1.1", HOST, TUS, BYTES, AT, "X: a", "\tb"), REFUSED),
    "folded at once": (raw("PATCH {path} HTTP/1.1", " " + HOST, TUS), REFUSED),
    "NUL in a value": (raw("PATCH {path} HTTP/1.1", HOST, TUS, BYTES, AT, "X: a\x00b"), REFUSED),
    "NUL in a name": (raw("PATCH {path} HTTP/1.1", HOST, TUS, BYTES, AT, "X\x00: b"), REFUSED),
    "NUL in the path": (raw("PATCH {path}\x00 HTTP/1.1", HOST, TUS), REFUSED),
    "a control character": (raw("PATCH {path} HTTP/1.1", HOST, TUS, BYTES, AT, "X: a\x07b"), REFUSED),
    "a bare carriage return": (raw("PATCH {path} HTTP/1.1", HOST, TUS, BYTES, AT, "X: a\rContent-Length: 2"), REFUSED),
    "no colon": (raw("PATCH {path} HTTP/1.1", HOST, TUS, "nonsense"), REFUSED),
    "no name": (raw("PATCH {path} HTTP/1.1", HOST, TUS, ": x"), REFUSED),
    "a name that is none": (raw("PATCH {path} HTTP/1.1", HOST, TUS, "a(b): x"), REFUSED),
    "no host": (raw("PATCH {path} HTTP/1.1", TUS, BYTES, AT), REFUSED),
    "two hosts": (raw("PATCH {path} HTTP/1.1", HOST, "Host: y", TUS, BYTES, AT), REFUSED),
    "a host that is none": (raw("PATCH {path} HTTP/1.1", "Host: a b", TUS, BYTES, AT), REFUSED),
    "HTTP/0.9": (b"GET {path}\r\n\r\n", REFUSED),
    "HTTP/2": (raw("PATCH {path} HTTP/2.0", HOST, TUS), REFUSED),
    "the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", REFUSED),
    "no version": (raw("PATCH {path} HTTP", HOST, TUS), REFUSED),
    "a blank in the path": (raw("PATCH {path} x HTTP/1.1", HOST, TUS), REFUSED),
    "a method that is none": (raw("PA(TCH {path} HTTP/1.1", HOST, TUS), REFUSED),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", REFUSED),
    "nothing": (b"\r\n\r\n", REFUSED),
    "a header section over the limit": (raw("PATCH {path} HTTP/1.1", HOST, TUS, "X: " + "a" * 17_000), CLOSED),
    "too many headers": (raw("PATCH {path} HTTP/1.1", HOST, TUS, *(f"X{n}: a" for n in range(3000))), CLOSED),
    "a path over the limit": (raw("PATCH /" + "a" * 17_000 + " HTTP/1.1", HOST, TUS), CLOSED),
    "a header section without an end": (b"PATCH {path} HTTP/1.1\r\nX: " + b"a" * 20_000, CLOSED),
}


@pytest.mark.parametrize("name", list(ODD))
def test_what_the_parser_refuses(service: Service, path: str, name: str) -> None:
    """A bare 400 or a closed connection; logged as such; nothing behind it is taken for a request."""
    data, outcome = ODD[name]
    inner = f"DELETE {path} HTTP/1.1\r\nHost: x\r\nTus-Resumable: 1.0.0\r\n\r\n".encode()
    wire = service.connect()
    wire.send(data.replace(b"{path}", path.encode()) + inner)
    rest = wire.read_to_end()
    assert rest == (b"" if outcome is CLOSED else b"HTTP/1.1 400 Bad Request\r\n\r\n")
    event = service.wait_event("parse.refused")
    assert event["level"] == "info"
    assert event["detail"]
    assert service.offset(path) == 4


def test_lines_that_end_in_a_line_feed_alone_mean_the_same(service: Service, path: str) -> None:
    """RFC 9112, section 2.2, allows to read them; then they must not mean anything else."""
    wire = service.connect()
    inner = f"DELETE {path} HTTP/1.1\r\nHost: x\r\nTus-Resumable: 1.0.0\r\n\r\n".encode()
    lines = (f"PATCH {path} HTTP/1.1", HOST, TUS, BYTES, AT, f"Content-Length: {len(inner)}", "", "")
    wire.send("\n".join(lines).encode() + inner)
    answer = wire.read_response()
    assert (answer.status, answer.code) == (413, "length_exceeded")
    assert service.offset(path) == 4


@pytest.mark.parametrize(
    "chunks",
    [
        b"2\n45\r\n0\r\n\r\n",
        b"2\r\n45\n0\r\n\r\n",
        b"2\r\n45\r\n0\n\n",
        b"2\r\n45\r\n0\r\n\n",
        b"2;a\nb\r\n45\r\n0\r\n\r\n",
        b"02 \x00\r\n45\r\n0\r\n\r\n",
        b"2\r\n4567\r\n0\r\n\r\n",
        b"0x2\r\n45\r\n0\r\n\r\n",
        b"-2\r\n45\r\n0\r\n\r\n",
        b"2,2\r\n45\r\n0\r\n\r\n",
        b"\r\n2\r\n45\r\n0\r\n\r\n",
        b"fffffffffffffffff\r\n45\r\n0\r\n\r\n",
    ],
)
def test_chunks_of_two_readings_have_none(service: Service, path: str, chunks: bytes) -> None:
    """Smuggling through chunks: refused, closed, and nothing behind them is taken for a request."""
    inner = f"DELETE {path} HTTP/1.1\r\nHost: x\r\nTus-Resumable: 1.0.0\r\n\r\n".encode()
    wire = service.connect()
    wire.send_head("PATCH", path, VERSION | OFFSET_TYPE | CHUNKED | {"Upload-Offset": "4"})
    wire.send(chunks + inner)
    rest = wire.read_to_end()
    assert rest.startswith(b"HTTP/1.1 400 Bad Request\r\n"), rest
    assert rest.count(b"HTTP/1.1 ") == 1
    assert b'"code": "body_malformed"' in rest
    assert service.offset(path) in (4, 6)
    assert service.record(path).status is Status.OPEN


def test_a_smuggled_request_in_a_body_is_bytes_of_the_body(service: Service, path: str) -> None:
    inner = f"DELETE {path} HTTP/1.1\r\nHost: x\r\nTus-Resumable: 1.0.0\r\n\r\n".encode()
    other = service.ticket()
    service.create(other, len(inner))
    wire = service.connect()
    assert service.patch(other, 0, inner, wire=wire).status == 204
    assert service.request("HEAD", other, wire=wire).offset == len(inner)
    assert service.file_of(other) == inner
    assert service.offset(path) == 4


# -- headers


def test_headers_of_any_bytes_come_back_as_they_were_or_not_at_all(service: Service, path: str) -> None:
    """Nothing that a client sends splits a response."""
    del path
    for value in ("a YQ==%0d%0aX-Injected: 1", "caf\u00e9 YQ==", "a YQ==\u0085X-Injected: 1", "a YQ==, \u00a0"):
        ticket = service.ticket()
        answer = service.create(ticket, 5, {"Upload-Metadata": value, "X-Request-ID": value})
        assert answer.headers["x-request-id"] != value
        head = service.head(ticket, {"Origin": value})
        assert "x-injected" not in head.headers | answer.headers


@pytest.mark.parametrize(
    "header",
    ["Upload-Offset", "Upload-Length", "Upload-Checksum", "Content-Type", "Tus-Resumable", "X-HTTP-Method-Override"],
)
def test_a_header_with_two_values_is_refused(service: Service, path: str, header: str) -> None:
    """D0.6: neither the first nor the last wins."""
    values: Headers = {
        "Upload-Offset": "4",
        "Upload-Length": "10",
        "Upload-Checksum": "crc32 AAAAAA==",
        "Content-Type": "application/offset+octet-stream",
        "Tus-Resumable": "1.0.0",
        "X-HTTP-Method-Override": "PATCH",
    }
    lines = [f"{name}: {value}" for name, value in values.items()]
    wire = service.connect()
    wire.send(raw(f"POST {path} HTTP/1.1", HOST, *lines, f"{header}: other", "Content-Length: 1", body="4"))
    answer = wire.read_response()
    assert (answer.status, answer.code) == (400, "header_repeated")
    assert service.offset(path) == 4


def test_secrets_of_others_open_nothing(service: Service, path: str) -> None:
    """The URL is the permission here; no header is one, and none takes it away."""
    other = service.ticket()
    headers = {
        "Authorization": f"Bearer {id_of(path)}",
        "X-Incoming-Secret": "c2VjcmV0",
        "X-Upload-Id": id_of(path),
        "Cookie": f"id={id_of(path)}",
        "Upload-Id": id_of(path),
        "Idempotency-Key": id_of(path),
    }
    assert service.head(f"{PREFIX}/{'A' * 55}", headers).status == 404
    assert service.patch(other, 0, b"x", headers).status == 204
    assert service.offset(path) == 4
    assert service.head(path).status == 200


def test_the_log_holds_no_control_character_of_a_client(service: Service, path: str) -> None:
    wire = service.connect()
    wire.send(raw(f"PATCH {path}\x1b[31m HTTP/1.1", HOST, "X: \x1b]0;title\x07"))
    wire.read_to_end()
    service.request("PATCH", path, {"Origin": "http://\x85\x9b31m", "Content-Type": "\u009bx"})
    service.create(service.ticket(), 1, {"Upload-Concat": "final;\u009b31m"})
    service.wait_event("parse.refused")
    text = service._log.getvalue()
    assert not {char for char in text if ord(char) < 32 or 0x7F <= ord(char) < 0xA0} - {"\n"}


def test_a_limit_of_the_header_section_is_the_operator_s(make_service: MakeService) -> None:
    service = make_service({"limits": {"header_bytes": 2048}})
    path = service.bring(Status.OPEN)
    assert service.head(path, {"X": "a" * 1000}).status == 200
    wire = service.connect()
    wire.send_head("HEAD", path, VERSION | {"X": "a" * 2048})
    assert wire.read_to_end() == b""
