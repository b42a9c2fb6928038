"""A ring and a registry of many instances: how even, how much moves, what it costs.

For tests, and for the figures in the documents.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections import Counter
from dataclasses import dataclass

from incomingd.clock import SystemClock
from incomingd.config.redis_url import parse
from incomingd.core import ids
from incomingd.core.formats import FORMAT
from incomingd.core.ring import Instance, ranked
from incomingd.core.tenure import Identity
from incomingd.registry.fleet import FleetRegistry
from incomingd.registry.memory import MemoryStore
from incomingd.registry.redis import RedisStore
from incomingd.registry.store import Sighting
from incomingd.registry.values import Formats
from tests.support.redis import RedisServer
from tests.support.virtual import VirtualClock

LEASE_S = 5.0


def instances(count: int) -> list[Instance]:
    """Return instances as they are in a data centre: four on each host, one volume a host."""
    return [
        Instance(
            Identity(f"host{n // 4:04}:{4000 + n % 4}", f"{n:032x}", f"https://host{n // 4:04}.example:{4500 + n % 4}"),
            started_at=1_800_000_000.0 + n,
            volumes=frozenset({ids.spell(n // 4, ids.VOLUME_CHARS)}),
            version="1.0.0",
        )
        for n in range(count)
    ]


def upload_ids(count: int) -> list[str]:
    """Return ids as tickets have them, the same ones each time."""
    chance = random.Random(4)
    volume_id = ids.spell(0, ids.VOLUME_CHARS)
    return [ids.spell(chance.getrandbits(256), ids.SECRET_CHARS) + volume_id for _ in range(count)]


@dataclass(frozen=True)
class RingFigures:
    """Of the first of the ring for each upload."""

    least: int
    mean: float
    most: int
    deviation: float
    moved_when_one_goes: int
    """Uploads whose first is another one then."""
    had_by_it: int
    moved_when_one_comes: int
    gained_by_it: int
    ranking_s: float
    """Processor time of one ranking."""


def ring_figures(instance_count: int, upload_count: int) -> RingFigures:
    """Rank the uploads among the instances; then without one of them, and with one more."""
    *all_but_one, one_more = instances(instance_count + 1)
    goes = all_but_one[instance_count // 2]
    uploads = upload_ids(upload_count)
    began_s = time.process_time()
    firsts = [ranked(each, all_but_one)[0] for each in uploads]
    ranking_s = (time.process_time() - began_s) / upload_count
    counts = Counter(each.identity.name for each in firsts)
    shares = [counts[each.identity.name] for each in all_but_one]
    left = [each for each in all_but_one if each is not goes]
    without = [ranked(each, left)[0] for each in uploads]
    beyond = [ranked(each, [*all_but_one, one_more])[0] for each in uploads]
    return RingFigures(
        least=min(shares),
        mean=statistics.mean(shares),
        most=max(shares),
        deviation=statistics.pstdev(shares),
        moved_when_one_goes=sum(a is not b for a, b in zip(firsts, without, strict=True)),
        had_by_it=counts[goes.identity.name],
        moved_when_one_comes=sum(a is not b for a, b in zip(firsts, beyond, strict=True)),
        gained_by_it=sum(each is one_more for each in beyond),
        ranking_s=ranking_s,
    )


def stats(server: RedisServer, section: str) -> dict[str, str]:
    """Return a section of Redis's INFO."""
    lines = server.ask("INFO", section).splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line and not line.startswith("#"))


def calls(server: RedisServer) -> dict[str, tuple[int, float]]:
    """Return how often each command came since the last reset, and the microseconds that it took in all."""
    found = {}
    for name, text in stats(server, "commandstats").items():
        fields = dict(field.split("=") for field in text.split(","))
        found[name.removeprefix("cmdstat_")] = (int(fields["calls"]), float(fields["usec"]))
    return found


@dataclass(frozen=True)
class LeaseFigures:
    """Of one Redis in which many leases run."""

    renewals: int
    commands: int
    """That clients sent to renew every lease once."""
    renewal_us: float
    """Processor time of Redis for one."""
    bytes_in: float
    bytes_out: float
    """Of one renewal."""
    looking_us: float
    """Of Redis, for all leases at once: what an instance asks after a change."""
    looking_bytes: float
    memory_bytes: float
    """Of one lease."""
    seen: int


async def lease_figures(server: RedisServer, count: int) -> LeaseFigures:
    """Renew as many leases as there are instances, once each, over one connection."""
    store = RedisStore(parse(f"redis://127.0.0.1:{server.port}"), SystemClock())
    values = {
        f"{each.identity.name}:{each.identity.start_id}": Formats().instance(each, FORMAT) for each in instances(count)
    }
    before = int(stats(server, "memory")["used_memory"])
    for lease_id, value in values.items():
        # Long enough that none lapses while this goes on.
        await store.renew(lease_id, value, lease_s=600, fresh="0" * 32)
    memory = int(stats(server, "memory")["used_memory"]) - before
    server.ask("CONFIG", "RESETSTAT")
    for lease_id, value in values.items():
        await store.renew(lease_id, value, lease_s=600, fresh="0" * 32)
    traffic, renewed = stats(server, "stats"), calls(server)
    server.ask("CONFIG", "RESETSTAT")
    found = await store.leases()
    looked_traffic, looked = stats(server, "stats"), calls(server)
    await store.close()
    return LeaseFigures(
        renewals=count,
        commands=renewed["eval"][0],
        renewal_us=renewed["eval"][1] / count,
        bytes_in=int(traffic["total_net_input_bytes"]) / count,
        bytes_out=int(traffic["total_net_output_bytes"]) / count,
        looking_us=looked["eval"][1],
        looking_bytes=int(looked_traffic["total_net_output_bytes"]),
        memory_bytes=memory / count,
        seen=len(found),
    )


@dataclass(frozen=True)
class FleetFigures:
    """Of registries in one process over a store in memory, on virtual time."""

    knew_all_after_s: float
    knew_one_gone_after_s: float
    renewals_per_s: float
    """Of one instance, while nothing happens."""


class _Counting(MemoryStore):
    renewals = 0

    async def renew(self, lease_id: str, value: bytes, *, lease_s: float, fresh: str) -> Sighting:
        self.renewals += 1
        return await super().renew(lease_id, value, lease_s=lease_s, fresh=fresh)


async def fleet_figures(count: int) -> FleetFigures:
    """Start that many at once; let them be; let one end without a farewell."""
    clock = VirtualClock(1)
    store = _Counting(clock.monotonic, lambda: f"{clock.random_bits(128):032x}")
    registries = [FleetRegistry(store, clock, each, lease_s=LEASE_S) for each in instances(count)]
    began_s = clock.monotonic()
    await asyncio.gather(*(each.start() for each in registries))
    while any(len(each.instances) < count for each in registries):
        await clock.sleep(0.1)
    knew_all_after_s = clock.monotonic() - began_s
    await clock.sleep(LEASE_S)
    before, at_s = store.renewals, clock.monotonic()
    await clock.sleep(20)
    renewals_per_s = (store.renewals - before) / count / (clock.monotonic() - at_s)
    ended, *others = registries
    for task in ended._tasks:
        task.cancel()
    await asyncio.gather(*ended._tasks, return_exceptions=True)
    at_s = clock.monotonic()
    while any(len(each.instances) == count for each in others):
        await clock.sleep(0.1)
    knew_one_gone_after_s = clock.monotonic() - at_s
    for each in others:
        await each.close()
    return FleetFigures(knew_all_after_s, knew_one_gone_after_s, renewals_per_s)
