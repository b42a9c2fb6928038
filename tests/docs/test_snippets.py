"""The snippets of the guide for web apps do what it says, with a real daemon, a real browser and stock clients."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import requests

from incomingd.wire.callback import signature_headers
from tests.docs.pages import blocks, snippet, with_addresses, write
from tests.support.app import WAIT, App
from tests.support.backend import Backend
from tests.support.browser import PageErrors, running_browser, served
from tests.support.content import Content, sha256_of
from tests.support.daemon import Daemon
from tests.support.machine import free_port, wait_until
from tests.support.stock import CLIENTS
from tests.support.tus import TusUpload

SIZE_BYTES = 3_000_017


def addresses(daemon: Daemon, **more: str) -> dict[str, str]:
    """Return what stands in the documents, and what it is in this test."""
    return {"http://127.0.0.1:4000": daemon.public_url, "http://127.0.0.1:4001": daemon.backend_url} | more


def run(command: list[str], folder: Path) -> str:
    """Run a snippet to its end; return what it prints."""
    done = subprocess.run(
        command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def names_of(text: str) -> dict[str, Any]:
    """Run a snippet that defines functions; return them."""
    found: dict[str, Any] = {}
    exec(compile(text, "snippet", "exec"), found)
    return found


async def test_the_web_app_of_the_guide_takes_a_file(shared_daemon: Daemon, tmp_path: Path) -> None:
    """Its page uploads a file with the library; its backend gets the ticket, checks the callback and moves the file."""
    port = free_port()
    ours = f"http://127.0.0.1:{port}"
    real = addresses(shared_daemon, **{"http://127.0.0.1:8000": ours, "listen(8000": f"listen({port}"})
    write(tmp_path, "app.py", with_addresses(snippet("app.py"), real))
    write(tmp_path, "page.html", snippet("page.html"))
    content = Content(random.randrange(1 << 30), SIZE_BYTES)
    file = content.write(tmp_path / "holiday.mov")
    secret = "whsec_" + base64.b64encode(os.urandom(32)).decode()
    with (tmp_path / "app.log").open("wb") as log:
        app = subprocess.Popen(
            [sys.executable, "app.py"],
            cwd=tmp_path,
            env=os.environ | {"UPLOADS_SECRET": secret},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        await asyncio.to_thread(wait_until, lambda: answers(ours), "the guide's app")
        async with running_browser() as browser:
            page = await browser.new_page()
            errors = PageErrors(page)
            await page.goto(ours)
            await page.set_input_files("input", file)
            await page.wait_for_function("document.querySelector('#state').textContent === 'handed over'")
            assert await page.evaluate("document.querySelector('progress').value") == 1
            assert not errors.texts
        [received] = (tmp_path / "received").iterdir()
        assert sha256_of(received) == content.sha256()
        assert requests.post(f"{ours}/handover", data=b"{}", timeout=10).status_code == 403
    finally:
        app.terminate()
        app.wait(10)
    assert "alice sent holiday.mov" in (tmp_path / "app.log").read_text()


def answers(url: str) -> bool:
    """Return whether somebody answers at *url*."""
    try:
        return requests.get(url, timeout=5).status_code == 200
    except requests.ConnectionError:
        return False


def test_calls_on_an_upload(shared_daemon: Daemon, tmp_path: Path) -> None:
    """Look, change, cancel, list: each prints what its comment says."""
    text = snippet("calls.py")
    said = run(
        [sys.executable, str(write(tmp_path, "calls.py", with_addresses(text, addresses(shared_daemon))))], tmp_path
    )
    expected = [line.split("  # ")[1] for line in text.splitlines() if line.startswith("print(")]
    assert said.splitlines() == expected


def upload(backend: Backend, app: App) -> tuple[str, Content]:
    """Bring a file to an app that waits; return the upload's id and the content."""
    app.answer = lambda _: WAIT
    content = Content(random.randrange(1 << 30), SIZE_BYTES)
    ticket = backend.ticket(app_data={"user": "alice"}, digest="sha-256")
    TusUpload(ticket["upload_url"], content).run(piece_bytes=SIZE_BYTES)
    backend.wait_status(ticket["id"], "awaiting_app")
    return str(ticket["id"]), content


def test_the_signature_is_checked_by_hand(shared_backend: Backend, app: App) -> None:
    """A callback passes; another body, another secret, another id, another time and an old one do not."""
    upload_id, _ = upload(shared_backend, app)
    delivery = app.wait_for(upload_id)[0]
    verify = names_of(snippet("verify.py"))["verify"]
    headers, body = delivery.headers, delivery.body
    other = "whsec_" + base64.b64encode(bytes(32)).decode()
    assert verify(app.secret, headers, body)
    assert not verify(other, headers, body)
    assert not verify(app.secret, headers, body + b" ")
    assert not verify(app.secret, headers | {"webhook-id": "msg_other"}, body)
    assert not verify(app.secret, headers | {"webhook-timestamp": "1"}, body)
    recorded = signature_headers(app.secret, "msg_1", float(headers["webhook-timestamp"]) - 3600, body)
    assert not verify(app.secret, recorded, body), "somebody plays an old one back"


