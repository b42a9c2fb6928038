"""`haproxy/nginx.conf` in the real nginx: bodies pass as they come, HEAD is never 5xx, nothing else is reachable."""

from __future__ import annotations

import os
import pwd
import re
import socket
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Self

import pytest
import trustme

from tests.balancer.h2client import H2
from tests.support.app import App
from tests.support.backend import Backend
from tests.support.content import Content
from tests.support.daemon import Daemon
from tests.support.haproxy import HOST, program
from tests.support.machine import ROOT, free_port, wait_until
from tests.support.tus import OFFSET_TYPE, VERSION, TusUpload
from tests.support.wire import Response, Wire

CONFIG = ROOT / "haproxy" / "nginx.conf"
LIBRARY = "/incoming/1.0/frontend/incoming.js"
MIB = 1024 * 1024


class Nginx:
    """One nginx before instances, on the file with its `#@` lines replaced; also without TLS."""

    def __init__(self, folder: Path, daemons: list[Daemon]) -> None:
        self.folder = folder
        self.public = (HOST, free_port())
        self.plain = (HOST, free_port())
        self.inner = (HOST, free_port())
        self._daemons = daemons
        self.process: subprocess.Popen[bytes] | None = None

    def _text(self) -> str:
        folder = self.folder
        owner = pwd.getpwuid(os.geteuid()).pw_name
        public = [f"server {HOST}:{daemon.public[1]}" for daemon in self._daemons]
        backend = [f"server {HOST}:{daemon.backend[1]}" for daemon in self._daemons]
        public += [f"server {HOST}:{free_port()}"] * (3 - len(public))
        backend += [f"server {HOST}:{free_port()}"] * (3 - len(backend))
        lines = {
            # nginx only takes it from root.
            "user www-data;": f"user {owner};" if owner == "root" else "",
            "pid /run/nginx.pid;": f"pid {folder}/pid;",
            "error_log /var/log/nginx/error.log warn;": f"error_log {folder}/error.log warn;",
            "access_log /var/log/nginx/access.log incoming;": f"access_log {folder}/access.log incoming;"
            + "".join(
                f" {kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
            ),
            "listen 443 ssl http2;": f"listen {HOST}:{self.public[1]} ssl http2; listen {HOST}:{self.plain[1]};",
            "ssl_certificate     /etc/nginx/incoming.pem;": f"ssl_certificate {folder}/site.pem;",
            "ssl_certificate_key /etc/nginx/incoming.key;": f"ssl_certificate_key {folder}/site.pem;",
            "listen 127.0.0.1:4401;": f"listen {HOST}:{self.inner[1]};",
            "error_log /var/log/nginx/incoming-apps.log crit;": f"error_log {folder}/apps.log crit;",
        }
        for number in range(3):
            lines[f"server 10.0.0.1{number + 1}:4000 max_fails=1 fail_timeout=2s;"] = (
                f"{public[number]} max_fails=1 fail_timeout=2s;"
            )
            lines[f"server 10.0.0.1{number + 1}:4001 max_fails=1 fail_timeout=2s;"] = (
                f"{backend[number]} max_fails=1 fail_timeout=2s;"
            )

        def replace(found: re.Match[str]) -> str:
            return f"{found[1]}{lines.pop(found[2])}\n"

        text = re.sub(r"^( *)(\S.*;) +#@\n", replace, CONFIG.read_text(), flags=re.MULTILINE)
        assert not lines, f"not in the file: {lines}"
        return text

    def write(self) -> Path:
        """Write configuration and certificate; return the configuration's path."""
        self.folder.mkdir(parents=True, exist_ok=True)
        authority = trustme.CA()
        authority.issue_cert("localhost", HOST).private_key_and_cert_chain_pem.write_to_path(self.folder / "site.pem")
        authority.cert_pem.write_to_path(self.folder / "ca.pem")
        path = self.folder / "nginx.conf"
        path.write_text(self._text())
        return path

    def start(self) -> Self:
        command = [program("nginx"), "-e", str(self.folder / "start.log"), "-c", str(self.write()), "-g", "daemon off;"]
        with (self.folder / "nginx.out").open("ab") as output:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        wait_until(self._listens, "nginx listens")
        return self

    def _listens(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "nginx.out").read_text()
        with socket.socket() as probe:
            return probe.connect_ex(self.inner) == 0

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)
            self.process = None


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, Nginx]]:
    """A daemon, and nginx before it and two instances that are not there."""
    folder = tmp_path_factory.mktemp("nginx")
    daemon = Daemon(folder / "daemon", {"public.trusted_proxies": HOST, "tus.checksum_trailer": False}).start()
    nginx = Nginx(folder / "nginx", [daemon])
    try:
        yield daemon, nginx.start()
        daemon.stop()
        daemon.check_log()
    finally:
        nginx.stop()
        if daemon.process is not None and daemon.process.poll() is None:
            daemon.kill9()


