"""The page for operators names what there is, and nothing else."""

from __future__ import annotations

import re

import click

from incomingd.admin.paths import PATHS
from incomingd.cli.main import main
from incomingd.metrics import Metrics
from tests.support.machine import ROOT

PAGE = (ROOT / "docs" / "operations.md").read_text("utf-8")


def commands(group: click.Group, before: str = "incomingctl") -> dict[str, click.Command]:
    """Return all commands by what one types."""
    found: dict[str, click.Command] = {}
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            found |= commands(command, f"{before} {name}")
        else:
            found[f"{before} {name}"] = command
    return found


def test_every_metric_is_documented_with_its_type() -> None:
    metrics = Metrics(version="1", instance="i")
    ours = {
        (family.name + ("_total" if family.type == "counter" else ""), family.type)
        for family in metrics._registry.collect()
        if not family.name.startswith("process_")
    }
    assert set(re.findall(r"^\| `(incomingd_\w+)` \| (\w+) \|", PAGE, re.MULTILINE)) == ours


def test_alerts_use_metrics_that_there_are() -> None:
    known = {name for name, _ in re.findall(r"^\| `(incomingd_\w+)` \| (\w+) \|", PAGE, re.MULTILINE)}
    used = {re.sub("_(bucket|count)$", "", name) for name in re.findall(r"\bincomingd_[a-z_]+", PAGE)}
    assert used == known


def test_every_command_and_option_is_documented() -> None:
    for typed, command in commands(main).items():
        assert f"`{typed}" in PAGE, typed
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert any(option in PAGE for option in parameter.opts), (typed, parameter.opts)


def test_every_call_is_documented() -> None:
    listed = set(re.findall(r"^\| `(?:GET|POST) (/[a-zA-Z/]+)", PAGE[PAGE.index("## The admin API") :], re.MULTILINE))
    assert listed == {path.replace("{id}", "ID") for path in PATHS}


def test_every_example_is_a_command() -> None:
    known = commands(main)
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL):
        for line in block.splitlines():
            if line.startswith("incomingctl"):
                assert any(line.startswith(typed) for typed in known), line
                options = {option for command in known.values() for p in command.params for option in p.opts}
                assert set(re.findall(r" (--[a-z-]+)", line)) <= options, line
