"""The hand-over, over virtual days: at least once, with one id; no file is deleted because a callback failed."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import Any

import pytest

from incomingd.core.errors import Code
from incomingd.core.record import Record
from incomingd.core.status import Status
from incomingd.engine.options import EngineOptions
from incomingd.handover import HandoverOptions
from incomingd.log import events
from incomingd.storage.volume import VolumeFullError
from incomingd.wire.backend import ChangeDocument
from incomingd.wire.callback import Answer
from tests.engine.logs import Logged
from tests.engine.world import DAY_S, Trouble, World, refused, running
from tests.support.virtual import settle, virtual

DOWN = Answer("error", error="connecting: Connection refused")


def gaps(world: World) -> list[float]:
    times = [at for at, _, _ in world.app.calls]
    return [later - earlier for earlier, later in itertools.pairwise(times)]


async def stays(world: World, upload_id: str, data: bytes) -> Record:
    """The upload is complete and its file is where it is."""
    record = await world.record(upload_id)
    assert record.status is Status.COMPLETE
    assert await world.file(upload_id) == data
    return record


@virtual
async def test_done_is_done() -> None:
    async with running() as world:
        world.app.answer = (200, b'{"result": "done", "message": "Thanks.", "client_data": {"id": 7}}')
        upload_id = await world.uploaded(b"abc")
        record = await world.reached(upload_id, Status.FINISHED)
        delivery = record.handover.delivery
        assert delivery is not None
        assert (delivery.attempts, delivery.delivered, delivery.last_error) == (1, True, None)
        assert (record.handover.message, record.handover.client_data) == ("Thanks.", {"id": 7})
        assert record.handover.download_token is None
        await world.clock.sleep(DAY_S)
        assert len(world.app.calls) == 1


@virtual
async def test_a_refused_file_is_deleted_and_the_page_learns_why() -> None:
    async with running() as world:
        world.app.answer = (200, b'{"result": "refuse", "message": "No cats, please.", "client_data": [1]}')
        upload_id = await world.uploaded(b"abc")
        record = await world.reached(upload_id, Status.FAILED)
        assert record.failure is not None
        assert (record.failure.code, record.failure.message) == ("refused", "No cats, please.")
        assert record.handover.client_data == [1]
        await settle()
        assert await world.file(upload_id) is None
        # Who has said it need not be told.
        assert world.app.types == ["upload.complete"]
        with refused(Code.UPLOAD_FAILED):
            await world.head(upload_id)


@pytest.mark.parametrize(
    "answer",
    [(500, b""), (404, b"done"), (302, b""), (200, b""), (200, b"maybe"), (200, b'{"result": 1}'), DOWN],
    ids=str,
)
def test_whatever_is_no_answer_is_tried_again(answer: Any, logged: Logged) -> None:
    logged.expect(events.HANDOVER_ATTEMPTED)

    @virtual
    async def retry() -> None:
        async with running() as world:
            world.app.script.extend([answer] * 3)
            upload_id = await world.uploaded(b"abc")
            record = await world.reached(upload_id, Status.FINISHED)
            delivery = record.handover.delivery
            assert delivery is not None
            assert delivery.attempts == len(world.app.calls) == 4
            assert len(set(world.app.ids_of("upload.complete"))) == 1
            assert world.app.ids_of("upload.complete")[0] == delivery.webhook_id

    retry()


@virtual
async def test_attempts_come_less_and_less_often_and_end(logged: Logged) -> None:
    """Doubling from a second to an hour, at most half of each taken away by chance, for three days."""
    logged.expect(events.HANDOVER_ATTEMPTED, events.HANDOVER_GIVEN_UP)
    async with running() as world:
        world.app.answer = DOWN
        upload_id = await world.uploaded(b"abc")
        began_s = world.clock.monotonic()
        await world.clock.sleep(5 * DAY_S)
        record = await stays(world, upload_id, b"abc")
        delivery = record.handover.delivery
        assert delivery is not None
        assert (delivery.given_up, delivery.next_attempt_at) == (True, None)
        assert delivery.last_error == DOWN.error
        for number, gap_s in enumerate(gaps(world), 1):
            full_s = min(2.0 ** (number - 1), 3600.0)
            assert full_s / 2 <= gap_s <= full_s + 0.1
        assert len(set(gaps(world)[13:])) > 10
        last_s = world.app.calls[-1][0] - began_s
        assert 3 * DAY_S <= last_s <= 3 * DAY_S + 3600.0
        assert len(logged.of(events.HANDOVER_GIVEN_UP)) == 1
        # What was given up is not taken up by a restart.
        world.app.calls.clear()
        await world.restart("stop")
        await world.clock.sleep(DAY_S)
        assert world.app.calls == []
        await stays(world, upload_id, b"abc")


@virtual
async def test_gone_ends_the_attempts_and_keeps_the_file(logged: Logged) -> None:
    logged.expect(events.HANDOVER_ATTEMPTED, events.HANDOVER_GIVEN_UP)
    async with running() as world:
        world.app.answer = (410, b"")
        upload_id = await world.uploaded(b"abc")
        await world.clock.sleep(DAY_S)
        assert len(world.app.calls) == 1
        record = await stays(world, upload_id, b"abc")
        assert record.handover.delivery is not None
        assert record.handover.delivery.given_up


@virtual
async def test_redelivered_it_is_the_same_callback(logged: Logged) -> None:
    logged.expect(events.HANDOVER_ATTEMPTED, events.HANDOVER_GIVEN_UP)
    async with running() as world:
        world.app.answer = (410, b"")
        upload_id = await world.uploaded(b"abc")
        await world.clock.sleep(10 * DAY_S)
        await world.engine.redeliver(upload_id)
        await settle()
        assert len(world.app.calls) == 2
        # The time to give up begins anew.
        world.app.answer = DOWN
        await world.engine.redeliver(upload_id)
        await world.clock.sleep(3600.0)
        assert len(world.app.calls) > 8
        world.app.answer = (200, b"done")
        await world.reached(upload_id, Status.FINISHED)
        assert len(set(world.app.ids_of("upload.complete"))) == 1
        with refused(Code.NOTHING_TO_DELIVER):
            await world.engine.redeliver(upload_id)


@virtual
async def test_redelivering_does_not_wait_for_the_next_attempt(logged: Logged) -> None:
    logged.expect(events.HANDOVER_ATTEMPTED)
    async with running() as world:
        world.app.answer = DOWN
        upload_id = await world.uploaded(b"abc")
        await world.clock.sleep(6 * 3600.0)
        world.app.answer = (200, b"done")
        await world.engine.redeliver(upload_id)
        await world.reached(upload_id, Status.FINISHED, within_s=1.0)


@virtual
async def test_nothing_is_redelivered_of_what_has_nothing() -> None:
    async with running() as world:
        upload_id = await world.ticket()
        with refused(Code.NOTHING_TO_DELIVER):
            await world.engine.redeliver(upload_id)
        world.app.answer = (200, b"wait")
        waiting = await world.uploaded(b"abc")
        await world.reached(waiting, Status.AWAITING_APP)
        with refused(Code.NOTHING_TO_DELIVER):
            await world.engine.redeliver(waiting)


@pytest.mark.parametrize("how", ["kill", "stop", "lose_power"])
def test_an_app_that_was_down_gets_the_file_after_a_restart(how: str, logged: Logged) -> None:
    logged.expect(events.HANDOVER_ATTEMPTED)

    @virtual
    async def wait() -> None:
        async with running() as world:
            world.app.answer = DOWN
            upload_id = await world.uploaded(b"abc")
            for _ in range(4):
                await world.clock.sleep(3600.0)
                await world.restart(how)
            calls = len(world.app.calls)
            world.app.answer = (200, b"done")
            await world.reached(upload_id, Status.FINISHED, within_s=3700.0)
            assert len(world.app.calls) == calls + 1
            assert len(set(world.app.ids_of("upload.complete"))) == 1

    wait()


@virtual
async def test_a_callback_that_was_under_way_at_a_kill_is_made_again() -> None:
    """The app sees it twice, with one id: at least once, never exactly once."""
    async with running() as world:
        world.app.takes_s = 30.0
        upload_id = await world.uploaded(b"abc")
        await world.clock.sleep(5.0)
        assert await world.status(upload_id) is Status.HANDING_OVER
        await world.restart()
        assert await world.status(upload_id) is Status.HANDING_OVER
        await world.reached(upload_id, Status.FINISHED, within_s=60.0)
        assert len(world.app.calls) == 2
        assert len(set(world.app.ids_of("upload.complete"))) == 1


@pytest.mark.parametrize("answer, status", [(b"done", Status.FINISHED), (b"wait", Status.AWAITING_APP)])
def test_an_answer_that_could_not_be_stored_is_asked_for_again(answer: bytes, status: Status, logged: Logged) -> None:
    """Without spinning: the disk is full, and the app is asked every few seconds at most."""
    logged.expect(events.VOLUME_FAILED, events.UPKEEP_DELAYED, events.HANDOVER_ATTEMPTED)

    @virtual
    async def ask() -> None:
        async with running() as world:
            world.app.answer = (200, answer)
            world.app.hold = asyncio.Event()
            upload_id = await world.uploaded(b"abc")
            await settle()
            world.disk.trouble = lambda name: Trouble(VolumeFullError) if name == "write" else None
            world.app.hold.set()
            await world.clock.sleep(600.0)
            assert len(world.app.calls) <= 1 + 600 / 5
            assert world.disk.calls < 3000
            world.disk.trouble = None
            await world.reached(upload_id, status, within_s=60.0)
            assert len(set(world.app.ids_of("upload.complete"))) == 1

    ask()


@virtual
async def test_no_more_callbacks_at_once_than_are_allowed() -> None:
    async with running(handover=HandoverOptions(concurrency=3)) as world:
        world.app.hold = asyncio.Event()
        uploads = [await world.uploaded(b"abc") for _ in range(10)]
        await world.clock.sleep(300.0)
        # One app never gets all slots (test_slots.py).
        assert (len(world.app.calls), world.handover.under_way) == (2, 2)
        world.app.hold.set()
        for upload_id in uploads:
            await world.reached(upload_id, Status.FINISHED)
        assert len(world.app.calls) == 10


@virtual
async def test_a_slow_app_holds_up_no_other() -> None:
    async with running() as world:
        world.app.hold = asyncio.Event()
        slow = await world.uploaded(b"abc")
        await settle()
        held, world.app.hold = world.app.hold, None
        quick = await world.uploaded(b"abc")
        await world.reached(quick, Status.FINISHED, within_s=1.0)
        assert await world.status(slow) is Status.HANDING_OVER
        held.set()
        await world.reached(slow, Status.FINISHED)


@pytest.mark.parametrize("jump_s", [-10 * DAY_S, -3600.0, 3600.0, 10 * DAY_S])
def test_a_wall_clock_that_jumps_stops_nothing(jump_s: float, logged: Logged) -> None:
    logged.expect(events.HANDOVER_ATTEMPTED)

    @virtual
    async def jump() -> None:
        async with running() as world:
            world.app.answer = DOWN
            upload_id = await world.uploaded(b"abc")
            await world.clock.sleep(3600.0)
            world.app.answer = (200, b"done")
            world.clock.jumped_s += jump_s
            await world.reached(upload_id, Status.FINISHED, within_s=3700.0)

    jump()


# -- wait, and confirm


@virtual
async def test_an_app_that_waits_confirms_later() -> None:
    async with running() as world:
        world.app.answer = (200, b'{"result": "wait", "message": "Scanning.", "client_data": 1}')
        upload_id = await world.uploaded(b"abc")
        record = await world.reached(upload_id, Status.AWAITING_APP)
        assert (record.handover.message, record.handover.client_data) == ("Scanning.", 1)
        assert record.handover.download_token is not None
        await world.restart()
        view = await world.engine.confirm(upload_id, done=True, message="Clean.", client_data=2)
        assert view.record.status is Status.FINISHED
        assert (view.record.handover.message, view.record.handover.client_data) == ("Clean.", 2)
        await settle()
        assert await world.file(upload_id) is None
        await world.clock.sleep(DAY_S)
        assert world.app.types == ["upload.complete"]


@virtual
async def test_an_app_may_refuse_after_it_has_waited() -> None:
    async with running() as world:
        world.app.answer = (200, b"wait")
        upload_id = await world.uploaded(b"abc")
        await world.reached(upload_id, Status.AWAITING_APP)
        view = await world.engine.confirm(upload_id, done=False, message="A virus.", client_data=None)
        assert view.record.status is Status.FAILED
        assert view.record.failure is not None
        assert (view.record.failure.code, view.record.failure.message) == ("refused", "A virus.")
        assert await world.file(upload_id) is None


@pytest.mark.parametrize("done", [True, False])
def test_a_confirmation_whose_answer_was_lost_is_repeated(done: bool) -> None:
    @virtual
    async def confirm() -> None:
        async with running() as world:
            world.app.answer = (200, b"wait")
            upload_id = await world.uploaded(b"abc")
            await world.reached(upload_id, Status.AWAITING_APP)
            first = await world.engine.confirm(upload_id, done=done, message="m", client_data=1)
            for _ in range(2):
                again = await world.engine.confirm(upload_id, done=done, message="m", client_data=1)
                assert again.record.status is first.record.status
                # The other thing cannot be said any more.
                with refused(Code.NOT_WAITING):
                    await world.engine.confirm(upload_id, done=not done, message="m", client_data=1)
                await world.restart()

    confirm()


@virtual
async def test_an_app_may_confirm_before_its_wait_was_read() -> None:
    async with running() as world:
        world.app.answer = (200, b"wait")
        world.app.hold = asyncio.Event()
        upload_id = await world.uploaded(b"abc")
        await settle()
        confirming = asyncio.ensure_future(
            world.engine.confirm(upload_id, done=True, message="quick", client_data=None)
        )
        await world.clock.sleep(2.0)
        assert not confirming.done()
        world.app.hold.set()
        assert (await confirming).record.status is Status.FINISHED


@virtual
async def test_a_confirmation_of_what_is_not_waiting_is_refused() -> None:
    async with running(options=EngineOptions(hold_s=10.0)) as world:
        world.app.hold = asyncio.Event()
        opened, asked = await world.ticket(), await world.uploaded(b"abc")
        await settle()
        for upload_id in (opened, asked):
            with refused(Code.NOT_WAITING):
                await world.engine.confirm(upload_id, done=True, message=None, client_data=None)
        world.app.hold.set()
        await world.reached(asked, Status.FINISHED)


@pytest.mark.parametrize(
    "answer, within_s", [(b"wait", 600.0), (b'{"result": "wait", "confirm_within_s": 7200}', 7200.0)]
)
@pytest.mark.parametrize("restart", [False, True])
def test_an_app_that_never_confirms_is_told_that_it_failed(answer: bytes, within_s: float, restart: bool) -> None:
    @virtual
    async def wait() -> None:
        async with running() as world:
            world.app.script.append((200, answer))
            world.app.answer = (200, b"")
            upload_id = await world.uploaded(b"abc")
            await world.reached(upload_id, Status.AWAITING_APP)
            if restart:
                await world.restart()
            await world.clock.sleep(within_s - 60.0)
            assert await world.status(upload_id) is Status.AWAITING_APP
            await world.clock.sleep(180.0)
            record = await world.record(upload_id)
            assert (record.status, record.failure and record.failure.code) == (Status.FAILED, "confirm_timeout")
            assert world.app.types == ["upload.complete", "upload.failed"]
            # It never said that it does not want it.
            assert await world.file(upload_id) == b"abc"

    wait()


# -- what else it is told


@pytest.mark.parametrize("how", ["cancelled", "expired", "lost", "started"])
def test_each_event_is_told_once_it_is_heard(how: str, logged: Logged) -> None:
    """With an id of its own, again and again until a 2xx; across restarts."""
    logged.expect(events.NOTIFICATION_ATTEMPTED, events.UPLOAD_LOST)

    @virtual
    async def tell() -> None:
        async with running() as world:
            world.app.answer = DOWN
            upload_id = await world.ticket(events=("started",) if how == "started" else (), expires_in_s=7200.0)
            await world.begin(upload_id, 10)
            await world.append(upload_id, 0, b"abc")
            if how == "cancelled":
                await world.engine.cancel(upload_id, "")
            elif how == "expired":
                await world.clock.sleep(7300.0)
            elif how == "lost":
                await world.kill()
                world.disk.uploads.names[upload_id].names["bytes.1"].cut(1)
                world.start()
                with refused(Code.UPLOAD_LOST):
                    await world.head(upload_id)
            await world.clock.sleep(60.0)
            await world.restart()
            await world.clock.sleep(600.0)
            assert set(world.app.types) == {f"upload.{how}"}
            before = len(world.app.calls)
            assert before > 4
            world.app.answer = (204, b"")
            await world.clock.sleep(3000.0)
            assert len(world.app.calls) == before + 1
            assert len(set(world.app.ids_of(f"upload.{how}"))) == 1

    tell()


@virtual
async def test_a_notification_ends_with_gone_and_can_be_redelivered(logged: Logged) -> None:
    logged.expect(events.NOTIFICATION_ATTEMPTED)
    async with running() as world:
        world.app.answer = (410, b"")
        upload_id = await world.ticket()
        await world.engine.cancel(upload_id, "")
        await world.clock.sleep(5 * DAY_S)
        assert len(world.app.calls) == 1
        world.app.answer = DOWN
        await world.engine.redeliver(upload_id)
        await world.clock.sleep(600.0)
        assert len(world.app.calls) > 5
        world.app.answer = (200, b"")
        await world.clock.sleep(3600.0)
        assert len(set(world.app.ids_of("upload.cancelled"))) == 1
        record = await world.record(upload_id)
        assert [n.delivered for n in record.notifications] == [True]


@virtual
async def test_one_notification_that_is_not_heard_holds_up_no_other(logged: Logged) -> None:
    logged.expect(events.NOTIFICATION_ATTEMPTED)
    async with running() as world:
        world.app.answer = DOWN
        upload_id = await world.ticket(events=("started",))
        await world.begin(upload_id, 3)
        await world.clock.sleep(6 * 3600.0)
        world.app.script.append(DOWN)
        world.app.answer = (200, b"done")
        # The first is in the middle of a long wait when the second one falls due.
        calls, volume_calls = len(world.app.calls), world.disk.calls
        await world.engine.cancel(upload_id, "")
        await settle()
        assert world.app.types[calls:] == ["upload.cancelled"]
        await world.clock.sleep(30.0)
        assert world.disk.calls - volume_calls < 100
        await world.clock.sleep(3700.0)
        assert sorted(world.app.types[calls:]) == ["upload.cancelled", "upload.cancelled", "upload.started"]


@virtual
async def test_the_file_does_not_wait_for_a_notification_that_is_not_heard(logged: Logged) -> None:
    logged.expect(events.NOTIFICATION_ATTEMPTED)
    async with running() as world:
        world.app.answer = DOWN
        upload_id = await world.ticket(events=("started",))
        await world.begin(upload_id, 3)
        await world.clock.sleep(3600.0)
        world.app.answer = (200, b"done")
        await world.append(upload_id, 0, b"abc")
        await world.reached(upload_id, Status.FINISHED, within_s=10.0)


@virtual
async def test_a_record_that_somebody_has_removed_is_not_asked_for_for_ever(logged: Logged) -> None:
    logged.expect(events.HANDOVER_ATTEMPTED, events.UPKEEP_DELAYED)
    async with running() as world:
        world.app.answer = DOWN
        upload_id = await world.uploaded(b"abc")
        await world.clock.sleep(3600.0)
        await world.restart()
        await world.upkeep.first_pass_done.wait()
        world.disk.uploads.drop(upload_id)
        await world.clock.sleep(DAY_S)
        assert len(logged.of(events.UPKEEP_DELAYED)) <= 2
        assert world.handover._planned == {}


@virtual
async def test_the_form_of_0_1_goes_the_same_way(logged: Logged) -> None:
    logged.expect(events.HANDOVER_ATTEMPTED)
    async with running() as world:
        world.app.script.extend([(500, b""), (200, b"wait")])
        upload_id = await world.uploaded(b"abc", callback_format="form", form_secret="mine")
        await world.reached(upload_id, Status.AWAITING_APP)
        assert {call.headers["Content-Type"] for _, _, call in world.app.calls} == {"application/x-www-form-urlencoded"}
        assert b"backendSecret=mine&cancelled=no" in world.app.calls[-1][2].body


@virtual
async def test_the_download_url_is_the_backends() -> None:
    options = HandoverOptions(backend_base_url="http://10.0.0.1:4001", public_base_url="https://up.example")
    async with running(handover=options) as world:
        world.app.answer = (200, b"wait")
        upload_id = await world.uploaded(b"abc")
        record = await world.reached(upload_id, Status.AWAITING_APP)
        data = json.loads(world.app.calls[0][2].body)["data"]
        token = record.handover.download_token
        base = "http://10.0.0.1:4001/incoming/1.0/backend"
        assert data["download_url"] == f"{base}/uploads/{upload_id}/file?token={token}"
        assert data["upload_url"] == f"https://up.example/incoming/1.0/frontend/uploads/{upload_id}"


@virtual
async def test_changed_terms_count_from_the_next_attempt_on(logged: Logged) -> None:
    """A web app that moved tells its new address; the file goes there."""
    logged.expect(events.HANDOVER_ATTEMPTED)
    async with running() as world:
        world.app.answer = DOWN
        upload_id = await world.uploaded(b"abc")
        await world.clock.sleep(60.0)

        await world.engine.change(upload_id, ChangeDocument.model_validate({"finish_url": "http://new.example/"}))
        world.app.answer = (200, b"done")
        await world.reached(upload_id, Status.FINISHED)
        assert world.app.calls[-1][2].url == "http://new.example/"


@virtual
async def test_a_stop_waits_for_nobody_and_loses_nothing() -> None:
    async with running() as world:
        world.app.hold = asyncio.Event()
        upload_id = await world.uploaded(b"abc")
        await settle()
        await world.restart("stop")
        world.app.hold.set()
        await world.reached(upload_id, Status.FINISHED, within_s=120.0)
