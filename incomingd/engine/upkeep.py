"""Looking after uploads that nobody asks for: expiry, retention, what a restart left.

A volume may hold very many uploads at rest. They cost no memory: for each group
of uploads (there are some thousand groups, however many uploads) only the
earliest time at which something is to be done in it is kept. One pass over all
records at the start fills that in; later passes read the groups that are due.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from incomingd.core.errors import Refusal
from incomingd.core.status import Status
from incomingd.engine import ending
from incomingd.engine.bell import Bell
from incomingd.engine.events import Told
from incomingd.engine.guardian import Guardian
from incomingd.engine.room import Room
from incomingd.log import events, get_logger
from incomingd.storage.volume import RecordUnreadableError, VolumeError

if TYPE_CHECKING:
    from incomingd.core.record import Record
    from incomingd.engine.engine import Engine
    from incomingd.storage.volume import Found, Standing

log = get_logger()

NEVER: Final = float("inf")
KEY_PASS_INTERVAL_S: Final = 3600.0


class Upkeep:
    """Runs beside the engine; one for each process."""

    def __init__(self, engine: Engine, *, interval_s: float) -> None:
        self._engine = engine
        self.interval_s = interval_s
        self._due: dict[str, float] = {}
        self._removed_since_keys = 0
        self._keys_at = 0.0
        self._bell = Bell()
        self.guardian = Guardian(engine.services, self.wake)
        self.room = Room(engine.services)
        self._untidy: set[str] = set()
        """Groups in which something should have been deleted."""
        self._passed: set[str] = set()
        """Groups that the first pass has been through; what failed in others is tried again."""
        self.first_pass_done = asyncio.Event()
        tell = engine.services.events.subscribe
        for told in (Told.CREATED, Told.CHANGED, Told.ENDED):
            tell(told, self._plan)
        tell(Told.LEFT, self._plan_tidying)

    def _plan(self, record: Record) -> None:
        group = self._engine.services.volume.group_of(record.upload_id)
        due = self._due_at(record)
        self._due[group] = min(self._due.get(group, NEVER), due)

    def _plan_tidying(self, record: Record) -> None:
        group = self._engine.services.volume.group_of(record.upload_id)
        self._untidy.add(group)
        self._due[group] = min(self._due.get(group, NEVER), self._engine.services.clock.now())

    def _due_at(self, record: Record) -> float:
        """Return the Unix time at which something is to be done about *record*."""
        if record.status is Status.OPEN:
            return record.expires_at
        if record.status.final and not ending.pending(record):
            return (record.ended_at or 0.0) + self._engine.services.options.records_keep_s
        if record.status.final:
            # Its callback goes on; look again when it must have ended.
            return self._engine.services.clock.now() + self._engine.services.options.records_keep_s
        return NEVER

    def wake(self) -> None:
        """Look now, instead of at the end of the interval."""
        self._bell.ring()

    async def run(self) -> None:
        """Make a pass at each interval, until cancelled; the first sees every upload."""
        clock = self._engine.services.clock
        while True:
            await self.room.look()
            await self._pass()
            await self._bell.wait(clock, self.interval_s)
            await self._engine.release_idle()

    async def _pass(self) -> None:
        services = self._engine.services
        started = services.clock.monotonic()
        first = not self.first_pass_done.is_set()
        unseen: set[str] = set()
        expired = deleted = 0
        try:
            if services.volume.shared:
                unseen = await self.guardian.to_visit()
            elif first:
                unseen = set(await services.volume.groups()) - self._passed
            for group in sorted(unseen.union(self._due_groups())):
                counts = await self._visit(group, first=group in unseen)
                expired += counts[0]
                deleted += counts[1]
                if first or unseen:
                    # Thousands of records must not delay a request.
                    await services.clock.sleep(0)
            if first and (services.volume.shared or unseen <= self._passed):
                self._passed.clear()
                self.first_pass_done.set()
            await self._forget_keys()
        except VolumeError as error:
            services.health.failed(error)
        if expired or deleted or first:
            log.info(
                events.SWEEP_ENDED,
                expired=expired,
                deleted=deleted,
                duration_s=round(services.clock.monotonic() - started, 3),
            )

    def _due_groups(self) -> list[str]:
        now = self._engine.services.clock.now()
        due = [group for group, at in self._due.items() if at <= now]
        for group in [group for group in due if not (self.guardian.guards(group) or group in self._untidy)]:
            # Another instance has it; should it come back, it is looked through as a whole. But not what this one has
            # let go of with something left to be done: for the other one its owner lives.
            del self._due[group]
            self.guardian.visit_again(group)
            due.remove(group)
        return due

    async def _visit(self, group: str, *, first: bool) -> tuple[int, int]:
        """Do what is due in one group; return how many expired and were deleted.

        What cannot be done for one upload must not keep the others from it: the
        group is visited again.
        """
        services = self._engine.services
        # Before anything is read: what is told from now on may be newer than that.
        due = self._due.pop(group, NEVER)
        untidy = group in self._untidy
        self._untidy.discard(group)
        takes_up = first or untidy
        try:
            survey = await services.volume.survey(group)
        except VolumeError as error:
            services.health.failed(error)
            self._due[group] = min(self._due.get(group, NEVER), due, services.clock.now())
            if untidy:
                self._untidy.add(group)
            return 0, 0
        expired = deleted = 0
        troubled = False
        for found in survey:
            if found.standing is not None and self._rests(found, found.standing, takes_up=takes_up):
                self._plan(found.standing.record)
                continue
            try:
                counts = await self._attend(group, found.upload_id, takes_up=takes_up)
                expired += counts[0]
                deleted += counts[1]
            except RecordUnreadableError as error:
                log.error(events.RECORD_UNREADABLE, upload_id=found.upload_id, detail=str(error))
            except Refusal as refusal:
                log.warning(events.UPKEEP_DELAYED, upload_id=found.upload_id, detail=str(refusal))
                troubled = True
            except VolumeError as error:
                services.health.failed(error)
                troubled = True
        self._visited(group, troubled=troubled, took_up=takes_up)
        return expired, deleted

    def _rests(self, found: Found, standing: Standing, *, takes_up: bool) -> bool:
        """Return whether nothing is to be done about an upload now: its record need not be read once more."""
        services, record = self._engine.services, standing.record
        if standing.given_from(services.volume.id) is not None or self._due_at(record) <= services.clock.now():
            return False
        if (takes_up or record.status.final) and ending.pending(record):
            # Of an open one, too: the web app has not heard of its start.
            return False
        if record.status.final:
            return not (takes_up and found.has_bytes)
        return record.status is Status.OPEN or not takes_up

    async def _attend(self, group: str, upload_id: str, *, takes_up: bool) -> tuple[int, int]:
        """Do what is due for one upload; return whether it has expired, and whether it was deleted (0 or 1).

        Raises:
            Refusal, VolumeError: it is to be tried again.
            RecordUnreadableError: nothing can be done.
        """
        services = self._engine.services
        record = await services.volume.read(upload_id)
        if record is None:
            await self._tidy(group, upload_id)
            return 0, 0
        if takes_up or (record.status.final and ending.pending(record)):
            await self._engine.resume(record)
        if self._due_at(record) > services.clock.now():
            self._plan(record)
            return 0, 0
        if record.status is Status.OPEN:
            return int(await self._engine.expire(upload_id)), 0
        await self._engine.forget(record)
        self._removed_since_keys += 1
        return 0, 1

    async def _tidy(self, group: str, upload_id: str) -> None:
        """Look after what was given to another volume; it is looked at again as long as anything of it is here."""
        services, giving = self._engine.services, self._engine.giving
        if not services.volume.shared:
            return
        if await services.volume.standing(upload_id) is None:
            gone = await giving.forget_declined(upload_id)
        else:
            await giving.tidy(upload_id)
            gone = await services.volume.standing(upload_id) is None
        if not gone:
            again = services.clock.now() + giving.look_again_s(upload_id)
            self._due[group] = min(self._due.get(group, NEVER), again)

    def _visited(self, group: str, *, troubled: bool, took_up: bool) -> None:
        """Note when the group is due again; what could not be taken up now is taken up then."""
        if troubled:
            self._due[group] = min(self._due.get(group, NEVER), self._engine.services.clock.now())
            if took_up:
                self._untidy.add(group)
                self.guardian.visit_again(group)
        elif not self.first_pass_done.is_set():
            self._passed.add(group)

    async def _forget_keys(self) -> None:
        """Forget idempotency keys of uploads whose records are gone."""
        services = self._engine.services
        now = services.clock.now()
        if not self._removed_since_keys or now < self._keys_at + KEY_PASS_INTERVAL_S:
            return
        await services.volume.forget_keys()
        self._keys_at = now
        self._removed_since_keys = 0
