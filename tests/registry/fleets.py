"""Fleets of registries over one store, in memory or in a real Redis."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from typing import TypeVar

from incomingd.clock import SystemClock
from incomingd.config.redis_url import parse
from incomingd.core.ring import Instance
from incomingd.core.tenure import Identity
from incomingd.registry.fleet import FleetRegistry
from incomingd.registry.memory import MemoryStore
from incomingd.registry.redis import RedisStore
from incomingd.registry.registry import Event, InstancesChanged
from incomingd.registry.store import Store
from incomingd.registry.values import Formats
from tests.support.redis import Cluster, RedisServer

VOLUME = "vvvvvvvvvvvv"
LEASE_S = 1.0

E = TypeVar("E", bound=Event)
T = TypeVar("T")


def upload(number: int = 0) -> str:
    return f"{number:043}{VOLUME}"


def identity(name: str, start_id: str = "1f") -> Identity:
    return Identity(name, start_id, f"10.0.0.1:{4000 + len(name)}")


async def until(probe: Callable[[], T | None], what: str, *, timeout_s: float = 30) -> T:
    """Wait until *probe* returns something true, and return that."""
    deadline_s = time.monotonic() + timeout_s
    while not (found := probe()):
        assert time.monotonic() < deadline_s, f"waited {timeout_s} s in vain: {what}"
        await asyncio.sleep(0.005)
    # Events are told on the loop's next turn.
    await asyncio.sleep(0)
    return found


class Member:
    """One instance's registry, and what it has told."""

    def __init__(self, registry: FleetRegistry) -> None:
        self.registry = registry
        self.identity = registry.instance.identity
        self.events: list[Event] = []
        registry.watch(self.events.append)

    def told(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]

    def sees(self) -> set[str]:
        return {each.identity.name for each in self.registry.instances}

    async def settled(self) -> None:
        await until(lambda: self.registry.settled, "settled")

    async def has_seen(self, *names: str) -> None:
        await until(lambda: self.sees() == set(names), f"sees {names}")

    def came(self) -> list[str]:
        return [each.identity.name for event in self.told(InstancesChanged) for each in event.came]

    def gone(self) -> list[str]:
        return [each.identity.name for event in self.told(InstancesChanged) for each in event.gone]


class Fleet:
    """Makes members over one store, and ends them."""

    def __init__(
        self,
        server: RedisServer | None,
        url: str | None = None,
        lease_s: float = LEASE_S,
        *,
        cluster: Cluster | None = None,
    ) -> None:
        self.server = server
        servers = server or cluster
        self._servers = servers
        self.url = url or (servers.url if servers is not None else "")
        self.clock = SystemClock()
        self.lease_s = lease_s
        self.memory = MemoryStore(time.monotonic, lambda: secrets.token_hex(8))
        self.members: list[Member] = []

    def store(self) -> Store:
        return RedisStore(parse(self.url), self.clock) if self.url else self.memory

    async def join(
        self,
        name: str,
        start_id: str = "1f",
        *,
        started: bool = True,
        formats: Formats | None = None,
        lease_s: float | None = None,
    ) -> Member:
        """Return an instance's registry; it has been started, and its first contact has been."""
        instance = Instance(identity(name, start_id), volumes=frozenset({VOLUME}), version="1.2.3")
        if formats is not None:
            instance = Instance(identity(name, start_id), format=formats.known.newest)
        registry = FleetRegistry(self.store(), self.clock, instance, lease_s=lease_s or self.lease_s, formats=formats)
        member = Member(registry)
        self.members.append(member)
        if started:
            await registry.start()
        return member

    async def crash(self, member: Member) -> None:
        """End a member without a farewell: its lease stays until it lapses."""
        for task in member.registry._tasks:
            task.cancel()
        await asyncio.gather(*member.registry._tasks, return_exceptions=True)
        await member.registry._store.close()
        member.registry._closed = True

    def wipe(self) -> None:
        """Let the store lose everything."""
        (self._servers or self.memory).wipe()

    async def close(self) -> None:
        for member in self.members:
            await member.registry.close()
        await self.clock.close()
