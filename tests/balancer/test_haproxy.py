"""`haproxy/haproxy.cfg` in the real HAProxy: who gets which request, what is tried again, what clients are told."""

from __future__ import annotations

import json
import os
import queue
import re
import secrets
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from incomingd.core.errors import PROBLEMS, Code
from incomingd.frontends import cors
from tests.balancer.h2client import H2
from tests.balancer.standin import HANG_UP, Asked, Reply, StandIn
from tests.support.haproxy import CONFIG, HAProxy, program
from tests.support.machine import wait_until
from tests.support.tus import VERSION
from tests.support.wire import Headers, Response, Wire

UPLOADS = "/incoming/1.0/frontend/uploads"
TICKETS = "/incoming/1.0/backend/uploads"
PAGE: Headers = {"Origin": "https://app.example"}
StandIns = dict[str, StandIn]


def new_path() -> str:
    return f"{UPLOADS}/{secrets.token_urlsafe(24)}"


def ask(
    balancer: HAProxy, method: str, path: str, headers: Headers | None = None, body: bytes | None = None
) -> Response:
    with Wire(balancer.plain) as wire:
        return wire.request(method, path, headers, body)


def asked(stand_ins: StandIns, path: str) -> list[str]:
    """Return the names of the instances that were asked for *path*, once for each time."""
    return [name for name, each in stand_ins.items() for request in each.asked if request.path == path]


def all_answer(stand_ins: StandIns, answer: Callable[[Asked], Reply | None]) -> None:
    for each in stand_ins.values():
        each.answer = answer


def owned(path: str, status: int = 200) -> Callable[[Asked], Reply]:
    """Return the answers of an owner of the upload at *path*."""
    return lambda _: Reply(status, {"X-Upload-Id": path.rpartition("/")[2]})


@pytest.fixture
def two_clients(balancer: HAProxy) -> Iterator[tuple[Wire, H2]]:
    with Wire(balancer.plain) as wire, H2(balancer.public, balancer.ca_file) as h2:
        yield wire, h2


# -- who gets it


def test_an_upload_stays_where_its_owner_says_it_is(
    balancer: HAProxy, stand_ins: StandIns, two_clients: tuple[Wire, H2]
) -> None:
    """The owner's header counts more than the id, over HTTP/1.1 and HTTP/2; and no client sees it."""
    wire, h2 = two_clients
    path = new_path()
    assert wire.request("HEAD", path).status == 200
    [by_id] = asked(stand_ins, path)
    # It hangs up, so another one is asked; that one says that it has the upload.
    stand_ins[by_id].answer = lambda _: HANG_UP
    for name, each in stand_ins.items():
        if name != by_id:
            each.answer = owned(path)
    answer = wire.request("HEAD", path)
    assert answer.status == 200
    assert "x-upload-id" not in answer.headers
    owner = balancer.owners()[path.rpartition("/")[2]]
    assert owner != by_id
    for each in stand_ins.values():
        each.asked.clear()
        each.answer = owned(path, 204)
    for method in ("HEAD", "PATCH", "DELETE"):
        assert wire.request(method, path).status == 204
        assert h2.request(method, path).status == 204
    assert "x-upload-id" not in h2.request("HEAD", path).headers
    assert set(asked(stand_ins, path)) == {owner}


def test_what_a_refusal_says_is_not_believed(balancer: HAProxy, stand_ins: StandIns) -> None:
    """Only 2xx comes from an owner."""
    path = new_path()
    all_answer(stand_ins, owned(path, 409))
    assert ask(balancer, "PATCH", path).status == 409
    assert path.rpartition("/")[2] not in balancer.owners()


def test_without_a_header_the_id_decides(balancer: HAProxy, stand_ins: StandIns) -> None:
    """All requests for one upload meet, and uploads are spread."""
    paths = [new_path() for _ in range(30)]
    for path in paths * 2:
        assert ask(balancer, "HEAD", path).status == 200
    assert all(len(set(asked(stand_ins, path))) == 1 for path in paths)
    assert {asked(stand_ins, path)[0] for path in paths} == set(stand_ins)


