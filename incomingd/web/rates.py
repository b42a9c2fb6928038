"""Bytes a second: of one upload, of one client's address, of all together.

Who sends faster is not cut but held back: its bytes stay in the socket, whose
buffer fills, and the kernel tells the sender to wait.

Each limit is a line of time. A body *books* before its turn: the bytes that it
is about to take have their place behind those that others have booked, on each
line that holds for it, and it waits until its place has come. So all get their
turns one after the other, nobody asks again and again, and the sum is exact
however many wait. What was booked and not taken is given back. A line that lay
idle has little credit: enough to make up for timers that are late.
"""

from __future__ import annotations

import ipaddress
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Callable

CREDIT_S: Final = 0.1
"""So much of the time in which nobody came can be made up for."""
ROUND_S: Final = 0.1
"""Within about so long all who wait have had a turn ..."""
TURNS_PER_S: Final = 500
"""... unless that took more turns than these ..."""
TURN_BYTES_MIN: Final = 16 * 1024
"""... or turns with fewer bytes, each of which has its cost ..."""
TURN_MAX_S: Final = 0.5
"""... but where so many bytes take longer than this; from there on turns are as small as they have to be."""
LOOKS: Final = 4
"""With each body that comes so many are looked at whether they can be forgotten: more than come."""
V6_PREFIX: Final = 64
"""A client has at least a network of so many bits to itself, and any address in it (RFC 6177, section 2)."""


@dataclass(frozen=True, slots=True)
class RateLimits:
    """How many bytes a second; None: as many as come."""

    upload: int | None = None
    """Of one upload, all its parts together."""
    address: int | None = None
    """Of one client's address."""
    total: int | None = None
    """Of all uploads of this instance."""


class _Line:
    """The line of time of one limit."""

    __slots__ = ("booked_until_s", "bytes_per_s", "users", "waiting")

    def __init__(self, bytes_per_s: int | None, now_s: float) -> None:
        self.bytes_per_s = bytes_per_s
        self.booked_until_s = now_s
        self.users = 0
        """Bodies under way."""
        self.waiting = 0
        """Of these, those that have booked and not taken yet."""

    def turn_bytes(self) -> int:
        rate = self.bytes_per_s
        assert rate is not None
        round_bytes = rate * ROUND_S / (self.waiting + 1)
        return int(max(round_bytes, rate / TURNS_PER_S, min(TURN_BYTES_MIN, rate * TURN_MAX_S)))

    def book(self, size: int, now_s: float) -> float:
        """Return when its time has come."""
        assert self.bytes_per_s is not None
        start_s = max(self.booked_until_s, now_s - CREDIT_S)
        self.booked_until_s = start_s + size / self.bytes_per_s
        self.waiting += 1
        return start_s

    def settle(self, untaken: int) -> None:
        self.waiting -= 1
        if self.bytes_per_s is not None:
            self.booked_until_s -= untaken / self.bytes_per_s


