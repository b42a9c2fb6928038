"""The life of an upload, from its ticket to each of its ends."""

from __future__ import annotations

from typing import Any

import pytest

from incomingd.core.errors import Code, Refusal
from incomingd.core.status import Status
from incomingd.core.tenure import ClaimKind
from incomingd.engine.options import Durability, EngineOptions
from incomingd.log import events
from incomingd.storage.body import CutReason
from tests.engine.logs import Logged
from tests.engine.world import DAY_S, Feed, Trouble, World, refused, running, sha1
from tests.support.virtual import settle, virtual


@virtual
async def test_a_ticket_is_born_parked_at_offset_0() -> None:
    async with running() as world:
        upload_id = await world.ticket(length=7)
        record = await world.record(upload_id)
        assert (record.status, record.owner, record.epoch) == (Status.OPEN, None, 0)
        assert record.content.map == ()
        assert record.expires_at - record.created_at == world.options.expires_in_s


@pytest.mark.parametrize("durability", Durability)
def test_from_the_ticket_to_the_web_app(durability: Durability) -> None:
    @virtual
    async def life() -> None:
        async with running(options=EngineOptions(durability=durability)) as world:
            upload_id = await world.ticket()
            begun = await world.begin(upload_id, 11, metadata="filename YQ==", pairs=(("filename", "a"),))
            assert (begun.offset, begun.length, begun.length_deferred) == (0, 11, False)
            part_way = await world.append(upload_id, 0, b"hello ")
            assert (part_way.offset, part_way.bytes_taken, part_way.status) == (6, 6, Status.OPEN)
            assert (await world.head(upload_id)).offset == 6
            whole = await world.append(upload_id, 6, b"world")
            assert (whole.offset, whole.status, whole.expires_at) == (11, Status.COMPLETE, None)
            record = await world.reached(upload_id, Status.FINISHED)
            assert record.claim_kind is ClaimKind.ENDED
            # First pull, complete, ended: an undisturbed upload makes three claims.
            assert record.epoch == 3
            assert world.app.types == ["upload.complete"]
            await settle()
            assert world.segments(upload_id) == {}
            assert await world.file(upload_id) is None

    life()


@virtual
async def test_the_file_is_whole_while_the_web_app_is_asked() -> None:
    async with running() as world:
        world.app.answer = (200, b"wait")
        upload_id = await world.uploaded(b"hello world")
        record = await world.reached(upload_id, Status.AWAITING_APP)
        assert record.joined
        assert await world.file(upload_id) == b"hello world"
        assert world.segments(upload_id) == {}


@virtual
async def test_a_file_that_should_be_kept_is_kept() -> None:
    async with running() as world:
        upload_id = await world.uploaded(b"abc", after_handover="keep")
        await world.reached(upload_id, Status.FINISHED)
        assert await world.file(upload_id) == b"abc"
        await world.clock.sleep(8 * DAY_S)
        assert await world.volume.read(upload_id) is None
        assert world.disk.files.names[upload_id].data == b"abc"


@virtual
async def test_an_empty_file_completes_when_it_begins() -> None:
    async with running() as world:
        upload_id = await world.ticket()
        begun = await world.begin(upload_id, 0)
        assert (begun.offset, begun.status) == (0, Status.COMPLETE)
        await world.reached(upload_id, Status.FINISHED)


@virtual
async def test_an_empty_tickets_upload_does_not_complete_before_a_client_begins() -> None:
    async with running() as world:
        upload_id = await world.ticket(length=0)
        assert (await world.head(upload_id)).status is Status.OPEN
        await world.begin(upload_id, 0)
        await world.reached(upload_id, Status.FINISHED)


@virtual
async def test_a_deferred_length_may_come_with_any_bytes() -> None:
    async with running() as world:
        upload_id = await world.ticket()
        begun = await world.begin(upload_id, None)
        assert (begun.length, begun.length_deferred) == (None, True)
        await world.append(upload_id, 0, b"abc")
        told = await world.append(upload_id, 3, b"de", length=7)
        assert (told.offset, told.length, told.length_deferred) == (5, 7, False)
        assert (await world.append(upload_id, 5, b"fg")).status is Status.COMPLETE
        await world.reached(upload_id, Status.FINISHED)


@virtual
async def test_a_deferred_length_may_come_at_the_end_without_bytes() -> None:
    async with running() as world:
        upload_id = await world.ticket()
        await world.begin(upload_id, None)
        await world.append(upload_id, 0, b"abc")
        # Even after the daemon has been away.
        await world.restart()
        assert (await world.append(upload_id, 3, b"", length=3)).status is Status.COMPLETE
        await world.reached(upload_id, Status.FINISHED)


