"""How many uploads there are in each status, told at once and kept true at little cost.

One pass over all records at the start counts them; from then on the engine's events are added and subtracted. Only
uploads whose file is whole and not yet handed over are remembered one by one: there are few of them, and the hand-over
remembers them too. All others are numbers.

On a volume that several instances reach, an instance hears of no events but its own. There each counts the groups that
it looks after, again and again, so that the sum over the fleet is right, and a little old.
"""

from __future__ import annotations

from array import array
from collections import Counter
from typing import TYPE_CHECKING, Final

from incomingd.core.errors import Code
from incomingd.core.status import Status
from incomingd.engine.events import Told
from incomingd.log import events, get_logger
from incomingd.storage.volume import VolumeError
from incomingd.wire.listing import stuck

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from incomingd.core.record import Record
    from incomingd.engine.engine import Engine

log = get_logger()

SAMPLE_INTERVAL_S: Final = 5.0
"""Shorter than an upload stays in memory after its last use: each change of a hand-over is seen once it is over."""
RETRY_AFTER_S: Final = 30.0
RECOUNT_S: Final = 10.0
RECOUNT_RATIO: Final = 50.0
"""Counting takes at most a fiftieth of the time."""
RECENT_MAX: Final = 50_000
"""So many uploads of the first pass are remembered until what was under way when they were read has been told."""
_STATUSES: Final = tuple(Status)
_STATUS_BITS: Final = 4


class _Statuses:
    """The statuses of one group's uploads by their ids, 8 bytes for each: so many are read within a moment.

    An id stands there by 60 bits of its hash, which is another one at every start.
    """

    def __init__(self) -> None:
        self._known = array("q")

    def __len__(self) -> int:
        return len(self._known)

    def put(self, record: Record) -> None:
        """Add an upload, which is not among them."""
        self._known.append(hash(record.upload_id) >> _STATUS_BITS << _STATUS_BITS | _STATUSES.index(record.status))

    def pop(self, upload_id: str) -> Status | None:
        """Return the status of an upload, and forget it; None: it is not among them."""
        wanted = hash(upload_id) >> _STATUS_BITS
        for place, packed in enumerate(self._known):
            if packed >> _STATUS_BITS == wanted:
                del self._known[place]
                return _STATUSES[packed & ((1 << _STATUS_BITS) - 1)]
        return None