def ask(nginx: Nginx, method: str, path: str, **headers: str) -> Response:
    with Wire(nginx.plain) as wire:
        return wire.request(method, path, {name.replace("_", "-"): value for name, value in headers.items()})


def new_upload(daemon: Daemon, app: App, nginx: Nginx, content: Content) -> TusUpload:
    given = Backend(daemon, app).ticket()
    path = given["upload_url"].removeprefix(daemon.public_url)
    upload = TusUpload(f"http://{HOST}:{nginx.plain[1]}{path}", content, upload_id=given["id"])
    with Wire(nginx.plain) as wire:
        created = upload.create(wire)
    assert created.status == 201
    assert "x-upload-id" not in created.headers
    return upload


def has_kept(daemon: Daemon, app: App, upload: TusUpload, size_bytes: int) -> bool:
    return bool(Backend(daemon, app).get(upload.upload_id)["offset"] >= size_bytes)


def test_nginx_is_content_with_the_file(tmp_path: Path) -> None:
    unused = Nginx(tmp_path / "nginx", [])
    command = [program("nginx"), "-t", "-q", "-e", str(tmp_path / "log"), "-c", str(unused.write())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_each_byte_is_passed_on_as_it_comes(pair: tuple[Daemon, Nginx], app: App) -> None:
    """What is sent of a body is kept before the rest of it comes, over HTTP/1.1 and HTTP/2; and the file arrives."""
    daemon, nginx = pair
    content = Content(seed=6, size_bytes=4 * MIB)
    upload = new_upload(daemon, app, nginx, content)
    head = VERSION | OFFSET_TYPE | {"Content-Length": str(2 * MIB)}
    with Wire(nginx.plain) as wire, H2(nginx.public, nginx.folder / "ca.pem") as h2:
        wire.send_head("PATCH", upload.path, head | {"Upload-Offset": "0"})
        wire.send(content.read(0, MIB))
        wait_until(partial(has_kept, daemon, app, upload, MIB), "half of the first body is kept")
        wire.send(content.read(MIB, MIB))
        assert wire.read_response().offset == 2 * MIB
        stream = h2.open("PATCH", upload.path, head | {"Upload-Offset": str(2 * MIB)})
        h2.send(stream, content.read(2 * MIB, MIB))
        # nginx may hold some of it back over HTTP/2, but not all.
        wait_until(partial(has_kept, daemon, app, upload, 2 * MIB + 1), "a beginning of the second body is kept")
        h2.send(stream, content.read(3 * MIB, MIB), end=True)
        assert h2.response(stream).offset == 4 * MIB
    delivery = app.check_arrived(upload.upload_id, content.sha256())
    assert delivery.data["client"]["address"] == HOST


def test_a_body_that_is_cut_is_told_as_such(pair: tuple[Daemon, Nginx], app: App) -> None:
    """503 with the offset; then HEAD is 423 until the instance is back, and the rest is sent."""
    daemon, nginx = pair
    content = Content(seed=7, size_bytes=8 * MIB)
    head = VERSION | OFFSET_TYPE | {"Content-Length": str(content.size_bytes), "Upload-Offset": "0"}
    uploads = [new_upload(daemon, app, nginx, content) for _ in range(2)]
    with Wire(nginx.plain) as wire, H2(nginx.public, nginx.folder / "ca.pem") as h2:
        wire.send_head("PATCH", uploads[0].path, head)
        wire.send(content.read(0, MIB))
        stream = h2.open("PATCH", uploads[1].path, head)
        h2.send(stream, content.read(0, MIB))
        for upload in uploads:
            wait_until(partial(has_kept, daemon, app, upload, MIB), "what was sent is kept")
        daemon.stop()
        answers = (wire.read_response(), h2.response(stream))
    assert [(answer.status, answer.offset) for answer in answers] == [(503, MIB), (503, MIB)]
    page = {"Origin": "https://app.example"}
    waiting = ask(nginx, "HEAD", uploads[0].path, **page)
    assert (waiting.status, waiting.headers["retry-after"]) == (423, "1")
    assert waiting.headers["access-control-allow-origin"] == "*"
    assert ask(nginx, "POST", uploads[0].path, X_HTTP_Method_Override="HEAD").status == 423
    refused = ask(nginx, "PATCH", uploads[0].path, X_Request_ID="look-for-me", **page)
    assert (refused.status, refused.code) == (503, "not_ready")
    assert refused.headers["access-control-allow-origin"] == "*"
    assert refused.headers["x-request-id"] == "look-for-me"
    assert ask(nginx, "HEAD", "/incoming/1.0/health").status in (502, 503)
    daemon.start()
    # Not at once: nginx leaves an instance out for 2 s when it has failed.
    wait_until(lambda: ask(nginx, "GET", LIBRARY).status == 200, "nginx asks the instance again")
    for upload in uploads:
        upload.run(piece_bytes=4 * MIB)
        app.check_arrived(upload.upload_id, content.sha256())


def test_an_instance_that_is_away_is_not_seen(pair: tuple[Daemon, Nginx]) -> None:
    """Two of the three are not there, whatever the hash says."""
    _, nginx = pair
    assert [ask(nginx, "GET", LIBRARY).status for _ in range(20)] == [200] * 20


@pytest.mark.parametrize("path", [
    "/", "/metrics", "/incoming/1.0/admin/status", "/incoming/1.0/backend/uploads", "/incoming/1.0/peer/recall",
    "/incoming/1.0/frontend/../admin/status", "/incoming/1.0/frontend/%2e%2E/admin/status",
    "/incoming/1.0/frontend/..%2fadmin/status", "/incoming/1.0/admin/..%2ffrontend/incoming.js",
])  # fmt: skip
def test_nothing_else_is_reachable_from_outside(pair: tuple[Daemon, Nginx], path: str) -> None:
    _, nginx = pair
    answer = ask(nginx, "GET", path)
    assert answer.status in (400, 404)
    assert b"nginx" in answer.body, "answered by the daemon"


@pytest.mark.parametrize("path", ["/incoming/1.0/admin/status", "/incoming/1.0/admin/..%2fbackend/uploads", "/metrics"])
def test_web_apps_are_no_operators(pair: tuple[Daemon, Nginx], path: str) -> None:
    _, nginx = pair
    with Wire(nginx.inner) as wire:
        assert wire.request("GET", "/incoming/1.0/backend/openapi.json").status == 200
        answer = wire.request("GET", path)
    assert (answer.status, b"nginx" in answer.body) == (404, True)


def test_no_log_holds_a_token(pair: tuple[Daemon, Nginx]) -> None:
    _, nginx = pair
    with Wire(nginx.inner) as wire:
        wire.request("GET", "/incoming/1.0/backend/uploads/an-upload/file?token=hush-hush")
    wait_until(lambda: '/an-upload/file"' in (nginx.folder / "access.log").read_text(), "the request is logged")
    assert not [path.name for path in nginx.folder.glob("*.log") if "hush" in path.read_text()]