class Rates:
    """All limits of one instance, and who is held back by them."""

    def __init__(self, limits: RateLimits | None = None) -> None:
        self._limits = limits or RateLimits()
        self._total = _Line(self._limits.total, 0.0)
        self._of_address: dict[str, _Line] = {}
        self._of_upload: dict[str, _Line] = {}
        self._left: dict[tuple[bool, str], None] = {}
        """Lines that nobody may use any more, of addresses (True) and uploads, in the order in which to look at them.

        They are kept for a while: who is in debt must not get rid of it by coming again.
        """
        self.limited = self._any()
        """Whether there is a limit at all."""

    @property
    def limits(self) -> RateLimits:
        """Those in force; others hold at once, for bodies under way, too."""
        return self._limits

    @limits.setter
    def limits(self, limits: RateLimits) -> None:
        self._limits = limits
        self.limited = self._any()
        self._total.bytes_per_s = limits.total
        for lines, bytes_per_s in ((self._of_address, limits.address), (self._of_upload, limits.upload)):
            for line in lines.values():
                line.bytes_per_s = bytes_per_s

    def _any(self) -> bool:
        return self._limits != RateLimits()

    @property
    def lines_kept(self) -> int:
        """How many addresses and uploads are remembered."""
        return len(self._of_address) + len(self._of_upload)

    def sending(self, address: str | None, upload: str, monotonic: Callable[[], float]) -> Share:
        """Return what a body asks for its turns; a context manager: it ends with the body.

        Args:
            address: the client's; None: not known (a Unix socket).
            upload: what it sends; any name that is its own.
            monotonic: time in s.
        """
        return Share(self, address, upload, monotonic)

    def lines_for(self, address: str | None, upload: str, now_s: float) -> list[_Line]:
        """Return the lines of a body, each with one more user until :meth:`leave`."""
        self._forget(now_s)
        self._total.users += 1
        lines = [self._total, self._line(self._of_upload, upload, self._limits.upload, now_s)]
        if address is not None:
            lines.append(self._line(self._of_address, network_of(address), self._limits.address, now_s))
        return lines

    @staticmethod
    def _line(lines: dict[str, _Line], name: str, bytes_per_s: int | None, now_s: float) -> _Line:
        line = lines.get(name)
        if line is None:
            line = lines[name] = _Line(bytes_per_s, now_s)
        line.users += 1
        return line

    def leave(self, lines: list[_Line], address: str | None, upload: str) -> None:
        """End what :meth:`lines_for` began."""
        for line in lines:
            line.users -= 1
        self._left[False, upload] = None
        if address is not None:
            self._left[True, network_of(address)] = None

    def _forget(self, now_s: float) -> None:
        for left in list(itertools.islice(self._left, LOOKS)):
            del self._left[left]
            of_address, name = left
            lines = self._of_address if of_address else self._of_upload
            line = lines.get(name)
            if line is None or line.users:
                continue
            if line.booked_until_s > now_s:
                self._left[left] = None
            else:
                del lines[name]


class Share:
    """What one body may take of all that hold for it; see :meth:`Rates.sending`."""

    __slots__ = ("_address", "_booked", "_lines", "_monotonic", "_rates", "_turn", "_upload")

    def __init__(self, rates: Rates, address: str | None, upload: str, monotonic: Callable[[], float]) -> None:
        self._rates = rates
        self._address = address
        self._upload = upload
        self._monotonic = monotonic
        self._lines: list[_Line] | None = None
        self._booked = 0
        self._turn: list[_Line] = []
        """Those on which the turn that is under way was booked."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def limited(self) -> bool:
        """Whether turns are to be booked."""
        return self._rates.limited

    def turn_bytes(self) -> int:
        """Return how many bytes one turn may take now at the most."""
        return min((line.turn_bytes() for line in self._in_force()), default=2**62)

    def book(self, size: int) -> float:
        """Book a turn that takes *size* bytes; return how long to wait for it, in s."""
        assert not self._turn, "one turn at a time"
        now_s = self._monotonic()
        self._booked = size
        self._turn = self._in_force()
        starts_s = [line.book(size, now_s) for line in self._turn]
        return max(max(starts_s, default=now_s) - now_s, 0.0)

    def settle(self, taken: int) -> None:
        """End the turn; it took so many of the bytes that were booked. Harmless where there is none."""
        untaken = max(self._booked - taken, 0)
        for line in self._turn:
            line.settle(untaken)
        self._turn = []
        self._booked = 0

    def _in_force(self) -> list[_Line]:
        if self._lines is None:
            self._lines = self._rates.lines_for(self._address, self._upload, self._monotonic())
        return [line for line in self._lines if line.bytes_per_s is not None]

    def close(self) -> None:
        """Give everything back."""
        self.settle(0)
        if self._lines is not None:
            self._rates.leave(self._lines, self._address, self._upload)
            self._lines = None


def network_of(address: str) -> str:
    """Return what counts as one client: the address, or the network that an IPv6 client has to itself."""
    if ":" not in address:
        return address
    try:
        parsed = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((parsed, V6_PREFIX), strict=False).network_address)