class Census:
    """One for each process; :meth:`run` it beside the engine."""

    def __init__(self, engine: Engine, guards: Callable[[str], bool] = lambda _: True) -> None:
        self._engine = engine
        self._guards = guards
        """Whether this instance looks after a group."""
        self._tally: tuple[Counter[Status], int] = (Counter(), 0)
        """Of a volume that is shared: uploads by status, and how many are stuck."""
        self._numbers: Counter[Status] = Counter()
        """Open and final uploads."""
        self._whole: dict[str, tuple[Status, bool]] = {}
        """Complete, being handed over, awaiting the app; and whether that is stuck."""
        self._counted: set[str] = set()
        """Groups that the first pass has been through."""
        self._heard_of: set[str] = set()
        """Groups in which something happened before their turn; the first pass may not have found them."""
        self._counting: str | None = None
        self._meanwhile: dict[str, Record | None] = {}
        """What happened in the group that is being counted; None: gone."""
        self._recent: dict[str, _Statuses] = {}
        """What was counted in each of the last groups: a record can be read, or found gone, before the engine tells of
        it, and must not be counted twice then."""
        self._recent_count = 0
        """Of uploads in all of them."""
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
        if self._engine.services.volume.shared:
            return Counter({status: self._tally[0][status] for status in Status})
        self._sample()
        counts = Counter({status: self._numbers[status] for status in Status})
        counts.update(status for status, _ in self._whole.values())
        return counts

    @property
    def stuck(self) -> int:
        """How many files wait for somebody to have them delivered again."""
        if self._engine.services.volume.shared:
            return self._tally[1]
        self._sample()
        return sum(1 for _, given_up in self._whole.values() if given_up)

    async def run(self) -> None:
        """Count all uploads, then follow what changes, until cancelled."""
        clock = self._engine.services.clock
        while self._engine.services.volume.shared:
            await self._recount()
        while not self.complete:
            try:
                await self.count()
            except VolumeError as error:
                log.error(events.VOLUME_FAILED, detail=str(error), code=Code.STORAGE_UNAVAILABLE.value)
                await clock.sleep(RETRY_AFTER_S)
        while True:
            await clock.sleep(SAMPLE_INTERVAL_S)
            self._recent.clear()
            self._recent_count = 0
            self._sample()

    # -- of a volume that is shared

    async def _recount(self) -> None:
        """Count what this instance looks after; then rest for much longer than that took."""
        clock = self._engine.services.clock
        began = clock.monotonic()
        numbers: Counter[Status] = Counter()
        stuck_ones = 0
        try:
            for group in await self._engine.services.volume.groups():
                if not self._guards(group):
                    continue
                for record in (await self._read(group)).values():
                    numbers[record.status] += 1
                    stuck_ones += stuck(record)
        except VolumeError as error:
            log.error(events.VOLUME_FAILED, detail=str(error), code=Code.STORAGE_UNAVAILABLE.value)
            await clock.sleep(RETRY_AFTER_S)
            return
        self._tally = (numbers, stuck_ones)
        self.complete = True
        await clock.sleep(max(RECOUNT_S, RECOUNT_RATIO * (clock.monotonic() - began)))

    # -- the first pass

    async def count(self) -> None:
        """Make the first pass, while uploads come, change and go.

        Raises:
            VolumeError: it cannot be read; a further call goes on where this one ended.
        """
        volume = self._engine.services.volume
        while True:
            found = await volume.groups()
            left = sorted(self._heard_of.union(found) - self._counted)
            if not left:
                self.complete = True
                # From here on every event counts.
                self._counted.clear()
                self._heard_of.clear()
                return
            for group in left:
                await self._count(group)

    async def _count(self, group: str) -> None:
        """Count one group; what happens in it meanwhile is newer than what was read."""
        self._counting, self._meanwhile = group, {}
        try:
            found: dict[str, Record | None] = dict(await self._read(group))
            known = self._recent[group] = _Statuses()
            for record in (found | self._meanwhile).values():
                if record is not None:
                    self._add(record)
                    known.put(record)
            self._counted.add(group)
        finally:
            self._counting, self._meanwhile = None, {}
        self._recent_count += len(known)
        while len(self._recent) > 1 and self._recent_count > RECENT_MAX:
            self._recent_count -= len(self._recent.pop(next(iter(self._recent))))

    async def _read(self, group: str) -> dict[str, Record]:
        """Return the uploads of a group that lie here, as far as they can be read."""
        volume = self._engine.services.volume
        standings = [found.standing for found in await volume.survey(group)]
        return {
            standing.record.upload_id: standing.record
            for standing in standings
            if standing is not None and standing.given_from(volume.id) is None
        }

    # -- events

    def _created(self, record: Record) -> None:
        self._move(record, None, record)

    def _completed(self, record: Record) -> None:
        self._move(record, Status.OPEN, record)

    def _ended(self, record: Record) -> None:
        whole = self._whole.get(record.upload_id)
        self._move(record, whole[0] if whole else Status.OPEN, record)

    def _forgotten(self, record: Record) -> None:
        self._move(record, record.status, None)

    def _move(self, record: Record, before: Status | None, now: Record | None) -> None:
        """Have an upload that was *before* be *now*; before its group's turn, counting will see it."""
        upload_id = record.upload_id
        group = self._engine.services.volume.group_of(upload_id)
        if group == self._counting:
            self._meanwhile[upload_id] = now
            return
        if not self.complete and group not in self._counted:
            self._heard_of.add(group)
            return
        known = self._recent.get(group)
        if known is not None:
            before = known.pop(upload_id)
            self._recent_count -= before is not None
            if now is not None:
                known.put(now)
                self._recent_count += 1
        if before is not None and self._whole.pop(upload_id, None) is None:
            self._numbers[before] -= 1
        if now is not None:
            self._add(now)

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
