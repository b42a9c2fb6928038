"""Who answers a request, by its path."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from tornado import httputil

if TYPE_CHECKING:
    from collections.abc import Awaitable

_HOST: Final = re.compile(r"(?:\[[0-9A-Fa-fvV:.%~!$&'()*+;=_-]+\]|[A-Za-z0-9\-._~%!$&'()*+;=]*)(?::[0-9]*)?", re.ASCII)
"""A host and its port (RFC 9110, section 7.2), without the comma: a proxy may have joined two fields by it."""


class ByPath(httputil.HTTPServerConnectionDelegate):
    """Has requests whose whole path fits *pattern* answered in one place, and all others in another.

    Tornado's router makes a request with all its arguments first, only to look
    at the path; whoever answers here has its own.
    """

    def __init__(
        self,
        pattern: str,
        fitting: httputil.HTTPServerConnectionDelegate,
        others: httputil.HTTPServerConnectionDelegate,
    ) -> None:
        self._pattern = re.compile(pattern)
        self._fitting = fitting
        self._others = others

    def start_request(self, server_conn: object, request_conn: httputil.HTTPConnection) -> httputil.HTTPMessageDelegate:
        """Called by Tornado for each request."""
        return _Arrival(self, server_conn, request_conn)

    def choose(self, path: str) -> httputil.HTTPServerConnectionDelegate:
        """Return who answers at *path*."""
        return self._others if self._pattern.fullmatch(path) is None else self._fitting


class _Arrival(httputil.HTTPMessageDelegate):
    """A request of which nothing is known yet."""

    def __init__(self, router: ByPath, server_conn: object, request_conn: httputil.HTTPConnection) -> None:
        self._router = router
        self._server_conn = server_conn
        self._request_conn = request_conn
        self._delegate: httputil.HTTPMessageDelegate | None = None

    def headers_received(
        self,
        start_line: httputil.RequestStartLine | httputil.ResponseStartLine,
        headers: httputil.HTTPHeaders,
    ) -> Awaitable[None] | None:
        assert isinstance(start_line, httputil.RequestStartLine)
        _check_host(headers.get_list("Host"), start_line.version)
        chosen = self._router.choose(start_line.path.partition("?")[0])
        self._delegate = chosen.start_request(self._server_conn, self._request_conn)
        return self._delegate.headers_received(start_line, headers)

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        assert self._delegate is not None
        return self._delegate.data_received(chunk)

    def finish(self) -> None:
        assert self._delegate is not None
        self._delegate.finish()

    def on_connection_close(self) -> None:
        if self._delegate is not None:
            self._delegate.on_connection_close()


def _check_host(hosts: list[str], version: str) -> None:
    """Refuse a request that does not say of which host, or of two (RFC 9112, section 3.2).

    Raises:
        HTTPInputError: so that it is answered 400, and the connection closed.
    """
    if not hosts and version == "HTTP/1.0":
        return
    if len(hosts) != 1 or not _is_host(hosts[0]):
        raise httputil.HTTPInputError(f"Not one proper Host: {', '.join(hosts)[:200]!r}")


@lru_cache(maxsize=256)
def _is_host(host: str) -> bool:
    """Whether it is the name or address of a host, with its port or without."""
    return _HOST.fullmatch(host) is not None
