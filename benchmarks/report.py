"""The report: the table for a terminal; ``docs/benchmarks.md`` with its plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import plots
from benchmarks.figures import BOUNDS, Line, Results, Round, Spread, brief, table
from benchmarks.machine import GB, KIB, MIB
from benchmarks.servers import SERVERS, Bystander

PAGE = "benchmarks.md"
PLOTS = "images/benchmarks"
ENOUGH_ROUNDS = 5
INTRODUCTION = Path(__file__).parent / "introduction.md"
VERDICTS = {"goal": "yes", "least": "the least, not the goal", "missed": "**no**", "not measured": "**not measured**"}


# file: its title, unit, what was measured, and the number in that unit.
PLOTTED: Sequence[tuple[str, str, str, str, str, float]] = (
    ("cpu", "Server CPU for a GB received, 8 connections (less is better)", "CPU-s/GB", "bulk", "cpu_s_per_gb", 1),
    ("throughput", "Received a second, 8 connections (more is better)", "GB/s", "bulk", "bytes_per_s", 1 / GB),
    ("small-patches", "One PATCH of 64 KiB (less is better)", "µs CPU", "small_patches", "cpu_s", 1e6),
    ("small-files", "One file of 64 KiB in one request (less is better)", "µs CPU", "small_files", "cpu_s", 1e6),
    ("heads", "HEAD beside large uploads, 99th percentile (less is better)", "ms", "heads", "p99_ms", 1),
    ("slow", "Memory of a slow connection (less is better)", "KiB", "slow", "bytes_per_connection", 1 / KIB),
)  # fmt: skip


def table_text(lines: Sequence[Line]) -> str:
    """Return the table for a terminal."""
    rows = [("figure", "goal", "least", "median", "min .. max", "met?"), *(_cells(line) for line in lines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def write(
    docs: Path, results: Results, machine: Sequence[tuple[str, str]], left_out: Mapping[str, str], rounds: int
) -> None:
    """Write the page and its plots below *docs*."""
    folder = docs / PLOTS
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, title, unit, what, key, factor in PLOTTED:
        found = _of_servers(results, what, key, factor)
        if found:
            (folder / f"{name}.svg").write_text(plots.bars(title, unit, found), encoding="utf-8")
            drawn.append(f"![{title}]({PLOTS}/{name}.svg)")
    growth = _growth(results)
    if growth:
        title = "Server CPU for a GB, by connections (less is better)"
        (folder / "connections.svg").write_text(plots.bars(title, "CPU-s/GB", growth), encoding="utf-8")
        drawn.append(f"![{title}]({PLOTS}/connections.svg)")
    (docs / PAGE).write_text(page(results, machine, left_out, rounds, drawn), encoding="utf-8")


def page(
    results: Results,
    machine: Sequence[tuple[str, str]],
    left_out: Mapping[str, str],
    rounds: int,
    drawn: Sequence[str],
) -> str:
    """Return the page: what was measured is told here, how and why in ``introduction.md``."""
    lines = table(results)
    parts = [
        introduction(),
        "## What it reaches",
        f"Medians of ratios within one round, {rounds} round{'s' * (rounds != 1)}; `least` is what is just borne."
        + (" With so few rounds a spread says nothing yet: run `make bench` again." if rounds < ENOUGH_ROUNDS else ""),
        _markdown(
            ("figure", "goal", "least", "median", "min .. max", "met"), [_cells(line, VERDICTS) for line in lines]
        ),
    ]
    missed = [line for line in lines if line.verdict in {"missed", "not measured"}]
    if missed:
        parts.append("Missed, or not to be had:")
        parts.append("\n".join(f"* {line.figure.title}: {line.why or _miss(line)}" for line in missed))
    bounds = [(bound.title, *_measured(results.spread(bound.of), bound.unit)) for bound in BOUNDS]
    parts += [
        "Beside which these are to be read: what the machine gave in the same rounds to anybody.",
        _markdown(("figure", "median", "min .. max"), bounds),
        "## Every server",
        _markdown(_HEADS, _server_rows(results)),
        *drawn,
    ]
    failures = [
        f"* {name}, {what}: {reason.splitlines()[0]}" for (name, what), reason in sorted(results.failures.items())
    ]
    failures += [f"* {title}: {why}" for title, why in left_out.items()]
    if failures:
        parts += ["Left out:", "\n".join(failures)]
    parts += ["## The machine", _markdown(("what", "value"), machine)]
    return "\n\n".join(parts) + "\n"


def introduction() -> str:
    """Return the text above the tables; what it links to is named from ``docs/``, where the page stands."""
    return INTRODUCTION.read_text("utf-8").rstrip().replace("](../docs/", "](")


_HEADS = ("server", "CPU-s/GB", "GB/s", "64 KiB PATCH, µs CPU", "64 KiB file, µs CPU", "HEAD p99 idle, ms",
          "HEAD p99 loaded, ms", "slow connection, KiB", "peak memory, MiB")  # fmt: skip
_COLUMNS = (("bulk", "cpu_s_per_gb", 1.0), ("bulk", "bytes_per_s", 1 / GB), ("small_patches", "cpu_s", 1e6),
            ("small_files", "cpu_s", 1e6), ("heads", "idle_p99_ms", 1.0), ("heads", "p99_ms", 1.0),
            ("slow", "bytes_per_connection", 1 / KIB), ("bulk", "peak_bytes", 1 / MIB))  # fmt: skip


def _server_rows(results: Results) -> list[tuple[str, ...]]:
    rows = []
    yardsticks = (
        ("sha256", "bare SHA-256 (hashlib, OpenSSL)"),
        ("disk", "disk alone, written past the memory"),
        (Bystander.name, Bystander.title),
    )
    for name, title in (*((kind.name, kind.title) for kind in SERVERS), *yardsticks):
        spreads = [_spread(results, name, *column) for column in _COLUMNS]
        if any(spreads):
            rows.append((title, *(_median_and_range(spread) for spread in spreads)))
    return rows


def _spread(results: Results, name: str, what: str, key: str, factor: float) -> Spread | None:
    def value(one: Round) -> float:
        return one(name, what, key) * factor

    return results.spread(value)


def _of_servers(results: Results, what: str, key: str, factor: float) -> list[plots.Bar]:
    found = []
    for kind in SERVERS:
        spread = _spread(results, kind.name, what, key, factor)
        if spread is not None:
            found.append(plots.Bar(kind.title.split(",")[0] if kind.name == "tornado" else kind.title, spread,
                                   ours=kind.name.startswith("incomingd")))  # fmt: skip
    return found


def _growth(results: Results) -> list[plots.Bar]:
    found = []
    for name, title in (("sink", "C splice sink"), ("incomingd", "incomingd")):
        for what, connections in (("bulk_one", "1"), ("bulk", "8"), ("bulk_many", "64")):
            spread = _spread(results, name, what, "cpu_s_per_gb", 1)
            if spread is not None:
                found.append(plots.Bar(f"{title}, {connections}", spread, ours=name == "incomingd"))
    return found


def _cells(line: Line, verdicts: Mapping[str, str] | None = None) -> tuple[str, ...]:
    unit = f" {line.figure.unit}" if line.figure.unit else ""
    measured, extremes = _measured(line.spread, line.figure.unit)
    verdict = line.verdict if verdicts is None else verdicts[line.verdict]
    if verdicts is None and line.why:
        verdict = f"{verdict}: {line.why}"
    return (
        line.figure.title,
        f"{line.figure.goal:g}{unit}",
        f"{line.figure.bound:g}{unit}",
        measured,
        extremes,
        verdict,
    )


def _measured(spread: Spread | None, unit: str) -> tuple[str, str]:
    """Return the median with its unit, and the extremes."""
    if spread is None:
        return "-", "-"
    median = brief(spread.median)
    return f"{median} {unit}" if unit else median, f"{brief(spread.least)} .. {brief(spread.most)}"


def _miss(line: Line) -> str:
    assert line.spread is not None
    unit = f" {line.figure.unit}" if line.figure.unit else ""
    return f"{brief(line.spread.median)}{unit} where {line.figure.bound:g}{unit} is the least"


def _median_and_range(spread: Spread | None) -> str:
    if spread is None:
        return ""
    if spread.least == spread.most:
        return brief(spread.median)
    return f"{brief(spread.median)} ({brief(spread.least)} .. {brief(spread.most)})"


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
