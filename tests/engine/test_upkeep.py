"""What is done for uploads that nobody asks for: expiry, retention, what a restart left; at no cost for the rest."""

from __future__ import annotations

import gc
from collections import Counter

import pytest

from incomingd.core import ids
from incomingd.core.errors import Code
from incomingd.core.record import Record
from incomingd.core.status import Status
from incomingd.engine.engine import Engine
from incomingd.engine.options import EngineOptions
from incomingd.engine.owned import OwnedUpload
from incomingd.log import events
from incomingd.storage.memory_parts import Directory, File
from incomingd.storage.volume import Found, VolumeUnavailableError
from tests.engine.logs import Logged
from tests.engine.world import DAY_S, VOLUME_ID, CallCounter, Trouble, World, refused, running
from tests.support.virtual import settle, virtual


@virtual
async def test_records_of_ended_uploads_are_kept_for_a_while() -> None:
    async with running() as world:
        upload_id = await world.uploaded(b"abc")
        await world.reached(upload_id, Status.FINISHED)
        await world.clock.sleep(world.options.records_keep_s - 120.0)
        assert await world.status(upload_id) is Status.FINISHED
        await world.clock.sleep(300.0)
        with refused(Code.UPLOAD_UNKNOWN):
            await world.status(upload_id)
        assert world.disk.uploads.names == {}
        assert world.disk.files.names == {}


@virtual
async def test_retention_goes_on_across_restarts() -> None:
    async with running() as world:
        upload_id = await world.uploaded(b"abc")
        await world.reached(upload_id, Status.FINISHED)
        for _ in range(6):
            await world.clock.sleep(DAY_S)
            await world.restart()
        assert await world.status(upload_id) is Status.FINISHED
        await world.clock.sleep(DAY_S + 120.0)
        assert world.disk.uploads.names == {}


@virtual
async def test_a_record_is_kept_while_its_callback_goes_on(logged: Logged) -> None:
    logged.expect(events.NOTIFICATION_ATTEMPTED)
    async with running(options=EngineOptions(records_keep_s=3600.0)) as world:
        world.app.answer = (503, b"")
        upload_id = await world.ticket()
        await world.engine.cancel(upload_id, "")
        await world.clock.sleep(DAY_S)
        assert await world.status(upload_id) is Status.CANCELLED
        world.app.answer = (200, b"")
        await world.clock.sleep(DAY_S)
        assert world.disk.uploads.names == {}


@virtual
async def test_expiry_is_not_forgotten_by_a_restart() -> None:
    async with running() as world:
        upload_id = await world.ticket(expires_in_s=3600.0)
        await world.restart("stop")
        await world.clock.sleep(3540.0)
        assert await world.status(upload_id) is Status.OPEN
        await world.clock.sleep(180.0)
        assert await world.status(upload_id) is Status.EXPIRED


@virtual
async def test_what_expired_while_the_daemon_was_away_expires_at_its_start() -> None:
    async with running() as world:
        upload_id = await world.ticket(expires_in_s=3600.0)
        await world.begin(upload_id, 10)
        await world.append(upload_id, 0, b"abc")
        await world.kill()
        await world.clock.sleep(DAY_S)
        world.start()
        await world.upkeep.first_pass_done.wait()
        assert await world.status(upload_id) is Status.EXPIRED
        assert world.segments(upload_id) == {}
        await settle()
        assert world.app.types == ["upload.expired"]


@virtual
async def test_a_wall_clock_that_is_put_forward_is_heeded() -> None:
    async with running() as world:
        upload_id = await world.ticket(expires_in_s=3600.0)
        world.clock.jumped_s += 7200.0
        await world.clock.sleep(120.0)
        assert await world.status(upload_id) is Status.EXPIRED


LEFT = [Status.OPEN, Status.COMPLETE, Status.AWAITING_APP, Status.FINISHED, Status.CANCELLED]


