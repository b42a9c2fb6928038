"""The example web app: what it promises to visitors, and that nobody else can tell it what it has received."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import requests
from playwright.async_api import Browser, Page, expect
from standardwebhooks import Webhook

from tests.support.browser import PageErrors, running_browser, served
from tests.support.content import Content, sha256_of
from tests.support.daemon import Daemon
from tests.support.link import Link
from tests.support.machine import ROOT, free_port, wait_until
from tests.support.photodrop import Photodrop, start, stop

IN_BROWSER = pytest.mark.asyncio(loop_scope="module")

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def photodrop(shared_daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Photodrop]:
    running = start(tmp_path_factory.mktemp("photodrop"), shared_daemon, shared_daemon.public_url)
    yield running
    stop(running)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with running_browser() as running:
        yield running


def some_file(path: Path, size_bytes: int = 300_000) -> Content:
    content = Content(random.randrange(1 << 30), size_bytes)
    content.write(path)
    return content


async def choose(page: Page, *paths: Path) -> None:
    await page.set_input_files("#drop input", list(paths))


@IN_BROWSER
async def test_a_visitor_drops_files_and_finds_them_in_the_list(
    browser: Browser, photodrop: Photodrop, tmp_path: Path
) -> None:
    """Several at once; size, digest and link are right; a program is refused with the app's words; no errors."""
    contents = {name: some_file(tmp_path / name) for name in ("one.bin", "zwölf & drei.tar.gz", "none")}
    contents["empty.txt"] = some_file(tmp_path / "empty.txt", 0)
    some_file(tmp_path / "setup.EXE")
    context = await browser.new_context()
    page = await context.new_page()
    errors = PageErrors(page)
    await page.goto(photodrop.url)
    await expect(page.locator("#received .empty")).to_be_visible()
    await choose(page, *(tmp_path / name for name in contents), tmp_path / "setup.EXE")
    await expect(page.locator("[data-state=finished]")).to_have_count(len(contents))
    refused = page.locator("[data-state=refused]")
    await expect(refused).to_contain_text("Programs are not taken here.")
    rows = page.locator("#received li")
    await expect(rows).to_have_count(len(contents))
    for name, content in contents.items():
        row = rows.filter(has=page.get_by_text(name, exact=True))
        assert await row.locator(".digest").inner_text() == content.sha256()
        async with page.expect_download() as download:
            await row.locator("a").click()
        saved = await download.value
        assert saved.suggested_filename == name
        assert sha256_of(Path(await saved.path())) == content.sha256()
    assert not errors.texts

    # Somebody else sees none of it.
    link = str(await rows.first.locator("a").get_attribute("href"))
    assert (await context.request.get(photodrop.url + link)).status == 200
    assert requests.get(photodrop.url + link, timeout=10).status_code == 404
    stranger = await (await browser.new_context()).new_page()
    await stranger.goto(photodrop.url)
    await expect(stranger.locator("#received .empty")).to_be_visible()
    await context.close()


@IN_BROWSER
async def test_a_reloaded_page_asks_for_the_files_that_were_under_way(
    browser: Browser, shared_daemon: Daemon, tmp_path: Path
) -> None:
    """It says how much is safe; dropped again the file goes on and nothing is begun twice; others can be discarded."""
    some_file(tmp_path / "film.mov", 24 * MIB)
    some_file(tmp_path / "other.mov", 24 * MIB)
    context = await browser.new_context()
    page = await context.new_page()
    with Link(shared_daemon.public, rate_bytes_per_s=10 * MIB) as link:
        photodrop = await asyncio.to_thread(start, tmp_path / "files", shared_daemon, link.url)
        await page.goto(photodrop.url)
        await choose(page, tmp_path / "film.mov", tmp_path / "other.mov")
        await asyncio.to_thread(wait_until, lambda: link.upstream_bytes > 12 * MIB, "some of both files")
        await page.reload()
        rows = page.locator("[data-state=missing]")
        await expect(rows).to_have_count(2)
        for row in await rows.all():
            await expect(row).to_contain_text("are safe")
        link.rate_bytes_per_s = None
        await rows.filter(has_text="film.mov").locator(".again input").set_input_files(tmp_path / "film.mov")
        await rows.filter(has_text="other.mov").locator(".cancel").click()
        await expect(page.locator("[data-state=finished]")).to_have_count(1)
        await expect(page.locator("[data-state=cancelled]")).to_contain_text("other.mov")
        await page.reload()
        await expect(page.locator("#received li")).to_have_count(1)
        await expect(page.locator("#uploads li")).to_have_count(0)
        assert link.count("POST", 201) == 2
        assert photodrop.entries()[0]["sha256"] == sha256_of(tmp_path / "film.mov")
        await context.close()
        await asyncio.to_thread(stop, photodrop)


