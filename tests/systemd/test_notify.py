"""What the service manager hears of a daemon: sd_notify(3), on a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from incomingd.config import ConfigError, Problem
from incomingd.daemon import notify
from incomingd.daemon.notify import Notifier
from tests.support.fixtures import MakeDaemon
from tests.support.machine import wait_until
from tests.systemd.manager import Manager, Message

WATCHDOG_S = 0.4


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    """Somebody who listens where `NOTIFY_SOCKET` says."""
    address = str(tmp_path / "notify") if request.param == "path" else f"@incoming-test-{uuid.uuid4()}"
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    with Manager(address) as manager:
        yield manager


@pytest.fixture
def own(tmp_path: Path) -> Iterator[tuple[Manager, Notifier]]:
    """A manager, and what talks to it from this process."""
    with Manager(str(tmp_path / "notify")) as manager:
        notifier = Notifier(manager.address, watchdog_s=WATCHDOG_S)
        yield manager, notifier
        notifier.close()


def test_a_life_as_the_manager_hears_it(manager: Manager, make_daemon: MakeDaemon, tmp_path: Path) -> None:
    """Ready once requests are answered; reloading, and ready again; stopping, with the time that it may take."""
    file = tmp_path / "incomingd.yaml"
    file.write_text("log: {level: info}\n")
    daemon = make_daemon({"config": file, "shutdown.grace_s": 1000}, start=False, allowed={"config.reload_refused"})
    daemon.launch()
    assert manager.wait("READY")["STATUS"] == "ready"
    assert requests.get(f"{daemon.public_url}/incoming/1.0/health", timeout=10).status_code == 200

    before_us = time.monotonic_ns() // 1000
    file.write_text("log: {level: debug}\n")
    os.kill(daemon.pid, signal.SIGHUP)
    begun = manager.hear(30)
    assert begun is not None
    assert begun["RELOADING"] == "1"
    assert before_us <= int(begun["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
    done = manager.hear(30)
    assert done == {"READY": "1", "STATUS": "ready"}
    daemon.wait_event("config.reloaded")

    file.write_text("log: {level: loud}\n")
    assert requests.post(f"{daemon.backend_url}/incoming/1.0/admin/reload", timeout=10).status_code == 400
    assert "RELOADING" in manager.wait("RELOADING")
    refused = manager.wait("READY")
    assert "refused" in refused["STATUS"]

    file.write_text("log: {level: info}\n")
    assert requests.post(f"{daemon.backend_url}/incoming/1.0/admin/reload", timeout=10).status_code == 200
    assert manager.wait("READY")["STATUS"] == "ready"

    os.kill(daemon.pid, signal.SIGTERM)
    stopping = manager.wait("STOPPING")
    assert int(stopping["EXTEND_TIMEOUT_USEC"]) > 1000 * 10**6
    daemon.stop()
    assert not [message for message in manager.hear_all() if "READY" in message]


@pytest.mark.parametrize("manager", ["path"], indirect=True)
def test_a_frozen_daemon_gives_no_sign_of_life(
    manager: Manager, make_daemon: MakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", str(round(WATCHDOG_S * 1e6)))
    daemon = make_daemon()
    for _ in range(3):
        manager.wait("WATCHDOG")
    os.kill(daemon.pid, signal.SIGSTOP)
    try:
        wait_until(lambda: _state(daemon.pid) == "T", "the daemon is frozen")
        manager.hear_all()
        assert manager.hear(3 * WATCHDOG_S) is None
    finally:
        os.kill(daemon.pid, signal.SIGCONT)
    manager.wait("WATCHDOG")


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0]


def test_a_manager_that_is_gone_harms_nobody(
    make_daemon: MakeDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said once; the daemon answers."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    monkeypatch.setenv("WATCHDOG_USEC", "20000")
    daemon = make_daemon()
    event = daemon.wait_event("manager.not_told")
    assert event["level"] == "warning"
    assert requests.post(f"{daemon.backend_url}/incoming/1.0/admin/reload", timeout=10).status_code == 200
    daemon.stop()
    assert len(daemon.log_events("manager.not_told")) == 1


async def test_signs_of_life_come_from_the_event_loop(own: tuple[Manager, Notifier]) -> None:
    """A loop that hangs gives none, though the process has threads that run."""
    manager, notifier = own
    notifier.watch()
    manager.wait("WATCHDOG")
    time.sleep(3 * WATCHDOG_S)
    assert manager.hear_all() == []
    async with asyncio.timeout(20):
        while not manager.hear_all():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "environment, signs",
    [
        ({"WATCHDOG_USEC": "3000000"}, True),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, True),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getppid())}, False),
        ({"WATCHDOG_USEC": "0"}, False),
        ({"WATCHDOG_USEC": "soon"}, False),
        ({}, False),
    ],
)
async def test_signs_of_life_are_given_where_they_are_asked_for(
    environment: dict[str, str], tmp_path: Path, *, signs: bool
) -> None:
    with Manager(str(tmp_path / "notify")) as manager:
        notifier = Notifier.from_environment(environment | {"NOTIFY_SOCKET": manager.address})
        notifier.watch()
        assert [set(message) for message in manager.hear_all()] == [{"WATCHDOG"}] * signs
        notifier.close()


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": ""}, {"WATCHDOG_USEC": "1"}])
async def test_nothing_is_said_where_nobody_listens(environment: dict[str, str]) -> None:
    notifier = Notifier.from_environment(environment)
    notifier.watch()
    notifier.ready("ready")
    with notifier.reloading():
        notifier.progress("half")
    notifier.stopping("stopping")
    notifier.close()


def shown(messages: list[Message]) -> list[tuple[str, str]]:
    """Return the first variable and the status of each message."""
    return [(next(iter(message)), message.get("STATUS", "")) for message in messages]


async def test_only_another_status_is_progress(own: tuple[Manager, Notifier], monkeypatch: pytest.MonkeyPatch) -> None:
    """A drain that hangs at the same number asks for no more time, so it is killed."""
    monkeypatch.setattr(notify, "STATUS_INTERVAL_S", 0)
    manager, notifier = own
    notifier.ready("ready")
    notifier.stopping("stopping", within_s=7)
    for left in (3, 3, 2, 2, 2, 1):
        notifier.progress(f"{left} uploads to go")
    notifier.stopping("letting answers end", within_s=9)
    told = manager.hear_all()
    assert [int(each["EXTEND_TIMEOUT_USEC"]) // 10**6 for each in told[1:]] == [7, 30, 30, 30, 9]
    assert [each["STATUS"] for each in told[2:5]] == ["3 uploads to go", "2 uploads to go", "1 uploads to go"]
    assert ["STOPPING" in each for each in told] == [False, True, False, False, False, False]


async def test_an_operator_who_drains_looks_on(own: tuple[Manager, Notifier], monkeypatch: pytest.MonkeyPatch) -> None:
    """The process stays up, so nobody waits for its end; afterwards it may be ready again."""
    monkeypatch.setattr(notify, "STATUS_INTERVAL_S", 0)
    manager, notifier = own
    notifier.ready("ready")
    notifier.progress("draining: 1 of 2 uploads left")
    notifier.ready("ready")
    told = manager.hear_all()
    assert told[1] == {"STATUS": "draining: 1 of 2 uploads left"}
    assert told[2] == {"READY": "1", "STATUS": "ready"}


async def test_progress_is_told_now_and_then(own: tuple[Manager, Notifier], monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a thousand times for a thousand uploads that leave at once; the last word is told in any case."""
    monkeypatch.setattr(notify, "STATUS_INTERVAL_S", 0.2)
    manager, notifier = own
    notifier.progress("1000 uploads to go")
    for left in range(999, -1, -1):
        notifier.progress(f"{left} uploads to go")
    told: list[Message] = []
    async with asyncio.timeout(20):
        while not told or told[-1]["STATUS"] != "0 uploads to go":
            told += manager.hear_all()
            await asyncio.sleep(0.01)
    assert told[0]["STATUS"] == "1000 uploads to go"
    assert len(told) < 10


