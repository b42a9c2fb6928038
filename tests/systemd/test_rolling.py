"""`incomingctl rolling-restart`: what it waits for, and when it stops. With real units: test_container.py.

Here a small program stands for `systemctl`, and small servers for the instances: so that they can be in every state.
"""

from __future__ import annotations

import json
import socketserver
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from incomingd.cli import rolling
from incomingd.cli.main import main

SYSTEMCTL = f"""#!{sys.executable} -SE
import json, os, sys
folder = {{folder!r}}
units = json.load(open(folder + "/units.json"))
verb, *options = sys.argv[1:]
if verb == "list-units":
    print(json.dumps([{{{{"unit": name, "active": unit["active"]}}}} for name, unit in units.items()]))
elif verb == "show":
    unit = units[options[-1]]
    print("MainPID=%d\\nActiveState=%s\\nStatusText=" % (unit["pid"], unit["active"]))
elif verb == "restart":
    print(options[0], file=open(folder + "/restarts", "a"))
    unit = units[options[0]]
    if unit["fails"]:
        print("Job for %s failed." % options[0], file=sys.stderr)
        sys.exit(1)
    unit["pid"] += 1000
    with open(folder + "/units.new", "w") as file:
        json.dump(units, file)
    os.replace(folder + "/units.new", folder + "/units.json")
"""


