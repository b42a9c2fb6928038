"""The SHA-256 of a file whose ticket asks for it is right, whatever has happened to the upload; so are its blocks'."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pytest

from incomingd.core import blocks
from incomingd.core.commands import Checksum
from incomingd.core.errors import Code
from incomingd.core.status import Status
from incomingd.engine import digesting
from incomingd.engine.options import Durability, EngineOptions
from incomingd.log import events
from tests.engine.logs import Logged
from tests.engine.world import CallCounter, Feed, Trouble, World, refused, running
from tests.storage.volumes import open_directory
from tests.support.virtual import settle, virtual

BLOCK = 64
DATA = random.Random(5).randbytes(5 * BLOCK + 20)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a file of a few hundred bytes has several."""
    monkeypatch.setattr(blocks, "BLOCK_BYTES", BLOCK)
    monkeypatch.setattr(digesting, "BLOCK_BYTES", BLOCK)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def begun(world: World, length: int | None = len(DATA)) -> str:
    upload_id = await world.ticket(digest="sha-256")
    await world.begin(upload_id, length)
    return upload_id


async def arrives(world: World, upload_id: str, data: bytes = DATA) -> None:
    """The web app gets the file with its right digest."""
    record = await world.reached(upload_id, Status.FINISHED)
    assert record.digest == sha256(data)
    told = json.loads(world.app.calls[-1][2].body)["data"]
    assert told["digest"] == {"sha-256": sha256(data)}


def block_digests(world: World, upload_id: str) -> list[bytes]:
    """Return what stands beside the record."""
    names = world.disk.uploads.names[upload_id].names
    found = [name for name in names if name.startswith("digests.")]
    assert len(found) <= 1, "what a former tenure has written goes"
    return blocks.decode(bytes(names[found[0]].data)) if found else []


def of_blocks(data: bytes) -> list[bytes]:
    whole = len(data) // BLOCK
    return [hashlib.sha256(data[n * BLOCK : (n + 1) * BLOCK]).digest() for n in range(whole)]


