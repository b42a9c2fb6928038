"""The volume in memory: processes that share it end one by one, and a network delivers what was synced."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from incomingd.core.tenure import Identity
from incomingd.storage.memory import MemoryDisk, MemoryVolume
from incomingd.storage.memory_parts import Trouble
from incomingd.storage.volume import VolumeLockedError, VolumeUnavailableError
from tests.storage.volumes import VOLUME_ID, claimed, fill, new_id, new_record, owned_upload

ONE, TWO = Identity("one", "run-1"), Identity("two", "run-2")


def two(disk: MemoryDisk, *, hosts: tuple[str, str] = ("", "")) -> tuple[MemoryVolume, MemoryVolume]:
    first, second = (
        disk.open(shared=True, start_id=each.start_id, host=host) for each, host in zip((ONE, TWO), hosts, strict=True)
    )
    return first, second


async def test_one_process_is_killed_and_the_others_go_on() -> None:
    disk = MemoryDisk(VOLUME_ID)
    first, second = two(disk)
    record = await owned_upload(first)
    disk.kill(first)
    hanging = asyncio.ensure_future(first.read(new_id()))
    assert await second.gone(ONE)
    assert await second.read(new_id()) == record
    claim, _ = claimed(record, second, owner=TWO)
    await second.claim(new_id(), claim)
    assert not hanging.done()
    hanging.cancel()
    with pytest.raises(VolumeLockedError):
        disk.open()


async def test_on_a_network_another_host_shows_nothing_of_a_killed_run() -> None:
    disk = MemoryDisk(VOLUME_ID, network=True)
    first, second = two(disk, hosts=("a", "b"))
    disk.kill(first)
    assert not await second.gone(ONE)
    third = disk.open(shared=True, start_id="run-3", host="a")
    # The one that has opened it on the same host has noted that.
    assert await third.gone(ONE)
    assert await second.gone(ONE)


async def test_after_a_power_loss_on_a_network_nothing_shows_who_is_gone() -> None:
    for network in (True, False):
        disk = MemoryDisk(VOLUME_ID, network=network)
        two(disk)
        disk.lose_power()
        third = disk.open(shared=True, start_id="run-3")
        assert await third.gone(ONE) is not network


async def test_on_a_network_what_a_killed_process_had_not_synced_may_be_anything() -> None:
    """Its pages came late, in any order, or never; what is noted after a sync counts, whatever the length says."""
    seen = set()
    for seed in range(20):
        disk = MemoryDisk(VOLUME_ID, seed=seed, network=True, durable=False)
        first, second = two(disk)
        record = await owned_upload(first)
        segment = await first.open_segment(new_id(), "bytes.1", create=True, size=0, sync=False)
        await fill(segment, b"abc")
        await segment.sync()
        noted = dataclasses.replace(record, content=dataclasses.replace(record.content, noted_offset=3))
        await first.write(noted, sync=False)
        await fill(segment, b"defghi")
        assert await second.measure(noted, noted.content) == 3
        disk.kill(first)
        assert await second.measure(noted, noted.content) == 3
        assert await second.read_range(new_id(), "bytes.1", 0, 3) == b"abc"
        seen.add(await second.read_range(new_id(), "bytes.1", 3, 99))
    assert len(seen) > 5
    assert b"defghi" not in seen


async def test_trouble_can_befall_one_process_alone() -> None:
    disk = MemoryDisk(VOLUME_ID)
    first, second = two(disk)
    await first.create(new_record())
    first.trouble = lambda name: Trouble()
    with pytest.raises(VolumeUnavailableError):
        await first.read(new_id())
    assert await second.read(new_id()) == new_record()


async def test_claims_survive_a_power_loss() -> None:
    for seed in range(10):
        disk = MemoryDisk(VOLUME_ID, seed=seed)
        first, _ = two(disk)
        record = await owned_upload(first)
        claim, _ = claimed(record, first)
        await first.claim(new_id(), claim)
        disk.lose_power()
        standing = await disk.open(shared=True, start_id="run-3").standing(new_id())
        assert standing is not None
        assert (standing.record, standing.claim) == (record, claim)


async def test_a_late_write_does_not_shorten_what_another_has_written() -> None:
    """As with a file: bytes behind those that are written stay."""
    disk = MemoryDisk(VOLUME_ID)
    first, second = two(disk)
    await owned_upload(first)
    late = await first.open_segment(new_id(), "bytes.1", create=True, size=0, sync=True)
    segment = await second.open_segment(new_id(), "bytes.1", create=True, size=0, sync=True)
    await fill(segment, b"abcdef")
    await fill(late, b"XY")
    assert await second.read_range(new_id(), "bytes.1", 0, 99) == b"XYcdef"
