"""Whether there is room for further bytes, told to the other instances: the ring passes over who is full.

A volume is full where no more is free than what the configuration reserves. It
is so until a good deal more is free again: else each upload that ends would
change what all instances know of each other, twice.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from incomingd.log import events, get_logger
from incomingd.storage.volume import VolumeError

if TYPE_CHECKING:
    from incomingd.engine.owned import Services

log = get_logger()

AGAIN_BYTES: Final = 64 * 1024 * 1024
"""So much beyond the reserve has to be free before a volume that was full is full no more."""


class Room:
    """One for each process; the upkeep has it looked at.

    Args:
        services: of the engine.
    """

    def __init__(self, services: Services) -> None:
        self._services = services

    async def look(self) -> None:
        """Ask the volume, and tell the other instances what has changed."""
        services = self._services
        if not services.volume.shared:
            # Nobody else is there, and a disk at rest may sleep.
            return
        was_full = services.registry.instance.full
        try:
            # Nothing more fits, or not much more: one question either way.
            full = not await services.volume.has_room(AGAIN_BYTES if was_full else 1)
        except VolumeError as error:
            # Nobody knows; a volume that fails is told of by whoever writes to it.
            services.health.failed(error)
            return
        if full == was_full:
            return
        if full:
            log.warning(events.VOLUME_FILLED, volume_id=services.volume.id)
        else:
            log.info(events.VOLUME_CLEARED, volume_id=services.volume.id)
        await services.registry.advertise(replace(services.registry.instance, full=full))
