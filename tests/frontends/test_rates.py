"""Limits of bytes a second: who sends faster is held back, never cut, whichever way its bytes take."""

from __future__ import annotations

import contextlib
import threading
import time

import pytest

from incomingd.web.body import DIRECT_BYTES, BodyLimits
from incomingd.web.rates import CREDIT_S, ROUND_S, RateLimits
from tests.frontends.conftest import MakeService
from tests.frontends.service import CHUNKED, Service
from tests.support.machine import wait_until
from tests.support.tus import OFFSET_TYPE, VERSION
from tests.support.wire import Response, Wire

KIB = 1024
MIB = 1024 * KIB
SIZE_BYTES = 400 * KIB
assert SIZE_BYTES > DIRECT_BYTES
RATE = 600 * KIB
# A line on which nobody came has credit, and the end of the last turn is not waited for.
AT_LEAST_S = 0.98 * (SIZE_BYTES / RATE - CREDIT_S - ROUND_S)


def begin(service: Service, size: int, *, chunked: bool = False) -> tuple[str, Wire]:
    """Return an upload and a connection that has sent the head of its append."""
    path = service.ticket()
    assert service.create(path, size).status == 201
    wire = service.connect()
    length = CHUNKED if chunked else {"Content-Length": str(size)}
    wire.send_head("PATCH", path, VERSION | OFFSET_TYPE | length | {"Upload-Offset": "0"})
    return path, wire


def send_all(wires: list[Wire], data: bytes) -> list[Response]:
    """Send *data* over all of them at once; return the answers."""
    threads = [threading.Thread(target=wire.send, args=(data,)) for wire in wires]
    for thread in threads:
        thread.start()
    answers = [wire.read_response() for wire in wires]
    for thread in threads:
        thread.join(30)
    return answers


@pytest.mark.parametrize("way", ["direct", "read", "chunked"])
def test_an_upload_keeps_to_its_limit(make_service: MakeService, way: str) -> None:
    """A sender at full speed; it is not taken for slow, though it is held back for longer than any wait may take."""
    service = make_service(
        {"limits": {"upload_bytes_per_s": RATE}, "storage": {"fast_path": "never" if way == "read" else "auto"}},
        body_limits=BodyLimits(idle_s=0.2, bytes_per_s_min=4 * RATE, rate_after_s=0.05),
    )
    data = bytes(range(256)) * (SIZE_BYTES // 256)
    path, wire = begin(service, SIZE_BYTES, chunked=way == "chunked")
    framed = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if way == "chunked" else data
    began_s = time.monotonic()
    assert [answer.status for answer in send_all([wire], framed)] == [204]
    assert time.monotonic() - began_s >= AT_LEAST_S
    ended = service.wait_event("append.ended", ended_by="complete", bytes=SIZE_BYTES)
    assert ended["held_back_s"] >= 0.8 * AT_LEAST_S
    assert service.file_of(path) == data


@pytest.mark.parametrize("limit", ["total_bytes_per_s", "address_bytes_per_s"])
def test_uploads_share_what_there_is(make_service: MakeService, limit: str) -> None:
    """Two at once take as long as both one after the other."""
    service = make_service({"limits": {limit: 2 * RATE}})
    wires = [begin(service, SIZE_BYTES)[1] for _ in range(2)]
    began_s = time.monotonic()
    assert {answer.status for answer in send_all(wires, bytes(SIZE_BYTES))} == {204}
    assert time.monotonic() - began_s >= AT_LEAST_S


def test_without_a_limit_nobody_is_held_back(make_service: MakeService) -> None:
    service = make_service()
    _, wire = begin(service, SIZE_BYTES)
    assert send_all([wire], bytes(SIZE_BYTES))[0].status == 204
    assert service.wait_event("append.ended", bytes=SIZE_BYTES)["held_back_s"] == 0


@pytest.mark.parametrize("fast_path", ["auto", "never"])
def test_who_is_held_back_can_be_cut_and_let_go(make_service: MakeService, fast_path: str) -> None:
    """A newer request takes over at once, and a limit that is taken away holds nobody any more."""
    service = make_service({"limits": {"upload_bytes_per_s": KIB}, "storage": {"fast_path": fast_path}})
    path, wire = begin(service, SIZE_BYTES)

    def send() -> None:
        # It is cut while it sends.
        with contextlib.suppress(OSError):
            wire.send(bytes(SIZE_BYTES))

    sender = threading.Thread(target=send)
    sender.start()
    # It has had a turn, and the next ones would take minutes.
    wait_until(lambda: service.view(path).offset > 0, "first bytes", timeout_s=10)
    answer = service.patch(path, SIZE_BYTES, b"")
    assert (answer.status, answer.code) == (409, "offset_mismatch")
    cut = wire.read_response()
    assert cut.code == "preempted"
    sender.join(30)
    kept = service.offset(path)
    assert kept == cut.offset < SIZE_BYTES
    service.exchange_options.rates.limits = RateLimits()
    assert service.patch(path, kept, bytes(SIZE_BYTES - kept)).status == 204
