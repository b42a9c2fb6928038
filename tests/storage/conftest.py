from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.storage.volumes import AnyVolume, Machine


@pytest_asyncio.fixture(params=["directory", "directory shared", "memory", "memory shared"])
async def machine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Machine]:
    """A machine with a volume of each kind."""
    machine = Machine(request.param, tmp_path / "data")
    yield machine
    await machine.close()


@pytest_asyncio.fixture(params=["directory shared", "memory shared"])
async def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Machine]:
    """A machine with a volume of each kind that several processes can use at the same time."""
    machine = Machine(request.param, tmp_path / "data")
    yield machine
    await machine.close()


@pytest.fixture
def volume(machine: Machine) -> AnyVolume:
    return machine.volume
