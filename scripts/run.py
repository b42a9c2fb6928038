"""Run the daemon and the example web app together, until Ctrl-C or SIGTERM: what ``make run`` calls.

Everything they write lies under ``.run/`` (or the directory that is given as the only argument). The usual ports are
used where they are free, else any others.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
RUN = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT / ".run"
EXAMPLE = ROOT / "examples" / "photodrop" / "app.py"

HOST = "127.0.0.1"
READY_WITHIN_S = 30.0
STOP_WITHIN_S = 15.0


class Stopped(Exception):
    """Somebody wants us to stop."""


@dataclass
class Program:
    """One of the two: *name* for people, and what runs it."""

    name: str
    command: list[str]
    ready_url: str
    process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """Where its output goes."""
        return RUN / f"{self.name}.log"

    def start(self) -> None:
        """Start it and wait until it answers."""
        with self.log.open("wb") as log:
            # In a process group of its own: Ctrl-C reaches us, and we stop the two in order.
            self.process = subprocess.Popen(
                self.command, cwd=RUN, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        deadline_s = time.monotonic() + READY_WITHIN_S
        while not answers(self.ready_url):
            self.check()
            if time.monotonic() > deadline_s:
                raise SystemExit(self.trouble(f"does not answer at {self.ready_url}"))
            time.sleep(0.05)

    def check(self) -> None:
        """End everything with a word if it has ended by itself."""
        if self.process is not None and self.process.poll() is not None:
            raise SystemExit(self.trouble(f"has ended by itself with status {self.process.returncode}"))

    def trouble(self, what: str) -> str:
        """Say what is wrong, with the end of the log."""
        lines = self.log.read_text("utf-8", "replace").splitlines()[-15:]
        return "\n".join([f"{self.name} {what}; its log ({self.log}) ends:", *lines])

    def stop(self) -> None:
        """Stop it; by force where it does not stop in time."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


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


def programs() -> tuple[Program, Program, str]:
    """Return the daemon, the example app, and the URL to open."""
    public, backend, app = (f"{HOST}:{port(preferred)}" for preferred in (4000, 4001, 4080))
    daemon = Program(
        "incomingd",
        [
            str(BIN / "incomingd"),
            *("--public.address", public),
            *("--backend.address", backend),
            *("--data_dir", str(RUN / "data")),
        ],
        f"http://{public}/incoming/1.0/health",
    )
    example = Program(
        "example",
        [
            *(str(BIN / "python"), str(EXAMPLE), "--listen", app),
            *("--incomingd-backend", f"http://{backend}"),
            *("--public-incomingd", f"http://{public}"),
            *("--files", str(RUN / "files")),
        ],
        f"http://{app}/",
    )
    return daemon, example, f"http://{app}/"


def stop_on(_number: int, _frame: FrameType | None) -> None:
    """Turn a signal into an exception in the main thread."""
    raise Stopped


def main() -> int:
    """Run both until somebody wants us to stop."""
    RUN.mkdir(parents=True, exist_ok=True)
    daemon, example, url = programs()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop_on)
    try:
        daemon.start()
        example.start()
        print(f"Open {url}", f"Files and logs are in {RUN}; Ctrl-C stops.", sep="\n", flush=True)
        while True:
            daemon.check()
            example.check()
            time.sleep(0.5)
    except Stopped:
        return 0
    finally:
        # From here on nothing interrupts: both are stopped, the app first, so that no hand-over meets half an app.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        example.stop()
        daemon.stop()


if __name__ == "__main__":
    sys.exit(main())
