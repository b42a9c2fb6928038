"""Every breakage is caught by the test that it names: applied to a copy of the tree, that test fails there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.support.machine import ROOT
from tests.support.tree import Breakage, breakages

pytestmark = pytest.mark.soak

LEFT_OUT = shutil.ignore_patterns(".git", ".venv", ".run", "__pycache__", ".*_cache", ".hypothesis", "incoming-data")


def copy_of_the_tree(folder: Path) -> Path:
    """Copy the checkout to *folder*; what Node installed is only linked to."""

    def ignored(where: str, names: list[str]) -> set[str]:
        return LEFT_OUT(where, names) | ({"node_modules"} & set(names))

    shutil.copytree(ROOT, folder, ignore=ignored, symlinks=True)
    for installed in ("js/node_modules", "tests/e2e/clients/node_modules"):
        if (ROOT / installed).is_dir():
            (folder / installed).symlink_to(ROOT / installed)
    return folder


@pytest.mark.parametrize("breakage", breakages(), ids=lambda breakage: breakage.path.stem)
def test_breakage_is_caught(breakage: Breakage, tmp_path: Path) -> None:
    """The named test fails (it does not merely break at its start) where the patch is applied."""
    tree = copy_of_the_tree(tmp_path / "tree")
    subprocess.run(["git", "apply", str(breakage.path)], cwd=tree, check=True)
    report = tmp_path / "report.xml"
    command = [sys.executable, "-m", "pytest", "-m", "soak or not soak", f"--junitxml={report}", breakage.test]
    done = subprocess.run(
        command,
        cwd=tree,
        # The copy's own package and tests stand before the installed ones.
        env={key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
        | {"PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert report.is_file(), done.stdout + done.stderr
    suites = ET.parse(report).getroot().iter("testsuite")
    failures = sum(int(suite.get("failures", "0")) for suite in suites)
    assert failures >= 1, f"not caught: {breakage.breaks}\n{done.stdout}{done.stderr}"
