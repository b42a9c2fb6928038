"""How clients begin, begin anew, and send in parts: never a mixture of two files."""

from __future__ import annotations

from typing import Any

import pytest

from incomingd.core.commands import Append, Creation
from incomingd.core.errors import Code
from incomingd.core.record import PARTS_MAX
from incomingd.core.status import Status
from incomingd.engine.appending import AppendReport
from incomingd.storage.body import CutReason
from tests.engine.world import Feed, World, new_terms, refused, running
from tests.support.virtual import settle, virtual


async def part_of(world: World, upload_id: str, length: int | None) -> str:
    part = (await world.begin(upload_id, length, partial=True, concat="partial")).part
    assert part is not None
    return part


async def final(world: World, upload_id: str, *parts: str, metadata: str | None = None) -> Any:
    concat = "final;" + " ".join(parts)
    return await world.begin(upload_id, None, final_of=tuple(parts), concat=concat, metadata=metadata)


# -- beginning anew


@virtual
async def test_a_client_that_begins_again_begins_at_0() -> None:
    """It may have another file of the same length: nothing of the former one may remain."""
    async with running() as world:
        world.app.answer = (200, b"wait")
        upload_id = await world.ticket()
        await world.begin(upload_id, 6)
        await world.append(upload_id, 0, b"old")
        anew = await world.begin(upload_id, 6, metadata="filename Yg==")
        assert (anew.offset, anew.metadata) == (0, "filename Yg==")
        await world.append(upload_id, 0, b"newnew")
        await world.reached(upload_id, Status.AWAITING_APP)
        assert await world.file(upload_id) == b"newnew"
        assert world.segments(upload_id) == {}


@virtual
async def test_a_client_that_begins_again_may_have_a_file_of_another_length() -> None:
    async with running() as world:
        upload_id = await world.ticket(max_length=10)
        await world.begin(upload_id, 6)
        await world.append(upload_id, 0, b"old")
        with refused(Code.UPLOAD_TOO_LARGE):
            await world.begin(upload_id, 11)
        # A refused beginning leaves the former one as it was.
        assert (await world.head(upload_id)).offset == 3
        assert (await world.begin(upload_id, 9)).length == 9
        assert (await world.head(upload_id)).offset == 0
        assert world.segments(upload_id) == {}


@pytest.mark.parametrize("how", ["kill", "lose_power", "stop"])
def test_what_began_anew_stays_anew_after_a_restart(how: str) -> None:
    @virtual
    async def begin() -> None:
        async with running() as world:
            world.app.answer = (200, b"wait")
            upload_id = await world.ticket()
            await world.begin(upload_id, 6)
            await world.append(upload_id, 0, b"old")
            await world.begin(upload_id, 6)
            await world.restart(how)
            assert (await world.head(upload_id)).offset == 0
            await world.append(upload_id, 0, b"new")
            await world.restart(how)
            assert (await world.head(upload_id)).offset == 3
            await world.append(upload_id, 3, b"new")
            await world.reached(upload_id, Status.AWAITING_APP)
            assert await world.file(upload_id) == b"newnew"

    begin()


@virtual
async def test_beginning_where_no_byte_has_come_costs_no_claim() -> None:
    async with running() as world:
        upload_id = await world.ticket()
        for length in (1, 2, 3):
            await world.begin(upload_id, length)
        record = await world.record(upload_id)
        assert (record.epoch, record.content.length, record.beginnings) == (1, 3, 3)


@virtual
async def test_the_creation_of_a_complete_upload_is_repeated_or_refused() -> None:
    async with running() as world:
        world.app.answer = (200, b"wait")
        upload_id = await world.ticket()
        await world.begin(upload_id, 3, metadata="a")
        await world.append(upload_id, 0, b"abc")
        for _ in range(2):
            # The same again: its answer was lost.
            again = await world.begin(upload_id, 3, metadata="a", body=Feed(b"abc"))
            assert again.offset == 3
            for length, metadata in ((4, "a"), (3, "b"), (None, "a")):
                with refused(Code.UPLOAD_COMPLETE):
                    await world.begin(upload_id, length, metadata=metadata)
            await world.restart()


@virtual
async def test_bytes_may_come_with_the_creation() -> None:
    async with running() as world:
        upload_id = await world.ticket()
        assert (await world.begin(upload_id, 6, body=Feed(b"abc"))).offset == 3
        assert (await world.begin(upload_id, 6, body=Feed(b"abcdef"))).status is Status.COMPLETE


