"""Calls to the admin API of a running daemon, over TCP or a Unix socket."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import SplitResult, quote, urlencode, urlsplit

from incomingd.config import Address, TcpAddress, UnixAddress, parse_address

PREFIX: Final = "/incoming/1.0/admin"
TIMEOUT_S: Final = 60.0


class UnreachableError(Exception):
    """No daemon answers; the text says where, and why not."""


class RefusedError(Exception):
    """The daemon refused; `code` is the problem's, the text its detail."""

    def __init__(self, code: str, detail: str, problem: dict[str, Any] | None = None) -> None:
        super().__init__(detail)
        self.code = code
        self.problem = problem if problem is not None else {"code": code, "detail": detail}


@dataclass(frozen=True, slots=True)
class Target:
    """Where the daemon's admin API is."""

    address: Address
    tls: bool = False

    def __str__(self) -> str:
        return f"https://{self.address}" if self.tls else str(self.address)


def parse_target(text: str) -> Target:
    """Read `host:port`, `unix:path`, or `http(s)://host:port`. Raises ValueError."""
    if "://" not in text:
        return Target(parse_address(text))
    url: SplitResult = urlsplit(text)
    if url.scheme not in {"http", "https"} or url.path not in {"", "/"} or url.query or "@" in url.netloc:
        msg = f"{text!r} is not host:port, unix:path, or http(s)://host:port"
        raise ValueError(msg)
    port = url.port or (443 if url.scheme == "https" else 80)
    host = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname
    return Target(parse_address(f"{host}:{port}"), tls=url.scheme == "https")


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(self._path)


class Client:
    """Calls one daemon; close it in the end."""

    def __init__(self, target: Target, token: str | None = None) -> None:
        self.target = target
        self._token = token
        self._connection = _connection(target)

    def close(self) -> None:
        """Let go of the connection."""
        self._connection.close()

    def call(self, method: str, path: str, document: object = None) -> Any:
        """Call *path* below the admin API; return the answer's JSON.

        Raises:
            UnreachableError: nobody answers there.
            RefusedError: somebody does, and refuses.
        """
        headers = {"Accept": "application/json"}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        body = None
        if document is not None:
            headers["Content-Type"] = "application/json"
            body = json.dumps(document).encode("utf-8")
        try:
            self._connection.request(method, PREFIX + path, body=body, headers=headers)
            answer = self._connection.getresponse()
            data = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise UnreachableError(self._unreachable(error)) from error
        return self._read(answer.status, data)

    def _unreachable(self, error: Exception) -> str:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
        return (
            f"no incomingd answers at {self.target}: {reason}. Is it running, and is this its admin.address"
            " (by default its backend.address)?"
        )

    def _read(self, status: int, data: bytes) -> Any:
        try:
            said = json.loads(data)
        except ValueError:
            said = None
        if 200 <= status < 300 and said is not None:
            return said
        if isinstance(said, dict) and isinstance(said.get("code"), str):
            raise RefusedError(said["code"], str(said.get("detail", "")), said)
        msg = f"what answers at {self.target} is no incomingd: status {status}, and not the JSON that was asked for"
        raise UnreachableError(msg)

    # -- what commands need

    def uploads(self, **query: str) -> Listing:
        """Return the uploads that a query wants, as many pages as there are; nothing is asked for before it is read."""
        return Listing(self, query)

    def upload(self, upload_id: str) -> dict[str, Any]:
        """Return one upload."""
        return dict(self.call("GET", _path(upload_id)))

    def cancel(self, upload_id: str, reason: str) -> dict[str, Any]:
        """Cancel an upload."""
        return dict(self.call("POST", f"{_path(upload_id)}/cancel", {"reason": reason}))

    def redeliver(self, upload_id: str) -> dict[str, Any]:
        """Have an upload's callback made again."""
        return dict(self.call("POST", f"{_path(upload_id)}/redeliver", {}))


class Listing:
    """Uploads of the whole fleet, to be read once; see :meth:`Client.uploads`."""

    def __init__(self, client: Client, query: dict[str, str]) -> None:
        self._client = client
        self._query = query
        self.partial = False
        """Of what was read so far: an instance did not answer, so its uploads are missing."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        page: str | None = ""
        while page is not None:
            arguments = {name: value for name, value in (self._query | {"page": page}).items() if value}
            found = self._client.call("GET", "/uploads" + (f"?{urlencode(arguments)}" if arguments else ""))
            self.partial = self.partial or found["partial"]
            yield from found["uploads"]
            page = found["next_page"]


def _path(upload_id: str) -> str:
    return f"/uploads/{quote(upload_id, safe='')}"


def _connection(target: Target) -> http.client.HTTPConnection:
    address = target.address
    if isinstance(address, UnixAddress):
        return _UnixConnection(str(address.path))
    assert isinstance(address, TcpAddress)
    # Where it listens on every address, this machine's own is one of them.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)  # noqa: S104 -- compared, not bound
    if target.tls:
        return http.client.HTTPSConnection(host, address.port, timeout=TIMEOUT_S, context=ssl.create_default_context())
    return http.client.HTTPConnection(host, address.port, timeout=TIMEOUT_S)
