"""Being the heir of a volume that goes for good.

What is left there when all bytes have gone is small: of each upload that was
given away the claim that says to whom, and the records of those that have
ended. The heir keeps both on its own volume just as the giver had them, so that
it answers, reminds, tidies up and, one day, leaves them to its own heir by the
same rules. What it says of ids that it does not find counts only once it has
all: then the volume carries the mark, and the registry the retired volume's id.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from incomingd.core.errors import Code, Refusal
from incomingd.core.peering import Bequest, Inherited
from incomingd.engine.taking import pulled
from incomingd.log import events, get_logger
from incomingd.storage.volume import ClaimTakenError, VolumeError, VolumeFullError

if TYPE_CHECKING:
    from incomingd.core.peering import Given
    from incomingd.engine.keeper import Keeper

log = get_logger()

AT_ONCE: Final = 16
"""Records that are written at the same time: each waits for the disk."""
LOOK_S: Final = 10.0
"""Another instance that shares the volume may have inherited."""


class Inheriting:
    """The heir's side; one for each engine."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper

    async def inherit(self, bequest: Bequest) -> Inherited:
        """Keep a piece of what a volume leaves; with the last one, answer for the volume for ever.

        Each piece may come again, and pieces in any order; the last one comes when all others were answered.

        Raises:
            Refusal: `stopping`, `storage_full`, `not_ready`: nothing of it may be counted as kept.
        """
        volume = self._keeper.services.volume
        await self._refuse_if_it_cannot(bequest)
        turns = asyncio.Semaphore(AT_ONCE)

        async def keep(given: Given) -> None:
            async with turns:
                await self._keep(given)

        try:
            await asyncio.gather(*map(keep, bequest.givens))
            if bequest.volumes:
                await volume.inherit(bequest.volumes)
        except VolumeFullError as error:
            raise Refusal(Code.STORAGE_FULL) from error
        if bequest.volumes:
            await self._advertise()
            for volume_id in bequest.volumes:
                log.info(events.VOLUME_INHERITED, volume_id=volume_id)
        # What came while this instance began to be emptied may have missed the pass that leaves it to the next heir.
        self._refuse_if_leaving()
        return Inherited(volume.id)

    async def _refuse_if_it_cannot(self, bequest: Bequest) -> None:
        volume = self._keeper.services.volume
        self._refuse_if_leaving()
        if bequest.volume_id == volume.id:
            raise Refusal(Code.NO_HEIR, "Both use the same volume.")
        if bequest.heir_volume_id not in ("", volume.id):
            raise Refusal(Code.NOT_READY, "This instance uses another volume now.", retry_after_s=1)
        if not await volume.has_room(0):
            raise Refusal(Code.STORAGE_FULL)

    def _refuse_if_leaving(self) -> None:
        state = self._keeper.services.state
        if state.draining or state.stopping:
            raise Refusal(Code.STOPPING, retry_after_s=0)

    async def _keep(self, given: Given) -> None:
        services = self._keeper.services
        claim, found = given.claim, given.record
        if claim.volume_id != services.volume.id:
            await services.volume.keep_given(claim, found)
            return
        if not found.status.final:
            # It was taken here long ago, or never. To take it now would bring an upload back that may have ended since.
            return
        record, _ = pulled(found, claim, services)
        try:
            await services.volume.take(claim, record)
        except ClaimTakenError:
            # It came before, and has gone on since.
            return
        await self._keeper.resume(record)

    async def _advertise(self) -> None:
        services = self._keeper.services
        registry = services.registry
        volumes = frozenset({services.volume.id}) | services.volume.heir_of
        if registry.instance.volumes != volumes:
            await registry.advertise(replace(registry.instance, volumes=volumes))

    async def run(self) -> None:
        """Answer also for what other instances on this volume inherit, until cancelled."""
        services = self._keeper.services
        while services.volume.shared:
            await services.clock.sleep(LOOK_S)
            try:
                await services.volume.look_for_heirdoms()
            except VolumeError as error:
                services.health.failed(error)
            else:
                await self._advertise()
