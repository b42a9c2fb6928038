"""Tickets: uploads come to be, each once, however often its web app asks."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from typing import TYPE_CHECKING, Final

from incomingd.core import ids
from incomingd.core.errors import Code, Refusal
from incomingd.core.record import Record
from incomingd.engine.events import Told
from incomingd.engine.keeper import HOLD_RETRY_S, PASSING
from incomingd.log import events, get_logger
from incomingd.registry.registry import RegistryUnavailableError
from incomingd.storage.volume import RecordUnreadableError, UploadExistsError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from incomingd.core.record import Terms
    from incomingd.engine.keeper import Keeper

log = get_logger()

KEY_KEPT_S: Final = 86400.0
"""For so long, at most, instances on other volumes know a key; the volume of its ticket knows it till the end."""


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

        Raises:
            Refusal: `upload_out_of_reach`, `not_ready`: a key leads to a ticket that nobody could tell of for `hold_s`.
        """
        deadline = self.services.clock.monotonic() + self.services.options.hold_s
        options = self.services.options
        wanted_s = expires_in_s if expires_in_s is not None else options.expires_in_s
        lasts_s = min(wanted_s, options.expires_in_max_s)
        if key is None:
            return await self._create(terms, lasts_s), True
        lock = self._key_locks.setdefault(key, _CountedLock())
        async with lock.held():
            try:
                return await self._create_once(terms, lasts_s, key, deadline)
            finally:
                if lock.waiting == 0:
                    self._key_locks.pop(key, None)

    async def create_now(self, terms: Terms) -> Record:
        """Make an upload that lasts as long as is configured."""
        return await self._create(terms, self.services.options.expires_in_s)

    async def _create_once(self, terms: Terms, lasts_s: float, key: str, deadline: float) -> tuple[Record, bool]:
        """Make a ticket under *key*, or find the one that was made; return whether it is new."""
        volume = self.services.volume
        known = await volume.find_key(key)
        digest = hashlib.sha256(key.encode()).hexdigest()
        while True:
            elsewhere = await self._known_to_others(digest)
            for found in dict.fromkeys((known, elsewhere)):
                record = await self._known_in_time(found, deadline) if found else None
                if record is not None and not record.status.final:
                    live = self._keeper.find(record.upload_id)
                    return (live.record if live else record), False
            made = await self._create(terms, lasts_s)
            bound = await volume.bind_key(key, made.upload_id, instead_of=known)
            if bound == made.upload_id and await self._first(digest, made, instead_of=elsewhere, lasts_s=lasts_s):
                return made, True
            # The same request has come to another instance, which was first. Nobody has heard of this upload.
            await self._forget(made)
            known = bound

    async def _known_to_others(self, digest: str) -> str | None:
        """Return the upload that a key has led to at an instance with another volume, as far as anybody knows."""
        if not self.services.volume.shared:
            return None
        try:
            return await self.services.registry.upload_of(digest)
        except RegistryUnavailableError:
            # The volume's own keys are all that can be known now.
            return None

    async def _first(self, digest: str, made: Record, *, instead_of: str | None, lasts_s: float) -> bool:
        """Tell the others where a key leads to; return whether nobody has told of another upload before."""
        if not self.services.volume.shared:
            return True
        keep_s = min(lasts_s, KEY_KEPT_S)
        try:
            leads_to = await self.services.registry.bind_key(
                digest, made.upload_id, instead_of=instead_of, keep_s=keep_s
            )
        except RegistryUnavailableError:
            return True
        return leads_to == made.upload_id

    async def _known_in_time(self, upload_id: str, deadline: float) -> Record | None:
        """Return the record that a key has led to; while nobody can tell, ask again until *deadline*.

        Its host may be back in a moment, and the web app's user waits for this answer.
        """
        services = self.services
        while True:
            try:
                return await self._known(upload_id)
            except Refusal as refusal:
                leaving = services.state.stopping or services.state.draining
                if refusal.code not in PASSING or leaving or services.clock.monotonic() + HOLD_RETRY_S >= deadline:
                    raise
            await services.clock.sleep(HOLD_RETRY_S)

    async def _known(self, upload_id: str) -> Record | None:
        """Return the record that a key has led to; None: it is gone.

        Raises:
            Refusal: `ticket_unreadable`, `upload_out_of_reach`, `not_ready`: it is there, so another one must not
                take its place unasked.
        """
        services = self.services
        try:
            record = await services.volume.read(upload_id)
            if record is None and services.volume.shared:
                # It was born elsewhere, or was given away since.
                return (await self._keeper.view(upload_id)).record
            return record
        except Refusal as refusal:
            if refusal.code is Code.UPLOAD_UNKNOWN:
                return None
            raise
        except RecordUnreadableError as error:
            log.error(events.RECORD_UNREADABLE, upload_id=upload_id, detail=str(error))
            raise Refusal(Code.TICKET_UNREADABLE) from error

    async def _create(self, terms: Terms, lasts_s: float) -> Record:
        services = self.services
        if services.state.retiring:
            # Its heir would say of it that it was never born.
            raise Refusal(Code.STOPPING, retry_after_s=0)
        services.state.births_open += 1
        try:
            return await self._born(terms, lasts_s)
        finally:
            services.state.births_open -= 1

    async def _born(self, terms: Terms, lasts_s: float) -> Record:
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