@virtual
async def test_the_first_pass_takes_up_what_a_former_run_left(logged: Logged) -> None:
    logged.expect(events.HANDOVER_ATTEMPTED, events.NOTIFICATION_ATTEMPTED)
    async with running() as world:
        opened = await world.ticket()
        world.app.answer = (200, b"wait")
        waiting = await world.uploaded(b"waits")
        await world.reached(waiting, Status.AWAITING_APP)
        world.app.answer = (503, b"")
        down = await world.uploaded(b"is down")
        cancelled = await world.ticket()
        await world.engine.cancel(cancelled, "")
        world.app.takes_s = 3600.0
        asked = await world.uploaded(b"was asked")
        await settle()
        assert await world.status(asked) is Status.HANDING_OVER
        await world.kill()
        world.app.calls.clear()
        world.app.takes_s, world.app.answer = 0.0, (200, b"done")
        world.start()
        await world.clock.sleep(60.0)
        assert sorted(world.app.types) == ["upload.cancelled", "upload.complete", "upload.complete"]
        assert [await world.status(upload_id) for upload_id in (down, asked)] == [Status.FINISHED] * 2
        assert await world.status(opened) is Status.OPEN
        # Its deadline runs on, and the web app is not asked again before.
        assert await world.status(waiting) is Status.AWAITING_APP
        await world.reached(waiting, Status.FAILED, within_s=700.0)


@pytest.mark.parametrize("call", ["groups", "survey", "read", "claim", "write", "measure", "drop_bytes", "remove"])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_call_that_fails_delays_only_what_it_was_for(call: str, number: int, logged: Logged) -> None:
    """The first pass ends for everybody in the end, and what has expired or is to be deleted is."""
    logged.expect(events.VOLUME_FAILED, events.UPKEEP_DELAYED, events.UPLOAD_DROP_FAILED, events.UPLOAD_JOIN_FAILED)

    @virtual
    async def fail() -> None:
        async with running() as world:
            expired = [await world.ticket(expires_in_s=3600.0) for _ in range(3)]
            ended = await world.ticket(finish_url="")
            await world.engine.cancel(ended, "")
            complete = await world.uploaded(b"abc")
            await world.kill()
            await world.clock.sleep(8 * DAY_S)
            seen: Counter[str] = Counter()

            def fail_once(name: str) -> Trouble | None:
                seen[name] += 1
                return Trouble() if name == call and seen[name] == number + 1 else None

            world.disk.trouble = fail_once
            world.start()
            await world.clock.sleep(600.0)
            assert world.upkeep.first_pass_done.is_set()
            assert [await world.status(upload_id) for upload_id in expired] == [Status.EXPIRED] * 3
            assert await world.status(complete) is Status.FINISHED
            assert ended not in world.disk.uploads.names
            assert seen[call] > number or call in ("groups", "remove", "measure", "drop_bytes")

    fail()


@virtual
async def test_a_volume_that_cannot_be_listed_at_the_start_is_listed_later(logged: Logged) -> None:
    logged.expect(events.VOLUME_FAILED)
    async with running() as world:
        upload_id = await world.uploaded(b"abc")
        await world.kill()
        world.disk.trouble = lambda name: Trouble()
        world.start()
        await world.clock.sleep(3600.0)
        assert not world.upkeep.first_pass_done.is_set()
        # One failing volume is one event, however often it was asked.
        assert len(logged.of(events.VOLUME_FAILED)) == 1
        world.disk.trouble = None
        await world.reached(upload_id, Status.FINISHED, within_s=120.0)


