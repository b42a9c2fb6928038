"""The service manager's side of sd_notify(3) and sd_listen_fds(3), as far as a daemon can tell it from systemd."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.daemon import Daemon
from tests.support.machine import ROOT
from tests.support.wire import ConnectionEnded, Wire

Message = dict[str, str]

# Sets what has to carry the process's own id, puts the sockets where they are looked for, and becomes the daemon.
_ACTIVATE = """
import fcntl, os, sys
descriptors, names, *command = sys.argv[1:]
# First out of the way of the numbers that they shall have.
handed = [fcntl.fcntl(int(each), fcntl.F_DUPFD_CLOEXEC, 100) for each in descriptors.split(",")]
for number, each in enumerate(handed):
    os.dup2(each, 3 + number)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(handed)), "LISTEN_FDNAMES": names}
os.execv(command[0], command)
"""


class Manager:
    """Hears what a process tells its service manager. *address* is what `NOTIFY_SOCKET` says. A context manager."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.heard: list[Message] = []
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.socket.close()

    def hear(self, timeout_s: float) -> Message | None:
        """Return the next message; None where none comes in time."""
        self.socket.settimeout(timeout_s)
        try:
            data = self.socket.recv(65536)
        except (TimeoutError, BlockingIOError):
            return None
        message = dict(line.split("=", 1) for line in data.decode().splitlines())
        self.heard.append(message)
        return message

    def hear_all(self) -> list[Message]:
        """Return what has been said by now."""
        found = []
        while (message := self.hear(0)) is not None:
            found.append(message)
        return found

    def wait(self, name: str, timeout_s: float = 30) -> Message:
        """Return the first message from now on that sets *name*."""
        return self.wait_for(lambda message: name in message, name, timeout_s)

    def wait_for(self, wanted: Callable[[Message], bool], what: str, timeout_s: float = 30) -> Message:
        """Return the first message from now on that is *wanted*."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            message = self.hear(max(deadline_s - time.monotonic(), 0.001))
            assert message is not None, f"waited {timeout_s} s in vain for {what}; heard {self.heard}"
            if wanted(message):
                return message


class Activated(Daemon):
    """A daemon that gets listening sockets from whoever starts it: *sockets* by the names that they are given."""

    def __init__(
        self, folder: Path, sockets: list[tuple[str, socket.socket]], settings: dict[str, object] | None = None
    ) -> None:
        super().__init__(folder, settings)
        self.sockets = sockets

    def launch(self) -> None:
        """Start the process and return at once."""
        self.folder.mkdir(parents=True, exist_ok=True)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("INCOMING_")}
        handed = [each.fileno() for _, each in self.sockets]
        names = ":".join(name for name, _ in self.sockets)

        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _ACTIVATE, ",".join(map(str, handed)), names, *self.command()],
                cwd=self.folder,
                env=environment | {"PYTHONPATH": str(ROOT), "INCOMINGD_STRICT_LOG": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=handed,
            )
        self.starts += 1


class Caller:
    """Asks again and again, each time on a connection of its own, and counts the answers. A context manager.

    A connection that is refused is a failure. One may be cut that was taken in the last moment of a process, and had
    not asked anything when that ended.
    """

    def __init__(self, address: tuple[str, int], path: str) -> None:
        self._address = address
        self._path = path
        self._stop = threading.Event()
        self.answered = 0
        self.failures: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with Wire(self._address) as wire:
                    try:
                        status = wire.request("GET", self._path).status
                    except (ConnectionEnded, ConnectionResetError, BrokenPipeError):
                        continue
                    # 503: of a process that stops, which says so.
                    assert status in (200, 503)
            except BaseException as error:  # noqa: BLE001 -- __exit__ raises it in the test's own thread
                self.failures.append(error)
                return
            self.answered += 1

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive()
        if self.failures:
            raise self.failures[0]
