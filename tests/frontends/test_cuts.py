"""A request that is cut at any of its bytes: what was kept is a beginning of what was sent, and the upload goes on."""

from __future__ import annotations

import base64
import hashlib
import itertools
from collections.abc import Callable

import pytest

from tests.frontends.conftest import MakeService
from tests.frontends.service import Service, chunked
from tests.support.wire import Wire

CONTENT = b"0123456789abcdef"
SHA1 = base64.b64encode(hashlib.sha1(CONTENT).digest()).decode()

ENDS: tuple[Callable[[Wire], None], ...] = (Wire.close, Wire.reset, Wire.half_close)


def request(method: str, path: str, *lines: str, body: bytes) -> tuple[bytes, int]:
    """Return a request, and where in it its body begins."""
    common = ("Host: x", "Tus-Resumable: 1.0.0", "Content-Type: application/offset+octet-stream")
    head = "\r\n".join((f"{method} {path} HTTP/1.1", *common, *lines, "", "")).encode()
    return head + body, len(head)


def fixed(path: str) -> tuple[bytes, int]:
    return request("PATCH", path, "Upload-Offset: 0", f"Content-Length: {len(CONTENT)}", body=CONTENT)


def with_checksum(path: str) -> tuple[bytes, int]:
    lines = ("Upload-Offset: 0", f"Upload-Checksum: sha1 {SHA1}", f"Content-Length: {len(CONTENT)}")
    return request("PATCH", path, *lines, body=CONTENT)


def in_chunks(path: str) -> tuple[bytes, int]:
    body = chunked(CONTENT[:3], CONTENT[3:4], CONTENT[4:])
    return request("PATCH", path, "Upload-Offset: 0", "Transfer-Encoding: chunked", body=body)


def with_trailer(path: str) -> tuple[bytes, int]:
    body = chunked(CONTENT[:5], CONTENT[5:], trailer=f"Upload-Checksum: sha1 {SHA1}\r\n".encode())
    return request(
        "PATCH", path, "Upload-Offset: 0", "Trailer: Upload-Checksum", "Transfer-Encoding: chunked", body=body
    )


def creation(path: str) -> tuple[bytes, int]:
    return request("POST", path, f"Upload-Length: {len(CONTENT)}", f"Content-Length: {len(CONTENT)}", body=CONTENT)


@pytest.fixture
def service(make_service: MakeService) -> Service:
    # What survives a power loss is not in question here, and this writes much.
    return make_service({"durability": "none"})


@pytest.mark.parametrize("make", [fixed, with_checksum, in_chunks, with_trailer, creation])
def test_a_request_cut_at_every_byte(service: Service, make: Callable[[str], tuple[bytes, int]]) -> None:
    path = service.ticket(length=len(CONTENT) + 1)
    bystander = service.ticket()
    service.create(bystander, 10)
    waiting = service.open_append(bystander, 0, b"01234", 10)
    data, head_size = make(path)
    data = data.replace(f"Upload-Length: {len(CONTENT)}".encode(), f"Upload-Length: {len(CONTENT) + 1}".encode())
    whole_or_nothing = make in (with_checksum, with_trailer)
    ends = itertools.cycle(ENDS)
    # The header sections differ little: one of them is cut everywhere.
    first = 0 if make is fixed else head_size - 4
    for cut in range(first, len(data)):
        if service.offset(path):
            assert service.create(path, len(CONTENT) + 1).status == 201
        with Wire(service.address) as wire:
            wire.send(data[:cut])
            next(ends)(wire)
            # Whatever came over it is dealt with; the bystander's is still open.
            service.wait_connections(1)
            offset = service.offset(path)
            kept = service.bytes_of(path)
        segment = next((kept[name] for name in kept if name.startswith("bytes.")), b"")
        assert offset <= max(cut - head_size, 0), cut
        assert segment[:offset] == CONTENT[:offset], cut
        if whole_or_nothing:
            assert offset == 0, cut
    if service.offset(path):
        assert service.create(path, len(CONTENT) + 1).status == 201
    with Wire(service.address) as wire:
        wire.send(data)
        answer = wire.read_response()
    assert (answer.status, answer.offset) == (201 if make is creation else 204, len(CONTENT))
    assert service.patch(path, len(CONTENT), b"!").status == 204
    assert service.file_of(path) == CONTENT + b"!"
    waiting.send(b"56789")
    assert waiting.read_response().offset == 10
    assert service.file_of(bystander) == b"0123456789"
