"""What befalls a fleet, by chance: each kind for itself, so that a run can leave some out."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from incomingd.registry.store import Entry
from incomingd.registry.values import Formats
from incomingd.storage.memory_parts import Trouble
from incomingd.storage.volume import VolumeError, VolumeFullError, VolumeUnavailableError
from tests.simulation.fleet import Ambush, Fleet, Process
from tests.simulation.processes import outside, outside_task

STEPS: Final = (
    "take", "look", "claim", "write", "sync", "measure", "standing", "open_segment", "read", "drop_bytes", "join",
)  # fmt: skip
"""Calls to a disk at which a process may be frozen."""


class Faults:
    """Strikes a fleet.

    Args:
        fleet: that is struck.
        chance: decides everything.
    """

    def __init__(self, fleet: Fleet, chance: random.Random) -> None:
        self.fleet = fleet
        self.chance = chance

    def kinds(self) -> dict[str, Callable[[], None]]:
        """Return everything that can befall a fleet, by its name."""
        return {
            "kill": self.kill,
            "freeze": self.freeze,
            "ambush": self.ambush,
            "stop": self.stop,
            "cut": self.cut,
            "messages": self.messages,
            "wipe": self.wipe,
            "redis": self.redis,
            "fail-over": self.fail_over,
            "ahead": self.ahead,
            "clock": self.clock,
            "full": self.full,
            "sick": self.sick,
            "slow": self.slow,
            "drain": self.drain,
            "undrain": self.undrain,
            "app": self.app,
        }

    def _any(self) -> Process | None:
        awake = [each for each in self.fleet.running.values() if each.ready and not each.gate.frozen]
        return self.chance.choice(awake) if awake else None

    def _for(self, longest_s: float = 20.0) -> float:
        return self.chance.choice([0.3, 2.0, longest_s / 2, longest_s]) * self.chance.uniform(0.5, 1.0)

    def kill(self) -> None:
        if process := self._any():
            self.fleet.tell(process, "killed")
            process.kill()
            outside(self._for(15.0), self.fleet.start, process.name)

    def stop(self) -> None:
        process = self._any()
        if process is None or len(self.fleet.takers()) < 2:
            return
        self.fleet.tell(process, "is to stop")
        _ = process.spawn(process.stop(), "stop")
        outside(25.0 + self._for(10.0), self.fleet.start, process.name)

    def freeze(self) -> None:
        if process := self._any():
            for_s = self._for(25.0)
            self.fleet.tell(process, f"frozen for {for_s:.1f} s")
            process.freeze(for_s)

    def ambush(self) -> None:
        if process := self._any():
            name = self.chance.choice(STEPS)
            process.ambush = Ambush(name, self.chance.randint(1, 3), self.chance.random() < 0.5, self._for(25.0))

    def cut(self) -> None:
        if self.fleet.alone:
            return
        names = self.chance.sample(self.fleet.names, 2)
        pair = frozenset(names)
        self.fleet.tell(None, f"{' and '.join(sorted(names))} do not reach each other")
        self.fleet.network.cut.add(pair)
        outside(self._for(25.0), self.fleet.network.cut.discard, pair)

    def messages(self) -> None:
        network = self.fleet.network
        network.lost = self.chance.choice([0.0, 0.1, 0.5])
        network.late = self.chance.choice([0.0, 0.2])
        network.twice = self.chance.choice([0.0, 0.3])
        self.fleet.tell(None, f"messages: lost {network.lost} late {network.late} twice {network.twice}")

    def wipe(self) -> None:
        self.fleet.tell(None, "redis is wiped")
        self.fleet.redis.store.wipe()

    def redis(self) -> None:
        redis = self.fleet.redis
        redis.state = self.chance.choice(["down", "hung", "up"])
        redis.loses_answers = self.chance.choice([0.0, 0.3])
        self.fleet.tell(None, f"redis is {redis.state}, loses {redis.loses_answers}")
        outside(self._for(15.0), redis.heal)

    def fail_over(self) -> None:
        redis = self.fleet.redis
        redis.stop_replicating()

        def fail_over() -> None:
            self.fleet.tell(None, "redis fails over, its last writes are lost")
            redis.fail_over()

        outside(self._for(10.0), fail_over)

    def ahead(self) -> None:
        """The registry tells of a tenure that never was, as an old backup may."""
        if (process := self._any()) and self.fleet.truths:
            upload_id = self.chance.choice(sorted(self.fleet.truths))
            record = self.fleet.stored(upload_id)
            epoch = (record.epoch if record is not None else 0) + self.chance.randint(1, 4)
            self.fleet.tell(None, f"the registry names {process.name} owner {epoch} of {self.fleet.name_of(upload_id)}")
            self.fleet.redis.forged = True
            value = Formats().ownership(process.identity, epoch, 1)
            entry = Entry(upload_id, process.name, process.identity.start_id, epoch, value)
            _ = outside_task(self.fleet.redis.forge(entry), "forgery")

    def clock(self) -> None:
        name, by_s = self.chance.choice(self.fleet.names), self.chance.choice([-7200.0, -30.0, 30.0, 7200.0])
        if abs(self.fleet.jumps.get(name, 0.0) + by_s) <= 7200.0:
            self.fleet.tell(None, f"the clock of {name} is set by {by_s:g} s")
            self.fleet.jump(name, by_s)

    def full(self) -> None:
        disk = self.chance.choice(list(self.fleet.disks.values()))
        disk.free_bytes = self.chance.randint(0, 40)
        self.fleet.tell(None, f"the disk {disk.volume_id} has {disk.free_bytes} bytes left")

        def empty() -> None:
            disk.free_bytes = None

        outside(self._for(8.0), empty)

    def sick(self) -> None:
        if process := self._any():
            share, done = self.chance.choice([0.1, 0.5]), self.chance.random() < 0.5
            chance = random.Random(self.chance.getrandbits(32))
            errors: list[type[VolumeError]] = [VolumeUnavailableError, VolumeFullError]

            def befalls(name: str) -> Trouble | None:
                if chance.random() >= share:
                    return None
                return Trouble(error=chance.choice(errors), done=done and chance.random() < 0.7, share=chance.random())

            process.sick = befalls
            self.fleet.tell(process, f"the disk fails {share} of its calls")

            def well() -> None:
                process.sick = None

            outside(self._for(6.0), well)

    def slow(self) -> None:
        fleet = self.fleet
        fleet.disk_delays = self.chance.choice([0.0, 0.1, 0.5])
        fleet.disk_slow_s = self.chance.choice([0.005, 0.05, 0.3])
        fleet.tell(None, f"the disk is slow: {fleet.disk_delays} {fleet.disk_slow_s}")

    def drain(self) -> None:
        process = self._any()
        if process is not None and sum(not each.engine.state.draining for each in self.fleet.takers()) > 1:
            self.fleet.tell(process, "drain")
            process.gate.context.run(process.drain.start)

    def undrain(self) -> None:
        for process in list(self.fleet.running.values()):
            if process.engine.state.draining and process.alive and not process.gate.frozen:
                self.fleet.tell(process, "undrain")
                _ = process.spawn(process.drain.undo(), "undrain")

    def app(self) -> None:
        app = self.fleet.app
        app.state = self.chance.choice(["done", "wait", "down"])
        app.loses_answers = self.chance.choice([0.0, 0.4])
        self.fleet.tell(None, f"the web app answers {app.state}, loses {app.loses_answers}")

    def heal(self) -> None:
        """End everything that befalls the fleet."""
        fleet = self.fleet
        fleet.network.heal()
        fleet.redis.heal()
        for disk in fleet.disks.values():
            disk.free_bytes = None
        fleet.disk_delays = 0.0
        fleet.app.state, fleet.app.loses_answers = "done", 0.0
        for process in fleet.running.values():
            process.ambush = process.sick = None
