"""PATCH: bytes go in where they belong, and nowhere else (tus checklist 3)."""

from __future__ import annotations

import pytest

from incomingd.core.status import Status
from tests.frontends.conftest import MakeService
from tests.frontends.service import CHUNKED, Service, checked, chunked, id_of
from tests.support.tus import OFFSET_TYPE, VERSION


def test_bytes_go_in(service: Service) -> None:
    """M3.3."""
    path = service.ticket()
    service.create(path, 10)
    answer = service.patch(path, 0, b"01234")
    assert (answer.status, answer.offset, answer.body) == (204, 5, b"")
    assert answer.headers["x-upload-id"] == id_of(path)
    assert service.patch(path, 5, b"56789").offset == 10
    assert service.file_of(path) == b"0123456789"


def test_chunked_bytes_go_in(service: Service) -> None:
    path = service.ticket()
    service.create(path, 10)
    answer = service.patch(path, 0, chunked(b"0", b"1234", b"56789"), CHUNKED)
    assert (answer.status, answer.offset) == (204, 10)
    assert service.file_of(path) == b"0123456789"


@pytest.mark.parametrize(
    "kind, status",
    [
        ("application/offset+octet-stream", 204),
        ("application/offset+octet-stream; charset=utf-8", 204),
        ("Application/Offset+Octet-Stream", 204),
        ("application/octet-stream", 415),
        ("application/json", 415),
        ("", 415),
    ],
)
def test_the_content_type(service: Service, kind: str, status: int) -> None:
    """M3.1."""
    path = service.bring(Status.OPEN)
    answer = service.patch(path, 4, b"45", {"Content-Type": kind})
    assert answer.status == status
    assert status == 204 or answer.code == "content_type_wrong"
    assert service.offset(path) == (6 if status == 204 else 4)


@pytest.mark.parametrize("offset", ["0", "3", "5", "10", "11", "999999999999999999"])
def test_another_offset_is_refused_with_the_true_one(service: Service, offset: str) -> None:
    """M3.2: nothing is modified."""
    path = service.bring(Status.OPEN)
    before = service.bytes_of(path)
    answer = service.patch(path, 0, b"xx", {"Upload-Offset": offset})
    assert (answer.status, answer.code, answer.offset) == (409, "offset_mismatch", 4)
    assert answer.json()["offset"] == 4
    assert service.bytes_of(path) == before


@pytest.mark.parametrize(
    "announced, sent",
    [(7, b"456789x"), (7, b""), (10**15, b"456789"), (999999999999999999, b"")],
)
def test_more_than_the_length_is_refused_before_it_is_read(service: Service, announced: int, sent: bytes) -> None:
    """D3.5."""
    path = service.bring(Status.OPEN)
    wire = service.connect()
    headers = VERSION | OFFSET_TYPE | {"Upload-Offset": "4", "Content-Length": str(announced)}
    wire.send_head("PATCH", path, headers)
    wire.send(sent)
    answer = checked(wire.read_response(), "PATCH")
    assert (answer.status, answer.code, answer.offset) == (413, "length_exceeded", 4)
    assert answer.headers["connection"] == "close"
    assert service.bytes_of(path)["bytes.1"] == b"0123"


def test_more_than_the_length_in_chunks_stops_at_the_length(service: Service) -> None:
    """D3.5: bytes behind the length are never written."""
    path = service.bring(Status.OPEN)
    answer = service.patch(path, 4, chunked(b"4567", b"89xyz"), CHUNKED)
    assert (answer.status, answer.code, answer.offset) == (413, "length_exceeded", 10)
    assert service.file_of(path) == b"0123456789"


def test_more_in_chunks_than_the_ticket_allows(service: Service) -> None:
    path = service.ticket(max_length=6)
    service.create(path, None)
    answer = service.patch(path, 0, chunked(b"01234567"), CHUNKED)
    assert answer.status == 413
    assert service.offset(path) == 6


def test_an_empty_patch_at_the_end_is_a_repeated_one(service: Service) -> None:
    """D3.6: the answer to the last one was lost."""
    path = service.bring(Status.COMPLETE)
    webhook_id = service.record(path).handover.delivery
    for _ in range(2):
        answer = service.patch(path, 10, b"")
        assert (answer.status, answer.offset) == (204, 10)
    assert service.record(path).handover.delivery == webhook_id


def test_an_empty_patch_does_not_prolong_the_life(service: Service) -> None:
    """D3.7."""
    path = service.bring(Status.OPEN)
    before = service.record(path).expires_at
    service.clock.ahead_s += 3600
    assert service.patch(path, 4, b"").status == 204
    assert service.patch(path, 4, b"4").status == 204
    assert service.record(path).expires_at == before


