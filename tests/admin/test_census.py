"""Counting uploads: right from the start on, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from incomingd.core.status import Status
from incomingd.engine import ending
from incomingd.engine.census import Census
from incomingd.frontends.uploads import PREFIX
from tests.backend_api.service import ApiService, crowd


def true_counts(api: ApiService) -> Mapping[Status, int]:
    """Count what lies on the volume."""

    async def count() -> Counter[Status]:
        counts = Counter(dict.fromkeys(Status, 0))
        for group in await api.volume.groups():
            for upload_id in await api.volume.ids_in(group):
                record = await api.volume.read(upload_id)
                assert record is not None
                counts[record.status] += 1
        return counts

    return api.run(count())


def test_it_follows_uploads_through_their_lives(api: ApiService) -> None:
    for status in Status:
        if status is not Status.LOST:
            api.upload_in(status)
            assert api.census.counts == true_counts(api), status
    assert api.census.stuck == 0


def test_it_counts_what_a_former_run_left(api: ApiService) -> None:
    for status in (Status.OPEN, Status.OPEN, Status.COMPLETE, Status.AWAITING_APP, Status.FINISHED, Status.CANCELLED):
        api.upload_in(status)
    stuck = api.upload_in(Status.HANDING_OVER)
    api.do(f"{PREFIX}/{stuck}", lambda u: ending.handover_failed(u, error="down", next_attempt_at=None))
    before = true_counts(api)
    api.restart()
    assert api.census.counts == before
    assert api.census.stuck == 1
    api.call("POST", f"/uploads/{stuck}/redeliver")
    assert api.census.stuck == 0
    api.call("POST", f"/uploads/{stuck}/cancel")
    assert api.census.counts == true_counts(api)


def test_a_hand_over_that_leaves_the_memory_is_known_by_its_last_status(api: ApiService) -> None:
    upload_id = api.upload_in(Status.AWAITING_APP)
    assert api.census.counts[Status.AWAITING_APP] == 1
    api.engine.keeper._live.clear()
    assert api.census.counts[Status.AWAITING_APP] == 1
    api.call("POST", f"/uploads/{upload_id}/finish", {"outcome": "done"})
    assert api.census.counts == true_counts(api)


def test_what_is_forgotten_is_not_counted_any_more(api: ApiService) -> None:
    upload_id = api.upload_in(Status.FINISHED)
    assert api.census.counts[Status.FINISHED] == 1
    api.run(api.engine.forget(api.record(f"{PREFIX}/{upload_id}")))
    assert sum(api.census.counts.values()) == 0


def test_a_damaged_record_is_not_counted_and_harms_nothing(api: ApiService) -> None:
    ids = [api.created()["id"] for _ in range(3)]
    (api.folder / "uploads" / ids[0][:2] / ids[0] / "record.json").write_bytes(b"{")
    api.restart()
    assert api.census.counts[Status.OPEN] == 2


@pytest.mark.parametrize("seed", range(5))
def test_it_is_right_whatever_happens_while_it_counts(
    seed: int, api: ApiService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Uploads begin, end and go in groups that are counted, being counted, not counted yet, and new."""
    chance = random.Random(seed)
    crowd(api, monkeypatch, 3)
    ids = [api.created(length=1)["id"] for _ in range(30)]
    monkeypatch.undo()
    crowd(api, monkeypatch, 12)
    read = api.volume.read

    async def act() -> None:
        choice = chance.random()
        if choice < 0.3 or not ids:
            record = await api._ticket({})
            ids.append(record.upload_id)
            return
        upload_id = ids.pop(chance.randrange(len(ids)))
        view = await api.engine.cancel(upload_id, "")
        if choice < 0.6:
            await api.engine.forget(view.record)

    async def count() -> Census:
        census = Census(api.engine)

        async def slow_read(upload_id: str) -> object:
            found = await read(upload_id)
            if asyncio.current_task() is not acting and chance.random() < 0.5:
                await asyncio.sleep(0.001)
            return found

        async def keep_acting() -> None:
            while not census.complete:
                await act()

        acting = asyncio.ensure_future(keep_acting())
        monkeypatch.setattr(api.volume, "read", slow_read)
        await census.count()
        await acting
        monkeypatch.setattr(api.volume, "read", read)
        for _ in range(10):
            await act()
        return census

    assert api.run(count()).counts == true_counts(api)


@pytest.mark.parametrize("call", ["create", "write", "remove"])
def test_what_was_counted_before_it_was_told_counts_once(
    call: str, api: ApiService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole volume is counted between a change of it and the engine's word of that change."""
    cancelled = api.created()["id"]
    census = Census(api.engine)
    real = getattr(api.volume, call)

    async def then_count(*args: Any, **kwargs: Any) -> None:
        await real(*args, **kwargs)
        monkeypatch.undo()
        await census.count()

    async def act() -> None:
        if call == "create":
            await api._ticket({})
            return
        view = await api.engine.cancel(cancelled, "")
        if call == "remove":
            await api.engine.forget(view.record)

    if call == "write":
        # The first write of a cancel is that of the pull.
        api.do(f"{PREFIX}/{cancelled}", _touch)
    monkeypatch.setattr(api.volume, call, then_count)
    api.run(act())
    assert census.complete
    assert census.counts == true_counts(api)


async def _touch(upload: object) -> None:
    """Own the upload, so that nothing has to be written before what comes."""


def test_a_group_that_is_new_when_the_last_was_counted(api: ApiService, monkeypatch: pytest.MonkeyPatch) -> None:
    """The list of groups was read, then a ticket was made in a new one, then the list was looked at."""
    groups = api.volume.groups

    async def count() -> Census:
        census = Census(api.engine)

        async def stale() -> list[str]:
            found = await groups()
            monkeypatch.undo()
            await api._ticket({})
            return found

        monkeypatch.setattr(api.volume, "groups", stale)
        await census.count()
        return census

    assert api.run(count()).counts[Status.OPEN] == 1


def test_a_volume_that_fails_is_counted_later(tmp_path: Path, api: ApiService) -> None:
    api.created()
    api.errors_expected.add("volume.failed")
    away = api.folder / "away"

    async def fail() -> Census:
        census = Census(api.engine)
        (api.folder / "uploads").rename(away)
        counting = asyncio.ensure_future(census.run())
        while not api.clock.slept_s:
            await asyncio.sleep(0.001)
        away.rename(api.folder / "uploads")
        while not census.complete:
            await asyncio.sleep(0.001)
        counting.cancel()
        return census

    assert api.run(fail()).counts[Status.OPEN] == 1
