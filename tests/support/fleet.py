"""A fleet on this machine: a Redis and several instances on one data directory (or on one each)."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

from tests.support.content import Content
from tests.support.daemon import Daemon
from tests.support.machine import free_port, wait_until
from tests.support.redis import RedisServer
from tests.support.tus import TusUpload

ADMIN = "/incoming/1.0/admin"
KEY = "the-key-of-a-fleet-of-tests-0001"
LEASE_S = 2.0


class Fleet:
    """`size` instances, called `i1`, `i2`, …; start them one by one, or all with :meth:`start`.

    Args:
        folder: of its own.
        size: how many.
        shared: all on one data directory; else each on its own.
        settings: of every instance.
        environment: of every instance's first start.
    """

    def __init__(
        self,
        folder: Path,
        size: int = 3,
        *,
        shared: bool = True,
        settings: dict[str, object] | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.redis = RedisServer(folder / "redis")
        self.allowed: set[str] = set()
        """Errors in the logs that a test provokes."""
        self.agents = [free_port() for _ in range(size)]
        self.instances = [
            Daemon(
                folder / f"i{number}",
                {
                    "instance": f"i{number}",
                    "data_dir": str(folder / ("data" if shared else f"data-{number}")),
                    "registry.url": f"redis://127.0.0.1:{self.redis.port}/0",
                    "registry.lease_s": LEASE_S,
                    "peer.address": f"127.0.0.1:{free_port()}",
                    "peer.keys": KEY,
                    "agent.address": f"127.0.0.1:{agent}",
                    "uploads.sweep_interval_s": 1,
                    "drain.deadline_s": 8,
                    "public.trusted_proxies": "127.0.0.1/32",
                }
                | (settings or {}),
            )
            for number, agent in enumerate(self.agents, 1)
        ]
        for daemon in self.instances:
            daemon.environment = environment or {}

    def __getitem__(self, index: int) -> Daemon:
        return self.instances[index]

    def start(self) -> Fleet:
        """Start Redis and all instances, and wait until they know each other."""
        self.redis.start()
        for daemon in self.instances:
            daemon.launch()
        for daemon in self.instances:
            daemon.wait_ready()
        wait_until(lambda: all(self.knows_all(daemon) for daemon in self.instances), "all instances know each other")
        return self

    def knows_all(self, daemon: Daemon) -> bool:
        """Whether an instance has seen the leases of all others."""
        return len(self.ring(daemon)["instances"]) == len(self.instances)

    def stop(self) -> None:
        """Stop everything; fail where an instance does not end well, or its log holds what nobody expected."""
        try:
            # All at once: nobody has anybody to give anything to, or to wait for.
            with ThreadPoolExecutor(len(self.instances)) as pool:
                list(pool.map(Daemon.stop, self.instances))
        finally:
            for daemon in self.instances:
                if daemon.process is not None and daemon.process.poll() is None:
                    daemon.kill9()
            self.redis.kill()
        for daemon in self.instances:
            if daemon.log_path.exists():
                daemon.check_log(allowed=frozenset(self.allowed))

    # -- what operators do

    def admin(self, daemon: Daemon, method: str, path: str) -> dict[str, Any]:
        """Call the admin API of one instance."""
        answer = requests.request(method, daemon.backend_url + ADMIN + path, timeout=30)
        assert answer.ok, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def status(self, daemon: Daemon) -> dict[str, Any]:
        """Return what an instance says of itself."""
        return self.admin(daemon, "GET", "/status")

    def ring(self, daemon: Daemon) -> dict[str, Any]:
        """Return whom an instance takes for alive."""
        return self.admin(daemon, "GET", "/ring")

    def drain(self, daemon: Daemon, *, timeout_s: float = 60) -> dict[str, Any]:
        """Empty an instance; return its status when it is."""
        self.admin(daemon, "POST", "/drain")
        wait_until(
            lambda: self.status(daemon)["state"] == "drained",
            f"drained; the log ends:\n{daemon.log_tail()}",
            timeout_s=timeout_s,
        )
        return self.status(daemon)

    def undrain(self, daemon: Daemon) -> None:
        """Have an instance take uploads again."""
        self.admin(daemon, "POST", "/undrain")


@contextmanager
def fleet(folder: Path, size: int = 3, **options: Any) -> Iterator[Fleet]:
    """Run a fleet; stop it in the end."""
    made = Fleet(folder, size, **options)
    try:
        yield made.start()
    except BaseException:
        for daemon in made.instances:
            if daemon.process is not None and daemon.process.poll() is None:
                daemon.kill9()
        made.redis.kill()
        raise
    made.stop()


def at(fleet: Fleet, index: int, ticket: dict[str, Any], content: Content) -> TusUpload:
    """Return a client of one instance."""
    path = ticket["upload_url"].split("/incoming/", 1)[1]
    return TusUpload(f"{fleet[index].public_url}/incoming/{path}", content)


def go_to(upload: TusUpload, fleet: Fleet, index: int) -> None:
    """Have the client go on at another instance."""
    upload.url = f"{fleet[index].public_url}{upload.path}"
