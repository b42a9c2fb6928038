"""The upload resource: tus on ``/incoming/1.0/frontend/uploads/<id>``.

Reads the request by :mod:`incomingd.wire.tus`, has the engine do it, and writes
what :mod:`incomingd.wire.tus` makes of the result. Nothing is decided here.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from tornado import httputil

from incomingd.core.commands import Checksum, Creation, Resource
from incomingd.core.errors import Code, Refusal
from incomingd.core.ids import is_part_id, is_upload_id
from incomingd.core.record import Terms
from incomingd.engine.appending import AppendReport
from incomingd.frontends import cors
from incomingd.frontends.senders import Senders
from incomingd.log import events, get_logger
from incomingd.metrics import Metrics
from incomingd.storage.body import CutReason
from incomingd.web import problems
from incomingd.web.exchange import Exchange, ExchangeOptions, Reply, Request
from incomingd.wire import tus
from incomingd.wire.headers import single

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from incomingd.config import Origins
    from incomingd.engine.engine import Engine

log = get_logger()

PREFIX: Final = "/incoming/1.0/frontend/uploads"
PATTERN: Final = rf"{PREFIX}(?:/(?![^/]+/status$).*)?"
"""Everything below but the status for pages: what names no upload is told so in the protocol's own words."""
_PATH: Final = re.compile(rf"{PREFIX}(?:/(?P<id>[^/]+)(?:/parts/(?P<part>[^/]+))?)?/?")
_ELSEWHERE: Final = (Code.STOPPING, Code.NOT_READY)
ALLOW: Final = "POST, HEAD, PATCH, DELETE, OPTIONS"


@dataclass(slots=True)
class UploadOptions:
    """Replaced as a whole when the configuration is read again."""

    limits: tus.Limits
    allowed_origins: Origins
    base_url: str | None
    open_creation: bool
    open_creation_terms: Callable[[], Terms]


@dataclass(frozen=True, slots=True)
class Target:
    """What a path names."""

    upload_id: str | None
    part: str | None