def test_what_has_no_id_is_spread(balancer: HAProxy, stand_ins: StandIns) -> None:
    for _ in range(30):
        assert ask(balancer, "POST", UPLOADS).status == 200
    assert set(asked(stand_ins, UPLOADS)) == set(stand_ins)


def test_a_reload_forgets_no_owner(balancer: HAProxy, stand_ins: StandIns) -> None:
    path = new_path()
    all_answer(stand_ins, owned(path))
    ask(balancer, "HEAD", path)
    upload_id = path.rpartition("/")[2]
    owner = balancer.owners()[upload_id]
    balancer.reload()
    wait_until(lambda: balancer.owners().get(upload_id) == owner, "the new process has heard of the owner")


@pytest.mark.parametrize("word, states, takes_new, takes_old", [
    ("drain", "DRAIN", False, True),
    ("maint", "MAINT", False, False),
    ("down", "DOWN", False, False),
])  # fmt: skip
def test_what_the_agent_says_moves_the_traffic(
    balancer: HAProxy, stand_ins: StandIns, word: str, states: str, takes_new: bool, takes_old: bool
) -> None:
    """Two phases of a drain: what is there still comes, then nothing does; `up ready` is the way back."""
    old = new_path()
    all_answer(stand_ins, owned(old))
    ask(balancer, "HEAD", old)
    owner = balancer.owners()[old.rpartition("/")[2]]
    for each in stand_ins.values():
        each.reset()
    stand_ins[owner].word = word
    balancer.wait_state(owner, states)
    if word != "down":
        # Web apps' calls go the same way.
        balancer.wait_state(owner, states, "api")
    new = [new_path() for _ in range(20)]
    for path in (*new, old):
        assert ask(balancer, "HEAD", path).status == 200
    assert any(owner in asked(stand_ins, path) for path in new) is takes_new
    assert (asked(stand_ins, old) == [owner]) is takes_old
    stand_ins[owner].word = "up ready"
    balancer.wait_state(owner, "UP")
    for path in new:
        ask(balancer, "HEAD", path)
    assert any(owner in asked(stand_ins, path) for path in new)


# -- what is tried again


@pytest.mark.parametrize("method", ["HEAD", "GET", "DELETE", "POST"])
@pytest.mark.parametrize("fault", [HANG_UP, Reply(503)], ids=["hangs up", "503"])
def test_another_instance_is_asked_where_one_has_no_answer(
    balancer: HAProxy, stand_ins: StandIns, method: str, fault: Reply | None
) -> None:
    """So an instance that is drained, or dies, is not seen by clients."""
    path = new_path()
    first: list[Asked] = []

    def once(request: Asked) -> Reply | None:
        first.append(request)
        return fault if len(first) == 1 else Reply(200)

    all_answer(stand_ins, once)
    assert ask(balancer, method, path, VERSION).status == 200
    assert len(set(asked(stand_ins, path))) == 2


@pytest.mark.parametrize("path, headers", [
    (f"{UPLOADS}/abc", {}),
    (f"{UPLOADS}/abc", {"X-HTTP-Method-Override": "PATCH"}),
    (UPLOADS, {}),
])  # fmt: skip
@pytest.mark.parametrize("fault, status", [(HANG_UP, 502), (Reply(503, {"Upload-Offset": "7"}), 503)])
def test_what_may_have_been_done_is_not_done_again(
    balancer: HAProxy, stand_ins: StandIns, path: str, headers: Headers, fault: Reply | None, status: int
) -> None:
    """A PATCH, whose client asks how much was kept; and a creation without an id, which would make another upload."""
    all_answer(stand_ins, lambda _: fault)
    method = "PATCH" if path != UPLOADS and not headers else "POST"
    lines = [
        f"{method} {path} HTTP/1.1",
        "Host: x",
        "Content-Length: 3",
        *(f"{name}: {headers[name]}" for name in headers),
    ]
    with Wire(balancer.plain) as wire:
        # In one packet: only what HAProxy gets at once it could send again.
        wire.send("\r\n".join([*lines, "", "abc"]).encode())
        answer = wire.read_response()
    assert answer.status == status
    assert len(asked(stand_ins, path)) == 1
    assert answer.headers.get("upload-offset") == (None if fault is HANG_UP else "7")


