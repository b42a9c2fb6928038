"""What pages use beside the upload resource: the status, the library, the balancer's check."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

from tornado import web

from incomingd.core.errors import Code, Refusal
from incomingd.core.ids import is_upload_id
from incomingd.frontends import cors
from incomingd.web.handler import JsonHandler, UnknownPathHandler, log_nothing
from incomingd.wire.upload import status_document

if TYPE_CHECKING:
    from collections.abc import Sequence

    from incomingd.engine.engine import Engine, View
    from incomingd.frontends.uploads import UploadOptions
    from incomingd.web.proxies import TrustedPeers

WAIT_MAX_S: Final = 25.0
PLACEHOLDER: Final = '"__INCOMING_BASE_URL__"'
"""Stands in the library where the server's address belongs."""
LIBRARY_AGE_S: Final = 300


class PageHandler(JsonHandler):
    """Answers pages of other origins, as far as they are allowed."""

    engine: Engine
    settings_of_uploads: UploadOptions
    _allowed_origin: str | None = None

    def initialize(self, engine: Engine, options: UploadOptions) -> None:
        """Take what the application hands down."""
        self.engine = engine
        self.settings_of_uploads = options

    def prepare(self) -> None:
        """Refuse pages that may not upload here."""
        super().prepare()
        self.check_origin()
        self.decorate()

    def check_origin(self, own: Sequence[str] = ()) -> None:
        """Refuse a page that may not upload here, or not to a ticket with origins of its *own*."""
        origin = self.request.headers.get("Origin")
        self._allowed_origin = None
        cors.check_origin(origin, self.settings_of_uploads.allowed_origins, own)
        self._allowed_origin = origin

    def decorate(self) -> None:
        """Let the page read the answer."""
        super().decorate()
        for name in cors.ANSWER_HEADERS:
            self.clear_header(name)
        for name, value in cors.answer_headers(self._allowed_origin).items():
            self.set_header(name, value)

    def options(self, *args: str) -> None:
        """Answer a preflight."""
        del args
        self.set_status(204)
        for name, value in cors.preflight_headers().items():
            self.set_header(name, value)


class StatusHandler(PageHandler):
    """``/uploads/<id>/status``: how far an upload and its hand-over have come."""

    async def get(self, upload_id: str) -> None:
        """Answer, at once or as soon as something has changed.

        ``wait_s`` (0 to 25): hold the request so long while nothing changes.
        """
        if not is_upload_id(upload_id):
            raise Refusal(Code.UPLOAD_UNKNOWN)
        wait_s = self._wait_s()
        view = await self.engine.view(upload_id)
        self.check_origin(view.record.terms.origins)
        if wait_s and not view.record.status.final:
            view = await self.engine.wait(upload_id, wait_s, _stand)
        self.answer(status_document(view.record, offset=view.offset))

    def _wait_s(self) -> float:
        text = self.get_query_argument("wait_s", "0")
        try:
            wait_s = float(text)
        except ValueError:
            wait_s = -1.0
        if not 0.0 <= wait_s <= WAIT_MAX_S:
            raise Refusal(
                Code.FIELD_INVALID,
                f"wait_s must be a number from 0 to {WAIT_MAX_S:.0f}.",
                extra={"errors": [{"field": "wait_s", "expected": "0 to 25"}]},
            )
        return wait_s


def _stand(view: View) -> tuple[object, ...]:
    """Return what a waiting page wants to hear of."""
    record = view.record
    return (record.status, view.offset, record.joined, record.handover.message)


class LibraryHandler(PageHandler):
    """``/incoming.js`` and ``/incoming.mjs``, with this server's address filled in."""

    def get(self, name: str) -> None:
        """Answer the library."""
        body, etag = _library(name, self.settings_of_uploads.base_url or "")
        self.set_header("Content-Type", "text/javascript; charset=utf-8")
        self.set_header("Cache-Control", f"public, max-age={LIBRARY_AGE_S}")
        self.set_header("Etag", etag)
        # A page of any origin may load it; without this header one that is
        # isolated (COEP) may not.
        self.set_header("Cross-Origin-Resource-Policy", "cross-origin")
        if self.check_etag_header():
            self.set_status(304)
            return
        self.write(body)

    head = get


@cache
def _library(name: str, base_url: str) -> tuple[bytes, str]:
    text = (resources.files("incomingd.frontends") / "static" / name).read_text("utf-8")
    body = text.replace(PLACEHOLDER, json.dumps(base_url)).encode("utf-8")
    return body, f'"{hashlib.sha256(body).hexdigest()[:32]}"'


class HealthHandler(JsonHandler):
    """The balancer's check: 200 or 503, and nothing else told."""

    def initialize(self, engine: Engine) -> None:
        """Take what the application hands down."""
        self._engine = engine

    def get(self) -> None:
        """Answer."""
        self.set_status(200 if self._engine.state.serving else 503)

    head = get


def application(
    engine: Engine, options: UploadOptions, trusted: TrustedPeers, close_after_answer: Any
) -> web.Application:
    """Return what answers on the public listener beside the upload resource."""
    shared = {"engine": engine, "options": options}
    return web.Application(
        [
            (r"/incoming/1.0/frontend/uploads/([^/]+)/status", StatusHandler, shared),
            (r"/incoming/1.0/frontend/(incoming\.m?js)", LibraryHandler, shared),
            (r"/incoming/1.0/health", HealthHandler, {"engine": engine}),
        ],
        default_handler_class=UnknownPathHandler,
        trusted=trusted,
        close_after_answer=close_after_answer,
        log_function=log_nothing,
    )
