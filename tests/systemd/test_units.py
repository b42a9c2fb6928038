"""The unit files as such: what `systemd-analyze` says of them, and what documents and code rely on."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from incomingd import config
from tests.support.machine import ROOT

FOLDER = ROOT / "systemd"
SERVICES = ("incomingd@.service", "incomingd.service")
PAGE = (ROOT / "docs/operating/systemd.md").read_text("utf-8")

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")


def variables(unit: str, instance: str) -> dict[str, str]:
    """Return the environment that a unit gives to its process."""
    lines = re.findall(r"^Environment=(\w+)=(.*)$", (FOLDER / unit).read_text("utf-8"), re.MULTILINE)
    return {
        name: value.replace("%i", instance).replace("%t", "/run").replace("%S", "/var/lib") for name, value in lines
    }


def section(unit: str, name: str) -> dict[str, str]:
    """Return the settings of a section; of those given several times the last one."""
    parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",), comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment,method-assign] # the documented way to keep capitals
    parser.read(FOLDER / unit)
    return dict(parser[name])


@needs_systemd
def test_the_units_have_no_fault(tmp_path: Path) -> None:
    """Where the daemon is not installed, this Python stands for it; container.py has the whole."""
    for path in FOLDER.glob("incomingd*"):
        text = path.read_text("utf-8").replace("/opt/incomingd/bin/incomingd", os.path.realpath(sys.executable))
        (tmp_path / path.name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "incomingd@01.service", *_plain_units()],
        env=os.environ | {"SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    # What it says of units of this machine is not ours.
    ours = [line for line in done.stderr.splitlines() if "incomingd" in line]
    assert ours == []
    assert done.returncode == 0, done.stderr


def _plain_units() -> list[str]:
    return sorted(path.name for path in FOLDER.glob("incomingd*") if "@" not in path.name)


@needs_systemd
@pytest.mark.parametrize("unit", SERVICES)
def test_the_exposure_is_as_low_as_documented(unit: str) -> None:
    documented = re.search(rf"`{re.escape(unit)}` +\| ([\d.]+) ", PAGE)
    assert documented is not None
    threshold = str(round(float(documented[1]) * 10))
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--no-pager", f"--threshold={threshold}", FOLDER / unit],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout.splitlines()[-1:]


def test_both_services_differ_only_where_they_have_to() -> None:
    """The hardening of one is the hardening of the other."""
    fleet, single = (section(unit, "Service") for unit in SERVICES)
    differing = {name for name in fleet.keys() | single.keys() if fleet.get(name) != single.get(name)}
    assert differing == {"Environment", "EnvironmentFile", "StateDirectory", "RuntimeDirectory"}


@pytest.mark.parametrize("unit, instance", [(SERVICES[0], "01"), (SERVICES[0], "99"), (SERVICES[1], "")])
def test_the_daemon_takes_what_a_unit_sets(unit: str, instance: str) -> None:
    """Every variable is a key, and the addresses of one instance do not meet."""
    settings = config.load([], variables(unit, instance)).settings
    addresses = [settings.public.address, settings.backend.address, settings.admin.address]
    addresses += [address for address in (settings.agent.address, settings.peer.address) if address is not None]
    if instance:
        assert len(set(addresses)) == 5
        assert f"41{instance}" in str(settings.public.address)
    assert settings.data_dir.name == "data"


def test_the_table_of_ports_is_that_of_the_unit() -> None:
    settings = config.load([], variables(SERVICES[0], "01")).settings
    for name in ("public", "backend", "agent", "peer"):
        assert f"| {name} | `{getattr(settings, name).address}` |" in PAGE
    assert f"`{settings.admin.address}`" in PAGE


def test_the_user_of_the_units_is_made() -> None:
    made = re.findall(r"^u (\S+)", (FOLDER / "sysusers.d/incomingd.conf").read_text("utf-8"), re.MULTILINE)
    for unit in SERVICES:
        assert made == [section(unit, "Service")["User"]] == [section(unit, "Service")["Group"]]
