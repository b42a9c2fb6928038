"""After a kill, a power loss, an eviction or a stop every upload goes on where it was promised to."""

from __future__ import annotations

import dataclasses

import pytest

from incomingd.core.errors import Code, Refusal
from incomingd.core.record import Record
from incomingd.core.status import Status
from incomingd.engine.options import Durability, EngineOptions
from incomingd.log import events
from incomingd.storage.body import CutReason
from incomingd.storage.volume import VolumeFullError, VolumeUnavailableError
from tests.engine.logs import Logged
from tests.engine.world import Feed, Trouble, World, refused, running, sha1
from tests.support.virtual import settle, virtual

DATA = bytes(range(200))


async def part_way(world: World, offset: int = 60, length: int = 200) -> str:
    """Begin an upload and have *offset* acknowledged."""
    upload_id = await world.ticket()
    await world.begin(upload_id, length)
    if offset:
        assert (await world.append(upload_id, 0, DATA[:offset])).offset == offset
    return upload_id


async def goes_on(world: World, upload_id: str, length: int = 200) -> None:
    """Send the rest from where the upload says that it is; the file is right."""
    world.app.answer = (200, b"wait")
    head = await world.head(upload_id)
    if head.length is None:
        # Nothing is left of its beginning: a client begins anew.
        head = await world.begin(upload_id, length)
    offset = head.offset
    assert offset is not None
    whole = await world.append(upload_id, offset, DATA[offset:length])
    assert whole.offset == length
    await world.reached(upload_id, Status.AWAITING_APP)
    assert await world.file(upload_id) == DATA[:length]


@pytest.mark.parametrize("durability", Durability)
@pytest.mark.parametrize("times", [1, 3])
def test_what_was_acknowledged_survives_kills(durability: Durability, times: int) -> None:
    @virtual
    async def survive() -> None:
        async with running(options=EngineOptions(durability=durability)) as world:
            upload_id = await part_way(world)
            for _ in range(times):
                await world.restart()
                assert (await world.head(upload_id)).offset == 60
            await goes_on(world, upload_id)

    survive()


@pytest.mark.parametrize("durability", Durability)
def test_what_came_of_an_open_append_survives_a_kill(durability: Durability) -> None:
    """Nobody was told of it, but it need not be sent again."""

    @virtual
    async def survive() -> None:
        async with running(options=EngineOptions(durability=durability)) as world:
            upload_id = await part_way(world)
            under_way = world.appending(upload_id, 60, Feed(DATA[60:150], ended=False, length=140))
            await settle()
            await world.kill()
            under_way.cancel()
            world.start()
            assert (await world.head(upload_id)).offset == 150
            await goes_on(world, upload_id)

    survive()


@pytest.mark.parametrize("seed", range(12))
def test_what_was_acknowledged_survives_a_power_loss(seed: int) -> None:
    """As `durability: acknowledgement` promises: no byte less, and none that the disk made up."""

    @virtual
    async def survive() -> None:
        async with running(seed=seed) as world:
            upload_id = await part_way(world)
            under_way = world.appending(upload_id, 60, Feed(DATA[60:150], ended=False, length=140))
            await settle()
            await world.lose_power()
            under_way.cancel()
            world.start()
            assert (await world.head(upload_id)).offset == 60
            await goes_on(world, upload_id)

    survive()


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("durability", [Durability.NONE, Durability.COMPLETION])
def test_a_power_loss_under_less_durability_leaves_no_wrong_byte(durability: Durability, seed: int) -> None:
    """The offset may fall, or the ticket go; what is there in the end is right."""

    @virtual
    async def survive() -> None:
        options = EngineOptions(durability=durability)
        async with running(seed=seed, options=options) as world:
            world.disk.durable = durability is not Durability.NONE
            upload_id = await part_way(world)
            await world.append(upload_id, 60, DATA[60:100])
            await world.restart("lose_power")
            if durability is Durability.COMPLETION:
                # What happens once to an upload is synced: its length is still known.
                assert (await world.head(upload_id)).length == 200
            if durability is Durability.NONE and await world.volume.read(upload_id) is None:
                with refused(Code.UPLOAD_UNKNOWN):
                    await world.head(upload_id)
                return
            await goes_on(world, upload_id)

    survive()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("durability", [Durability.COMPLETION, Durability.ACKNOWLEDGEMENT])
