"""Makes one callback over HTTP."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import urlsplit

from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.httputil import HTTPInputError
from tornado.iostream import UnsatisfiableReadError
from tornado.simple_httpclient import HTTPStreamClosedError, HTTPTimeoutError, SimpleAsyncHTTPClient

from incomingd.wire.callback import ANSWER_BYTES_MAX, Answer, Callback, parse_answer

if TYPE_CHECKING:
    from incomingd.config import Hosts

HTTPS_PORT: Final = 443
HTTP_PORT: Final = 80


class Caller(Protocol):
    """Sends callbacks; a simulation has its own."""

    async def call(self, callback: Callback, delivery_type: str) -> Answer:
        """Send *callback*; never raises: what goes wrong is an answer `error`."""


class HttpCaller:
    """Sends callbacks with Tornado's client; redirects are not followed."""

    def __init__(self, *, timeout_s: float, allowed: Hosts, concurrency: int) -> None:
        self.timeout_s = timeout_s
        self.allowed = allowed
        self._client = SimpleAsyncHTTPClient(
            force_instance=True,
            max_clients=concurrency + 4,
            max_body_size=ANSWER_BYTES_MAX,
            max_buffer_size=2 * ANSWER_BYTES_MAX,
        )

    async def call(self, callback: Callback, delivery_type: str) -> Answer:
        """Send *callback*, and say what came of it."""
        try:
            url = urlsplit(callback.url)
            port = url.port or (HTTPS_PORT if url.scheme == "https" else HTTP_PORT)
        except ValueError:
            return Answer("error", error="finish_url cannot be read")
        if not self.allowed.allows(url.hostname or "", port):
            return Answer("error", error=f"handover.allowed_hosts does not name {url.hostname}")
        request = HTTPRequest(
            callback.url,
            method="POST",
            headers=callback.headers,
            body=callback.body,
            follow_redirects=False,
            decompress_response=False,
            connect_timeout=min(self.timeout_s, 20.0),
            request_timeout=self.timeout_s,
        )
        try:
            response = await self._client.fetch(request, raise_error=False)
        except (HTTPClientError, HTTPInputError, UnsatisfiableReadError, OSError, ValueError) as error:
            # Also with raise_error=False Tornado raises what is no answer.
            return Answer("error", error=_words(error))
        return parse_answer(delivery_type, response.code, response.body or b"")

    def close(self) -> None:
        """Close open connections."""
        self._client.close()


def _words(error: BaseException) -> str:
    """Return what went wrong, for a person and without anything secret."""
    if isinstance(error, HTTPTimeoutError):
        return "the web app did not answer in time"
    if isinstance(error, HTTPStreamClosedError):
        return "the web app closed the connection without an answer"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or error}"
    if isinstance(error, OSError) and error.strerror:
        return f"connecting: {error.strerror}"
    return f"{type(error).__name__}"
