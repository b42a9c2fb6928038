"""The harness itself: what it measures and breaks is what tests rely on."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests
from standardwebhooks import Webhook

from tests.support.app import ERROR, App
from tests.support.content import Content
from tests.support.link import Link
from tests.support.machine import ROOT, free_port
from tests.support.wire import ConnectionEnded, Wire


class Echo(BaseHTTPRequestHandler):
    """Answers every request with its own body, in the transfer coding that it came in."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        chunked = self.headers.get("Transfer-Encoding") == "chunked"
        body = self.read_chunks() if chunked else self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
        else:
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.send_response(204)
        self.end_headers()

    def read_chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size + 2)[:-2]
        while self.rfile.readline() != b"\r\n":
            pass
        return body

    def log_message(self, *_: object) -> None:
        pass


class EchoServer(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Cut connections are what some of these tests are about."""


@pytest.fixture
def echo() -> Iterator[tuple[str, int]]:
    server = EchoServer(("127.0.0.1", free_port()), Echo)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield ("127.0.0.1", server.server_address[1])
    server.shutdown()
    thread.join()
    server.server_close()


def test_content_is_the_same_however_it_is_read(tmp_path: Path) -> None:
    content = Content(7, 300_001)
    whole = content.read(0, 300_001)
    assert len(whole) == 300_001
    assert b"".join(content.blocks(size_bytes=1234)) == whole
    assert content.read(65_530, 20) == whole[65_530:65_550]
    assert content.read(300_000, 10) == whole[300_000:]
    assert content.sha256() == hashlib.sha256(whole).hexdigest()
    assert content.write(tmp_path / "file").read_bytes() == whole
    assert Content(8, 300_001).read(65_536, 200_000) != whole[65_536:265_536]


def test_a_link_passes_everything_and_counts_what_passes(echo: tuple[str, int]) -> None:
    with Link(echo) as link, Wire(link.address) as wire:
        assert wire.request("POST", "/a", body=b"x" * 300_000).body == b"x" * 300_000
        assert wire.request("HEAD", "/b").status == 204
        # Chunks and a trailer, and after them the next request on the same connection.
        chunked = {"Transfer-Encoding": "chunked"}
        wire.send_head("POST", "/c", chunked)
        wire.send(b"3\r\nabc\r\n2;x=y\r\n\r\n\r\n0\r\nTrailer: yes\r\n\r\n")
        assert wire.read_response().body == b"abc\r\n"
        assert wire.request("POST", "/d", {"X-HTTP-Method-Override": "patch"}, b"POST / HTTP/1.1\r\n\r\n").status == 200
    seen = [(exchange.method, exchange.path, exchange.status) for exchange in link.exchanges]
    assert seen == [("POST", "/a", 200), ("HEAD", "/b", 204), ("POST", "/c", 200), ("PATCH", "/d", 200)]
    assert link.count("POST", 200) == 2


def test_a_link_is_as_slow_as_it_is_told(echo: tuple[str, int]) -> None:
    with Link(echo, rate_bytes_per_s=200_000) as link, Wire(link.address) as wire:
        start_s = time.monotonic()
        wire.request("POST", "/", body=bytes(60_000))
        assert time.monotonic() - start_s >= 0.25


def test_a_link_cuts(echo: tuple[str, int]) -> None:
    with Link(echo) as link, Wire(link.address) as wire:
        assert wire.request("HEAD", "/").status == 204
        assert link.reset_all() == 1
        with pytest.raises((ConnectionEnded, ConnectionResetError, BrokenPipeError)):
            wire.request("HEAD", "/")


def test_a_frozen_link_lets_nothing_pass_until_it_thaws(echo: tuple[str, int]) -> None:
    with Link(echo) as link, Wire(link.address, timeout_s=0.2) as wire:
        link.freeze()
        with pytest.raises(TimeoutError):
            wire.request("HEAD", "/")
        link.thaw()
        wire.socket.settimeout(10)
        assert wire.read_response("HEAD").status == 204


def test_a_link_to_nobody_ends_the_connection() -> None:
    with Link(("127.0.0.1", free_port())) as link:
        # It may end before the first byte of the request is written.
        with pytest.raises((ConnectionEnded, ConnectionError)), Wire(link.address) as wire:
            wire.request("HEAD", "/")
        assert link.count("HEAD") == 0


def test_the_app_answers_as_told_and_checks_signatures(app: App) -> None:
    import datetime as dt  # noqa: PLC0415 -- only here

    body = '{"type": "upload.started", "timestamp": "2026-01-01T00:00:00Z", "data": {"id": "u1"}}'
    now = dt.datetime.now(tz=dt.UTC)
    headers = {
        "webhook-id": "m1",
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(app.secret).sign("m1", now, body),
    }
    app.script("u1", ERROR)
    assert requests.post(app.url, body, headers=headers, timeout=10).status_code == 500
    assert requests.post(app.url, body + " ", headers=headers, timeout=10).text == "done"
    assert [delivery.verified for delivery in app.of("u1")] == [True, False]
    app.down()
    with pytest.raises(requests.ConnectionError):
        requests.post(app.url, body, headers=headers, timeout=10)
    app.up()
    assert requests.post(app.url, body, headers=headers, timeout=10).text == "done"


def test_a_free_port_is_free() -> None:
    with socket.create_server(("127.0.0.1", free_port())):
        pass


def test_what_a_test_says_fails_it(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that passes but prints or logs is a failed one; one that reads what it provoked is not."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makeconftest("from tests.conftest import pytest_runtest_makereport")
    pytester.makepyfile(
        """
        import logging

        def test_silent(): pass
        def test_prints(): print("hello")
        def test_logs(): logging.getLogger("any").warning("hello")
        def test_reads_the_log(caplog):
            logging.getLogger("any").warning("hello")
            assert "hello" in caplog.text
        def test_reads_the_output(capsys):
            print("hello")
            assert capsys.readouterr().out == "hello\\n"
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:randomly", "-v")
    result.assert_outcomes(passed=3, failed=2)
    result.stdout.fnmatch_lines(["*test_prints FAILED*", "*test_logs FAILED*"])
