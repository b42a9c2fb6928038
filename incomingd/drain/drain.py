"""Drain: the mode in which an instance gives all its uploads away and takes none.

What is open is parked: whoever gets its client next pulls it. What is complete
is parked with an invitation to its successor on the ring, so that its hand-over
goes on. What no peer takes is on the volume, and is there after the restart.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from incomingd.core.errors import Code, Refusal
from incomingd.core.ring import successor
from incomingd.core.status import Status
from incomingd.drain.evacuation import Evacuation, needed
from incomingd.drain.retirement import Retirement, Stage, check, heirs, is_shared
from incomingd.drain.returns import Returns
from incomingd.engine.bell import Bell
from incomingd.engine.outcomes import LostBytesError, OwnedElsewhereError
from incomingd.engine.state import Balancing
from incomingd.log import events, get_logger
from incomingd.registry.registry import InstancesChanged, Invitation, RegistryUnavailableError
from incomingd.storage.body import CutReason
from incomingd.storage.volume import VolumeError
from incomingd.wire.upload import timestamp

if TYPE_CHECKING:
    from collections.abc import Callable

    from incomingd.core.tenure import Identity
    from incomingd.engine.engine import Engine
    from incomingd.engine.owned import OwnedUpload
    from incomingd.registry.registry import Event

log = get_logger()

POLL_S: Final = 0.02
AT_ONCE: Final = 16
"""Uploads that are put down at the same time: each waits for the disk."""
SOON_LOOK_S: Final = 0.25
"""For so long it is watched how fast appends go, to know which end soon."""
SOON_S: Final = 1.0
"""Appends that end within so long may end."""
SPREAD_S: Final = 4.0
"""Over so long the cuts are spread, where `cuts_per_s` allows it: who is cut waits for the moves of those before."""
CUTS_PER_S_MIN: Final = 20.0
"""Few cuts are not spread for so long."""
CUTS_AT_ONCE: Final = 16
MUCH_BYTES: Final = 4 * 1024 * 1024
"""So much may take a disk longer than a client should wait."""
TELL_S: Final = 0.5
RETRY_S: Final = 0.5
EVACUATION_S: Final = 0.2
INVITED_AT_ONCE: Final = 100
LOOK_FOR_TAKERS_S: Final = 60.0
"""Who comes is told of; this is for what has come to lie here since, and for scans of the volume that failed."""


@dataclass(frozen=True, slots=True)
class DrainOptions:
    """Replaced as a whole when the configuration is read again."""

    cuts_per_s: float = 500.0
    """Clients that are cut come back at once, and each costs its next instance a pull."""
    balancer_s: float = 2.0
    """How long to wait for a balancer to hear each word, where one has asked before."""
    callbacks_s: float = 5.0
    """How long callbacks that are under way may go on; then they are made again elsewhere."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a drain has come."""

    uploads: int
    """Owned when it began."""
    left: int
    appends_open: int
    callbacks_open: int
    parked: int
    invited: int
    began_at: float
    """Unix time, s."""
    retired: bool = False
    """An heir has all that was left: this instance never serves on its volume again."""
    retirement: dict[str, Any] | None = None
    """Of a drain that is for good; as ``/status`` tells it."""

    def as_json(self) -> dict[str, Any]:
        """Return it for ``/status``."""
        return {
            "uploads": self.uploads,
            "left": self.left,
            "appends_open": self.appends_open,
            "callbacks_open": self.callbacks_open,
            "parked": self.parked,
            "invited": self.invited,
            "began_at": timestamp(self.began_at),
            "retired": self.retired,
            "retirement": self.retirement,
        }