def test_a_complete_file_survives_a_power_loss(durability: Durability, seed: int) -> None:
    @virtual
    async def survive() -> None:
        async with running(seed=seed, options=EngineOptions(durability=durability)) as world:
            world.app.answer = (503, b"")
            upload_id = await part_way(world, 200)
            await world.restart("lose_power", handover=False)
            await world.upkeep.first_pass_done.wait()
            await settle()
            assert await world.status(upload_id) is Status.COMPLETE
            assert await world.file(upload_id) == DATA
            # Also before the file was joined.
            other = await part_way(world, 0)
            world.disk.trouble = None
            await world.append(other, 0, DATA)
            await world.restart("lose_power")
            world.app.answer = (200, b"wait")
            await world.reached(other, Status.AWAITING_APP)
            assert await world.file(other) == DATA

    survive()


@pytest.mark.parametrize("then", ["kill", "lose_power", "evict", "stop"])
def test_bytes_that_a_power_loss_made_up_never_count(then: str) -> None:
    """A file may be longer than what was synced of it. What was measured not to count must not count later."""

    @virtual
    async def go_on() -> None:
        async with running() as world:
            upload_id = await part_way(world)
            await world.kill()
            # As after a power loss: another kernel, and a tail that nobody sent.
            world.disk.boots += 1
            segment = world.disk.uploads.names[upload_id].names["bytes.1"]
            segment.data.extend(b"\xff" * 30)
            world.start()
            assert (await world.head(upload_id)).offset == 60
            if then == "evict":
                await world.clock.sleep(300.0)
                assert world.engine.live == []
            else:
                await world.restart(then)
            assert (await world.head(upload_id)).offset == 60
            await goes_on(world, upload_id)

    go_on()


@pytest.mark.parametrize("then", ["kill", "lose_power", "evict", "stop"])
def test_unverified_bytes_never_count(then: str) -> None:
    """Bytes of a checksummed append whose checksum was never compared: not now, and not after the next restart."""

    @virtual
    async def go_on() -> None:
        async with running() as world:
            upload_id = await part_way(world)
            body = Feed(b"\xff" * 30, ended=False, length=140)
            under_way = world.appending(upload_id, 60, body, checksum=sha1(DATA[60:]))
            await settle()
            await world.kill()
            under_way.cancel()
            assert world.segments(upload_id) == {"bytes.1": 90}
            world.start()
            assert (await world.head(upload_id)).offset == 60
            if then == "evict":
                await world.clock.sleep(300.0)
                assert world.engine.live == []
            else:
                await world.restart(then)
            assert (await world.head(upload_id)).offset == 60
            await goes_on(world, upload_id)

    go_on()


@pytest.mark.parametrize("durability", Durability)
def test_what_leaves_the_memory_comes_back_the_same(durability: Durability) -> None:
    @virtual
    async def leave() -> None:
        async with running(options=EngineOptions(durability=durability)) as world:
            upload_id = await part_way(world)
            part = (await world.begin(await world.ticket(), 10, partial=True)).part
            assert part is not None
            await world.clock.sleep(300.0)
            assert world.engine.live == []
            assert world.registry._owners == {}
            # Noted durably: even a power loss takes nothing of it.
            if durability is not Durability.NONE:
                await world.restart("lose_power")
            assert (await world.head(upload_id)).offset == 60
            epoch = (await world.record(upload_id)).epoch
            await world.clock.sleep(300.0)
            assert (await world.append(upload_id, 60, DATA[60:70])).offset == 70
            # What this run owned before it still owns.
            assert (await world.record(upload_id)).epoch == epoch
            await goes_on(world, upload_id)

    leave()


@virtual
async def test_what_is_in_use_stays_in_memory() -> None:
    async with running() as world:
        upload_id = await part_way(world)
        body = Feed(ended=False, length=140)
        under_way = world.appending(upload_id, 60, body)
        await world.clock.sleep(3600.0)
        assert [upload.id for upload in world.engine.live] == [upload_id]
        body.send(DATA[60:])
        body.end()
        await under_way
        await world.reached(upload_id, Status.FINISHED)


