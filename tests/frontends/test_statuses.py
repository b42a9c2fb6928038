"""What a request meets, by the status of the upload: the table of the tus checklist, section 12, completely."""

from __future__ import annotations

from typing import Final

import pytest

from incomingd.core.status import Status
from tests.frontends.service import Service
from tests.support.wire import Response

CONTENT = b"0123456789"
REQUESTS: Final = (
    "head",
    "empty at the end",
    "wrong offset",
    "beyond",
    "same creation",
    "other creation",
    "delete",
)
GONE: Final[dict[str, tuple[int, str | None]]] = dict.fromkeys(REQUESTS, (410, None))
WHOLE: Final[dict[str, tuple[int, str | None]]] = {
    "head": (200, None),
    "empty at the end": (204, None),
    "wrong offset": (409, "offset_mismatch"),
    "beyond": (413, "length_exceeded"),
    "same creation": (201, None),
    "other creation": (403, "upload_complete"),
}
TABLE: Final[dict[Status, dict[str, tuple[int, str | None]]]] = {
    Status.OPEN: {
        "head": (200, None),
        "empty at the end": (204, None),
        "wrong offset": (409, "offset_mismatch"),
        "beyond": (413, "length_exceeded"),
        "same creation": (201, None),
        "other creation": (201, None),
        "delete": (204, None),
    },
    Status.COMPLETE: WHOLE | {"delete": (204, None)},
    Status.HANDING_OVER: WHOLE | {"delete": (423, "handing_over")},
    Status.AWAITING_APP: WHOLE | {"delete": (423, "handing_over")},
    Status.FINISHED: WHOLE | {"delete": (204, None)},
    Status.FAILED: GONE,
    Status.CANCELLED: GONE,
    Status.EXPIRED: GONE,
    Status.LOST: GONE,
}
GONE_CODES: Final = {
    Status.FAILED: "upload_failed",
    Status.CANCELLED: "upload_cancelled",
    Status.EXPIRED: "upload_expired",
    Status.LOST: "upload_lost",
}


def send(service: Service, path: str, request: str, status: Status) -> Response:
    at = 4 if status in (Status.OPEN, Status.CANCELLED, Status.EXPIRED, Status.LOST) else 10
    if request == "head":
        return service.head(path)
    if request == "empty at the end":
        return service.patch(path, at, b"")
    if request == "wrong offset":
        return service.patch(path, at - 1, b"x")
    if request == "beyond":
        return service.patch(path, at, b"x" * 7)
    if request == "same creation":
        return service.request("POST", path, {"Upload-Length": "10", "Upload-Metadata": "filename YQ=="})
    if request == "other creation":
        return service.request("POST", path, {"Upload-Length": "10", "Upload-Metadata": "filename Yg=="})
    assert request == "delete"
    return service.request("DELETE", path)


def test_the_table_is_complete() -> None:
    assert set(TABLE) == set(Status)
    assert all(set(row) == set(REQUESTS) for row in TABLE.values())


@pytest.mark.parametrize("restarted", [False, True], ids=["running", "restarted"])
@pytest.mark.parametrize("status", list(TABLE), ids=lambda status: status.value)
def test_what_a_request_meets(service: Service, status: Status, restarted: bool) -> None:
    """Each on an upload of its own, as it is, and as a daemon finds it that was started just now."""
    uploads = {request: service.bring(status, CONTENT) for request in TABLE[status]}
    if restarted:
        service.restart()
        # What a restart leaves to be done again: the callback may have arrived or not.
        if status is Status.HANDING_OVER:
            uploads.pop("delete")
    for request, path in uploads.items():
        expected, code = TABLE[status][request]
        answer = send(service, path, request, status)
        assert answer.status == expected, (request, answer)
        if expected >= 400 and request != "head":
            assert answer.code == (code or GONE_CODES[status]), request
        whole = expected != 410 and status is not Status.OPEN
        if request == "head" and expected == 200:
            assert answer.offset == (10 if whole else 4)
            assert answer.headers["upload-length"] == "10"
            assert answer.headers["upload-metadata"] == "filename YQ=="
        if expected == 410:
            assert "upload-offset" not in answer.headers, request
        elif whole and request in ("empty at the end", "wrong offset", "beyond", "same creation"):
            assert answer.offset == 10, request
        if whole and request != "delete" and status is not Status.FINISHED:
            assert service.file_of(path) == CONTENT, request


def test_deleting_a_finished_upload(service: Service) -> None:
    """204, then 410; the app's file is untouched."""
    path = service.bring(Status.FINISHED, CONTENT, after_handover="keep")
    assert service.request("DELETE", path).status == 204
    for _ in range(2):
        assert service.head(path).status == 410
        assert service.patch(path, 10, b"").status == 410
        assert service.request("DELETE", path).status == 410
        service.restart()
    assert service.record(path).status is Status.FINISHED
    assert service.file_of(path) == CONTENT


def test_a_finished_upload_whose_file_is_gone_still_says_where_it_ended(service: Service) -> None:
    path = service.bring(Status.FINISHED, CONTENT, after_handover="delete")
    file = service.volume.path_of(service.record(path))
    assert file is not None
    assert not file.exists()
    assert service.offset(path) == 10


@pytest.mark.parametrize("status", [Status.OPEN, Status.COMPLETE, Status.HANDING_OVER, Status.FINISHED])
def test_a_ticket_that_its_client_may_not_cancel(service: Service, status: Status) -> None:
    path = service.bring(status, CONTENT, client_cancel=False)
    answer = service.request("DELETE", path)
    assert (answer.status, answer.code) == (403, "client_cancel_refused")
    assert service.record(path).status is status


def test_an_answer_that_was_lost_can_be_had_again(service: Service) -> None:
    """D3.6: every request of an upload's life sent twice, each answer of the first time thrown away."""
    path = service.ticket(length=10)
    for _ in range(2):
        assert service.create(path, 10).headers["upload-offset"] == "0"
    assert service.patch(path, 0, b"01234").offset == 5
    again = service.patch(path, 0, b"01234")
    assert (again.status, again.offset) == (409, 5)
    assert service.patch(path, 5, b"56789").offset == 10
    again = service.patch(path, 5, b"56789")
    assert (again.status, again.offset) == (409, 10)
    assert service.offset(path) == 10
    assert service.file_of(path) == CONTENT
    for _ in range(2):
        assert service.create(path, 10).headers["upload-offset"] == "10"
    assert service.request("DELETE", path).status == 204
    assert service.request("DELETE", path).status == 410