class Drain:
    """One for each process.

    Args:
        engine: that is emptied.
        options: see there.
        callbacks_open: how many callbacks are being made just now.
        progressed: called whenever something was put down, for service managers.
    """

    def __init__(
        self,
        engine: Engine,
        options: DrainOptions,
        *,
        callbacks_open: Callable[[], int],
        progressed: Callable[[Progress], None] = lambda _: None,
    ) -> None:
        self._engine = engine
        self.options = options
        self._callbacks_open = callbacks_open
        self.progressed = progressed
        self._task: asyncio.Task[None] | None = None
        self._later: asyncio.Task[None] | None = None
        """Waits, once it is done, for somebody who takes what nobody took."""
        self._patience: asyncio.Future[None] | None = None
        """Done when whoever waits shall wait no more."""
        self._uploads = 0
        self._parked = 0
        self._invited = 0
        self._began_at = 0.0
        self._told_at = float("-inf")
        """When it was last told how far it has come."""
        self._evacuation: Evacuation | None = None
        self._parked_at: dict[str, float] = {}
        """Open uploads that were put down, and when; on volumes of a fleet."""
        self._evacuated = False
        """All that only this instance reached has left."""
        self._retirement: Retirement | None = None
        self._asked = False
        """A balancer asks what it is to do: it will hear of this."""
        self._invitations: dict[Identity, list[Invitation]] = defaultdict(list)

    @property
    def progress(self) -> Progress:
        """How far it has come."""
        live = self._engine.live
        return Progress(
            uploads=self._uploads,
            left=self._owned(live) + (self._evacuation.left if self._evacuation is not None else 0),
            appends_open=sum(1 for upload in live if upload.appending),
            callbacks_open=self._callbacks_open(),
            parked=self._parked,
            invited=self._invited,
            began_at=self._began_at,
            retired=self._retirement is not None and self._retirement.stage is Stage.DONE,
            retirement=self._retirement.as_json() if self._retirement is not None else None,
        )

    def _owned(self, live: list[OwnedUpload]) -> int:
        return sum(1 for upload in live if _counts(upload)) + len(self._engine.keeper.at_rest)

    # -- what operators do

    def start(self) -> None:
        """Begin, unless it goes on or is done."""
        state = self._engine.state
        if state.draining or state.stopping:
            return
        services = self._engine.services
        self._asked = bool(state.balancing_told)
        state.drain()
        self._began_at = services.clock.now()
        self._parked = self._invited = 0
        self._evacuated = False
        self._uploads = self.progress.left
        log.info(events.DRAIN_STARTED, uploads=self._uploads)
        self._task = services.clock.spawn(self._run(), name="drain")

    async def retire(self, heir: str | None = None) -> None:
        """Drain for good: leave to an heir what is left then. Repeats are harmless, and may name another heir.

        Args:
            heir: name of the instance; None: whoever the ring says.

        Raises:
            Refusal: `no_heir`; `instance_retired`: it is too late to name another one.
        """
        found = self._retirement
        if found is not None and not found.may_end:
            if heir is not None and heir != found.named:
                raise Refusal(Code.INSTANCE_RETIRED)
            return
        check(self._engine.services, heir)
        if found is None or found.over:
            self._retirement = Retirement(self._engine, heir)
        else:
            found.name(heir)
        self._engine.state.retiring = True
        self.start()
        if self._task is not None and self._task.done():
            await self._end(self._later)
            self._engine.state.drain_again()
            self._task = self._engine.services.clock.spawn(self._run_again(), name="drain")

    def heir_of_choice(self, heir: str | None = None) -> str | None:
        """Return who would be the heir now; None: there is nothing to inherit, since other instances reach the volume.

        Raises:
            Refusal: `no_heir`.
        """
        services = self._engine.services
        check(services, heir)
        return None if is_shared(services) else heirs(services, heir)[0].identity.name

    def resume_retirement(self) -> None:
        """Go on where a former run has stopped, as it could not go back any more."""
        self._retirement = Retirement(self._engine)
        self._engine.state.retiring = True
        self.start()

    async def undo(self) -> None:
        """Take uploads again. What was given away stays where it is.

        Raises:
            Refusal: `instance_retired`.
        """
        state = self._engine.state
        if not state.draining:
            return
        if self._retirement is not None and not self._retirement.may_end:
            raise Refusal(Code.INSTANCE_RETIRED)
        self._retirement = None
        state.retiring = False
        for task in (self._later, self._task):
            await self._end(task)
        self._later = self._task = None
        state.ready()
        registry = self._engine.services.registry
        await registry.advertise(replace(registry.instance, draining=False))
        log.info(events.DRAIN_UNDONE)
        self.progressed(self.progress)

    async def _end(self, task: asyncio.Task[None] | None) -> None:
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([task])

    async def wait(self, within_s: float) -> bool:
        """Return whether it is done, at the latest after *within_s* or when somebody is in a hurry."""
        task = self._task
        if task is None:
            return True
        self._patience = asyncio.get_running_loop().create_future()
        task.add_done_callback(lambda _: self.hurry())
        await self._engine.services.clock.timeout(within_s, self._patience)
        # Somebody may have undone it meanwhile.
        return task.done()

    def hurry(self) -> None:
        """Have nobody wait for it any longer."""
        if self._patience is not None and not self._patience.done():
            self._patience.set_result(None)

    # -- the steps

    async def _run(self) -> None:
        engine, clock = self._engine, self._engine.services.clock
        registry = engine.services.registry
        await registry.advertise(replace(registry.instance, draining=True))
        await self._told(Balancing.DRAIN)
        engine.state.takes_nothing = True
        await self._told(Balancing.MAINT)
        await self._put_down_open()
        await self._let_callbacks_end()
        while self._owned(self._engine.live):
            await self._put_down_all()
            await self._invite()
            self.progressed(self.progress)
            if self._owned(self._engine.live):
                # A disk that does not answer, a request that is still being answered.
                await clock.sleep(RETRY_S)
        await self._evacuate()
        await self._retire()
        self._ended()
        if engine.services.volume.shared:
            self._later = clock.spawn(self._give_later(), name="drain later")

    def _ended(self) -> None:
        engine, clock = self._engine, self._engine.services.clock
        engine.state.drained()
        done = self.progress
        log.info(
            events.DRAIN_ENDED,
            uploads=done.parked,
            invited=done.invited,
            duration_s=round(clock.now() - self._began_at, 3),
        )
        self.progressed(done)

    async def _give_later(self) -> None:
        """Go on giving when somebody comes who takes what nobody took: it is drained only while there is nobody."""
        services = self._engine.services
        bell = Bell()

        def heard(event: Event) -> None:
            if isinstance(event, InstancesChanged):
                bell.ring()

        ended = services.registry.watch(heard)
        try:
            while not self._evacuated:
                await bell.wait(services.clock, LOOK_FOR_TAKERS_S)
                if needed(self._engine) and not self._engine.state.stopping:
                    self._engine.state.drain_again()
                    log.info(events.DRAIN_RESUMED)
                    self._task = services.clock.spawn(self._run_again(), name="drain")
                    await asyncio.wait([self._task])
        finally:
            ended()

    async def _run_again(self) -> None:
        await self._evacuate()
        await self._retire()
        self._ended()

    async def _evacuate(self) -> None:
        """Wait until other instances have all that only this one reaches, where there are others."""
        clock = self._engine.services.clock
        evacuation = self._evacuation = Evacuation(self._engine, self._parked_at)
        try:
            while needed(self._engine):
                done = await evacuation.step()
                self.progressed(self.progress)
                if done:
                    self._evacuated = True
                    break
                await clock.sleep(EVACUATION_S)
        finally:
            evacuation.close()
            self._parked_at = {}
            self._invited += evacuation.invited
            self._evacuation = None

    async def _retire(self) -> None:
        """Leave the rest to an heir, where this is for good."""
        # Another one may be named meanwhile.
        while self._retirement is not None and not self._retirement.over:
            self._retirement.begin()
            done = await self._retirement.step()
            self.progressed(self.progress)
            if not done:
                await self._engine.services.clock.sleep(RETRY_S)
                await self._evacuate()

    async def _told(self, word: Balancing) -> None:
        """Wait until a balancer has heard *word*: before that it sends more of what is to be cut."""
        if not self._asked:
            return
        clock = self._engine.services.clock
        deadline = clock.monotonic() + self.options.balancer_s
        while not self._engine.state.balancing_told.get(word) and clock.monotonic() < deadline:
            await clock.sleep(POLL_S)
        # It acts on it within a turn of its own.
        await clock.sleep(POLL_S)

    async def _put_down_open(self) -> None:
        """Park what is open: at once what is at rest, after its append what ends soon, the others cut, in turn."""
        clock = self._engine.services.clock
        before = {upload.id: upload.live_offset() for upload in self._engine.live if upload.appending}
        resting = [
            upload for upload in self._engine.live if not upload.appending and upload.record.status is Status.OPEN
        ]
        await self._each(resting, self._park)
        if before:
            await clock.sleep(SOON_LOOK_S)
        soon: list[OwnedUpload] = []
        others: list[OwnedUpload] = []
        for upload in self._engine.live:
            if upload.record.status is Status.OPEN:
                (soon if self._ends_soon(upload, before.get(upload.id)) else others).append(upload)
        with contextlib.closing(Returns(self._engine, moving=needed(self._engine))) as returns:
            await self._cut_in_turn(others, soon, returns)

    async def _cut_in_turn(self, others: list[OwnedUpload], soon: list[OwnedUpload], returns: Returns) -> None:
        clock = self._engine.services.clock
        began = clock.monotonic()
        cuts = min(self.options.cuts_per_s, max(len(others) / SPREAD_S, CUTS_PER_S_MIN))
        turns = asyncio.Semaphore(CUTS_AT_ONCE)
        parking: list[asyncio.Task[None]] = []
        for number, upload in enumerate(others):
            await clock.sleep(max(began + number / cuts - clock.monotonic(), 0.0))
            await returns.turn(upload.id)
            # Where the disk is slower than that, the others send on meanwhile.
            await turns.acquire()
            parking.append(clock.spawn(self._cut(upload, turns), name=f"park {upload.id}"))
        deadline = began + SOON_S
        while any(upload.appending for upload in soon) and clock.monotonic() < deadline:
            await clock.sleep(POLL_S)
        await self._each([upload for upload in soon if not upload.superseded], self._park)
        if parking:
            await asyncio.wait(parking)

    async def _cut(self, upload: OwnedUpload, turns: asyncio.Semaphore) -> None:
        try:
            if upload.appending and upload.live_offset() - upload.record.content.noted_offset > MUCH_BYTES:
                # It may take seconds: better while the client sends on than while it waits.
                await self._bring_to_disk(upload)
            await self._park(upload)
        finally:
            turns.release()

    async def _bring_to_disk(self, upload: OwnedUpload) -> None:
        services = self._engine.services
        try:
            await services.volume.sync_segments(upload.record, upload.record.content)
        except VolumeError as error:
            # Parking tells what is to be told of it.
            services.health.failed(error)

    def _ends_soon(self, upload: OwnedUpload, before: int | None) -> bool:
        length = upload.resource(None).length
        offset = upload.live_offset()
        if before is None or length is None or not upload.appending:
            return False
        return (length - offset) * SOON_LOOK_S <= (offset - before) * SOON_S

    async def _let_callbacks_end(self) -> None:
        clock = self._engine.services.clock
        deadline = clock.monotonic() + self.options.callbacks_s
        while self._callbacks_open() and clock.monotonic() < deadline:
            await clock.sleep(POLL_S)

    async def _put_down_all(self) -> None:
        await self._each([upload for upload in self._engine.live if _counts(upload)], self._park)
        for upload in self._engine.live:
            if not _counts(upload):
                await self._engine.keeper.evict(upload)
        await self._each(self._engine.keeper.at_rest, self._park_at_rest)

    async def _each(self, items: list[Any], work: Callable[[Any], Any]) -> None:
        turns = asyncio.Semaphore(AT_ONCE)

        async def one(item: Any) -> None:
            async with turns:
                await work(item)

        await asyncio.gather(*(one(item) for item in items))

    async def _park(self, upload: OwnedUpload) -> None:
        services = self._engine.services
        if upload.superseded:
            return
        try:
            await self._engine.keeper.park(upload, CutReason.STOPPING)
        except Refusal:
            # It has not come to rest yet; or another instance has it, and then it is not counted any more.
            return
        except VolumeError as error:
            services.health.failed(error)
            return
        self._parked += 1
        self._tell_now_and_then()
        record = upload.record
        if record.status is Status.OPEN and services.volume.shared:
            self._parked_at[upload.id] = services.clock.monotonic()
        if record.status is Status.OPEN or record.status.final:
            return
        registry = services.registry
        guest = successor(upload.id, registry.instances, volume_id=services.volume.id, without={services.identity})
        if guest is not None:
            self._invitations[guest.identity].append(Invitation(upload.id, record.epoch, services.identity))
        if sum(map(len, self._invitations.values())) >= INVITED_AT_ONCE:
            await self._invite()

    def _tell_now_and_then(self) -> None:
        """Tell how far it has come. Counting looks at every upload: not for each of thousands."""
        now = self._engine.services.clock.monotonic()
        if now - self._told_at >= TELL_S:
            self._told_at = now
            self.progressed(self.progress)

    async def _park_at_rest(self, upload_id: str) -> None:
        try:
            async with self._engine.keeper.owning(upload_id) as upload:
                pass
        except (Refusal, VolumeError, OwnedElsewhereError, LostBytesError):
            # It is gone, or another instance has it.
            self._engine.keeper.disown(upload_id)
            return
        await self._park(upload)

    async def _invite(self) -> None:
        registry = self._engine.services.registry
        invitations, self._invitations = self._invitations, defaultdict(list)
        for guest, uploads in invitations.items():
            try:
                await registry.invite(guest, uploads)
                self._invited += len(uploads)
            except RegistryUnavailableError:
                # They are parked: their guardians find them.
                log.info(events.DRAIN_INVITATIONS_LOST, uploads=len(uploads))


def _counts(upload: OwnedUpload) -> bool:
    """Whether the upload has to be given away; of one that has ended nobody needs to be the owner."""
    return not upload.superseded and (not upload.record.status.final or upload.busy > 0)