@pytest.mark.parametrize("headers, times", [({"Idempotency-Key": "k1"}, 2), ({}, 1)])
@pytest.mark.parametrize("fault, status", [(HANG_UP, 502), (Reply(503), 503)])
def test_a_ticket_is_asked_for_again_only_with_a_key(
    balancer: HAProxy, stand_ins: StandIns, headers: Headers, times: int, fault: Reply | None, status: int
) -> None:
    """Else there could be two of it."""
    first: list[Asked] = []

    def once(request: Asked) -> Reply | None:
        first.append(request)
        return fault if len(first) == 1 else Reply(201)

    all_answer(stand_ins, once)
    body = json.dumps({"finish_url": "http://app.example/", "app_data": {"text": "x" * 4000}}).encode()
    with Wire(balancer.inner) as wire:
        wire.send_head("POST", TICKETS, headers | {"Content-Length": str(len(body))})
        # In two packets: the balancer waits for all of it, so that it can send all of it again.
        wire.send(body[:100])
        wire.send(body[100:])
        answer = wire.read_response()
    assert answer.status == (201 if times == 2 else status)
    assert len(first) == times
    assert all(request.body == body for request in first)


def test_a_web_app_gets_to_the_owner_at_once(balancer: HAProxy, stand_ins: StandIns) -> None:
    for _ in range(4):
        path = new_path()
        all_answer(stand_ins, owned(path))
        ask(balancer, "HEAD", path)
        upload_id = path.rpartition("/")[2]
        owner = balancer.owners()[upload_id]
        with Wire(balancer.inner) as wire:
            assert wire.request("GET", f"{TICKETS}/{upload_id}").status == 200
        assert asked(stand_ins, f"{TICKETS}/{upload_id}") == [owner]


# -- what clients are told


@pytest.mark.parametrize("status", [500, 502, 503, 504])
@pytest.mark.parametrize("headers", [{}, {"X-HTTP-Method-Override": "HEAD"}])
def test_head_is_never_told_that_the_server_fails(
    balancer: HAProxy, stand_ins: StandIns, status: int, headers: Headers
) -> None:
    """Stock clients would begin again from the first byte."""
    all_answer(stand_ins, lambda _: Reply(status))
    answer = ask(balancer, "POST" if headers else "HEAD", new_path(), headers | VERSION)
    assert (answer.status, answer.headers["retry-after"]) == (423, "1")


def test_a_check_is_told_that_the_server_fails(balancer: HAProxy, stand_ins: StandIns) -> None:
    all_answer(stand_ins, lambda _: Reply(503))
    assert ask(balancer, "HEAD", "/incoming/1.0/health").status == 503


@pytest.fixture
def nobody_there(balancer: HAProxy, stand_ins: StandIns) -> None:
    """No instance wants anything."""
    for each in stand_ins.values():
        each.word = "maint"
    for name in stand_ins:
        balancer.wait_state(name, "MAINT")


def exposed(answer: Response) -> set[str]:
    return set(answer.headers["access-control-expose-headers"].lower().split(", "))