@pytest.mark.parametrize("durability", Durability)
def test_a_stop_cuts_appends_and_notes_where_they_stand(durability: Durability) -> None:
    """Under any durability: after a planned reboot nothing is missing."""

    @virtual
    async def stop() -> None:
        async with running(options=EngineOptions(durability=durability)) as world:
            world.disk.durable = True
            upload_id = await part_way(world)
            body = Feed(DATA[60:150], ended=False, length=140)
            under_way = world.appending(upload_id, 60, body)
            await settle()
            await world.engine.stop()
            cut = await under_way
            assert isinstance(cut, Refusal)
            assert (cut.code, cut.offset, body.was_cut) == (Code.STOPPING, 150, CutReason.STOPPING)
            for call in (world.append(upload_id, 150, b"x"), world.begin(upload_id, 200)):
                with refused(Code.STOPPING):
                    await call
            await world.lose_power()
            world.start()
            assert (await world.head(upload_id)).offset == 150
            await goes_on(world, upload_id)

    stop()


@virtual
async def test_a_stop_ends_what_pages_wait_for() -> None:
    async with running() as world:
        upload_id = await part_way(world)
        waiting = world.clock.spawn(_wait(world, upload_id), name="page")
        await world.clock.sleep(1.0)
        began_s = world.clock.monotonic()
        await world.engine.stop()
        await waiting
        assert world.clock.monotonic() - began_s < 1.0


async def _wait(world: World, upload_id: str) -> None:
    await world.engine.wait(upload_id, 25.0, lambda view: view.record.status)


@pytest.mark.parametrize("asks", [True, False])
def test_a_complete_upload_is_joined_after_a_restart_whoever_asks_first(asks: bool) -> None:
    """A client that comes back before the first pass does must not keep the file from the web app."""

    @virtual
    async def join() -> None:
        async with running() as world:
            upload_id = await part_way(world, 0)
            world.disk.trouble = None
            await world.append(upload_id, 0, DATA)
            await world.kill()
            record = await _stored(world, upload_id)
            assert (record.status, record.joined) == (Status.COMPLETE, False)
            world.start(upkeep=False)
            if asks:
                async with world.engine.owning(upload_id):
                    pass
            upkeep = world.clock.spawn(world.upkeep.run(), name="upkeep")
            await world.reached(upload_id, Status.FINISHED)
            upkeep.cancel()
            assert world.app.types == ["upload.complete"]

    join()


async def _stored(world: World, upload_id: str) -> Record:
    world.volume = world.disk.open()
    record = await world.record(upload_id)
    await world.volume.close()
    return record


@virtual
async def test_a_beginning_over_several_ranges_goes_on_behind_what_is_noted() -> None:
    """After a power loss less may be noted than the closed ranges had: the map is cut there, and grows anew."""
    async with running() as world:
        upload_id = await part_way(world)
        async with world.engine.owning(upload_id) as upload, upload.guard:
            content = upload.record.content.cut_at(60).grown_by("bytes.9", world.volume.id, 60)
            content = dataclasses.replace(content, noted_offset=40)
            await upload.write(dataclasses.replace(upload.record, content=content), sync=True)
        await world.kill()
        world.disk.boots += 1
        world.start()
        assert (await world.head(upload_id)).offset == 40
        await goes_on(world, upload_id)


@virtual
async def test_each_run_begins_a_tenure_of_its_own() -> None:
    async with running() as world:
        upload_id = await part_way(world)
        first = await world.record(upload_id)
        await world.restart()
        await world.head(upload_id)
        second = await world.record(upload_id)
        assert (first.epoch, second.epoch) == (1, 2)
        assert first.owner != second.owner
        assert first.create_id != second.create_id
        # The lock shows that the former run is gone: its segment goes on.
        assert second.content.growing == first.content.growing
        assert await world.registry.owner_of(upload_id) == (second.owner, 2)


@pytest.mark.parametrize("full", [True, False])
def test_bytes_whose_sync_failed_do_not_count(full: bool, logged: Logged) -> None:
    """The kernel tells of a failed write-back once, and forgets it: a later sync that goes well proves nothing."""
    logged.expect(events.VOLUME_FAILED)

    @virtual
    async def fail() -> None:
        async with running() as world:
            upload_id = await part_way(world)
            error = VolumeFullError if full else VolumeUnavailableError
            world.disk.trouble = lambda name: Trouble(error) if name == "sync" else None
            with refused(Code.STORAGE_FULL if full else Code.STORAGE_UNAVAILABLE):
                await world.append(upload_id, 60, DATA[60:100])
            world.disk.trouble = None
            assert world.segments(upload_id) == {"bytes.1": 60}
            assert (await world.head(upload_id)).offset == 60
            await goes_on(world, upload_id)

    fail()
