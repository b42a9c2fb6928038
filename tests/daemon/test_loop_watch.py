"""A blocked event loop: who blocks it is named while it lasts, it is counted, and the log is not flooded."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

from incomingd import log
from incomingd.daemon.loop_watch import LoopWatch
from tests.support.fixtures import MakeDaemon
from tests.support.machine import ROOT, wait_until

GIVE_UP_S = 20.0


class Watched:
    """Runs functions on a loop that is watched; `turns_s` are the turns that were counted."""

    def __init__(self) -> None:
        self.watch = LoopWatch()
        self.turns_s: list[float] = []

    def run(self, *calls: Callable[[], None]) -> None:
        """Call them on the loop, one in each turn."""

        async def run() -> None:
            self.watch.start(self.turns_s.append)
            try:
                for call in calls:
                    call()
                    # Behind the next rest: the turn is over then.
                    await asyncio.sleep(0.001)
            finally:
                self.watch.stop()

        with asyncio.Runner(loop_factory=self.watch.make_loop) as runner:
            runner.run(run())

    def block_until_seen(self) -> None:
        """Block the loop until somebody has seen it."""
        give_up_s = time.monotonic() + GIVE_UP_S
        while self.watch._seen is None or self.watch._seen[0] != self.watch._began_s:
            assert time.monotonic() < give_up_s, "nobody looks"
            time.sleep(0.01)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What is logged, fields as they are given."""
    events: list[dict[str, Any]] = []

    def warning(_: object, event: str, **fields: object) -> None:
        events.append({"event": event, **fields})

    monkeypatch.setattr(log.Logger, "warning", warning)
    return events


def test_who_blocks_the_loop_is_named(told: list[dict[str, Any]]) -> None:
    watched = Watched()

    def reads_a_tape() -> None:
        watched.block_until_seen()

    watched.run(reads_a_tape)
    assert len(watched.turns_s) == 1
    assert watched.turns_s[0] > 0.1
    [event] = told
    assert event["event"] == "loop.blocked"
    assert event["duration_s"] == pytest.approx(watched.turns_s[0], abs=0.001)
    assert any("reads_a_tape" in frame for frame in event["stack"]), event["stack"]
    # The loop's own are left out.
    assert not any(frame.startswith("asyncio.") for frame in event["stack"])


def test_each_blocked_turn_is_counted_but_few_are_logged(told: list[dict[str, Any]]) -> None:
    watched = Watched()
    watched.watch._blocked_s = 0.002
    watched.run(*[watched.block_until_seen] * 12)
    assert len(watched.turns_s) >= 12
    assert len(told) == 6


def test_turns_that_end_in_time_are_nothing_to_tell(told: list[dict[str, Any]]) -> None:
    """Many short ones are not one long one."""
    watched = Watched()
    watched.watch._blocked_s = 5.0
    watched.run(*[lambda: None] * 100)
    assert not watched.turns_s
    assert not told


def test_a_turn_that_does_not_end_is_told_while_it_lasts(
    told: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("incomingd.daemon.loop_watch.TOLD_AFTER_S", 0.0)
    watched = Watched()

    def never_ends() -> None:
        wait_until(lambda: told, "a line")

    watched.run(never_ends)
    assert len(told) == 1
    assert any("never_ends" in frame for frame in told[0]["stack"])
    assert len(watched.turns_s) == 1


def test_while_the_loop_rests_the_watching_thread_does_too() -> None:
    watch = LoopWatch()
    looks = 0

    def monotonic() -> float:
        nonlocal looks
        looks += threading.current_thread().name == "loop watch"
        return time.monotonic()

    watch._monotonic = monotonic

    async def run() -> int:
        watch.start(lambda _: None)
        while not watch._parked:
            await asyncio.sleep(0.2)
        before = looks
        await asyncio.sleep(1.0)
        after = looks
        watch.stop()
        return after - before

    with asyncio.Runner(loop_factory=watch.make_loop) as runner:
        # At ten times a second it would be ten.
        assert runner.run(run()) <= 3


BLOCKS = """
import asyncio, time
from incomingd.daemon.daemon import Daemon

start = Daemon.start

def a_callback_that_blocks():
    time.sleep(0.5)

async def start_and_block(self):
    await start(self)
    asyncio.get_running_loop().call_later(0.05, a_callback_that_blocks)

Daemon.start = start_and_block
"""


def test_the_daemon_says_who_blocks_it(make_daemon: MakeDaemon, tmp_path: Path) -> None:
    """In the log, and in the metrics."""
    (tmp_path / "sitecustomize.py").write_text(BLOCKS, "ascii")
    daemon = make_daemon(start=False)
    daemon.environment = {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    daemon.start()

    def named() -> bool:
        return any(
            "a_callback_that_blocks" in frame
            for event in daemon.log_events("loop.blocked")
            for frame in event["stack"] or []
        )

    wait_until(named, "the callback in the log")
    metrics = requests.get(f"{daemon.backend_url}/incoming/1.0/admin/metrics", timeout=10).text
    counted = [line for line in metrics.splitlines() if line.startswith("incomingd_loop_blocked_seconds_count")]
    assert float(counted[0].split()[1]) >= 1
