"""Tickets and what becomes of them; thin: JSON -> engine -> JSON."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from incomingd.backend_api.api import PREFIX, BackendHandler
from incomingd.core.errors import Code, Refusal
from incomingd.engine import fleet_listing
from incomingd.engine.engine import View
from incomingd.log import events, get_logger
from incomingd.storage.volume import VolumeError
from incomingd.wire import backend as wire

if TYPE_CHECKING:
    from incomingd.core.record import Record
    from incomingd.wire.backend import TicketDocument

log = get_logger()

CREATES_AT_ONCE: Final = 16
LARGE_BYTES: Final = 64 * 1024
"""A larger body is read in a thread: a thousand tickets take long enough to be noticed by everybody else."""


@dataclass(frozen=True, slots=True)
class Made:
    """A ticket that a call has led to."""

    view: View
    new: bool


class UploadsHandler(BackendHandler):
    """``/uploads``: create tickets, list uploads."""

    async def post(self) -> None:
        """Create one ticket, or many; none is made unless all can be."""
        key = wire.idempotency_key(self.request.headers.get("Idempotency-Key"))
        large = len(self.request.body) > LARGE_BYTES
        wanted = await asyncio.to_thread(self._wanted) if large else self._wanted()
        if isinstance(wanted, list):
            made = await self._create_all(wanted, key)
            self.answer([self._told(one) for one in made], status=201)
            return
        one = await self._create(wanted, key)
        self.set_header("Location", f"{PREFIX}/uploads/{one.view.record.upload_id}")
        self.answer(self._told(one), status=201)

    async def get(self) -> None:
        """List uploads."""
        arguments = {name: self.get_query_arguments(name) for name in self.request.query_arguments}
        base_url = self.api.options.base_url
        self.answer(await fleet_listing.page(self.api.engine, arguments, self.api.upload, base_url=base_url))

    head = get

    def _wanted(self) -> TicketDocument | list[TicketDocument]:
        """Read the body."""
        document = self.document()
        if isinstance(document, list):
            return wire.parse_tickets(document, self.api.rules())
        return wire.parse(wire.TicketDocument, document, self.api.rules())

    async def _create(self, ticket: TicketDocument, key: str | None) -> Made:
        terms = ticket.terms(new_secret=self.api.new_secret(), traceparent=self.context.traceparent)
        record, new = await self.api.engine.create(terms, expires_in_s=ticket.expires_in_s, key=key)
        if not new:
            _check_same_secret(ticket, record)
            return Made(await self.api.engine.view(record.upload_id), new=False)
        log.info(
            events.TICKET_CREATED,
            upload_id=record.upload_id,
            length=record.length,
            address=self.context.address,
        )
        return Made(View(record, 0), new=True)

    async def _create_all(self, tickets: list[TicketDocument], key: str | None) -> list[Made]:
        """Create all of them, or none."""
        made: list[Made] = []
        for start in range(0, len(tickets), CREATES_AT_ONCE):
            results = await asyncio.gather(
                *(
                    # A line break cannot stand in a header: no single ticket's key is like these.
                    self._create(ticket, None if key is None else f"{key}\n{index}")
                    for index, ticket in enumerate(tickets[start : start + CREATES_AT_ONCE], start)
                ),
                return_exceptions=True,
            )
            made += [one for one in results if isinstance(one, Made)]
            failed = [one for one in results if isinstance(one, BaseException)]
            if failed:
                await self._take_back(made)
                raise failed[0]
        return made

    async def _take_back(self, made: list[Made]) -> None:
        """Forget tickets of which nobody will ever hear."""
        try:
            for one in made:
                if one.new:
                    await self.api.engine.forget(one.view.record)
        except VolumeError as error:
            # They hold no byte, and expire.
            log.error(events.VOLUME_FAILED, detail=str(error), code=Code.STORAGE_UNAVAILABLE.value)

    def _told(self, made: Made) -> dict[str, Any]:
        upload = self.api.upload(made.view)
        terms = made.view.record.terms
        if made.new and not terms.secret_given:
            upload["secret"] = wire.told_secret(terms)
        return upload


def _check_same_secret(ticket: TicketDocument, record: Record) -> None:
    """Refuse a web app that has hit upon the key of another one's ticket."""
    terms = record.terms
    given = ticket.secret
    if (given is not None) != terms.secret_given or (given is not None and not wire.secret_fits(given, terms)):
        raise Refusal(Code.SECRET_WRONG, "This Idempotency-Key belongs to an upload with another secret.")


class UploadHandler(BackendHandler):
    """``/uploads/<id>``: look at an upload, change its terms."""

    async def get(self, upload_id: str) -> None:
        """Look."""
        self.answer(self.api.upload(await self.view(upload_id)))

    head = get

    async def patch(self, upload_id: str) -> None:
        """Change; what is left out stays."""
        view = await self.view(upload_id)
        change = wire.parse(wire.ChangeDocument, self.document(), self.api.rules())
        self.answer(self.api.upload(await self.api.engine.change(view.record.upload_id, change)))


class CancelHandler(BackendHandler):
    """``/uploads/<id>/cancel``."""

    async def post(self, upload_id: str) -> None:
        """Cancel; repeats get the same answer."""
        view = await self.view(upload_id)
        document = wire.parse(wire.CancelDocument, self.document(default={}))
        self.answer(self.api.upload(await self.api.engine.cancel(view.record.upload_id, document.reason)))


class FinishHandler(BackendHandler):
    """``/uploads/<id>/finish``: after a ``wait``."""

    async def post(self, upload_id: str) -> None:
        """Hear what came of the file."""
        view = await self.view(upload_id)
        document = wire.parse(wire.FinishDocument, self.document())
        confirmed = await self.api.engine.confirm(
            view.record.upload_id,
            done=document.outcome == "done",
            message=document.message,
            client_data=document.client_data,
        )
        self.answer(self.api.upload(confirmed))


class RedeliverHandler(BackendHandler):
    """``/uploads/<id>/redeliver``."""

    async def post(self, upload_id: str) -> None:
        """Make the callback again, with its old id."""
        view = await self.view(upload_id)
        wire.parse(wire.NothingDocument, self.document(default={}))
        self.answer(self.api.upload(await self.api.engine.redeliver(view.record.upload_id)))
