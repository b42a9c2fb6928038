"""Clients that take their time: a stalled or too slow body is ended, what came of it is kept."""

from __future__ import annotations

import threading

import pytest

from incomingd.core.status import Status
from incomingd.web.body import BodyLimits
from tests.frontends.conftest import MakeService
from tests.frontends.service import CHUNKED, Service, checked, wait_closed
from tests.support.tus import OFFSET_TYPE, VERSION
from tests.support.wire import Response, Wire

MIB = 1024 * 1024


def drip(wire: Wire, data: bytes, pause_s: float) -> threading.Thread:
    """Send *data* byte by byte from a thread, for as long as it goes."""

    def run() -> None:
        pause = threading.Event()
        try:
            for at in range(len(data)):
                wire.send(data[at : at + 1])
                pause.wait(pause_s)
        except OSError:
            return

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.mark.parametrize("framing", ["fixed", "chunked"])
def test_a_body_of_which_nothing_comes_any_more(make_service: MakeService, framing: str) -> None:
    """S3.10: 503, the bytes are kept, the connection is closed."""
    service = make_service(body_limits=BodyLimits(idle_s=0.15))
    path = service.ticket()
    service.create(path, 10)
    wire = service.connect()
    length = {"Content-Length": "10"} if framing == "fixed" else CHUNKED
    wire.send_head("PATCH", path, VERSION | OFFSET_TYPE | length | {"Upload-Offset": "0"})
    wire.send(b"0123" if framing == "fixed" else b"4\r\n0123\r\n")
    answer = checked(wire.read_response(), "PATCH")
    assert (answer.status, answer.code, answer.offset) == (503, "body_stalled", 4)
    assert answer.headers["connection"] == "close"
    wait_closed(wire)
    assert service.wait_event("append.ended", ended_by="timeout")["bytes"] == 4
    assert service.patch(path, 4, b"456789").status == 204


def test_a_client_that_asked_first_and_then_sends_nothing(make_service: MakeService) -> None:
    service = make_service(body_limits=BodyLimits(idle_s=0.15))
    path = service.bring(Status.OPEN)
    wire = service.connect()
    headers = {"Upload-Offset": "4", "Content-Length": "6", "Expect": "100-continue"}
    wire.send_head("PATCH", path, VERSION | OFFSET_TYPE | headers)
    answer = wire.read_response()
    assert (answer.status, answer.code, answer.interim) == (503, "body_stalled", (100,))


def test_a_body_that_comes_byte_by_byte_for_too_long(make_service: MakeService) -> None:
    """S3.10: a minimum average rate; each byte in time does not help."""
    service = make_service(body_limits=BodyLimits(idle_s=10, bytes_per_s_min=1000, rate_after_s=0.15))
    path = service.ticket()
    service.create(path, 1000)
    wire = service.connect()
    headers = {"Upload-Offset": "0", "Content-Length": "1000"}
    wire.send_head("PATCH", path, VERSION | OFFSET_TYPE | headers)
    thread = drip(wire, bytes(1000), 0.02)
    answer = checked(wire.read_response(), "PATCH")
    wire.is_closed()
    thread.join()
    assert (answer.status, answer.code) == (503, "body_too_slow")
    assert 0 < answer.offset < 1000
    assert service.offset(path) == answer.offset
    service.wait_event("append.ended", ended_by="rate")


def test_time_in_which_the_service_is_busy_is_not_the_client_s(make_service: MakeService) -> None:
    """Only waiting for bytes counts: a fast client on a slow disk is no slow client."""
    service = make_service(body_limits=BodyLimits(idle_s=10, bytes_per_s_min=100_000_000, rate_after_s=0.5))
    path = service.ticket()
    body = bytes(20 * MIB)
    service.create(path, len(body))
    assert service.patch(path, 0, body).status == 204


def test_a_switched_off_rate(make_service: MakeService) -> None:
    service = make_service(body_limits=BodyLimits(idle_s=10, bytes_per_s_min=0, rate_after_s=0.01))
    path = service.ticket()
    service.create(path, 10)
    wire = service.connect()
    wire.send_head("PATCH", path, VERSION | OFFSET_TYPE | {"Upload-Offset": "0", "Content-Length": "10"})
    thread = drip(wire, b"0123456789", 0.02)
    assert wire.read_response().status == 204
    thread.join()


def test_a_header_section_that_comes_byte_by_byte(make_service: MakeService) -> None:
    """Closed after `limits.idle_connection_timeout_s`, whatever trickles in meanwhile; on a used connection, too."""
    service = make_service({"limits": {"idle_connection_timeout_s": 1}})
    path = service.bring(Status.OPEN)
    wire = service.connect()
    assert service.request("HEAD", path, wire=wire).offset == 4
    thread = drip(wire, f"HEAD {path} HTTP/1.1\r\nX: ".encode() + b"a" * 5000, 0.01)
    assert wait_closed(wire, 20) > 0.5
    thread.join()
    assert service.offset(path) == 4


def test_slow_clients_hold_up_nobody(make_service: MakeService) -> None:
    service = make_service()
    slow = [service.bring(Status.OPEN) for _ in range(20)]
    wires = [service.open_append(path, 4, b"4", 6) for path in slow]
    path = service.ticket()
    body = bytes(2 * MIB)
    service.create(path, len(body))
    assert service.patch(path, 0, body).status == 204
    for wire in wires:
        wire.send(b"56789")
        assert wire.read_response().offset == 10


def test_a_client_that_does_not_read_its_answers(service: Service) -> None:
    """Its own requests wait; nobody else's do."""
    path = service.bring(Status.OPEN)
    deaf = service.connect()
    request = f"PUT {path} HTTP/1.1\r\nHost: x\r\nTus-Resumable: 1.0.0\r\n\r\n".encode()
    deaf.socket.settimeout(0.5)
    try:
        for _ in range(40):
            deaf.send(request * 500)
    except TimeoutError:
        pass
    assert service.offset(path) == 4
    answer: Response = service.patch(path, 4, b"456789")
    assert answer.status == 204
    deaf.reset()