@virtual
async def test_a_length_that_was_told_stays() -> None:
    async with running() as world:
        upload_id = await world.ticket()
        await world.begin(upload_id, 5)
        with refused(Code.LENGTH_DIFFERS):
            await world.append(upload_id, 0, b"abc", length=6)
        with refused(Code.LENGTH_EXCEEDED):
            await world.append(upload_id, 0, b"abcdef")
        other = await world.ticket()
        await world.begin(other, None)
        await world.append(other, 0, b"abc")
        with refused(Code.LENGTH_EXCEEDED):
            await world.append(other, 3, b"", length=2)
        with refused(Code.LENGTH_EXCEEDED):
            await world.append(other, 3, b"xx", length=4)
        assert [(await world.head(name)).offset for name in (upload_id, other)] == [0, 3]


@virtual
async def test_bytes_beyond_the_length_are_not_kept() -> None:
    async with running() as world:
        upload_id = await world.ticket()
        await world.begin(upload_id, 5)
        endless = Feed(b"abc", b"defgh", ended=False)
        with refused(Code.LENGTH_EXCEEDED) as refusal:
            await world.append(upload_id, 0, endless)
        # What fits is the whole file: it was sent, and it is there.
        assert refusal.value.offset == 5
        await world.reached(upload_id, Status.FINISHED)


@pytest.mark.parametrize(
    "terms, length, code",
    [
        ({"length": 5}, 4, Code.LENGTH_DIFFERS),
        ({"length": 5}, 6, Code.LENGTH_DIFFERS),
        ({"max_length": 5}, 6, Code.UPLOAD_TOO_LARGE),
        ({}, 101, Code.UPLOAD_TOO_LARGE),
    ],
)
def test_a_length_that_the_ticket_or_the_operator_does_not_allow(
    terms: dict[str, Any], length: int, code: Code
) -> None:
    @virtual
    async def attempt() -> None:
        async with running(options=EngineOptions(upload_bytes_max=100)) as world:
            upload_id = await world.ticket(**terms)
            with refused(code):
                await world.begin(upload_id, length)
            # Nor by the back door.
            await world.begin(upload_id, None)
            with refused(code):
                await world.append(upload_id, 0, b"", length=length)
            assert (await world.record(upload_id)).content.length in (None, 5)

    attempt()


@virtual
async def test_an_upload_of_unknown_length_ends_at_the_tickets_limit() -> None:
    async with running() as world:
        upload_id = await world.ticket(max_length=5)
        await world.begin(upload_id, None)
        with refused(Code.UPLOAD_TOO_LARGE):
            await world.append(upload_id, 0, b"abcdef")
        with refused(Code.LENGTH_EXCEEDED):
            await world.append(upload_id, 0, Feed(b"abcdef", ended=False))
        assert (await world.head(upload_id)).offset == 5
        assert await world.status(upload_id) is Status.OPEN


@virtual
async def test_a_wrong_offset_is_told_the_right_one() -> None:
    async with running() as world:
        upload_id = await world.ticket()
        await world.begin(upload_id, 10)
        await world.append(upload_id, 0, b"abc")
        for offset in (0, 2, 4, 10**17):
            with refused(Code.OFFSET_MISMATCH) as refusal:
                await world.append(upload_id, offset, b"x")
            assert refusal.value.offset == 3


@virtual
async def test_a_lost_answer_is_repeated() -> None:
    """An append of nothing at the offset tells it again, before and after completion."""
    async with running() as world:
        world.app.answer = (200, b"wait")
        upload_id = await world.ticket()
        await world.begin(upload_id, 3)
        assert (await world.append(upload_id, 0, b"")).offset == 0
        await world.append(upload_id, 0, b"abc")
        for _ in range(2):
            again = await world.append(upload_id, 3, b"")
            assert (again.offset, again.status.whole) == (3, True)
            assert (await world.head(upload_id)).offset == 3
            await world.restart()


# -- checksums


@virtual
async def test_bytes_that_match_their_checksum_count() -> None:
    async with running() as world:
        upload_id = await world.ticket()
        await world.begin(upload_id, 6)
        assert (await world.append(upload_id, 0, b"abc", checksum=sha1(b"abc"))).offset == 3
        assert (await world.append(upload_id, 3, b"def", checksum=sha1(b"def"))).status is Status.COMPLETE


