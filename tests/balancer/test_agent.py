"""The agent check: one line a connection, counted when it was heard."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator

import pytest

from incomingd.clock import SystemClock
from incomingd.config.values import TcpAddress
from incomingd.daemon.agent import CONNECTIONS_MAX, AgentListener
from incomingd.daemon.listeners import ListenError
from incomingd.engine.state import Balancing, InstanceState
from tests.support.fixtures import MakeDaemon
from tests.support.haproxy import HOST, behind_balancer, instance_of
from tests.support.machine import free_port

RESET = struct.pack("ii", 1, 0)


class Agent:
    """A listener that runs, and the state that it tells."""

    def __init__(self) -> None:
        self.state = InstanceState()
        self.port = free_port()
        self.clock = SystemClock()
        self.listener = AgentListener(TcpAddress(HOST, self.port), self.state, self.clock)

    async def hear(self, said: bytes = b"") -> str:
        """Return what a connection hears that says something first; close it then."""
        reader, writer = await asyncio.open_connection(HOST, self.port)
        writer.write(said)
        line = await reader.readline()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        return line.decode("ascii")

    async def counted(self, word: Balancing, times: int) -> None:
        """Wait until *word* has been counted so often."""
        while self.state.balancing_told.get(word) != times:
            await asyncio.sleep(0.005)


@pytest.fixture
async def agent() -> AsyncIterator[Agent]:
    made = Agent()
    made.listener.bind()
    made.listener.start()
    yield made
    made.listener.stop()
    await made.clock.close()


async def test_each_phase_has_its_word(agent: Agent) -> None:
    """Those of API.md's table; every line is counted under its word, from the beginning of a drain anew."""
    assert await agent.hear() == "down\n"
    agent.state.ready()
    assert await agent.hear() == "up ready\n"
    agent.state.registry_away = True
    assert await agent.hear(b"what do you want?\n" * 1000) == "up ready\n"
    await agent.counted(Balancing.READY, 2)
    agent.state.drain()
    assert await agent.hear() == "drain\n"
    await agent.counted(Balancing.DRAIN, 1)
    agent.state.takes_nothing = True
    assert await agent.hear() == "maint\n"
    agent.state.drained()
    assert await agent.hear() == "maint\n"
    agent.state.stop()
    assert await agent.hear() == "maint\n"
    await agent.counted(Balancing.MAINT, 3)
    assert Balancing.READY not in agent.state.balancing_told


async def test_what_nobody_has_heard_is_not_counted(agent: Agent) -> None:
    """A drain cuts bodies once the balancer knows: a line on its way is not known yet."""
    reader, writer = await asyncio.open_connection(HOST, agent.port)
    await reader.readline()
    agent.state.ready()
    assert await agent.hear() == "up ready\n"
    await agent.counted(Balancing.READY, 1)
    assert Balancing.DOWN not in agent.state.balancing_told
    writer.close()
    await agent.counted(Balancing.DOWN, 1)


async def test_connections_have_a_limit_and_come_back(agent: Agent) -> None:
    """Whoever holds connections open does not use up the daemon's descriptors; those that were reset count no more."""
    held = [socket.create_connection((HOST, agent.port)) for _ in range(CONNECTIONS_MAX)]
    for each in held:
        each.setblocking(False)
    for each in held:
        assert await asyncio.get_running_loop().sock_recv(each, 100) == b"down\n"
    assert await agent.hear() == ""
    for each in held:
        each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        each.close()
    await agent.counted(Balancing.DOWN, CONNECTIONS_MAX)
    assert await agent.hear() == "down\n"


async def test_an_address_that_is_taken_is_said(agent: Agent) -> None:
    with pytest.raises(ListenError, match=rf"^agent\.address: cannot listen at {HOST}:{agent.port}: "):
        AgentListener(TcpAddress(HOST, agent.port), agent.state, agent.clock).bind()


def test_a_daemon_has_the_listener(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(behind_balancer())
    with socket.create_connection((HOST, instance_of(daemon).agent_port), timeout=10) as connection:
        assert connection.recv(100) == b"up ready\n"
    ready = daemon.wait_event("daemon.ready")
    assert ready["listeners"]["agent"] == daemon.settings["agent.address"]