@virtual
async def test_the_bytes_of_a_cut_creation_are_kept() -> None:
    async with running() as world:
        upload_id = await world.ticket()
        body = Feed(b"abc", ended=False, length=6)

        async def begin() -> None:
            with refused(Code.BODY_CUT) as refusal:
                await world.begin(upload_id, 6, body=body)
            assert refusal.value.offset == 3

        beginning = world.clock.spawn(begin(), name="client")
        await settle()
        body.cut(CutReason.CLIENT)
        await beginning
        assert (await world.head(upload_id)).offset == 3


@virtual
async def test_the_web_app_hears_once_that_a_client_has_begun() -> None:
    async with running() as world:
        upload_id = await world.ticket(events=("started",))
        await world.head(upload_id)
        await settle()
        assert world.app.types == []
        for _ in range(3):
            await world.begin(upload_id, 6)
            await world.append(upload_id, 0, b"abc")
            await settle()
        assert world.app.types == ["upload.started"]


@virtual
async def test_a_file_of_a_kind_that_the_ticket_does_not_take() -> None:
    async with running() as world:
        upload_id = await world.ticket(content_types=("image/*",))
        with refused(Code.CONTENT_TYPE_NOT_ACCEPTED) as refusal:
            await world.begin(upload_id, 3, pairs=(("filetype", "text/plain"),))
        assert refusal.value.extra == {"content_types": ["image/*"]}
        await world.begin(upload_id, 3, pairs=(("filetype", "image/png"),))
        assert (await world.record(upload_id)).client.content_type == "image/png"


@virtual
async def test_room_is_asked_for_when_the_length_is_told() -> None:
    async with running() as world:
        world.disk.free_bytes = 100_000
        upload_id = await world.ticket()
        with refused(Code.STORAGE_FULL):
            await world.begin(upload_id, 100_001)
        assert (await world.record(upload_id)).beginnings == 0
        await world.begin(upload_id, 10_000)
        await world.append(upload_id, 0, bytes(9_000))
        with refused(Code.STORAGE_FULL):
            await world.begin(upload_id, 100_001)
        # What the former beginning holds gives way, so it counts as room.
        await world.begin(upload_id, 100_000)


# -- parts


@virtual
async def test_parts_in_any_order_make_one_file() -> None:
    async with running() as world:
        world.app.answer = (200, b"wait")
        upload_id = await world.ticket(length=7)
        one, two = await part_of(world, upload_id, 3), await part_of(world, upload_id, 4)
        await world.append(upload_id, 0, b"defg", part=two)
        await world.append(upload_id, 0, b"a", part=one)
        assert [(await world.head(upload_id, part)).offset for part in (one, two, None)] == [1, 4, 0]
        await world.append(upload_id, 1, b"bc", part=one)
        whole = await final(world, upload_id, one, two, metadata="m")
        assert (whole.offset, whole.length, whole.status, whole.metadata) == (7, 7, Status.COMPLETE, "m")
        await world.reached(upload_id, Status.AWAITING_APP)
        assert await world.file(upload_id) == b"abcdefg"
        assert world.segments(upload_id) == {}


@virtual
async def test_parts_that_are_not_there_yet_complete_the_file_when_they_are() -> None:
    async with running() as world:
        world.app.answer = (200, b"wait")
        upload_id = await world.ticket()
        one, two = await part_of(world, upload_id, 3), await part_of(world, upload_id, None)
        begun = await final(world, upload_id, two, one, two)
        assert (begun.offset, begun.length, begun.status) == (None, None, Status.OPEN)
        with refused(Code.CONCAT_FINAL):
            await world.append(upload_id, 0, b"x")
        await world.append(upload_id, 0, b"abc", part=one)
        await world.restart()
        assert (await world.head(upload_id)).status is Status.OPEN
        await world.append(upload_id, 0, b"de", part=two, length=2)
        await world.reached(upload_id, Status.AWAITING_APP)
        assert await world.file(upload_id) == b"deabcde"


@pytest.mark.parametrize("how", ["kill", "lose_power", "stop"])
def test_a_part_that_was_not_told_that_it_is_there_completes_at_the_next_start(how: str) -> None:
    @virtual
    async def complete() -> None:
        async with running() as world:
            upload_id = await world.ticket()
            one, two = await part_of(world, upload_id, 3), await part_of(world, upload_id, 3)
            await final(world, upload_id, one, two)
            await world.append(upload_id, 0, b"abc", part=one)
            await world.append(upload_id, 0, b"d", part=two)
            await world.restart(how)
            assert [(await world.head(upload_id, part)).offset for part in (one, two)] == [3, 1]
            await world.append(upload_id, 1, b"ef", part=two)
            await world.reached(upload_id, Status.FINISHED)

    complete()


