"""Every call on the volume fails once, hangs once, is the last one of a process: nothing acknowledged is lost.

And nothing hangs for ever.

Each run is a whole life: a ticket, a file in pieces, the hand-over, and an upload beside it that is cancelled. The
first, undisturbed run counts the calls; then there is one run for each call and each way to fail.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from incomingd.core.errors import Refusal
from incomingd.core.status import Status
from incomingd.engine.options import Durability, EngineOptions
from incomingd.log import events
from incomingd.storage.volume import VolumeFullError, VolumeUnavailableError
from tests.engine.clients import AnewClient, Client, PartsClient, content, passing
from tests.engine.logs import Logged
from tests.engine.world import Trouble, World
from tests.support.virtual import run, settle

DATA = content(100)
LIMIT_S = 900.0

MakeClient = Callable[[], Client]
Befall = Callable[["Life", str], Trouble | None]

# What the log may say when a disk fails.
EXPECTED = (
    events.VOLUME_FAILED,
    events.UPKEEP_DELAYED,
    events.UPLOAD_JOIN_FAILED,
    events.UPLOAD_DROP_FAILED,
    events.HANDOVER_ATTEMPTED,
)


class Life:
    """One run, in which the call number *fails_at* is befallen by something."""

    def __init__(self, client: Client, options: EngineOptions) -> None:
        self.client = client
        self.world = World(options=options, upkeep_interval_s=20.0)
        self.number = 0
        self.befall: Befall = nothing
        self.fails_at: int | None = None
        self.failed: str | None = None
        self.cancelled_id: str | None = None
        self.cancelling = False
        self.cancelled = False

    def _trouble(self, name: str) -> Trouble | None:
        number, self.number = self.number, self.number + 1
        if number != self.fails_at:
            return None
        self.failed = name
        return self.befall(self, name)

    async def run(self) -> None:
        """Live it to the end; whatever happens to the process, the clients go on."""
        world = self.world
        world.disk.trouble = self._trouble
        world.start()
        deadline = world.clock.monotonic() + LIMIT_S
        self.ended = asyncio.Event()
        while True:
            self.ended.clear()
            work = asyncio.ensure_future(self._clients())
            gone = asyncio.ensure_future(self.ended.wait())
            await asyncio.wait([work, gone], timeout=deadline - world.clock.monotonic(), return_when="FIRST_COMPLETED")
            if not self.ended.is_set():
                gone.cancel()
                assert work.done(), f"still not done after {LIMIT_S} s: {self.failed} ({self.fails_at}) failed"
                await work
                return
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work
            await world.clock.end_tasks()
            world.start()

    async def _clients(self) -> None:
        await self._cancel_one()
        await self.client.run(self.world)
        assert self.client.upload_id is not None
        await self._finished(self.client.upload_id)

    async def _finished(self, upload_id: str) -> None:
        while True:
            try:
                if await self.world.status(upload_id) is Status.FINISHED:
                    return
            except Refusal as refusal:
                passing(refusal)
            await self.world.clock.sleep(1.0)

    async def _cancel_one(self) -> None:
        """Begin another upload and cancel it in the middle; it takes what a client takes."""
        while not self.cancelled:
            try:
                if self.cancelled_id is None:
                    self.cancelled_id = await self.world.ticket(key="cancelled")
                if not self.cancelling:
                    await self.world.begin(self.cancelled_id, 20)
                    await self.world.append(self.cancelled_id, 0, DATA[:10])
                    self.cancelling = True
                view = await self.world.engine.cancel(self.cancelled_id, "")
                self.cancelled = view.record.status is Status.CANCELLED
            except Refusal as refusal:
                passing(refusal)
                await self.world.clock.sleep(1.0)

    def check(self) -> None:
        """What must be true at the end, whatever has happened."""
        world, client = self.world, self.client
        assert client.upload_id is not None
        assert client.acknowledged == len(DATA)
        calls = [call for _, kind, call in world.app.calls if kind == "upload.complete"]
        assert calls
        assert len({call.headers["webhook-id"] for call in calls}) == 1
        assert world.disk.files.names[client.upload_id].data == DATA


async def rested(life: Life) -> None:
    """Let everything end that goes on by itself; nothing may be left of it."""
    world = life.world
    await world.clock.sleep(300.0)
    await settle()
    assert world.engine.live == []
    assert world.registry._owners == {}
    assert world.handover.under_way == 0
    assert world.upkeep.first_pass_done.is_set()
    assert life.client.upload_id is not None
    assert life.cancelled_id is not None
    for upload_id in (life.client.upload_id, life.cancelled_id):
        assert world.segments(upload_id) == {}
    assert life.cancelled_id not in world.disk.files.names
    assert "upload.cancelled" in world.app.types


def live(
    fails_at: int | None,
    befall: Befall,
    make_client: MakeClient,
    durability: Durability = Durability.ACKNOWLEDGEMENT,
) -> Life:
    """Live a whole life in which one call is befallen; look at what there is in the end."""
    life = Life(make_client(), EngineOptions(durability=durability, idle_s=30.0))
    life.fails_at, life.befall = fails_at, befall

    async def whole_life() -> None:
        keep_files(life.world)
        await life.run()
        life.check()
        await rested(life)

    run(whole_life())
    return life


def nothing(life: Life, name: str) -> None:
    """Let it be."""


def keep_files(world: World) -> None:
    """Have tickets keep the file, so that it can be compared when all is over."""
    plain = world.ticket

    async def ticket(**terms: Any) -> str:
        return await plain(after_handover="keep", **terms)

    world.ticket = ticket  # type: ignore[method-assign] # for this world only


# -- ways to fail


def fails(life: Life, name: str) -> Trouble:
    return Trouble(VolumeUnavailableError)


def is_full(life: Life, name: str) -> Trouble:
    return Trouble(VolumeFullError)


def loses_its_answer(life: Life, name: str) -> Trouble:
    return Trouble(VolumeUnavailableError, done=True)


def hangs(life: Life, name: str) -> Trouble:
    hold: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(45.0, hold.set_result, None)
    return Trouble(None, hold=hold)


def dies(life: Life, how: str, *, late: bool) -> Trouble:
    """The process ends at this call, before or after the disk has done what it says."""
    hold: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    loop = asyncio.get_running_loop()

    def end() -> None:
        getattr(life.world.disk, how)()
        life.ended.set()

    loop.call_later(0.001, end)
    return Trouble(None, hold=hold, late=late)


def is_killed_before(life: Life, name: str) -> Trouble:
    return dies(life, "kill", late=False)


def is_killed_after(life: Life, name: str) -> Trouble:
    return dies(life, "kill", late=True)


def loses_power_before(life: Life, name: str) -> Trouble:
    return dies(life, "lose_power", late=False)


def loses_power_after(life: Life, name: str) -> Trouble:
    return dies(life, "lose_power", late=True)


FAULTS = [fails, is_full, loses_its_answer, hangs, is_killed_before, is_killed_after]


def plain() -> Client:
    return Client(DATA)


def checked_and_deferred() -> Client:
    return Client(DATA, checksums=True, deferred=True)


def of_two_minds() -> Client:
    return AnewClient(DATA)


def in_parts() -> Client:
    return PartsClient(DATA)


def in_checked_parts() -> Client:
    return PartsClient(DATA, checksums=True)


def hold(befall: Befall, make_client: MakeClient, durability: Durability, *, first: int, every: int) -> None:
    """Have the calls number *first*, *first* + *every*, … befallen, one in each life."""
    befallen = set()
    for number in range(first, live(None, nothing, make_client, durability).number, every):
        life = live(number, befall, make_client, durability)
        assert life.failed is not None
        befallen.add(life.failed)
    if every == 1:
        assert befallen >= {"create", "read", "claim", "write", "open_segment", "take", "join", "drop_bytes", "look"}


@pytest.mark.parametrize("make_client", [plain, checked_and_deferred, of_two_minds])
@pytest.mark.parametrize("befall", [*FAULTS, loses_power_before, loses_power_after])
def test_whatever_call_is_befallen_the_file_arrives(befall: Befall, make_client: MakeClient, logged: Logged) -> None:
    logged.expect(*EXPECTED)
    hold(befall, make_client, Durability.ACKNOWLEDGEMENT, first=0, every=1)


ALL: list[Befall] = [*FAULTS, loses_power_before, loses_power_after]


@pytest.mark.parametrize("first", [0, *(pytest.param(first, marks=pytest.mark.soak) for first in range(1, 5))])
@pytest.mark.parametrize("befall", ALL)
def test_whatever_call_is_befallen_parts_arrive(befall: Befall, first: int, logged: Logged) -> None:
    """Every fifth call, beginning with another one for each fault; the long form has them all."""
    logged.expect(*EXPECTED)
    hold(befall, in_checked_parts, Durability.ACKNOWLEDGEMENT, first=(ALL.index(befall) + first) % 5, every=5)


@pytest.mark.parametrize("first", [0, *(pytest.param(first, marks=pytest.mark.soak) for first in range(1, 5))])
@pytest.mark.parametrize("durability", [Durability.NONE, Durability.COMPLETION])
@pytest.mark.parametrize("befall", FAULTS)
def test_a_kill_or_a_fault_loses_nothing_under_less_durability(
    befall: Befall, durability: Durability, first: int, logged: Logged
) -> None:
    logged.expect(*EXPECTED)
    for make_client in (checked_and_deferred, in_parts):
        hold(befall, make_client, durability, first=(ALL.index(befall) + first) % 5, every=5)
