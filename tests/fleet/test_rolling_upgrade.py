"""Instances are upgraded, die, lose their registry, while people upload through HAProxy: nobody notices."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.fleet.crowd import Crowd, crowd, trusting
from tests.fleet.load import KIB, MIB, Pace, keep_figures, many_files
from tests.support.app import App
from tests.support.browser import running_browser
from tests.support.machine import wait_until
from tests.support.stock import tus_js, tuspy

OWN = 106
RATE_BYTES_PER_S = 32 * KIB
FAULT_S = 5.0
"""How long Redis is away."""


@pytest.fixture(autouse=True)
def _many_files() -> Iterator[None]:
    with many_files():
        yield


@contextlib.asynccontextmanager
async def uploading(
    site: Crowd, *, own: int, seconds: float, pages: bool = True, programs: int = 3
) -> AsyncIterator[None]:
    """Have everybody upload while the block runs, stock clients for so many *seconds*; then let all end.

    Args:
        site: where to.
        own: how many uploads of the tests' own client are under way at any time.
        seconds: how long those of stock clients would take.
        pages: whether Chromium uploads, too.
        programs: how many of tus-js-client, and how many of tuspy, in processes of their own.
    """
    size_bytes = int(RATE_BYTES_PER_S * seconds)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in trusting(site.balancer.ca_file).items():
            patch.setenv(name, value)
        async with contextlib.AsyncExitStack() as stack:
            chromium = await stack.enter_async_context(running_browser()) if pages else None
            async with asyncio.TaskGroup() as group:
                slow = Pace(RATE_BYTES_PER_S)
                group.create_task(site.keep_uploading(own, lambda: random.randrange(384 * KIB, 1152 * KIB), slow))
                # What is in the buffers of fast ones is what is sent twice.
                fast = Pace(2 * MIB, piece_bytes=128 * KIB)
                group.create_task(site.keep_uploading(2, lambda: 16 * MIB, fast))
                for _ in range(programs):
                    group.create_task(site.as_program(tus_js, size_bytes))
                    group.create_task(site.as_program(tuspy, size_bytes))
                if chromium is not None:
                    for script in ("withTusJs", "withIncoming"):
                        group.create_task(site.in_browser(chromium, script, 3, size_bytes))
                await site.all_open(own, 2 * programs + (6 if pages else 0))
                yield
                site.over.set()
    await asyncio.to_thread(site.check)


async def rolling(
    folder: Path, app: App, durability: str, *, rounds: int, shared: bool = True, stock: bool = True
) -> dict[str, Any]:
    """Upgrade every instance in turn, so many times; return what that cost the uploads.

    Without *stock* there is one of each program beside the tests' own client, and no page.
    """
    async with crowd(folder, app, shared=shared, durability=durability) as site:
        programs = 3 if stock else 1
        # Between the end of one and the beginning of the next lies a ticket.
        own = OWN if shared else OWN + 6
        async with uploading(site, own=own, seconds=16 * rounds, pages=stock, programs=programs):
            drains = [await site.during(partial(site.upgrade, daemon)) for daemon in site.fleet.instances * rounds]
        figures = site.figures.summary() | {"rounds": rounds, "drains": drains, "least_open": site.least_open}
        volumes = "" if shared else "-private"
        keep_figures(f"rolling-upgrade{volumes}-{durability}-{rounds}", figures, folder)
    assert site.least_open >= 100
    assert figures["cuts"] >= rounds * OWN / 2
    return figures


@pytest.mark.alone
async def test_a_rolling_upgrade_is_not_noticed(app: App, tmp_path: Path) -> None:
    """One round: no upload fails or begins anew, every file is right, no pause is longer than 2 s."""
    figures = await rolling(tmp_path, app, "completion", rounds=1)
    assert figures["pause_s"]["max"] <= 2, figures


@pytest.mark.alone
async def test_a_rolling_upgrade_over_private_volumes_is_not_noticed(app: App, tmp_path: Path) -> None:
    """Every byte leaves each instance before it stops: no upload fails or begins anew, every file is right."""
    # `make soak` has all clients here, too; what differs from a shared volume differs for each of them alike.
    figures = await rolling(tmp_path, app, "completion", rounds=1, shared=False, stock=False)
    assert figures["pause_s"]["max"] <= 2, figures


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "private"])
@pytest.mark.parametrize("durability", ["completion", "acknowledgement", "none"])
async def test_rolling_upgrades_cost_little(durability: str, *, shared: bool, app: App, tmp_path: Path) -> None:
    """Three rounds: 99 of 100 pauses are shorter than half a second, and send less than 16 MiB twice."""
    figures = await rolling(tmp_path, app, durability, rounds=3, shared=shared)
    assert figures["pause_s"]["p99"] <= 0.5, figures
    assert figures["again_bytes"]["p99"] <= 16 * MIB, figures


async def killing(folder: Path, app: App, *, kills: int, shared: bool = True) -> None:
    """Kill instances at random, and start them again."""
    async with crowd(folder, app, shared=shared) as site:
        async with uploading(site, own=OWN, seconds=5 * kills):
            for _ in range(kills):
                daemon = random.choice(site.fleet.instances)
                daemon.kill9()
                daemon.launch()
                await site.during(partial(site.wait_back, daemon))
        volumes = "" if shared else "-private"
        keep_figures(f"kills{volumes}-{kills}", site.figures.summary() | {"kills": kills}, folder)
        assert site.figures.cuts


async def test_instances_that_are_killed_cost_nobody_an_upload(app: App, tmp_path: Path) -> None:
    """`kill -9` of random instances: no client gives up, nothing begins anew, every file is right."""
    await killing(tmp_path, app, kills=2)


@pytest.mark.soak
@pytest.mark.timeout(600)
async def test_many_kills_cost_nobody_an_upload(app: App, tmp_path: Path) -> None:
    """The same with twelve kills."""
    await killing(tmp_path, app, kills=12)


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kills", [2, 12])
async def test_uploads_of_instances_that_were_killed_go_on_when_they_are_back(
    kills: int, app: App, tmp_path: Path
) -> None:
    """Each on a volume of its own: nobody else has what a dead one has taken, and still no client gives up."""
    await killing(tmp_path, app, kills=kills, shared=False)


async def losing_redis(folder: Path, app: App, fault_s: float) -> None:
    """Wipe Redis, stop it, freeze it."""
    async with crowd(folder, app) as site:
        async with uploading(site, own=30, seconds=4 * fault_s, pages=False):
            redis, over = site.fleet.redis, threading.Event()

            def all_ready() -> bool:
                return all(site.fleet.status(daemon)["state"] == "ready" for daemon in site.fleet.instances)

            def all_known() -> bool:
                return all(site.fleet.knows_all(daemon) for daemon in site.fleet.instances)

            def trouble() -> None:
                redis.ask("FLUSHALL")
                wait_until(all_known, "the instances know each other again")
                redis.kill()
                # That is the fault: it lasts so long.
                over.wait(fault_s)
                redis.start()
                wait_until(all_ready, "Redis is back")
                redis.freeze()
                over.wait(fault_s)
                redis.thaw()
                wait_until(all_ready, "Redis answers again")
                site.upgrade(site.fleet[0])

            await site.during(trouble)
        keep_figures(f"redis-lost-{fault_s:g}", site.figures.summary(), folder)


async def test_uploads_do_not_notice_that_redis_is_lost(app: App, tmp_path: Path) -> None:
    """Wiped, stopped, frozen for 5 s each: no client gives up, every file is right, and a drain goes as ever."""
    await losing_redis(tmp_path, app, FAULT_S)


@pytest.mark.soak
@pytest.mark.timeout(600)
async def test_uploads_do_not_notice_that_redis_is_lost_for_long(app: App, tmp_path: Path) -> None:
    """The same for 30 s each."""
    await losing_redis(tmp_path, app, 30)
