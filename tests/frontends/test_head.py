"""HEAD: the resume point, on which clients stake a whole upload (tus checklist 2)."""

from __future__ import annotations

import pytest

from incomingd.core.status import Status
from incomingd.engine.keeper import HOLD_RETRY_S
from incomingd.frontends.uploads import PREFIX
from tests.frontends.conftest import MakeService
from tests.frontends.service import Service, id_of
from tests.support.machine import wait_until

METADATA = "filename  YS50eHQ= ,x,  bytes //79"


def test_a_new_ticket(service: Service) -> None:
    """M2.1, M2.4, D4.10: an upload resource from birth, at offset 0."""
    answer = service.head(service.ticket())
    assert answer.status == 200
    assert answer.headers["upload-offset"] == "0"
    assert answer.headers["upload-defer-length"] == "1"
    assert "upload-length" not in answer.headers
    assert "upload-metadata" not in answer.headers
    assert "content-length" not in answer.headers


def test_a_ticket_of_known_length(service: Service) -> None:
    """M2.2, M2.4, D4.10."""
    answer = service.head(service.ticket(length=10))
    assert answer.headers["upload-length"] == "10"
    assert "upload-defer-length" not in answer.headers


def test_in_the_middle(service: Service) -> None:
    """M2.1, M2.2, M2.3, M6.1, S2.8, and the header by which a balancer finds the owner."""
    path = service.bring(Status.OPEN)
    answer = service.head(path)
    assert (answer.status, answer.offset) == (200, 4)
    assert answer.headers["upload-length"] == "10"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-upload-id"] == id_of(path)
    assert answer.headers["upload-expires"].endswith(" GMT")
    assert "content-length" not in answer.headers


def test_metadata_comes_back_to_the_byte(service: Service) -> None:
    """M2.5."""
    path = service.ticket()
    assert service.create(path, 5, {"Upload-Metadata": METADATA}).status == 201
    assert service.head(path).headers["upload-metadata"] == METADATA
    service.restart()
    assert service.head(path).headers["upload-metadata"] == METADATA


def test_a_deferred_length_is_told_as_such_until_it_is_known(service: Service) -> None:
    """M2.4, T."""
    path = service.ticket()
    service.create(path, None)
    assert service.head(path).headers["upload-defer-length"] == "1"
    assert service.patch(path, 0, b"01234", {"Upload-Length": "10"}).status == 204
    answer = service.head(path)
    assert answer.headers["upload-length"] == "10"
    assert "upload-defer-length" not in answer.headers


def test_a_deferred_length_at_a_ticket_of_known_length(service: Service) -> None:
    """M2.4: the client said that it would tell; so it is asked to."""
    path = service.ticket(length=10)
    service.create(path, None)
    assert service.head(path).headers["upload-defer-length"] == "1"


@pytest.mark.parametrize("method", ["HEAD", "PATCH", "DELETE"])
def test_an_unknown_upload_has_no_offset(service: Service, method: str) -> None:
    """S2.9, T, S3.8, M8.1."""
    path = f"{PREFIX}/{'0' * 43}{id_of(service.ticket())[43:]}"
    answer = service.patch(path, 0, b"x") if method == "PATCH" else service.request(method, path)
    assert answer.status == 404
    assert "upload-offset" not in answer.headers
    assert "x-upload-id" not in answer.headers


@pytest.mark.parametrize("restarted", [False, True])
def test_the_offset_told_is_the_one_that_goes_on(service: Service, restarted: bool) -> None:
    """Q2.10: told durably, and the next append at it is taken."""
    path = service.ticket(length=10)
    service.create(path, 10)
    for offset in range(0, 10, 2):
        if restarted:
            service.restart()
        assert service.offset(path) == offset
        assert service.patch(path, offset, b"ab").status == 204
    assert service.file_of(path) == b"ab" * 5


def test_head_ends_an_append_that_hangs_and_tells_where_it_got_to(service: Service) -> None:
    """Q2.10, D9.1: the offset is final, whatever the old connection still brings."""
    path = service.ticket()
    service.create(path, 10)
    old = service.open_append(path, 0, b"01234", 10)
    assert service.offset(path) == 5
    answer = old.read_response()
    assert (answer.status, answer.code, answer.offset) == (503, "preempted", 5)
    assert service.patch(path, 5, b"56789").status == 204
    assert service.file_of(path) == b"0123456789"


# -- never 5xx


def test_head_is_held_while_the_volume_is_away_and_then_locked(make_service: MakeService) -> None:
    """Q2.11: no 5xx, and no 4xx but 423, unless the upload is really dead."""
    service = make_service({"hold_s": 0.3})
    service.errors_expected.add("volume.failed")
    path = service.bring(Status.OPEN)
    service.close(check=False)
    service.start()
    away = service.folder.with_name("away")
    service.folder.rename(away)
    began_s = service.clock.monotonic()
    answer = service.head(path)
    held_s = service.clock.monotonic() - began_s
    assert answer.status == 423
    assert int(answer.headers["retry-after"]) >= 0
    assert "upload-offset" not in answer.headers
    assert held_s < 3
    assert service.patch(path, 4, b"45").status == 503
    assert service.request("DELETE", path).status == 503
    away.rename(service.folder)
    assert service.offset(path) == 4


def test_head_is_answered_as_soon_as_the_volume_is_back(make_service: MakeService) -> None:
    """Q2.11 (a): held, and answered truly in the end."""
    service = make_service({"hold_s": 10})
    service.errors_expected.add("volume.failed")
    path = service.bring(Status.OPEN)
    service.close(check=False)
    service.start()
    away = service.folder.with_name("away")
    service.folder.rename(away)
    wire = service.connect()
    wire.send_head("HEAD", path, {"Tus-Resumable": "1.0.0"})
    wait_until(lambda: HOLD_RETRY_S in service.clock.slept_s, "the first try was in vain", timeout_s=10)
    away.rename(service.folder)
    assert wire.read_response("HEAD").offset == 4


def test_head_of_a_record_that_cannot_be_read_is_no_end_of_the_upload(make_service: MakeService) -> None:
    """Q2.11: a person may yet repair it."""
    service = make_service({"hold_s": 0.3})
    service.errors_expected.add("record.unreadable")
    path = service.bring(Status.OPEN)
    service.close(check=False)
    record = service.folder / "uploads" / id_of(path)[:2] / id_of(path) / "record.json"
    good = record.read_bytes()
    record.write_bytes(good[: len(good) // 2])
    service.start()
    assert service.head(path).status == 423
    answer = service.patch(path, 4, b"45")
    assert (answer.status, answer.code) == (503, "storage_unavailable")
    record.write_bytes(good)
    assert service.offset(path) == 4


def test_a_mistake_of_the_program_is_no_end_of_the_upload(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Q2.11, M0.4: 423 on HEAD, 500 elsewhere, and nothing told but a request id."""
    service.errors_expected.add("request.failed")
    path = service.bring(Status.OPEN)

    async def broken(*_: object) -> None:
        message = "a secret of the program"
        raise ZeroDivisionError(message)

    with monkeypatch.context() as patched:
        for name in ("head", "append", "begin", "terminate"):
            patched.setattr(service.engine, name, broken)
        assert service.head(path).status == 423
        for answer in (service.patch(path, 4, b"45"), service.create(path, 5), service.request("DELETE", path)):
            assert (answer.status, answer.code) == (500, "internal_error")
            assert b"secret" not in answer.body
            assert answer.headers["x-request-id"] in {e["request_id"] for e in service.log_events("request.failed")}
    assert service.offset(path) == 4
