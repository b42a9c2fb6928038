"""The real ``incomingd`` as a process of its own, on free ports and a directory of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import requests

from tests.support.machine import BIN, ROOT, free_port, wait_until

READY_WITHIN_S = 20.0
STOP_WITHIN_S = 20.0

# Levels of log events that no test expects unless it says so.
BAD_LEVELS = frozenset({"error", "critical", "exception"})


class Daemon:
    """One ``incomingd``; `start` it, and `stop` it in the end (`tests.support.fixtures` does both).

    The settings are API.md's keys: ``Daemon(folder, {"durability": "none", "limits.header_bytes": 8192})``. What is
    not given are addresses on 127.0.0.1 with free ports and a data directory in *folder*.
    """

    def __init__(self, folder: Path, settings: dict[str, object] | None = None) -> None:
        self.folder = folder
        self.public = ("127.0.0.1", free_port())
        self.backend = ("127.0.0.1", free_port())
        self.data_dir = folder / "data"
        self.settings: dict[str, object] = {
            "public.address": _host_port(self.public),
            "backend.address": _host_port(self.backend),
            "data_dir": str(self.data_dir),
            # Files of tests outlive no test; the tests of durability ask for it.
            "durability": "none",
            "handover.backoff_first_s": 0.1,
        } | (settings or {})
        self.data_dir = Path(str(self.settings["data_dir"]))
        self.log_path = folder / "incomingd.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.starts = 0
        self.environment: dict[str, str] = {}
        """Of the next start, beside this process's own."""
        self.supervised = False
        """Whether somebody else starts the process again when it has ended."""

    @property
    def public_url(self) -> str:
        """``http://host:port`` of the public listener."""
        return "http://" + _host_port(self.public)

    @property
    def backend_url(self) -> str:
        """``http://host:port`` of the backend listener."""
        return "http://" + _host_port(self.backend)

    @property
    def pid(self) -> int:
        """The process id of the running daemon."""
        assert self.process is not None, "the daemon was not started"
        return self.process.pid

    def command(self) -> list[str]:
        """Return the command line that `start` runs."""
        options = [part for key, value in self.settings.items() for part in (f"--{key}", _text(value))]
        return [str(BIN / "incomingd"), *options]

    def launch(self) -> None:
        """Start the process and return at once; `wait_ready` waits for it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("INCOMING_")}
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                cwd=self.folder,
                # An event or a field that the catalogue of the log does not know is a fault.
                env=environment | {"PYTHONPATH": str(ROOT), "INCOMINGD_STRICT_LOG": "1"} | self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.starts += 1

    def wait_ready(self, timeout_s: float = READY_WITHIN_S) -> None:
        """Return once the public listener says that it is ready; fail with the log if the process ends instead."""

        def ready() -> bool:
            assert self.process is not None
            status = self.process.poll()
            assert status is None or (self.supervised and status == -signal.SIGKILL), (
                f"incomingd ended with {status} at its start:\n{self.log_tail()}"
            )
            return self.is_ready()

        wait_until(ready, f"incomingd ready (log: {self.log_path})", timeout_s=timeout_s)

    def is_ready(self) -> bool:
        """Return whether the public listener answers its health check with 200."""
        try:
            answer = requests.get(f"{self.public_url}/incoming/1.0/health", timeout=5)
        except requests.RequestException:
            return False
        return answer.status_code == 200

    def start(self) -> Daemon:
        """Start the process and wait until it is ready."""
        self.launch()
        self.wait_ready()
        return self

    def kill9(self) -> None:
        """Kill the process with SIGKILL and wait until it is gone."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def terminate(self) -> int:
        """Ask the process to stop (SIGTERM), wait until it has, and return its exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                self.kill9()
                message = f"incomingd did not stop within {STOP_WITHIN_S} s of SIGTERM:\n{self.log_tail()}"
                raise AssertionError(message) from None
        return self.process.returncode

    def stop(self) -> None:
        """Stop the process and fail unless it ended well; nothing happens where it never ran or was killed."""
        if self.process is None or self.process.returncode == -signal.SIGKILL:
            return
        status = self.terminate()
        assert status == 0, f"incomingd ended with {status} after SIGTERM:\n{self.log_tail()}"

    def restart(self) -> None:
        """Stop the process if it runs, and start it again on the same ports and data."""
        if self.process is not None and self.process.poll() is None:
            self.stop()
        self.start()

    def log_tail(self, lines: int = 15) -> str:
        """Return the last lines of the log as they are."""
        if not self.log_path.exists():
            return "(no log)"
        return "\n".join(self.log_path.read_text("utf-8", "replace").splitlines()[-lines:])

    def log_events(self, name: str | None = None, **fields: object) -> list[dict[str, Any]]:
        """Return the log's events, those called *name* whose *fields* are as given; fail where a line is no JSON.

        The last line may be half written where the process was killed; so may any line that a start follows.
        """
        events = []
        raw = self.log_path.read_bytes() if self.log_path.exists() else b""
        for number, line in enumerate(raw.decode("utf-8", "replace").splitlines(), 1):
            try:
                event = json.loads(line)
            except ValueError:
                assert self.starts > 1, f"{self.log_path}:{number} is no JSON: {line!r}"
                continue
            if name is not None and event.get("event") != name:
                continue
            if all(event.get(key) == value for key, value in fields.items()):
                events.append(event)
        return events

    def wait_event(self, name: str, *, timeout_s: float = 30, **fields: object) -> dict[str, Any]:
        """Wait until the log has an event called *name* with these *fields*, and return the first."""
        return wait_until(
            lambda: self.log_events(name, **fields),
            f"log event {name} {fields}; the log ends:\n{self.log_tail(10)}",
            timeout_s=timeout_s,
        )[0]

    def check_log(self, *, allowed: frozenset[str] = frozenset()) -> None:
        """Fail if the log holds an event of level error, or worse, whose name is not in *allowed*."""
        bad = [
            event
            for event in self.log_events()
            if event.get("level") in BAD_LEVELS and event.get("event") not in allowed
        ]
        assert not bad, f"{len(bad)} errors in {self.log_path}, the first:\n{json.dumps(bad[0], indent=1)}"


class Supervisor:
    """Starts a `Daemon` again as soon as it has ended, as systemd does. A context manager: the end stops the daemon."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        daemon.supervised = True
        self.kills = 0
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)

    def __enter__(self) -> Self:
        if self.daemon.process is None:
            self.daemon.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._closing = True
        # From here on there is no successor, so this is the last one.
        self.daemon.supervised = False
        self.daemon.stop()
        self._thread.join(5)
        assert not self._thread.is_alive()

    def _watch(self) -> None:
        while True:
            assert self.daemon.process is not None
            self.daemon.process.wait()
            with self._changed:
                if self._closing:
                    return
                self.daemon.launch()
                self._changed.notify_all()

    def kill9(self) -> None:
        """Kill the daemon with SIGKILL; returns once its successor has been launched (not: is ready)."""
        with self._changed:
            process = self.daemon.process
            assert process is not None
            process.kill()
            self.kills += 1
            self._changed.wait_for(lambda: self.daemon.process is not process, READY_WITHIN_S)

    def kill9_when_ready(self) -> None:
        """Wait until the present daemon is ready, then kill it."""
        self.daemon.wait_ready()
        self.kill9()