@virtual
async def test_a_part_whose_last_answer_was_lost_completes_the_file_at_the_pull() -> None:
    """The bytes are in, the append died before it could say so: whoever asks for the file next completes it."""
    async with running() as world:
        upload_id = await world.ticket()
        one = await part_of(world, upload_id, 3)
        await final(world, upload_id, one)
        world.disk.trouble = lambda name: None
        body = Feed(b"abc", ended=False, length=3)
        under_way = world.appending(upload_id, 0, body, part=one)
        await settle()
        await world.kill()
        under_way.cancel()
        world.start()
        assert (await world.head(upload_id)).status is Status.COMPLETE
        await world.reached(upload_id, Status.FINISHED)


@virtual
async def test_the_same_final_request_again_gets_the_same_answer() -> None:
    async with running() as world:
        world.app.answer = (200, b"wait")
        upload_id = await world.ticket()
        one = await part_of(world, upload_id, 3)
        await world.append(upload_id, 0, b"abc", part=one)
        for _ in range(2):
            for _ in range(2):
                assert (await final(world, upload_id, one)).offset == 3
            with refused(Code.UPLOAD_COMPLETE):
                await final(world, upload_id, one, one)
            assert (await world.head(upload_id, one)).offset == 3
            with refused(Code.UPLOAD_COMPLETE):
                await part_of(world, upload_id, 3)
            await world.restart()


@virtual
async def test_unknown_parts_are_refused() -> None:
    async with running() as world:
        upload_id, other = await world.ticket(), await world.ticket()
        one, strange = await part_of(world, upload_id, 3), await part_of(world, other, 3)
        with refused(Code.CONCAT_PART_UNKNOWN):
            await final(world, upload_id, one, strange)
        for call in (world.head(upload_id, strange), world.append(upload_id, 0, b"a", part=strange)):
            with refused(Code.UPLOAD_UNKNOWN):
                await call
        # And nothing is remembered of what somebody made up.
        assert set(world.engine.live[0]._turns) <= {None, one}


@virtual
async def test_parts_share_the_tickets_limit() -> None:
    async with running() as world:
        upload_id = await world.ticket(max_length=10)
        one = await part_of(world, upload_id, 6)
        deferred = await part_of(world, upload_id, None)
        with refused(Code.UPLOAD_TOO_LARGE):
            await world.append(upload_id, 0, b"12345", part=deferred)
        await world.append(upload_id, 0, b"1234", part=deferred, length=4)
        with refused(Code.UPLOAD_TOO_LARGE):
            await world.begin(upload_id, 11, partial=True)
        # A part of a former attempt gives way, oldest first.
        await part_of(world, upload_id, 6)
        with refused(Code.UPLOAD_UNKNOWN):
            await world.head(upload_id, one)
        assert (await world.head(upload_id, deferred)).offset == 4


@virtual
async def test_there_are_so_many_parts_and_no_more() -> None:
    async with running() as world:
        upload_id = await world.ticket()
        feeds = [Feed(b"a", ended=False, length=5) for _ in range(PARTS_MAX)]
        parts = [await part_of(world, upload_id, 5) for _ in range(PARTS_MAX)]
        under_way = [world.appending(upload_id, 0, feed, part=part) for feed, part in zip(feeds, parts, strict=True)]
        await settle()
        with refused(Code.TOO_MANY_PARTS):
            await part_of(world, upload_id, 5)
        feeds[3].cut(CutReason.CLIENT)
        await under_way[3]
        await part_of(world, upload_id, 5)
        with refused(Code.UPLOAD_UNKNOWN):
            await world.head(upload_id, parts[3])
        # What is being sent is left alone.
        assert [feed.was_cut for feed in feeds].count(None) == PARTS_MAX - 1
        await world.engine.cancel(upload_id, "")
        assert len(world.engine.live[0]._turns) <= PARTS_MAX + 1
        assert world.segments(upload_id) == {}
        for task in under_way:
            await task


@virtual
async def test_a_part_can_be_deleted() -> None:
    async with running() as world:
        upload_id = await world.ticket()
        one = await part_of(world, upload_id, 6)
        body = Feed(b"abc", ended=False, length=6)
        under_way = world.appending(upload_id, 0, body, part=one)
        await settle()
        await world.engine.terminate(upload_id, one)
        assert getattr(await under_way, "code", None) is Code.UPLOAD_CANCELLED
        assert body.was_cut is CutReason.ENDED
        assert world.segments(upload_id) == {}
        with refused(Code.UPLOAD_UNKNOWN):
            await world.head(upload_id, one)
        assert await world.status(upload_id) is Status.OPEN