class UploadResource(httputil.HTTPServerConnectionDelegate):
    """Hands each request to an :class:`Exchange`; answers it."""

    def __init__(
        self,
        engine: Engine,
        exchange_options: ExchangeOptions,
        options: UploadOptions,
        metrics: Metrics | None = None,
    ) -> None:
        self._engine = engine
        self._metrics = metrics or Metrics(version="", instance="")
        self._exchange_options = exchange_options
        self.options = options
        self._senders = Senders()

    def start_request(self, server_conn: object, request_conn: httputil.HTTPConnection) -> httputil.HTTPMessageDelegate:
        """Called by Tornado for each request."""
        del server_conn
        return Exchange(request_conn, self.answer, self._exchange_options)

    async def answer(self, request: Request) -> Reply:
        """Answer one request; every refusal, and every error, has an answer."""
        origin = request.headers.get("Origin")
        method = request.method
        report = AppendReport()
        started = self._exchange_options.clock.monotonic()
        target = Target(None, None)
        allowed_origin = None
        try:
            cors.check_origin(origin, self.options.allowed_origins)
            allowed_origin = origin
            method = tus.effective_method(request.method, request.get_all)
            target = _target(request.path)
            if origin is not None:
                await self._check_ticket_origin(method, target, origin)
            tus.check_version(method, request.get_all)
            with self._counted(request, target), self._shared(request, target):
                reply = await self._dispatch(method, target, request, report)
            if method == "HEAD" and origin is not None:
                # It may have been held until there was anything to check.
                await self._check_ticket_origin(method, target, origin)
            refusal = None
        except Refusal as caught:
            refusal = caught
            if refusal.code is Code.ORIGIN_NOT_ALLOWED:
                allowed_origin = None
            reply = self._refuse(refusal, method, request)
            # To be asked elsewhere; any status would be the answer, and most of them would be the upload's end.
            reply.silent = method == "HEAD" and self._engine.state.draining and refusal.code in _ELSEWHERE
        except Exception:
            log.exception(events.REQUEST_FAILED, method=method, path=_template(target))
            refusal = problems.internal_error()
            reply = self._refuse(refusal, method, request)
        reply.headers.update(cors.answer_headers(allowed_origin))
        if method == "OPTIONS" and refusal is None:
            reply.headers.update(cors.preflight_headers())
        if refusal is not None:
            self._metrics.refused(refusal.code, listener="public")
        if report.offset_before is not None:
            self._log_append(target, request, reply, report, refusal, started)
        elif refusal is not None:
            log.info(
                events.REQUEST_REFUSED,
                code=refusal.code.value,
                status=reply.status,
                method=method,
                path=_template(target),
                upload_id=target.upload_id,
                detail=refusal.detail,
                address=request.context.address,
            )
        return reply

    def _counted(self, request: Request, target: Target) -> AbstractContextManager[None]:
        if request.body is None:
            return contextlib.nullcontext()
        return self._senders.sending(
            request.context.address,
            target.upload_id or request.context.request_id,
            uploads_max=self._engine.services.options.open_uploads_per_address,
        )

    def _shared(self, request: Request, target: Target) -> AbstractContextManager[object]:
        body = request.body
        if body is None:
            return contextlib.nullcontext()
        options = self._exchange_options
        upload = target.upload_id or request.context.request_id
        body.share = options.rates.sending(request.context.address, upload, options.clock.monotonic)
        return body.share

    async def _check_ticket_origin(self, method: str, target: Target, origin: str) -> None:
        if target.upload_id is None:
            return
        try:
            view = await self._engine.view(target.upload_id)
        except Refusal as refusal:
            # What is not there has no origins; and HEAD is held until it can be told.
            if refusal.code is Code.UPLOAD_UNKNOWN or method == "HEAD":
                return
            raise
        cors.check_origin(origin, self.options.allowed_origins, view.record.terms.origins)

    async def _dispatch(self, method: str, target: Target, request: Request, report: AppendReport) -> Reply:
        if method == "OPTIONS":
            return await self._options(target)
        if target.upload_id is None:
            if method != "POST":
                raise _not_allowed("POST, OPTIONS")
            return await self._create_openly(request, report)
        if method == "HEAD":
            resource = await self._engine.head(target.upload_id, target.part)
            return self._of_owner(200, tus.head_headers(resource), target)
        if method == "PATCH":
            return await self._patch(target.upload_id, target, request, report)
        if method == "POST" and target.part is None:
            return await self._post(target.upload_id, request, report)
        if method == "DELETE":
            await self._engine.terminate(target.upload_id, target.part)
            return self._of_owner(204, {"Tus-Resumable": tus.VERSION}, target)
        raise _not_allowed(ALLOW)

    async def _options(self, target: Target) -> Reply:
        headers = tus.discovery(self.options.limits)
        if target.upload_id is not None:
            try:
                limit = (await self._engine.view(target.upload_id)).record.length_limit
            except Refusal:
                limit = None
            most = [x for x in (limit, self.options.limits.upload_bytes_max) if x is not None]
            if most:
                headers["Tus-Max-Size"] = str(min(most))
        return Reply(204, headers)

    async def _patch(self, upload_id: str, target: Target, request: Request, report: AppendReport) -> Reply:
        wanted = tus.parse_append(
            request.get_all,
            body_length=_body_length(request),
            trailing=self._trailing(request),
        )
        with self._metrics.append_under_way():
            resource = await self._engine.append(upload_id, target.part, wanted, request.body or _EMPTY, report)
        return self._of_owner(204, tus.append_headers(resource), target)

    async def _post(self, upload_id: str, request: Request, report: AppendReport) -> Reply:
        wanted = self._creation(request)
        if wanted.final_of is not None:
            wanted = _with_part_ids(wanted, upload_id)
        with self._metrics.append_under_way():
            resource = await self._engine.begin(upload_id, wanted, request.body, report)
        return self._created(resource, request)

    async def _create_openly(self, request: Request, report: AppendReport) -> Reply:
        if not self.options.open_creation:
            raise Refusal(Code.CREATION_NOT_OFFERED)
        wanted = self._creation(request)
        if wanted.final_of is not None:
            parts = tuple(map(_partial_upload, wanted.final_of))
            resource = await self._engine.begin_openly_of(self.options.open_creation_terms(), wanted, parts)
        else:
            resource = await self._engine.begin_openly(self.options.open_creation_terms(), wanted, request.body, report)
        return self._created(resource, request)

    def _creation(self, request: Request) -> Creation:
        return tus.parse_creation(
            request.get_all,
            limits=self.options.limits,
            body_length=_body_length(request),
            has_body=request.body is not None,
            address=request.context.address,
            trailing=self._trailing(request),
        )

    def _trailing(self, request: Request) -> Callable[[], Checksum] | None:
        """Return what asks for the checksum behind the body, where one is announced.

        Raises:
            Refusal: `checksum_malformed`: it is announced and cannot come.
        """
        announced = single(request.get_all, "Trailer") or ""
        if "upload-checksum" not in {name.strip().lower() for name in announced.split(",")}:
            return None
        body = request.body
        if body is None:
            return None
        # Ignoring it would keep bytes that their client believes to be verified.
        if not self.options.limits.checksum_trailer:
            raise Refusal(Code.CHECKSUM_MALFORMED, "A checksum behind the body is not offered here.")
        if body.length is not None:
            raise Refusal(Code.CHECKSUM_MALFORMED, "A checksum behind the body needs a chunked body.")
        return lambda: tus.trailing_checksum(body.trailers)

    def _created(self, resource: Resource, request: Request) -> Reply:
        path = f"{PREFIX}/{resource.upload_id}"
        if resource.part is not None:
            path = f"{path}/parts/{resource.part}"
        location = (self.options.base_url or "") + path
        del request
        target = Target(resource.upload_id, resource.part)
        return self._of_owner(201, tus.creation_headers(resource, location), target)

    def _of_owner(self, status: int, headers: dict[str, str], target: Target) -> Reply:
        if target.upload_id is not None:
            headers["X-Upload-Id"] = target.upload_id
        return Reply(status, headers)

    def _refuse(self, refusal: Refusal, method: str, request: Request) -> Reply:
        status = tus.refusal_status(refusal, method)
        headers = tus.refusal_headers(refusal)
        headers["Cache-Control"] = "no-store"
        if refusal.code is Code.METHOD_NOT_ALLOWED:
            headers["Allow"] = str(refusal.extra.get("allow", ALLOW))
        body = b""
        if method != "HEAD":
            headers["Content-Type"] = problems.CONTENT_TYPE
            body = problems.document(refusal, status=status, request_id=request.context.request_id)
        return Reply(status, headers, body, reason=tus.REASONS.get(status, ""))

    def _log_append(
        self,
        target: Target,
        request: Request,
        reply: Reply,
        report: AppendReport,
        refusal: Refusal | None,
        started: float,
    ) -> None:
        before = report.offset_before or 0
        after = report.offset_after if report.offset_after is not None else before
        duration_s = self._exchange_options.clock.monotonic() - started
        if request.body is not None:
            self._metrics.body_ended(
                direct_bytes=request.body.direct, read_bytes=request.body.taken - request.body.direct
            )
        self._metrics.append_ended(
            protocol="tus", ended_by=report.ended_by, kept_bytes=after - before, duration_s=duration_s
        )
        held_back_s = request.body.held_back_s if request.body is not None else 0.0
        disk = report.ended_by == "disk"
        (log.warning if disk else log.info)(
            events.APPEND_ENDED,
            upload_id=target.upload_id,
            part=target.part,
            offset_before=before,
            offset_after=after,
            bytes=after - before,
            duration_s=round(duration_s, 4),
            held_back_s=round(held_back_s, 4),
            ended_by=report.ended_by,
            status=reply.status,
            code=refusal.code.value if refusal else None,
            protocol="tus",
            address=request.context.address,
        )


