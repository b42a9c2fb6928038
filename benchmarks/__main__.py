"""Run the benchmarks: ``python -m benchmarks [--short] [--rounds N] [--only NAME,...]``; `make bench` calls it.

Every round runs every measurement once, in an order that changes from round to round, so that what disturbs the
machine for a while disturbs all alike. Ratios are taken within a round; what is told is their median and their spread.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType

from benchmarks import figures, report
from benchmarks.app import App
from benchmarks.disk import own_disk
from benchmarks.load import Generator
from benchmarks.machine import (
    ROOT,
    BenchmarkError,
    Cores,
    compile_programs,
    describe,
    raise_open_files,
    take_cores,
)
from benchmarks.measures import SHORT, Bench, Figures, Sizes
from benchmarks.servers import (
    SERVERS,
    Incomingd,
    Nginx,
    Place,
    Server,
    Sink,
    StockTornado,
    TusPeer,
    TusServer,
)

ROUNDS = 5
SHORT_ROUNDS = 1


@dataclass(frozen=True)
class Measurement:
    """One of a round: the server's *name*, *what* is measured, and how."""

    name: str
    what: str
    run: Callable[[], Figures]


def measurements(bench: Bench, kinds: list[type[Server]], wanted: set[str]) -> list[Measurement]:
    """Return what one round measures of the servers *kinds*; of it only what is *wanted*, all where that is empty."""
    found = []
    sizes = bench.sizes
    for kind in kinds:
        of_kind = {"bulk": partial(bench.bulk, kind, sizes.connections)}
        if kind in {Sink, Incomingd}:
            of_kind["bulk_one"] = partial(bench.bulk, kind, 1)
            of_kind["bulk_many"] = partial(bench.bulk, kind, sizes.many_connections)
        if issubclass(kind, TusPeer) and (kind is Incomingd or not issubclass(kind, Incomingd)):
            of_kind["small_patches"] = partial(bench.small_patches, kind)
            of_kind["small_files"] = partial(bench.small_files, kind)
        if kind in {Incomingd, StockTornado, TusServer}:
            size_bytes = sizes.head_upload_bytes if kind is Incomingd else sizes.head_peer_upload_bytes
            of_kind["heads"] = partial(bench.heads, kind, size_bytes)
        if kind in {Incomingd, Nginx, TusServer}:
            of_kind["slow"] = partial(bench.slow, kind)
        found += [Measurement(kind.name, what, run) for what, run in of_kind.items()]
    found.append(Measurement("sha256", "bulk", bench.sha256))
    if Sink in kinds:
        found.append(Measurement("disk", "bulk", bench.disk))
        found.append(Measurement("bystander", "heads", partial(bench.beside, sizes.head_upload_bytes)))
    return [each for each in found if not wanted or each.what in wanted]


def say(text: str) -> None:
    """Tell the person who waits."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def run_rounds(todo: list[Measurement], rounds: int) -> figures.Results:
    """Measure everything *rounds* times; what cannot be had is noted with its reason and not tried again."""
    results = figures.Results()
    for number in range(rounds):
        shift = number * len(todo) // rounds
        for each in todo[shift:] + todo[:shift]:
            if (each.name, each.what) in results.failures:
                continue
            start_s = time.monotonic()
            try:
                found = each.run()
            except BenchmarkError as error:
                results.failures[each.name, each.what] = str(error)
                say(f"round {number + 1}  {each.name:<18} {each.what:<14} not to be had: {str(error).splitlines()[0]}")
                continue
            results.add(number, each.name, each.what, found)
            told = "  ".join(f"{key} {figures.brief(value)}" for key, value in found.items())
            say(f"round {number + 1}  {each.name:<18} {each.what:<14} {told}  [{time.monotonic() - start_s:.1f} s]")
    return results


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--short", action="store_true", help="little of everything: only shows that it works")
    parser.add_argument("--rounds", type=int, help=f"how often everything is measured [{ROUNDS}; short: 1]")
    parser.add_argument("--only", default="", help="only these servers: names with commas")
    parser.add_argument("--what", default="", help="only these measurements: names with commas")
    parser.add_argument("--folder", type=Path, help="where files are written [.run/bench of the checkout]")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md and its plots")
    return parser.parse_args()


def _end(number: int, _frame: FrameType | None) -> None:
    """End as an error does: servers are stopped, the disk is unmounted, files go."""
    raise SystemExit(128 + number)


def main() -> int:
    """Run; return the exit status: 0, too, where a figure is missed, which is told; 1 where nothing can be measured."""
    chosen = arguments()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    sizes = SHORT if chosen.short else Sizes()
    rounds = chosen.rounds or (SHORT_ROUNDS if chosen.short else ROUNDS)
    names = [name for name in chosen.only.split(",") if name]
    unknown = set(names) - {kind.name for kind in SERVERS}
    if unknown:
        sys.stderr.write(f"no such server: {', '.join(sorted(unknown))}\n")
        return 2
    kinds = [kind for kind in SERVERS if not names or kind.name in names]
    absent = {kind: why for kind in kinds if (why := kind.missing())}
    for kind, why in absent.items():
        say(f"left out: {kind.title}: {why}")
    wanted = {what for what in chosen.what.split(",") if what}
    start_s = time.monotonic()
    base: Path = (chosen.folder or ROOT / ".run" / "bench").resolve()
    base.mkdir(parents=True, exist_ok=True)
    try:
        cores = take_cores()
        raise_open_files()
        machine = describe(cores)
        present = [kind for kind in kinds if kind not in absent]
        results, disk = run_in(base, cores, sizes, lambda bench: measurements(bench, present, wanted), rounds)
    except BenchmarkError as error:
        sys.stderr.write(f"benchmarks: {error}\n")
        return 1
    machine.append(("disk", disk))
    if not results.rounds:
        sys.stderr.write("benchmarks: nothing could be measured\n")
        return 1
    say("")
    say(report.table_text(figures.table(results)))
    say(f"\n{rounds} rounds, {time.monotonic() - start_s:.0f} s")
    if chosen.write:
        left_out = {kind.title: why for kind, why in absent.items()}
        report.write(ROOT / "docs", results, machine, left_out, rounds)
        say("written: docs/benchmarks.md")
    return 0


def run_in(
    base: Path, cores: Cores, sizes: Sizes, choose: Callable[[Bench], list[Measurement]], rounds: int
) -> tuple[figures.Results, str]:
    """Measure what *choose* says with files below *base*; return the results, and what the disk was."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir=base)))
        programs = compile_programs(folder / "bin")
        files, disk = stack.enter_context(own_disk(folder, sizes.disk_bytes))
        app = stack.enter_context(App())
        bench = Bench(Generator(programs), Place(files, cores, programs, app.url), sizes)
        return run_rounds(choose(bench), rounds), disk


if __name__ == "__main__":
    sys.exit(main())
