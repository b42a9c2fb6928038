"""Run a fleet on this machine, until Ctrl-C or SIGTERM: what ``make fleet`` calls.

Redis, HAProxy with `haproxy/haproxy.cfg`, three instances on one data directory, and the example web app. An instance,
Redis or HAProxy that ends (that somebody kills) is started again after a while, as a service manager would.

Everything they write lies under ``.run/fleet/`` (or the directory that is given as the only argument). The usual ports
are used where they are free, else any others.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from scripts.programs import BIN, EXAMPLE, HOST, ROOT, Program, answers, port, stop_all, until_stopped

RUN = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT / ".run" / "fleet"
NAMES = ("one", "two", "three")
"""Of the instances, as haproxy/haproxy.cfg calls them."""
CTL = "incomingctl"
AGAIN_AFTER_S = 3.0
"""Long enough to see that one is missing."""
DRAIN_WITHIN_S = 45.0


def address(preferred: int) -> str:
    """Return an address that is free."""
    return f"{HOST}:{port(preferred)}"


def program(name: str) -> str:
    """Return where a server's program is: on Debian not on the path of an ordinary user."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin")
    if found is None:
        message = f"{name} is not installed: scripts/setup fleet"
        raise SystemExit(message)
    return found


def accepts(where: str) -> bool:
    """Return whether somebody listens at ``host:port``."""
    host, _, number = where.rpartition(":")
    try:
        with socket.create_connection((host, int(number)), timeout=2):
            return True
    except OSError:
        return False


@dataclass
class Instance:
    """Where one of the three is."""

    name: str
    public: str
    backend: str
    agent: str
    peer: str

    def command(self, redis: str, inner: str, keys: Path) -> list[str]:
        """Return the command line that runs it."""
        settings = {
            "instance": self.name,
            "data_dir": RUN / "data",
            "public.address": self.public,
            "public.trusted_proxies": HOST,
            "backend.address": self.backend,
            "backend.base_url": f"http://{inner}",
            "registry.url": f"redis://{redis}/0",
            "peer.address": self.peer,
            "peer.keys_file": keys,
            "agent.address": self.agent,
        }
        return [str(BIN / "incomingd"), *(part for key, value in settings.items() for part in (f"--{key}", str(value)))]


