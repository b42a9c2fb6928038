"""Sockets that the service manager holds: a restart of the daemon refuses no connection."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from incomingd.daemon.accepting import plain_address
from incomingd.daemon.inherited import sockets
from tests.support.app import App
from tests.support.backend import Backend
from tests.support.content import Content
from tests.support.tus import TusUpload
from tests.support.wire import Wire
from tests.systemd.manager import Activated, Caller

HEALTH = "/incoming/1.0/health"

Handed = list[tuple[str, socket.socket]]
MakeActivated = Callable[..., Activated]


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    """A socket that listens on a free port and outlives each daemon."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as held:
        yield held


@pytest.fixture
def make_activated(tmp_path: Path) -> Iterator[MakeActivated]:
    """Return a function that makes a daemon (not started) which gets sockets by their names."""
    daemons: list[Activated] = []

    def make(handed: Handed, settings: dict[str, object] | None = None) -> Activated:
        daemon = Activated(tmp_path / f"activated-{len(daemons)}", handed, settings)
        for name, held in handed:
            if held.family == socket.AF_INET and name in ("public", ""):
                daemon.public = held.getsockname()
        daemons.append(daemon)
        return daemon

    yield make
    for daemon in daemons:
        if daemon.process is not None and daemon.process.poll() is None:
            daemon.kill9()


def test_a_restart_refuses_no_connection(listening: socket.socket, make_activated: MakeActivated, app: App) -> None:
    """Connections of the time between wait and are answered; an upload goes on where it was."""
    daemon = make_activated([("public", listening)])
    daemon.start()
    backend = Backend(daemon, app)
    content = Content(7, 3_000_000)
    ticket = backend.ticket()
    upload = TusUpload(ticket["upload_url"], content)
    with upload.connect() as wire:
        assert upload.create(wire).status == 201
        assert upload.patch(wire, 0, content.read(0, 1_000_000)).status == 204
    with Caller(daemon.public, HEALTH) as caller, contextlib.ExitStack() as stack:
        for _ in range(2):
            daemon.stop()
            waiting = [stack.enter_context(Wire(daemon.public)) for _ in range(20)]
            for wire in waiting:
                wire.send_head("GET", HEALTH)
            daemon.launch()
            assert [wire.read_response("GET").status for wire in waiting] == [200] * 20
            with upload.connect() as wire:
                assert upload.head(wire).offset == upload.acknowledged
    upload.run(piece_bytes=1_000_000)
    assert upload.acknowledged == content.size_bytes
    assert caller.answered > 2
    daemon.stop()
    daemon.check_log()


def test_every_listener_can_be_handed_over(listening: socket.socket, make_activated: MakeActivated) -> None:
    """By name; the log tells the real addresses, not the configured ones."""
    with socket.create_server(("127.0.0.1", 0)) as backend:
        daemon = make_activated([("backend", backend), ("public", listening)])
        daemon.backend = backend.getsockname()
        daemon.start()
        assert daemon.wait_event("daemon.ready")["listeners"] == {
            "public": "{}:{}".format(*listening.getsockname()),
            "backend": "{}:{}".format(*backend.getsockname()),
        }
        with Wire(daemon.backend) as wire:
            assert wire.request("GET", "/incoming/1.0/admin/status").status == 200
        daemon.stop()


def test_the_name_of_an_inherited_unix_socket_stays(make_activated: MakeActivated, tmp_path: Path) -> None:
    """Who connects between two processes has to find it."""
    path = tmp_path / "public.sock"
    with socket.socket(socket.AF_UNIX) as held:
        held.bind(str(path))
        held.listen()
        # Without a name it is the public one.
        daemon = make_activated([("", held)])
        daemon.launch()
        assert daemon.wait_event("daemon.ready")["listeners"]["public"] == f"unix:{path}"
        daemon.stop()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


def test_what_cannot_be_used_is_refused_in_words(listening: socket.socket, make_activated: MakeActivated) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        for handed, words in (
            ([("web", listening)], "FileDescriptorName= has to be one of"),
            ([("public", datagrams)], "ListenStream="),
        ):
            daemon = make_activated(handed)
            daemon.launch()
            assert daemon.process is not None
            assert daemon.process.wait(30) == 1
            assert words in daemon.wait_event("daemon.start_failed")["reason"]


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"LISTEN_FDS": "1"},
        {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getppid())},
        {"LISTEN_FDS": "one", "LISTEN_PID": str(os.getpid())},
        {"LISTEN_FDS": "0", "LISTEN_PID": str(os.getpid())},
    ],
)
def test_what_is_meant_for_another_process_is_left_alone(environ: dict[str, str]) -> None:
    """A child inherits the variables, not always the sockets."""
    assert sockets(environ | {"LISTEN_FDNAMES": "public"}, ["public"], default="public") == {}


@pytest.mark.parametrize(
    "address, plain",
    [
        (("::ffff:192.0.2.1", 80, 0, 0), "192.0.2.1"),
        (("2001:db8::1", 80, 0, 0), "2001:db8::1"),
        (("192.0.2.1", 80), "192.0.2.1"),
        ("", ""),
    ],
)
def test_clients_of_a_socket_for_both_families_have_their_own_addresses(address: object, plain: str) -> None:
    """A socket unit that names only a port makes such a socket; rules for networks have to fit all the same."""
    found = plain_address(address)
    assert (found[0] if found else found) == plain