def test_a_page_can_read_that_nobody_is_there(balancer: HAProxy, nobody_there: None) -> None:
    """The balancer's own answer is one as the instances give: CORS, a problem with a code, when to come again."""
    answer = ask(balancer, "PATCH", new_path(), PAGE | {"X-Request-ID": "look-for-me"})
    assert (answer.status, answer.code) == (503, Code.NOT_READY.value)
    assert answer.headers["access-control-allow-origin"] in ("*", PAGE["Origin"])
    assert {"retry-after", "x-request-id"} <= exposed(answer) <= {name.lower() for name in cors.EXPOSED}
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["x-request-id"] == "look-for-me"
    assert answer.headers["tus-resumable"] == "1.0.0"
    assert "x-of-balancer" not in answer.headers
    head = ask(balancer, "HEAD", new_path(), PAGE)
    assert (head.status, head.headers["retry-after"]) == (423, "1")
    assert head.headers["access-control-allow-origin"] in ("*", PAGE["Origin"])
    assert "retry-after" in exposed(head)


def test_a_preflight_lets_the_request_behind_it_tell(balancer: HAProxy, nobody_there: None) -> None:
    """Else a page would only hear of a network error."""
    wanted = {"Access-Control-Request-Method": "PATCH", "Access-Control-Request-Headers": "tus-resumable"}
    answer = ask(balancer, "OPTIONS", new_path(), PAGE | wanted)
    assert answer.status == 200
    assert "PATCH" in answer.headers["access-control-allow-methods"].split(", ")
    assert "*" in answer.headers["access-control-allow-headers"]
    assert answer.headers["access-control-max-age"] == "0"
    assert ask(balancer, "OPTIONS", new_path(), PAGE).status == 503


def test_the_problems_of_the_balancer_are_those_of_the_catalogue() -> None:
    found = [json.loads(text) for text in re.findall(r"http-error .* string '(.*?)' hdr", CONFIG.read_text())]
    # The second one stands in place of a 408.
    assert [problem["status"] for problem in found] == [400, 404, 503, 500, 502, 503, 504]
    for problem in found:
        assert problem["type"].endswith(f":{problem['code']}")
        assert problem["title"] == PROBLEMS[Code(problem["code"])].title


# -- bodies


def test_what_has_come_of_a_body_goes_on_at_once(balancer: HAProxy, stand_ins: StandIns) -> None:
    """Also where more is to follow: what a slow client has sent is not kept back until its packet is full.

    It would be for 0.2 s, and count so much later; the end of a body never is, which is what the rest is measured by.
    """
    inside_s: list[float] = []
    end_s: list[float] = []
    piece = bytes(4096)
    came: queue.SimpleQueue[int] = queue.SimpleQueue()
    for each in stand_ins.values():
        each.came = came
    with Wire(balancer.plain) as wire:
        for _ in range(5):
            path = new_path()
            wire.send_head("PATCH", path, {"Content-Length": str(3 * len(piece))})
            for taken_s in (inside_s, inside_s, end_s):
                began_s = time.perf_counter()
                wire.send(piece)
                assert came.get(timeout=30) == len(piece)
                taken_s.append(time.perf_counter() - began_s)
            assert wire.read_response("PATCH").status == 200
    ratio = statistics.median(inside_s) / statistics.median(end_s)
    assert ratio < 20, f"inside: {inside_s}, at the end: {end_s}"


# -- bodies over HTTP/2


def test_bytes_for_a_request_that_has_ended_do_not_use_up_the_connection(
    balancer: HAProxy, stand_ins: StandIns, two_clients: tuple[Wire, H2]
) -> None:
    """A page's first body meets a request that is over before it comes; the page can upload all the same."""
    _, h2 = two_clients
    number = h2.open("PATCH", "/answered/at/once")
    # It is, unless the balancer waits for what comes next.
    any(h2.answered(number) for _ in range(100))
    h2.send_regardless(number, bytes(65535))
    path = new_path()
    body = bytes(range(256)) * 1024
    assert h2.request("PATCH", path, {"Content-Length": str(len(body))}, body).status == 200
    assert [request.body for each in stand_ins.values() for request in each.asked] == [body]


