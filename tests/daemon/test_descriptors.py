"""What the daemon does with connections and descriptors when it gets strange ones, too many, or none."""

from __future__ import annotations

import os
import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests

from tests.support.daemon import Daemon
from tests.support.fixtures import MakeDaemon
from tests.support.machine import pss_bytes, wait_until
from tests.support.wire import Wire

MIB = 1024 * 1024
HEALTH = "/incoming/1.0/health"


def under(daemon: Daemon, shell: str, monkeypatch: pytest.MonkeyPatch) -> Daemon:
    """Have *daemon* be started by the shell, as *shell* says (``"$@"`` is its command)."""
    command = daemon.command()
    monkeypatch.setattr(daemon, "command", lambda: ["bash", "-c", shell, "bash", *command])
    return daemon


def connect(stack: ExitStack, daemon: Daemon, count: int) -> list[socket.socket]:
    return [stack.enter_context(socket.create_connection(daemon.public)) for _ in range(count)]


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_silent_connection_of_a_proxy_holds_up_nobody(make_daemon: MakeDaemon) -> None:
    """Balancers open connections ahead, and say nothing on them for a while."""
    daemon = make_daemon({"public.trusted_proxies": "127.0.0.1"})
    with ExitStack() as stack:
        connect(stack, daemon, 3)
        with Wire(daemon.public) as wire:
            assert wire.request("GET", HEALTH).status == 200


def test_bodies_that_nobody_wants_take_no_memory(make_daemon: MakeDaemon) -> None:
    """On the public listener anybody may send to any path."""
    daemon = make_daemon()
    before = pss_bytes(daemon.pid)
    with ExitStack() as stack:
        for connection in connect(stack, daemon, 20):
            connection.sendall(b"POST /incoming/1.0/health HTTP/1.1\r\nHost: x\r\nContent-Length: 8388608\r\n\r\n")
            try:
                connection.sendall(bytes(8 * MIB - 1))
            except OSError:
                continue  # refused, and closed, before it was sent
        assert daemon.is_ready()
        assert pss_bytes(daemon.pid) - before < 40 * MIB


def test_without_a_descriptor_left_the_daemon_waits_for_one(
    make_daemon: MakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not try again without a pause; those in the queue are served as soon as others have gone."""
    daemon = under(make_daemon(start=False), 'ulimit -n 64; exec "$@"', monkeypatch).start()
    with ExitStack() as stack:
        connect(stack, daemon, 80)
        daemon.wait_event("connection.not_accepted")
        began_s, tries = cpu_s(daemon.pid), 3
        wait_until(lambda: len(daemon.log_events("connection.not_accepted")) >= tries, "further tries")
        assert cpu_s(daemon.pid) - began_s < 0.3
        assert not daemon.log_events("library.logged")
    wait_until(daemon.is_ready, "an answer")


def test_the_soft_limit_of_descriptors_is_raised(make_daemon: MakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon = under(make_daemon(start=False), 'ulimit -Sn 64; exec "$@"', monkeypatch).start()
    with ExitStack() as stack:
        connect(stack, daemon, 80)
        assert daemon.is_ready()
        assert not daemon.log_events("connection.not_accepted")


@pytest.mark.parametrize("closed", ["<&-", "<&- >&- 2>&-"])
def test_no_file_of_ours_becomes_a_standard_stream(
    make_daemon: MakeDaemon, monkeypatch: pytest.MonkeyPatch, closed: str
) -> None:
    """Started with them closed, as some supervisors do; else what a library prints could go into an upload."""
    daemon = under(make_daemon(start=False), f'exec "$@" {closed}', monkeypatch).start()
    for number in range(3):
        target = os.readlink(f"/proc/{daemon.pid}/fd/{number}")
        assert target in ("/dev/null", str(daemon.log_path)), target


def test_a_closed_log_pipe_does_not_change_how_the_daemon_ends(
    make_daemon: MakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever read the log has gone: uploads go on, and the exit status says that all is well."""
    daemon = make_daemon(start=False)
    command = daemon.command()
    reader, writer = os.pipe()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    daemon.folder.mkdir(parents=True, exist_ok=True)
    daemon.process = subprocess.Popen(
        command, cwd=daemon.folder, env=environment, stdin=subprocess.DEVNULL, stdout=writer, stderr=writer
    )
    os.close(writer)
    daemon.wait_ready()
    os.close(reader)
    with Wire(daemon.public) as wire:
        assert wire.request("GET", HEALTH).status == 200
    assert daemon.terminate() == 0


def closed_at_once(connection: socket.socket) -> bool:
    """Ask for the health over *connection*; return whether it was closed instead."""
    connection.settimeout(20)
    try:
        connection.sendall(f"GET {HEALTH} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        return not connection.recv(12)
    except ConnectionError:
        return True


def from_address(stack: ExitStack, daemon: Daemon, address: str, count: int) -> list[socket.socket]:
    return [
        stack.enter_context(socket.create_connection(daemon.public, source_address=(address, 0))) for _ in range(count)
    ]


def test_one_address_may_have_so_many_connections(make_daemon: MakeDaemon) -> None:
    """`limits.connections_per_address`: others get theirs, the log is not flooded, and a reload changes it."""
    daemon = make_daemon({"limits.connections_per_address": 5})
    with ExitStack() as stack:
        kept = from_address(stack, daemon, "127.0.0.2", 5)
        assert not any(map(closed_at_once, kept))
        # An attacker.
        assert all(map(closed_at_once, from_address(stack, daemon, "127.0.0.2", 60)))
        # Whoever else, and who was there before.
        assert not any(map(closed_at_once, from_address(stack, daemon, "127.0.0.3", 3)))
        assert not any(map(closed_at_once, kept))
        # The log is written behind the connections' ends.
        told = wait_until(
            lambda: daemon.log_events("connection.limit_reached", setting="limits.connections_per_address"),
            "the log tells of the limit",
        )
        assert len(told) <= 6
        assert {(event["address"], event["limit"]) for event in told} == {("127.0.0.2", 5)}
        metrics = requests.get(f"{daemon.backend_url}/incoming/1.0/admin/metrics", timeout=10).text
        assert 'incomingd_connections_refused_total{listener="public",reason="address"} 60.0' in metrics
        # Who ends one may have another.
        kept[0].close()

        def has_another() -> bool:
            return not closed_at_once(from_address(stack, daemon, "127.0.0.2", 1)[0])

        wait_until(has_another, "another connection")


def test_connections_of_a_proxy_are_those_of_many(make_daemon: MakeDaemon) -> None:
    """What it says by the PROXY protocol is counted; connections of its own are not."""
    daemon = make_daemon({"limits.connections_per_address": 2, "public.trusted_proxies": "127.0.0.2"})
    with ExitStack() as stack:
        assert not any(map(closed_at_once, from_address(stack, daemon, "127.0.0.2", 5)))
        spoken_for = from_address(stack, daemon, "127.0.0.2", 4)
        for connection in spoken_for:
            connection.sendall(b"PROXY TCP4 192.0.2.7 192.0.2.1 5000 80\r\n")
        assert [closed_at_once(connection) for connection in spoken_for] == [False, False, True, True]
