"""`scripts/setup` on machines that it cannot help: it says what is missing and how to get it, and changes nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.machine import ROOT

# What every machine has; Python, Node and the browser are left out on purpose.
ALWAYS_THERE = ("bash", "cat", "cut", "dirname", "flock", "id", "mkdir", "mktemp", "rm", "sha256sum")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout in which nothing was set up yet."""
    folder = tmp_path / "checkout"
    (folder / "scripts").mkdir(parents=True)
    for name in ("scripts/setup", "pyproject.toml", "setup.py"):
        shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture
def bare_path(tmp_path: Path) -> str:
    """A PATH on which there is next to nothing, and no package manager."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ALWAYS_THERE:
        found = shutil.which(name)
        assert found is not None, name
        (folder / name).symlink_to(found)
    return str(folder)


def set_up(checkout: Path, level: str, path: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "scripts/setup", level],
        cwd=checkout,
        env={"PATH": path, "HOME": str(checkout)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "level, missing",
    [
        ("run", ["Python 3.11"]),
        ("fleet", ["Python 3.11", "redis-server", "openssl"]),
        ("bench", ["Python 3.11", "Node.js 20", "C compiler"]),
        ("test", ["Python 3.11", "git", "Node.js 20", "Chromium", "openssl", "redis-server"]),
    ],
)
def test_what_is_missing_is_said_at_once(level: str, missing: list[str], checkout: Path, bare_path: str) -> None:
    """Everything that is missing is named in one go, each with the name of its package in Debian."""
    done = set_up(checkout, level, bare_path)
    assert done.returncode == 1
    assert f"make {level}" in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("  * ")]
    assert all("(Debian: " in line for line in lines)
    for what in missing:
        assert any(what in line for line in lines), what
    # Running needs no more than Python.
    assert level != "run" or len(lines) == 1
    assert level != "fleet" or not any("git" in line or "Node" in line for line in lines)
    assert not (checkout / ".venv").exists()


def test_an_old_node_is_refused(checkout: Path, bare_path: str, tmp_path: Path) -> None:
    """A Node.js that is too old is told as such, before anything is installed."""
    for name, says in {
        "node": "case $1 in --version) echo v18.1.0 ;; *) exit 1 ;; esac",
        "npm": "exit 0",
        "git": "exit 0",
        "chromium": "exit 0",
        "openssl": "exit 0",
        "redis-server": "exit 0",
        "systemd-analyze": "exit 0",
        "systemd-nspawn": "exit 0",
        "haproxy": "exit 0",
        "nginx": "exit 0",
        "gcc": "cat >/dev/null",
        "fusermount3": "exit 0",
        "mkfs.xfs": "exit 0",
        "python3": "case $2 in *version_info*) exit 0 ;; *venv*) exit 0 ;; esac; exit 1",
    }.items():
        program = tmp_path / "bin" / name
        program.write_text(f"#!/usr/bin/env bash\n{says}\n")
        program.chmod(0o755)
    env = shutil.which("env")
    assert env is not None
    os.symlink(env, tmp_path / "bin" / "env")
    done = set_up(checkout, "test", bare_path)
    assert done.returncode == 1
    assert "Node.js is v18.1.0; 'make test' needs 20 or newer" in done.stderr


def test_an_unknown_level_is_refused(checkout: Path, bare_path: str) -> None:
    done = set_up(checkout, "everything", bare_path)
    assert done.returncode == 2
    assert "'everything'" in done.stderr