def test_only_the_first_body_of_a_connection_is_waited_for(
    balancer: HAProxy, stand_ins: StandIns, two_clients: tuple[Wire, H2]
) -> None:
    """Then a request is refused before its body comes, as it is over HTTP/1.1; and one without a body at any time."""
    _, h2 = two_clients
    assert h2.request("POST", new_path()).status == 200
    assert h2.request("PATCH", new_path(), {"Content-Length": "1"}, b"x").status == 200
    assert h2.response(h2.open("PATCH", "/answered/at/once")).status == 404


def test_a_body_that_does_not_begin_is_no_end(tmp_path: Path) -> None:
    """Where the balancer waits for one, clients hear what an instance would have told them: they may come again."""
    config = tmp_path / "haproxy.cfg"
    text = CONFIG.read_text().replace("wait-for-body time 1m", "wait-for-body time 10ms")
    config.write_text(text.replace("timeout http-request 15s", "timeout http-request 200ms"))
    with HAProxy(tmp_path / "balancer", [], config=config) as balancer:
        balancer.start()
        with H2(balancer.public, balancer.ca_file) as h2:
            page = h2.response(h2.open("PATCH", new_path(), PAGE))
        with Wire(balancer.inner) as wire:
            wire.send(f"POST {TICKETS} HTTP/1.1\r\nHost: app\r\nContent-Length: 2\r\n\r\n".encode())
            web_app = wire.read_response("POST")
    for answer in (page, web_app):
        assert (answer.status, answer.code) == (503, Code.BODY_STALLED.value)
        assert answer.json()["status"] == 503
        assert answer.headers["retry-after"] == "1"
        assert "x-of-balancer" not in answer.headers
    assert page.headers["access-control-allow-origin"] == "*"


# -- who may


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/metrics",
        "/incoming/1.0/admin/status",
        "/incoming/1.0/admin/drain",
        "/incoming/1.0/admin/metrics",
        "/incoming/1.0/backend/uploads",
        "/incoming/1.0/peer/recall",
        "/incoming/1.0/healthy",
        "/incoming/1.0/frontendish/x",
        "/incoming/1.0/frontend/../admin/status",
        "/incoming/1.0/frontend/%2e%2E/admin/status",
        "/incoming/1.0/frontend/..%2fadmin/status",
        "//incoming/1.0/frontend/incoming.js",
        "/Incoming/1.0/frontend/incoming.js",
    ],
)
def test_nothing_else_is_reachable_from_outside(
    balancer: HAProxy, stand_ins: StandIns, two_clients: tuple[Wire, H2], path: str
) -> None:
    for method in ("GET", "POST"):
        for answer in (ask(balancer, method, path), two_clients[1].request(method, path)):
            assert (answer.status, answer.code) == (404, Code.PATH_UNKNOWN.value)
    assert not any(each.asked for each in stand_ins.values())


@pytest.mark.parametrize("path", ["/incoming/1.0/admin/status", "/incoming/1.0/backend/../admin/drain", "/metrics"])
def test_web_apps_are_no_operators(balancer: HAProxy, stand_ins: StandIns, path: str) -> None:
    with Wire(balancer.inner) as wire:
        assert wire.request("POST", path).status == 404
    assert not any(each.asked for each in stand_ins.values())


@pytest.mark.parametrize(
    "path", [f"{UPLOADS}/a/status?wait_s=1", "/incoming/1.0/frontend/incoming.mjs", "/incoming/1.0/health"]
)
def test_what_is_for_the_world_passes(balancer: HAProxy, stand_ins: StandIns, path: str) -> None:
    assert ask(balancer, "GET", path).status == 200
    assert len(asked(stand_ins, path)) == 1


