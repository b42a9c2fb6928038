"""The base of all resources that take small bodies and answer JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from tornado import web

from incomingd.core.errors import Code, Refusal
from incomingd.log import events, get_logger
from incomingd.web import problems
from incomingd.web.context import RequestContext, request_context

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from incomingd.web.proxies import TrustedPeers

log = get_logger()

JSON_BYTES_MAX: Final = 8 * 1024 * 1024
"""A thousand tickets with their app data fit; a listener's limit for such bodies."""


class JsonHandler(web.RequestHandler):
    """Answers JSON; every refusal and every error is a problem document.

    The application's settings hold ``trusted`` (a :class:`TrustedPeers`) and
    ``close_after_answer``.
    """

    context: RequestContext

    def prepare(self) -> None:
        """Take note of whose request it is."""
        self._begin()

    def _begin(self) -> None:
        trusted: TrustedPeers = self.settings["trusted"]
        connection: Any = self.request.connection
        self.context = request_context(self.request.headers, connection.context, trusted)
        self._bound = self.context.bound()
        self._bound.__enter__()
        self.decorate()

    def decorate(self) -> None:
        """Set the headers that every answer has, refusals too."""
        self.set_header("X-Request-ID", self.context.request_id)
        close_after_answer: Callable[[], bool] = self.settings["close_after_answer"]
        if close_after_answer():
            self.set_header("Connection", "close")

    def on_finish(self) -> None:
        """Forget whose request it was."""
        if hasattr(self, "_bound"):
            self._bound.__exit__(None, None, None)

    def set_default_headers(self) -> None:
        """Nothing that is answered may be kept by a cache unless it says so."""
        self.set_header("Server", "incomingd")
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Content-Type-Options", "nosniff")

    def compute_etag(self) -> str | None:
        """Compute none: answers are live."""
        return None

    def decode_argument(self, value: bytes, name: str | None = None) -> str:
        """Return a piece of the path, or the query's argument *name*, as text.

        Raises:
            Refusal: `field_invalid`: an argument is no UTF-8. Such a piece of a path is merely none that is known.
        """
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            if name is None:
                return value.decode("utf-8", "replace")
            raise Refusal(
                Code.FIELD_INVALID,
                f"{name}: expected text in UTF-8",
                extra={"errors": [{"field": name, "expected": "text in UTF-8"}]},
            ) from None

    def json_body(self) -> Any:
        """Return the body's JSON.

        Raises:
            Refusal: `body_malformed`.
        """
        try:
            return json.loads(self.request.body)
        except (ValueError, RecursionError) as error:
            raise Refusal(Code.BODY_MALFORMED, f"The body is no JSON: {error}") from None

    def answer(self, value: object, *, status: int = 200) -> None:
        """Answer *value* as JSON."""
        self.set_status(status)
        self.set_header("Content-Type", "application/json")
        _ = self.finish(json.dumps(value, ensure_ascii=False).encode("utf-8") + b"\n")

    def refuse(self, refusal: Refusal) -> None:
        """Answer a problem document."""
        if hasattr(self, "context"):
            self.decorate()
        else:
            self._begin()
        status = self.status_of(refusal)
        self.set_status(status, "Refused" if status == 460 else None)
        self.set_header("Content-Type", problems.CONTENT_TYPE)
        if refusal.retry_after_s is not None:
            self.set_header("Retry-After", str(refusal.retry_after_s))
        if refusal.code is Code.TOKEN_MISSING:
            self.set_header("WWW-Authenticate", "Bearer")
        if refusal.code is Code.METHOD_NOT_ALLOWED:
            self.set_header("Allow", ", ".join(self.methods()))
        log.info(
            events.REQUEST_REFUSED,
            code=refusal.code.value,
            status=status,
            method=self.request.method,
            path=self.path_template(),
            detail=refusal.detail,
            address=self.context.address,
        )
        _ = self.finish(problems.document(refusal, status=status, request_id=self.context.request_id))

    def status_of(self, refusal: Refusal) -> int:
        """Return the HTTP status of a refusal; a protocol may have its own."""
        return refusal.problem.status

    def methods(self) -> list[str]:
        """Return the methods that this resource takes."""
        return [
            name
            for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
            if getattr(type(self), name.lower()) is not getattr(web.RequestHandler, name.lower())
        ]

    def path_template(self) -> str:
        """Return the request's path without what names an upload."""
        path = self.request.path
        # Tornado refuses methods that it does not know before it has these.
        for value in getattr(self, "path_args", ()):
            if value:
                path = path.replace(value, "{id}", 1)
        return path[:200]

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer what was raised; called by Tornado."""
        error = kwargs.get("exc_info", (None, None, None))[1]
        if isinstance(error, Refusal):
            self.refuse(error)
        elif status_code == 405:
            self.refuse(Refusal(Code.METHOD_NOT_ALLOWED, f"Allowed here: {', '.join(self.methods())}."))
        elif status_code == 404:
            self.refuse(Refusal(Code.PATH_UNKNOWN))
        elif isinstance(error, web.HTTPError) and status_code < 500:
            self.refuse(Refusal(Code.BODY_MALFORMED, str(error.log_message or error.reason or "")))
        else:
            self.refuse(problems.internal_error())

    def log_exception(
        self,
        typ: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Log what should not have happened; refusals are logged where they are answered."""
        if isinstance(value, Refusal | web.HTTPError):
            return
        log.error(
            events.REQUEST_FAILED,
            method=self.request.method,
            path=self.path_template(),
            exc_info=(typ, value, tb),
        )


class UnknownPathHandler(JsonHandler):
    """Answers for every path that nothing is at."""

    def prepare(self) -> None:
        """Refuse."""
        super().prepare()
        raise Refusal(Code.PATH_UNKNOWN)


def log_nothing(handler: web.RequestHandler) -> None:
    """Be an application's ``log_function``: work and refusals are logged where they happen."""
    del handler
