"""From numbers to the table: ratios within a round, medians over the rounds, goals."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from benchmarks.machine import KIB, MIB

RoundOf = Callable[[int], "Round"]


@dataclass
class Results:
    """Every number of every round, and what could not be had."""

    rounds: list[dict[tuple[str, str, str], float]] = field(default_factory=list)
    failures: dict[tuple[str, str], str] = field(default_factory=dict)
    """Server and what was measured: why it was not."""

    def add(self, number: int, name: str, what: str, found: dict[str, float]) -> None:
        """Note the numbers of one measurement in round *number* (from 0)."""
        while len(self.rounds) <= number:
            self.rounds.append({})
        self.rounds[number].update({(name, what, key): value for key, value in found.items()})

    def spread(self, value: Callable[[Round], float]) -> Spread | None:
        """Return the median and the extremes of *value* over the rounds that have it; None: no round has."""
        found = []
        for each in self.rounds:
            try:
                found.append(value(Round(each)))
            except KeyError:
                continue
        if not found:
            return None
        return Spread(statistics.median(found), min(found), max(found), len(found))


@dataclass(frozen=True)
class Round:
    """One round's numbers."""

    numbers: dict[tuple[str, str, str], float]

    def __call__(self, name: str, what: str, key: str) -> float:
        """Return a number.

        Raises:
            KeyError: this round does not have it.
        """
        return self.numbers[name, what, key]

    def cpu(self, name: str, what: str = "bulk") -> float:
        """Return the processor time for a GB."""
        return self(name, what, "cpu_s_per_gb")


@dataclass(frozen=True)
class Spread:
    """A median with the least and the most of so many rounds."""

    median: float
    least: float
    most: float
    rounds: int


@dataclass(frozen=True)
class Figure:
    """A line of the table: what is promised. *of* gives it for one round; a median of *goal* is wanted.

    *bound* is what is just borne. Where *more* is set more is better, else less.
    """

    title: str
    goal: float
    bound: float
    of: Callable[[Round], float]
    needs: tuple[tuple[str, str], ...]
    more: bool = False
    unit: str = ""


@dataclass(frozen=True)
class Line:
    """A figure and what was measured; *spread* is None where it could not be had, and *why* says the reason."""

    figure: Figure
    spread: Spread | None
    why: str = ""

    @property
    def verdict(self) -> str:
        """``goal``, ``least``, ``missed`` or ``not measured``."""
        if self.spread is None:
            return "not measured"
        sign = -1 if self.figure.more else 1
        if sign * self.spread.median <= sign * self.figure.goal:
            return "goal"
        return "least" if sign * self.spread.median <= sign * self.figure.bound else "missed"