def test_nobody_but_the_balancer_says_who_a_client_is(
    balancer: HAProxy, stand_ins: StandIns, two_clients: tuple[Wire, H2]
) -> None:
    said = {
        "X-Forwarded-For": "203.0.113.9",
        "X-Forwarded-Proto": "gopher",
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Port": "1",
        "Forwarded": "for=203.0.113.9",
        "X-Request-ID": "bad id",
    }
    wire, h2 = two_clients
    for proto, client in (("http", wire), ("https", h2)):
        assert client.request("GET", new_path(), said).status == 200
        [headers] = [request.headers for each in stand_ins.values() for request in each.asked]
        assert headers["x-forwarded-for"] == "127.0.0.1"
        assert headers["x-forwarded-proto"] == proto
        assert headers["x-forwarded-host"] == headers["host"]
        assert not {"forwarded", "x-forwarded-port"} & set(headers)
        assert re.fullmatch(r"[0-9a-f-]{36}", headers["x-request-id"])
        for each in stand_ins.values():
            each.asked.clear()


def test_the_log_holds_no_token(balancer: HAProxy, stand_ins: StandIns) -> None:
    """Download URLs have one in their query."""
    path = f"{TICKETS}/an-upload/file"
    with Wire(balancer.inner) as wire:
        wire.request("GET", f"{path}?token=hush-hush", {"X-Request-ID": "look-for-me-1"})
        # No HTTP at all, and a path that is refused.
        wire.request("GET", "/no?token=hush-hush", {"X-Request-ID": "look-for-me-2"})
    with Wire(balancer.inner) as wire:
        wire.request("GET", f"{path}?token=hush-hush", {"Broken Name": "x"})
    assert f" {path} " in balancer.wait_logged("look-for-me-1")
    balancer.wait_logged("look-for-me-2")
    balancer.wait_logged("BADREQ")
    assert not [line for line in balancer.log_lines() if "hush" in line]


# -- the file as it is shipped


def test_haproxy_is_content_with_the_file_as_it_is(balancer: HAProxy) -> None:
    """Without a word, where there is a certificate."""
    done = subprocess.run(
        [program("haproxy"), "-c", "-q", "-f", str(CONFIG)],
        env={"PATH": os.environ["PATH"], "LB_CERT": str(balancer.folder / "site.pem")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_reload_takes_over_what_was_changed_in_the_file(tmp_path: Path) -> None:
    """Also where it is a default of the first lines, which HAProxy's variables could keep from its start."""
    config = tmp_path / "haproxy.cfg"
    config.write_text(CONFIG.read_text())
    with HAProxy(tmp_path / "balancer", [], config=config) as balancer:
        balancer.start()
        assert " lb1(" in balancer.command("show peers").replace("id=", " ")
        config.write_text(CONFIG.read_text().replace("{LB_NAME-lb1}", "{LB_NAME-lb7}"))
        balancer.reload(wait_for_owners=False)
        assert " lb7(" in balancer.command("show peers").replace("id=", " ")


def test_what_is_not_for_the_world_listens_on_the_loopback_interface() -> None:
    defaults = dict(re.findall(r"^ *setenv SITE_\w+ +\"\$\{(LB_\w+)-(.*)\}\"", CONFIG.read_text(), re.MULTILINE))
    inside = {name for name, value in defaults.items() if value.startswith("127.0.0.1:")}
    assert inside == {"LB_PLAIN", "LB_INNER", "LB_STATS", "LB_PEERS"}
    assert {
        f"LB_{name}" for name in re.findall(r"^ *bind \"\$\{SITE_(\w+)\}\"", CONFIG.read_text(), re.MULTILINE)
    } == inside | {"LB_PUBLIC"}
    assert defaults["LB_SOCKET"].startswith("/")


def test_statistics_and_metrics_are_there_for_operators(balancer: HAProxy, stand_ins: StandIns) -> None:
    with Wire(balancer.stats) as wire:
        assert wire.request("GET", "/").status == 200
    with Wire(balancer.stats) as wire:
        assert b"haproxy_server_status" in wire.request("GET", "/metrics").body


def test_every_variable_of_the_tests_is_one_of_the_file(tmp_path: Path) -> None:
    unused = HAProxy(tmp_path, [])
    known = set(re.findall(r"LB_\w+", CONFIG.read_text()))
    assert set(unused.environment()) - {"LB_NAME"} <= known
    unused.stop()