@pytest.mark.parametrize("after", ["cancel", "expire", "done"])
def test_deleting_that_was_cut_short_is_made_up_for(after: str, logged: Logged) -> None:
    """The end stands in the record; the process died before the bytes went. They go at the next start."""
    logged.expect(events.UPLOAD_DROP_FAILED, events.UPLOAD_JOIN_FAILED, events.VOLUME_FAILED)

    @virtual
    async def end() -> None:
        async with running() as world:
            world.app.answer = (200, b"wait")
            upload_id = await world.uploaded(b"abc")
            other = await world.ticket(expires_in_s=7200.0)
            await world.begin(other, 10)
            await world.append(other, 0, b"abc")
            await world.reached(upload_id, Status.AWAITING_APP)
            world.disk.trouble = lambda name: Trouble() if name == "drop_bytes" else None
            if after == "done":
                await world.engine.confirm(upload_id, done=True, message=None, client_data=None)
            elif after == "cancel":
                await world.engine.cancel(other, "")
            else:
                await world.clock.sleep(3.0 * 3600.0)
                assert await world.status(other) is Status.EXPIRED
            world.disk.trouble = None
            await world.restart()
            await world.upkeep.first_pass_done.wait()
            assert await world.status(other) is not Status.OPEN or world.segments(other) == {"bytes.1": 3}
            if after == "done":
                assert world.disk.files.names == {}
            else:
                assert world.segments(other) == {}

    end()


@virtual
async def test_a_file_whose_deletion_failed_goes_with_its_record(logged: Logged) -> None:
    logged.expect(events.UPLOAD_DROP_FAILED, events.UPLOAD_JOIN_FAILED)
    async with running() as world:
        world.disk.trouble = lambda name: Trouble() if name == "drop_bytes" else None
        upload_id = await world.uploaded(b"abc")
        await world.reached(upload_id, Status.FINISHED)
        world.disk.trouble = None
        await world.clock.sleep(8 * DAY_S)
        assert world.disk.uploads.names == {}
        assert world.disk.files.names == {}


@virtual
async def test_an_app_that_never_confirms_leaves_its_file_as_long_as_the_record() -> None:
    async with running() as world:
        world.app.answer = (200, b"wait")
        upload_id = await world.uploaded(b"abc")
        await world.reached(upload_id, Status.AWAITING_APP)
        await world.reached(upload_id, Status.FAILED)
        await world.restart()
        await world.clock.sleep(6 * DAY_S)
        assert await world.file(upload_id) == b"abc"
        await world.clock.sleep(2 * DAY_S)
        assert world.disk.uploads.names == {}
        assert world.disk.files.names == {}


# -- at no cost for the rest


def footprint(world: World) -> Counter[str]:
    """Count what the engine and its companions hold."""
    gc.collect()
    engine: Engine = world.engine
    counts: Counter[str] = Counter()
    for holder in (engine, engine.services.events, world.registry, world.handover, world.upkeep, engine.keeper):
        for name, value in vars(holder).items():
            if isinstance(value, dict | list | set):
                counts[f"{type(holder).__name__}.{name}"] = len(value)
    counts["OwnedUpload"] = sum(isinstance(thing, OwnedUpload) for thing in gc.get_objects())
    return counts


def fill_up(world: World, like: str, count: int) -> None:
    """Put so many uploads on the disk as a former run would have left them."""
    data = bytes(world.disk.uploads.names[like].names["record.json"].data)
    for number in range(1, count):
        upload_id = ids.upload_id(number, VOLUME_ID)
        file, folder = File(data.replace(like.encode(), upload_id.encode())), Directory[File]()
        file.synced = len(file.data)
        folder.put("record.json", file)
        folder.sync()
        world.disk.uploads.put(upload_id, folder)
        world.disk.enter(upload_id)
    world.disk.uploads.sync()


