"""Tickets: made, made once for one key, and changed."""

from __future__ import annotations

import asyncio

import pytest

from incomingd.core.errors import Code, Refusal
from incomingd.core.status import Status
from incomingd.engine.engine import View
from incomingd.engine.options import EngineOptions
from incomingd.log import events
from incomingd.wire.backend import ChangeDocument
from tests.engine.logs import Logged
from tests.engine.world import DAY_S, Feed, Trouble, new_terms, refused, running
from tests.support.virtual import settle, virtual


@virtual
async def test_a_key_leads_to_the_same_ticket_while_it_is_not_final() -> None:
    async with running() as world:
        first, new = await world.engine.create(new_terms(), key="k")
        again, renewed = await world.engine.create(new_terms(labels=("other",)), key="k")
        assert (new, renewed) == (True, False)
        assert again == first
        await world.restart()
        assert await world.ticket(key="k") == first.upload_id
        assert await world.ticket(key="l") != first.upload_id
        await world.engine.cancel(first.upload_id, "")
        other = await world.ticket(key="k")
        assert other != first.upload_id
        assert await world.ticket(key="k") == other


@virtual
async def test_a_key_tells_of_the_upload_as_it_stands() -> None:
    async with running() as world:
        upload_id = await world.ticket(key="k")
        await world.begin(upload_id, 3)
        record, _ = await world.engine.create(new_terms(), key="k")
        assert record.content.length == 3


@virtual
async def test_requests_at_once_with_one_key_get_one_ticket() -> None:
    async with running() as world:
        made = await asyncio.gather(*(world.engine.create(new_terms(), key="k") for _ in range(20)))
        assert len({record.upload_id for record, _ in made}) == 1
        assert [new for _, new in made].count(True) == 1
        assert len(world.disk.uploads.names) == 1
        assert world.engine._tickets._key_locks == {}


@virtual
async def test_requests_with_other_keys_do_not_wait_for_each_other() -> None:
    async with running() as world:
        hold: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        world.disk.trouble = lambda name: Trouble(None, hold=hold)
        slow = asyncio.ensure_future(world.ticket(key="slow"))
        await settle()
        world.disk.trouble = None
        await world.ticket(key="quick")
        assert not slow.done()
        hold.set_result(None)
        await slow


@pytest.mark.parametrize("call", ["find_key", "read", "create", "bind_key"])
@pytest.mark.parametrize("done", [False, True])
def test_a_ticket_that_could_not_be_made_can_be_asked_for_again(call: str, done: bool) -> None:
    @virtual
    async def ask() -> None:
        async with running(upkeep=False) as world:
            if call == "read":
                await world.ticket(key="k")
            world.disk.trouble = lambda name: Trouble(done=done) if name == call else None
            with refused(Code.STORAGE_UNAVAILABLE):
                await world.ticket(key="k")
            world.disk.trouble = None
            upload_id = await world.ticket(key="k")
            assert await world.ticket(key="k") == upload_id
            assert world.engine._tickets._key_locks == {}

    ask()


@virtual
async def test_keys_are_forgotten_with_their_uploads() -> None:
    async with running() as world:
        upload_id = await world.ticket(key="k", finish_url="")
        await world.engine.cancel(upload_id, "")
        assert list(world.disk.keys.names) == ["k"]
        await world.clock.sleep(world.options.records_keep_s + 2 * 3600.0)
        assert world.disk.uploads.names == {}
        assert world.disk.keys.names == {}


@virtual
async def test_a_ticket_lasts_as_long_as_was_asked_and_no_longer_than_may_be() -> None:
    async with running(options=EngineOptions(expires_in_max_s=2 * DAY_S, expires_in_s=DAY_S)) as world:
        for asked_s, lasts_s in ((None, DAY_S), (60.0, 60.0), (3 * DAY_S, 2 * DAY_S)):
            record, _ = await world.engine.create(new_terms(), expires_in_s=asked_s)
            assert record.expires_at - record.created_at == lasts_s


# -- changing


@virtual
async def test_a_ticket_that_is_given_more_time_expires_later() -> None:
    async with running() as world:
        upload_id = await world.ticket(expires_in_s=3600.0)

        view = await world.engine.change(upload_id, ChangeDocument.model_validate({"expires_in_s": 3 * 3600.0}))
        assert isinstance(view, View)
        await world.clock.sleep(3 * 3600.0 - 60.0)
        assert await world.status(upload_id) is Status.OPEN
        await world.clock.sleep(180.0)
        assert await world.status(upload_id) is Status.EXPIRED


@virtual
async def test_a_ticket_that_is_given_less_time_expires_earlier() -> None:
    async with running() as world:
        upload_id = await world.ticket()

        await world.engine.change(upload_id, ChangeDocument.model_validate({"expires_in_s": 60.0}))
        await world.clock.sleep(180.0)
        assert await world.status(upload_id) is Status.EXPIRED


@virtual
async def test_a_change_leaves_an_open_append_alone() -> None:
    async with running() as world:
        upload_id = await world.ticket()
        await world.begin(upload_id, 6)
        body = Feed(b"abc", ended=False, length=6)
        under_way = world.appending(upload_id, 0, body)
        await settle()

        view = await world.engine.change(upload_id, ChangeDocument.model_validate({"app_data": {"new": 1}}))
        assert (view.offset, body.was_cut) == (3, None)
        body.send(b"def")
        body.end()
        assert not isinstance(await under_way, Refusal)
        assert (await world.record(upload_id)).terms.app_data == {"new": 1}


@virtual
async def test_a_refused_change_changes_nothing() -> None:
    async with running() as world:
        upload_id = await world.ticket(length=10)
        before = (await world.view(upload_id)).record

        with refused(Code.FIELD_INVALID):
            await world.engine.change(upload_id, ChangeDocument.model_validate({"max_length": 5}))
        assert (await world.view(upload_id)).record.terms == before.terms
        await world.engine.cancel(upload_id, "")
        with refused(Code.TOO_LATE):
            await world.engine.change(upload_id, ChangeDocument.model_validate({"app_data": {"new": 1}}))


@virtual
async def test_an_unreadable_record_is_told_and_touched_by_nobody(logged: Logged) -> None:
    logged.expect(events.RECORD_UNREADABLE)
    async with running() as world:
        upload_id, other = await world.ticket(expires_in_s=60.0, key="k"), await world.ticket()
        await world.begin(upload_id, 6)
        await world.append(upload_id, 0, b"abc")
        await world.kill()
        record = world.disk.uploads.names[upload_id].names["record.json"]
        record.data[10:12] = b"\0\0"
        damaged = bytes(record.data)
        world.start()
        for call in (world.view(upload_id), world.append(upload_id, 3, b"x"), world.engine.cancel(upload_id, "")):
            with refused(Code.STORAGE_UNAVAILABLE):
                await call
        # Its key leads to no other ticket: whoever has the first one would go on with that, and neither would know.
        with refused(Code.TICKET_UNREADABLE):
            await world.ticket(key="k")
        assert await world.ticket(key="another") != upload_id
        await world.clock.sleep(8 * DAY_S)
        assert await world.status(other) is Status.EXPIRED
        assert bytes(world.disk.uploads.names[upload_id].names["record.json"].data) == damaged
        assert world.segments(upload_id) == {"bytes.1": 3}
        assert logged.of(events.RECORD_UNREADABLE)
