"""The example web app as a process of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import requests
from standardwebhooks import Webhook

from tests.support.daemon import Daemon
from tests.support.machine import ROOT, free_port, wait_until


@dataclass
class Photodrop:
    """The example, running."""

    folder: Path
    url: str
    process: subprocess.Popen[bytes]

    def ticket(self, visitor: requests.Session, **file: object) -> requests.Response:
        """Ask for a ticket as the page does."""
        fields = {"name": "a.bin", "size": 5, "last_modified": 7} | file
        return visitor.post(f"{self.url}/tickets", json=fields, timeout=30)

    def hand_over(self, webhook_id: str, data: dict[str, Any], secret: str | None = None) -> requests.Response:
        """Make a callback as incomingd does."""
        body = json.dumps({"type": "upload.complete", "timestamp": "2026-01-01T00:00:00Z", "data": data})
        now = datetime.now(UTC)
        signature = Webhook(secret or (self.folder / ".secret").read_text()).sign(webhook_id, now, body)
        headers = {"webhook-id": webhook_id, "webhook-timestamp": str(int(now.timestamp()))}
        headers |= {"webhook-signature": signature, "Content-Type": "application/json"}
        return requests.post(f"{self.url}/handover", data=body, headers=headers, timeout=30)

    def entries(self) -> list[dict[str, Any]]:
        """Return what it has noted as received."""
        return [json.loads(line) for line in (self.folder / ".received.jsonl").read_text().splitlines()]

    def files(self) -> list[str]:
        """Return the names of the files in its folder that a person sees."""
        return sorted(path.name for path in self.folder.iterdir() if not path.name.startswith("."))


def _hear_ctrl_c() -> None:
    """Undo what a shell does to a test run in the background: it ignores SIGINT, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(folder: Path, daemon: Daemon, public_url: str) -> Photodrop:
    """Start the example and wait until it answers."""
    folder.mkdir(parents=True, exist_ok=True)
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, str(ROOT / "examples/photodrop/app.py"), "--listen", address]
    command += ["--incomingd-backend", daemon.backend_url, "--public-incomingd", public_url, "--files", str(folder)]
    with (folder / ".log").open("ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=_hear_ctrl_c,  # noqa: PLW1509 -- it takes no lock
        )

    def answers() -> bool:
        assert process.poll() is None, (folder / ".log").read_text()
        try:
            return requests.get(f"http://{address}/", timeout=5).status_code == 200
        except requests.ConnectionError:
            return False

    wait_until(answers, "the example")
    return Photodrop(folder, f"http://{address}", process)


def stop(running: Photodrop) -> None:
    """Stop it as Ctrl-C does; it has nothing to complain of."""
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(10) == 0
    said = (running.folder / ".log").read_text()
    assert "Traceback" not in said, said
