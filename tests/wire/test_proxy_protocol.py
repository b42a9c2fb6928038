"""The PROXY protocol, versions 1 and 2: who is behind a proxy, or why it cannot be told."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from incomingd.wire.proxy_protocol import (
    NO_HEADER,
    PEEK_BYTES,
    V2_START,
    ProxyHeader,
    ProxyProtocolError,
    read_proxy_header,
)

REQUEST = b"GET / HTTP/1.1\r\n"


def version_2(command: int, family: int, body: bytes) -> bytes:
    return V2_START + bytes((0x20 | command, family)) + len(body).to_bytes(2, "big") + body


def addresses(source: str, destination: str, source_port: int, destination_port: int) -> bytes:
    packed = ipaddress.ip_address(source).packed + ipaddress.ip_address(destination).packed
    return packed + source_port.to_bytes(2, "big") + destination_port.to_bytes(2, "big")


V4 = addresses("192.0.2.7", "198.51.100.1", 50000, 443)
V6 = addresses("2001:db8::7", "2001:db8::1", 50000, 443)

HEADERS = [
    (b"PROXY TCP4 192.0.2.7 198.51.100.1 50000 443\r\n", "192.0.2.7", 50000),
    (b"PROXY TCP6 2001:db8::7 2001:db8::1 50000 443\r\n", "2001:db8::7", 50000),
    (b"PROXY UNKNOWN\r\n", None, None),
    (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", None, None),
    (version_2(1, 0x11, V4), "192.0.2.7", 50000),
    (version_2(1, 0x21, V6), "2001:db8::7", 50000),
    # Further fields behind the addresses, which nobody needs here.
    (version_2(1, 0x11, V4 + b"\x04\x00\x03abc"), "192.0.2.7", 50000),
    # The proxy speaks for itself, as in its health checks; a Unix socket; no family.
    (version_2(0, 0x11, V4), None, None),
    (version_2(0, 0x00, b""), None, None),
    (version_2(1, 0x31, bytes(216)), None, None),
    (version_2(1, 0x00, b""), None, None),
]


@pytest.mark.parametrize("header, address, port", HEADERS)
def test_a_header(header: bytes, address: str | None, port: int | None) -> None:
    assert read_proxy_header(header + REQUEST) == ProxyHeader(len(header), address, port)
    for size in range(len(header)):
        assert read_proxy_header(header[:size]) is None, "more is needed to tell"


@pytest.mark.parametrize("data", [REQUEST, b"PUT ", b"P ", b"\r\nx", b"\x16\x03\x01", b"PROXX"])
def test_what_begins_otherwise_is_no_header(data: bytes) -> None:
    assert read_proxy_header(data) == NO_HEADER


@pytest.mark.parametrize(
    "data",
    [
        b"PROXY \r\n",
        b"PROXY TCP4\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 50000\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 50000 443 x\r\n",
        b"PROXY TCP4 192.0.2.300 198.51.100.1 50000 443\r\n",
        b"PROXY TCP4 localhost 198.51.100.1 50000 443\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 x 443\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 -1 443\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 1_0 443\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 65536 443\r\n",
        b"PROXY TCP4 2001:db8::7 198.51.100.1 50000 443\r\n",
        b"PROXY TCP6 192.0.2.7 198.51.100.1 50000 443\r\n",
        b"PROXY tcp4 192.0.2.7 198.51.100.1 50000 443\r\n",
        b"PROXY UDP4 192.0.2.7 198.51.100.1 50000 443\r\n",
        b"PROXY TCP4 \xff 198.51.100.1 50000 443\r\n",
        b"PROXY TCP4 " + b"1" * 200,
        V2_START + b"\x11\x11\x00\x0c" + V4,
        V2_START + b"\x21\x11\xff\xff" + V4,
        version_2(2, 0x11, V4),
    ],
)
def test_what_begins_like_a_header_and_is_none(data: bytes) -> None:
    with pytest.raises(ProxyProtocolError):
        read_proxy_header(data)


@given(st.binary(max_size=300), st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", V2_START, V2_START + b"\x21\x11"]))
def test_any_bytes(data: bytes, start: bytes) -> None:
    try:
        header = read_proxy_header(start + data)
    except ProxyProtocolError:
        return
    if header is not None:
        assert 0 <= header.size <= min(len(start + data), PEEK_BYTES)
