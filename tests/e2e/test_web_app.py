"""The web app's side of a hand-over: down, slow to confirm, another Unix user's."""

from __future__ import annotations

import grp
import os
import pwd
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.app import ERROR, HANG, WAIT, App
from tests.support.backend import Backend
from tests.support.content import Content, sha256_of
from tests.support.daemon import Daemon
from tests.support.fixtures import MakeDaemon
from tests.support.machine import free_port, wait_until
from tests.support.tus import TusUpload

SIZE_BYTES = 3_000_017


def upload(backend: Backend, **fields: object) -> tuple[str, Content]:
    """Get a ticket and bring a file; return the upload's id and the content."""
    content = Content(random.randrange(1 << 30), SIZE_BYTES)
    ticket = backend.ticket(**fields)  # type: ignore[arg-type] # `key` is not among the fields
    TusUpload(ticket["upload_url"], content).run(piece_bytes=1_000_000)
    return str(ticket["id"]), content


@pytest.mark.parametrize("end", ["kill9", "stop"])
def test_a_web_app_that_was_down_gets_its_file(end: str, make_daemon: MakeDaemon, app: App) -> None:
    """The file completes while nobody listens at `finish_url`; the daemon restarts; the app comes back and gets it."""
    daemon = make_daemon({"handover.backoff_max_s": 0.5})
    backend = Backend(daemon, app)
    app.down()
    upload_id, content = upload(backend)
    wait_until(lambda: backend.get(upload_id)["handover"]["attempts"] >= 2, "two attempts in vain")
    getattr(daemon, end)()
    daemon.start()
    assert backend.get(upload_id)["status"] in ("complete", "handing_over")
    wait_until(lambda: backend.get(upload_id)["handover"]["attempts"] >= 3, "an attempt after the restart")
    app.up()
    app.check_arrived(upload_id, content.sha256())
    # The third may have been under way when the app came back.
    assert backend.wait_status(upload_id, "finished")["handover"]["attempts"] >= 3


def test_a_callback_that_fails_is_repeated_with_its_id(make_daemon: MakeDaemon, app: App) -> None:
    """5xx, then no answer at all, then `done`: three attempts, one id, and the file is there each time."""
    daemon = make_daemon({"handover.timeout_s": 1})
    backend = Backend(daemon, app)
    ticket = backend.ticket()
    content = Content(random.randrange(1 << 30), SIZE_BYTES)
    app.script(ticket["id"], ERROR, HANG)
    TusUpload(ticket["upload_url"], content).run(piece_bytes=SIZE_BYTES)
    deliveries = app.wait_for(ticket["id"], count=3)
    app.check_arrived(ticket["id"], content.sha256())
    assert [delivery.sha256_by_path for delivery in deliveries] == [content.sha256()] * 3
    assert backend.wait_status(ticket["id"], "finished")["handover"]["attempts"] == 3


def test_a_callback_that_the_daemon_did_not_live_to_hear_is_repeated_with_its_id(
    make_daemon: MakeDaemon, app: App
) -> None:
    """The daemon is killed while the app thinks: after its restart the same callback comes again."""
    daemon = make_daemon()
    backend = Backend(daemon, app)
    ticket = backend.ticket()
    content = Content(random.randrange(1 << 30), SIZE_BYTES)
    app.script(ticket["id"], HANG)
    TusUpload(ticket["upload_url"], content).run(piece_bytes=SIZE_BYTES)
    app.wait_for(ticket["id"])
    daemon.kill9()
    daemon.start()
    app.wait_for(ticket["id"], count=2)
    app.check_arrived(ticket["id"], content.sha256())
    backend.wait_status(ticket["id"], "finished")


def test_a_wait_outlives_a_restart(make_daemon: MakeDaemon, app: App) -> None:
    """`wait`, then `kill -9`, then the app confirms: the path that it was told still holds the file until then."""
    daemon = make_daemon()
    backend = Backend(daemon, app)
    app.answer = lambda _: WAIT
    upload_id, content = upload(backend)
    delivery = app.wait_for(upload_id)[0]
    backend.wait_status(upload_id, "awaiting_app")
    daemon.kill9()
    daemon.start()
    assert backend.get(upload_id)["status"] == "awaiting_app"
    assert sha256_of(Path(delivery.data["path"])) == content.sha256()
    backend.finish(upload_id)
    assert backend.get(upload_id)["status"] == "finished"
    assert len(app.of(upload_id, "upload.complete")) == 1


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users may enter, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="incoming-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.root
@pytest.mark.parametrize("how", ["read", "move"])
def test_an_app_of_another_unix_user_gets_the_file(how: str, open_folder: Path, app: App) -> None:
    """With `files.mode` and `files.group` another user's app reads the file at `path`, or moves it away."""
    user = pwd.getpwnam("nobody")
    group = grp.getgrgid(user.pw_gid)
    inbox = open_folder / "inbox"
    inbox.mkdir()
    os.chown(inbox, user.pw_uid, user.pw_gid)
    program = shutil.copy(Path(__file__).parent / "clients/other_user_app.py", open_folder)
    port = free_port()
    # The system's own Python: another user may not be able to reach that of the tests.
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin") or sys.executable
    other = subprocess.Popen(
        [python, "-I", program, str(port), how, str(inbox)],
        user=user.pw_uid,
        group=user.pw_gid,
        extra_groups=[],
        cwd=open_folder,
        stdin=subprocess.DEVNULL,
    )
    daemon = Daemon(open_folder / "daemon", {"files.mode": "0640", "files.group": group.gr_name})
    try:
        daemon.start()
        backend = Backend(daemon, app)
        content = Content(random.randrange(1 << 30), SIZE_BYTES)
        ticket = backend.ticket(finish_url=f"http://127.0.0.1:{port}/", filename="report.bin")
        TusUpload(ticket["upload_url"], content).run(piece_bytes=SIZE_BYTES)
        finished = backend.wait_status(ticket["id"], "finished", "failed")
        assert finished["status"] == "finished", finished["error"]
        arrived = inbox / ticket["id"]
        assert sha256_of(arrived) == content.sha256()
        assert arrived.stat().st_uid == (0 if how == "move" else user.pw_uid)
        daemon.stop()
        daemon.check_log()
    finally:
        other.send_signal(signal.SIGTERM)
        other.wait(10)
        if daemon.process is not None and daemon.process.poll() is None:
            daemon.kill9()
