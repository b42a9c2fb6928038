"""Lists of uploads."""

from __future__ import annotations

from typing import Any

import pytest

from incomingd.core.status import Status
from incomingd.engine import ending, listing
from incomingd.frontends.uploads import PREFIX
from incomingd.wire.listing import ListQuery
from tests.backend_api.service import FINISH_URL, ApiService, crowd, errors_of


def many(api: ApiService, count: int, **fields: Any) -> set[str]:
    answer = api.call("POST", "/uploads", [{"finish_url": FINISH_URL, **fields}] * count)
    return {upload["id"] for upload in answer.json()}


def give_up(api: ApiService, upload_id: str, next_attempt_at: float | None) -> None:
    """Have a callback fail, for good where there is no next time."""
    api.do(
        f"{PREFIX}/{upload_id}",
        lambda upload: ending.handover_failed(upload, error="down", next_attempt_at=next_attempt_at),
    )


def test_nothing_is_listed_where_nothing_is(api: ApiService) -> None:
    assert api.call("GET", "/uploads").json() == {"uploads": [], "next_page": None, "partial": False}


def test_every_upload_is_listed_once_over_many_pages(api: ApiService) -> None:
    ids = many(api, 250)
    pages = []
    page: str | None = ""
    while page is not None:
        found = api.call("GET", "/uploads", params={"page": page} if page else {}).json()
        pages.append([upload["id"] for upload in found["uploads"]])
        page = found["next_page"]
    assert [len(page) for page in pages] == [100, 100, 50]
    assert sorted(upload_id for page in pages for upload_id in page) == sorted(ids)


def test_uploads_that_come_and_go_between_pages_disturb_no_others(api: ApiService) -> None:
    ids = many(api, 150)
    first = api.call("GET", "/uploads").json()
    shown = {upload["id"] for upload in first["uploads"]}
    many(api, 20)
    for upload_id in list(shown)[:10]:
        record = api.record(f"{PREFIX}/{upload_id}")
        api.run(api.engine.forget(record))
    rest = api.call("GET", "/uploads", params={"page": first["next_page"]}).json()
    assert rest["next_page"] is None
    assert shown | {upload["id"] for upload in rest["uploads"]} >= ids


def test_lists_show_what_a_look_shows(api: ApiService) -> None:
    for status in Status:
        if status is not Status.LOST:
            api.upload_in(status)
    upload = api.created(length=10)
    api.open_append(upload["upload_url"], 0, b"0123", 10)
    listed = api.listed()
    assert len(listed) == len(Status)
    for found in listed:
        assert found == api.call("GET", f"/uploads/{found['id']}").json()


def test_lists_are_filtered(api: ApiService) -> None:
    labelled = many(api, 3, labels=["a", "b"]) | many(api, 2, labels=["b"])
    cancelled = set(list(labelled)[:2])
    for upload_id in cancelled:
        api.call("POST", f"/uploads/{upload_id}/cancel")
    complete = {api.upload_in(Status.COMPLETE), api.upload_in(Status.COMPLETE)}

    def ids(**params: str) -> set[str]:
        return {upload["id"] for upload in api.listed(**params)}

    assert ids(label="b") == labelled
    assert len(ids(label="a")) == 3
    assert ids(label="A") == ids(label="a,b") == set()
    assert ids(status="cancelled") == cancelled
    assert ids(status="cancelled,complete") == cancelled | complete
    assert ids(status="open", label="b") == labelled - cancelled
    assert ids(status="finished") == set()


def test_stuck_hand_overs_are_found(api: ApiService) -> None:
    stuck, trying = api.upload_in(Status.HANDING_OVER), api.upload_in(Status.HANDING_OVER)
    api.upload_in(Status.COMPLETE)
    give_up(api, stuck, None)
    give_up(api, trying, api.clock.now() + 60)
    assert [upload["id"] for upload in api.listed(handover="stuck")] == [stuck]
    api.call("POST", f"/uploads/{stuck}/redeliver")
    assert api.listed(handover="stuck") == []
    cancelled = api.upload_in(Status.HANDING_OVER)
    give_up(api, cancelled, None)
    api.call("POST", f"/uploads/{cancelled}/cancel")
    assert api.listed(handover="stuck") == []


@pytest.mark.parametrize("query", ["status=x", "handover=x", "page=x", "x=y", "label=a&label=b", "label=%ff"])
def test_a_wrong_query(query: str, api: ApiService) -> None:
    assert set(errors_of(api.call("GET", f"/uploads?{query}"))) == {query.partition("=")[0]}


def test_a_call_reads_a_bounded_number_of_records(api: ApiService) -> None:
    """Where nothing is found a call ends all the same, with a short page and where to go on."""
    many(api, 100)
    target = api.created(labels=["needle"])["id"]
    query = ListQuery(label="needle")
    found: list[str] = []
    calls = 0
    while True:
        page = api.run(listing.page(api.engine, query, reads_max=16))
        calls += 1
        found += [view.record.upload_id for view in page.views]
        if page.following is None:
            break
        query = ListQuery(label="needle", position=page.following)
    assert found == [target]
    assert calls >= 6


def test_a_page_is_never_too_long(api: ApiService, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many uploads in one group are read several at a time; the page ends where it ends all the same."""
    crowd(api, monkeypatch, 1)
    ids = sorted(many(api, 20))
    query, found = ListQuery(), []
    while True:
        page = api.run(listing.page(api.engine, query, uploads_max=3))
        assert len(page.views) <= 3
        found += [view.record.upload_id for view in page.views]
        if page.following is None:
            break
        query = ListQuery(position=page.following)
    assert found == ids


def test_an_upload_that_changes_while_it_is_listed(api: ApiService, monkeypatch: pytest.MonkeyPatch) -> None:
    """Open when its record was read, cancelled when the list was made: it is not shown as open."""
    upload_id = api.created()["id"]
    read = api.volume.read

    async def read_then_cancel(wanted: str) -> Any:
        record = await read(wanted)
        monkeypatch.undo()
        await api.engine.cancel(wanted, "")
        return record

    monkeypatch.setattr(api.volume, "read", read_then_cancel)
    assert api.listed(status="open") == []
    assert api.record(f"{PREFIX}/{upload_id}").status is Status.CANCELLED


def test_a_damaged_record_is_left_out(api: ApiService) -> None:
    ids = sorted(many(api, 3))
    (api.folder / "uploads" / ids[1][:2] / ids[1] / "record.json").write_bytes(b"{")
    assert sorted(upload["id"] for upload in api.listed()) == [ids[0], ids[2]]


def test_a_volume_that_is_gone_is_told(api: ApiService) -> None:
    many(api, 1)
    api.errors_expected.add("volume.failed")
    (api.folder / "uploads").rename(api.folder / "away")
    answer = api.call("GET", "/uploads")
    assert (answer.status_code, answer.json()["code"]) == (503, "storage_unavailable")
    (api.folder / "away").rename(api.folder / "uploads")
    assert len(api.listed()) == 1
