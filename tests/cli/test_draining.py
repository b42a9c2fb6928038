"""`incomingctl drain`, `undrain` and `ring`, and what the status says of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from incomingd.cli.draining import counted, progress, retired
from incomingd.core.ring import Instance
from incomingd.core.status import Status
from incomingd.core.tenure import Identity
from incomingd.drain import DrainOptions
from incomingd.engine.state import Balancing, Phase
from tests.backend_api.service import ApiService
from tests.cli.test_cli import ctl, on_terminal
from tests.support.machine import wait_until

HELD = DrainOptions(balancer_s=600.0)
"""A drain waits for a balancer to hear of it: it goes on when a test says that one has."""


def heard(api: ApiService) -> None:
    """Let a drain that was held go on."""
    for word in Balancing:
        api.engine.state.balancing_told[word] = 1


@contextmanager
def held(api: ApiService) -> Iterator[None]:
    """Hold drains for a while."""
    api.admin.drain.options = HELD
    # A balancer has asked of late, so the drain waits until it has heard.
    api.engine.state.balancing_told[Balancing.READY] = 1
    try:
        yield
    finally:
        heard(api)
        wait_until(lambda: api.engine.state.phase is not Phase.DRAINING, "the end of the drain")


def test_drain_answers_at_once(api: ApiService) -> None:
    for _ in range(2):
        api.upload_in(Status.COMPLETE)
    with held(api):
        found = ctl(api, "drain").json()
        assert (found["state"], found["drain"]["uploads"], found["drain"]["left"]) == ("draining", 2, 2)
        assert "Draining: 2 of 2 uploads left." in on_terminal(api, "drain")
        shown = on_terminal(api, "status")
        assert re.search(r"state +draining", shown)
        assert re.search(r"drain +2 of 2 uploads left; 0 uploads parked", shown)
    assert "Drained: 2 uploads parked." in on_terminal(api, "drain")


def test_drain_waits_for_the_end(api: ApiService) -> None:
    """Elsewhere than on a terminal each step is a line on standard error, and the result is JSON."""
    api.upload_in(Status.COMPLETE)
    done = ctl(api, "drain", "--wait", "--timeout-s", "60")
    assert (done.status, json.loads(done.out)["state"], json.loads(done.out)["drain"]["left"]) == (0, "drained", 0)
    lines = done.err.splitlines()
    assert lines[-1] == "draining: 0 of 1 upload left"
    assert len(lines) == len(set(lines))
    assert all(line.startswith("draining: ") for line in lines)
    # A second call waits for nothing more.
    assert ctl(api, "drain", "--wait").err == "draining: 0 of 1 upload left\n"


def test_a_terminal_shows_a_bar(api: ApiService) -> None:
    for _ in range(3):
        api.upload_in(Status.COMPLETE)
    shown = on_terminal(api, "drain", "--wait")
    assert re.search(r"draining +\[=+\] +100% +0 of 3 uploads left", shown), repr(shown)
    assert "Drained: 3 uploads parked." in shown
    # Nothing to give away is done as well.
    api.admin_call("POST", "/undrain")
    assert re.search(r"\[=+\] +100%", on_terminal(api, "drain", "--wait"))


def test_a_wait_has_an_end(api: ApiService) -> None:
    api.upload_in(Status.COMPLETE)
    with held(api):
        done = ctl(api, "drain", "--wait", "--timeout-s", "0")
        assert (done.status, done.out) == (1, "")
        complaint = done.err.splitlines()[-1]
        assert complaint.startswith("incomingctl: not drained after 0 s: 1 of 1 upload left. It goes on by itself")
        assert "`incomingctl undrain`" in complaint
        assert api.engine.state.phase is Phase.DRAINING


@pytest.mark.parametrize(
    "phase,words",
    [(Phase.READY, "somebody has undone the drain"), (Phase.STOPPING, "there after the restart")],
)
def test_a_drain_that_does_not_come_to_its_end_is_told(
    phase: Phase, words: str, api: ApiService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The instance is started anew, stopped, or somebody has thought better of it."""
    status = api.admin.status

    async def changed() -> dict[str, Any]:
        return await status() | {"state": phase.value, "drain": None}

    with held(api):
        monkeypatch.setattr(api.admin, "status", changed)
        done = ctl(api, "drain", "--wait")
        monkeypatch.undo()
    assert (done.status, done.out) == (1, "")
    assert words in done.err


def test_undrain(api: ApiService) -> None:
    with held(api):
        ctl(api, "drain")
        assert ctl(api, "undrain").json() == {"state": "ready"}
    assert ctl(api, "undrain").json() == {"state": "ready"}


def test_a_timeout_without_a_wait_is_a_mistake() -> None:
    done = ctl(None, "drain", "--timeout-s", "3")
    assert (done.status, done.out) == (2, "")
    assert "--wait" in done.err


# -- for good


def test_nobody_inherits_from_who_is_alone(api: ApiService) -> None:
    """Nothing has changed then."""
    for arguments in ((), ("--dry-run",), ("--wait",), ("--heir", "i2")):
        done = ctl(api, "drain", "--retire", *arguments)
        assert (done.status, done.out) == (1, "")
        assert "(no_heir)" in done.err
    assert api.engine.state.phase is Phase.READY


