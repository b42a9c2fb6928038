"""Runs stock tus clients: programs of ``tests/e2e/clients`` in processes of their own, told what to do by JSON."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.machine import ROOT

CLIENTS = ROOT / "tests/e2e/clients"


class ClientRun:
    """One run of a stock client. A context manager: at the end of the block the process is gone."""

    def __init__(self, command: list[str], task: dict[str, Any]) -> None:
        self.task = task
        self.events: list[dict[str, Any]] = []
        self.status: int | None = None
        self._changed = threading.Condition()
        self._process = subprocess.Popen(
            [*command, json.dumps(task)],
            cwd=CLIENTS,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._errors: list[str] = []
        self._threads = [
            threading.Thread(target=self._read_events, daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for thread in self._threads:
            thread.join()
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()

    @property
    def sent_bytes(self) -> int:
        """How far the client says it is."""
        with self._changed:
            return max((event["bytes"] for event in self.events if event["event"] == "progress"), default=0)

    def story(self) -> str:
        """Return what happened, for people."""
        steps = [event for event in self.events if event["event"] != "progress"]
        return f"{self.task}\n{steps}\nat {self.sent_bytes} bytes, status {self.status}\n{''.join(self._errors)}"

    def wait_event(self, name: str, *, timeout_s: float = 60) -> dict[str, Any]:
        """Wait for an event called *name* and return it; fail if the client ends without it."""

        def found() -> dict[str, Any] | None:
            return next((event for event in self.events if event["event"] == name), None)

        with self._changed:
            self._changed.wait_for(lambda: found() is not None or self.status is not None, timeout_s)
            event = found()
        assert event is not None, f"no {name}: {self.story()}"
        return event

    def wait(self, *, timeout_s: float = 100) -> Self:
        """Wait until the client ends; fail if it gave up."""
        with self._changed:
            ended = self._changed.wait_for(lambda: self.status is not None, timeout_s)
        assert ended, f"the client still runs after {timeout_s} s: {self.story()}"
        assert self.status == 0, f"the client gave up: {self.story()}"
        return self

    def _read_events(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._changed:
                self.events.append(json.loads(line))
                self._changed.notify_all()
        status = self._process.wait()
        self._threads[1].join()
        with self._changed:
            self.status = status
            self._changed.notify_all()

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        with contextlib.suppress(ValueError):
            self._errors.extend(self._process.stderr)


def tus_js(file: Path, *, options: dict[str, Any], **task: Any) -> ClientRun:
    """Start an upload of *file* with tus-js-client under Node."""
    return ClientRun(["node", "tus-js.mjs"], {"file": str(file), "options": options} | task)


def tuspy(file: Path, *, options: dict[str, Any] | None = None, **task: Any) -> ClientRun:
    """Start an upload of *file* with tuspy."""
    return ClientRun([sys.executable, "tuspy_client.py"], {"file": str(file), "options": options or {}} | task)
