from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from incomingd.registry.memory import MemoryRegistry
from incomingd.registry.registry import Registry
from tests.registry.fleets import Fleet, identity
from tests.support.redis import Cluster, RedisServer, redis_cluster, redis_server

KINDS = ("memory", "redis", pytest.param("cluster", marks=pytest.mark.soak))


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis for all tests of a module that leave it running."""
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A Redis Cluster, likewise."""
    with redis_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


def empty_fleet(request: pytest.FixtureRequest) -> Fleet:
    """Return a fleet over an empty store of the kind that is the fixture's parameter."""
    server = request.getfixturevalue("shared_server") if request.param == "redis" else None
    cluster = request.getfixturevalue("shared_cluster") if request.param == "cluster" else None
    fleet = Fleet(server, cluster=cluster)
    fleet.wipe()
    return fleet


@pytest_asyncio.fixture(params=KINDS)
async def fleet(request: pytest.FixtureRequest) -> AsyncIterator[Fleet]:
    """A fleet over an empty store of each kind."""
    fleet = empty_fleet(request)
    yield fleet
    await fleet.close()


@pytest_asyncio.fixture
async def redis_fleet(shared_server: RedisServer) -> AsyncIterator[Fleet]:
    """A fleet over an empty Redis that goes on running."""
    shared_server.ask("FLUSHALL")
    fleet = Fleet(shared_server)
    yield fleet
    await fleet.close()


@pytest_asyncio.fixture(params=["alone", *KINDS])
async def registry(request: pytest.FixtureRequest) -> AsyncIterator[Registry]:
    """The registry of the instance `a`: of each kind, also that of an instance which is alone."""
    if request.param == "alone":
        alone = MemoryRegistry(identity("a"))
        yield alone
        await alone.close()
        return
    fleet = empty_fleet(request)
    yield (await fleet.join("a")).registry
    await fleet.close()
