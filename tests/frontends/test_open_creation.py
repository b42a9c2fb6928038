"""Open creation: anyone may begin uploads without a ticket, where the operator says so."""

from __future__ import annotations

import pytest

from incomingd.core.ids import is_upload_id
from incomingd.core.status import Status
from incomingd.frontends.uploads import PREFIX
from tests.frontends.conftest import MakeService
from tests.frontends.service import Service, id_of
from tests.support.tus import OFFSET_TYPE, VERSION

PARTIAL = {"Upload-Concat": "partial"}


@pytest.fixture
def service(make_service: MakeService) -> Service:
    return make_service({"public": {"open_creation": True}})


def begun(service: Service, length: int | None, body: bytes = b"", **headers: str) -> str:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = service.create(PREFIX, length, given, body or None)
    assert answer.status == 201, answer
    return answer.headers["location"]


def uploads(service: Service) -> list[str]:
    return sorted(folder.name for folder in (service.folder / "uploads").glob("*/*"))


@pytest.mark.parametrize("headers", [{"Upload-Length": "5"}, PARTIAL | {"Upload-Length": "5"}, {}])
def test_it_is_off_by_default(make_service: MakeService, headers: dict[str, str]) -> None:
    service = make_service()
    answer = service.request("POST", PREFIX, headers)
    assert (answer.status, answer.code) == (403, "creation_not_offered")
    assert uploads(service) == []


def test_an_upload_begins_and_completes(service: Service) -> None:
    """M4.2."""
    answer = service.create(PREFIX, 5, filename="a.txt")
    path = answer.headers["location"]
    assert answer.status == 201
    assert path.startswith(PREFIX + "/")
    assert is_upload_id(id_of(path))
    assert answer.headers["upload-offset"] == "0"
    assert answer.headers["x-upload-id"] == id_of(path)
    assert service.patch(path, 0, b"01234").status == 204
    assert service.file_of(path) == b"01234"
    assert service.head(path).headers["upload-length"] == "5"


def test_bytes_may_come_along(service: Service) -> None:
    """M5.2."""
    path = begun(service, 5, b"01234")
    assert service.file_of(path) == b"01234"


@pytest.mark.parametrize(
    "headers, body, status",
    [
        ({}, b"", 400),
        ({"Upload-Length": "-1"}, b"", 400),
        ({"Upload-Length": "5", "Upload-Metadata": ",,"}, b"", 400),
        ({"Upload-Length": "2"} | OFFSET_TYPE, b"012", 413),
        ({"Upload-Length": "5", "Content-Type": "text/plain"}, b"012", 415),
        ({"Upload-Length": "5", "Upload-Checksum": "x"} | OFFSET_TYPE, b"012", 400),
        ({"Upload-Length": "5", "Upload-Concat": "nonsense"}, b"", 400),
        ({"Upload-Concat": "final;/x"}, b"", 400),
        ({"Upload-Concat": "final;http://["}, b"", 400),
        ({"Upload-Concat": f"final;{PREFIX}"}, b"", 400),
        ({"Upload-Concat": f"final;{PREFIX}/{'0' * 55}"}, b"", 400),
        ({"Upload-Length": "5"}, None, 412),
    ],
)
def test_a_refused_creation_leaves_nothing_behind(
    service: Service, headers: dict[str, str], body: bytes | None, status: int
) -> None:
    """D4.9."""
    answer = service.request("POST", PREFIX, headers, body or None, tus=body is not None)
    assert answer.status == status
    assert uploads(service) == []


def test_a_length_over_the_limit_leaves_nothing_behind(make_service: MakeService) -> None:
    """M4.3, D4.9."""
    service = make_service({"public": {"open_creation": True}, "limits": {"upload_bytes": 10}})
    answer = service.create(PREFIX, 11)
    assert (answer.status, answer.code) == (413, "upload_too_large")
    assert uploads(service) == []


def test_a_creation_that_is_cut_expires(service: Service) -> None:
    """D5.6: its client never learned the URL."""
    with service.connect() as wire:
        wire.send_head("POST", PREFIX, VERSION | OFFSET_TYPE | {"Upload-Length": "5", "Content-Length": "5"})
        wire.send(b"012")
        service.wait_event("upload.pulled")
    service.wait_event("append.ended", ended_by="client")
    (upload_id,) = uploads(service)
    service.expire(f"{PREFIX}/{upload_id}")
    assert service.head(f"{PREFIX}/{upload_id}").status == 410


def test_each_creation_is_another_upload(service: Service) -> None:
    first, second = begun(service, 5), begun(service, 5)
    assert first != second
    service.patch(first, 0, b"01234")
    assert service.offset(second) == 0