@pytest.mark.parametrize("pieces", [1, 3, 50])
def test_of_what_comes_in_several_requests(pieces: int) -> None:
    @virtual
    async def come() -> None:
        async with running() as world:
            upload_id = await begun(world)
            size = -(-len(DATA) // pieces)
            for at in range(0, len(DATA), size):
                await world.append(upload_id, at, DATA[at : at + size])
            await arrives(world, upload_id)

    come()


@virtual
async def test_nothing_is_read_again_where_all_was_seen_on_its_way() -> None:
    async with running() as world:
        counter = CallCounter(world.disk)
        upload_id = await begun(world)
        await world.append(upload_id, 0, DATA[:100])
        await world.append(upload_id, 100, DATA[100:])
        await arrives(world, upload_id)
        assert "look_through" not in counter.made


@virtual
async def test_who_does_not_ask_pays_nothing() -> None:
    async with running() as world:
        counter = CallCounter(world.disk)
        upload_id = await world.ticket()
        await world.begin(upload_id, len(DATA))
        await world.append(upload_id, 0, DATA[:200])
        await world.clock.sleep(60)
        await world.append(upload_id, 200, DATA[200:])
        assert (await world.reached(upload_id, Status.FINISHED)).digest is None
        assert json.loads(world.app.calls[-1][2].body)["data"]["digest"] is None
        assert not {"look_through", "read_blocks", "write_blocks"} & set(counter.made)


@virtual
async def test_of_an_empty_file() -> None:
    async with running() as world:
        upload_id = await begun(world, 0)
        await arrives(world, upload_id, b"")


@virtual
async def test_of_a_file_whose_length_comes_last() -> None:
    async with running() as world:
        upload_id = await begun(world, None)
        await world.append(upload_id, 0, DATA[:150])
        await world.append(upload_id, 150, DATA[150:], length=len(DATA))
        await arrives(world, upload_id)


@pytest.mark.parametrize("rests_s", [0.0, 60.0])
@pytest.mark.parametrize("times", [1, 3])
def test_after_kills_it_is_computed_anew(rests_s: float, times: int) -> None:
    @virtual
    async def survive() -> None:
        async with running() as world:
            upload_id = await begun(world)
            at = 0
            for size in (130, 70, 90)[:times]:
                await world.append(upload_id, at, DATA[at : at + size])
                at += size
                if rests_s:
                    await world.clock.sleep(rests_s)
                await world.restart()
            await world.append(upload_id, at, DATA[at:])
            await arrives(world, upload_id)

    survive()


@virtual
async def test_other_bytes_after_a_power_loss_have_their_own_digests() -> None:
    """Nothing was promised of the former ones: what was computed of them must not tell of those that came instead."""
    async with running() as world:
        upload_id = await begun(world)
        await world.append(upload_id, 0, DATA[: BLOCK + 10])
        await world.clock.sleep(60)
        wrong = Feed(bytes(2 * BLOCK), ended=False, length=2 * BLOCK + 1)
        under_way = world.appending(upload_id, BLOCK + 10, wrong)
        await settle()
        await world.lose_power()
        under_way.cancel()
        world.start()
        offset = (await world.head(upload_id)).offset
        assert offset == BLOCK + 10
        await world.append(upload_id, offset, DATA[offset : 4 * BLOCK])
        await world.clock.sleep(60)
        assert block_digests(world, upload_id) == of_blocks(DATA[: 4 * BLOCK])
        await world.append(upload_id, 4 * BLOCK, DATA[4 * BLOCK :])
        await arrives(world, upload_id)


@virtual
async def test_digests_that_outlive_their_bytes_tell_nothing_of_those_that_come_instead() -> None:
    """What is not synced may be on the disk all the same: of the file with the digests more than of the upload."""
    async with running(options=EngineOptions(durability=Durability.NONE)) as world:
        upload_id = await begun(world)
        await world.append(upload_id, 0, DATA[::-1][: 3 * BLOCK])
        await world.clock.sleep(5)
        folder = world.disk.uploads.names[upload_id]
        file = next(file for name, file in folder.names.items() if name.startswith("digests."))
        folder.sync()
        file.synced = len(file.data)
        await world.lose_power()
        world.start()
        offset = (await world.head(upload_id)).offset
        assert offset is not None
        assert offset < 3 * BLOCK
        await world.append(upload_id, offset, DATA[offset : 4 * BLOCK])
        await world.clock.sleep(5)
        sent = DATA[::-1][:offset] + DATA[offset:]
        assert block_digests(world, upload_id) == of_blocks(sent[: 4 * BLOCK])
        await world.append(upload_id, 4 * BLOCK, DATA[4 * BLOCK :])
        await arrives(world, upload_id, sent)


@virtual
async def test_bytes_that_fail_their_checksum_are_not_in_it() -> None:
    async with running() as world:
        upload_id = await begun(world)
        await world.append(upload_id, 0, DATA[:100])
        wrong = Checksum("sha256", hashlib.sha256(b"other").digest())
        with refused(Code.CHECKSUM_MISMATCH):
            await world.append(upload_id, 100, Feed(bytes(100)), checksum=wrong)
        right = Checksum("sha256", hashlib.sha256(DATA[100:]).digest())
        await world.append(upload_id, 100, Feed(DATA[100:]), checksum=right)
        await arrives(world, upload_id)


@virtual
async def test_an_upload_that_begins_anew_has_a_digest_of_its_own() -> None:
    async with running() as world:
        upload_id = await begun(world)
        await world.append(upload_id, 0, DATA[::-1][: 3 * BLOCK])
        await world.clock.sleep(60)
        await world.begin(upload_id, len(DATA), metadata="right")
        await world.append(upload_id, 0, DATA[: 2 * BLOCK])
        await world.clock.sleep(60)
        assert block_digests(world, upload_id) == of_blocks(DATA[: 2 * BLOCK])
        await world.append(upload_id, 2 * BLOCK, DATA[2 * BLOCK :])
        await arrives(world, upload_id)


@virtual
async def test_of_parts() -> None:
    async with running() as world:
        upload_id = await world.ticket(digest="sha-256")
        names = []
        for data in (DATA[:100], DATA[100:]):
            begun = await world.begin(upload_id, len(data), partial=True, concat="partial")
            assert begun.part is not None
            await world.append(upload_id, 0, data, part=begun.part)
            names.append(begun.part)
        await world.begin(upload_id, None, final_of=tuple(names), concat="final;…")
        await arrives(world, upload_id)


@virtual
async def test_blocks_are_kept_once_the_upload_has_come_to_rest() -> None:
    """And go on, without reading the first ones again, after a restart."""
    async with running() as world:
        upload_id = await begun(world)
        await world.append(upload_id, 0, DATA[: 2 * BLOCK + 10])
        await world.clock.sleep(60)
        assert block_digests(world, upload_id) == of_blocks(DATA[: 2 * BLOCK])
        await world.restart()
        await world.append(upload_id, 2 * BLOCK + 10, DATA[2 * BLOCK + 10 : 5 * BLOCK])
        await world.clock.sleep(60)
        assert block_digests(world, upload_id) == of_blocks(DATA[: 5 * BLOCK])
        await world.append(upload_id, 5 * BLOCK, DATA[5 * BLOCK :])
        await arrives(world, upload_id)
        assert not world.segments(upload_id)


@pytest.mark.parametrize("call", ["look_through", "read_blocks", "write_blocks"])
def test_a_disk_that_fails_delays_the_hand_over_only(call: str, logged: Logged) -> None:
    """The client has its answer, the hand-over waits for the digest."""
    logged.expect(events.UPLOAD_JOIN_FAILED, events.UPKEEP_DELAYED)
    failing = True

    def fail(name: str) -> Trouble | None:
        return Trouble() if failing and name == call else None

    @virtual
    async def recover() -> None:
        nonlocal failing
        async with running() as world:
            upload_id = await begun(world)
            await world.append(upload_id, 0, DATA[:200])
            await world.restart()
            world.disk.trouble = fail
            await world.clock.sleep(60)
            whole = await world.append(upload_id, 200, DATA[200:])
            assert whole.status is Status.COMPLETE
            await world.clock.sleep(60)
            if call != "write_blocks":
                assert await world.status(upload_id) is Status.COMPLETE
            failing = False
            await arrives(world, upload_id)

    recover()


def test_on_a_directory_it_is_the_same(tmp_path: Path) -> None:
    async def upload() -> None:
        def opened() -> Any:
            return open_directory(tmp_path / "volume")

        async with running(volume=opened) as world:
            upload_id = await begun(world)
            await world.append(upload_id, 0, DATA[:200])
            await world.append(upload_id, 200, DATA[200:])
            record = await world.reached(upload_id, Status.FINISHED)
            assert record.digest == sha256(DATA)

    virtual(upload)()


@pytest.mark.parametrize("damage", ["cut", "flip", "other version", "nothing"])
def test_what_a_crash_left_of_the_file_vouches_for_nothing(damage: str) -> None:
    digests = of_blocks(DATA)
    data = bytearray(blocks.encode(digests[:2]) + blocks.encode(digests[2:], first=2))
    assert blocks.decode(bytes(data)) == digests
    assert data.index(digests[2]) == blocks.place_of(2)
    left = {"cut": 3, "flip": 2, "other version": 0, "nothing": 0}[damage]
    if damage == "cut":
        del data[blocks.place_of(4) - 1 :]
    elif damage == "flip":
        data[blocks.place_of(2) + 5] ^= 1
    elif damage == "other version":
        data[11] += 1
    else:
        data.clear()
    assert blocks.decode(bytes(data)) == digests[:left]