@virtual
async def test_bytes_that_do_not_match_their_checksum_are_gone() -> None:
    async with running() as world:
        upload_id = await world.ticket()
        await world.begin(upload_id, 6)
        await world.append(upload_id, 0, b"abc")
        with refused(Code.CHECKSUM_MISMATCH) as refusal:
            await world.append(upload_id, 3, b"dex", checksum=sha1(b"def"))
        assert refusal.value.offset == 3
        assert world.segments(upload_id) == {"bytes.1": 3}
        assert (await world.append(upload_id, 3, b"def", checksum=sha1(b"def"))).status is Status.COMPLETE
        await world.reached(upload_id, Status.FINISHED)


@virtual
async def test_a_cut_body_under_a_checksum_leaves_nothing() -> None:
    async with running() as world:
        upload_id = await world.ticket()
        await world.begin(upload_id, 6)
        body = Feed(b"abc", ended=False, length=6)
        under_way = world.appending(upload_id, 0, body, checksum=sha1(b"abcdef"))
        await settle()
        body.cut(CutReason.CLIENT)
        await under_way
        assert (await world.head(upload_id)).offset == 0


# -- ends


@virtual
async def test_a_cancelled_upload_is_gone_and_the_web_app_hears_of_it() -> None:
    async with running() as world:
        upload_id = await world.ticket()
        await world.begin(upload_id, 10)
        body = Feed(b"abc", ended=False, length=10)
        under_way = world.appending(upload_id, 0, body)
        await settle()
        view = await world.engine.cancel(upload_id, "not wanted")
        assert view.record.status is Status.CANCELLED
        assert body.was_cut is CutReason.ENDED
        assert getattr(await under_way, "code", None) is Code.UPLOAD_CANCELLED
        assert world.segments(upload_id) == {}
        for _ in range(2):
            # A repeat gets the same answer, also from the record alone.
            assert (await world.engine.cancel(upload_id, "again")).record.failure == view.record.failure
            with refused(Code.UPLOAD_CANCELLED):
                await world.append(upload_id, 3, b"x")
            with refused(Code.UPLOAD_CANCELLED):
                await world.head(upload_id)
            with refused(Code.UPLOAD_CANCELLED):
                await world.begin(upload_id, 10)
            await settle()
            assert world.app.types == ["upload.cancelled"]
            await world.restart()
        assert view.record.failure is not None
        assert view.record.failure.message == "not wanted"


@virtual
async def test_who_is_cut_for_an_end_that_comes_to_nothing_goes_on(logged: Logged) -> None:
    """It is not told of an end before that is claimed."""
    logged.expect(events.VOLUME_FAILED)
    async with running() as world:
        upload_id = await world.ticket()
        await world.begin(upload_id, 10)
        body = Feed(b"abc", ended=False, length=10)
        under_way = world.appending(upload_id, 0, body)
        await settle()
        world.disk.trouble = lambda name: Trouble() if name == "claim" else None
        with refused(Code.STORAGE_UNAVAILABLE):
            await world.engine.cancel(upload_id, "not wanted")
        told = await under_way
        assert isinstance(told, Refusal)
        assert (told.code, told.offset) == (Code.NOT_READY, 3)
        world.disk.trouble = None
        assert (await world.append(upload_id, 3, b"defghij")).status is Status.COMPLETE


@virtual
async def test_a_client_may_cancel_where_the_ticket_lets_it() -> None:
    async with running() as world:
        upload_id, other = await world.ticket(), await world.ticket(client_cancel=False)
        await world.engine.terminate(upload_id, None)
        assert await world.status(upload_id) is Status.CANCELLED
        with refused(Code.CLIENT_CANCEL_REFUSED):
            await world.engine.terminate(other, None)
        assert await world.status(other) is Status.OPEN
        with refused(Code.UPLOAD_CANCELLED):
            await world.engine.terminate(upload_id, None)


@virtual
async def test_a_complete_upload_can_be_cancelled_until_the_web_app_is_asked() -> None:
    async with running(handover_runs=False) as world:
        upload_id = await world.uploaded(b"abc")
        await settle()
        await world.engine.cancel(upload_id, "")
        assert await world.file(upload_id) is None
        assert world.segments(upload_id) == {}


@virtual
async def test_what_is_being_handed_over_is_not_cancelled() -> None:
    async with running() as world:
        world.app.takes_s = 30.0
        upload_id = await world.uploaded(b"abc")
        await settle()
        for cancel in (world.engine.cancel(upload_id, ""), world.engine.terminate(upload_id, None)):
            with refused(Code.HANDING_OVER):
                await cancel
        await world.reached(upload_id, Status.FINISHED)
        with refused(Code.TOO_LATE):
            await world.engine.cancel(upload_id, "")


