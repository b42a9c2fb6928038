"""What systemd is told of this process (sd_notify(3)): ready, stopping, how far it is, and that it is alive.

Where no service manager listens (`NOTIFY_SOCKET` is not set) nothing of this does anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import os
import socket
import time
from collections import deque
from enum import Enum
from typing import TYPE_CHECKING, Final

from incomingd.log import events, get_logger

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

log = get_logger()

PATIENCE_S: Final = 30.0
"""For so long the service manager waits from each progress to the next before it takes this process for stuck."""
SEND_AGAIN_S: Final = 0.05
"""A full queue of the service manager empties within moments."""
STATUS_INTERVAL_S: Final = 0.5
"""Progress is told no more often; nobody reads faster, and the service manager has others to listen to."""
STATUS_CHARS_MAX: Final = 500


class _Life(Enum):
    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"


class Notifier:
    """Speaks to the service manager; never blocks, and never fails whoever has something to tell.

    Args:
        address: a path, or `@` and an abstract name; None where nobody listens.
        watchdog_s: the process is taken for hung after so long without a sign of life; None: nobody watches.
    """

    def __init__(self, address: str | None, *, watchdog_s: float | None = None) -> None:
        self._address = address
        self._watchdog_s = watchdog_s if address else None
        self._life = _Life.STARTING
        self._unsent: deque[str] = deque()
        self._again: asyncio.TimerHandle | None = None
        self._ping: asyncio.TimerHandle | None = None
        self._complained = False
        self._told = ""
        self._latest = ""
        self._late: asyncio.TimerHandle | None = None
        self._told_at_s = float("-inf")
        self._socket: socket.socket | None = None
        if address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)  # noqa: FBT003 -- the socket's own interface

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Notifier:
        """Read what the service manager has set: `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`."""
        watchdog_s = None
        period_us = environ.get("WATCHDOG_USEC", "")
        # The variables come to children as well, who are not meant.
        meant = environ.get("WATCHDOG_PID") in (None, "", str(os.getpid()))
        if meant and period_us.isascii() and period_us.isdigit() and int(period_us):
            watchdog_s = int(period_us) / 1e6
        return cls(environ.get("NOTIFY_SOCKET") or None, watchdog_s=watchdog_s)

    # -- life

    def ready(self, status: str) -> None:
        """Requests are answered from now on."""
        if self._life is not _Life.STOPPING:
            self._life = _Life.READY
            self._tell("READY=1\n", status)

    @contextlib.contextmanager
    def reloading(self) -> Iterator[None]:
        """Say that the configuration is read again while the block runs, and afterwards how that went.

        A block that raises leaves the former configuration in force, so that is ready, too. Before the process is
        ready and once it stops nothing is said, for `READY=1` would be untrue.
        """
        if self._life is not _Life.READY:
            yield
            return
        status = self._told
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}\n", "reading the configuration again")
        try:
            yield
        except Exception:
            self._tell("READY=1\n", f"{status}; the new configuration was refused, see the log")
            self._told = status
            raise
        else:
            self._tell("READY=1\n", status)

    def stopping(self, status: str, *, within_s: float = PATIENCE_S) -> None:
        """The process stops: the service manager waits at least *within_s* seconds from now for its end.

        Called again for each stage that has a time of its own; what takes longer tells its :meth:`progress` meanwhile.
        """
        state = "" if self._life is _Life.STOPPING else "STOPPING=1\n"
        self._life = _Life.STOPPING
        self._tell(f"{state}EXTEND_TIMEOUT_USEC={_microseconds(within_s)}\n", status)

    def progress(self, status: str) -> None:
        """Show how far a start, a drain or a stop has come; call it as often as you like.

        Whoever waits waits for :data:`PATIENCE_S` from each *other* status to the next: a text with a number that
        counts down keeps a process that gets on from being killed, and one that hangs is killed.
        """
        self._latest = status
        early_s = self._told_at_s + STATUS_INTERVAL_S - time.monotonic()
        if early_s <= 0:
            self._tell_latest()
        elif self._late is None:
            self._late = asyncio.get_running_loop().call_later(early_s, self._tell_latest)

    def _tell_latest(self) -> None:
        if self._latest == self._told:
            self._forget_late()
            return
        # While the process is up nobody waits for its end: an operator drains it, and only looks on.
        state = "" if self._life is _Life.READY else f"EXTEND_TIMEOUT_USEC={_microseconds(PATIENCE_S)}\n"
        self._tell(state, self._latest, keep=False)

    def _forget_late(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    # -- watchdog

    def watch(self) -> None:
        """Give signs of life from the running event loop, twice as often as they are asked for, until :meth:`close`.

        They stop with the loop. The service manager then kills the process with SIGABRT, upon which it writes where
        each of its threads was to standard error.
        """
        if self._watchdog_s is None:
            return
        faulthandler.enable()
        self._give_sign()

    def _give_sign(self) -> None:
        assert self._watchdog_s is not None
        self._send("WATCHDOG=1", keep=False)
        self._ping = asyncio.get_running_loop().call_later(self._watchdog_s / 2, self._give_sign)

    def close(self) -> None:
        """Fall silent."""
        for timer in (self._again, self._ping, self._late):
            if timer is not None:
                timer.cancel()
        self._again = self._ping = self._late = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    # -- sending

    def _tell(self, state: str, status: str, *, keep: bool = True) -> None:
        # What is told now is newer than any progress that waits to be told.
        self._forget_late()
        self._told, self._told_at_s = status, time.monotonic()
        line = " ".join(status.split())[:STATUS_CHARS_MAX]
        self._send(f"{state}STATUS={line}", keep=keep)

    def _send(self, message: str, *, keep: bool) -> None:
        """Send *message*; where there is no room for it now it goes later if it is to be kept, else not at all."""
        if self._unsent or not self._sent(message):
            if keep:
                self._unsent.append(message)
            self._send_later()

    def _send_later(self) -> None:
        if self._unsent and self._again is None:
            self._again = asyncio.get_running_loop().call_later(SEND_AGAIN_S, self._send_unsent)

    def _send_unsent(self) -> None:
        self._again = None
        while self._unsent and self._sent(self._unsent[0]):
            self._unsent.popleft()
        self._send_later()

    def _sent(self, message: str) -> bool:
        """Return False where there is no room just now; what cannot be sent at all counts as sent."""
        if self._socket is None or self._address is None:
            return True
        try:
            self._socket.sendto(message.encode(), _socket_name(self._address))
        except (BlockingIOError, InterruptedError):
            return False
        except (OSError, ValueError) as error:
            if not self._complained:
                self._complained = True
                detail = getattr(error, "strerror", None) or str(error)
                log.warning(events.MANAGER_NOT_TOLD, setting="NOTIFY_SOCKET", detail=detail)
        return True


def _socket_name(address: str) -> str:
    """Return the name that the kernel knows a socket by. Raises ValueError: an address of a kind that is not spoken."""
    if address.startswith("@"):
        return "\0" + address[1:]
    if address.startswith("/"):
        return address
    msg = f"{address!r} is neither a path nor an abstract name"
    raise ValueError(msg)


def _microseconds(duration_s: float) -> int:
    return round(duration_s * 1e6)