class Killer:
    """Kills a supervised daemon with SIGKILL at random moments until it is told to stop.

    It waits *pause_s* (a function that returns seconds) between a daemon that is ready and its death, and longer while
    *hold* says that now is no time for it. *on_kill* is called right before each kill.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        pause_s: Callable[[], float],
        *,
        kills_max: int | None = None,
        hold: Callable[[], bool] = lambda: False,
        on_kill: Callable[[], None] = lambda: None,
    ) -> None:
        self._supervisor = supervisor
        self._pause_s = pause_s
        self._kills_max = kills_max
        self._hold = hold
        self._on_kill = on_kill
        self._stop = threading.Event()
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="killer", daemon=True)

    @property
    def kills(self) -> int:
        """How often it has killed."""
        return self._supervisor.kills

    def _run(self) -> None:
        try:
            while not self._stop.is_set() and (self._kills_max is None or self.kills < self._kills_max):
                self._supervisor.daemon.wait_ready()
                while self._hold() and not self._stop.wait(0.02):
                    pass
                if not self._stop.wait(self._pause_s()) and not self._hold():
                    self._on_kill()
                    self._supervisor.kill9()
        except BaseException as error:  # noqa: BLE001 -- __exit__ raises it in the test's own thread
            self.failure = error

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(READY_WITHIN_S + 10)
        assert not self._thread.is_alive(), "the killer does not stop"
        if self.failure is not None:
            raise self.failure

    def wait(self, timeout_s: float) -> None:
        """Wait until it has killed as often as it may."""
        self._thread.join(timeout_s)
        assert not self._thread.is_alive(), f"only {self.kills} kills within {timeout_s} s"


def _host_port(address: tuple[str, int]) -> str:
    return f"{address[0]}:{address[1]}"


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return ",".join(map(_text, value))
    return str(value)
