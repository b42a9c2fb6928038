"""DELETE: the client gives an upload up (tus checklist 8)."""

from __future__ import annotations

import contextlib

import pytest

from incomingd.core.status import Status
from tests.frontends.service import Service
from tests.support.wire import ConnectionEnded


@pytest.mark.parametrize("status", [Status.OPEN, Status.COMPLETE])
def test_deleted(service: Service, status: Status) -> None:
    """M8.1: exactly 204, and nothing is left but the record."""
    path = service.bring(status)
    answer = service.request("DELETE", path)
    assert (answer.status, answer.body) == (204, b"")
    assert service.head(path).status == 410
    assert service.patch(path, 4, b"x").code == "upload_cancelled"
    assert set(service.bytes_of(path)) == {"record.json"}
    assert list((service.folder / "files").iterdir()) == []
    service.restart()
    assert service.head(path).status == 410


def test_a_new_ticket_is_deleted(service: Service) -> None:
    path = service.ticket()
    assert service.request("DELETE", path).status == 204
    assert service.create(path, 5).status == 410


def test_what_is_being_sent_is_cut_first(service: Service) -> None:
    """D8.2: its client learns that it is over."""
    path = service.bring(Status.OPEN)
    wire = service.open_append(path, 4, b"45", 6)
    assert service.request("DELETE", path).status == 204
    try:
        answer = wire.read_response()
    except ConnectionEnded:
        pass
    else:
        assert (answer.status, answer.code) == (410, "upload_cancelled")
        assert "upload-offset" not in answer.headers
    assert set(service.bytes_of(path)) == {"record.json"}


def test_what_is_being_sent_to_a_part_is_cut_too(service: Service) -> None:
    path = service.ticket()
    part = service.create(path, 10, {"Upload-Concat": "partial"}).headers["location"]
    wire = service.open_append(part, 0, b"01", 6)
    assert service.request("DELETE", path).status == 204
    with contextlib.suppress(ConnectionEnded):
        assert wire.read_response().status == 410
    assert service.head(part).status == 410
    assert set(service.bytes_of(path)) == {"record.json"}


def test_a_cancelled_upload_tells_its_web_app(service: Service) -> None:
    path = service.bring(Status.CANCELLED)
    assert [n.type for n in service.record(path).notifications] == ["upload.cancelled"]


def test_deleting_says_nothing_to_others(service: Service) -> None:
    """D8.4 is not ours: termination is offered; but nobody can delete by another's URL."""
    mine, other = service.bring(Status.OPEN), service.bring(Status.OPEN)
    before = service.bytes_of(other)
    service.request("DELETE", mine)
    assert service.bytes_of(other) == before
