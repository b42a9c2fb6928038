"""Behind a proxy: the client's address is the one that a trusted proxy tells, in headers or by the PROXY protocol."""

from __future__ import annotations

import pytest

from incomingd.core.status import Status
from incomingd.wire.proxy_protocol import V2_START
from tests.frontends.conftest import MakeService
from tests.frontends.service import Service
from tests.support.tus import VERSION
from tests.support.wire import Wire

CLIENT = "192.0.2.7"
V1 = f"PROXY TCP4 {CLIENT} 198.51.100.1 50000 443\r\n".encode()
V2 = V2_START + b"\x21\x11\x00\x0c" + bytes((192, 0, 2, 7, 198, 51, 100, 1)) + b"\xc3\x50\x01\xbb"
OF_ITSELF = V2_START + b"\x20\x00\x00\x00"


@pytest.fixture
def service(make_service: MakeService) -> Service:
    return make_service({"public": {"trusted_proxies": ["127.0.0.1"]}})


def address_of(service: Service, wire: Wire, path: str) -> object:
    """Return the address that the log gives for a request over *wire*."""
    wire.send_head("PUT", path, VERSION | {"X-Request-ID": "look-for-me"})
    assert wire.read_response().status == 405
    return service.wait_event("request.refused", request_id="look-for-me")["address"]


@pytest.mark.parametrize("header, address", [(V1, CLIENT), (V2, CLIENT), (OF_ITSELF, "127.0.0.1"), (b"", "127.0.0.1")])
def test_the_proxy_protocol(service: Service, header: bytes, address: str) -> None:
    """Both versions, a proxy's own checks, and a client that comes without a proxy."""
    wire = service.connect()
    wire.send(header)
    assert address_of(service, wire, service.bring(Status.OPEN)) == address


@pytest.mark.parametrize("header", [V1, V2])
def test_a_header_in_pieces(service: Service, header: bytes) -> None:
    path = service.bring(Status.OPEN)
    wire = service.connect()
    for at in range(len(header)):
        wire.send(header[at : at + 1])
    assert address_of(service, wire, path) == CLIENT


@pytest.mark.parametrize("header", [b"PROXY nonsense\r\n", V2_START + b"\x99" * 8])
def test_a_broken_header_closes_the_connection(service: Service, header: bytes) -> None:
    wire = service.connect()
    wire.send(header + b"GET / HTTP/1.1\r\n\r\n")
    assert wire.read_to_end() == b""
    assert service.wait_event("parse.refused")["address"] == "127.0.0.1"


def test_nobody_else_is_believed(make_service: MakeService) -> None:
    """From another peer such a line is no HTTP, and a header that names a client is ignored, and told once."""
    service = make_service()
    path = service.bring(Status.OPEN)
    wire = service.connect()
    wire.send(V1 + f"DELETE {path} HTTP/1.1\r\nHost: x\r\nTus-Resumable: 1.0.0\r\n\r\n".encode())
    assert wire.read_to_end() == b"HTTP/1.1 400 Bad Request\r\n\r\n"
    assert service.offset(path) == 4
    for _ in range(2):
        service.request("PUT", path, {"X-Forwarded-For": CLIENT, "X-Request-ID": "look-for-me"})
    assert service.log_events("request.refused", request_id="look-for-me")[0]["address"] == "127.0.0.1"
    (told,) = service.log_events("proxy.untrusted")
    assert told["setting"] == "public.trusted_proxies"


def test_the_address_of_a_client_stands_with_its_upload(service: Service) -> None:
    path = service.ticket()
    service.create(path, 5, {"X-Forwarded-For": f"8.8.8.8, {CLIENT}"})
    assert service.record(path).client.address == CLIENT