def test_a_file_is_fetched_and_confirmed(
    shared_daemon: Daemon, shared_backend: Backend, app: App, tmp_path: Path
) -> None:
    """After a `wait`: the download URL serves the file, `confirm` ends the upload, and may be repeated."""
    upload_id, content = upload(shared_backend, app)
    target = tmp_path / "copy"
    names_of(snippet("fetch.py"))["fetch"](app.wait_for(upload_id)[0].data["download_url"], str(target))
    assert sha256_of(target) == content.sha256()
    confirm = names_of(with_addresses(snippet("confirm.py"), addresses(shared_daemon)))["confirm"]
    for _ in range(2):
        confirm(upload_id, app.secret, good=True)
        assert shared_backend.get(upload_id)["status"] == "finished"
    other_id, _ = upload(shared_backend, app)
    confirm(other_id, app.secret, good=False)
    assert shared_backend.get(other_id)["error"]["message"] == "The file has a virus."


def test_the_example_of_a_callback_has_the_fields_of_a_real_one(shared_backend: Backend, app: App) -> None:
    def shape(value: object) -> object:
        return {key: shape(inner) for key, inner in value.items()} if isinstance(value, dict) else None

    upload_id, _ = upload(shared_backend, app)
    real = json.loads(app.wait_for(upload_id)[0].body)
    [example] = [block.text for block in blocks("docs/web-apps.md") if block.mark == "example: callback"]
    assert shape(json.loads(example)) == shape(
        real | {"data": real["data"] | {"client": real["data"]["client"] | {"metadata": {}}}}
    )


def test_tus_js_client(shared_backend: Backend, app: App, tmp_path: Path) -> None:
    """With `endpoint`, as the guide has it."""
    (tmp_path / "node_modules").symlink_to(CLIENTS / "node_modules")
    content = Content(random.randrange(1 << 30), SIZE_BYTES)
    file = content.write(tmp_path / "film.mov")
    ticket = shared_backend.ticket()
    write(tmp_path, "tus-js.mjs", snippet("tus-js.mjs"))
    assert run(["node", "tus-js.mjs", ticket["upload_url"], str(file)], tmp_path) == "complete\n"
    assert app.check_arrived(ticket["id"], content.sha256()).data["filename"] == "film.mov"


def test_tuspy(shared_backend: Backend, app: App, tmp_path: Path) -> None:
    """With `endpoint`, as the guide has it."""
    content = Content(random.randrange(1 << 30), SIZE_BYTES)
    file = content.write(tmp_path / "film.mov")
    ticket = shared_backend.ticket()
    script = write(tmp_path, "tuspy_upload.py", snippet("tuspy_upload.py"))
    assert run([sys.executable, str(script), ticket["upload_url"], str(file)], tmp_path) == "complete\n"
    app.check_arrived(ticket["id"], content.sha256())


UPPY_PAGE = """
import { makeUppy } from './uppy.mjs'

window.upload = async (files, urls) => {
  const uppy = makeUppy(async (file) => urls[file.name])
  const ended = new Promise((resolve) => uppy.on('complete', resolve))
  uppy.addFiles([...files].map((file) => ({ name: file.name, type: file.type, data: file })))
  const { successful, failed } = await ended
  return { successful: successful.length, failed: failed.map((file) => String(file.error)) }
}
"""


async def test_uppy_with_a_ticket_for_each_file(shared_backend: Backend, app: App, tmp_path: Path) -> None:
    """Two files at once, each against its own ticket."""
    (tmp_path / "node_modules").symlink_to(CLIENTS / "node_modules")
    write(tmp_path, "uppy.mjs", snippet("uppy.mjs"))
    write(tmp_path, "page.mjs", UPPY_PAGE)
    site = tmp_path / "site"
    site.mkdir()
    bundle = ["node_modules/.bin/esbuild", "page.mjs", "--bundle", "--log-level=warning", "--outfile=site/page.js"]
    await asyncio.to_thread(run, bundle, tmp_path)
    (site / "index.html").write_text(
        "<!doctype html><link rel=icon href=data:,><input type=file multiple><script src=page.js></script>"
    )
    contents = {name: Content(random.randrange(1 << 30), SIZE_BYTES) for name in ("one.mov", "two.mov")}
    paths = [content.write(tmp_path / name) for name, content in contents.items()]
    tickets = {name: shared_backend.ticket() for name in contents}
    with served(site) as url:
        async with running_browser() as browser:
            page = await browser.new_page()
            errors = PageErrors(page)
            await page.goto(url)
            await page.set_input_files("input", paths)
            outcome = await page.evaluate(
                "urls => upload(document.querySelector('input').files, urls)",
                {name: ticket["upload_url"] for name, ticket in tickets.items()},
            )
            assert outcome == {"successful": 2, "failed": []}
            assert not errors.texts
    for name, content in contents.items():
        arrived = await asyncio.to_thread(app.check_arrived, tickets[name]["id"], content.sha256())
        assert arrived.data["filename"] == name
