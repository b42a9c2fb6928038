"""The real HAProxy on `haproxy/haproxy.cfg` itself, with ports of its own on 127.0.0.1.

The file says what differs from place to place in lines `setenv SITE_… "${LB_…-…}"`, where a variable LB_… of the
environment wins. So the tests change no byte of it.

    with HAProxy(folder, [instance_of(daemon) for daemon in daemons]).start() as balancer:
        requests.get(f"{balancer.plain_url}/incoming/1.0/health")

A `Daemon` is known to it by `instance_of`; it needs the settings of `behind_balancer()`.
"""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import trustme

from tests.support.daemon import Daemon
from tests.support.machine import ROOT, free_port, wait_until

CONFIG = ROOT / "haproxy" / "haproxy.cfg"
NAMES = ("one", "two", "three")
"""What the file calls the instances."""
HOST = "127.0.0.1"


def program(name: str) -> str:
    """Return where a server's program is: on Debian not on the path of an ordinary user."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin")
    assert found is not None, f"{name} is not installed: scripts/setup test"
    return found


@dataclass(frozen=True)
class Instance:
    """Where an instance listens, as ``host:port``, and the port of its agent check."""

    public: str
    backend: str
    agent_port: int


def nobody() -> Instance:
    """Return an instance that is not there."""
    return Instance(f"{HOST}:{free_port()}", f"{HOST}:{free_port()}", free_port())


def behind_balancer() -> dict[str, object]:
    """Return the settings that a daemon behind the balancer needs on top of its own."""
    return {"agent.address": f"{HOST}:{free_port()}", "public.trusted_proxies": HOST}


def instance_of(daemon: Daemon) -> Instance:
    """Return where *daemon* listens; it was made with the settings of `behind_balancer`."""
    agent = str(daemon.settings["agent.address"])
    return Instance(
        ":".join(map(str, daemon.public)), ":".join(map(str, daemon.backend)), int(agent.rpartition(":")[2])
    )


class HAProxy:
    """One HAProxy before up to three instances; `start` it, and `stop` it in the end (or use it in a ``with``).

    Args:
        folder: of its own, for the certificate and the log; made if missing.
        instances: in the order of `NAMES`; where there are fewer than three, the others are not there.
        config: the file, where a test has one of its own.
    """

    def __init__(self, folder: Path, instances: Sequence[Instance], *, config: Path = CONFIG) -> None:
        assert len(instances) <= len(NAMES)
        self.folder = folder
        self.config = config
        self.instances = [*instances, *(nobody() for _ in NAMES[len(instances) :])]
        self._absent = NAMES[len(instances) :]
        self.public = (HOST, free_port())
        self.plain = (HOST, free_port())
        self.inner = (HOST, free_port())
        self.stats = (HOST, free_port())
        self._peers = (HOST, free_port())
        self.process: subprocess.Popen[bytes] | None = None
        # Unix sockets have short names, which folders of tests have not.
        self._run = Path(tempfile.mkdtemp(prefix="lb-"))
        self._log = _Syslog(folder)

    @property
    def url(self) -> str:
        """``https://host:port`` for browsers; the certificate is of `ca_file`."""
        return f"https://localhost:{self.public[1]}"

    @property
    def plain_url(self) -> str:
        """``http://host:port``: the same without TLS."""
        return "http://" + _text(self.plain)

    @property
    def inner_url(self) -> str:
        """``http://host:port`` for web apps."""
        return "http://" + _text(self.inner)

    @property
    def ca_file(self) -> Path:
        """The certificate of who has signed that of `url`."""
        return self.folder / "ca.pem"

    def environment(self) -> dict[str, str]:
        """Return the variables that the file asks for."""
        given = {
            "LB_PUBLIC": _text(self.public),
            "LB_PLAIN": _text(self.plain),
            "LB_INNER": _text(self.inner),
            "LB_STATS": _text(self.stats),
            "LB_PEERS": _text(self._peers),
            "LB_CERT": str(self.folder / "site.pem"),
            "LB_LOG": _text(self._log.address),
            "LB_SOCKET": str(self._run / "admin.sock"),
            "LB_AS_CALLER": "yes",
        }
        for number, instance in enumerate(self.instances, 1):
            given[f"LB_{number}"] = instance.public
            given[f"LB_{number}_BACKEND"] = instance.backend
            given[f"LB_{number}_AGENT"] = str(instance.agent_port)
        return given

    def start(self) -> Self:
        """Start it, and return once it has found every instance that is there ready."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._make_certificate()
        self._log.start()
        with (self.folder / "haproxy.out").open("ab") as output:
            self.process = subprocess.Popen(
                [program("haproxy"), "-W", "-db", "-f", str(self.config)],
                env={"PATH": os.environ.get("PATH", os.defpath)} | self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        wait_until(self._answers, f"HAProxy answers:\n{self._said()}")
        for name in self._absent:
            self.command(f"set server uploads/{name} state maint")
        wait_until(self._all_checked, f"HAProxy finds every instance ready: {self.states()}")
        return self

    def _make_certificate(self) -> None:
        authority = trustme.CA()
        issued = authority.issue_cert("localhost", HOST)
        issued.private_key_and_cert_chain_pem.write_to_path(self.folder / "site.pem")
        authority.cert_pem.write_to_path(self.ca_file)

    def _said(self) -> str:
        path = self.folder / "haproxy.out"
        return path.read_text("utf-8", "replace") if path.exists() else ""

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self._said()
        try:
            return bool(self.command("show info"))
        except OSError:
            return False

    def _all_checked(self) -> bool:
        """Return whether each instance that is there is up by its health check, and has told what it wants."""
        there = NAMES[: len(NAMES) - len(self._absent)]
        rows = {row["svname"]: row for row in self._rows("uploads")}
        return all(
            rows[name]["check_status"] == "L7OK"
            and rows[name]["agent_status"] == "L7OK"
            and rows[name]["status"] == "UP"
            for name in there
        )

    def command(self, text: str) -> str:
        """Say *text* to the socket for operators, and return what it answers."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(10)
            connection.connect(str(self._run / "admin.sock"))
            connection.sendall(f"{text}\n".encode())
            answer = b""
            while more := connection.recv(65536):
                answer += more
        return answer.decode()

    def _rows(self, backend: str) -> list[dict[str, str]]:
        text = self.command("show stat").removeprefix("# ")
        return [row for row in csv.DictReader(io.StringIO(text)) if row["pxname"] == backend]

    def states(self, backend: str = "uploads") -> dict[str, str]:
        """Return what it does with each instance: ``UP``, ``DRAIN``, ``MAINT``, ``DOWN``, or longer."""
        return {row["svname"]: row["status"] for row in self._rows(backend) if row["svname"] in NAMES}

    def wait_state(self, name: str, state: str, backend: str = "uploads", *, timeout_s: float = 30) -> None:
        """Wait until it says *state* (the beginning of it) of the instance *name*."""
        wait_until(
            lambda: self.states(backend)[name].startswith(state),
            f"{name} is {state} at the balancer",
            timeout_s=timeout_s,
        )

    def owners(self) -> dict[str, str]:
        """Return what it has learned: the instance's name, by the id of the upload."""
        found = {}
        for line in self.command("show table uploads").splitlines():
            fields = dict(part.split("=", 1) for part in line.split() if "=" in part)
            if "key" in fields and "server_id" in fields:
                found[fields["key"]] = NAMES[int(fields["server_id"]) - 1]
        return found

    def reload(self, *, wait_for_owners: bool = True) -> None:
        """Have it read its file again; what goes through it goes on in the former process.

        Args:
            wait_for_owners: wait first until it has given up asking for what a former process has learned, 5 s after
                its start: before that HAProxy 2.6 passes nothing on to its successor.
        """
        assert self.process is not None
        if wait_for_owners:
            wait_until(self._asks_no_former_process, "HAProxy has learned what there was to learn at its start")
        process, before, heard = self.process, _field(self.command("show info"), "Pid"), self._reloads()

        def reloaded() -> bool:
            if self._reloads() == heard:
                # Right after its start it is deaf; it is told until it says that it has heard.
                process.send_signal(signal.SIGUSR2)
            try:
                return _field(self.command("show info"), "Pid") != before
            except OSError:
                return False

        wait_until(reloaded, f"HAProxy is reloaded:\n{self._said()}", interval_s=0.2)

    def _reloads(self) -> int:
        return self._said().count("Reloading HAProxy")

    def _asks_no_former_process(self) -> bool:
        found = re.search(r"id=balancers .* flags=0x([0-9a-f]+)", self.command("show peers"))
        assert found is not None
        # Asked the former process, asked the other balancers.
        return int(found[1], 16) & 3 == 3

    def log_lines(self) -> list[str]:
        """Return what it has logged so far."""
        return self._log.lines()

    def wait_logged(self, text: str) -> str:
        """Wait until a line of the log holds *text*, and return it."""
        return wait_until(lambda: [line for line in self.log_lines() if text in line], f"HAProxy logs {text!r}")[0]

    def stop(self) -> None:
        """End it and what it has started, at once; nothing happens where it does not run."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._log.stop()
        shutil.rmtree(self._run, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


class _Syslog:
    """Takes a balancer's log lines and keeps them in a file of *folder*."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "haproxy.log"
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((HOST, 0))
        self.address: tuple[str, int] = self._socket.getsockname()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="syslog", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with self._path.open("ab", buffering=0) as file:
            # An empty datagram is ours: the end.
            while line := self._socket.recv(65536):
                file.write(line.rstrip(b"\n") + b"\n")

    def lines(self) -> list[str]:
        return self._path.read_text("utf-8", "replace").splitlines() if self._path.exists() else []

    def stop(self) -> None:
        if self._thread is not None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.sendto(b"", self.address)
            self._thread.join(10)
            self._thread = None
        self._socket.close()


def _text(address: tuple[str, int]) -> str:
    return f"{address[0]}:{address[1]}"


def _field(info: str, name: str) -> str:
    return next(line.partition(": ")[2] for line in info.splitlines() if line.startswith(f"{name}: "))
