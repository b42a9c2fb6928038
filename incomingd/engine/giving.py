"""Giving an upload to an instance that does not reach this one's volume.

The giver writes the next claim in the taker's name before it tells the taker:
from then on it owns nothing, also after a restart. Its record stays until the
upload has ended everywhere, its segments until the owner has copies of them.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Final

from incomingd.core.errors import Code, Refusal
from incomingd.core.peering import Elsewhere, Given, NotNow, Question, Recorded, Release, Unknown, Voided
from incomingd.core.status import Status
from incomingd.core.tenure import Claim, ClaimKind, same_run
from incomingd.engine import reach
from incomingd.engine.outcomes import LostBytesError, OwnedElsewhereError
from incomingd.engine.pulling import surely_gone
from incomingd.engine.taking import remind
from incomingd.log import events, get_logger
from incomingd.storage.volume import ClaimTakenError

if TYPE_CHECKING:
    from collections.abc import Callable

    from incomingd.core.record import Record
    from incomingd.engine.keeper import Keeper
    from incomingd.storage.volume import Found, Standing

log = get_logger()

ATTEMPTS: Final = 5
LOOK_AGAIN_S: Final = 600.0
"""How often the owner of an upload that was given away is asked whether anything of it is needed here."""
UNDER_WAY_S: Final = 1.0
"""For so long a taker is not asked what has become of what it was given: it is at it, and its client waits."""
REMIND_S: Final = 20.0
"""How often a taker is reminded of an upload that it has no record of, and for which no client will come."""


@dataclass(slots=True)
class _Given:
    """What this run knows of an upload that it has given."""

    epoch: int
    at: float
    """When it was given, by a clock that does not jump, in s."""
    recorded: bool = False


class Step(Enum):
    """What this instance sees of an upload that it gives away."""

    GIVEN = "given"
    SETTLED = "settled"
    """The taker has recorded it, and has copies of all its bytes: nothing of it is needed here any more."""


class Giving:
    """The giver's side; one for each engine."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._given: dict[str, _Given] = {}
        self._tidied_at: dict[str, float] = {}
        self._watchers: list[Callable[[str, Step], None]] = []
        self._unrecorded: set[str] = set()
        """Complete uploads of which their takers seemed to have no record when they were last asked."""
        self._ended: set[str] = set()
        """Uploads of which this run has seen at their owners that they have ended."""

    def watch(self, heard: Callable[[str, Step], None]) -> Callable[[], None]:
        """Call *heard* with every step of an upload that goes from now on; return what ends that."""
        self._watchers.append(heard)
        return lambda: self._watchers.remove(heard)

    def _tell(self, upload_id: str, step: Step) -> None:
        for heard in self._watchers:
            heard(upload_id, step)

    # -- what peers ask

    async def ask(self, question: Question) -> Given | Elsewhere | Unknown | NotNow:
        """Answer who asks for an upload, or for its owner."""
        services, upload_id = self._keeper.services, question.upload_id
        own = services.volume.id
        for _ in range(ATTEMPTS):
            standing = await services.volume.standing(upload_id)
            given = standing.given_from(own) if standing is not None else None
            if standing is not None and given is not None:
                return self._again(question, given, standing)
            if standing is None:
                born_here = reach.born_here(upload_id, services)
                return Unknown() if born_here else NotNow("It does not lie here.")
            owner = standing.owner
            if owner is not None and not same_run(owner, services.identity) and not await surely_gone(owner, services):
                return Elsewhere(owner, standing.epoch, own, keeps=standing.record.status is not Status.OPEN)
            if not question.question or question.volume_id == own:
                return self._here(standing)
            if not self._goes(standing.record):
                return self._here(standing)
            try:
                reply = await self._give(standing, question)
            except (Refusal, OwnedElsewhereError, LostBytesError) as error:
                return NotNow(str(error))
            if reply is not None:
                return reply
        return NotNow("Others are moving it.")

    def _again(self, question: Question, given: Claim, standing: Standing) -> Given | Elsewhere | Unknown:
        """Answer for what was given before: the same again, to whoever writes where it was given to."""
        if not question.question or question.volume_id != given.volume_id:
            return Elsewhere(given.owner, given.epoch, given.volume_id)
        if question.upload_id in self._ended:
            # It was recorded there, has ended, and is forgotten: it must not begin again.
            return Unknown()
        if self._remembered(question.upload_id, given) is None:
            self._given[question.upload_id] = _Given(given.epoch, self._keeper.services.clock.monotonic())
        return Given(given, standing.record)

    def _remembered(self, upload_id: str, given: Claim) -> _Given | None:
        """Return what this run knows of a giving; another instance on this volume may have made it, or a later one."""
        known = self._given.get(upload_id)
        return known if known is not None and known.epoch == given.epoch else None

    def _here(self, standing: Standing) -> Elsewhere:
        services = self._keeper.services
        keeps = standing.record.status is not Status.OPEN
        return Elsewhere(services.identity, standing.epoch, services.volume.id, keeps=keeps)

    def _goes(self, record: Record) -> bool:
        """Whether an upload is given to whoever asks: an open one always, a complete one if this instance is left."""
        if record.status is Status.OPEN:
            return True
        # The web app was told a path here.
        told = record.status is Status.AWAITING_APP
        return self._keeper.services.state.draining and not told and not record.status.final

    async def _give(self, standing: Standing, question: Question) -> Given | None:
        """Park the upload, and claim it in the taker's name; None: look again."""
        services, upload_id = self._keeper.services, question.upload_id
        if standing.owner is not None or standing.record.joined:
            await self._keeper.put_down(upload_id)
            return None
        claim = Claim(
            epoch=standing.epoch + 1,
            owner=question.by,
            create_id=services.new_token(),
            volume_id=question.volume_id,
            kind=ClaimKind.PULL,
            question=question.question,
        )
        try:
            await services.volume.claim(upload_id, claim)
        except ClaimTakenError:
            return None
        # Until the claim stood, a former owner on this volume may have changed its record.
        latest = await services.volume.standing(upload_id)
        assert latest is not None, upload_id
        self._given[upload_id] = _Given(claim.epoch, services.clock.monotonic())
        self._tell(upload_id, Step.GIVEN)
        log.info(
            events.UPLOAD_GIVEN,
            upload_id=upload_id,
            offset=latest.record.content.noted_offset,
            epoch=claim.epoch,
            peer=question.by.name,
        )
        return Given(claim, latest.record)

    async def void(self, voided: Voided) -> None:
        """Have back what is declined where it was given to: the next claim is made beside this side's own record.

        However late the word comes, and to whichever instance that shares this volume: it stays true of that claim.
        """
        services, upload_id = self._keeper.services, voided.upload_id
        standing = await services.volume.standing(upload_id)
        given = standing.given_from(services.volume.id) if standing is not None else None
        if standing is None or given is None or given.epoch != voided.epoch:
            return
        if services.volume.retirement is not None:
            # It has an heir, who has this giving: there is no way back here.
            return
        claim = Claim(
            epoch=given.epoch + 1,
            owner=services.identity,
            create_id=services.new_token(),
            volume_id=services.volume.id,
            kind=ClaimKind.PULL,
        )
        with contextlib.suppress(ClaimTakenError):
            await services.volume.claim(upload_id, claim)
            parked = replace(standing.record, epoch=claim.epoch, owner=None, create_id=claim.create_id)
            await services.volume.write(parked, sync=True)
            self._given.pop(upload_id, None)
            log.info(events.UPLOAD_GIVEN_BACK, upload_id=upload_id, epoch=claim.epoch)

    async def recorded(self, recorded: Recorded) -> None:
        """Hear that a taker's record stands."""
        known = self._given.get(recorded.upload_id)
        if known is not None and known.epoch == recorded.epoch:
            known.recorded = True

    async def release(self, release: Release) -> None:
        """Delete segments of which the owner has copies that are durable and in its map."""
        services, upload_id = self._keeper.services, release.upload_id
        standing = await services.volume.standing(upload_id)
        if standing is None:
            return
        needed = _segments_on(services.volume.id, standing.record)
        if standing.given_from(services.volume.id) is None and needed.intersection(release.segments):
            # It has come back since; what its map names is not what was meant.
            log.warning(events.UPKEEP_DELAYED, upload_id=upload_id, detail="a release of what is in use")
            return
        await self._drop(standing.record, release.segments)

    async def _drop(self, record: Record, segments: tuple[str, ...]) -> None:
        services = self._keeper.services
        await services.volume.drop_segments(record.upload_id, segments)
        log.info(events.UPLOAD_RELEASED, upload_id=record.upload_id, count=len(segments))
        known = self._given.get(record.upload_id)
        if known is not None and known.recorded and not await services.volume.segments_of(record.upload_id):
            self._given.pop(record.upload_id, None)
            self._tell(record.upload_id, Step.SETTLED)

    # -- what this side does by itself

    def under_way(self, upload_id: str) -> bool:
        """Whether the upload was given just now: what is left to be done, its taker does."""
        known = self._given.get(upload_id)
        return known is not None and self._keeper.services.clock.monotonic() < known.at + UNDER_WAY_S

    def rests(self, found: Found) -> bool:
        """Return whether a drain surely has nothing to wait for; nobody is asked."""
        if found.standing is None:
            return False
        given = found.standing.given_from(self._keeper.services.volume.id)
        if given is None:
            return found.standing.record.status.final
        known = self._remembered(found.upload_id, given)
        if found.has_bytes:
            return False
        if known is not None:
            return known.recorded
        return _had_bytes_on(self._keeper.services.volume.id, found.standing.record)

    async def unsettled(self, upload_id: str) -> bool:
        """Return whether a drain has to wait: the taker has not recorded what it was given, or bytes are needed here.

        Raises:
            VolumeError: nobody can tell now.
        """
        services = self._keeper.services
        standing = await services.volume.standing(upload_id)
        if standing is None:
            return False
        given = standing.given_from(services.volume.id)
        if given is None:
            return not standing.record.status.final
        known = self._remembered(upload_id, given)
        if not await services.volume.segments_of(upload_id):
            if known is None:
                # Given by a former run. Only who has recorded an upload releases bytes of it.
                return not (
                    _had_bytes_on(services.volume.id, standing.record) or await self._taken(upload_id, standing)
                )
            if known.recorded:
                return False
        return not await self.tidy(upload_id, now=True)

    async def handed_on(self, upload_id: str, standing: Standing) -> bool:
        """Return whether what this volume has given away needs nothing of this instance any more, but the claim.

        Raises:
            VolumeError: nobody can tell now.
        """
        if await self.unsettled(upload_id):
            return False
        if not standing.record.status.final or await self._taken(upload_id, standing):
            return True
        # No client comes for it any more, so nobody else would ask for it.
        await remind(standing, self._keeper.services)
        return False

    async def _taken(self, upload_id: str, standing: Standing) -> bool:
        """Whether somebody has a record of it."""
        try:
            await reach.look(upload_id, standing, self._keeper.services)
        except Refusal as refusal:
            return refusal.code is Code.UPLOAD_UNKNOWN or await self._forgotten(standing, ())
        return True

    def look_again_s(self, upload_id: str) -> float:
        """Return after how long the owner of an upload that was given away is asked again."""
        return REMIND_S if upload_id in self._unrecorded else LOOK_AGAIN_S

    async def tidy(self, upload_id: str, *, now: bool = False) -> bool:
        """Ask the owner of an upload that was given away what is still needed here, and delete the rest.

        Args:
            upload_id: which.
            now: do not wait until it is time to ask again.

        Returns:
            Whether nothing of it is needed here any more, but the record.
        """
        services = self._keeper.services
        monotonic = services.clock.monotonic()
        if not now and monotonic < self._tidied_at.get(upload_id, float("-inf")) + self.look_again_s(upload_id):
            return False
        self._tidied_at[upload_id] = monotonic
        standing = await services.volume.standing(upload_id)
        if standing is None or standing.given_from(services.volume.id) is None:
            return True
        # Should it come back and go again meanwhile, what it leaves then is not among these.
        found = tuple(await services.volume.segments_of(upload_id))
        try:
            record = await reach.look(upload_id, standing, services)
        except Refusal as refusal:
            forgotten = refusal.code is Code.UPLOAD_UNKNOWN or await self._forgotten(standing, found)
            if not forgotten:
                if standing.record.status is not Status.OPEN:
                    # No client comes for it any more, so nobody else would ask for it.
                    self._unrecorded.add(upload_id)
                    await remind(standing, services)
                return False
            # Its owner has forgotten it, long after its end.
            record = None
        self._unrecorded.discard(upload_id)
        if record is None or record.status.final:
            await services.volume.drop_bytes(standing.record, file_too=True)
            if record is None:
                await services.volume.remove(upload_id)
                self._tidied_at.pop(upload_id, None)
                self._ended.discard(upload_id)
            else:
                self._ended.add(upload_id)
            return True
        needed = _segments_on(services.volume.id, record)
        unneeded = tuple(name for name in found if name not in needed)
        if unneeded:
            await self._drop(standing.record, unneeded)
        return not needed

    async def forget_declined(self, upload_id: str) -> bool:
        """Delete the word that declined an upload of another volume, once that does not know the upload any more.

        Returns:
            Whether nothing is left to be done; else somebody asks again.
        """
        services = self._keeper.services
        if reach.born_here(upload_id, services):
            # It is just being made, or a crash has left that half done.
            return True
        try:
            await reach.look(upload_id, None, services)
        except Refusal as refusal:
            if refusal.code is not Code.UPLOAD_UNKNOWN or await services.volume.standing(upload_id) is not None:
                return False
            await services.volume.remove(upload_id)
            return True
        return False

    async def _forgotten(self, standing: Standing, found: tuple[str, ...]) -> bool:
        """Whether the last owner has forgotten an upload, long after its end: not one that it has only never heard of.

        Args:
            standing: of what was given away.
            found: its segments that are still here.
        """
        services, record = self._keeper.services, standing.record
        # Only who has recorded an upload releases bytes of it.
        released = not found and _had_bytes_on(services.volume.id, record)
        lapsed = (
            record.status is Status.OPEN and record.expires_at + services.options.records_keep_s < services.clock.now()
        )
        if not (record.upload_id in self._ended or released or lapsed):
            return False
        return await reach.is_unknown_where_given(standing, services)


def _had_bytes_on(volume_id: str, record: Record) -> bool:
    """Whether bytes of the upload lay on a volume when the record was written."""
    contents = [record.content, *(content for _, content in record.parts)]
    return any(
        r.volume_id == volume_id and (content.noted_offset if r.stop is None else r.stop) > r.start
        for content in contents
        for r in content.map
    )


def _segments_on(volume_id: str, record: Record) -> set[str]:
    """Return the segments on a volume that a record's maps name."""
    contents = [record.content, *(content for _, content in record.parts)]
    return {r.segment for content in contents for r in content.map if r.volume_id == volume_id and r.stop != r.start}
