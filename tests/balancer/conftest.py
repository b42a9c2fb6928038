"""Balancers for all tests of a module: one before stand-ins, one before real daemons."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from tests.balancer.standin import StandIn
from tests.support.haproxy import NAMES, HAProxy


@pytest.fixture(scope="module")
def all_stand_ins() -> Iterator[dict[str, StandIn]]:
    """The instances by their names at the balancer."""
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(StandIn(name)) for name in NAMES}


@pytest.fixture(scope="module")
def balancer(all_stand_ins: dict[str, StandIn], tmp_path_factory: pytest.TempPathFactory) -> Iterator[HAProxy]:
    """HAProxy before the stand-ins."""
    folder = tmp_path_factory.mktemp("balancer")
    with HAProxy(folder, [stand_in.instance for stand_in in all_stand_ins.values()]) as running:
        yield running.start()


@pytest.fixture
def stand_ins(all_stand_ins: dict[str, StandIn], balancer: HAProxy) -> Iterator[dict[str, StandIn]]:
    """The instances, which answer 200 and want everything until the test says otherwise."""
    for stand_in in all_stand_ins.values():
        stand_in.reset()
    yield all_stand_ins
    for stand_in in all_stand_ins.values():
        stand_in.reset()
    for name in NAMES:
        balancer.wait_state(name, "UP")
