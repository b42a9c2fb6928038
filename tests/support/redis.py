"""Real Redis servers and Sentinels on free ports of 127.0.0.1, each stopped by its process id."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Self

from tests.support.machine import free_port, wait_until

PROGRAM = "redis-server"


class RedisServer:
    """A `redis-server` (or Sentinel) that keeps nothing on disk.

    Args:
        folder: of its own; made if missing.
        settings: lines of its configuration.
        tls: it speaks TLS only, with the certificate of `certificates`.
        sentinel: it is a Sentinel.
    """

    def __init__(
        self, folder: Path, settings: Sequence[str] = (), *, tls: Path | None = None, sentinel: bool = False
    ) -> None:
        self.folder = folder
        self.port = free_port()
        self._sentinel = sentinel
        self._tls = tls
        self.settings = list(settings)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> Self:
        """Start it, and return once it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "redis.conf"
        common = ["bind 127.0.0.1", "daemonize no", f"dir {self.folder}", f"logfile {self.folder}/log"]
        if self._tls is not None:
            common += [
                "port 0",
                f"tls-port {self.port}",
                f"tls-cert-file {self._tls}/cert.pem",
                f"tls-key-file {self._tls}/key.pem",
                f"tls-ca-cert-file {self._tls}/ca.pem",
                "tls-auth-clients no",
            ]
        else:
            common += [f"port {self.port}"]
        if not self._sentinel:
            common += ['save ""', "appendonly no"]
        if not config.exists():
            config.write_text("\n".join([*common, *self.settings]) + "\n")
        command = [PROGRAM, str(config), *(["--sentinel"] if self._sentinel else [])]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(self._accepts, f"{command} accepts connections")
        return self

    def _accepts(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "log").read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def _signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def freeze(self) -> None:
        """Let it hang: connections are taken, nothing is answered."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once; what it knew is gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def wipe(self) -> None:
        """Let it forget everything."""
        self.ask("FLUSHALL")

    def ask(self, *command: str, timeout_s: float = 10) -> str:
        """Ask it with `redis-cli`, and return what that prints."""
        tls = ["--tls", "--cacert", f"{self._tls}/ca.pem"] if self._tls is not None else []
        done = subprocess.run(
            ["redis-cli", "-h", "127.0.0.1", "-p", str(self.port), *tls, *command],
            capture_output=True,
            text=True,
            check=True,
            timeout=timeout_s,
        )
        return done.stdout.strip()


@contextmanager
def redis_server(folder: Path, settings: Sequence[str] = (), *, tls: Path | None = None) -> Iterator[RedisServer]:
    """A server while the block runs."""
    server = RedisServer(folder, settings, tls=tls)
    try:
        yield server.start()
    finally:
        server.kill()


class Watched:
    """A primary, a replica, and three Sentinels that watch over them."""

    name = "uploads"

    def __init__(self, folder: Path) -> None:
        self.one = RedisServer(folder / "one", ["repl-diskless-sync-delay 0"])
        self.two = RedisServer(folder / "two", [f"replicaof 127.0.0.1 {self.one.port}", "repl-diskless-sync-delay 0"])
        watch = [
            f"sentinel monitor {self.name} 127.0.0.1 {self.one.port} 2",
            f"sentinel down-after-milliseconds {self.name} 400",
            f"sentinel failover-timeout {self.name} 2000",
        ]
        self.sentinels = [RedisServer(folder / f"sentinel-{number}", watch, sentinel=True) for number in range(3)]

    @property
    def servers(self) -> list[RedisServer]:
        return [self.one, self.two, *self.sentinels]

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/{self.name}"

    def start(self) -> None:
        """Start all, and return once they know each other."""
        self.one.start()
        self.two.start()
        wait_until(lambda: "master_link_status:up" in self.two.ask("INFO", "replication"), "the replica is in step")
        # Not before: a Sentinel asks for replicas when it starts, and then every 10 s.
        for sentinel in self.sentinels:
            sentinel.start()
        for sentinel in self.sentinels:
            wait_until(partial(self._knows, sentinel), "the Sentinels know each other")

    def _knows(self, sentinel: RedisServer) -> bool:
        said = sentinel.ask("SENTINEL", "MASTER", self.name).split("\n")
        told = dict(zip(said[::2], said[1::2], strict=True))
        return told["num-slaves"] == "1" and told["num-other-sentinels"] == "2"

    def stop(self) -> None:
        """End all."""
        for server in self.servers:
            server.kill()


class Cluster:
    """A Redis Cluster: three primaries, and a replica of each where that is wanted.

    Args:
        folder: of its own.
        replicas: whether there are any.
        settings: of every server.
        tls: all speak TLS only, among each other too, with the certificate of `certificates`.
    """

    def __init__(
        self, folder: Path, settings: Sequence[str] = (), *, replicas: bool = False, tls: Path | None = None
    ) -> None:
        common = ["cluster-enabled yes", "cluster-node-timeout 1000", "repl-diskless-sync-delay 0", *settings]
        if tls is not None:
            common += ["tls-cluster yes", "tls-replication yes"]
        self.servers: list[RedisServer] = []
        for number in range(6 if replicas else 3):
            # Its default, 10,000 above the server's, may not exist or be taken.
            own = [f"cluster-config-file nodes-{number}.conf", f"cluster-port {free_port()}"]
            self.servers.append(RedisServer(folder / f"server-{number}", [*common, *own], tls=tls))
        self._replicas = replicas
        self._scheme = "redis+cluster" if tls is None else "rediss+cluster"

    @property
    def url(self) -> str:
        return f"{self._scheme}://" + ",".join(f"127.0.0.1:{server.port}" for server in self.servers[:3])

    @property
    def primaries(self) -> list[RedisServer]:
        """Those that run and have keys."""
        running = [server for server in self.servers if server.process is not None]
        return [server for server in running if "role:master" in server.ask("INFO", "replication")]

    def start(self) -> None:
        """Start all, and return once every slot has its server."""
        for server in self.servers:
            server.start()
        addresses = [f"127.0.0.1:{server.port}" for server in self.servers]
        number = ["--cluster-replicas", str(int(self._replicas))]
        self.servers[0].ask("--cluster", "create", *addresses, *number, "--cluster-yes", timeout_s=60)
        wait_until(lambda: all(self._whole(server) for server in self.servers), "the Cluster is whole")

    def _whole(self, server: RedisServer) -> bool:
        replica = "role:slave" in server.ask("INFO", "replication")
        linked = not replica or "master_link_status:up" in server.ask("INFO", "replication")
        known = server.ask("CLUSTER", "NODES").count("connected")
        return linked and known == len(self.servers) and "cluster_state:ok" in server.ask("CLUSTER", "INFO")

    def of(self, key: str) -> RedisServer:
        """Return the primary that has *key*."""
        slot = int(self.primaries[0].ask("CLUSTER", "KEYSLOT", key))
        for server in self.primaries:
            if self._has(server, slot):
                return server
        message = f"nobody has the slot {slot}"
        raise AssertionError(message)

    def replica_of(self, primary: RedisServer) -> RedisServer:
        """Return what takes over from *primary*."""
        [found] = [server for server in self.servers if self._own_line(server)[3] == self._own_line(primary)[0]]
        return found

    def _has(self, server: RedisServer, slot: int) -> bool:
        ranges = [part.partition("-") for part in self._own_line(server)[8:] if not part.startswith("[")]
        return any(int(first) <= slot <= int(last or first) for first, _, last in ranges)

    @staticmethod
    def _own_line(server: RedisServer) -> list[str]:
        """Return what a server says of itself: its id first, its primary's fourth, its slots from the ninth on."""
        [own] = [line for line in server.ask("CLUSTER", "NODES").split("\n") if "myself" in line]
        return own.split(" ")

    def wipe(self) -> None:
        """Let all forget everything."""
        for server in self.primaries:
            server.wipe()

    def stop(self) -> None:
        """End all."""
        for server in self.servers:
            server.kill()


@contextmanager
def redis_cluster(
    folder: Path, settings: Sequence[str] = (), *, replicas: bool = False, tls: Path | None = None
) -> Iterator[Cluster]:
    """A Cluster while the block runs."""
    cluster = Cluster(folder, settings, replicas=replicas, tls=tls)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def certificates(folder: Path, host: str = "127.0.0.1") -> Path:
    """Make `ca.pem`, and `cert.pem` with `key.pem` that it has signed for the address *host*; return *folder*."""
    folder.mkdir(parents=True, exist_ok=True)
    new = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
    (folder / "names").write_text(f"subjectAltName=IP:{host}\nbasicConstraints=CA:FALSE\n")
    for command in (
        f"req -x509 {new} -subj /CN=tests -addext keyUsage=critical,keyCertSign -keyout ca.key -out ca.pem",
        f"req {new} -subj /CN=redis -keyout key.pem -out cert.csr",
        "x509 -req -in cert.csr -CA ca.pem -CAkey ca.key -set_serial 1 -extfile names -out cert.pem",
    ):
        subprocess.run(["openssl", *command.split()], cwd=folder, check=True, capture_output=True)
    return folder
