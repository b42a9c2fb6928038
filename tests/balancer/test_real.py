"""Real daemons behind the real balancer: whole uploads, instances that die, bodies that are cut."""

from __future__ import annotations

import contextlib
import secrets
import ssl
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import requests

from tests.balancer.h2client import H2
from tests.support.app import App
from tests.support.backend import Backend
from tests.support.content import Content
from tests.support.daemon import Daemon
from tests.support.haproxy import HAProxy, behind_balancer, instance_of
from tests.support.machine import wait_until
from tests.support.tus import OFFSET_TYPE, VERSION, TusUpload
from tests.support.wire import ConnectionEnded, Headers, Response, Wire

LIBRARY = "/incoming/1.0/frontend/incoming.js"
MIB = 1024 * 1024


class OverHttp1(Wire):
    """HTTP/1.1."""

    def begin(self, path: str, headers: Headers, length: int) -> None:
        self.send_head("PATCH", path, headers | {"Content-Length": str(length)})

    def more(self, data: bytes) -> None:
        self.send(data)

    def answer(self) -> Response:
        return self.read_response("PATCH")


class OverTls(OverHttp1):
    """HTTP/1.1 through TLS."""

    def __init__(self, address: tuple[str, int], ca_file: Path) -> None:
        super().__init__(address)
        context = ssl.create_default_context(cafile=str(ca_file))
        context.set_alpn_protocols(["http/1.1"])
        self.socket = context.wrap_socket(self.socket, server_hostname="localhost")


class OverHttp2(H2):
    """HTTP/2 through TLS."""

    stream = 0

    def begin(self, path: str, headers: Headers, length: int) -> None:
        self.stream = self.open("PATCH", path, headers | {"Content-Length": str(length)})

    def more(self, data: bytes) -> None:
        self.send(self.stream, data)

    def answer(self) -> Response:
        return self.response(self.stream)


Sender = OverHttp1 | OverHttp2


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, HAProxy]]:
    """A daemon, and the balancer before it."""
    folder = tmp_path_factory.mktemp("pair")
    daemon = Daemon(folder / "daemon", behind_balancer() | {"limits.body_idle_timeout_s": 2}).start()
    try:
        with HAProxy(folder / "balancer", [instance_of(daemon)]) as balancer:
            yield daemon, balancer.start()
        daemon.stop()
        daemon.check_log()
    finally:
        if daemon.process is not None and daemon.process.poll() is None:
            daemon.kill9()


@pytest.fixture
def senders(pair: tuple[Daemon, HAProxy]) -> Iterator[dict[str, Sender]]:
    """Clients of each kind, connected."""
    _, balancer = pair
    with (
        OverHttp1(balancer.plain) as h1,
        OverTls(balancer.public, balancer.ca_file) as tls,
        OverHttp2(balancer.public, balancer.ca_file) as h2,
    ):
        yield {"h1": h1, "h1-tls": tls, "h2": h2}


def ticket(daemon: Daemon, app: App, balancer: HAProxy, content: Content) -> TusUpload:
    """Return a new upload, whose URL leads through the balancer."""
    given = Backend(daemon, app).ticket()
    path = given["upload_url"].removeprefix(daemon.public_url)
    return TusUpload(balancer.plain_url + path, content, upload_id=given["id"])


def test_an_upload_arrives_over_http_1_and_2_alike(
    pair: tuple[Daemon, HAProxy], app: App, senders: dict[str, Sender]
) -> None:
    """The instance knows the client's address; the web app calls the inner address."""
    _, balancer = pair
    content = Content(seed=1, size_bytes=3 * MIB)
    given = requests.post(
        f"{balancer.inner_url}/incoming/1.0/backend/uploads",
        json={"finish_url": app.url, "secret": app.secret},
        headers={"Idempotency-Key": secrets.token_hex(8)},
        timeout=30,
    ).json()
    path = given["upload_url"]
    created = senders["h2"].request("POST", path, VERSION | {"Upload-Length": str(content.size_bytes)})
    assert (created.status, created.headers["location"]) == (201, path)
    offset = 0
    for client in senders.values():
        answer = client.request(
            "PATCH", path, VERSION | OFFSET_TYPE | {"Upload-Offset": str(offset)}, content.read(offset, MIB)
        )
        assert answer.status == 204, answer
        assert "x-upload-id" not in answer.headers
        offset = answer.offset
    [delivery] = app.wait_for(given["id"])
    assert delivery.sha256_by_path == content.sha256()
    assert delivery.data["client"]["address"] == "127.0.0.1"


