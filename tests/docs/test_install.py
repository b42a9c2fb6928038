"""What `pip install .` installs is the whole program, as docs/deployment.md promises; it needs no Node.js for that."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.machine import ROOT
from tests.support.tree import files


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pip would install: built from a copy, so that the checkout stays as it is."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "checkout"
    # Node.js and its packages are not among what is copied.
    shutil.copytree(ROOT / "incomingd", copy / "incomingd", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"),
            *("--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder), str(copy)),
        ],
        cwd=folder,
        # Where there are no programs there is no Node.js.
        env={"PATH": str(folder), "HOME": str(folder)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [found] = folder.glob("incomingd-*.whl")
    return found


def test_every_file_of_the_package_is_installed(wheel: Path) -> None:
    """The library that browsers get is no Python, and is installed all the same."""
    installed = set(zipfile.ZipFile(wheel).namelist())
    there = {path.relative_to(ROOT).as_posix() for path in files(".py", ".js", ".mjs", ".typed", under="incomingd")}
    assert any(name.endswith("incoming.js") for name in there)
    assert there <= installed


def test_both_commands_and_the_licence_are_installed(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    [entry_points] = [name for name in archive.namelist() if name.endswith("/entry_points.txt")]
    text = archive.read(entry_points).decode()
    assert "incomingd = " in text
    assert "incomingctl = " in text
    assert any(name.endswith("LICENSE") for name in archive.namelist())