@virtual
async def test_uploads_at_rest_cost_no_memory() -> None:
    """20,000 uploads on the volume: nothing is held for any of them, but one number for each group."""
    async with running(upkeep=False) as world:
        empty = footprint(world)
        some = [await world.ticket(expires_in_s=DAY_S) for _ in range(500)]
        fill_up(world, await world.ticket(expires_in_s=20 * DAY_S), 20_000)
        for upload_id in some[:300]:
            await world.begin(upload_id, 10)
            await world.append(upload_id, 0, b"abc")
        for upload_id in some[:100]:
            await world.append(upload_id, 3, b"defghij")
            await world.reached(upload_id, Status.FINISHED)
        await world.restart("stop")
        await world.upkeep.first_pass_done.wait()
        await world.clock.sleep(300.0)
        at_rest = footprint(world)
        groups = at_rest.pop("Upkeep._due")
        assert groups == len(world.disk.groups) <= 62 * 62
        del empty["Upkeep._due"]
        # Subscriptions are the same for every run.
        assert {name: count for name, count in at_rest.items() if count > empty[name]} == {}
        # When many of them expire at once, none stays behind either.
        world.app.answer = (200, b"")
        await world.clock.sleep(DAY_S + 600.0)
        expired = footprint(world)
        del expired["Upkeep._due"]
        assert {name: count for name, count in expired.items() if count > empty[name]} == {}
        statuses = Counter([await world.status(upload_id) for upload_id in some])
        assert statuses == {Status.FINISHED: 100, Status.EXPIRED: 400}


@virtual
async def test_expiring_uploads_do_not_pile_up_in_memory() -> None:
    async with running() as world:
        for _ in range(500):
            await world.ticket(expires_in_s=60.0, finish_url="")
        most = 0

        def count(name: str) -> None:
            nonlocal most
            most = max(most, len(world.engine.live))

        world.disk.trouble = count
        await world.clock.sleep(180.0)
        assert most <= 2
        assert {record.status for record in [await world.record(i) for i in world.disk.uploads.names]} == {
            Status.EXPIRED
        }


@virtual
async def test_at_rest_the_volume_is_left_alone() -> None:
    """Thousands of open uploads are not read again and again while nothing is due."""
    async with running() as world:
        for _ in range(200):
            await world.ticket()
        await world.clock.sleep(120.0)
        counter = CallCounter(world.disk)
        await world.clock.sleep(DAY_S)
        assert counter.made == []


def crowd(world: World, group: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have new uploads come into *group*; by chance each would have one of its own."""
    drawn, chars = world.clock.random_bits, len(ids.ALPHABET)
    first, second = map(ids.ALPHABET.index, group)
    in_group = first + second * chars
    monkeypatch.setattr(world.clock, "random_bits", lambda bits: drawn(bits) // chars**2 * chars**2 + in_group)


@virtual
async def test_one_upload_that_cannot_be_read_keeps_no_other_from_its_end(
    logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged.expect(events.VOLUME_FAILED)
    async with running() as world:
        crowd(world, "ab", monkeypatch)
        bad, *others = sorted([await world.ticket(expires_in_s=3600.0) for _ in range(3)])
        read = world.volume.read

        async def fail(upload_id: str) -> Record | None:
            if upload_id == bad:
                raise VolumeUnavailableError("a bad sector")
            return await read(upload_id)

        monkeypatch.setattr(world.volume, "read", fail)
        await world.clock.sleep(3720.0)
        assert [await world.status(upload_id) for upload_id in others] == [Status.EXPIRED] * 2


@virtual
async def test_a_ticket_that_is_made_while_its_group_is_read_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was too late to be found there, and is not forgotten."""
    async with running() as world:
        former = await world.ticket(expires_in_s=3600.0)
        await world.restart("stop")
        crowd(world, former[:2], monkeypatch)
        survey = world.volume.survey
        made: list[str] = []

        async def then_make(group: str) -> list[Found]:
            found = await survey(group)
            if not made:
                made.append(await world.ticket(expires_in_s=1800.0))
            return found

        monkeypatch.setattr(world.volume, "survey", then_make)
        await world.upkeep.first_pass_done.wait()
        assert made[0][:2] == former[:2]
        await world.clock.sleep(1980.0)
        assert await world.status(made[0]) is Status.EXPIRED
        assert await world.status(former) is Status.OPEN