class _NoBody:
    """The body of a request that has none."""

    length = 0

    async def read(self) -> bytes:
        return b""

    def cut(self, reason: CutReason) -> None:
        pass

    def kept(self, offset: int) -> None:
        pass


_EMPTY: Final = _NoBody()


def _body_length(request: Request) -> int | None:
    return 0 if request.body is None else request.body.length


def _target(path: str) -> Target:
    """Return what *path* names.

    Raises:
        Refusal: `upload_unknown`: it names nothing that could exist.
    """
    match = _PATH.fullmatch(path)
    if match is None:
        raise Refusal(Code.UPLOAD_UNKNOWN)
    upload_id, part = match["id"], match["part"]
    if upload_id is not None and not is_upload_id(upload_id):
        raise Refusal(Code.UPLOAD_UNKNOWN)
    if part is not None and not is_part_id(part):
        raise Refusal(Code.UPLOAD_UNKNOWN, "There is no such part.")
    return Target(upload_id, part)


def _template(target: Target) -> str:
    if target.upload_id is None:
        return PREFIX
    return f"{PREFIX}/{{id}}" + ("/parts/{n}" if target.part is not None else "")


def _with_part_ids(wanted: Creation, upload_id: str) -> Creation:
    """Return *wanted* with the parts' own ids in place of their URLs.

    Only the path counts: clients name parts by whichever host they reached.
    """
    assert wanted.final_of is not None
    parts = []
    for url in wanted.final_of:
        try:
            target = _target(urlsplit(url).path)
        except (Refusal, ValueError):
            raise Refusal(Code.CONCAT_PART_UNKNOWN, f"No part: {url[:200]!r}.") from None
        if target.upload_id != upload_id or target.part is None:
            raise Refusal(Code.CONCAT_PART_UNKNOWN, f"No part of this upload: {url[:200]!r}.")
        parts.append(target.part)
    return Creation(
        length=None,
        metadata=wanted.metadata,
        pairs=wanted.pairs,
        concat=wanted.concat,
        final_of=tuple(parts),
        protocol=wanted.protocol,
        address=wanted.address,
    )


def _partial_upload(url: str) -> str:
    """Return the id of the upload that *url* names as a part, under open creation."""
    try:
        target = _target(urlsplit(url).path)
    except (Refusal, ValueError):
        raise Refusal(Code.CONCAT_PART_UNKNOWN, f"No upload: {url[:200]!r}.") from None
    if target.upload_id is None or target.part is not None:
        raise Refusal(Code.CONCAT_PART_UNKNOWN, f"No upload of its own: {url[:200]!r}.")
    return target.upload_id


def _not_allowed(allow: str) -> Refusal:
    return Refusal(Code.METHOD_NOT_ALLOWED, f"Allowed here: {allow}.", extra={"allow": allow})