@virtual
async def test_from_parts_back_to_one_stream() -> None:
    """A client that begins anew in another way finds nothing of the former one."""
    async with running() as world:
        world.app.answer = (200, b"wait")
        upload_id = await world.ticket()
        one = await part_of(world, upload_id, 3)
        await world.append(upload_id, 0, b"abc", part=one)
        two = await part_of(world, upload_id, 3)
        await final(world, upload_id, one, two)
        await world.begin(upload_id, 4)
        assert (await world.record(upload_id)).parts == ()
        assert world.segments(upload_id) == {}
        with refused(Code.UPLOAD_UNKNOWN):
            await world.head(upload_id, one)
        await world.append(upload_id, 0, b"wxyz")
        await world.reached(upload_id, Status.AWAITING_APP)
        assert await world.file(upload_id) == b"wxyz"


@virtual
async def test_a_stream_can_begin_after_all_parts_of_a_final_upload_were_deleted() -> None:
    async with running() as world:
        upload_id = await world.ticket()
        one = await part_of(world, upload_id, 3)
        await final(world, upload_id, one)
        await world.engine.terminate(upload_id, one)
        await world.begin(upload_id, 4)
        assert (await world.append(upload_id, 0, b"wxyz")).status is Status.COMPLETE


@pytest.mark.parametrize("how", ["kill", "stop", "evict"])
def test_from_one_stream_to_parts(how: str) -> None:
    """The bytes that came as one stream do not count any more, nor are they missed later."""

    @virtual
    async def change() -> None:
        async with running() as world:
            world.app.answer = (200, b"wait")
            upload_id = await world.ticket()
            await world.begin(upload_id, 6)
            await world.append(upload_id, 0, b"old")
            one = await part_of(world, upload_id, 3)
            await final(world, upload_id, one)
            assert (await world.head(upload_id)).offset is None
            if how == "evict":
                await world.clock.sleep(300.0)
                assert world.engine.live == []
            else:
                await world.restart(how)
            assert (await world.head(upload_id)).offset is None
            await world.append(upload_id, 0, b"new", part=one)
            await world.reached(upload_id, Status.AWAITING_APP)
            assert await world.file(upload_id) == b"new"
            assert world.segments(upload_id) == {}

    change()


# -- without a ticket


async def openly(world: World, length: int | None, *, body: bytes | None = None, **more: Any) -> Any:
    feed = Feed(body) if body is not None else None
    wanted = Creation(length, body=Append(0, feed.length) if feed else None, **more)
    terms = new_terms(finish_url="", open_creation=True)
    if "final_of" in more:
        return await world.engine.begin_openly_of(terms, wanted, more["final_of"])
    return await world.engine.begin_openly(terms, wanted, feed, AppendReport())


@virtual
async def test_an_upload_without_a_ticket_is_finished_when_it_is_whole() -> None:
    async with running() as world:
        resource = await openly(world, 3, body=b"abc")
        await world.reached(resource.upload_id, Status.FINISHED)
        assert world.app.calls == []


@virtual
async def test_a_refused_creation_leaves_nothing_behind() -> None:
    async with running() as world:
        world.disk.free_bytes = 10_000
        with refused(Code.STORAGE_FULL):
            await openly(world, 10**6)
        assert world.disk.uploads.names == {}
        assert world.engine.live == []


@virtual
async def test_uploads_without_a_ticket_are_parts_of_others() -> None:
    async with running() as world:
        one = (await openly(world, 3, body=b"abc", partial=True, concat="partial")).upload_id
        two = (await openly(world, 3, body=b"d", partial=True, concat="partial")).upload_id
        assert await world.status(one) is Status.OPEN
        whole = (await openly(world, None, final_of=(two, one, two), concat="final;x")).upload_id
        assert await world.status(whole) is Status.OPEN
        await world.restart()
        await world.append(two, 1, b"ef")
        await world.reached(whole, Status.FINISHED)
        # Parts are never handed over; they can serve again, and expire.
        assert [await world.status(part) for part in (one, two)] == [Status.OPEN] * 2
        again = await openly(world, None, final_of=(one,), concat="final;y")
        assert again.status is Status.COMPLETE
        for part in (one, two):
            await world.reached(part, Status.EXPIRED)


@virtual
async def test_only_parts_can_be_parts() -> None:
    async with running() as world:
        ticket, plain = await world.ticket(), (await openly(world, 5)).upload_id
        before = len(world.disk.uploads.names)
        for part in (ticket, plain, "1" * 55):
            with refused(Code.CONCAT_PART_UNKNOWN):
                await openly(world, None, final_of=(part,), concat="final;x")
        assert len(world.disk.uploads.names) == before
