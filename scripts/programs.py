"""What `run.py` and `fleet.py` share: programs that are started in order, watched, and stopped by their process id."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
EXAMPLE = ROOT / "examples" / "photodrop" / "app.py"

HOST = "127.0.0.1"
READY_WITHIN_S = 30.0
STOP_WITHIN_S = 15.0
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(Exception):
    """Somebody wants us to stop."""


@dataclass
class Program:
    """One of them: *name* for people, what runs it, where it writes, and how to see that it answers."""

    name: str
    command: list[str]
    folder: Path
    ready: Callable[[], bool]
    environment: Mapping[str, str] = field(default_factory=dict)
    stop_within_s: float = STOP_WITHIN_S
    process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """Where its output goes."""
        return self.folder / f"{self.name}.log"

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self.process is not None, "it was not started"
        return self.process.pid

    def launch(self) -> None:
        """Start it, and do not wait."""
        # What a first run has said stays readable after a second one began.
        with self.log.open("wb" if self.process is None else "ab") as log:
            # In a process group of its own: Ctrl-C reaches us, and we stop all in order.
            self.process = subprocess.Popen(
                self.command,
                cwd=self.folder,
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_ready(self) -> None:
        """Wait until it answers."""
        deadline_s = time.monotonic() + READY_WITHIN_S
        while not self.ready():
            self.check()
            if time.monotonic() > deadline_s:
                raise SystemExit(self.trouble("does not answer"))
            time.sleep(0.05)

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.launch()
        self.wait_ready()

    @property
    def ended(self) -> int | None:
        """How it has ended; None: it runs, or was not started."""
        return None if self.process is None else self.process.poll()

    def check(self) -> None:
        """End everything with a word if it has ended by itself."""
        if self.ended is not None:
            raise SystemExit(self.trouble(f"has ended by itself with status {self.ended}"))

    def trouble(self, what: str) -> str:
        """Say what is wrong, with the end of the log."""
        lines = self.log.read_text("utf-8", "replace").splitlines()[-15:]
        return "\n".join([f"{self.name} {what}; its log ({self.log}) ends:", *lines])

    def stop(self) -> None:
        """Stop it; by force where it does not stop in time."""
        stop_all([self])


def stop_all(programs: Sequence[Program]) -> None:
    """Stop some at the same time."""
    running = [(each, each.process) for each in programs if each.process is not None and each.process.poll() is None]
    for _, process in running:
        process.terminate()
        # One that was frozen hears nothing before it goes on.
        process.send_signal(signal.SIGCONT)
    for program, process in running:
        try:
            process.wait(program.stop_within_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def answers(url: str) -> bool:
    """Return whether *url* answers with success."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 -- an http URL made here
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def port(preferred: int) -> int:
    """Return *preferred* where nobody has it, else a free port."""
    for candidate in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind((HOST, candidate))
                return int(probe.getsockname()[1])
    message = "no free port found"
    raise SystemExit(message)


def _stop_on(_number: int, _frame: FrameType | None) -> None:
    """Turn a signal into an exception in the main thread."""
    raise Stopped


def until_stopped(work: Callable[[], None], stop: Callable[[], None]) -> None:
    """Do *work* until Ctrl-C, SIGTERM or SIGHUP, which count as success; call *stop* in the end, uninterrupted."""
    for number in SIGNALS:
        signal.signal(number, _stop_on)
    try:
        work()
    except Stopped:
        pass
    finally:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        stop()
