"""Scenarios that are written down, move by move: `tests/scenarios/*.txt`, read by :mod:`tests.simulation.scenario`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.simulation import scenario
from tests.support.machine import ROOT

SCENARIOS = sorted((ROOT / "tests" / "scenarios").glob("*.txt"))


@pytest.mark.parametrize("path", SCENARIOS, ids=[path.stem for path in SCENARIOS])
def test_scenario(path: Path) -> None:
    for line, wanted, told, story in scenario.run(path):
        assert told == wanted, "\n".join([f"{path.name}, block at line {line}", *story])


def test_every_scenario_expects_something() -> None:
    assert SCENARIOS
    for path in SCENARIOS:
        assert all(wanted for _, _, wanted in scenario.blocks(path.read_text("utf-8"))), path
