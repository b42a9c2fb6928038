"""What makes this instance one of several: the registry, and what is done with what it tells."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from incomingd import __version__
from incomingd.core.formats import PRESENT, Known
from incomingd.core.peering import FILE
from incomingd.core.ring import Instance
from incomingd.daemon.options import peer_keys_of
from incomingd.engine import listing
from incomingd.log import events, get_logger
from incomingd.peers.http_peers import PeersOptions
from incomingd.registry.fleet import FleetRegistry
from incomingd.registry.memory import MemoryRegistry
from incomingd.registry.registry import (
    AvailabilityChanged,
    GenerationChanged,
    InstancesChanged,
    InvitationsWaiting,
    NameShared,
    ValueUnreadable,
)
from incomingd.registry.values import Formats
from incomingd.wire.listing import parse_query
from incomingd.wire.upload import upload_document

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from incomingd.clock import Clock
    from incomingd.config import Settings
    from incomingd.core.tenure import Identity
    from incomingd.engine.engine import Engine
    from incomingd.registry.registry import Event, Registry

log = get_logger()


def is_fleet(settings: Settings) -> bool:
    """Whether there may be other instances."""
    return settings.registry.url.target is not None


def make_registry(
    settings: Settings, clock: Clock, identity: Identity, volumes: frozenset[str], known: Known
) -> Registry:
    """Return the registry that is configured; it is not started yet.

    Args:
        settings: see there.
        clock: of this process.
        identity: of this run.
        volumes: ids of the volume that it reaches, and of those whose heir that is.
        known: the formats that it reads and writes.
    """
    target = settings.registry.url.target
    if target is None:
        return MemoryRegistry(identity)
    from incomingd.registry.redis import RedisStore  # noqa: PLC0415 -- 8 MiB and a tenth of a second that one instance alone has no use for

    instance = Instance(
        identity,
        started_at=time.time(),
        volumes=volumes,
        format=known.newest,
        version=__version__,
    )
    store = RedisStore(target, clock)
    return FleetRegistry(store, clock, instance, lease_s=settings.registry.lease_s, formats=Formats(known))


def peers_options(settings: Settings) -> PeersOptions:
    """Return what calls of peers take from the settings."""
    return PeersOptions(
        keys=peer_keys_of(settings),
        allow_plaintext=settings.peer.allow_plaintext,
        # Asked again while it does not answer, until it counts as an orphan's owner.
        recall_s=max(settings.registry.lease_s / 4, 0.5),
        # Whoever is asked may hold a web app's call for so long.
        call_s=settings.hold_s + 5.0,
    )


class PeerSide:
    """What peers may ask of this instance, put together of its parts; see :class:`incomingd.peer_api.PeerEngine`.

    Args:
        engine: of this process.
        status: what this instance says of itself.
    """

    def __init__(self, engine: Engine, status: Callable[[], Awaitable[dict[str, Any]]]) -> None:
        self._engine = engine
        self._status = status
        self.recall = engine.recall
        self.act = engine.act
        self.ask = engine.giving.ask
        self.void = engine.giving.void
        self.recorded = engine.giving.recorded
        self.release = engine.giving.release
        self.inherit = engine.inheriting.inherit

    async def read_range(self, upload_id: str, segment: str, start: int, size: int) -> bytes:
        """Return bytes of a segment, or of the joined file, that lies here."""
        if segment == FILE:
            return await self._engine.read_file(upload_id, start, size)
        return await self._engine.services.volume.read_range(upload_id, segment, start, size)

    async def listing(self, query: dict[str, Any]) -> dict[str, Any]:
        """Return a page of the uploads that lie here."""
        arguments = {name: value if isinstance(value, list) else [str(value)] for name, value in query.items()}
        found = await listing.page(self._engine, parse_query(arguments))
        return {
            "uploads": [upload_document(view.record, offset=view.offset, base_url=None) for view in found.views],
            "next_page": str(found.following) if found.following is not None else None,
        }

    async def status(self) -> dict[str, Any]:
        """Return what this instance says of itself."""
        return await self._status()


class RegistryWatch:
    """Hears what the registry tells by itself: for the log, for the instance's state, for the engine."""

    def __init__(self, engine: Engine, known: Known = PRESENT) -> None:
        self._engine = engine
        self._known = known
        self._format = known.newest
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
            self._speak_for(event.instances)
        elif isinstance(event, NameShared):
            log.error(events.REGISTRY_NAME_SHARED, peer=event.other.start_id)
        elif isinstance(event, ValueUnreadable):
            log.warning(events.REGISTRY_VALUE_UNREADABLE, kind=event.what, detail=event.reason)
        elif isinstance(event, InvitationsWaiting) and not self._taking:
            self._taking = True
            _ = self._engine.services.clock.spawn(self._take(), name="invitations")

    def _speak_for(self, instances: tuple[Instance, ...]) -> None:
        """Take note of the format that all of them read; what is in use is written again where that is the former."""
        before, self._format = self._format, self._known.spoken(instances, settled=True)
        if self._format != before:
            log.info(events.FORMAT_CHANGED, format=self._format)
        if self._format < before:
            _ = self._engine.services.clock.spawn(self._engine.keeper.write_again(), name="write again")

    async def _take(self) -> None:
        try:
            await self._engine.take_invited()
        finally:
            self._taking = False
