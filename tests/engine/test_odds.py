"""Clocks that are set, disks that are full at the wrong moment, directories that cannot be read."""

from __future__ import annotations

import pytest

from incomingd.core.errors import Code
from incomingd.core.status import Status
from incomingd.engine.options import Durability, EngineOptions
from incomingd.log import events
from incomingd.storage.memory_parts import Trouble
from incomingd.storage.volume import VolumeFullError, VolumeUnavailableError
from incomingd.wire.callback import Answer
from tests.engine.logs import Logged
from tests.engine.world import DAY_S, Feed, World, running, sha1
from tests.support.virtual import settle, virtual

DOWN = Answer("error", error="connecting: refused")


@pytest.mark.parametrize("restarted", [True, False])
def test_a_file_is_handed_over_although_the_clock_was_set_back(restarted: bool, logged: Logged) -> None:
    """A time planned by a clock that was ahead by days is not waited for, within one run or after a restart."""
    logged.expect(events.HANDOVER_ATTEMPTED)

    @virtual
    async def set_back() -> None:
        world = World()
        world.clock.jumped_s = 30 * DAY_S
        world.start()
        world.app.answer = DOWN
        upload_id = await world.uploaded(b"hello")
        await world.clock.sleep(60.0)
        assert world.app.calls
        world.app.answer = (200, b"done")
        if restarted:
            await world.kill()
        world.clock.jumped_s = 0.0
        if restarted:
            world.start()
        await world.reached(upload_id, Status.FINISHED, within_s=2 * world.handover_options.backoff_max_s)
        await settle()

    set_back()


@pytest.mark.parametrize("durability", Durability)
def test_what_a_full_disk_left_marked_is_not_told_and_then_dropped(durability: Durability, logged: Logged) -> None:
    """A verified append whose record cannot be written: an offset that HEAD tells later survives a kill."""
    logged.expect(events.VOLUME_FAILED)

    @virtual
    async def full() -> None:
        async with running(options=EngineOptions(durability=durability)) as world:
            upload_id = await world.ticket()
            await world.begin(upload_id, 10)
            body = Feed(b"hello", ended=False, length=5)
            under_way = world.appending(upload_id, 0, body, checksum=sha1(b"hello"))
            await settle()
            world.disk.trouble = lambda name: Trouble(VolumeFullError) if name == "write" else None
            body.end()
            refusal = await under_way
            assert getattr(refusal, "code", None) is Code.STORAGE_FULL
            world.disk.trouble = None
            told = (await world.head(upload_id)).offset
            await world.restart("kill")
            assert (await world.head(upload_id)).offset == told

    full()


@virtual
async def test_a_group_that_cannot_be_read_does_not_keep_the_others_from_being_looked_after(logged: Logged) -> None:
    logged.expect(events.VOLUME_FAILED)
    async with running(upkeep=False, handover_runs=False) as world:
        uploads = [await world.uploaded(bytes([number])) for number in range(8)]
        await settle()
        groups = {upload_id: world.volume.group_of(upload_id) for upload_id in uploads}
        bad = min(groups.values())
        await world.restart("kill", upkeep=False, handover=True)
        ids_in = world.volume.ids_in

        async def unreadable(group: str) -> list[str]:
            if group == bad:
                raise VolumeUnavailableError("listing uploads: Input/output error")
            return await ids_in(group)

        world.volume.ids_in = unreadable  # type: ignore[method-assign]  # one directory of a real disk
        _ = world.clock.spawn(world.upkeep.run(), name="upkeep")
        for upload_id, group in groups.items():
            if group != bad:
                await world.reached(upload_id, Status.FINISHED, within_s=600.0)
        world.volume.ids_in = ids_in  # type: ignore[method-assign]  # it can be read again
        for upload_id in uploads:
            await world.reached(upload_id, Status.FINISHED, within_s=600.0)
