from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from incomingd.registry.memory import MemoryRegistry
from incomingd.registry.registry import Registry
from tests.registry.fleets import Fleet, identity
from tests.support.redis import RedisServer, redis_server


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis for all tests of a module that leave it running."""
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest_asyncio.fixture(params=["memory", "redis"])
async def fleet(request: pytest.FixtureRequest) -> AsyncIterator[Fleet]:
    """A fleet over an empty store of each kind."""
    server = None
    if request.param == "redis":
        server = request.getfixturevalue("shared_server")
        server.ask("FLUSHALL")
    fleet = Fleet(server)
    yield fleet
    await fleet.close()


@pytest_asyncio.fixture
async def redis_fleet(shared_server: RedisServer) -> AsyncIterator[Fleet]:
    """A fleet over an empty Redis that goes on running."""
    shared_server.ask("FLUSHALL")
    fleet = Fleet(shared_server)
    yield fleet
    await fleet.close()


@pytest_asyncio.fixture(params=["alone", "memory", "redis"])
async def registry(request: pytest.FixtureRequest) -> AsyncIterator[Registry]:
    """The registry of the instance `a`: of each kind, also that of an instance which is alone."""
    if request.param == "alone":
        alone = MemoryRegistry(identity("a"))
        yield alone
        await alone.close()
        return
    server = None
    if request.param == "redis":
        server = request.getfixturevalue("shared_server")
        server.ask("FLUSHALL")
    fleet = Fleet(server)
    yield (await fleet.join("a")).registry
    await fleet.close()
