"""The PROXY protocol, versions 1 and 2: a proxy says who connected to it.

Source: "The PROXY protocol, versions 1 & 2", haproxy.org, sections 2.1 and 2.2.
"""

from __future__ import annotations

import ipaddress
import re
import struct
from dataclasses import dataclass
from typing import Final

V1_START: Final = b"PROXY "
V2_START: Final = b"\r\n\r\n\x00\r\nQUIT\n"
V1_BYTES_MAX: Final = 107
V2_HEAD_BYTES: Final = 16
V2_BYTES_MAX: Final = 4096
"""An address and some TLVs; more than any proxy sends."""
PEEK_BYTES: Final = V2_HEAD_BYTES + V2_BYTES_MAX
V1_FAMILIES: Final = {b"TCP4": 4, b"TCP6": 6}
PORT_MAX: Final = 65535
_PORT: Final = re.compile(rb"[0-9]{1,5}")


class ProxyProtocolError(Exception):
    """What begins like a PROXY header is none."""


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """Who is behind the proxy."""

    size: int
    """Bytes that the header takes."""
    address: str | None
    """None: the proxy speaks for itself (health checks) or does not know."""
    port: int | None


NO_HEADER: Final = ProxyHeader(0, None, None)
"""What begins otherwise: nothing was said."""


def read_proxy_header(data: bytes) -> ProxyHeader | None:
    """Return the header that *data* begins with, or :data:`NO_HEADER`.

    None: more bytes are needed to tell.

    Raises:
        ProxyProtocolError: it begins like a header and is none.
    """
    if data.startswith(V2_START):
        return _version_2(data)
    if data.startswith(V1_START):
        return _version_1(data)
    if V2_START.startswith(data) or V1_START.startswith(data):
        return None
    return NO_HEADER


def _version_1(data: bytes) -> ProxyHeader | None:
    line, end, _ = data.partition(b"\r\n")
    if not end:
        if len(data) > V1_BYTES_MAX:
            raise ProxyProtocolError("a PROXY line that does not end")
        return None
    size = len(line) + len(end)
    words = line.split(b" ")
    if len(words) >= 2 and words[1] == b"UNKNOWN":
        return ProxyHeader(size, None, None)
    version = V1_FAMILIES.get(words[1]) if len(words) == 6 else None
    ports = words[4:]
    if version is None or any(_PORT.fullmatch(port) is None or int(port) > PORT_MAX for port in ports):
        raise ProxyProtocolError("a malformed PROXY line")
    try:
        address = ipaddress.ip_address(words[2].decode("ascii"))
    except ValueError as error:
        raise ProxyProtocolError("a malformed PROXY line") from error
    if address.version != version:
        raise ProxyProtocolError("a PROXY line with an address of another family")
    return ProxyHeader(size, str(address), int(words[4]))


def _version_2(data: bytes) -> ProxyHeader | None:
    if len(data) < V2_HEAD_BYTES:
        return None
    version_command, family, length = struct.unpack("!BBH", data[12:V2_HEAD_BYTES])
    if version_command >> 4 != 2 or length > V2_BYTES_MAX:
        raise ProxyProtocolError("a PROXY header of an unknown version")
    size = V2_HEAD_BYTES + length
    if len(data) < size:
        return None
    body = data[V2_HEAD_BYTES:size]
    command = version_command & 0x0F
    if command == 0:
        return ProxyHeader(size, None, None)
    if command != 1:
        raise ProxyProtocolError("a PROXY header with an unknown command")
    if family >> 4 == 1 and length >= 12:
        return ProxyHeader(size, str(ipaddress.IPv4Address(body[0:4])), int.from_bytes(body[8:10], "big"))
    if family >> 4 == 2 and length >= 36:
        return ProxyHeader(size, str(ipaddress.IPv6Address(body[0:16])), int.from_bytes(body[32:34], "big"))
    return ProxyHeader(size, None, None)
