"""Pages of other origins: which may upload, and what they get to read (tus checklist 11)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from incomingd.core.status import Status
from incomingd.frontends import cors
from incomingd.frontends.uploads import PREFIX
from tests.frontends.conftest import MakeService
from tests.frontends.service import Service
from tests.support.machine import wait_until
from tests.support.tus import OFFSET_TYPE, VERSION
from tests.support.wire import Headers, Response

PAGE = "https://app.example.org"
OTHER = "https://evil.example"
PREFLIGHT: Headers = {"Access-Control-Request-Method": "PATCH", "Access-Control-Request-Headers": "tus-resumable"}

ALLOW_METHODS = {"POST", "HEAD", "PATCH", "DELETE", "OPTIONS", "GET", "PUT"}
ALLOW_HEADERS = (
    "Authorization, Content-Type, Content-Disposition, X-Requested-With, X-Request-ID, X-HTTP-Method-Override,"
    " Tus-Resumable, Upload-Length, Upload-Offset, Upload-Metadata, Upload-Defer-Length, Upload-Concat,"
    " Upload-Checksum, Upload-Complete, Upload-Incomplete, Upload-Draft-Interop-Version, Content-Digest, Repr-Digest,"
    " Want-Content-Digest, Want-Repr-Digest, Incremental, Idempotency-Key"
)
EXPOSE_HEADERS = (
    "Location, Upload-Offset, Upload-Length, Upload-Metadata, Upload-Defer-Length, Upload-Concat, Upload-Expires,"
    " Upload-Complete, Upload-Incomplete, Upload-Limit, Upload-Draft-Interop-Version, Tus-Resumable, Tus-Version,"
    " Tus-Extension, Tus-Max-Size, Tus-Checksum-Algorithm, Content-Digest, Repr-Digest, Retry-After, X-Request-ID"
)


def listed(value: str) -> set[str]:
    return {item.strip().lower() for item in value.split(",")}


def check_readable(answer: Response, origin: str) -> None:
    """Fail unless a page of *origin* can read *answer*, with all headers that clients need (Q11.4, Q11.5)."""
    headers = answer.headers
    assert headers["access-control-allow-origin"] == origin
    assert listed(headers["access-control-expose-headers"]) >= listed(EXPOSE_HEADERS)
    assert "origin" in listed(headers["vary"])
    assert "access-control-allow-credentials" not in headers


def check_unreadable(answer: Response) -> None:
    assert not [name for name in answer.headers if name.startswith("access-control-")]
    assert "origin" in listed(answer.headers["vary"])


# -- preflight


@pytest.mark.parametrize("below", ["", "/{upload}", "/{upload}/parts/{part}", "/{upload}/status"])
def test_a_preflight(service: Service, below: str) -> None:
    """Q11.1 to Q11.4: answered without anything, to be kept a day."""
    path = PREFIX + below.format(upload=service.ticket().rpartition("/")[2], part="0" * 22)
    with service.connect() as wire:
        answer = wire.request("OPTIONS", path, PREFLIGHT | {"Origin": PAGE})
    assert (answer.status, answer.body) == (204, b"")
    check_readable(answer, PAGE)
    assert {m.upper() for m in listed(answer.headers["access-control-allow-methods"])} >= ALLOW_METHODS
    assert listed(answer.headers["access-control-allow-headers"]) >= listed(ALLOW_HEADERS)
    assert answer.headers["access-control-max-age"] == "86400"


def test_every_header_that_is_asked_for_by_tus_is_allowed_and_readable() -> None:
    """Q11.3, Q11.4: what the code reads and writes cannot be missing from the two lists."""
    sources = [Path(cors.__file__).parents[1] / "wire" / "tus.py", Path(cors.__file__).with_name("uploads.py")]
    text = "".join(source.read_text("utf-8") for source in sources)
    names = set(re.findall(r'"((?:Upload|Tus|X-HTTP)-[A-Za-z-]+|Location|Retry-After)"', text))
    assert len(names) > 12
    both = listed(", ".join((*cors.REQUEST_HEADERS, *cors.EXPOSED)))
    assert {name.lower() for name in names} <= both


# -- every answer


def test_every_answer_is_readable_refusals_too(service: Service) -> None:
    """Q11.5: a header that is missing on one of them makes clients start anew."""
    path, done, gone = service.ticket(), service.bring(Status.COMPLETE), service.bring(Status.CANCELLED)
    page = {"Origin": PAGE}
    answers = [
        (200, service.head(path, page)),
        (201, service.create(path, 10, page)),
        (204, service.patch(path, 0, b"0123", page)),
        (400, service.create(path, 10, page | {"Upload-Defer-Length": "1"})),
        (403, service.create(done, 99, page)),
        (404, service.request("HEAD", f"{PREFIX}/{'0' * 55}", page)),
        (404, service.request("PATCH", f"{PREFIX}/no/such/thing", page)),
        (405, service.request("PUT", path, page)),
        (409, service.patch(path, 7, b"x", page)),
        (410, service.head(gone, page)),
        (412, service.request("PATCH", path, page | {"Tus-Resumable": "0.1"})),
        (413, service.patch(path, 4, b"x" * 7, page)),
        (415, service.patch(path, 4, b"x", page | {"Content-Type": "text/plain"})),
        (460, service.patch(path, 4, b"x", page | {"Upload-Checksum": "crc32 AAAAAA=="})),
        (204, service.request("DELETE", path, page)),
        (403, service.request("POST", PREFIX, page)),
    ]
    for status, answer in answers:
        assert answer.status == status
        check_readable(answer, PAGE)


def test_a_failure_and_a_pre_emption_are_readable(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Q11.5."""
    service.errors_expected.add("request.failed")
    path = service.bring(Status.OPEN)
    old = service.open_append(path, 4, b"45", 6, {"Origin": PAGE})
    assert service.offset(path) == 6
    check_readable(old.read_response(), PAGE)

    async def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(service.engine, "append", broken)
    answer = service.patch(path, 6, b"x", {"Origin": PAGE})
    assert answer.status == 500
    check_readable(answer, PAGE)