class Fleet:
    """All of it.

    Args:
        sockets: a folder with a short name, for HAProxy's Unix socket.
    """

    def __init__(self, sockets: Path) -> None:
        self.plain, self.inner, self.app = address(4000), address(4001), address(4080)
        self.tls = port(4443)
        self.stats = address(4404)
        redis = address(4379)
        self.instances = [
            Instance(name, address(4100 + n), address(4200 + n), address(4300 + n), address(4500 + n))
            for n, name in enumerate(NAMES, 1)
        ]
        self.redis = Program(
            "redis",
            [
                *(program("redis-server"), "--bind", HOST, "--port", redis.rpartition(":")[2]),
                *("--save", "", "--appendonly", "no", "--dir", str(RUN)),
            ],
            RUN,
            partial(accepts, redis),
        )
        self.daemons = [
            Program(
                each.name,
                each.command(redis, self.inner, RUN / "peer.keys"),
                RUN,
                partial(answers, f"http://{each.public}/incoming/1.0/health"),
                stop_within_s=DRAIN_WITHIN_S,
            )
            for each in self.instances
        ]
        self.haproxy = Program(
            "haproxy",
            [program("haproxy"), "-W", "-db", "-f", str(ROOT / "haproxy" / "haproxy.cfg")],
            RUN,
            partial(answers, f"http://{self.plain}/incoming/1.0/health"),
            environment=self._balancing(sockets),
        )
        self.example = Program(
            "example",
            [
                *(str(BIN / "python"), str(EXAMPLE), "--listen", self.app),
                *("--incomingd-backend", f"http://{self.inner}"),
                *("--public-incomingd", f"http://{self.plain}"),
                *("--files", str(RUN / "files")),
            ],
            RUN,
            partial(answers, f"http://{self.app}/"),
        )

    def _balancing(self, sockets: Path) -> dict[str, str]:
        found = {
            "LB_PUBLIC": f"{HOST}:{self.tls}",
            "LB_PLAIN": self.plain,
            "LB_INNER": self.inner,
            "LB_STATS": self.stats,
            "LB_PEERS": address(4409),
            "LB_CERT": str(RUN / "site.pem"),
            "LB_LOG": "stdout",
            "LB_SOCKET": str(sockets / "haproxy.sock"),
            "LB_AS_CALLER": "yes",
        }
        for number, each in enumerate(self.instances, 1):
            found[f"LB_{number}"] = each.public
            found[f"LB_{number}_BACKEND"] = each.backend
            found[f"LB_{number}_AGENT"] = each.agent.rpartition(":")[2]
        return found

    def prepare(self) -> None:
        """Make what has to be there before: the fleet's key, and a certificate that nobody has signed."""
        RUN.mkdir(parents=True, exist_ok=True)
        keys = RUN / "peer.keys"
        if not keys.exists():
            keys.touch(mode=0o600)
            keys.write_text(secrets.token_hex(32) + "\n")
        site = RUN / "site.pem"
        if not site.exists():
            key, certificate = RUN / "site.key", RUN / "site.crt"
            subprocess.run(
                [
                    *(program("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
                    *("-nodes", "-days", "365", "-subj", "/CN=localhost"),
                    *(
                        "-addext",
                        f"subjectAltName=DNS:localhost,IP:{HOST}",
                        "-keyout",
                        str(key),
                        "-out",
                        str(certificate),
                    ),
                ],
                check=True,
                stdin=subprocess.DEVNULL,
                capture_output=True,
            )
            site.touch(mode=0o600)
            site.write_text(certificate.read_text() + key.read_text())

    def start(self) -> None:
        """Start everything, and wait until a request through the balancer is answered."""
        self.redis.start()
        for daemon in self.daemons:
            daemon.launch()
        for daemon in self.daemons:
            daemon.wait_ready()
        self.haproxy.start()
        self.example.start()

    def stop(self) -> None:
        """Stop everything: who needs others before those."""
        self.example.stop()
        stop_all(self.daemons)
        self.haproxy.stop()
        self.redis.stop()

    def tell(self) -> None:
        """Say what to open and what to type."""
        command = BIN / CTL
        ctl = command.relative_to(Path.cwd()) if command.is_relative_to(Path.cwd()) else command
        first, second = self.instances[0], self.instances[1]
        lines = [
            (f"{ctl} --address {first.backend} ring", "who is there"),
            (f"{ctl} --address {first.backend} status", "what `one` is doing"),
            (f"{ctl} --address {first.backend} drain --wait", "empty it; `undrain`: back again"),
            (f"kill -9 {self.daemons[1].pid}", f"kill `{second.name}`: it is started again after {AGAIN_AFTER_S:g} s"),
            (f"kill -STOP {self.redis.pid}", "freeze Redis: the state is `suspended`, uploads go on; -CONT thaws it"),
        ]
        width = max(len(typed) for typed, _ in lines)
        print(
            f"Open http://{self.app}/   the example app. Drop a large file there, and watch it arrive",
            f"     http://{self.stats}/   HAProxy: which instance is up, and what goes there",
            "",
            *(
                f"  {each.name:5}  admin {each.backend}  process {daemon.pid}"
                for each, daemon in zip(self.instances, self.daemons, strict=True)
            ),
            f"  redis  process {self.redis.pid}",
            "",
            "While a file is on its way, type in another terminal:",
            *(f"  {typed.ljust(width)}   {what}" for typed, what in lines),
            "",
            f"Uploads go through http://{self.plain} (TLS, with a certificate that nobody has signed: {self.tls}).",
            f"Files and logs are in {RUN}; Ctrl-C stops everything.",
            sep="\n",
            flush=True,
        )

    def look_after(self) -> None:
        """Start again what has ended, until we are stopped."""
        due: dict[str, float] = {}
        while True:
            self.example.check()
            for each in (*self.daemons, self.haproxy, self.redis):
                if each.ended is None:
                    continue
                if each.name not in due:
                    print(f"{each.name} (process {each.pid}) has ended with {each.ended}.", flush=True)
                    due[each.name] = time.monotonic() + AGAIN_AFTER_S
                elif time.monotonic() >= due[each.name]:
                    del due[each.name]
                    each.launch()
                    print(f"{each.name} is started again: process {each.pid}.", flush=True)
            time.sleep(0.2)


def main() -> int:
    """Run all of it until somebody wants us to stop."""
    with tempfile.TemporaryDirectory(prefix="incoming-") as sockets:
        fleet = Fleet(Path(sockets))

        def work() -> None:
            fleet.prepare()
            fleet.start()
            fleet.tell()
            fleet.look_after()

        until_stopped(work, fleet.stop)
    return 0


if __name__ == "__main__":
    sys.exit(main())