class Host:
    """A host with some instances, their states as a test wants them, and what was done to them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.servers: list[socketserver.ThreadingUnixStreamServer] = []
        (folder / "restarts").touch()
        (folder / "units.json").write_text("{}")
        program = folder / "bin" / "systemctl"
        program.parent.mkdir()
        program.write_text(SYSTEMCTL.format(folder=str(folder)))
        program.chmod(0o755)

    @property
    def restarts(self) -> list[str]:
        """Which units were restarted, in order."""
        return (self.folder / "restarts").read_text().split()

    def add(
        self, name: str, status: Callable[[], dict[str, Any]] = dict, *, active: str = "active", fails: bool = False
    ) -> str:
        """Add an instance; *status* is asked for what its ``/status`` tells beyond what a calm one does."""
        unit = f"incomingd@{name}.service"
        units = json.loads((self.folder / "units.json").read_text())
        units[unit] = {"active": active, "pid": 100 + len(units), "fails": fails}
        (self.folder / "units.json").write_text(json.dumps(units))
        if active != "active":
            return unit

        folder = self.folder

        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                pid = json.loads((folder / "units.json").read_text())[unit]["pid"]
                body = json.dumps({"state": "ready", "version": "9.9", "pid": pid} | status()).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the library's name
                """Say nothing."""

        server = socketserver.ThreadingUnixStreamServer(str(self.folder / f"{name}.sock"), Answer)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        self.servers.append(server)
        return unit

    def run(self, *arguments: str, timeout_s: float = 30) -> tuple[int, str, str]:
        """Run the command; return its exit status, and what it wrote."""
        done = CliRunner().invoke(
            main,
            [
                *("rolling-restart", "--json", "--admin-address", f"unix:{self.folder}/%i.sock"),
                *("--timeout-s", str(timeout_s), *arguments),
            ],
            env={"PATH": str(self.folder / "bin")},
            catch_exceptions=False,
        )
        return done.exit_code, done.stdout, done.stderr


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """A host without instances."""
    monkeypatch.setattr(rolling, "POLL_S", 0.01)
    host = Host(tmp_path)
    yield host
    for server in host.servers:
        server.shutdown()
        server.server_close()


class Counting:
    """Says what a test has written down for each moment: which restarts there had been, and how often it was asked."""

    def __init__(self, host: Host, name: str, after: str, values: list[int]) -> None:
        self._host = host
        self._name = name
        self._after = after
        self._values = values
        self.restarts_at_last = -1

    def __call__(self) -> dict[str, Any]:
        if self._after not in self._host.restarts:
            return {self._name: 0}
        if self._values:
            value = self._values.pop(0)
            if value:
                self.restarts_at_last = len(self._host.restarts)
            return {self._name: value}
        return {self._name: 0}


def test_one_after_the_other(host: Host) -> None:
    """In the order of their numbers; each is said to be back."""
    units = [host.add(name) for name in ("10", "9", "1")]
    status, out, err = host.run()
    assert status == 0, err
    assert host.restarts == units[::-1]
    assert [each["unit"] for each in json.loads(out)] == units[::-1]
    for unit in units:
        assert f"{unit}: ready, version 9.9" in err


@pytest.mark.parametrize("name", ["moves_open", "backfills_open"])
@pytest.mark.parametrize("where", ["01", "02", "03"])
def test_nothing_is_restarted_while_uploads_are_on_their_way(name: str, where: str, host: Host) -> None:
    """Neither to or from the instance that has just come back, nor at any other of the host."""
    first = "incomingd@01.service"
    counting = Counting(host, name, first, [3, 2, 1])
    for each in ("01", "02", "03"):
        host.add(each, counting if each == where else dict)
    status, _, err = host.run()
    assert status == 0, err
    assert len(host.restarts) == 3
    assert counting.restarts_at_last == 1
    assert f"1 {name.removesuffix('_open')} under way" in err


def test_it_waits_for_the_last_one_too(host: Host) -> None:
    """So that whoever goes on with another host may."""
    host.add("01", Counting(host, "moves_open", "incomingd@01.service", [1, 1]))
    assert host.run()[0] == 0
    host.add("02", lambda: {"moves_open": len(host.restarts)})
    status, _, err = host.run("01", timeout_s=0)
    assert status == 1
    assert "incomingd@02.service is not at rest" in err


def test_the_first_that_does_not_come_back_stops_it(host: Host) -> None:
    """The others go on serving, and what to do is said."""
    host.add("01")
    host.add("02", fails=True)
    host.add("03")
    status, out, err = host.run()
    assert status == 1
    assert out == ""
    assert host.restarts == ["incomingd@01.service", "incomingd@02.service"]
    assert "incomingd@02.service did not come back: Job for incomingd@02.service failed." in err
    assert "journalctl --unit=incomingd@02.service" in err
    assert "incomingctl rolling-restart 03" in err


def test_the_old_process_is_not_taken_for_the_new_one(host: Host) -> None:
    host.add("01", lambda: {"pid": 100})
    status, _, err = host.run(timeout_s=0)
    assert status == 1
    assert "an older process answers" in err


@pytest.mark.parametrize("state", ["suspended", "draining", "starting"])
def test_nothing_is_restarted_where_another_is_not_ready(state: str, host: Host) -> None:
    host.add("01")
    host.add("02", lambda: {"state": state})
    status, _, err = host.run(timeout_s=0)
    assert status == 1
    assert host.restarts == []
    assert f"incomingd@02.service is not at rest: still after 0 s: is {state}" in err
    assert "incomingctl rolling-restart 01 02" in err


@pytest.mark.parametrize("active", ["failed", "activating"])
def test_nothing_is_restarted_where_another_is_broken(active: str, host: Host) -> None:
    host.add("01")
    host.add("02", active=active)
    status, _, err = host.run()
    assert status == 1
    assert host.restarts == []
    assert f"incomingd@02.service ({active})" in err


def test_an_instance_that_does_not_answer_is_not_ready(host: Host) -> None:
    host.add("01")
    host.servers[0].shutdown()
    host.servers[0].server_close()
    status, _, err = host.run(timeout_s=0)
    assert status == 1
    assert host.restarts == []
    assert "no incomingd answers" in err


def test_some_only(host: Host) -> None:
    """By the names of the instances or of the units, in the order given; those that are stopped stay so."""
    host.add("01")
    host.add("02")
    host.add("03")
    host.add("04", active="inactive")
    assert host.run("03", "incomingd@01.service", "03")[0] == 0
    assert host.restarts == ["incomingd@03.service", "incomingd@01.service"]
    status, _, err = host.run("04")
    assert status == 1
    assert "no running unit for '04'; there is incomingd@01.service, incomingd@02.service, incomingd@03.service" in err


def test_a_dry_run_touches_nothing(host: Host) -> None:
    unit = host.add("01", lambda: {"state": "draining"})
    status, out, _ = host.run("--dry-run")
    assert status == 0
    assert json.loads(out) == [{"unit": unit}]
    assert host.restarts == []


def test_no_units_and_no_systemd_are_said(host: Host) -> None:
    status, _, err = host.run()
    assert status == 1
    assert "no unit incomingd@*.service runs on this host" in err
    (host.folder / "bin" / "systemctl").unlink()
    status, _, err = host.run()
    assert status == 1
    assert "no systemctl here" in err


@pytest.mark.parametrize(
    "status, words",
    [
        ({"state": "ready"}, None),
        ({"state": "ready", "moves_open": 0, "backfills_open": 0}, None),
        ({"state": "ready", "moves_open": 2, "backfills_open": 1}, "2 moves and 1 backfills under way"),
        ({"state": "drained"}, "is drained"),
        ({}, "is of unknown state"),
    ],
)
def test_rest(status: dict[str, Any], words: str | None) -> None:
    assert rolling.unrest(status) == words