def begun(pair: tuple[Daemon, HAProxy], app: App, sender: Sender, content: Content) -> TusUpload:
    """Create an upload and send the head of a PATCH of all of it."""
    daemon, balancer = pair
    upload = ticket(daemon, app, balancer, content)
    with Wire(balancer.plain) as wire:
        assert upload.create(wire).status == 201
    sender.begin(upload.path, VERSION | OFFSET_TYPE | {"Upload-Offset": "0"}, content.size_bytes)
    return upload


def has_kept(daemon: Daemon, app: App, upload: TusUpload, size_bytes: int) -> bool:
    """Return whether the daemon has kept so much of a body that is still being sent."""
    return bool(Backend(daemon, app).get(upload.upload_id)["offset"] >= size_bytes)


def back(pair: tuple[Daemon, HAProxy]) -> None:
    daemon, balancer = pair
    daemon.start()
    balancer.wait_state("one", "UP")


def test_a_body_that_is_cut_is_told_as_such(pair: tuple[Daemon, HAProxy], app: App, senders: dict[str, Sender]) -> None:
    """An instance that stops cuts bodies: clients hear 503 and the offset, which holds; then they go on.

    Never an answer that would end the upload, and never one that says that all went well.
    """
    daemon, _ = pair
    content = Content(seed=2, size_bytes=16 * MIB)
    uploads = {}
    for how, sender in senders.items():
        uploads[how] = begun(pair, app, sender, content)
        sender.more(content.read(0, 4 * MIB))
    for upload in uploads.values():
        wait_until(partial(has_kept, daemon, app, upload, 2 * MIB), "bytes are kept")
    daemon.stop()
    told = {}
    for how, sender in senders.items():
        answer = sender.answer()
        assert (answer.status, answer.code, answer.headers["retry-after"]) == (503, "stopping", "0"), how
        told[how] = uploads[how].note(answer.offset)
        assert 2 * MIB <= told[how] <= 4 * MIB
    back(pair)
    for how, upload in uploads.items():
        upload.run(piece_bytes=8 * MIB)
        assert upload.offsets[2] == told[how], "the first HEAD tells what the 503 told"
        app.check_arrived(upload.upload_id, content.sha256())


@pytest.mark.parametrize("end", ["stop", "kill9"])
def test_who_still_sends_hears_nothing_wrong(
    pair: tuple[Daemon, HAProxy], app: App, senders: dict[str, Sender], end: str
) -> None:
    """A client that sends on while its body is cut gets the 503, 502 from the balancer, or a cut connection."""
    daemon, balancer = pair
    content = Content(seed=3, size_bytes=24 * MIB)
    uploads = {}
    for how, sender in senders.items():
        uploads[how] = begun(pair, app, sender, content)
        sender.more(content.read(0, 4 * MIB))
    getattr(daemon, end)()
    for how, sender in senders.items():
        status = None
        with contextlib.suppress(ConnectionEnded, OSError):
            for block in content.blocks(4 * MIB, MIB):
                sender.more(block)
        with contextlib.suppress(ConnectionEnded, OSError):
            status = sender.answer().status
        assert status in (None, 502, 503), how
    with Wire(balancer.plain) as wire:
        waiting = uploads["h1"].head(wire)
        assert (waiting.status, waiting.headers["retry-after"]) == (423, "1")
    back(pair)
    with Wire(balancer.plain) as wire:
        assert [upload.head(wire).status for upload in uploads.values()] == [200, 200, 200]


def test_a_client_that_stalls_is_the_instances_business(
    pair: tuple[Daemon, HAProxy], app: App, senders: dict[str, Sender]
) -> None:
    """The balancer waits longer; so the client hears from the instance how much was kept."""
    content = Content(seed=4, size_bytes=MIB)
    for sender in senders.values():
        begun(pair, app, sender, content)
        sender.more(content.read(0, 1000))
    for how, sender in senders.items():
        answer = sender.answer()
        assert (answer.status, answer.code, answer.offset) == (503, "body_stalled", 1000), how


def test_an_instance_that_dies_is_not_seen(pair: tuple[Daemon, HAProxy], tmp_path: Path) -> None:
    """Killed while requests come: each is answered by another one, also before any check has noticed."""
    first, _ = pair
    second = Daemon(tmp_path / "daemon", behind_balancer()).start()
    with HAProxy(tmp_path / "balancer", [instance_of(first), instance_of(second)]) as balancer:
        balancer.start()
        with Wire(balancer.plain) as wire, H2(balancer.public, balancer.ca_file) as h2:
            for number in range(30):
                if number == 5:
                    second.kill9()
                assert wire.request("GET", LIBRARY).status == 200
                assert h2.request("GET", LIBRARY).status == 200
                with Wire(balancer.plain) as another:
                    assert another.request("GET", LIBRARY).status == 200
