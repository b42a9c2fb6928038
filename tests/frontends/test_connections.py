"""Connections: which are kept, which are closed, and that the client gets to read why."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from incomingd.config.settings import Tls
from incomingd.core.status import Status
from incomingd.frontends.uploads import PREFIX
from tests.frontends.conftest import MakeService
from tests.frontends.service import CHUNKED, Service, checked, chunked, wait_closed
from tests.support.content import Content
from tests.support.tus import OFFSET_TYPE, VERSION
from tests.support.wire import ConnectionEnded, Headers, Response, Wire

MIB = 1024 * 1024
PATCH: Headers = VERSION | OFFSET_TYPE | {"Upload-Offset": "4"}


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    """A certificate of this run's own."""
    folder: Path = tmp_path_factory.mktemp("tls")
    cert = trustme.CA().issue_cert("localhost", "127.0.0.1")
    cert.private_key_pem.write_to_path(folder / "key.pem")
    for n, blob in enumerate(cert.cert_chain_pems):
        blob.write_to_path(folder / "cert.pem", append=n > 0)
    return Tls(cert=folder / "cert.pem", key=folder / "key.pem")


@pytest.fixture(params=["plain", "tls"])
def either(request: pytest.FixtureRequest, make_service: MakeService, tls: Tls) -> Service:
    """A service that speaks HTTP, and one that speaks HTTPS."""
    return make_service(tls=tls if request.param == "tls" else None)


# -- kept or closed


def test_one_connection_serves_a_whole_upload(either: Service) -> None:
    path = either.ticket()
    wire = either.connect()
    content = Content(7, 3 * MIB + 5)
    assert either.request("OPTIONS", path, wire=wire).status == 204
    assert either.request("POST", path, {"Upload-Length": str(content.size_bytes)}, wire=wire).status == 201
    for offset in range(0, content.size_bytes, MIB):
        assert either.patch(path, offset, content.read(offset, MIB), wire=wire).status == 204
        assert either.request("HEAD", path, wire=wire).offset == min(offset + MIB, content.size_bytes)
    assert either.file_of(path) == content.read(0, content.size_bytes)
    assert either.request("DELETE", path, wire=wire).status == 204


REFUSED_WITHOUT_BODY: list[tuple[str, Headers, int]] = [
    ("POST", {}, 400),
    ("POST", {"Upload-Length": "x"}, 400),
    ("PATCH", {}, 415),
    ("PATCH", OFFSET_TYPE | {"Upload-Offset": "9"}, 409),
    ("PATCH", OFFSET_TYPE | {"Upload-Offset": "9", "Content-Length": "0"}, 409),
    ("HEAD", {"Tus-Resumable": "9"}, 412),
    ("PUT", {}, 405),
    ("PATCH", OFFSET_TYPE | {"Upload-Offset": "4", "Expect": "100-continue"}, 204),
]


@pytest.mark.parametrize("method, headers, status", REFUSED_WITHOUT_BODY)
def test_a_refused_request_without_a_body_keeps_the_connection(
    service: Service, method: str, headers: Headers, status: int
) -> None:
    """tus-js-client's next request on it would fail, on every retry."""
    path = service.bring(Status.OPEN)
    wire = service.connect()
    for _ in range(3):
        answer = service.request(method, path, headers, wire=wire)
        assert answer.status == status
        assert "connection" not in answer.headers
    assert service.request("HEAD", path, wire=wire).offset == 4


@pytest.mark.parametrize("body", [b"x", chunked(b"x")], ids=["fixed", "chunked"])
@pytest.mark.parametrize(
    "method, path, headers, status",
    [
        ("PATCH", "", OFFSET_TYPE | {"Upload-Offset": "9"}, 409),
        ("PATCH", "", {"Upload-Offset": "4"}, 415),
        ("PATCH", "x", OFFSET_TYPE | {"Upload-Offset": "0"}, 404),
        ("POST", "", {"Upload-Length": "9"}, 415),
        ("PUT", "", {}, 405),
        ("PATCH", "", {"Tus-Resumable": "9"}, 412),
    ],
)
def test_a_refused_body_closes_the_connection_and_says_so(
    either: Service, method: str, path: str, headers: Headers, status: int, body: bytes
) -> None:
    upload = either.bring(Status.OPEN)
    wire = either.connect()
    framing = CHUNKED if body.startswith(b"1\r\n") else {}
    answer = either.request(method, upload + path, headers | framing, body, wire=wire)
    assert answer.status == status
    assert answer.headers["connection"] == "close"
    # All of the body is there: nothing more is waited for.
    assert wait_closed(wire) < 1
    assert either.offset(upload) == 4


