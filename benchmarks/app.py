"""The web app behind the daemon: takes every callback and answers ``done``; it runs beside the load."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

from benchmarks.machine import HOST


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Read what is told, and take the file."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"done")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- as the base class calls it
        """Say nothing."""


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024


class App:
    """A context manager: it answers while the block runs."""

    def __init__(self) -> None:
        self._server = _Listener((HOST, 0), _Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="app", daemon=True)

    @property
    def url(self) -> str:
        """Where callbacks go."""
        return f"http://{HOST}:{self._server.server_address[1]}/"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