def test_a_request_of_no_page_gets_no_such_headers_but_is_told_apart_by_caches(service: Service) -> None:
    check_unreadable(service.head(service.ticket()))


@pytest.mark.parametrize("origin", ["null", "http://localhost:3000", "capacitor://localhost", "https://a.b:8443"])
def test_by_default_every_page_may(service: Service, origin: str) -> None:
    """The URL is the permission."""
    answer = service.create(service.ticket(), 5, {"Origin": origin})
    assert answer.status == 201
    check_readable(answer, origin)


# -- pages that may not


def not_allowed(service: Service, path: str, origin: str) -> None:
    """Fail unless nothing of a page of *origin* is taken at *path*."""
    before = service.bytes_of(path)
    for method in ("OPTIONS", "HEAD", "POST", "PATCH", "DELETE", "GET", "PUT"):
        answer = service.request(
            method, path, OFFSET_TYPE | {"Origin": origin, "Upload-Offset": "4", "Upload-Length": "10"} | PREFLIGHT
        )
        assert answer.status == 403, method
        assert method == "HEAD" or answer.code == "origin_not_allowed"
        check_unreadable(answer)
        assert "upload-offset" not in answer.headers
    answer = service.patch(path, 4, b"x", {"Origin": origin})
    assert (answer.status, answer.code) == (403, "origin_not_allowed")
    override = {"X-HTTP-Method-Override": "DELETE", "Origin": origin}
    assert service.request("POST", path, override).status == 403
    assert service.bytes_of(path) == before
    assert service.offset(path) == 4


@pytest.mark.parametrize(
    "origin",
    [
        OTHER,
        "null",
        "",
        "http://app.example.org",
        "https://app.example.org:8443",
        "https://app.example.org.evil.example",
        "https://evil.example/app.example.org",
        "https://app.example.org@evil.example",
        "https://app.example.org, https://evil.example",
        "app.example.org",
        "\u00e9",
        "x" * 3000,
    ],
)
def test_a_page_of_another_origin_is_refused(make_service: MakeService, origin: str) -> None:
    """API: 403, no byte taken, preflights included."""
    service = make_service({"public": {"allowed_origins": [PAGE, "http://localhost:3000"]}})
    not_allowed(service, service.bring(Status.OPEN), origin)
    for method in ("POST", "OPTIONS"):
        answer = service.request(method, PREFIX, {"Origin": origin, "Upload-Length": "1"})
        assert (answer.status, answer.code) == (403, "origin_not_allowed")


