"""The real daemon: which listener answers whom, what a reload changes, what is counted of a real upload."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import requests
from prometheus_client.parser import text_string_to_metric_families as families

from tests.support.app import App
from tests.support.backend import Backend
from tests.support.content import Content
from tests.support.fixtures import MakeDaemon
from tests.support.machine import BIN
from tests.support.tus import TusUpload

ADMIN = "/incoming/1.0/admin"


def ctl(address: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(BIN / "incomingctl"), "--address", address, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_operators_can_have_a_listener_of_their_own(make_daemon: MakeDaemon, tmp_path: Path) -> None:
    """No path of one listener exists on another, and a Unix socket asks for no token."""
    socket = f"unix:{tmp_path / 'admin.sock'}"
    daemon = make_daemon({"admin.address": socket, "backend.tokens": "web-app-token"})
    done = ctl(socket, "status")
    assert json.loads(done.stdout)["connections"] == {"public": 0, "backend": 0, "admin": 1}, done.stderr
    token = {"Authorization": "Bearer web-app-token"}
    for listener in (daemon.public_url, daemon.backend_url):
        for path in ("/health", "/status", "/metrics", "/uploads"):
            answer = requests.get(listener + ADMIN + path, headers=token, timeout=30)
            assert (answer.status_code, answer.json()["code"]) == (404, "path_unknown")
    assert ctl(socket, "uploads").stdout == "[]\n"
    backend = "/incoming/1.0/backend/uploads"
    assert requests.get(daemon.public_url + backend, headers=token, timeout=30).status_code == 404
    assert requests.get(daemon.backend_url + backend, headers=token, timeout=30).status_code == 200
    assert requests.get(daemon.backend_url + backend, timeout=30).status_code == 401


def test_a_reload_changes_who_may_call_and_where_callbacks_may_go(make_daemon: MakeDaemon, tmp_path: Path) -> None:
    file = tmp_path / "incomingd.yaml"

    def configure(token: str, host: str) -> None:
        file.write_text(f"backend: {{tokens: [{token}]}}\nhandover: {{allowed_hosts: [{host}]}}\n")

    configure("first-token", "a.example")
    daemon = make_daemon({"config": file}, allowed=["config.reload_refused"])
    address = daemon.backend_url.removeprefix("http://")

    def ticket(token: str, host: str) -> int:
        return Backend(daemon, token=token).call("POST", "/uploads", {"finish_url": f"http://{host}/"}).status_code

    assert (ticket("first-token", "a.example"), ticket("first-token", "b.example")) == (201, 400)
    configure("second-token", "b.example")
    done = ctl(address, "reload", "--token", "first-token")
    assert {change["key"] for change in json.loads(done.stdout)["applied"]} == {
        "backend.tokens",
        "handover.allowed_hosts",
    }
    assert "second-token" not in done.stdout
    assert (ticket("first-token", "b.example"), ticket("second-token", "a.example")) == (403, 400)
    assert ticket("second-token", "b.example") == 201
    file.write_text("backend: {tokens: [third-token]}\nhold: 3\n")
    done = ctl(address, "reload", "--token", "second-token")
    assert done.returncode == 1
    assert "did you mean: hold_s" in done.stderr
    assert (ticket("second-token", "b.example"), ticket("third-token", "b.example")) == (201, 403)
    daemon.wait_event("config.reload_refused")
    logged = [event["event"] for event in daemon.log_events() if event["event"].startswith("config.reload")]
    assert logged == ["config.reloaded", "config.reload_refused"]


def test_a_real_upload_is_counted(make_daemon: MakeDaemon, app: App) -> None:
    daemon = make_daemon()
    backend = Backend(daemon, app)
    content = Content(7, 300_000)
    ticket = backend.ticket(labels=["x"])
    TusUpload(ticket["upload_url"], content).run(piece_bytes=100_000)
    app.check_arrived(ticket["id"], content.sha256())
    backend.wait_status(ticket["id"], "finished")
    text = requests.get(daemon.backend_url + ADMIN + "/metrics", timeout=30).text
    found = {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in families(text)
        for sample in family.samples
    }
    assert found["incomingd_received_bytes_total", "tus"] == 300_000
    assert sum(found.get(("incomingd_body_bytes_total", path), 0) for path in ("direct", "read")) == 300_000
    assert found["incomingd_appends_total", "complete", "tus"] == 3
    assert found["incomingd_append_duration_seconds_count", "tus"] == 3
    assert found["incomingd_appends_open",] == 0
    assert found["incomingd_callbacks_total", "done", "upload.complete"] == 1
    assert found["incomingd_callback_duration_seconds_count", "upload.complete"] == 1
    assert found["incomingd_uploads_ended_total", "finished"] == 1
    assert found["incomingd_uploads", "finished"] == 1
    assert ctl(daemon.backend_url, "uploads", "--label", "x").stdout.count(ticket["id"]) == 2
