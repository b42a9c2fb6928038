"""Fixtures for tests that run the real daemon; `tests/conftest.py` makes them known to every test."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import pytest

from tests.support.app import App, running_app
from tests.support.backend import Backend
from tests.support.daemon import Daemon

MakeDaemon = Callable[..., Daemon]


@pytest.fixture
def app() -> Iterator[App]:
    """A web app that answers ``done``; each test has its own."""
    with running_app() as running:
        yield running


@pytest.fixture
def make_daemon(tmp_path: Path) -> Iterator[MakeDaemon]:
    """Return a function that starts a daemon with settings: ``make_daemon({"limits.upload_bytes": 10})``.

    All of them are stopped at the end, and their logs must hold no error but the events that are *allowed*.
    """
    daemons: list[Daemon] = []
    all_allowed: list[frozenset[str]] = []

    def make(settings: dict[str, object] | None = None, *, start: bool = True, allowed: Collection[str] = ()) -> Daemon:
        daemon = Daemon(tmp_path / f"daemon-{len(daemons)}", settings)
        daemons.append(daemon)
        all_allowed.append(frozenset(allowed))
        return daemon.start() if start else daemon

    yield make
    try:
        for daemon, allowed in zip(daemons, all_allowed, strict=True):
            daemon.stop()
            daemon.check_log(allowed=allowed)
    finally:
        for daemon in daemons:
            if daemon.process is not None and daemon.process.poll() is None:
                daemon.kill9()


@pytest.fixture
def daemon(make_daemon: MakeDaemon) -> Daemon:
    """A daemon of this test's own."""
    return make_daemon()


@pytest.fixture(scope="module")
def shared_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon for all tests of a module that neither kill nor configure it."""
    shared = Daemon(tmp_path_factory.mktemp("shared")).start()
    try:
        yield shared
        shared.stop()
        shared.check_log()
    finally:
        if shared.process is not None and shared.process.poll() is None:
            shared.kill9()


@pytest.fixture
def backend(daemon: Daemon, app: App) -> Backend:
    """The web app's calls to `daemon`, with tickets whose callbacks go to `app`."""
    return Backend(daemon, app)


@pytest.fixture
def shared_backend(shared_daemon: Daemon, app: App) -> Backend:
    """The web app's calls to `shared_daemon`, with tickets whose callbacks go to `app`."""
    return Backend(shared_daemon, app)
