"""How many uploads there are in each status, told at once and kept true at little cost.

One pass over all records at the start counts them; from then on the engine's events are added and subtracted. Only
uploads whose file is whole and not yet handed over are remembered one by one: there are few of them, and the hand-over
remembers them too. All others are numbers.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Final

from incomingd.core.status import Status
from incomingd.engine.events import Told
from incomingd.log import events, get_logger
from incomingd.storage.volume import RecordUnreadableError, VolumeError
from incomingd.wire.listing import stuck

if TYPE_CHECKING:
    from collections.abc import Mapping

    from incomingd.core.record import Record
    from incomingd.engine.engine import Engine

log = get_logger()

SAMPLE_INTERVAL_S: Final = 5.0
"""Shorter than an upload stays in memory after its last use: each change of a hand-over is seen once it is over."""
READS_AT_ONCE: Final = 4
RETRY_AFTER_S: Final = 30.0


class Census:
    """One for each process; :meth:`run` it beside the engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._numbers: Counter[Status] = Counter()
        """Open and final uploads."""
        self._whole: dict[str, tuple[Status, bool]] = {}
        """Complete, being handed over, awaiting the app; and whether that is stuck."""
        self._counted: set[str] = set()
        """Groups that the first pass has been through."""
        self._counting: str | None = None
        self._meanwhile: dict[str, Record | None] = {}
        """What happened in the group that is being counted; None: gone."""
        self.complete = False
        """Whether the first pass is over."""
        for told, call in (
            (Told.CREATED, self._created),
            (Told.COMPLETED, self._completed),
            (Told.ENDED, self._ended),
            (Told.FORGOTTEN, self._forgotten),
        ):
            engine.services.events.subscribe(told, call)

    @property
    def counts(self) -> Mapping[Status, int]:
        """How many uploads there are in each status, as far as they are counted."""
        self._sample()
        counts = Counter({status: self._numbers[status] for status in Status})
        counts.update(status for status, _ in self._whole.values())
        return counts

    @property
    def stuck(self) -> int:
        """How many files wait for somebody to have them delivered again."""
        self._sample()
        return sum(1 for _, given_up in self._whole.values() if given_up)

    async def run(self) -> None:
        """Count all uploads, then follow what changes, until cancelled."""
        clock = self._engine.services.clock
        while not self.complete:
            try:
                await self._count_all()
            except VolumeError as error:
                log.error(events.VOLUME_FAILED, detail=str(error), code="storage_unavailable")
                await clock.sleep(RETRY_AFTER_S)
        while True:
            await clock.sleep(SAMPLE_INTERVAL_S)
            self._sample()

    # -- the first pass

    async def _count_all(self) -> None:
        volume = self._engine.services.volume
        for group in await volume.groups():
            if group not in self._counted:
                await self._count(group)
        # Groups that came into being meanwhile were counted from their first upload on.
        self.complete = True

    async def _count(self, group: str) -> None:
        """Count one group; what happens in it meanwhile is newer than what was read."""
        volume = self._engine.services.volume
        self._counting, self._meanwhile = group, {}
        try:
            found: dict[str, Record | None] = {}
            upload_ids = await volume.ids_in(group)
            for start in range(0, len(upload_ids), READS_AT_ONCE):
                some = upload_ids[start : start + READS_AT_ONCE]
                records = await asyncio.gather(*(self._read(upload_id) for upload_id in some))
                found.update(zip(some, records, strict=True))
            for record in (found | self._meanwhile).values():
                if record is not None:
                    self._add(record)
            self._counted.add(group)
        finally:
            self._counting, self._meanwhile = None, {}

    async def _read(self, upload_id: str) -> Record | None:
        try:
            return await self._engine.services.volume.read(upload_id)
        except RecordUnreadableError:
            return None

    def _is_counted(self, record: Record, now: Record | None) -> bool:
        """Whether an event changes the numbers; before its group's turn, counting will see it."""
        group = self._engine.services.volume.group_of(record.upload_id)
        if group == self._counting:
            self._meanwhile[record.upload_id] = now
            return False
        return self.complete or group in self._counted

    # -- events

    def _created(self, record: Record) -> None:
        if self._is_counted(record, record):
            self._add(record)

    def _completed(self, record: Record) -> None:
        if self._is_counted(record, record):
            self._numbers[Status.OPEN] -= 1
            self._add(record)

    def _ended(self, record: Record) -> None:
        if self._is_counted(record, record):
            if self._whole.pop(record.upload_id, None) is None:
                self._numbers[Status.OPEN] -= 1
            self._add(record)

    def _forgotten(self, record: Record) -> None:
        if self._is_counted(record, None):
            if self._whole.pop(record.upload_id, None) is None:
                self._numbers[record.status] -= 1

    def _add(self, record: Record) -> None:
        if record.status.final or record.status is Status.OPEN:
            self._numbers[record.status] += 1
        else:
            self._whole[record.upload_id] = (record.status, stuck(record))

    def _sample(self) -> None:
        """Take over how far hand-overs have come: the engine has no event for each of their steps."""
        for upload in self._engine.live:
            if upload.id in self._whole and not upload.record.status.final:
                self._whole[upload.id] = (upload.record.status, stuck(upload.record))
