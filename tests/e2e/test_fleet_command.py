"""`make fleet`: one command starts a whole fleet, says what to open and type, and leaves nothing running."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests

from tests.support.content import Content
from tests.support.machine import BIN, ROOT, wait_until
from tests.support.tus import TusUpload

MIB = 1024 * 1024


class Command:
    """What `make fleet` starts, in *folder*; `said` is what it has written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "scripts.fleet", str(folder)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # A terminal gives Ctrl-C to a whole process group: this is one.
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                self.said += line

    def wait_said(self, pattern: str) -> re.Match[str]:
        """Wait until it has written what *pattern* finds."""

        def found() -> bool:
            assert self.process.poll() is None, self.said
            return re.search(pattern, self.said) is not None

        wait_until(found, f"{pattern} in what it says", timeout_s=60)
        match = re.search(pattern, self.said)
        assert match is not None
        return match

    def admin(self, name: str) -> str:
        """Return the address of an instance for operators."""
        return self.wait_said(rf"{name} +admin (\S+)")[1]

    def typed(self, pattern: str) -> str:
        """Run the command line that it tells to type and that *pattern* finds; return what that writes."""
        line = self.wait_said(rf"(?m)^  ((?:\S.*)?{pattern}\S*)")[1]
        done = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def end(self) -> int:
        """Press Ctrl-C, and return how it ended."""
        os.killpg(self.process.pid, signal.SIGINT)
        status = self.process.wait(60)
        self._reader.join()
        return status


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    command = Command(tmp_path / "fleet")
    started: list[psutil.Process] = []
    try:
        command.wait_said("Ctrl-C stops everything")
        started = psutil.Process(command.process.pid).children(recursive=True)
        yield command
    finally:
        if command.process.poll() is None:
            command.end()
        assert not psutil.wait_procs(started, timeout=1)[1]


def test_make_fleet(command: Command) -> None:
    """An upload goes through the balancer while its instance is drained and another one killed; then all is stopped."""
    app = command.wait_said(r"Open (http://\S+)/ ")[1]
    balancer = command.wait_said(r"go through (http://\S+) ")[1]
    assert len(json.loads(command.typed("ring"))["instances"]) == 3
    content = Content(random.randrange(1 << 30), 3 * MIB)
    fields = {"name": "a.bin", "size": content.size_bytes, "last_modified": 7}
    ticket = requests.post(f"{app}/tickets", json=fields, timeout=30).json()
    upload = TusUpload(balancer + ticket["upload_url"], content)
    with upload.connect() as wire:
        assert upload.create(wire).status == 201
        assert upload.patch(wire, 0, content.read(0, MIB)).status == 204
    command.typed("kill -9 ")
    assert json.loads(command.typed("drain --wait"))["state"] == "drained"
    with upload.connect() as wire:
        assert upload.head(wire).offset == MIB
        assert upload.patch(wire, MIB, content.read(MIB, MIB)).status == 204
    command.wait_said("two is started again")
    upload.run(piece_bytes=MIB)
    received = command.folder / "files" / ".received.jsonl"
    wait_until(lambda: content.sha256() in received.read_text(), "the file is handed over")
    assert upload.creations == 1
    status = [str(BIN / "incomingctl"), "--address", command.admin("one"), "undrain"]
    assert json.loads(subprocess.run(status, capture_output=True, check=True).stdout) == {"state": "ready"}
    assert command.end() == 0
    assert "Traceback" not in command.said