@virtual
async def test_an_upload_that_waits_too_long_expires() -> None:
    async with running() as world:
        upload_id = await world.ticket(expires_in_s=3600.0)
        await world.begin(upload_id, 10)
        body = Feed(b"abc", ended=False, length=10)
        under_way = world.appending(upload_id, 0, body)
        await world.clock.sleep(3590.0)
        assert await world.status(upload_id) is Status.OPEN
        await world.clock.sleep(10.0 + world.upkeep_interval_s)
        record = await world.record(upload_id)
        assert (record.status, record.failure and record.failure.code) == (Status.EXPIRED, "upload_expired")
        assert body.was_cut is CutReason.EXPIRING
        await under_way
        with refused(Code.UPLOAD_EXPIRED):
            await world.head(upload_id)
        assert world.segments(upload_id) == {}
        assert world.app.types == ["upload.expired"]


@virtual
async def test_an_upload_whose_length_was_never_told_expires_by_that_name() -> None:
    async with running() as world:
        upload_id = await world.ticket(expires_in_s=3600.0)
        await world.begin(upload_id, None)
        await world.append(upload_id, 0, b"abc")
        record = await world.reached(upload_id, Status.EXPIRED)
        assert record.failure is not None
        assert record.failure.code == "length_unknown"


@virtual
async def test_a_complete_upload_does_not_expire(logged: Logged) -> None:
    logged.expect(events.HANDOVER_ATTEMPTED, events.HANDOVER_GIVEN_UP)
    async with running() as world:
        world.app.answer = (503, b"")
        upload_id = await world.uploaded(b"abc", expires_in_s=3600.0)
        await world.clock.sleep(4 * DAY_S)
        assert await world.status(upload_id) is Status.COMPLETE
        assert await world.file(upload_id) == b"abc"


@virtual
async def test_bytes_that_the_volume_has_lost_end_the_upload(logged: Logged) -> None:
    logged.expect(events.UPLOAD_LOST)
    async with running() as world:
        upload_id = await world.ticket()
        await world.begin(upload_id, 10)
        await world.append(upload_id, 0, b"abcdef")
        await world.kill()
        world.disk.uploads.names[upload_id].names["bytes.1"].cut(5)
        world.start()
        with refused(Code.UPLOAD_LOST):
            await world.head(upload_id)
        record = await world.record(upload_id)
        assert (record.status, record.failure and record.failure.code) == (Status.LOST, "upload_lost")
        await settle()
        assert world.app.types == ["upload.lost"]
        assert world.segments(upload_id) == {}


@virtual
async def test_what_a_page_waits_for_is_told_when_it_happens() -> None:
    async with running() as world:
        world.app.takes_s = 5.0
        upload_id = await world.ticket()
        await world.begin(upload_id, 3)
        began_s = world.clock.monotonic()
        waiting = world.engine.wait(upload_id, 25.0, lambda view: view.record.status)
        sending = world.clock.spawn(_send_later(world, upload_id), name="client")
        view = await waiting
        await sending
        assert view.record.status is not Status.OPEN
        assert world.clock.monotonic() - began_s < 11.0
        began_s = world.clock.monotonic()
        await world.reached(upload_id, Status.FINISHED)
        await world.engine.wait(upload_id, 25.0, lambda view: view.record.status)
        assert world.clock.monotonic() - began_s < 5.1 + 25.1


async def _send_later(world: World, upload_id: str) -> None:
    await world.clock.sleep(10.0)
    await world.append(upload_id, 0, b"abc")


@virtual
async def test_looking_owns_nothing() -> None:
    """A page that polls, or a list, neither pulls nor pre-empts."""
    async with running() as world:
        upload_id = await world.ticket()
        await world.view(upload_id)
        assert (await world.record(upload_id)).epoch == 0
        await world.begin(upload_id, 10)
        body = Feed(b"abc", ended=False, length=10)
        under_way = world.appending(upload_id, 0, body)
        await settle()
        assert (await world.view(upload_id)).offset == 3
        assert body.was_cut is None
        body.cut(CutReason.CLIENT)
        await under_way


@pytest.mark.parametrize(
    "upload_id", ["", "short", "x" * 55, "1" * 43 + "Volume000002", "../../etc/passwd", "1" * 43 + "Volume000001"]
)
def test_what_was_never_made_is_unknown(upload_id: str) -> None:
    @virtual
    async def ask() -> None:
        async with running() as world:
            for call in (world.head(upload_id), world.append(upload_id, 0, b"a"), world.view(upload_id)):
                with refused(Code.UPLOAD_UNKNOWN):
                    await call

    ask()
