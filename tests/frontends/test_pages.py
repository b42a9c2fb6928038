"""What pages use beside the upload resource: the status, the library, the balancer's check."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

import pytest

from incomingd.core.status import Status
from incomingd.engine import ending
from incomingd.frontends.uploads import PREFIX
from tests.frontends.conftest import MakeService
from tests.frontends.service import Service, check_problem
from tests.support.wire import Headers, Response, Wire

FRONTEND = PREFIX.removesuffix("/uploads")
CONTENT = b"0123456789"


def ask(service: Service, path: str, headers: Headers | None = None, method: str = "GET") -> Response:
    with Wire(service.address) as wire:
        return wire.request(method, path, headers)


# -- status


@pytest.mark.parametrize(
    "status, state, offset",
    [
        (Status.OPEN, None, 4),
        (Status.COMPLETE, "arrived", 10),
        (Status.HANDING_OVER, "handing_over", 10),
        (Status.AWAITING_APP, "waiting", 10),
        (Status.FINISHED, "done", 10),
        (Status.FAILED, "refused", None),
        (Status.CANCELLED, None, None),
        (Status.EXPIRED, None, None),
        (Status.LOST, None, None),
    ],
)
def test_the_status_of_an_upload(service: Service, status: Status, state: str | None, offset: int | None) -> None:
    """API: status, offset, length, hand-over, limits, and why it ended."""
    path = service.bring(status, CONTENT)
    answer = ask(service, f"{path}/status")
    assert answer.status == 200
    assert answer.headers["cache-control"] == "no-store"
    document = answer.json()
    assert document["status"] == status.value
    assert document["length"] == 10
    assert (document["handover"] or {}).get("state") == state
    if offset is not None:
        assert document["offset"] == offset
    assert (document["error"] is not None) is status.gone
    if status is Status.FAILED:
        assert document["handover"]["message"] == "no"


def test_the_limits_of_a_ticket(service: Service) -> None:
    path = service.ticket(max_length=50, content_types=("text/*",), client_cancel=False)
    limits = ask(service, f"{path}/status").json()["limits"]
    assert (limits["max_length"], limits["length"]) == (50, None)
    assert limits["content_types"] == ["text/*"]
    assert limits["client_cancel"] is False
    assert limits["expires_at"].endswith("Z")


def test_what_the_web_app_has_for_the_page(service: Service) -> None:
    path = service.bring(Status.HANDING_OVER)
    data = {"url": "/files/7"}
    service.do(path, lambda u: ending.app_done(u, message="Thank you", client_data=data))
    handover = ask(service, f"{path}/status").json()["handover"]
    assert handover == {"state": "done", "message": "Thank you", "client_data": data}


def test_the_status_tells_no_secret(service: Service) -> None:
    path = service.bring(Status.COMPLETE)
    text = ask(service, f"{path}/status").body.decode()
    record = service.record(path)
    assert record.handover.download_token is not None
    for secret in (record.terms.secret, record.terms.finish_url, record.handover.download_token, str(service.folder)):
        assert secret not in text


@pytest.fixture
def held(service: Service) -> Iterator[tuple[str, list[Response], threading.Thread]]:
    """A request for the status of an open upload that is held."""
    path = service.bring(Status.OPEN)
    answers: list[Response] = []
    waiting = threading.Event()

    def run() -> None:
        with Wire(service.address) as wire:
            wire.send_head("GET", f"{path}/status?wait_s=25")
            waiting.set()
            answers.append(wire.read_response())

    thread = threading.Thread(target=run)
    thread.start()
    waiting.wait(10)

    async def watched() -> bool:
        return bool(service.engine.services.events._watchers)

    while not service.run(watched()):
        pass
    yield path, answers, thread
    thread.join(10)
    assert not thread.is_alive()


def test_the_status_is_held_until_something_changes(
    service: Service, held: tuple[str, list[Response], threading.Thread]
) -> None:
    """API: `wait_s`; never pre-empts."""
    path, answers, thread = held
    assert answers == []
    service.patch(path, 4, b"456789")
    thread.join(10)
    assert answers[0].status == 200
    assert answers[0].json()["offset"] > 4


def test_a_held_status_is_answered_when_the_upload_ends(
    service: Service, held: tuple[str, list[Response], threading.Thread]
) -> None:
    path, answers, thread = held
    service.request("DELETE", path)
    thread.join(10)
    assert answers[0].json()["status"] == "cancelled"


def test_a_held_status_is_answered_when_the_daemon_stops(
    service: Service, held: tuple[str, list[Response], threading.Thread]
) -> None:
    _, answers, thread = held
    service.run(service.engine.stop())
    thread.join(10)
    assert answers[0].json()["status"] == "open"


def test_the_status_of_an_ended_upload_is_not_held(service: Service) -> None:
    """Nothing will change any more."""
    path = service.bring(Status.FINISHED)
    assert ask(service, f"{path}/status?wait_s=25").json()["status"] == "finished"


def test_a_wait_that_is_none(service: Service) -> None:
    path = service.ticket()
    for wait_s in ("-1", "26", "x", "", "nan", "inf", "1e9", "0x1", "1;2"):
        answer = ask(service, f"{path}/status?wait_s={wait_s}")
        assert (answer.status, check_problem(answer).value) == (400, "field_invalid"), wait_s


@pytest.mark.parametrize("upload", ["0" * 55, "..", "%2e%2e", "x", "%00", "0" * 55 + "%2f"])
def test_the_status_of_what_is_not_there(service: Service, upload: str) -> None:
    answer = ask(service, f"{PREFIX}/{upload}/status")
    assert (answer.status, check_problem(answer).value) == (404, "upload_unknown")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "PROPFIND"])
def test_the_status_is_only_read(service: Service, method: str) -> None:
    path = service.bring(Status.OPEN)
    answer = ask(service, f"{path}/status", {"Content-Length": "0"}, method)
    assert (answer.status, check_problem(answer).value) == (405, "method_not_allowed")
    assert "GET" in answer.headers["allow"]
    assert service.offset(path) == 4


def test_looking_at_the_status_pulls_nothing(service: Service) -> None:
    """API: never pulls."""
    path = service.ticket()
    ask(service, f"{path}/status")
    assert service.record(path).epoch == 0


# -- library


@pytest.mark.parametrize("name", ["incoming.js", "incoming.mjs"])
def test_the_library_is_served(service: Service, name: str) -> None:
    answer = ask(service, f"{FRONTEND}/{name}")
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert b"__INCOMING_BASE_URL__" not in answer.body
    again = ask(service, f"{FRONTEND}/{name}", {"If-None-Match": answer.headers["etag"]})
    assert (again.status, again.body) == (304, b"")
    head = ask(service, f"{FRONTEND}/{name}", method="HEAD")
    assert head.headers["content-length"] == str(len(answer.body))


@pytest.mark.parametrize("base_url", ["https://up.example.org", "https://up.example.org/a"])
def test_the_library_knows_its_host(make_service: MakeService, base_url: str) -> None:
    service = make_service({"public": {"base_url": base_url}})
    assert json.dumps(base_url).encode() in ask(service, f"{FRONTEND}/incoming.mjs").body


@pytest.mark.parametrize("name", ["incoming.css", "incoming.js.map", "../uploads.py", "incoming.mjs/", "incomingXjs"])
def test_nothing_else_is_served(service: Service, name: str) -> None:
    answer = ask(service, f"{FRONTEND}/{name}")
    assert (answer.status, check_problem(answer).value) == (404, "path_unknown")


# -- health, unknown paths


def test_health(service: Service) -> None:
    """API: 200 or 503, and nothing else told."""
    answer = ask(service, "/incoming/1.0/health")
    assert (answer.status, answer.body) == (200, b"")
    service.engine.state.stop()
    answer = ask(service, "/incoming/1.0/health")
    assert (answer.status, answer.body) == (503, b"")


def test_a_path_of_another_listener_does_not_exist(service: Service) -> None:
    here = (
        "/",
        "/incoming",
        "/incoming/1.0/backend/uploads",
        "/incoming/1.0/admin/status",
        "/metrics",
        "/favicon.ico",
        "*",
    )
    for path in here:
        for method in ("GET", "POST", "OPTIONS", "PROPFIND"):
            answer = ask(service, path, {"Content-Length": "0"}, method)
            assert answer.status in (404, 405), (method, path)
            check_problem(answer)
