"""The simulation runs most of the code whose promises it is there to check; what it leaves out, it tells."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.machine import ROOT


def measure(*arguments: str, timeout_s: float) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulation.measured", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.timeout(300)
def test_scenarios_and_some_seeds_run_most_lines() -> None:
    """At least 85 % of the lines of engine, registry and drain; run it by hand to see which ones are missing."""
    told = measure("--first", "1000", timeout_s=280)
    assert "incomingd/engine" in told


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_many_seeds_run_more() -> None:
    measure("--seeds", "300", "--least", "90", timeout_s=3500)


@pytest.mark.soak
def test_too_few_lines_are_a_failure() -> None:
    """The gate can fail: no run has every line."""
    with pytest.raises(AssertionError, match="of the lines of"):
        measure("--seeds", "0", "--least", "100", timeout_s=120)
