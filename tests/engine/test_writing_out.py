"""A long append is brought to the disk while it goes on: whoever waits for its rest does not wait for all of it."""

from __future__ import annotations

import asyncio

import pytest

from incomingd.core.commands import Resource
from incomingd.core.content import Content
from incomingd.core.record import Record
from incomingd.engine import writing_out
from incomingd.engine.options import Durability, EngineOptions
from tests.engine.world import Feed, World, running
from tests.support.virtual import settle, virtual

PIECES = [bytes([number]) * 8 for number in range(25)]


class SlowDisk:
    """Holds what is brought to the disk until it may go on."""

    def __init__(self, world: World, patch: pytest.MonkeyPatch) -> None:
        self.go_on = asyncio.Event()
        self.begun = 0
        volume = world.engine.services.volume
        real = volume.sync_segments

        async def sync_segments(record: Record, content: Content) -> None:
            self.begun += 1
            await self.go_on.wait()
            await real(record, content)

        patch.setattr(volume, "sync_segments", sync_segments)
        patch.setattr(writing_out, "STEP_BYTES", 32)
        patch.setattr(writing_out, "AHEAD_BYTES", 64)


@virtual
async def test_a_sender_is_at_most_so_far_ahead_of_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running() as world:
        disk = SlowDisk(world, monkeypatch)
        upload_id = await world.ticket()
        await world.begin(upload_id, 200)
        body = Feed(*PIECES)
        appending = world.appending(upload_id, 0, body)
        await settle()
        # Asked for at 32, and 64 more have come since.
        assert (body.read_bytes, disk.begun) == (96, 1)
        disk.go_on.set()
        whole = await appending
        assert isinstance(whole, Resource)
        assert (whole.offset, disk.begun) == (200, 6)


@virtual
async def test_where_nothing_is_promised_of_the_disk_nobody_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(options=EngineOptions(durability=Durability.NONE)) as world:
        disk = SlowDisk(world, monkeypatch)
        upload_id = await world.ticket()
        await world.begin(upload_id, 200)
        whole = await world.appending(upload_id, 0, Feed(*PIECES))
        assert isinstance(whole, Resource)
        assert (whole.offset, disk.begun) == (200, 0)