US = "incomingd"
FIGURES: Sequence[Figure] = (
    Figure(
        "server CPU for a GB / C splice sink, 8 connections",
        *(1.10, 1.25),
        lambda one: one.cpu(US) / one.cpu("sink"),
        ((US, "bulk"), ("sink", "bulk")),
    ),
    Figure(
        "server CPU for a GB / stock Tornado `stream_request_body`",
        *(0.33, 0.40),
        lambda one: one.cpu(US) / one.cpu("tornado"),
        ((US, "bulk"), ("tornado", "bulk")),
    ),
    Figure(
        "server CPU for a GB / @tus/server",
        *(0.22, 0.27),
        lambda one: one.cpu(US) / one.cpu("tus-server"),
        ((US, "bulk"), ("tus-server", "bulk")),
    ),
    Figure(
        "throughput x @tus/server, same core",
        *(4.0, 3.0),
        lambda one: one(US, "bulk", "bytes_per_s") / one("tus-server", "bulk", "bytes_per_s"),
        ((US, "bulk"), ("tus-server", "bulk")),
        more=True,
    ),
    Figure(
        "durable throughput / own non-durable",
        *(0.85, 0.7),
        lambda one: one("incomingd-durable", "bulk", "bytes_per_s") / one(US, "bulk", "bytes_per_s"),
        (("incomingd-durable", "bulk"), (US, "bulk")),
        more=True,
    ),
    Figure(
        "CPU for a GB with SHA-256 / (C splice + bare SHA-256)",
        *(1.05, 1.2),
        lambda one: one.cpu("incomingd-sha256") / (one.cpu("sink") + one.cpu("sha256")),
        (("incomingd-sha256", "bulk"), ("sink", "bulk"), ("sha256", "bulk")),
    ),
    Figure(
        "p99 of HEAD while 8 x 1 GiB come in, over an idle server's",
        *(15, 30),
        lambda one: one(US, "heads", "p99_ms") - one(US, "heads", "idle_p99_ms"),
        ((US, "heads"),),
        unit="ms",
    ),
    Figure(
        "64 KiB PATCH, server CPU / @tus/server's",
        *(0.18, 0.28),
        lambda one: one(US, "small_patches", "cpu_s") / one("tus-server", "small_patches", "cpu_s"),
        ((US, "small_patches"), ("tus-server", "small_patches")),
    ),
    Figure(
        "memory for a slow connection",
        *(18, 25),
        lambda one: one(US, "slow", "bytes_per_connection") / KIB,
        ((US, "slow"),),
        unit="KiB",
    ),
    Figure(
        "memory of the daemon at 64 fast uploads",
        *(40, 60),
        lambda one: one(US, "bulk_many", "peak_bytes") / MIB,
        ((US, "bulk_many"),),
        unit="MiB",
    ),
    Figure(
        "1 to 64 connections: CPU for a GB grows by",
        *(10, 20),
        lambda one: 100 * (one.cpu(US, "bulk_many") / one.cpu(US, "bulk_one") - 1),
        ((US, "bulk_many"), (US, "bulk_one")),
        unit="%",
    ),
)


@dataclass(frozen=True)
class Bound:
    """What this machine gives to anybody, beside which a figure is to be read: *of* gives it for one round."""

    title: str
    of: Callable[[Round], float]
    unit: str = ""


BOUNDS: Sequence[Bound] = (
    Bound(
        "what the disk takes past the memory / own non-durable throughput",
        lambda one: one("disk", "bulk", "bytes_per_s") / one(US, "bulk", "bytes_per_s"),
    ),
    Bound(
        "durable throughput / what the disk takes past the memory",
        lambda one: one("incomingd-durable", "bulk", "bytes_per_s") / one("disk", "bulk", "bytes_per_s"),
    ),
    Bound(
        "p99 of HEAD at a Tornado with nothing else to do, beside the C splice sink at 8 x 1 GiB, over idle",
        lambda one: one("bystander", "heads", "p99_ms") - one("bystander", "heads", "idle_p99_ms"),
        unit="ms",
    ),
    Bound(
        "1 to 64 connections: the C splice sink's CPU for a GB grows by",
        lambda one: 100 * (one.cpu("sink", "bulk_many") / one.cpu("sink", "bulk_one") - 1),
        unit="%",
    ),
    Bound(
        "64 connections: server CPU for a GB / C splice sink",
        lambda one: one.cpu(US, "bulk_many") / one.cpu("sink", "bulk_many"),
    ),
)


def table(results: Results) -> list[Line]:
    """Return the table: every figure, whether it could be had or not."""
    lines = []
    for figure in FIGURES:
        spread = results.spread(figure.of)
        reasons = [
            f"{name}: {results.failures[name, what].splitlines()[0]}"
            for name, what in figure.needs
            if (name, what) in results.failures
        ]
        why = "" if spread else ("; ".join(reasons) or "a server that it needs was left out")
        lines.append(Line(figure, spread, why))
    return lines


def brief(value: float) -> str:
    """Return *value* in few characters: whole where it is large, three digits else."""
    if abs(value) >= 1000:
        return f"{value / 1e6:.1f}M" if abs(value) >= 1e6 else f"{value:.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
