"""`make run`: one command starts the daemon and the example app, says where to go, and leaves nothing running."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
import requests

from tests.support.machine import ROOT


def start(folder: Path) -> tuple[subprocess.Popen[str], str]:
    """Start what `make run` starts; return the process and the URL that it says."""
    process = subprocess.Popen(
        [sys.executable, "-m", "scripts.run", str(folder)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A terminal gives Ctrl-C to a whole process group: this is one.
        start_new_session=True,
    )
    assert process.stdout is not None
    watchdog = threading.Timer(60, process.kill)
    watchdog.start()
    said = ""
    try:
        for line in process.stdout:
            said += line
            found = re.search(r"Open (http://\S+)", line)
            if found:
                return process, found[1]
    finally:
        watchdog.cancel()
    process.wait()
    process.stdout.close()
    message = f"no URL: {said}"
    raise AssertionError(message)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_make_run_starts_everything_and_stops_it(number: signal.Signals, tmp_path: Path) -> None:
    """The page answers at the URL; after Ctrl-C or SIGTERM no process is left, and the end is no failure."""
    process, url = start(tmp_path / "run")
    try:
        started = psutil.Process(process.pid).children(recursive=True)
        assert len(started) >= 2
        assert "<html" in requests.get(url, timeout=10).text.lower()
        os.killpg(process.pid, number)
        assert process.wait(30) == 0
        gone, left = psutil.wait_procs(started, timeout=1)
        assert not left
        assert len(gone) == len(started)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_make_run_says_what_is_wrong(tmp_path: Path) -> None:
    """A daemon that cannot start is told with the end of its log, and the other program is not left running."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "data").write_text("not a directory")
    with pytest.raises(AssertionError, match="incomingd has ended by itself"):
        start(folder)
