"""The keys of a fleet are changed while it runs and its uploads move all the time: nobody is refused."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.fleet.wandering import Wanderers
from tests.support.app import App
from tests.support.daemon import Daemon
from tests.support.fleet import KEY, fleet
from tests.support.machine import wait_until

NEW = "another-key-of-a-fleet-of-tests-02"
STEPS = ([KEY, NEW], [NEW, KEY], [NEW])


def change_keys(daemon: Daemon, keys: list[str], number: int) -> None:
    """Give an instance other keys; return when they are in force, after that many reloads."""
    (daemon.folder / "peer.keys").write_text("".join(f"{key}\n" for key in keys))
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGHUP)
    wait_until(lambda: len(daemon.log_events("config.reloaded")) == number, "it is in force")


@pytest.mark.parametrize("moves", [1, pytest.param(20, marks=pytest.mark.soak)])
def test_keys_change_under_moving_uploads(moves: int, tmp_path: Path, app: App) -> None:
    """Appended everywhere, then first everywhere, then alone: instance by instance, each by a reload."""
    keys_file = {"peer.keys": "", "peer.keys_file": "peer.keys"}
    for name in ("i1", "i2", "i3"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "peer.keys").write_text(KEY + "\n")
    with fleet(tmp_path, shared=False, settings=keys_file) as running, Wanderers(running, app, 3) as wanderers:
        for number, keys in enumerate(STEPS, 1):
            for daemon in running.instances:
                wanderers.wait_moved(moves)
                change_keys(daemon, keys, number)
        wanderers.wait_moved(3)
        for daemon in running.instances:
            assert daemon.log_events("peer.refused") == []
            applied = [event["applied"] for event in daemon.log_events("config.reloaded")]
            assert len(applied) == len(STEPS)
            assert all(len(changes) == 1 and "peer.keys" in changes[0] for changes in applied), applied
