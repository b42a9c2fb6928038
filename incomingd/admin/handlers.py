"""The calls of operators; thin: engine -> JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from incomingd.admin.api import AdminHandler
from incomingd.config import ConfigError
from incomingd.core.errors import Code, Refusal
from incomingd.engine import fleet_listing
from incomingd.web.access import upload_id_of
from incomingd.wire import backend as wire

if TYPE_CHECKING:
    from collections.abc import Sequence


class HealthHandler(AdminHandler):
    """``/health``: 200 while requests are taken, else 503."""

    def tokens(self) -> Sequence[str]:
        """Ask for none: a check knows no secrets, and hears nothing but the state."""
        return ()

    def get(self) -> None:
        """Answer the state."""
        ready = self.api.engine.state.serving
        self.answer({"state": self.api.state}, status=200 if ready else 503)

    head = get


class StatusHandler(AdminHandler):
    """``/status``: the instance at a glance."""

    async def get(self) -> None:
        """Answer."""
        self.answer(await self.api.status())

    head = get


class MetricsHandler(AdminHandler):
    """``/metrics``: for Prometheus."""

    async def get(self) -> None:
        """Answer in the format that the scraper asks for."""
        body, content_type = await self.api.scrape(self.request.headers.get("Accept", ""))
        self.set_header("Content-Type", content_type)
        self.write(body)

    head = get


class ReloadHandler(AdminHandler):
    """``/reload``: read the configuration again."""

    def post(self) -> None:
        """Answer what has changed, or what is wrong with the new configuration; then nothing has changed."""
        try:
            found = self.api.reload()
        except ConfigError as error:
            raise Refusal(
                Code.FIELD_INVALID,
                str(error),
                extra={
                    "errors": [
                        {"field": problem.key, "expected": problem.expected or problem.message, **asdict(problem)}
                        for problem in error.problems
                    ]
                },
            ) from error
        self.answer(
            {
                "applied": [asdict(change) for change in found.applied],
                "needs_restart": [asdict(change) for change in found.needs_restart],
            }
        )


class DrainHandler(AdminHandler):
    """``/drain``: give all uploads away, and take none; for good, where it is said so."""

    async def post(self) -> None:
        """Begin; ``/status`` tells how far it is. Repeats are harmless."""
        document = wire.parse(wire.DrainDocument, self.document(default={}))
        if not document.retire and (document.heir is not None or document.dry_run):
            name = "heir" if document.heir is not None else "dry_run"
            raise Refusal(
                Code.FIELD_INVALID,
                f"{name}: it means nothing without `retire`",
                extra={"errors": [{"field": name, "expected": "`retire` with it"}]},
            )
        if document.dry_run:
            self.answer({"state": self.api.state, "heir": self.api.drain.heir_of_choice(document.heir)})
            return
        if document.retire:
            await self.api.drain.retire(document.heir)
        else:
            self.api.drain.start()
        self.answer({"state": self.api.state, "drain": self.api.drain.progress.as_json()}, status=202)


class UndrainHandler(AdminHandler):
    """``/undrain``: take uploads again."""

    async def post(self) -> None:
        """End the drain, or take up work again after it."""
        wire.parse(wire.NothingDocument, self.document(default={}))
        await self.api.drain.undo()
        self.answer({"state": self.api.state})


class RingHandler(AdminHandler):
    """``/ring``: the instances that are alive."""

    def get(self) -> None:
        """Answer."""
        self.answer(self.api.ring())

    head = get


class UploadsHandler(AdminHandler):
    """``/uploads``: list uploads, as web apps do."""

    async def get(self) -> None:
        """List."""
        arguments = {name: self.get_query_arguments(name) for name in self.request.query_arguments}
        base_url = self.api.options.base_url
        self.answer(await fleet_listing.page(self.api.engine, arguments, self.api.upload, base_url=base_url))

    head = get


class UploadHandler(AdminHandler):
    """``/uploads/<id>``: one upload, with its callbacks."""

    async def get(self, upload_id: str) -> None:
        """Look."""
        self.answer(self.api.upload(await self.api.engine.view(upload_id_of(upload_id)), callbacks=True))

    head = get


class CancelHandler(AdminHandler):
    """``/uploads/<id>/cancel``."""

    async def post(self, upload_id: str) -> None:
        """Cancel."""
        upload_id = upload_id_of(upload_id)
        document = wire.parse(wire.CancelDocument, self.document(default={}))
        reason = document.reason or "Cancelled by an operator."
        self.answer(self.api.upload(await self.api.engine.cancel(upload_id, reason), callbacks=True))


class RedeliverHandler(AdminHandler):
    """``/uploads/<id>/redeliver``."""

    async def post(self, upload_id: str) -> None:
        """Make the callback again, with its old id."""
        upload_id = upload_id_of(upload_id)
        wire.parse(wire.NothingDocument, self.document(default={}))
        self.answer(self.api.upload(await self.api.engine.redeliver(upload_id), callbacks=True))
