"""Runs scenarios and seeds, and tells which lines of the product they ran: ``python -m tests.simulation.measured``.

A process of its own: lines that run when a module is read count too, so the
product must not have been read before. Prints the share for each file with the
lines that were not run; ends with 1 if a promise was broken, or if the whole
share is less than it has to be.
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

import coverage

PACKAGES = ("incomingd.engine", "incomingd.registry", "incomingd.drain")
SHARE_MIN_PERCENT = 85.0


def run(seeds: range, private_seeds: range, wired_seeds: range) -> None:
    """Run every scenario, and the seeds of each kind of fleet."""
    # Not before lines are counted.
    from tests.simulation import scenario, story  # noqa: PLC0415 -- see above

    for path in sorted((Path(__file__).parents[1] / "scenarios").glob("*.txt")):
        for line, wanted, told, _ in scenario.run(path):
            assert told == wanted, f"{path.name}, block at line {line}"
    for seed in seeds:
        story.run(seed, story.Profile(private=False, wire=0.0))
    for seed in private_seeds:
        story.run(seed, story.Profile(private=True, wire=0.0))
    for seed in wired_seeds:
        story.run(seed, story.Profile(wire=1.0))


def main(arguments: list[str]) -> int:
    """Run and tell; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, default=15, help="of each kind of fleet")
    parser.add_argument(
        "--least", type=float, default=SHARE_MIN_PERCENT, help="percent of all lines that have to be run"
    )
    wanted = parser.parse_args(arguments)
    measured = coverage.Coverage(data_file=None, config_file=False, source_pkgs=list(PACKAGES))
    seeds = range(wanted.first, wanted.first + wanted.seeds)
    with measured.collect():
        run(seeds, seeds, seeds[: wanted.seeds // 2])
    table = io.StringIO()
    share = measured.report(file=table, show_missing=True, skip_covered=True)
    told = f"{share:.1f} % of the lines of {', '.join(PACKAGES)} were run; at least {wanted.least:g} % have to be."
    sys.stdout.write(f"{table.getvalue()}\n{told}\n")
    return 0 if share >= wanted.least else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
