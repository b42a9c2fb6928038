"""What makes this instance one of several: the registry, and what is done with what it tells."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from incomingd import __version__
from incomingd.core.ring import Instance
from incomingd.log import events, get_logger
from incomingd.registry.fleet import FleetRegistry
from incomingd.registry.memory import MemoryRegistry
from incomingd.registry.redis import RedisStore
from incomingd.registry.registry import (
    AvailabilityChanged,
    GenerationChanged,
    InstancesChanged,
    InvitationsWaiting,
    NameShared,
    ValueUnreadable,
)

if TYPE_CHECKING:
    from incomingd.clock import Clock
    from incomingd.config import Settings
    from incomingd.core.tenure import Identity
    from incomingd.engine.engine import Engine
    from incomingd.registry.registry import Event, Registry

log = get_logger()


def is_fleet(settings: Settings) -> bool:
    """Whether there may be other instances."""
    return settings.registry.url.target is not None


def make_registry(settings: Settings, clock: Clock, identity: Identity, volume_id: str) -> Registry:
    """Return the registry that is configured; it is not started yet."""
    target = settings.registry.url.target
    if target is None:
        return MemoryRegistry(identity)
    instance = Instance(identity, started_at=time.time(), volumes=frozenset({volume_id}), version=__version__)
    return FleetRegistry(RedisStore(target, clock), clock, instance, lease_s=settings.registry.lease_s)


class RegistryWatch:
    """Hears what the registry tells by itself: for the log, for the instance's state, for the engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._taking = False
        self._generation = ""
        engine.services.registry.watch(self._heard)
        engine.state.registry_away = not engine.services.registry.available

    def _heard(self, event: Event) -> None:
        if isinstance(event, AvailabilityChanged):
            self._engine.state.registry_away = event.trouble is not None
            if event.trouble is not None:
                log.warning(events.REGISTRY_LOST, code=event.trouble.trouble.value, detail=event.trouble.sentence)
            else:
                log.info(events.REGISTRY_BACK)
        elif isinstance(event, GenerationChanged):
            if self._generation:
                log.warning(events.REGISTRY_RESET)
            self._generation = event.generation
        elif isinstance(event, InstancesChanged):
            log.info(
                events.RING_CHANGED,
                came=[each.identity.name for each in event.came],
                gone=[each.identity.name for each in event.gone],
                count=len(event.instances),
            )
        elif isinstance(event, NameShared):
            log.error(events.REGISTRY_NAME_SHARED, peer=event.other.start_id)
        elif isinstance(event, ValueUnreadable):
            log.warning(events.REGISTRY_VALUE_UNREADABLE, kind=event.what, detail=event.reason)
        elif isinstance(event, InvitationsWaiting) and not self._taking:
            self._taking = True
            _ = self._engine.services.clock.spawn(self._take(), name="invitations")

    async def _take(self) -> None:
        try:
            await self._engine.take_invited()
        finally:
            self._taking = False
