"""One running instance: everything wired together, started and stopped in order."""

from __future__ import annotations

import asyncio
import contextlib
import grp
import os
import time
from typing import TYPE_CHECKING, Any, Final

from tornado.routing import URLSpec
from tornado.web import Application

from incomingd import __version__, admin, backend_api
from incomingd import log as logging_setup
from incomingd.clock import SystemClock
from incomingd.core import codec, ids
from incomingd.core.formats import PRESENT, Known
from incomingd.core.tenure import Identity
from incomingd.daemon import fleet, options
from incomingd.daemon.agent import AgentListener
from incomingd.daemon.inherited import InheritedError, sockets
from incomingd.daemon.listeners import Listener, ListenerOptions, ListenError
from incomingd.daemon.memory import keep_trim
from incomingd.daemon.notify import PATIENCE_S, Notifier
from incomingd.drain import Drain
from incomingd.engine.census import Census
from incomingd.engine.engine import Engine
from incomingd.engine.events import Events
from incomingd.engine.owned import Services
from incomingd.engine.state import Phase
from incomingd.engine.upkeep import Upkeep
from incomingd.frontends import pages
from incomingd.frontends.uploads import PATTERN, UploadResource
from incomingd.handover import Handover
from incomingd.handover.caller import HttpCaller
from incomingd.log import events, get_logger
from incomingd.metrics import Metrics
from incomingd.peer_api import LISTENER_BODY_BYTES, PeerApi
from incomingd.peer_api import routes as peer_routes
from incomingd.peers.calls import LonePeers
from incomingd.peers.http_peers import HttpPeers, tls_context
from incomingd.storage.directory import DirectoryOptions, DirectoryVolume
from incomingd.web.exchange import ExchangeOptions
from incomingd.web.handler import JSON_BYTES_MAX, UnknownPathHandler, log_nothing
from incomingd.web.paths import ByPath
from incomingd.web.proxies import TrustedPeers
from incomingd.web.rates import Rates
from incomingd.wire.peer import Formats

if TYPE_CHECKING:
    from collections.abc import Callable

    from incomingd.config import Changes, Settings
    from incomingd.drain import Progress

log = get_logger()

BODY_BYTES: Final = {
    # Nothing that is read whole is wanted here; anybody may send it, and it is held in memory.
    "public": 16 * 1024,
    "backend": JSON_BYTES_MAX,
    "admin": JSON_BYTES_MAX,
    "peer": LISTENER_BODY_BYTES,
}
"""The longest body that a listener reads whole."""


