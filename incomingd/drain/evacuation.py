"""Giving away what only this instance reaches: every upload of its volume, and every byte."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final

from incomingd.core.ring import takers
from incomingd.core.tenure import same_run
from incomingd.log import events, get_logger
from incomingd.registry.registry import Invitation, RegistryUnavailableError
from incomingd.storage.volume import VolumeError

if TYPE_CHECKING:
    from incomingd.core.tenure import Identity
    from incomingd.engine.engine import Engine

log = get_logger()

INVITE_AGAIN_S: Final = 2.0
"""An invitation may have been lost, or its guest be gone."""
AT_ONCE: Final = 64
"""Uploads that are on their way to other volumes at the same time."""


class Evacuation:
    """One for each drain.

    Args:
        engine: that is emptied.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waiting: dict[str, float] = {}
        """Uploads that have to go, and when their guests are to be invited again."""
        self._scanned = False
        self.invited = 0

    @property
    def left(self) -> int:
        """How many uploads have still to go, as far as it is known."""
        return len(self._waiting)

    @property
    def needed(self) -> bool:
        """Whether there is anybody to give to, and nobody else who reaches the volume."""
        services = self._engine.services
        if not services.volume.shared:
            return False
        others = [each for each in services.registry.instances if not same_run(each.identity, services.identity)]
        reached = any(services.volume.id in each.volumes for each in others)
        return not reached and any(each.takes() for each in others)

    async def step(self) -> bool:
        """Invite, and see what has gone; return whether all has.

        Raises:
            VolumeError: nobody can tell now.
        """
        services = self._engine.services
        if not self._scanned:
            for group in await services.volume.groups():
                for upload_id in await services.volume.ids_in(group):
                    if await self._stays(upload_id):
                        self._waiting[upload_id] = 0.0
            self._scanned = True
        now = services.clock.monotonic()
        due = [upload_id for upload_id, at in self._waiting.items() if at <= now][:AT_ONCE]
        invitations: dict[Identity, list[Invitation]] = defaultdict(list)
        for upload_id in due:
            if not await self._stays(upload_id):
                del self._waiting[upload_id]
                continue
            self._waiting[upload_id] = now + INVITE_AGAIN_S
            standing = await services.volume.standing(upload_id)
            guests = takers(
                upload_id, services.registry.instances, volume_id=services.volume.id, without={services.identity}
            )
            if standing is not None and guests and standing.given_from(services.volume.id) is None:
                invitation = Invitation(upload_id, standing.epoch, services.identity)
                invitations[guests[0].identity].append(invitation)
        for guest, some in invitations.items():
            try:
                await services.registry.invite(guest, some)
                self.invited += len(some)
            except RegistryUnavailableError:
                log.info(events.DRAIN_INVITATIONS_LOST, uploads=len(some))
        return not self._waiting

    async def _stays(self, upload_id: str) -> bool:
        try:
            return await self._engine.giving.unsettled(upload_id)
        except VolumeError as error:
            self._engine.services.health.failed(error)
            return True
