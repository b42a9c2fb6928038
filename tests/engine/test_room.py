"""An instance whose volume is full says so, and says so no more when there is room again."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace

from incomingd.engine.room import AGAIN_BYTES
from incomingd.log import events
from incomingd.storage.memory_parts import Trouble
from tests.engine.logs import Logged
from tests.engine.world import World
from tests.support.virtual import settle, virtual


@contextlib.asynccontextmanager
async def one_of_several() -> AsyncIterator[World]:
    """Give a world whose program may have others beside it."""
    world = World(volume=lambda: world.disk.open(shared=True, start_id="start-1"))
    world.start()
    yield world
    await settle()


@virtual
async def test_who_is_full_says_so_until_there_is_a_good_deal_of_room_again(logged: Logged) -> None:
    logged.expect(events.VOLUME_FILLED)
    async with one_of_several() as world:
        said: list[bool] = []
        # Just above it and just below it again and again is not worth telling each time.
        for free_bytes in (None, 1, 0, 1, AGAIN_BYTES - 1, AGAIN_BYTES, 1, 0, None):
            world.disk.free_bytes = free_bytes
            await world.clock.sleep(world.upkeep_interval_s + 1.0)
            said.append(world.registry.instance.full)
        assert said == [False, False, True, True, True, False, False, True, False]
        assert len(logged.of(events.VOLUME_FILLED)) == 2


@virtual
async def test_a_disk_that_does_not_answer_changes_nothing_of_it(logged: Logged) -> None:
    logged.expect(events.VOLUME_FILLED, events.VOLUME_FAILED)
    async with one_of_several() as world:
        world.disk.free_bytes = 0
        await world.clock.sleep(world.upkeep_interval_s + 1.0)
        world.disk.trouble = lambda name: Trouble() if name == "has_room" else None
        world.disk.free_bytes = None
        await world.clock.sleep(world.upkeep_interval_s + 1.0)
        assert world.registry.instance.full
        world.disk.trouble = None
        await world.clock.sleep(world.upkeep_interval_s + 1.0)
        assert not world.registry.instance.full


@virtual
async def test_a_drain_and_a_full_disk_are_told_side_by_side(logged: Logged) -> None:
    """Neither forgets what the other has said."""
    logged.expect(events.VOLUME_FILLED)
    async with one_of_several() as world:
        world.disk.free_bytes = 0
        await world.registry.advertise(replace(world.registry.instance, draining=True))
        await world.upkeep.room.look()
        assert (world.registry.instance.full, world.registry.instance.draining) == (True, True)
