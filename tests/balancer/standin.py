"""A stand-in for an instance, where a fault must be exact: it answers as told, and writes down what it is asked."""

from __future__ import annotations

import queue
import socketserver
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from tests.support.haproxy import HOST, Instance
from tests.support.machine import free_port

METHODS = ("GET", "HEAD", "POST", "PATCH", "DELETE", "OPTIONS", "PUT")
HEALTH = "/incoming/1.0/health"


@dataclass(frozen=True)
class Asked:
    """A request as it arrived; names of headers are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Reply:
    """What is answered."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


HANG_UP = None
"""In place of a reply: the connection is closed without a word."""


class StandIn:
    """Three listeners, as an instance has them; a context manager."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.instance = Instance(f"{HOST}:{free_port()}", f"{HOST}:{free_port()}", free_port())
        self.answer: Callable[[Asked], Reply | None] = lambda _: Reply()
        self.word = "up ready"
        """What the agent check is told."""
        self.asked: list[Asked] = []
        """Every request but health checks."""
        self.came: queue.SimpleQueue[int] = queue.SimpleQueue()
        """Sizes of the pieces of bodies, put there when they come."""
        self._servers: list[socketserver.BaseServer] = []

    def reset(self) -> None:
        """Be as at the start."""
        self.answer = lambda _: Reply()
        self.word = "up ready"
        self.asked.clear()
        self.came = queue.SimpleQueue()

    def __enter__(self) -> Self:
        handler = type("Handler", (_Handler,), {"stand_in": self})
        agent = type("Agent", (_Agent,), {"stand_in": self})
        for address in (self.instance.public, self.instance.backend):
            self._servers.append(_HttpServer((HOST, int(address.rpartition(":")[2])), handler))
        self._servers.append(_AgentServer((HOST, self.instance.agent_port), agent))
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.02,), name=self.name, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A balancer that hangs up is nothing to report."""


class _AgentServer(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A balancer that hangs up is nothing to report."""


class _Agent(socketserver.BaseRequestHandler):
    stand_in: StandIn

    def handle(self) -> None:
        self.request.sendall(f"{self.stand_in.word}\n".encode())
        self.request.settimeout(2)
        self.request.recv(1)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    stand_in: StandIn

    def __getattr__(self, name: str) -> Any:
        if name.removeprefix("do_") in METHODS:
            return self._do
        raise AttributeError(name)

    def _do(self) -> None:
        body = self._read_body(int(self.headers.get("Content-Length", "0")))
        if self.path == HEALTH and self.headers["Host"] == "balancer.invalid":
            self._send(Reply())
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        asked = Asked(self.command, self.path, headers, body)
        self.stand_in.asked.append(asked)
        reply = self.stand_in.answer(asked)
        if reply is None:
            self.close_connection = True
        else:
            self._send(reply)

    def _read_body(self, size: int) -> bytes:
        body = b""
        while len(body) < size and (piece := self.rfile.read1(size - len(body))):
            self.stand_in.came.put(len(piece))
            body += piece
        return body

    def _send(self, reply: Reply) -> None:
        self.send_response_only(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if reply.status != 204:
            self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body)
