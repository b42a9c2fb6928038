"""What all calls of operators share."""

from __future__ import annotations

import asyncio
import os
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from incomingd.core.errors import Code, Refusal
from incomingd.core.tenure import same_run
from incomingd.engine.events import MOVE_WORDS, Told
from incomingd.engine.state import Phase
from incomingd.web.access import ApiHandler
from incomingd.wire.upload import timestamp, upload_document

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from incomingd.config.changes import Changes
    from incomingd.core.record import Record
    from incomingd.drain import Drain
    from incomingd.engine.census import Census
    from incomingd.engine.engine import Engine, View
    from incomingd.metrics import Metrics

PREFIX: Final = "/incoming/1.0/admin"
DISK_TIMEOUT_S: Final = 2.0
"""A status that waits longer for a dead volume tells nothing."""
PHASES: Final = [phase.value for phase in Phase]


@dataclass(frozen=True, slots=True)
class AdminOptions:
    """Replaced as a whole when the configuration is read again."""

    tokens: tuple[str, ...] = field(default=(), repr=False)
    """`backend.tokens` where the listener is shared with web apps; none where operators have one of their own."""
    base_url: str | None = None
    """`public.base_url`"""


@dataclass(frozen=True, slots=True)
class Instance:
    """What does not change while the process runs."""

    version: str
    name: str
    volume_path: Path


class AdminApi:
    """One for each process; its `options` are replaced at a reload.

    Args:
        engine: of this process.
        options: see there.
        instance: likewise.
        metrics: told of tickets and ends here, of the rest where it happens.
        census: how many uploads there are.
        reload: reads the configuration again and says what has changed; raises :class:`incomingd.config.ConfigError`
            where it has mistakes, having changed nothing.
        drain: empties this instance.
        connections: how many are open, by listener.
    """

    def __init__(
        self,
        engine: Engine,
        options: AdminOptions,
        *,
        instance: Instance,
        metrics: Metrics,
        census: Census,
        reload: Callable[[], Changes],
        drain: Drain,
        connections: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        self.engine = engine
        self.options = options
        self.instance = instance
        self.metrics = metrics
        self.census = census
        self.reload = reload
        self.drain = drain
        self.connections = connections
        self._started = engine.services.clock.monotonic()
        events = engine.services.events
        events.subscribe(Told.CREATED, lambda _: metrics.ticket_created())
        events.subscribe(Told.ENDED, lambda record: metrics.upload_ended(record.status))
        for move, words in MOVE_WORDS.items():
            metrics.move_words(move.value, words)
        events.subscribe_moves(lambda move, word: metrics.upload_moved(move.value, word))

    @property
    def state(self) -> str:
        """What the instance is doing, in one word."""
        return self.engine.state.phase.value

    async def free_bytes(self) -> int | None:
        """Return the room that is left on the volume; None where it cannot be told."""
        asked = asyncio.get_running_loop().run_in_executor(None, _free_bytes, self.instance.volume_path)
        if not await self.engine.services.clock.timeout(DISK_TIMEOUT_S, asked):
            return None
        return asked.result()

    async def status(self) -> dict[str, Any]:
        """Return what ``/status`` tells."""
        engine = self.engine
        return {
            "state": self.state,
            "version": self.instance.version,
            "instance": self.instance.name,
            "pid": os.getpid(),
            "uptime_s": round(engine.services.clock.monotonic() - self._started, 3),
            "volume": {
                "id": engine.services.volume.id,
                "path": str(self.instance.volume_path),
                "free_bytes": await self.free_bytes(),
            },
            "uploads": {status.value: count for status, count in self.census.counts.items()},
            "uploads_counted": self.census.complete,
            "handovers_stuck": self.census.stuck,
            "uploads_in_memory": len(engine.live),
            "appends_open": self.metrics.appends_open,
            "connections": dict(self.connections()),
            "drain": self.drain.progress.as_json() if engine.state.draining else None,
            "moves_open": engine.keeper.moves_open,
            "backfills_open": engine.keeper.backfills_open,
            "ring": self.ring(),
        }

    def ring(self) -> dict[str, Any]:
        """Return what ``/ring`` tells: who is alive, as far as the registry knows."""
        registry = self.engine.services.registry
        own = self.engine.services.identity
        return {
            "registry_available": registry.available,
            "settled": registry.settled,
            "lease_holds": registry.lease_holds,
            "instances": [
                {
                    "name": each.identity.name,
                    "start_id": each.identity.start_id,
                    "address": each.identity.address or None,
                    "self": same_run(each.identity, own),
                    "draining": each.draining,
                    "full": each.full,
                    "version": each.version or None,
                    "volumes": sorted(each.volumes),
                    "started_at": timestamp(each.started_at) if each.started_at else None,
                }
                for each in sorted(registry.instances, key=lambda each: each.identity.name)
            ],
        }

    async def scrape(self, accept: str) -> tuple[bytes, str]:
        """Return the metrics and their content type, in the format that an Accept header asks for."""
        self.metrics.set_state(self.state, PHASES)
        self.metrics.set_uploads(self.census.counts, stuck=self.census.stuck)
        registry = self.engine.services.registry
        self.metrics.set_ring(
            instances=len(registry.instances),
            registry_available=registry.available,
            lease_holds=registry.lease_holds,
        )
        retirement = self.drain.progress.retirement or {}
        self.metrics.set_retirement(inherited=retirement.get("inherited", 0), left=retirement.get("left", 0))
        free_bytes = await self.free_bytes()
        if free_bytes is not None:
            self.metrics.set_volume_free(self.engine.services.volume.id, free_bytes)
        for listener, count in self.connections().items():
            self.metrics.set_connections(listener, count)
        return self.metrics.render(accept)

    def upload(self, view: View, *, callbacks: bool = False) -> dict[str, Any]:
        """Return an upload as web apps see it, for one alone with what operators need to find out more."""
        document = upload_document(view.record, offset=view.offset, base_url=self.options.base_url)
        if callbacks:
            document |= self._for_operators(view.record)
        return document

    def _for_operators(self, record: Record) -> dict[str, Any]:
        path = self.engine.services.volume.path_of(record) if record.joined else None
        deliveries = [*([record.handover.delivery] if record.handover.delivery else []), *record.notifications]
        return {
            "path": str(path) if path is not None else None,
            "completed_at": timestamp(record.completed_at),
            "ended_at": timestamp(record.ended_at),
            "callbacks": [
                {
                    "type": delivery.type,
                    "webhook_id": delivery.webhook_id,
                    "attempts": delivery.attempts,
                    "delivered": delivery.delivered,
                    "given_up": delivery.given_up,
                    "last_error": delivery.last_error,
                    "next_attempt_at": timestamp(delivery.next_attempt_at),
                }
                for delivery in deliveries
            ],
        }


def _free_bytes(path: Path) -> int | None:
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return None


class AdminHandler(ApiHandler):
    """A call of an operator."""

    listener = "admin"
    api: AdminApi

    def initialize(self, api: AdminApi) -> None:
        """Take what the routes hand down."""
        self.api = api
        self.metrics = api.metrics

    def tokens(self) -> Sequence[str]:
        """Return the tokens that web apps have, on a listener shared with them."""
        return self.api.options.tokens

    def prepare(self) -> None:
        """Refuse pages: a browser of somebody near the daemon must not be made to command it."""
        super().prepare()
        if self.request.method == "POST" and "Origin" in self.request.headers:
            raise Refusal(Code.ORIGIN_NOT_ALLOWED, "Pages cannot make this call.")
