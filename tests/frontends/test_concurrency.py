"""Several requests for one upload at once: the newest wins, no byte is mixed, nobody waits for a dead one.

Tus checklist 9, and DESIGN section 6.
"""

from __future__ import annotations

import contextlib
import threading

import pytest

from incomingd.core.pacing import PREEMPTIONS_FREE
from incomingd.core.status import Status
from tests.frontends.conftest import MakeService
from tests.frontends.service import CHUNKED, Service, chunked
from tests.support.tus import OFFSET_TYPE, VERSION
from tests.support.wire import ConnectionEnded, Response, Wire

CONTENT = b"0123456789"


def outcome(wire: Wire) -> Response | None:
    """Return the answer, or None where the connection was closed instead."""
    try:
        return wire.read_response()
    except ConnectionEnded:
        return None


def check_interrupted(wire: Wire, offset: int) -> None:
    """D9.2: 503 with the offset that was kept, or a closed connection; never a 4xx."""
    answer = outcome(wire)
    if answer is not None:
        assert (answer.status, answer.code, answer.offset) == (503, "preempted", offset)
        assert answer.headers["retry-after"] == "0"
        assert answer.headers["connection"] == "close"


def test_a_newer_patch_takes_over_at_once(service: Service) -> None:
    """D9.1: the client has come back; its old connection is dead, and nobody has told us."""
    path = service.ticket()
    service.create(path, 10)
    old = service.open_append(path, 0, b"0123", 10)
    answer = service.patch(path, 4, b"456789")
    assert (answer.status, answer.offset) == (204, 10)
    check_interrupted(old, 4)
    assert service.file_of(path) == CONTENT


def test_a_newer_patch_at_the_old_offset_learns_the_new_one(service: Service) -> None:
    """D9.4, T: two PATCHes at the same offset: at most one 204."""
    path = service.ticket()
    service.create(path, 10)
    old = service.open_append(path, 0, b"0123", 10)
    answer = service.patch(path, 0, CONTENT)
    assert (answer.status, answer.offset) == (409, 4)
    check_interrupted(old, 4)
    assert service.patch(path, 4, b"456789").status == 204
    assert service.file_of(path) == CONTENT