@pytest.mark.parametrize("option", [("--heir", "i2"), ("--dry-run",)])
def test_what_belongs_to_a_retirement_means_nothing_without_one(option: tuple[str, ...], api: ApiService) -> None:
    done = ctl(None, "drain", *option)
    assert (done.status, done.out) == (2, "")
    assert "--retire" in done.err
    field = option[0].removeprefix("--").replace("-", "_")
    answer = api.admin_call("POST", "/drain", {field: "i2" if field == "heir" else True})
    assert (answer.status_code, answer.json()["code"]) == (400, "field_invalid")
    assert api.engine.state.phase is Phase.READY


def test_a_retirement_in_words() -> None:
    drain = {"uploads": 3, "left": 0, "appends_open": 0, "callbacks_open": 0}
    giving = {"stage": "giving", "heir": "i2", "left": 1, "inherited": 2, "files_kept": 0}
    assert progress(drain | {"retirement": giving}) == "1 record left for i2"
    assert progress(drain | {"retirement": giving | {"heir": None}}) == "waiting for an heir"
    assert progress(drain | {"left": 2, "retirement": giving}) == "2 of 3 uploads left"
    assert progress(drain | {"retirement": giving | {"stage": "done"}}) == "0 of 3 uploads left"
    assert retired(None) == ""
    assert retired(giving | {"stage": "not_needed"}) == " Nobody had to inherit: other instances reach the volume."
    done = giving | {"stage": "done", "files_kept": 1}
    assert retired(done) == (
        " i2 has inherited 2 records: this one has retired. 1 file that web apps keep here did not move."
    )


# -- the ring


def others(api: ApiService) -> list[Instance]:
    """Two more instances, one of which drains."""
    own = api.engine.services.registry.instance
    return [
        Instance(Identity("up2", "b" * 32, "https://up2:4002"), 1.7e9, own.volumes, version="1.3.0", draining=True),
        Instance(Identity("up3\x1b[2J", "c" * 32, "https://up3:4002"), 1.7e9, full=True),
    ]


@pytest.fixture
def fleet(api: ApiService, monkeypatch: pytest.MonkeyPatch) -> ApiService:
    """An instance that knows of two others."""
    registry = api.engine.services.registry
    known = (registry.instance, *others(api))
    monkeypatch.setattr(type(registry), "instances", property(lambda _: known))
    return api


def test_ring(fleet: ApiService) -> None:
    found = ctl(fleet, "ring").json()
    assert [(each["self"], each["draining"], each["full"]) for each in found["instances"]] == [
        (True, False, False),
        (False, True, False),
        (False, False, True),
    ]
    shown = on_terminal(fleet, "ring")
    assert re.search(r"registry +answers\b", shown)
    assert re.search(r"own lease +holds", shown)
    assert re.search(r"\(this one\) +takes uploads", shown)
    assert re.search(r"up2 +draining +2023-11-14 22:13 +1\.3\.0 +https://up2:4002 ", shown)
    assert "\x1b[2J" not in shown
    assert "bbbbbbbb" not in shown
    assert re.search(r"uploads it looks after +number\r?\n *none", on_terminal(fleet, "status"))
    assert re.search(r"ring +3 instances, 1 draining, 1 full", on_terminal(fleet, "status"))


def test_two_runs_under_one_name_are_told_apart(api: ApiService, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = api.engine.services.registry
    known = (registry.instance, *others(api)[:1], replace(others(api)[0], identity=Identity("up2", "d" * 32)))
    monkeypatch.setattr(type(registry), "instances", property(lambda _: known))
    shown = on_terminal(api, "ring")
    assert all(re.search(f"up2 .* {run}\r", shown) for run in ("bbbbbbbb", "dddddddd"))


def test_ring_says_what_is_wrong(fleet: ApiService, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = type(fleet.engine.services.registry)
    monkeypatch.setattr(registry, "settled", False)
    monkeypatch.setattr(registry, "lease_holds", False)
    shown = on_terminal(fleet, "ring")
    assert re.search(r"registry +answers, but not for long enough", shown)
    assert re.search(r"own lease +has lapsed", shown)
    monkeypatch.setattr(registry, "available", False)
    assert "the registry does not answer" in on_terminal(fleet, "status")


def test_an_instance_that_is_alone_says_so(api: ApiService) -> None:
    shown = on_terminal(api, "status")
    assert re.search(r"ring +alone", shown)
    assert re.search(r"moves +0 under way, 0 backfills open", shown)
    assert "drain" not in shown


# -- words


def test_numbers_are_said_as_people_say_them() -> None:
    assert [counted(number, "upload") for number in (0, 1, 2)] == ["0 uploads", "1 upload", "2 uploads"]
    drain = {"uploads": 9, "left": 4, "appends_open": 1, "callbacks_open": 2}
    assert progress(drain) == "4 of 9 uploads left, 1 append open, 2 callbacks open"
    assert progress(drain | {"appends_open": 0, "callbacks_open": 0}) == "4 of 9 uploads left"
    assert progress(dict.fromkeys(drain, 0)) == "no uploads here"
    assert progress(dict.fromkeys(drain, 0) | {"left": 12}) == "12 uploads left"
