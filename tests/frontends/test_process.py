"""The running daemon under thousands of requests that no honest client sends: memory stays flat, uploads go on."""

from __future__ import annotations

import contextlib
import itertools
from urllib.parse import urlsplit

import psutil

from tests.support.app import App
from tests.support.backend import Backend
from tests.support.content import Content
from tests.support.daemon import Daemon
from tests.support.tus import OFFSET_TYPE, VERSION, TusUpload
from tests.support.wire import Wire

REQUESTS = 2_000
WARM_UP = 600
GROWTH_BYTES_MAX = 4 * 1024 * 1024
"""A leak of 2 KiB a request would be seen; what the allocator keeps back is not one."""


def bad_requests(path: str) -> list[bytes]:
    """Return requests of every kind of badness, for an upload at *path* whose offset is 0."""
    lines = [f"{name}: {value}" for name, value in (VERSION | OFFSET_TYPE).items()]

    def raw(method: str, *more: str, where: str = path, body: bytes = b"") -> bytes:
        return "\r\n".join((f"{method} {where} HTTP/1.1", "Host: x", *lines, *more, "", "")).encode() + body

    chunks = "Transfer-Encoding: chunked"
    return [
        raw("PATCH", "Upload-Offset: 7", "Content-Length: 5", body=b"01234"),
        raw("PATCH", "Upload-Offset: -1", "Content-Length: 5", body=b"01234"),
        raw("PATCH", "Upload-Offset: 0", "Content-Length: 100000000", body=bytes(1000)),
        raw(
            "PATCH",
            "Upload-Offset: 0",
            "Upload-Checksum: sha1 AAAAAAAAAAAAAAAAAAAAAAAAAAA=",
            "Content-Length: 1",
            body=b"x",
        ),
        raw("PATCH", "Upload-Offset: 0", "Content-Length: 5", "Upload-Checksum: x", body=b"01"),
        raw("PATCH", "Upload-Offset: 0", chunks, body=b"zz\r\n"),
        raw("PATCH", "Upload-Offset: 0", chunks, body=b"5;" + b"x" * 600),
        raw("PATCH", "Upload-Offset: 7", chunks, body=b"5\r\n01"),
        raw("POST", "Upload-Length: x"),
        raw("POST", "Upload-Length: 5", "Upload-Metadata: " + "a," * 4000),
        raw("POST", "Upload-Concat: final;" + "/x " * 1000),
        raw("HEAD", where=path[:-1] + "~"),
        raw("PATCH", "Upload-Offset: 0", where=path + "/parts/" + "0" * 22),
        raw("DELETE", where=path.replace("/uploads/", "/uploads/..%2f")),
        raw("PUT", "X: " + "y" * 10_000),
        raw("HEAD", "X: " + "y" * 20_000),
        raw("PATCH", "Content-Length: 1", chunks),
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
        b"GET /\r\n\r\n",
        b"HEAD " + path.encode() + b" HTTP/1.1\r\nHost",
    ]


def test_memory_stays_flat_under_bad_requests(daemon: Daemon, backend: Backend, app: App) -> None:
    """2,000 of them, of every kind; an upload that is under way meanwhile arrives whole."""
    victims = backend.tickets(len(bad_requests("/")), max_length=1000)
    upload = TusUpload(backend.ticket()["upload_url"], Content(5, 300_000))
    upload.upload_id = upload.path.rsplit("/", 1)[1]
    process = psutil.Process(daemon.pid)
    # One kind for each victim, so that none waits for what is left of another.
    requests = [bad_requests(urlsplit(victim["upload_url"]).path)[n] for n, victim in enumerate(victims)]
    with upload.connect() as wire:
        assert upload.create(wire).status == 201
        assert upload.patch(wire, 0, upload.content.read(0, 100_000)).status == 204
    size_bytes = 0
    for number, request in zip(range(WARM_UP + REQUESTS), itertools.cycle(requests), strict=False):
        if number == WARM_UP:
            size_bytes = process.memory_info().rss
        with Wire(daemon.public) as bad, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            bad.send(request)
            bad.half_close()
            bad.read_to_end()
    growth_bytes = process.memory_info().rss - size_bytes
    assert growth_bytes < GROWTH_BYTES_MAX, f"{growth_bytes} bytes more after {REQUESTS} bad requests"
    with upload.connect() as wire:
        assert upload.head(wire).offset == 100_000
        assert upload.patch(wire, 100_000, upload.content.read(100_000, 200_000)).status == 204
    app.check_arrived(upload.upload_id, upload.content.sha256())
    assert {backend.get(victim["id"])["status"] for victim in victims} == {"open"}
    refused = daemon.log_events("request.refused")
    assert len(refused) > REQUESTS / 2
    assert all(event["code"] and event["status"] and event["request_id"] for event in refused)
    assert len(daemon.log_events("parse.refused")) > REQUESTS / 10
