"""Whose turn it is: the newest request wins, and nothing is told or changed while an append is under way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from incomingd.core.commands import Resource
from incomingd.core.errors import Code, Refusal
from incomingd.core.status import Status
from incomingd.engine.options import EngineOptions
from incomingd.log import events
from incomingd.storage.body import CutReason
from tests.engine.logs import Logged
from tests.engine.world import Feed, Trouble, World, refused, running
from tests.support.virtual import settle, virtual

DATA = bytes(range(100))


async def begun(world: World, length: int = 100) -> str:
    upload_id = await world.ticket()
    await world.begin(upload_id, length)
    return upload_id


@virtual
async def test_a_newer_append_cuts_the_older_and_goes_on_behind_its_bytes() -> None:
    async with running() as world:
        upload_id = await begun(world)
        body = Feed(DATA[:30], ended=False, length=100)
        older = world.appending(upload_id, 0, body)
        await settle()
        newer = world.appending(upload_id, 30, Feed(DATA[30:]))
        cut, whole = await older, await newer
        assert isinstance(cut, Refusal)
        assert (cut.code, cut.offset, body.was_cut) == (Code.PREEMPTED, 30, CutReason.PREEMPTED)
        assert isinstance(whole, Resource)
        assert whole.offset == 100
        await world.reached(upload_id, Status.FINISHED)


@virtual
async def test_the_resume_point_is_told_at_rest() -> None:
    """A HEAD cuts what is under way, at once, and tells what was kept of it."""
    async with running() as world:
        upload_id = await begun(world)
        older = world.appending(upload_id, 0, Feed(DATA[:30], ended=False, length=100))
        await settle()
        began_s = world.clock.monotonic()
        assert (await world.head(upload_id)).offset == 30
        assert world.clock.monotonic() - began_s < 0.1
        assert isinstance(await older, Refusal)


@virtual
async def test_parts_do_not_cut_each_other() -> None:
    async with running() as world:
        upload_id = await world.ticket()
        one = (await world.begin(upload_id, 50, partial=True, concat="partial")).part
        two = (await world.begin(upload_id, 50, partial=True, concat="partial")).part
        feeds = [Feed(DATA[:10], ended=False, length=50) for _ in range(2)]
        under_way = [
            world.appending(upload_id, 0, feed, part=part) for feed, part in zip(feeds, (one, two), strict=True)
        ]
        await settle()
        assert (await world.head(upload_id, one)).offset == 10
        assert [feed.was_cut for feed in feeds] == [CutReason.PREEMPTED, None]
        feeds[1].cut(CutReason.CLIENT)
        await asyncio.gather(*under_way)


# An append that is about to open is no more to be overlooked than one that is open: each of these comes while one
# holds the guard and waits for the disk.

Deed = Callable[[World, str], Awaitable[object]]


async def append_more(world: World, upload_id: str) -> object:
    return await world.appending(upload_id, 0, Feed(DATA[:40]))


async def ask(world: World, upload_id: str) -> object:
    return await world.head(upload_id)


async def begin_anew(world: World, upload_id: str) -> object:
    return await world.begin(upload_id, 100)


async def begin_anew_with_bytes(world: World, upload_id: str) -> object:
    return await world.begin(upload_id, 100, body=Feed(DATA[:20]))


async def cancel(world: World, upload_id: str) -> object:
    return await world.engine.cancel(upload_id, "")


async def expire(world: World, upload_id: str) -> object:
    world.clock.jumped_s += 365 * 86400.0
    return await world.engine.expire(upload_id)


async def stop(world: World, upload_id: str) -> object:
    await world.engine.stop()
    return None


@pytest.mark.parametrize("call", ["open_segment", "write", "take", "sync"])
@pytest.mark.parametrize("deed", [append_more, ask, begin_anew, begin_anew_with_bytes, cancel, expire, stop])
def test_an_append_is_at_rest_before_anything_else_is_done(deed: Deed, call: str, logged: Logged) -> None:
    """Wherever the older one waits: the offset that is told afterwards is the bytes that are there."""

    @virtual
    async def meet() -> None:
        async with running(upkeep=False) as world:
            upload_id = await begun(world)
            hold: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            held: list[str] = []

            def hold_once(name: str) -> Trouble | None:
                if name != call or held:
                    return None
                held.append(name)
                return Trouble(None, hold=hold)

            world.disk.trouble = hold_once
            older = world.appending(upload_id, 0, Feed(DATA[:30], DATA[30:60], ended=False, length=100))
            await settle()
            assert held or call in ("write", "sync")
            done = asyncio.ensure_future(deed(world, upload_id))
            await settle()
            hold.set_result(None)
            result = await done
            await settle()
            assert older.done()
            view = await world.view(upload_id)
            if view.record.status.final:
                assert world.segments(upload_id) == {}
                return
            live = world.engine.live[0]
            assert view.offset == live.offsets[None]
            growing = live.record.content.growing
            assert growing is not None
            # One segment, with as many bytes as are told; they are those that were sent.
            assert world.segments(upload_id) in ({}, {growing.segment: view.offset})
            if view.offset:
                kept = world.disk.uploads.names[upload_id].names[growing.segment].data
                assert kept == DATA[: view.offset]
            if isinstance(result, Resource):
                assert result.offset == view.offset
            if deed is stop:
                assert live.record.content.noted_offset == view.offset
                return
            assert (await world.append(upload_id, view.offset, DATA[view.offset :])).offset == 100
            await world.reached(upload_id, Status.FINISHED)

    meet()


@virtual
async def test_of_many_at_the_same_offset_at_most_one_is_granted() -> None:
    async with running() as world:
        upload_id = await begun(world)
        racers = [world.appending(upload_id, 0, Feed(DATA[:10])) for _ in range(5)]
        results = await asyncio.gather(*racers)
        granted = [result for result in results if isinstance(result, Resource)]
        assert len(granted) <= 1
        assert {result.code for result in results if isinstance(result, Refusal)} <= {
            Code.PREEMPTED,
            Code.OFFSET_MISMATCH,
        }
        assert (await world.head(upload_id)).offset == 10


@virtual
async def test_an_older_beginning_does_not_undo_a_newer_one() -> None:
    async with running() as world:
        upload_id = await world.ticket()
        hold: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        world.disk.trouble = lambda name: Trouble(None, hold=hold) if name == "has_room" else None

        async def begin(length: int) -> Resource | Refusal:
            try:
                return await world.begin(upload_id, length)
            except Refusal as refusal:
                return refusal

        first = asyncio.ensure_future(begin(1))
        await settle()
        second = asyncio.ensure_future(begin(2))
        await settle()
        third = asyncio.ensure_future(begin(3))
        await settle()
        world.disk.trouble = None
        hold.set_result(None)
        results = [await begun for begun in (first, second, third)]
        assert isinstance(results[1], Refusal)
        assert results[1].code is Code.PREEMPTED
        assert isinstance(results[2], Resource)
        assert (await world.head(upload_id)).length == 3


@virtual
async def test_two_tabs_that_fight_are_slowed_down(logged: Logged) -> None:
    """More than 6 pre-emptions within 10 s cost a second, then two, up to eight; the log tells of it."""
    logged.expect(events.APPEND_PREEMPTED)
    async with running() as world:
        upload_id = await begun(world, 10**6)
        under_way = []
        for _ in range(12):
            feed = Feed(b"abc", ended=False, length=100)
            offset = (await world.view(upload_id)).offset
            under_way.append(world.appending(upload_id, offset, feed))
            while (append := world.engine.live[0].turns(None).open) is None or append.body is not feed:
                assert not under_way[-1].done(), under_way[-1]
                await world.clock.sleep(0.01)
        assert [report.slowed_s for report in world.reports[1:]] == [0.0] * 7 + [1.0, 2.0, 4.0, 8.0, 8.0]
        delays = [entry["delay_s"] for entry in logged.of(events.APPEND_PREEMPTED)]
        assert delays == [1.0, 2.0, 4.0, 8.0, 8.0]
        await world.engine.cancel(upload_id, "")
        assert all(isinstance(result, Refusal) for result in await asyncio.gather(*under_way))


@virtual
async def test_a_request_is_held_no_longer_than_it_may_be() -> None:
    """A disk that hangs: HEAD is answered `not_ready` after `hold_s`, never truly unknown, and goes on later."""
    async with running(options=EngineOptions(hold_s=10.0)) as world:
        upload_id = await begun(world)
        await world.append(upload_id, 0, DATA[:10])
        hold: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        world.disk.trouble = lambda name: Trouble(None, hold=hold)
        body = Feed(DATA[10:20], ended=False, length=90)
        stuck = world.appending(upload_id, 10, body)
        await settle()
        began_s = world.clock.monotonic()
        with refused(Code.NOT_READY) as refusal:
            await world.head(upload_id)
        assert refusal.value.retry_after_s == 1
        assert 9.0 < world.clock.monotonic() - began_s <= 10.5
        with refused(Code.NOT_READY):
            await world.append(upload_id, 10, DATA[10:])
        world.disk.trouble = None
        hold.set_result(None)
        body.cut(CutReason.CLIENT)
        await stuck
        head = await world.head(upload_id)
        assert head.offset in (10, 20)
        assert (await world.append(upload_id, head.offset, DATA[head.offset :])).offset == 100


@pytest.mark.parametrize("failing_s, answered", [(3.0, True), (60.0, False)])
def test_a_resume_point_that_cannot_be_told_yet_is_held(failing_s: float, answered: bool, logged: Logged) -> None:
    """HEAD waits for a disk that fails for a moment; it never says what is not so."""
    logged.expect(events.VOLUME_FAILED)

    @virtual
    async def wait() -> None:
        async with running() as world:
            upload_id = await begun(world)
            await world.append(upload_id, 0, DATA[:10])
            await world.restart(upkeep=False)
            ends_s = world.clock.monotonic() + failing_s
            world.disk.trouble = lambda name: Trouble() if world.clock.monotonic() < ends_s else None
            if answered:
                assert (await world.head(upload_id)).offset == 10
            else:
                with refused(Code.NOT_READY):
                    await world.head(upload_id)

    wait()


@virtual
async def test_an_upload_is_pulled_once_however_many_ask() -> None:
    async with running() as world:
        upload_id = await world.ticket()
        answers = await asyncio.gather(*(world.head(upload_id) for _ in range(20)))
        assert {answer.offset for answer in answers} == {0}
        assert (await world.record(upload_id)).epoch == 1
