"""Tickets: uploads come to be, each once, however often its web app asks."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from incomingd.core import ids
from incomingd.core.record import Record
from incomingd.engine.events import Told
from incomingd.storage.volume import UploadExistsError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from incomingd.core.record import Terms
    from incomingd.engine.keeper import Keeper


class Tickets:
    """One for each engine.

    Args:
        keeper: knows uploads that are in memory.
        forget: deletes an upload of which nobody has heard.
    """

    def __init__(self, keeper: Keeper, forget: Callable[[Record], Awaitable[None]]) -> None:
        self.services = keeper.services
        self._keeper = keeper
        self._forget = forget
        self._key_locks: dict[str, _CountedLock] = {}

    async def create(
        self, terms: Terms, *, expires_in_s: float | None = None, key: str | None = None
    ) -> tuple[Record, bool]:
        """Make a ticket; return its record and whether it is new.

        Args:
            terms: what the web app asks for.
            expires_in_s: its time; None: the configured one.
            key: the web app's own name for this request: as long as the upload
                that it led to is not final, it leads to that one again.
        """
        options = self.services.options
        wanted_s = expires_in_s if expires_in_s is not None else options.expires_in_s
        lasts_s = min(wanted_s, options.expires_in_max_s)
        if key is None:
            return await self._create(terms, lasts_s), True
        lock = self._key_locks.setdefault(key, _CountedLock())
        async with lock.held():
            try:
                return await self._create_once(terms, lasts_s, key)
            finally:
                if lock.waiting == 0:
                    self._key_locks.pop(key, None)

    async def create_now(self, terms: Terms) -> Record:
        """Make an upload that lasts as long as is configured."""
        return await self._create(terms, self.services.options.expires_in_s)

    async def _create_once(self, terms: Terms, lasts_s: float, key: str) -> tuple[Record, bool]:
        """Make a ticket under *key*, or find the one that was made; return whether it is new."""
        volume = self.services.volume
        known = await volume.find_key(key)
        while True:
            record = await volume.read(known) if known else None
            if record is not None and not record.status.final:
                live = self._keeper.find(record.upload_id)
                return (live.record if live else record), False
            made = await self._create(terms, lasts_s)
            bound = await volume.bind_key(key, made.upload_id, instead_of=known)
            if bound == made.upload_id:
                return made, True
            # The same request has come to another instance, which was first. Nobody has heard of this upload.
            await self._forget(made)
            known = bound

    async def _create(self, terms: Terms, lasts_s: float) -> Record:
        services = self.services
        now = services.clock.now()
        while True:
            record = Record(
                upload_id=ids.upload_id(services.clock.random_bits(300), services.volume.id),
                terms=terms,
                created_at=now,
                expires_at=now + lasts_s,
                boot_id=services.boot_id,
            )
            try:
                await services.volume.create(record)
            except UploadExistsError:
                continue
            services.events.tell(Told.CREATED, record)
            return record


class _CountedLock:
    """A lock that knows whether anybody still wants it."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self.waiting = 0

    @contextlib.asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        self.waiting += 1
        try:
            await self._lock.acquire()
        finally:
            self.waiting -= 1
        try:
            yield
        finally:
            self._lock.release()