def send_all(wire: Wire, total: int) -> tuple[threading.Thread, list[int]]:
    """Send *total* bytes from a thread, for as long as it goes; return it, and where it counts them."""
    sent = [0]

    def run() -> None:
        piece = bytes(MIB)
        with contextlib.suppress(OSError):
            while sent[0] < total:
                wire.send(piece)
                sent[0] += len(piece)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, sent


@pytest.mark.parametrize("framing", ["fixed", "chunked"])
def test_the_answer_to_a_refused_body_can_be_read_by_who_still_sends(either: Service, framing: str) -> None:
    """D3.13: a client that is sending 100 MB reads 413, not a reset connection."""
    path = either.bring(Status.OPEN)
    wire = either.connect()
    if framing == "fixed":
        wire.send_head("PATCH", path, PATCH | {"Content-Length": str(100 * MIB)})
        status, code = 413, "length_exceeded"
    else:
        wire.send_head("PATCH", path, PATCH | CHUNKED | {"Upload-Offset": "7"})
        wire.send(b"%x\r\n" % (100 * MIB))
        status, code = 409, "offset_mismatch"
    thread, _ = send_all(wire, 100 * MIB)
    try:
        answer = checked(wire.read_response(), "PATCH")
    finally:
        wire.is_closed()
        thread.join()
    assert (answer.status, answer.code, answer.offset) == (status, code, 4)
    assert answer.headers["connection"] == "close"
    assert either.offset(path) == 4


@pytest.mark.parametrize("framing", ["fixed", "chunked"])
def test_a_refused_sender_can_send_all_of_it_before_it_reads(either: Service, framing: str) -> None:
    """D3.13: many clients look for an answer only when they have sent everything, and a reset is none."""
    path = either.bring(Status.OPEN)
    body = bytes(20 * MIB)
    answer = either.patch(path, 7, *((chunked(body), CHUNKED) if framing == "chunked" else (body, {})))
    assert (answer.status, answer.offset) == (409, 4)


def test_the_answer_to_a_cut_body_can_be_read_by_who_still_sends(either: Service) -> None:
    """D9.2: pre-empted in the middle of 100 MB; the bytes that were taken are kept."""
    path = either.ticket()
    either.create(path, 100 * MIB)
    wire = either.connect()
    wire.send_head("PATCH", path, PATCH | {"Upload-Offset": "0", "Content-Length": str(100 * MIB)})
    wire.send(bytes(MIB))
    either.wait_offset(path, MIB)
    thread, sent = send_all(wire, 99 * MIB)
    offset = either.offset(path)
    try:
        answer = checked(wire.read_response(), "PATCH")
    finally:
        wire.is_closed()
        thread.join()
    assert (answer.status, answer.code, answer.offset) == (503, "preempted", offset)
    assert offset >= MIB
    assert sent[0] < 99 * MIB