@pytest.mark.parametrize("origin", [PAGE, "http://localhost:3000", "HTTPS://APP.EXAMPLE.ORG"])
def test_a_page_of_an_allowed_origin_is_not(make_service: MakeService, origin: str) -> None:
    service = make_service({"public": {"allowed_origins": [PAGE, "http://localhost:3000"]}})
    answer = service.create(service.ticket(), 5, {"Origin": origin})
    assert answer.status == 201
    check_readable(answer, origin)


def test_no_byte_of_a_refused_page_is_waited_for(make_service: MakeService) -> None:
    """API: no byte taken; and no 100 is sent for it."""
    service = make_service({"public": {"allowed_origins": [PAGE]}})
    path = service.bring(Status.OPEN)
    wire = service.connect()
    headers = VERSION | OFFSET_TYPE | {"Upload-Offset": "4", "Origin": OTHER, "Expect": "100-continue"}
    wire.send_head("PATCH", path, headers | {"Content-Length": "1000000"})
    answer = wire.read_response()
    assert (answer.status, answer.interim) == (403, ())


def test_two_origins_are_refused(make_service: MakeService) -> None:
    service = make_service({"public": {"allowed_origins": [PAGE]}})
    path = service.bring(Status.OPEN)
    wire = service.connect()
    lines = ("Host: x", "Tus-Resumable: 1.0.0", f"Origin: {PAGE}", f"Origin: {OTHER}")
    wire.send("\r\n".join((f"DELETE {path} HTTP/1.1", *lines, "\r\n")).encode())
    assert wire.read_response().status == 403
    assert service.offset(path) == 4


# -- what the ticket says


def test_a_ticket_can_name_its_pages(service: Service) -> None:
    """API: `origins`."""
    path = service.bring(Status.OPEN, origins=(PAGE,))
    not_allowed(service, path, OTHER)
    answer = service.patch(path, 4, b"45", {"Origin": PAGE})
    assert answer.status == 204
    check_readable(answer, PAGE)


def test_a_ticket_allows_no_page_that_the_operator_does_not(make_service: MakeService) -> None:
    service = make_service({"public": {"allowed_origins": [PAGE]}})
    not_allowed(service, service.bring(Status.OPEN, origins=(OTHER, PAGE)), OTHER)


def test_a_ticket_s_pages_hold_for_its_parts_and_its_status(service: Service) -> None:
    path = service.ticket(origins=(PAGE,))
    part = service.create(path, 5, {"Upload-Concat": "partial"}).headers["location"]
    for origin, status in ((OTHER, 403), (PAGE, 200)):
        assert service.head(part, {"Origin": origin}).status == status
        with service.connect() as wire:
            answer = wire.request("GET", f"{path}/status", {"Origin": origin})
        assert answer.status == status
        if status == 200:
            check_readable(answer, PAGE)
        else:
            assert answer.code == "origin_not_allowed"
            check_unreadable(answer)


def test_who_is_no_page_is_not_asked(service: Service) -> None:
    """`origins` keep other pages out, not programs: they have no origin."""
    path = service.bring(Status.OPEN, origins=(PAGE,))
    assert service.patch(path, 4, b"45").status == 204


def test_a_ticket_s_pages_are_asked_for_when_the_volume_is_away(make_service: MakeService) -> None:
    """Nobody is let in because it could not be found out whether he may."""
    service = make_service({"hold_s": 1})
    service.errors_expected.add("volume.failed")
    path = service.bring(Status.OPEN, origins=(PAGE,))
    service.close(check=False)
    service.start()
    away = service.folder.with_name("away")
    service.folder.rename(away)
    try:
        for method in ("PATCH", "DELETE", "POST", "OPTIONS"):
            answer = service.request(method, path, {"Origin": OTHER, "Upload-Length": "10"})
            assert (answer.status, answer.code) == (503, "storage_unavailable")
        assert service.head(path, {"Origin": OTHER}).status == 423
        wire = service.connect()
        service.clock.slept_s.clear()
        wire.send_head("HEAD", path, VERSION | {"Origin": OTHER})
        wait_until(lambda: service.clock.slept_s, "it is held", timeout_s=10)
    finally:
        away.rename(service.folder)
    answer = wire.read_response("HEAD")
    assert answer.status == 403
    assert "upload-offset" not in answer.headers