@IN_BROWSER
async def test_without_incomingd_the_page_says_so(browser: Browser, shared_daemon: Daemon, tmp_path: Path) -> None:
    """Instead of a page that looks well and does nothing."""
    photodrop = await asyncio.to_thread(start, tmp_path / "files", shared_daemon, f"http://127.0.0.1:{free_port()}")
    page = await browser.new_page()
    await page.goto(photodrop.url)
    await expect(page.locator("#problem")).to_contain_text("Is incomingd running?")
    await page.close()
    await asyncio.to_thread(stop, photodrop)


def test_the_same_file_of_the_same_visitor_has_one_ticket(photodrop: Photodrop) -> None:
    """Another file, or another visitor, has another."""
    with requests.Session() as visitor, requests.Session() as other:
        first, again = (photodrop.ticket(visitor).json()["upload_url"] for _ in range(2))
        assert first == again
        different = [
            photodrop.ticket(visitor, size=6),
            photodrop.ticket(visitor, last_modified=8),
            photodrop.ticket(visitor, name="b.bin"),
            photodrop.ticket(other),
        ]
        assert len({first, *(answer.json()["upload_url"] for answer in different)}) == 5


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"\xff", b'{"name": "x", "size": "y", "last_modified": 1}'])
def test_a_request_for_a_ticket_that_is_none_is_refused(photodrop: Photodrop, body: bytes) -> None:
    assert requests.post(f"{photodrop.url}/tickets", data=body, timeout=10).status_code == 400


def test_what_incomingd_refuses_is_passed_on(photodrop: Photodrop) -> None:
    with requests.Session() as visitor:
        answer = photodrop.ticket(visitor, size=-1)
    assert answer.status_code == 400
    assert answer.json()["detail"]


def file_data(path: Path, name: str = "a.bin", **more: object) -> dict[str, Any]:
    return {"filename": name, "path": str(path), "download_url": None, "app_data": {"visitor": "v" * 22}} | more


@pytest.mark.parametrize("change", ["secret", "body", "headers"])
def test_nobody_but_incomingd_hands_files_over(photodrop: Photodrop, tmp_path: Path, change: str) -> None:
    """A wrong signature, or none: 403, and the file stays where it is."""
    path = tmp_path / "mine"
    path.write_bytes(b"mine")
    before = photodrop.files()
    if change == "secret":
        answer = photodrop.hand_over("msg_1", file_data(path), secret="whsec_" + "AAAA" * 8)
    elif change == "body":
        answer = requests.post(
            f"{photodrop.url}/handover",
            data=b"\xff",
            headers={"webhook-id": "m", "webhook-timestamp": "1", "webhook-signature": "v1,!"},
            timeout=10,
        )
    else:
        answer = requests.post(f"{photodrop.url}/handover", json={"type": "upload.complete"}, timeout=10)
    assert answer.status_code == 403
    assert path.exists()
    assert photodrop.files() == before