def test_a_sender_that_is_refused_and_sends_for_ever_is_closed(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read on for a bounded time and size only."""
    monkeypatch.setattr("incomingd.web.exchange.LINGER_BYTES", 4 * MIB)
    path = service.bring(Status.OPEN)
    wire = service.connect()
    wire.send_head("PATCH", path, PATCH | {"Content-Length": str(10**12)})
    thread, sent = send_all(wire, 10**12)
    thread.join(30)
    assert not thread.is_alive()
    # What the kernel's buffers hold comes on top.
    assert sent[0] < 64 * MIB


def test_a_sender_that_is_refused_and_sends_nothing_is_closed(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("incomingd.web.exchange.LINGER_S", 0.1)
    path = service.bring(Status.OPEN)
    wire = service.connect()
    wire.send_head("PATCH", path, PATCH | {"Content-Length": "1000"})
    assert wire.read_response().status == 413
    assert wait_closed(wire) < 5


# -- Expect: 100-continue


@pytest.mark.parametrize("value", ["100-continue", "100-Continue", "100-CONTINUE"])
@pytest.mark.parametrize("framing", ["fixed", "chunked"])
def test_a_client_that_asks_first_is_told_to_go_on(either: Service, value: str, framing: str) -> None:
    """S5.5: whatever its case; when the first byte is wanted, and once."""
    path = either.bring(Status.OPEN)
    wire = either.connect()
    length = CHUNKED if framing == "chunked" else {"Content-Length": "6"}
    wire.send_head("PATCH", path, PATCH | length | {"Expect": value})
    either.wait_event("append.ended")
    with contextlib.suppress(TimeoutError):
        # The interim answer comes before any byte is sent.
        wire.socket.settimeout(10)
        while b"\r\n\r\n" not in wire._buffer:
            wire._more()
    wire.send(chunked(b"456789") if framing == "chunked" else b"456789")
    answer = checked(wire.read_response(), "PATCH")
    assert (answer.status, answer.interim) == (204, (100,))
    assert either.request("HEAD", path, wire=wire).offset == 10


@pytest.mark.parametrize(
    "headers, status",
    [
        ({"Upload-Offset": "9"}, 409),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Length": "7"}, 413),
        ({"Upload-Checksum": "x"}, 400),
        ({"Tus-Resumable": "9"}, 412),
    ],
)
def test_a_client_that_asks_first_is_refused_before_it_sends(service: Service, headers: Headers, status: int) -> None:
    """S5.5: no 100, and no byte is wanted."""
    path = service.bring(Status.OPEN)
    wire = service.connect()
    wire.send_head("PATCH", path, PATCH | {"Content-Length": "6", "Expect": "100-continue"} | headers)
    answer = checked(wire.read_response(), "PATCH")
    assert (answer.status, answer.interim) == (status, ())
    assert answer.headers["connection"] == "close"


def test_a_client_that_asks_first_and_does_not_wait(service: Service) -> None:
    path = service.bring(Status.OPEN)
    answer = service.patch(path, 4, b"456789", {"Expect": "100-continue"})
    assert (answer.status, answer.interim) == (204, (100,))


@pytest.mark.parametrize("value", ["200-ok", "", "100-continue, x"])
def test_another_expectation_means_nothing(service: Service, value: str) -> None:
    path = service.bring(Status.OPEN)
    answer = service.patch(path, 4, b"456789", {"Expect": value})
    assert (answer.status, answer.interim) == (204, ())


def test_an_old_client_is_not_told_to_go_on(service: Service) -> None:
    """RFC 9110, section 10.1.1: no 100 for HTTP/1.0."""
    path = service.bring(Status.OPEN)
    wire = service.connect()
    lines = [f"{name}: {value}" for name, value in (PATCH | {"Content-Length": "6", "Expect": "100-continue"}).items()]
    wire.send("\r\n".join((f"PATCH {path} HTTP/1.0", *lines, "", "456789")).encode())
    answer = wire.read_response()
    assert (answer.status, answer.interim) == (204, ())


# -- framing


@pytest.mark.parametrize(
    "body",
    [
        b"6;ext=1\r\n456789\r\n0\r\n\r\n",
        b'6;a="b;c"\r\n456789\r\n0;last\r\n\r\n',
        b"6 ;x\r\n456789\r\n0\r\n\r\n",
        b"6\t\r\n456789\r\n0\r\n\r\n",
        b"006\r\n456789\r\n000\r\n\r\n",
        b"2\r\n45\r\n4\r\n6789\r\n0\r\nX-Trailer: y\r\n\r\n",
        b"1\r\n4\r\n1\r\n5\r\n1\r\n6\r\n1\r\n7\r\n1\r\n8\r\n1\r\n9\r\n0\r\n\r\n",
    ],
)
def test_chunks_with_all_that_the_grammar_allows(either: Service, body: bytes) -> None:
    """RFC 9112, section 7.1."""
    path = either.bring(Status.OPEN)
    wire = either.connect()
    assert either.patch(path, 4, body, CHUNKED, wire=wire).status == 204
    assert either.request("HEAD", path, wire=wire).offset == 10
    assert either.file_of(path) == b"0123456789"


def test_a_body_that_comes_byte_by_byte(either: Service) -> None:
    path = either.bring(Status.OPEN)
    wire = either.connect()
    wire.send_head("PATCH", path, PATCH | CHUNKED)
    body = chunked(b"456", b"789", trailer=b"X: y\r\n")
    for at in range(len(body)):
        wire.send(body[at : at + 1])
    assert wire.read_response().status == 204
    assert either.file_of(path) == b"0123456789"


@pytest.mark.parametrize("framing", ["fixed", "chunked"])
def test_requests_in_one_packet_are_answered_in_order(service: Service, framing: str) -> None:
    """Pipelining, RFC 9112, section 9.3.2."""
    path = service.bring(Status.OPEN)
    wire = service.connect()

    def raw(method: str, headers: Headers, body: bytes = b"") -> bytes:
        lines = [f"{method} {path} HTTP/1.1", "Host: x", *(f"{k}: {v}" for k, v in (VERSION | headers).items())]
        return "\r\n".join((*lines, "", "")).encode() + body

    def patch(offset: int, body: bytes) -> bytes:
        at = OFFSET_TYPE | {"Upload-Offset": str(offset)}
        if framing == "chunked":
            return raw("PATCH", at | CHUNKED, chunked(body))
        return raw("PATCH", at | {"Content-Length": str(len(body))}, body)

    wire.send(
        raw("HEAD", {}) + patch(4, b"45") + raw("HEAD", {}) + patch(6, b"6789") + raw("HEAD", {}) + raw("GET", {})
    )
    answers = [wire.read_response(method) for method in ("HEAD", "PATCH", "HEAD", "PATCH", "HEAD", "GET")]
    assert [answer.status for answer in answers] == [200, 204, 200, 204, 200, 405]
    assert [answer.offset for answer in answers[:5]] == [4, 6, 6, 10, 10]
    assert service.file_of(path) == b"0123456789"


def test_what_follows_a_refused_body_is_not_taken_for_a_request(service: Service) -> None:
    """The body of a refused request is no request, whatever it looks like."""
    path = service.bring(Status.OPEN)
    wire = service.connect()
    inner = f"DELETE {path} HTTP/1.1\r\nHost: x\r\nTus-Resumable: 1.0.0\r\n\r\n".encode()
    wire.send_head("PATCH", path, PATCH | {"Upload-Offset": "9", "Content-Length": str(len(inner))})
    wire.send(inner + inner)
    assert wire.read_response().status == 409
    assert wire.read_to_end() == b""
    assert service.offset(path) == 4


@pytest.mark.parametrize("who", ["client", "service"])
def test_what_follows_the_last_request_of_a_connection_is_not_done(service: Service, who: str) -> None:
    """RFC 9112, section 9.6: whoever said that it is the last one."""
    path = service.bring(Status.OPEN)
    if who == "service":
        service.engine.state.stop()
    last = "Connection: close\r\n" if who == "client" else ""
    common = "HTTP/1.1\r\nHost: x\r\nTus-Resumable: 1.0.0\r\n"
    wire = service.connect()
    wire.send(f"HEAD {path} {common}{last}\r\nDELETE {path} {common}\r\n".encode())
    answer = wire.read_response("HEAD")
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    assert wire.read_to_end() == b""
    assert service.record(path).status is Status.OPEN


# -- old clients, half-closed clients


@pytest.mark.parametrize("keep", [False, True])
def test_http_1_0(service: Service, keep: bool) -> None:
    path = service.bring(Status.OPEN)
    wire = service.connect()

    def send(method: str, headers: Headers, body: bytes = b"") -> Response:
        lines = [f"{method} {path} HTTP/1.0", *(f"{k}: {v}" for k, v in (VERSION | headers).items())]
        if keep:
            lines.append("Connection: keep-alive")
        wire.send("\r\n".join((*lines, "", "")).encode() + body)
        return checked(wire.read_response(method), method)

    patched = send("PATCH", OFFSET_TYPE | {"Upload-Offset": "4", "Content-Length": "2"}, b"45")
    assert (patched.status, patched.offset) == (204, 6)
    if not keep:
        assert wire.read_to_end() == b""
        return
    assert patched.headers["connection"].lower() == "keep-alive"
    assert send("HEAD", {}).offset == 6
    refused = send("PATCH", OFFSET_TYPE | {"Upload-Offset": "9", "Content-Length": "2"}, b"45")
    assert (refused.status, refused.headers["connection"]) == (409, "close")
    assert wire.read_to_end() == b""


def half_closed(either: Service, send: Callable[[Wire], None], method: str) -> Response:
    """Return the answer to what *send* sends on a connection that sends no more."""
    with Wire(either.address) as wire:
        send(wire)
        wire.half_close()
        return checked(wire.read_response(method), method)


def test_a_client_that_sends_no_more_gets_its_answer(service: Service) -> None:
    path = service.bring(Status.OPEN)

    def head(wire: Wire) -> None:
        wire.send_head("HEAD", path, VERSION)

    def patch(wire: Wire) -> None:
        wire.send_head("PATCH", path, PATCH | {"Content-Length": "2"})
        wire.send(b"45")

    def chunks(wire: Wire) -> None:
        wire.send_head("PATCH", path, PATCH | CHUNKED | {"Upload-Offset": "6"})
        wire.send(chunked(b"67"))

    def post(wire: Wire) -> None:
        wire.send_head("POST", path, VERSION | {"Upload-Length": "3"})

    def delete(wire: Wire) -> None:
        wire.send_head("DELETE", path, VERSION)

    assert half_closed(service, head, "HEAD").offset == 4
    assert half_closed(service, patch, "PATCH").offset == 6
    assert half_closed(service, chunks, "PATCH").offset == 8
    assert half_closed(service, post, "POST").status == 201
    assert half_closed(service, delete, "DELETE").status == 204


def test_a_held_client_that_sends_no_more_gets_its_answer(make_service: MakeService) -> None:
    service = make_service({"hold_s": 0.3})
    path = service.bring(Status.OPEN)
    service.close(check=False)
    service.start()
    away = service.folder.with_name("away")
    service.folder.rename(away)
    try:
        answer = half_closed(service, lambda wire: wire.send_head("HEAD", path, VERSION), "HEAD")
    finally:
        away.rename(service.folder)
    assert answer.status == 423


def test_a_client_that_is_gone_before_its_answer_harms_nobody(service: Service) -> None:
    path = service.bring(Status.OPEN)
    for how in ("close", "reset"):
        for method in ("HEAD", "OPTIONS", "PUT"):
            wire = Wire(service.address)
            wire.send_head(method, path, VERSION)
            getattr(wire, how)()
    assert service.offset(path) == 4


# -- how many


def test_more_connections_than_the_limit_are_closed(make_service: MakeService) -> None:
    service = make_service({"limits": {"connections": 3}})
    path = service.bring(Status.OPEN)
    wires = [service.connect() for _ in range(3)]
    for wire in wires:
        assert service.request("HEAD", path, wire=wire).status == 200
    with Wire(service.address) as more, pytest.raises(ConnectionEnded):
        more.request("HEAD", path, VERSION)
    assert service.wait_event("connection.limit_reached")["limit"] == 3
    assert service.request("HEAD", path, wire=wires[0]).status == 200


def test_a_request_may_take_longer_than_its_header(make_service: MakeService) -> None:
    """The limit of idle connections ends with the header section: its body, and whoever answers, have their own."""
    service = make_service({"limits": {"idle_connection_timeout_s": 1}})
    path = service.bring(Status.OPEN)
    wire = service.open_append(path, 4, b"4", 6)
    # Begun later, and closed for its time.
    assert wait_closed(service.connect()) < 10
    wire.send(b"56789")
    assert wire.read_response().offset == 10


def test_a_connection_that_waits_too_long_for_its_next_request_is_closed(make_service: MakeService) -> None:
    service = make_service({"limits": {"idle_connection_timeout_s": 1}})
    wire = service.connect()
    assert service.request("OPTIONS", PREFIX, wire=wire).status == 204
    assert 0.5 < wait_closed(wire) < 10