async def test_progress_that_is_overtaken_is_not_told(
    own: tuple[Manager, Notifier], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "STATUS_INTERVAL_S", 0.05)
    manager, notifier = own
    notifier.progress("draining: 1 upload left")
    notifier.progress("draining: 0 uploads left")
    notifier.ready("ready")
    await asyncio.sleep(0.2)
    assert [each["STATUS"] for each in manager.hear_all()] == ["draining: 1 upload left", "ready"]


async def test_ready_is_never_said_by_a_reload_that_comes_too_early_or_too_late(
    own: tuple[Manager, Notifier],
) -> None:
    manager, notifier = own
    with notifier.reloading():
        pass
    assert manager.hear_all() == []
    notifier.ready("ready")
    notifier.stopping("stopping")
    notifier.ready("ready")
    with notifier.reloading():
        pass
    assert shown(manager.hear_all()) == [("READY", "ready"), ("STOPPING", "stopping")]


async def test_a_refused_reload_leaves_it_ready(own: tuple[Manager, Notifier]) -> None:
    manager, notifier = own
    notifier.ready("ready")
    with pytest.raises(ConfigError), notifier.reloading():
        raise ConfigError([Problem("bad_value", "file", "log.level", "no such level")])
    assert [each[0] for each in shown(manager.hear_all())] == ["READY", "RELOADING", "READY"]


async def test_a_status_is_one_line(own: tuple[Manager, Notifier]) -> None:
    """Whatever is in it: a line of its own would be another message."""
    manager, notifier = own
    notifier.ready("ready\nSTOPPING=1\n" + 1000 * "x")
    (message,) = manager.hear_all()
    assert set(message) == {"READY", "STATUS"}
    assert len(message["STATUS"]) < 600


async def test_what_finds_no_room_goes_later(own: tuple[Manager, Notifier]) -> None:
    """A service manager that is busy gets what matters once it listens again, in order; nobody waits for it."""
    manager, notifier = own
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                other.sendto(b"STATUS=of another", manager.address)
    notifier.ready("ready")
    notifier.progress("nobody needs to know")
    notifier.stopping("stopping")
    mine: list[Message] = []
    async with asyncio.timeout(20):
        while len(mine) < 2:
            await asyncio.sleep(0.01)
            mine += [each for each in manager.hear_all() if each["STATUS"] != "of another"]
    assert shown(mine) == [("READY", "ready"), ("STOPPING", "stopping")]
