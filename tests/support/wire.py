"""HTTP/1.1 by hand, for requests that no library would send and connections that no library would cut so."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

Headers = dict[str, str]


class ConnectionEnded(Exception):
    """The other side closed or reset the connection before a whole response had come."""


@dataclass(frozen=True)
class Response:
    """One response. Names of headers are in lower case; where one came twice, its values are joined by ``, ``."""

    status: int
    reason: str
    headers: Headers
    body: bytes
    interim: tuple[int, ...] = ()
    """Statuses of the 1xx responses before it."""

    def json(self) -> Any:
        """Return the body read as JSON."""
        return json.loads(self.body)

    @property
    def code(self) -> str | None:
        """The problem's stable code; None where the body is no problem document."""
        if self.headers.get("content-type", "").startswith("application/problem+json"):
            return str(self.json()["code"])
        return None

    @property
    def offset(self) -> int:
        """``Upload-Offset``."""
        return int(self.headers["upload-offset"])


class Wire:
    """A TCP connection that says exactly what it is told to say. A context manager."""

    def __init__(self, address: tuple[str, int], *, timeout_s: float = 30) -> None:
        self.host = f"{address[0]}:{address[1]}"
        self.socket = socket.create_connection(address, timeout=timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def send(self, data: bytes) -> None:
        """Send *data* as it is."""
        self.socket.sendall(data)

    def send_head(self, method: str, path: str, headers: Headers | None = None) -> None:
        """Send a request line and headers; ``Host`` is added where it is not given."""
        lines = [f"{method} {path} HTTP/1.1"]
        given = headers or {}
        if "host" not in {name.lower() for name in given}:
            lines.append(f"Host: {self.host}")
        lines += [f"{name}: {value}" for name, value in given.items()]
        self.send(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))

    def request(self, method: str, path: str, headers: Headers | None = None, body: bytes | None = None) -> Response:
        """Send one request and return its response; ``Content-Length`` is added where there is a body.

        A server may answer before it has the whole body, and close: what it said then is the response.
        """
        given = dict(headers or {})
        if body is not None and not {"content-length", "transfer-encoding"} & {name.lower() for name in given}:
            given["Content-Length"] = str(len(body))
        self.send_head(method, path, given)
        if body:
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                self.send(body)
        return self.read_response(method)

    def read_response(self, method: str = "GET") -> Response:
        """Read one whole response (to a request of *method*: one to HEAD has no body)."""
        interim: list[int] = []
        while True:
            head = self._read_to(b"\r\n\r\n")
            status_line, *lines = head.decode("latin-1").split("\r\n")
            _, status_text, reason = (*status_line.split(" ", 2), "")[:3]
            status = int(status_text)
            if 100 <= status < 200 and status != 101:
                interim.append(status)
                continue
            headers: Headers = {}
            for line in filter(None, lines):
                name, _, value = line.partition(":")
                name = name.strip().lower()
                value = value.strip()
                headers[name] = f"{headers[name]}, {value}" if name in headers else value
            return Response(status, reason, headers, self._read_body(method, status, headers), tuple(interim))

    def _read_body(self, method: str, status: int, headers: Headers) -> bytes:
        if method == "HEAD" or status in (204, 304):
            return b""
        if headers.get("transfer-encoding", "").lower() == "chunked":
            body = b""
            while True:
                size = int(self._read_to(b"\r\n").split(b";")[0], 16)
                body += self._read(size + 2)[:-2]
                if size == 0:
                    return body
        if "content-length" in headers:
            return self._read(int(headers["content-length"]))
        return self.read_to_end()

    def read_to_end(self) -> bytes:
        """Read until the other side closes; a reset counts as an end too."""
        try:
            while more := self.socket.recv(65536):
                self._buffer += more
        except ConnectionResetError:
            pass
        rest, self._buffer = self._buffer, b""
        return rest

    def is_closed(self, timeout_s: float = 10) -> bool:
        """Return whether the other side closes within *timeout_s*; what it still sends is dropped."""
        self.socket.settimeout(timeout_s)
        try:
            while self.socket.recv(65536):
                pass
        except ConnectionResetError:
            return True
        except TimeoutError:
            return False
        return True

    def half_close(self) -> None:
        """Send an end of stream and go on reading."""
        self.socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close in the orderly way."""
        self.socket.close()

    def reset(self) -> None:
        """Close with a reset: what is under way in either direction is lost."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def _more(self) -> None:
        try:
            data = self.socket.recv(65536)
        except (ConnectionResetError, BrokenPipeError) as error:
            message = f"the connection was reset; before it came {self._buffer!r}"
            raise ConnectionEnded(message) from error
        if not data:
            message = f"the connection was closed; before it came {self._buffer!r}"
            raise ConnectionEnded(message)
        self._buffer += data

    def _read_to(self, mark: bytes) -> bytes:
        while mark not in self._buffer:
            self._more()
        found, self._buffer = self._buffer.split(mark, 1)
        return found

    def _read(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._more()
        found, self._buffer = self._buffer[:size], self._buffer[size:]
        return found
