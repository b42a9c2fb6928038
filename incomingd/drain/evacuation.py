"""Giving away what only this instance reaches: every upload of its volume, and every byte.

What was open is known, and goes at once; its clients come first, for each of
them waits. What rests is found by looking through the volume beside that.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import TYPE_CHECKING, Final

from incomingd.core.errors import Refusal
from incomingd.core.ring import takers
from incomingd.engine import reach
from incomingd.engine.giving import Step
from incomingd.log import events, get_logger
from incomingd.registry.registry import Invitation, RegistryUnavailableError
from incomingd.storage.volume import VolumeError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from incomingd.core.tenure import Identity
    from incomingd.engine.engine import Engine

log = get_logger()

CLIENTS_FIRST_S: Final = 1.0
"""Clients that were cut come back at once, as a rule; for those that do not somebody is invited."""
INVITE_AGAIN_S: Final = 2.0
"""An invitation may have been lost, or its guest be gone."""
ON_THEIR_WAY: Final = 64
"""Uploads that are looked at in one step."""
AT_ONCE: Final = 8
SCAN_AGAIN_S: Final = 0.5
"""After a volume did not tell what is on it."""


def needed(engine: Engine) -> bool:
    """Return whether there is anybody to give to, and nobody else who reaches the volume."""
    services = engine.services
    if not services.volume.shared:
        return False
    # A lease of a former run of this instance may still hold.
    own = services.identity.name
    others = [each for each in services.registry.instances if each.identity.name != own]
    reached = any(services.volume.id in each.volumes for each in others)
    return not reached and any(each.takes() for each in others)


class Evacuation:
    """One for each drain; :meth:`close` ends it.

    Args:
        engine: that is emptied.
        parked: open uploads that were put down just now, and when, by a clock that does not jump.
    """

    def __init__(self, engine: Engine, parked: Mapping[str, float] | None = None) -> None:
        self._engine = engine
        self._waiting = {upload_id: at + CLIENTS_FIRST_S for upload_id, at in (parked or {}).items()}
        """Uploads that have to go, and when their guests are to be invited, or invited again."""
        self._scan: asyncio.Task[None] | None = None
        self._scanned = False
        self._unwatch = engine.giving.watch(self._heard)
        self.invited = 0

    @property
    def left(self) -> int:
        """How many uploads have still to go, as far as it is known."""
        return len(self._waiting)

    def close(self) -> None:
        """Look for no more."""
        self._unwatch()
        if self._scan is not None:
            self._scan.cancel()

    def _heard(self, upload_id: str, step: Step) -> None:
        if step is Step.SETTLED:
            self._waiting.pop(upload_id, None)

    # -- what rests

    async def _look_through(self) -> None:
        """Find what has to go and is not known, one group after the other."""
        services = self._engine.services
        seen: set[str] = set()
        while not self._scanned:
            try:
                for group in await services.volume.groups():
                    if group in seen:
                        continue
                    for found in await services.volume.survey(group):
                        if not self._engine.giving.rests(found):
                            self._waiting.setdefault(found.upload_id, 0.0)
                    seen.add(group)
                self._scanned = True
            except VolumeError as error:
                services.health.failed(error)
                await services.clock.sleep(SCAN_AGAIN_S)

    # -- what goes

    async def step(self) -> bool:
        """Invite, and see what has gone; return whether all has."""
        services = self._engine.services
        if self._scan is None:
            self._scan = services.clock.spawn(self._look_through(), name="evacuation")
        now = services.clock.monotonic()
        due = [upload_id for upload_id, at in self._waiting.items() if at <= now][:ON_THEIR_WAY]
        invitations: dict[Identity, list[Invitation]] = defaultdict(list)
        turns = asyncio.Semaphore(AT_ONCE)

        async def invite(upload_id: str) -> None:
            async with turns:
                found = await self._invitation(upload_id, now)
            if found is not None:
                invitations[found[0]].append(found[1])

        await asyncio.gather(*map(invite, due))
        for guest, some in invitations.items():
            try:
                await services.registry.invite(guest, some)
                self.invited += len(some)
            except RegistryUnavailableError:
                log.info(events.DRAIN_INVITATIONS_LOST, uploads=len(some))
        return self._scanned and not self._waiting

    async def _invitation(self, upload_id: str, now: float) -> tuple[Identity, Invitation] | None:
        """Return who is to be invited to an upload, and to what; None: nobody, now."""
        services, giving = self._engine.services, self._engine.giving
        if giving.under_way(upload_id):
            return None
        try:
            if not await giving.unsettled(upload_id):
                self._waiting.pop(upload_id, None)
                return None
            self._waiting[upload_id] = now + INVITE_AGAIN_S
            standing = await services.volume.standing(upload_id)
        except VolumeError as error:
            services.health.failed(error)
            self._waiting[upload_id] = now + SCAN_AGAIN_S
            return None
        if standing is None:
            return None
        given = standing.given_from(services.volume.id)
        guest: Identity | None = None
        if given is None:
            guests = takers(
                upload_id, services.registry.instances, volume_id=services.volume.id, without={services.identity}
            )
            guest = guests[0].identity if guests else None
        else:
            # It goes on being copied there: no client may come.
            try:
                guest, _ = await reach.ask(upload_id, standing, services, question="")
            except Refusal:
                # Whom it was given to has no record of it, or is away.
                guest = next(iter(reach.holders(given.volume_id, None, services)), None)
        return (guest, Invitation(upload_id, standing.epoch, services.identity)) if guest is not None else None
