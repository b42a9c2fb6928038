"""The benchmarks work: their short form runs from end to end. No figure is judged: here none means anything."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.figures import FIGURES, Figure, Line, Results, Spread, table
from benchmarks.report import page, write
from tests.support.machine import ROOT

pytestmark = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="a server and its load need a core each")


def bench(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", "--short", "--folder", str(folder), *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_short_form_measures_the_daemon_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """Large and small bodies, HEAD beside the load and slow connections; then the table, and an empty folder."""
    done = bench(tmp_path, "--only", "sink,incomingd", "--what", "bulk,small_patches,heads,slow")
    assert done.returncode == 0, done.stderr
    for measured in (r"sink +bulk ", r"incomingd +bulk ", r"incomingd +small_patches ", r"incomingd +slow "):
        assert re.search(rf"^round 1  {measured}.*[\d.]+", done.stdout, re.MULTILINE), done.stdout
    assert "not to be had" not in done.stdout
    line = re.search(r"^server CPU for a GB / C splice sink.*$", done.stdout, re.MULTILINE)
    assert line is not None
    assert "not measured" not in line[0]
    # What was left out is told where it is missed.
    assert re.search(r"^throughput .*not measured: a server that it needs was left out$", done.stdout, re.MULTILINE)
    assert list(tmp_path.iterdir()) == []


def test_every_peer_takes_the_load(tmp_path: Path) -> None:
    """A peer that does not start, answers otherwise or keeps less than it was sent would spoil a long run."""
    peers = ("tornado", "nginx", "tus-server", "tuspyserver")
    done = bench(tmp_path, "--only", ",".join(peers), "--what", "bulk")
    assert done.returncode == 0, done.stderr
    for name in peers:
        assert re.search(rf"^round 1  {name} +bulk +cpu_s_per_gb", done.stdout, re.MULTILINE), done.stdout


def test_an_unknown_server_is_refused(tmp_path: Path) -> None:
    done = bench(tmp_path, "--only", "sink,apache")
    assert (done.returncode, done.stderr) == (2, "no such server: apache\n")


def results(rounds: list[tuple[float, float]]) -> Results:
    """Return rounds in each of which the daemon and the sink took so long for a GB."""
    found = Results()
    for number, (ours, sink) in enumerate(rounds):
        found.add(number, "incomingd", "bulk", {"cpu_s_per_gb": ours, "bytes_per_s": 1e9 / ours, "peak_bytes": 1.0})
        found.add(number, "sink", "bulk", {"cpu_s_per_gb": sink, "bytes_per_s": 1e9 / sink, "peak_bytes": 1.0})
    return found


def test_ratios_are_taken_within_a_round() -> None:
    """A slow hour slows both: the median of the ratios is told, not the ratio of medians."""
    first = table(results([(1.0, 1.0), (11.0, 10.0), (2.4, 2.0)]))[0]
    assert first.spread == Spread(median=1.1, least=1.0, most=1.2, rounds=3)


@pytest.mark.parametrize(
    "value, more, verdict",
    [
        (1.0, False, "goal"),
        (1.1, False, "least"),
        (1.21, False, "missed"),
        (4.0, True, "goal"),
        (3.0, True, "least"),
        (2.9, True, "missed"),
    ],
)
def test_verdicts(value: float, more: bool, verdict: str) -> None:
    goal, bound = (4.0, 3.0) if more else (1.0, 1.2)
    figure = Figure("a figure", goal, bound, lambda _: value, (), more=more)
    assert Line(figure, Spread(value, value, value, 1)).verdict == verdict


def test_the_page_tells_every_figure_and_why_one_is_missing(tmp_path: Path) -> None:
    """A figure that was missed, or could not be had, is named with its reason; the plots of the page are there."""
    found = results([(2.0, 1.0)])
    found.failures["incomingd-sha256", "bulk"] = "no digests here"
    write(tmp_path, found, [("processor", "one")], {"tusd (Go)": "TUSD names no program"}, 1)
    text = (tmp_path / "benchmarks.md").read_text("utf-8")
    assert all(f"| {figure.title} |" in text for figure in FIGURES)
    assert "* server CPU for a GB / C splice sink, 8 connections: 2 where 1.25 is the least" in text
    assert "incomingd-sha256: no digests here" in text
    assert "* tusd (Go): TUSD names no program" in text
    plots = re.findall(r"\]\((images/[^)]+)\)", text)
    assert plots
    for plot in plots:
        drawn = (tmp_path / plot).read_text("utf-8")
        assert drawn.startswith("<svg")
        assert "<script" not in drawn
    assert page(found, [], {}, 1, []).startswith("# Benchmarks")
