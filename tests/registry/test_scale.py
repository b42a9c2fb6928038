"""Ring and registry of large fleets: what `docs/operating/scaling.md` builds on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.registry.scale import LEASE_S, fleet_figures, lease_figures, ring_figures
from tests.support.redis import RedisServer, redis_server
from tests.support.virtual import virtual


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path / "redis") as running:
        yield running


@pytest.mark.parametrize(
    "instances, uploads",
    [(100, 2000), pytest.param(1000, 10_000, marks=[pytest.mark.soak, pytest.mark.timeout(900)])],
)
def test_uploads_are_spread_evenly_and_only_those_concerned_move(instances: int, uploads: int) -> None:
    """As evenly as dice: the deviation is the root of the mean. Who goes or comes moves what was his, or is now."""
    found = ring_figures(instances, uploads)
    assert found.deviation < 1.3 * found.mean**0.5
    assert found.most <= 3 * found.mean + 5
    assert found.moved_when_one_goes == found.had_by_it
    assert found.moved_when_one_comes == found.gained_by_it


async def test_a_renewal_costs_redis_the_same_in_a_fleet_of_any_size(server: RedisServer) -> None:
    """One command each; not more of Redis's time among 1,000 leases than a few times that among 20."""
    few = await lease_figures(server, 20)
    server.ask("FLUSHALL")
    many = await lease_figures(server, 1000)
    assert (few.commands, few.seen) == (20, 20)
    assert (many.commands, many.seen) == (1000, 1000)
    assert many.renewal_us < 5 * few.renewal_us
    assert many.bytes_out < 1.2 * few.bytes_out + 20


@pytest.mark.parametrize("count", [30, pytest.param(1000, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])])
def test_a_fleet_knows_itself_within_moments(count: int) -> None:
    """All see all soon after the start; one that dies is missing a lease time later, and a beat."""

    @virtual
    async def on_virtual_time() -> None:
        found = await fleet_figures(count)
        assert found.knew_all_after_s <= 2.5
        assert LEASE_S - 1.5 <= found.knew_one_gone_after_s <= LEASE_S + 2.5
        assert 0.8 <= found.renewals_per_s <= 1.2

    on_virtual_time()