def test_nobody_is_called_back(service: Service) -> None:
    path = begun(service, 5, b"01234")
    service.wait_joined(path)
    assert service.record(path).terms.finish_url == ""


# -- concatenation: parts are uploads of their own


def test_parts_become_an_upload(service: Service) -> None:
    """M10.2, M10.3, D4.10: and are not used up by it."""
    first = begun(service, 5, b"01234", Upload_Concat="partial")
    second = begun(service, 3, b"abc", Upload_Concat="partial")
    assert service.head(first).headers["upload-concat"] == "partial"
    for _ in range(2):
        answer = service.request("POST", PREFIX, {"Upload-Concat": f"final;{first} {second} {first}"})
        assert answer.status == 201
        path = answer.headers["location"]
        assert path not in (first, second)
        assert service.offset(path) == 13
        assert service.head(path).headers["upload-concat"] == f"final;{first} {second} {first}"
        assert service.file_of(path) == b"01234abc01234"
    assert service.record(first).status is Status.OPEN


def test_a_part_may_be_deleted_once_the_final_upload_stands(service: Service) -> None:
    """M10.3, M10.7."""
    part = begun(service, 5, b"01234", Upload_Concat="partial")
    path = service.request("POST", PREFIX, {"Upload-Concat": f"final;{part}"}).headers["location"]
    assert service.request("DELETE", part).status == 204
    assert service.file_of(path) == b"01234"
    again = service.request("POST", PREFIX, {"Upload-Concat": f"final;{part}"})
    assert (again.status, again.code) == (400, "concat_part_unknown")


def test_a_final_upload_is_deleted_alone(service: Service) -> None:
    """M10.7."""
    part = begun(service, 5, b"01234", Upload_Concat="partial")
    path = service.request("POST", PREFIX, {"Upload-Concat": f"final;{part}"}).headers["location"]
    assert service.request("DELETE", path).status == 204
    assert service.offset(part) == 5


@pytest.mark.parametrize("restarted", [False, True])
def test_a_final_upload_waits_for_its_parts(service: Service, restarted: bool) -> None:
    """M10.6, M2.7."""
    first = begun(service, 5, b"01", Upload_Concat="partial")
    second = begun(service, None, b"ab", Upload_Concat="partial")
    answer = service.request("POST", PREFIX, {"Upload-Concat": f"final;{first} {second}"})
    path = answer.headers["location"]
    assert answer.status == 201
    assert "upload-offset" not in answer.headers
    if restarted:
        service.restart()
    assert not {"upload-offset", "upload-length"} & service.head(path).headers.keys()
    assert service.patch(first, 2, b"234").status == 204
    assert service.record(path).status is Status.OPEN
    assert service.patch(second, 2, b"c", {"Upload-Length": "3"}).status == 204
    assert service.offset(path) == 8
    assert service.file_of(path) == b"01234abc"


def test_a_final_upload_takes_no_bytes(service: Service) -> None:
    """M3.9, M10.7."""
    part = begun(service, 5, b"01", Upload_Concat="partial")
    path = service.request("POST", PREFIX, {"Upload-Concat": f"final;{part}"}).headers["location"]
    for body in (b"", b"x"):
        answer = service.patch(path, 0, body)
        assert (answer.status, answer.code) == (403, "concat_final")
    assert service.request("POST", PREFIX, {"Upload-Concat": f"final;{part}"} | OFFSET_TYPE, b"x").status == 403


def test_only_partial_uploads_that_were_begun_openly_may_be_named(service: Service) -> None:
    """D10.4: no ticket's bytes are read that way, nor those of an upload that is none of the parts."""
    whole = begun(service, 5, b"01234")
    ticket = service.ticket()
    ticket_part = service.create(ticket, 5, PARTIAL, b"secre").headers["location"]
    mine = begun(service, 5, b"01234", Upload_Concat="partial")
    before = uploads(service)
    for other in (whole, ticket, ticket_part, f"{mine}/parts/{'0' * 22}"):
        answer = service.request("POST", PREFIX, {"Upload-Concat": f"final;{mine} {other}"})
        assert (answer.status, answer.code) == (400, "concat_part_unknown"), other
        assert uploads(service) == before


def test_the_sum_must_not_be_over_the_limit(make_service: MakeService) -> None:
    """M10.5."""
    service = make_service({"public": {"open_creation": True}, "limits": {"upload_bytes": 8}})
    part = begun(service, 5, b"01234", Upload_Concat="partial")
    answer = service.request("POST", PREFIX, {"Upload-Concat": f"final;{part} {part}"})
    assert (answer.status, answer.code) == (413, "upload_too_large")