@pytest.mark.parametrize("how", ["reset", "close", "half_close"])
def test_what_came_before_a_cut_is_kept(service: Service, how: str) -> None:
    """S3.4, S3.10."""
    path = service.ticket()
    service.create(path, 10)
    wire = service.open_append(path, 0, b"012345", 10)
    getattr(wire, how)()
    service.wait_event("append.ended", ended_by="client", offset_after=6)
    assert service.offset(path) == 6
    assert service.patch(path, 6, b"6789").status == 204
    assert service.file_of(path) == b"0123456789"


@pytest.mark.parametrize(
    "sent",
    [
        b"6\r\n012345\r\n",
        b"6\r\n012345\r",
        b"6\r\n012345",
        b"3\r\n012\r\n3\r\n345\r\na\r\n",
        b"a\r\n012345",
    ],
)
def test_what_came_before_a_cut_of_chunks_is_kept(service: Service, sent: bytes) -> None:
    """S3.4."""
    path = service.ticket()
    service.create(path, 20)
    with service.connect() as wire:
        wire.send_head("PATCH", path, VERSION | OFFSET_TYPE | CHUNKED | {"Upload-Offset": "0"})
        wire.send(sent)
        service.wait_offset(path, 6)
    assert service.offset(path) == 6


@pytest.mark.parametrize(
    "sent",
    [
        b"g\r\n",
        b"-1\r\n",
        b"+6\r\n012345\r\n",
        b"0x6\r\n012345\r\n",
        b"6_\r\n012345\r\n",
        b" 6\r\n012345\r\n",
        b"6\n012345\r\n0\r\n\r\n",
        b"6\r\n0123456\r\n",
        b"6\r\n012345XX",
        b"\r\n",
        b"ffffffffffffffff\r\n",
        b"1" * 600,
        b"6;" + b"x" * 600 + b"\r\n",
        b"6\r\n012345\r\n0\r\nno colon\r\n\r\n",
        b"6\r\n012345\r\n0\r\nX: " + b"y" * 9000 + b"\r\n\r\n",
        b"6\r\n012345\r\n0\r\n" + b"X: y\r\n" * 2000 + b"\r\n",
    ],
)
def test_broken_chunks_end_the_request(service: Service, sent: bytes) -> None:
    """Answered or closed, never taken for bytes; the connection is not used on."""
    path = service.ticket()
    service.create(path, 20)
    wire = service.connect()
    wire.send_head("PATCH", path, VERSION | OFFSET_TYPE | CHUNKED | {"Upload-Offset": "0"})
    wire.send(sent + b"HEAD / HTTP/1.1\r\n\r\n")
    rest = wire.read_to_end()
    assert rest == b"" or rest.startswith(b"HTTP/1.1 400 Bad Request\r\n"), rest
    assert rest.count(b"HTTP/1.1 ") <= 1
    if rest:
        assert b'"code": "body_malformed"' in rest
    assert service.offset(path) in (0, 6)


def test_the_room_is_asked_for_before_the_first_byte(make_service: MakeService) -> None:
    """D3.11."""
    service = make_service({"limits": {"free_space_reserve_bytes": "1024TiB"}})
    path = service.ticket()
    answer = service.create(path, 10)
    assert (answer.status, answer.code) == (507, "storage_full")
    assert service.record(path).beginnings == 0
    assert service.offset(path) == 0


@pytest.mark.parametrize("content", [b"", b"0"])
def test_a_patch_at_a_ticket_that_nobody_has_created(service: Service, content: bytes) -> None:
    """D4.10: `uploadUrl` works where the ticket has its exact length."""
    path = service.ticket(length=len(content))
    assert service.patch(path, 0, content).offset == len(content)
    if content:
        assert service.file_of(path) == content
    else:
        # A ticket for an empty file waits for a client to say that it is there.
        assert service.record(path).status is Status.OPEN


def test_a_patch_of_unknown_length_never_completes(service: Service) -> None:
    """D4.10: tuspy's `url=` at a ticket without a length ends "well"; the record says what became of it."""
    path = service.ticket()
    assert service.patch(path, 0, b"0123456789").status == 204
    assert service.record(path).status is Status.OPEN
    service.expire(path)
    failure = service.record(path).failure
    assert failure is not None
    assert failure.code == "length_unknown"


def test_the_log_says_what_became_of_an_append(service: Service) -> None:
    path = service.bring(Status.OPEN)
    answer = service.patch(path, 4, b"456", {"X-Request-ID": "request-of-mine"})
    assert answer.headers["x-request-id"] == "request-of-mine"
    event = service.wait_event("append.ended", offset_before=4)
    assert event["request_id"] == "request-of-mine"
    assert (event["upload_id"], event["bytes"], event["offset_after"]) == (id_of(path), 3, 7)
    assert (event["ended_by"], event["status"], event["code"]) == ("complete", 204, None)
    assert event["address"] == "127.0.0.1"
