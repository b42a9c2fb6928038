"""Restarting the instances of this host one after the other, as systemd runs them."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from incomingd.cli.client import Client, RefusedError, UnreachableError, parse_target

PATTERN: Final = "incomingd@*.service"
POLL_S: Final = 0.25
READY: Final = "ready"
OPEN: Final = ("moves_open", "backfills_open")
"""What `/status` counts of uploads that are on their way between instances."""


class StoppedError(Exception):
    """The restart of one after the other has stopped; the text says where, why, and how to go on."""


@dataclass(frozen=True, slots=True)
class Unit:
    """One instance as systemd sees it."""

    name: str
    active: str
    """`active`, `inactive`, `failed`, `activating`, ..."""

    @property
    def instance(self) -> str:
        """What stands behind the `@`."""
        return self.name.partition("@")[2].removesuffix(".service")


class Instances:
    """Where the instances of this host answer operators; `%i` in *address* stands for the name of each."""

    def __init__(self, address: str, token: str | None) -> None:
        self._address = address
        self._token = token

    def status(self, instance: str) -> dict[str, Any]:
        """Return what ``/status`` of *instance* tells. Raises UnreachableError, RefusedError."""
        client = Client(parse_target(self._address.replace("%i", instance)), self._token)
        try:
            return dict(client.call("GET", "/status"))
        finally:
            client.close()


class Systemd:
    """The service manager of this host, through its own command."""

    def units(self) -> list[Unit]:
        """Return the instances that systemd knows, in the order of their names.

        Raises:
            StoppedError: there is no systemd.
        """
        found = json.loads(self._run("list-units", "--all", "--full", "--output=json", PATTERN))
        units = [Unit(str(each["unit"]), str(each["active"])) for each in found]
        return sorted(units, key=lambda unit: _in_order(unit.name))

    def show(self, unit: Unit, *names: str) -> dict[str, str]:
        """Return properties of a unit."""
        lines = self._run("show", f"--property={','.join(names)}", unit.name).splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def restart(self, unit: Unit, said: Callable[[str], None]) -> None:
        """Stop a unit, which is its drain, and start it; pass on what it says of itself meanwhile.

        Raises:
            StoppedError: it was not started.
        """
        command = ["systemctl", "restart", unit.name]
        complaint = ""
        with subprocess.Popen(  # noqa: S603 -- systemd itself has told the unit's name
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as process:
            last = self.show(unit, "StatusText").get("StatusText", "")
            while True:
                try:
                    _, complaint = process.communicate(timeout=POLL_S)
                    break
                except subprocess.TimeoutExpired:
                    text = self.show(unit, "StatusText").get("StatusText", "")
                    if text and text != last:
                        said(text)
                    last = text
        if process.returncode != 0:
            raise StoppedError(" ".join(complaint.split()) or f"systemctl ended with {process.returncode}")

    def _run(self, *arguments: str) -> str:
        try:
            done = subprocess.run(  # noqa: S603 -- names of units that systemd itself has told
                ["systemctl", *arguments],  # noqa: S607 -- of the machine, found as a shell would
                capture_output=True,
                text=True,
                check=False,
            )
        except FileNotFoundError as error:
            msg = "there is no systemctl here: this command is for a host whose instances systemd runs"
            raise StoppedError(msg) from error
        if done.returncode != 0:
            raise StoppedError(" ".join(done.stderr.split()) or f"systemctl ended with {done.returncode}")
        return done.stdout


class RollingRestart:
    """Restarts one instance, waits until the whole host is at rest again, and takes the next.

    Args:
        systemd: restarts.
        instances: tell how they are.
        say: told of each step, a line each.
        timeout_s: how long to wait for rest at each step.
    """

    def __init__(self, systemd: Systemd, instances: Instances, *, say: Callable[[str], None], timeout_s: float) -> None:
        self._systemd = systemd
        self._instances = instances
        self._say = say
        self._timeout_s = timeout_s

    def _saying(self, unit: Unit) -> Callable[[str], None]:
        """Return what passes on what *unit* says of itself."""
        return lambda text: self._say(f"{unit.name}: {text}")

    def choose(self, wanted: Sequence[str]) -> tuple[list[Unit], list[Unit]]:
        """Return the units to restart, in order, and all that run.

        Args:
            wanted: names of instances, or of their units; none: all that run.

        Raises:
            StoppedError: one is not there, does not run, or has failed; restarting others would leave too few.
        """
        units = self._systemd.units()
        running = [unit for unit in units if unit.active == "active"]
        broken = [unit for unit in units if unit.active not in ("active", "inactive")]
        if broken:
            names = ", ".join(f"{unit.name} ({unit.active})" for unit in broken)
            msg = (
                f"not in order: {names}; nothing was restarted. See `systemctl status {broken[0].name}`; mend it, or "
                f"take it out with `systemctl stop {broken[0].name}` and `systemctl reset-failed {broken[0].name}`"
            )
            raise StoppedError(msg)
        if not wanted:
            if not running:
                msg = f"no unit {PATTERN} runs on this host: `systemctl start incomingd@01` starts an instance"
                raise StoppedError(msg)
            return running, running
        by_name = {name: unit for unit in running for name in (unit.instance, unit.name)}
        for name in wanted:
            if name not in by_name:
                msg = f"no running unit for {name!r}; there is " + (", ".join(unit.name for unit in running) or "none")
                raise StoppedError(msg)
        return list(dict.fromkeys(by_name[name] for name in wanted)), running

    def run(self, wanted: Sequence[str]) -> list[dict[str, Any]]:
        """Restart; return what was done, for each unit in order.

        Raises:
            StoppedError: see there; what is left was not touched.
        """
        chosen, running = self.choose(wanted)
        done: list[dict[str, Any]] = []
        for place, unit in enumerate(chosen):
            began = time.monotonic()
            try:
                self._wait_for_rest(running, f"before {unit.name}" if not done else f"after {chosen[place - 1].name}")
            except StoppedError as error:
                raise self._stopped(error, chosen[place:]) from error
            self._say(f"{unit.name}: restarting ({place + 1} of {len(chosen)})")
            try:
                self._systemd.restart(unit, self._saying(unit))
                status = self._wait_until_back(unit)
            except StoppedError as error:
                raise self._not_back(unit, error, chosen[place:]) from error
            took_s = round(time.monotonic() - began, 1)
            self._say(f"{unit.name}: {READY}, version {status['version']}, after {took_s} s")
            done.append({"unit": unit.name, "version": status["version"], "duration_s": took_s})
        try:
            self._wait_for_rest(running, f"after {chosen[-1].name}")
        except StoppedError as error:
            raise self._stopped(error, []) from error
        return done

    # -- waiting

    def _wait_until_back(self, unit: Unit) -> dict[str, Any]:
        """Wait until the new process of *unit* is ready and nothing is on its way to or from it; return its status."""
        pid = self._systemd.show(unit, "MainPID").get("MainPID", "")
        return self._wait(unit, lambda status: None if str(status.get("pid")) == pid else "an older process answers")

    def _wait_for_rest(self, units: Sequence[Unit], when: str) -> None:
        for unit in units:
            try:
                self._wait(unit)
            except StoppedError as error:
                msg = f"{when}: {unit.name} is not at rest: {error}"
                raise StoppedError(msg) from error

    def _wait(self, unit: Unit, check: Callable[[dict[str, Any]], str | None] = lambda _: None) -> dict[str, Any]:
        deadline = time.monotonic() + self._timeout_s
        said = ""
        while True:
            status, reason = self._look(unit)
            reason = reason or check(status)
            if reason is None:
                return status
            if reason != said:
                said = reason
                self._say(f"{unit.name}: {reason}")
            if time.monotonic() > deadline:
                msg = f"still after {self._timeout_s:g} s: {reason}"
                raise StoppedError(msg)
            time.sleep(POLL_S)

    def _look(self, unit: Unit) -> tuple[dict[str, Any], str | None]:
        """Return the status, and why the unit is not at rest; None: it is."""
        try:
            status = self._instances.status(unit.instance)
        except UnreachableError as error:
            active = self._systemd.show(unit, "ActiveState").get("ActiveState", "")
            if active in ("failed", "inactive"):
                msg = f"the unit is {active}"
                raise StoppedError(msg) from error
            return {}, str(error)
        except RefusedError as error:
            msg = f"it does not tell how it is: {error} ({error.code})"
            raise StoppedError(msg) from error
        return status, unrest(status)

    # -- what is said when it stops

    @staticmethod
    def _stopped(error: StoppedError, left: Sequence[Unit]) -> StoppedError:
        return StoppedError(f"{error}. {_left(left)}")

    @staticmethod
    def _not_back(unit: Unit, error: StoppedError, left: Sequence[Unit]) -> StoppedError:
        return StoppedError(
            f"{unit.name} did not come back: {error}. See `journalctl --unit={unit.name} --lines=50`; mend it and "
            f"`systemctl restart {unit.name}`. {_left(left[1:])}"
        )


def unrest(status: dict[str, Any]) -> str | None:
    """Say why an instance with this status must not be left alone yet; None: others may be restarted.

    While uploads move, or bytes of theirs are still to be fetched from another instance, each instance may have what
    no other has.
    """
    if status.get("state") != READY:
        return f"is {status.get('state', 'of unknown state')}"
    still = [f"{status[name]} {name.removesuffix('_open')}" for name in OPEN if status.get(name)]
    return f"{' and '.join(still)} under way" if still else None


def _left(units: Sequence[Unit]) -> str:
    if not units:
        return "No other instance was left to restart."
    names = " ".join(unit.instance for unit in units)
    return f"Not restarted: {', '.join(unit.name for unit in units)}; go on with `incomingctl rolling-restart {names}`"


def _in_order(name: str) -> list[tuple[int, str]]:
    """Return what sorts instance 9 before instance 10."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.findall(r"\d+|\D+", name)]