def test_a_repeated_hand_over_has_the_same_answer_and_takes_nothing_twice(photodrop: Photodrop, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    first = photodrop.hand_over("msg_twice", file_data(path)).json()
    assert not path.exists(), "moved, not copied"
    assert photodrop.hand_over("msg_twice", file_data(path)).json() == first
    assert first["result"] == "done"
    assert sum(entry["id"] == "msg_twice" for entry in photodrop.entries()) == 1


def test_a_file_is_fetched_where_its_path_cannot_be_reached(photodrop: Photodrop, tmp_path: Path) -> None:
    (tmp_path / "far").write_bytes(b"far away")
    with served(tmp_path) as url:
        data = file_data(tmp_path / "nowhere", name="far.bin", download_url=f"{url}/far")
        assert photodrop.hand_over("msg_far", data).json()["result"] == "done"
    entry = next(entry for entry in photodrop.entries() if entry["id"] == "msg_far")
    assert (photodrop.folder / entry["file"]).read_bytes() == b"far away"


@pytest.mark.parametrize(
    "name, kept",
    [
        ("../../etc/passwd", "passwd"),
        ("..\\..\\boot.ini", "boot.ini"),
        ("..", "unnamed"),
        ("", "unnamed"),
        (None, "unnamed"),
        ("a\x00b\nc.txt", "a_b_c.txt"),
        (".hidden", "hidden"),
        ("x" * 500 + ".bin", "x" * 116 + ".bin"),
    ],
)
def test_names_are_harmless(photodrop: Photodrop, tmp_path: Path, name: str | None, kept: str) -> None:
    """Whatever a client calls its file, it lies in the app's folder, is seen there, and is listed by a clean name."""
    path = tmp_path / "file"
    path.write_bytes(b"content")
    webhook_id = f"msg_{random.randrange(1 << 60)}"
    data = file_data(path, name=name) if name is not None else file_data(path) | {"filename": None}
    assert photodrop.hand_over(webhook_id, data).json()["result"] == "done"
    entry = next(entry for entry in photodrop.entries() if entry["id"] == webhook_id)
    assert entry["name"] == kept
    assert (photodrop.folder / entry["file"]).resolve().parent == photodrop.folder.resolve()
    assert entry["file"] in photodrop.files()


def test_other_callbacks_are_answered_and_change_nothing(photodrop: Photodrop) -> None:
    """A cancelled upload is told to the app, too."""
    secret = (photodrop.folder / ".secret").read_text()
    before = photodrop.files()
    now = datetime.now(UTC)
    body = json.dumps({"type": "upload.cancelled", "data": {}})
    headers = {"webhook-id": "msg_c", "webhook-timestamp": str(int(now.timestamp()))}
    headers["webhook-signature"] = Webhook(secret).sign("msg_c", now, body)
    assert requests.post(f"{photodrop.url}/handover", data=body, headers=headers, timeout=10).status_code == 204
    assert photodrop.files() == before


def test_a_restart_keeps_list_and_secret(shared_daemon: Daemon, tmp_path: Path) -> None:
    """Hand-overs that were signed for it before are still accepted; what it had it still has."""
    folder = tmp_path / "files"
    first = start(folder, shared_daemon, shared_daemon.public_url)
    (tmp_path / "file").write_bytes(b"content")
    answer = first.hand_over("msg_kept", file_data(tmp_path / "file")).json()
    secret = (folder / ".secret").read_text()
    assert (folder / ".secret").stat().st_mode & 0o777 == 0o600
    stop(first)
    second = start(folder, shared_daemon, shared_daemon.public_url)
    assert second.hand_over("msg_kept", file_data(tmp_path / "file"), secret=secret).json() == answer
    with requests.Session() as visitor:
        visitor.cookies.set("visitor", "v" * 22)
        download = visitor.get(second.url + answer["client_data"]["url"], timeout=10)
    assert download.content == b"content"
    assert download.headers["Content-Disposition"].startswith("attachment")
    assert download.headers["X-Content-Type-Options"] == "nosniff"
    stop(second)


def test_the_app_is_read_in_five_minutes() -> None:
    """One file, and no longer than that."""
    assert len((ROOT / "examples/photodrop/app.py").read_text().splitlines()) <= 200