class Daemon:
    """Made from settings; :meth:`start`, then :meth:`stop`."""

    def __init__(self, settings: Settings, known: Known = PRESENT) -> None:
        self.settings = settings
        self.known = known
        self.started_at = time.monotonic()
        self.notifier = Notifier.from_environment(os.environ)
        self._tasks: list[asyncio.Task[None]] = []
        self._listeners: list[Listener] = []
        self._agents: list[AgentListener] = []
        self.clock = SystemClock()
        self.identity = Identity(
            name=settings.instance, start_id=f"{self.clock.random_bits(128):032x}", address=settings.peer.url
        )
        self.volume = _open_volume(
            settings, self.clock, self.identity, codec.Formats(known, lambda: self.format_spoken)
        )
        volumes = frozenset({self.volume.id}) | self.volume.heir_of
        self.registry = fleet.make_registry(settings, self.clock, self.identity, volumes, known)
        self.metrics = Metrics(version=__version__, instance=settings.instance)
        self.peers = None
        if settings.peer.listens:
            self.peers = HttpPeers(
                self.clock,
                fleet.peers_options(settings),
                tls=tls_context(settings.peer.tls.ca),
                format_spoken=lambda: self.format_spoken,
                formats=Formats(known),
                metrics=self.metrics,
            )
        self.engine = Engine(
            Services(
                clock=self.clock,
                volume=self.volume,
                registry=self.registry,
                identity=self.identity,
                events=Events(),
                options=options.engine_options(settings),
                boot_id=self.volume.boot_id,
                peers=self.peers or LonePeers(),
            )
        )
        self.upkeep = Upkeep(self.engine, interval_s=settings.uploads.sweep_interval_s)
        self.caller = HttpCaller(
            timeout_s=settings.handover.timeout_s,
            allowed=settings.handover.allowed_hosts,
            concurrency=settings.handover.concurrency,
        )
        self.handover = Handover(self.engine, self.caller, options.handover_options(settings), self.metrics)
        self.registry_watch = fleet.RegistryWatch(self.engine, known)
        self.drain = Drain(
            self.engine,
            options.drain_options(settings),
            callbacks_open=lambda: self.handover.under_way,
            progressed=self._tell_progress,
        )
        self.backend = backend_api.BackendApi(self.engine, options.backend_options(settings), self.metrics)
        self.census = Census(self.engine, self.upkeep.guardian.guards)
        self.reload: Callable[[], Changes] | None = None
        self.admin = admin.AdminApi(
            self.engine,
            options.admin_options(settings),
            instance=admin.Instance(__version__, settings.instance, self.volume.root),
            metrics=self.metrics,
            census=self.census,
            reload=self._reload,
            drain=self.drain,
            connections=lambda: {listener.name: listener.open_connections for listener in self._listeners},
        )
        self.peer_api = PeerApi(
            fleet.PeerSide(self.engine, self.admin.status),
            start_id=self.identity.start_id,
            keys=options.peer_keys_of(settings),
            clock=self.clock,
            formats=Formats(known),
            metrics=self.metrics,
        )
        self.trusted = TrustedPeers(settings.public.trusted_proxies, setting="public.trusted_proxies")
        self.exchange_options = ExchangeOptions(
            clock=self.clock,
            trusted=self.trusted,
            body_limits=options.body_limits(settings),
            close_after_answer=self._closes,
            rates=Rates(options.rate_limits(settings)),
        )
        self.uploads = UploadResource(
            self.engine, self.exchange_options, options.upload_options(settings), self.metrics
        )

    @property
    def format_spoken(self) -> int:
        """The format of whatever others read, as it is written now."""
        return self.known.spoken(self.registry.instances, settled=self.registry.settled)

    def _reload(self) -> Changes:
        assert self.reload is not None, "a daemon is reloaded by whoever loaded its settings"
        return self.reload()

    def _tell_progress(self, progress: Progress) -> None:
        phase = self.engine.state.phase
        if phase is Phase.DRAINING:
            self.notifier.progress(f"draining: {progress.left} of {progress.uploads} uploads left")
        else:
            self.notifier.progress(phase.value)

    def _closes(self) -> bool:
        return self.engine.state.close_after_answer

    # -- listeners

    @property
    def _listening(self) -> list[Listener | AgentListener]:
        return [*self._listeners, *self._agents]

    def bind(self) -> None:
        """Take the addresses.

        Raises:
            ListenError: one cannot be had; none is kept then.
        """
        settings = self.settings
        rest = pages.application(self.engine, self.uploads.options, self.trusted, self._closes)
        public = ByPath(PATTERN, self.uploads, rest)
        self._listen("public", settings.public.address, public, settings.public.tls)
        backend_routes = backend_api.routes(self.backend)
        admin_routes = admin.routes(self.admin)
        shared = settings.admin.address == settings.backend.address
        both = self._application(backend_routes + admin_routes if shared else backend_routes)
        self._listen("backend", settings.backend.address, both, settings.backend.tls)
        if not shared:
            self._listen("admin", settings.admin.address, self._application(admin_routes), settings.admin.tls)
        if settings.peer.listens:
            peer = self._application(peer_routes(self.peer_api), closes=False)
            self._listen("peer", settings.peer.address, peer, settings.peer.tls)
        self._inherit()
        if settings.agent.address is not None:
            self._agents = [AgentListener(settings.agent.address, self.engine.state, self.clock)]
        try:
            for listener in self._listening:
                listener.bind()
        except ListenError:
            for listener in self._listening:
                listener.stop()
            raise

    def _inherit(self) -> None:
        """Give listeners the sockets that the service manager holds for them."""
        try:
            handed = sockets(os.environ, [listener.name for listener in self._listeners], default="public")
        except InheritedError as error:
            raise ListenError(str(error)) from error
        for listener in self._listeners:
            listener.inherit(handed.get(listener.name, []))

    def _application(self, routes: list[URLSpec], *, closes: bool = True) -> Application:
        return Application(
            list(routes),
            default_handler_class=UnknownPathHandler,
            trusted=self.trusted,
            close_after_answer=self._closes if closes else lambda: False,
            log_function=log_nothing,
        )

    def _listen(self, name: str, address: Any, delegate: Any, tls: Any) -> None:
        limits = self.settings.limits
        self._listeners.append(
            Listener(
                name,
                address,
                delegate,
                tls=tls,
                options=ListenerOptions(
                    header_bytes=limits.header_bytes,
                    idle_timeout_s=limits.idle_connection_timeout_s,
                    body_bytes=BODY_BYTES[name],
                    connections_max=limits.connections,
                    per_address_max=limits.connections_per_address if name == "public" else None,
                    metrics=self.metrics,
                    trusts=_nobody if name == "peer" else self.trusted.trusts,
                    clock=self.clock,
                ),
            )
        )

    # -- life

    async def start(self) -> None:
        """Answer requests from now on; what a former run left is taken up beside it."""
        await self.registry.start()
        self._tasks = [
            self.clock.spawn(self.handover.run(), name="hand-over"),
            self.clock.spawn(self.upkeep.run(), name="upkeep"),
            self.clock.spawn(self.census.run(), name="census"),
            self.clock.spawn(admin.watch_loop(self.clock, self.metrics), name="loop watch"),
            self.clock.spawn(keep_trim(self.clock), name="memory"),
            self.clock.spawn(self.engine.inheriting.run(), name="heirdoms"),
        ]
        if self.volume.retirement is None:
            self.engine.state.ready()
        else:
            self.drain.resume_retirement()
        for listener in self._listening:
            listener.start()
        log.info(
            events.DAEMON_READY,
            listeners={listener.name: str(listener.address) for listener in self._listening},
            duration_s=round(time.monotonic() - self.started_at, 3),
        )
        self.notifier.ready("ready")
        self.notifier.watch()

    async def stop(self, signal: str) -> None:
        """Put everything down so that nothing that was acknowledged is lost."""
        began = time.monotonic()
        self.notifier.stopping("stopping", within_s=self.settings.shutdown.grace_s + PATIENCE_S)
        log.info(events.DAEMON_STOPPING, signal=signal, uploads=len(self.engine.live))
        if fleet.is_fleet(self.settings):
            # Alone, nobody else could have the uploads: they are put down, and there after the restart.
            self.drain.start()
            await self.drain.wait(self.settings.drain.deadline_s)
            self.notifier.stopping("letting answers end", within_s=self.settings.shutdown.grace_s + PATIENCE_S)
        for listener in self._listeners:
            listener.stop()
        await self.engine.stop()
        await self._let_end()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.caller.close()
        for listener in self._listeners:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(listener.close(), timeout=2.0)
        # To the last moment: who hears nothing goes by what it has heard before.
        for agent in self._agents:
            agent.stop()
        await self.registry.close()
        if self.peers is not None:
            await self.peers.close()
        # What is still under way is repeatable: joins, callbacks, held answers.
        await self.clock.close()
        await self.volume.close()
        self.notifier.close()
        log.info(events.DAEMON_STOPPED, duration_s=round(time.monotonic() - began, 3))

    def apply(self, settings: Settings) -> None:
        """Work with other settings from now on.

        What can fail is done first, so that a failure leaves everything as it was.

        Args:
            settings: already without the changes that need a restart.

        Raises:
            OSError, ssl.SSLError: a certificate cannot be read.
        """
        tls = {
            "public": settings.public.tls,
            "backend": settings.backend.tls,
            "admin": settings.admin.tls,
            "peer": settings.peer.tls,
        }
        for listener in self._listeners:
            listener.check_tls(tls[listener.name])
        peer_tls = tls_context(settings.peer.tls.ca)
        for listener in self._listeners:
            listener.reload_tls(tls[listener.name])
            per_address = settings.limits.connections_per_address if listener.name == "public" else None
            listener.set_connections_max(settings.limits.connections, per_address)
        self.settings = settings
        self.engine.services.options = options.engine_options(settings)
        self.upkeep.interval_s = settings.uploads.sweep_interval_s
        self.upkeep.wake()
        self.caller.timeout_s = settings.handover.timeout_s
        self.caller.allowed = settings.handover.allowed_hosts
        if self.peers is not None:
            self.peers.apply(fleet.peers_options(settings), peer_tls)
        self.peer_api.keys = options.peer_keys_of(settings)
        self.drain.options = options.drain_options(settings)
        self.handover.options = options.handover_options(settings)
        self.trusted.replace(settings.public.trusted_proxies)
        self.exchange_options.body_limits = options.body_limits(settings)
        self.exchange_options.rates.limits = options.rate_limits(settings)
        self.backend.options = options.backend_options(settings)
        self.admin.options = options.admin_options(settings)
        options.take_over(self.uploads.options, options.upload_options(settings))
        logging_setup.configure(settings.log, instance=settings.instance, hidden=options.secrets_of(settings))

    async def _let_end(self) -> None:
        """Wait until answers are written and callbacks answered, within the grace."""
        deadline = time.monotonic() + self.settings.shutdown.grace_s
        while time.monotonic() < deadline:
            busy = self.handover.under_way or any(u.busy for u in self.engine.live)
            if not busy:
                # Answers that were just written still leave by the lingering close.
                await asyncio.sleep(0.15)
                return
            await asyncio.sleep(0.02)


def _open_volume(settings: Settings, clock: SystemClock, identity: Identity, formats: codec.Formats) -> DirectoryVolume:
    began = time.monotonic()
    volume = DirectoryVolume.open(
        settings.data_dir,
        new_id=ids.spell(clock.random_bits(128), ids.VOLUME_CHARS),
        holder={"instance": settings.instance, "pid": os.getpid()},
        options=DirectoryOptions(
            threads=settings.storage.threads,
            file_mode=settings.files.mode,
            file_group=_group_id(settings.files.group),
            reserve_bytes=settings.limits.free_space_reserve_bytes,
            durable=settings.durability != "none",
            fast_path=settings.storage.fast_path == "auto",
        ),
        shared=fleet.is_fleet(settings),
        start_id=identity.start_id,
        formats=formats,
    )
    log.info(
        events.VOLUME_OPENED,
        volume_id=volume.id,
        volume_path=str(volume.root),
        duration_s=round(time.monotonic() - began, 3),
    )
    return volume


def _nobody(_: object) -> bool:
    """Instances talk to each other without a proxy."""
    return False


def _group_id(name: str | None) -> int | None:
    if name is None:
        return None
    return int(name) if name.isdigit() else grp.getgrnam(name).gr_gid
