"""Programs of two versions on one volume: what one writes for the other, and what it leaves alone."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from incomingd.core import codec
from incomingd.core.formats import FORMER, PRESENT
from incomingd.core.tenure import Identity
from incomingd.storage.directory import DirectoryOptions, DirectoryVolume
from incomingd.storage.memory import MemoryDisk, MemoryVolume
from incomingd.storage.volume import ClaimTakenError, RecordUnreadableError
from tests.storage.volumes import VOLUME_ID, claimed, close_all, new_id, new_record

AnyVolume = DirectoryVolume | MemoryVolume
OTHER = Identity("other", "start-1")
Opened = Callable[[codec.Formats], AnyVolume]


@pytest.fixture(params=["directory", "memory"])
async def opened(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Opened]:
    """Opens one volume for one more process, which reads and writes the given formats."""
    disk = MemoryDisk(VOLUME_ID)
    volumes: list[AnyVolume] = []

    def open_it(formats: codec.Formats) -> AnyVolume:
        start_id = f"start-{len(volumes)}"
        if request.param == "memory":
            volume: AnyVolume = disk.open(shared=True, start_id=start_id)
            assert isinstance(volume, MemoryVolume)
            volume.formats = formats
        else:
            volume = DirectoryVolume.open(
                tmp_path / "volume",
                new_id=VOLUME_ID,
                holder={"instance": "test", "pid": len(volumes)},
                options=DirectoryOptions(threads=2, reserve_bytes=0),
                shared=True,
                start_id=start_id,
                formats=formats,
            )
        volumes.append(volume)
        return volume

    yield open_it
    await close_all(volumes)


async def test_an_upload_goes_from_version_to_version(opened: Opened) -> None:
    spoken = 1
    new, old = opened(codec.Formats(PRESENT, lambda: spoken)), opened(codec.Formats(FORMER, lambda: 1))
    record = new_record()
    await new.create(record)
    for epoch, volume in enumerate((old, new, old, new), 1):
        standing = await volume.standing(new_id())
        assert standing is not None
        assert (standing.record, standing.epoch) == (record, epoch - 1)
        claim, record = claimed(record, volume, epoch=epoch)
        await volume.claim(new_id(), claim)
        for each in (old, new):
            seen = await each.standing(new_id())
            assert seen is not None
            assert seen.claim == claim
        await volume.write(record, sync=False)


async def test_a_claim_of_the_newer_format_is_in_nobodys_way_once_its_record_is_of_the_former(opened: Opened) -> None:
    """A claim is never written again; what it says stands in the record, too."""
    spoken = 2
    new, old = opened(codec.Formats(PRESENT, lambda: spoken)), opened(codec.Formats(FORMER, lambda: 1))
    await new.create(new_record())
    claim, record = claimed(new_record(), new)
    await new.claim(new_id(), claim)
    await new.write(record, sync=False)
    with pytest.raises(RecordUnreadableError, match="format 2; this program reads format 1"):
        await old.standing(new_id())
    spoken = 1
    await new.write(record, sync=False)
    standing = await old.standing(new_id())
    assert standing is not None
    assert (standing.record, standing.epoch) == (record, 1)
    with pytest.raises(ClaimTakenError):
        await new.claim(new_id(), dataclasses.replace(claim, create_id="another"))
    following, record = claimed(record, old, owner=OTHER)
    await old.claim(new_id(), following)
    await old.write(record, sync=False)
    assert await new.read(new_id()) == record


async def test_who_cannot_read_a_claim_does_not_go_past_it(opened: Opened) -> None:
    new, old = opened(codec.Formats(PRESENT, lambda: 2)), opened(codec.Formats(FORMER, lambda: 1))
    await old.create(new_record())
    await new.claim(new_id(), claimed(new_record(), new)[0])
    with pytest.raises(RecordUnreadableError, match="claim format 2"):
        await old.standing(new_id())
    with pytest.raises((RecordUnreadableError, ClaimTakenError)):
        await old.claim(new_id(), claimed(new_record(), old, owner=OTHER)[0])