def race(service: Service, path: str, bodies: list[bytes], *, chunk: bool) -> list[Response]:
    """Send PATCHes at offset 0 at once, from threads; return the answers that came."""
    answers: list[Response] = []
    start = threading.Barrier(len(bodies))
    headers = VERSION | OFFSET_TYPE | {"Upload-Offset": "0"}

    def send(body: bytes) -> None:
        start.wait()
        # Whoever is cut may find the connection closed in the middle of a write.
        with service.connect() as wire, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            if chunk:
                wire.send_head("PATCH", path, headers | CHUNKED)
                wire.send(chunked(*(body[at : at + 25_000] for at in range(0, len(body), 25_000))))
            else:
                wire.send_head("PATCH", path, headers | {"Content-Length": str(len(body))})
                wire.send(body)
            answer = outcome(wire)
            if answer is not None:
                answers.append(answer)

    threads = [threading.Thread(target=send, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


@pytest.mark.parametrize("chunk", [False, True], ids=["fixed", "chunked"])
def test_of_patches_at_one_offset_at_most_one_is_taken(service: Service, chunk: bool) -> None:
    """D9.4, T: what is stored is of one of them."""
    for _ in range(8):
        path = service.ticket()
        service.create(path, 100_000)
        answers = race(service, path, [bytes([65 + n]) * 100_000 for n in range(4)], chunk=chunk)
        statuses = [answer.status for answer in answers]
        assert statuses.count(204) <= 1
        assert set(statuses) <= {204, 409, 503}
        offset = service.offset(path)
        kept = service.bytes_of(path).get("bytes.1", b"") if offset < 100_000 else service.file_of(path)
        assert len(set(kept[:offset])) <= 1, "bytes of two requests are mixed"


@pytest.mark.parametrize("method", ["HEAD", "DELETE", "POST"])
def test_any_newer_request_takes_over(service: Service, method: str) -> None:
    """D9.1, D8.2, D4.10."""
    path = service.ticket()
    service.create(path, 10)
    old = service.open_append(path, 0, b"0123", 10)
    answer = service.request(method, path, {"Upload-Length": "10"} if method == "POST" else {})
    assert answer.status in (200, 201, 204)
    interrupted = outcome(old)
    assert interrupted is None or interrupted.status == (410 if method == "DELETE" else 503)


def test_looking_takes_over_from_nobody(service: Service) -> None:
    """D9.3: OPTIONS, the status for pages and a refused request leave an append alone."""
    path = service.ticket()
    service.create(path, 10)
    wire = service.open_append(path, 0, b"0123", 10)
    service.request("OPTIONS", path)
    with service.connect() as other:
        status = other.request("GET", f"{path}/status").json()
    assert status["offset"] == 4
    service.request("PATCH", path, {"Upload-Offset": "4"}, b"x")
    service.request("PATCH", path, {"Content-Type": "application/offset+octet-stream"}, b"x")
    service.request("POST", path, {"Upload-Length": "x"})
    service.request("GET", path)
    service.request("PUT", path)
    wire.send(b"456789")
    assert wire.read_response().offset == 10


def test_parts_do_not_take_over_from_each_other(service: Service) -> None:
    path = service.ticket()
    parts = [service.create(path, 10, {"Upload-Concat": "partial"}).headers["location"] for _ in range(2)]
    wires = [service.open_append(part, 0, b"0123", 10) for part in parts]
    assert service.offset(path) == 0
    for wire in wires:
        wire.send(b"456789")
        assert wire.read_response().offset == 10


def test_the_bytes_of_an_old_connection_change_nothing(service: Service) -> None:
    """D9.1: whatever it still brings."""
    path = service.ticket()
    service.create(path, 10)
    old = service.open_append(path, 0, b"0123", 10)
    assert service.offset(path) == 4
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        old.send(b"XXXXXX")
    assert service.offset(path) == 4
    assert service.patch(path, 4, b"456789").status == 204
    assert service.file_of(path) == CONTENT


@pytest.mark.parametrize("asks", [False, True], ids=["patch", "head-and-patch"])
def test_two_tabs_that_fight_are_slowed_down(service: Service, asks: bool) -> None:
    """DESIGN: more than 6 pre-emptions within 10 s delay the newer request by 1 s, doubling to 8.

    A tab that was cut asks for the offset before it goes on, which cuts the other one as well.
    """
    path = service.ticket()
    service.create(path, 1000)
    delays: list[float] = []
    last = None
    for turn in range(PREEMPTIONS_FREE + 6):
        service.clock.slept_s.clear()
        if asks:
            assert service.offset(path) == turn
        wire = service.open_append(path, turn, b"x", 10)
        delays.append(sum(s for s in service.clock.slept_s if s >= 1))
        if last is not None:
            assert (outcome(last) or answer_of(503)).status == 503
        last = wire
    assert len(service.log_events("append.preempted", level="warning")) == 5
    # The first append cut nobody.
    assert delays[: PREEMPTIONS_FREE + 1] == [0.0] * (PREEMPTIONS_FREE + 1)
    assert delays[PREEMPTIONS_FREE + 1 :] == [1.0, 2.0, 4.0, 8.0, 8.0]


def answer_of(status: int) -> Response:
    return Response(status, "", {}, b"")


def test_a_client_that_comes_back_now_and_then_is_not_slowed_down(service: Service) -> None:
    path = service.ticket()
    service.create(path, 1000)
    for turn in range(PREEMPTIONS_FREE):
        service.open_append(path, turn, b"x", 10)
    assert [s for s in service.clock.slept_s if s >= 1] == []


def test_a_body_that_never_comes_to_rest_holds_nobody_for_ever(make_service: MakeService) -> None:
    """Nobody waits for ever: HEAD is 423 after `hold_s`, others 503, and nothing is lost."""
    service = make_service({"hold_s": 0.2})
    path = service.bring(Status.OPEN)

    async def occupy(upload: object) -> object:
        await upload.guard.acquire()  # type: ignore[attr-defined]  # an OwnedUpload
        return upload

    upload = service.do(path, occupy)
    answer = service.head(path)
    assert answer.status == 423
    assert answer.headers["retry-after"] == "1"

    async def let_go() -> None:
        upload.guard.release()  # type: ignore[attr-defined]  # an OwnedUpload

    service.run(let_go())
    assert service.offset(path) == 4


def test_requests_while_the_daemon_stops(make_service: MakeService) -> None:
    """Section 12: 423 is never for stopping; PATCH and POST meet 503, and their connections are closed."""
    service = make_service({"hold_s": 0.2})
    path = service.bring(Status.OPEN)
    wire = service.open_append(path, 4, b"45", 6)
    service.run(service.engine.stop())
    interrupted = wire.read_response()
    assert (interrupted.status, interrupted.code, interrupted.offset) == (503, "stopping", 6)
    for answer in (service.patch(path, 6, b"6"), service.create(path, 10)):
        assert (answer.status, answer.code) == (503, "stopping")
        assert answer.headers["connection"] == "close"
        assert answer.headers["retry-after"] == "0"
    assert service.record(path).content.noted_offset == 6


def test_one_address_may_send_so_many_uploads_at_once(make_service: MakeService) -> None:
    """`limits.open_uploads_per_address`: uploads, not requests; looking at one is free."""
    service = make_service({"limits": {"open_uploads_per_address": 2}})
    first, second, third = (service.bring(Status.OPEN) for _ in range(3))
    wires = [service.open_append(path, 4, b"4", 6) for path in (first, second)]
    for answer in (service.patch(third, 4, b"4"), service.create(service.ticket(), 1, body=b"x")):
        assert (answer.status, answer.code) == (503, "too_many_open")
        assert answer.headers["connection"] == "close"
        assert int(answer.headers["retry-after"]) > 0
    assert service.offset(third) == 4
    assert service.create(service.ticket(), 1).status == 201
    # The client of the first one comes back on another connection: still two.
    assert service.patch(first, 5, b"5").status == 204
    assert service.patch(third, 4, b"4").status == 204
    wires[1].send(b"56789")
    assert wires[1].read_response().status == 204
    parts = [service.create(third, 4, {"Upload-Concat": "partial"}).headers["location"] for _ in range(3)]
    for part in parts:
        service.open_append(part, 0, b"0", 4)
