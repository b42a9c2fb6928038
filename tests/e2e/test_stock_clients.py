"""Stock tus clients, as they come from their packages, bring their files through a ticket."""

from __future__ import annotations

import contextlib
import functools
import random
from pathlib import Path

import pytest

from tests.e2e.scenarios import (
    CHUNKED,
    MIB,
    SCENARIOS,
    WHOLE_IN_CREATION,
    Scenario,
    check_creations,
    ticket_for,
)
from tests.support.app import App
from tests.support.backend import Backend
from tests.support.content import Content
from tests.support.daemon import Daemon, Killer, Supervisor
from tests.support.fixtures import MakeDaemon
from tests.support.link import Link
from tests.support.machine import wait_until
from tests.support.stock import ClientRun, tus_js

SIZE_BYTES = 4 * MIB + 12_345

# By itself, tus-js-client gives up after four failures without an acknowledged offset in between. A daemon that is
# killed twice right after its start, on a machine that is busy with this test, needs more; pages set what they bear.
RETRY_DELAYS_MS = (0, 500, 1000, 1000, 2000, 2000, 3000, 3000, 5000, 5000)

# What a client has sent for sure more than heads of requests.
PROGRESS_BYTES = 64 * 1024


@pytest.mark.parametrize("scenario", [*SCENARIOS, WHOLE_IN_CREATION], ids=str)
def test_a_stock_client_brings_its_file(
    scenario: Scenario, shared_daemon: Daemon, shared_backend: Backend, app: App, tmp_path: Path
) -> None:
    """It ends well, creates once, and the web app gets exactly its file, with one callback id."""
    content = Content(random.randrange(1 << 30), SIZE_BYTES)
    file = content.write(tmp_path / "file")
    ticket = ticket_for(shared_backend, scenario, content)
    with Link(shared_daemon.public) as link, scenario.run(link.through(ticket["upload_url"]), file) as run:
        run.wait()
        app.check_arrived(ticket["id"], content.sha256())
        check_creations(link, scenario, ticket["upload_url"])
        assert link.count("POST") == (scenario.parts + 1 if scenario.parts else scenario.by == "endpoint")


def test_an_empty_file_arrives(shared_backend: Backend, app: App, tmp_path: Path) -> None:
    """A file of 0 bytes needs no PATCH."""
    file = tmp_path / "empty"
    file.touch()
    ticket = shared_backend.ticket()
    with tus_js(file, options={"endpoint": ticket["upload_url"]}) as run:
        run.wait()
    app.check_arrived(ticket["id"], Content(0, 0).sha256())


def test_a_client_resumes_from_a_stored_url(
    shared_daemon: Daemon, shared_backend: Backend, app: App, tmp_path: Path
) -> None:
    """A window is closed in mid-upload; the next one finds the URL, sends HEAD, and only the rest of the bytes."""
    content = Content(random.randrange(1 << 30), SIZE_BYTES)
    file = content.write(tmp_path / "file")
    ticket = shared_backend.ticket()
    urls = str(tmp_path / "urls.json")
    with Link(shared_daemon.public) as link:
        options = {"endpoint": link.through(ticket["upload_url"])} | CHUNKED
        with tus_js(file, options=options, urlStorage=urls, stopAtBytes=2 * MIB) as first:
            first.wait()
            first.wait_event("stopped")
        kept = shared_backend.get(ticket["id"])["offset"]
        assert kept >= 1 * MIB
        before = link.upstream_bytes
        with tus_js(file, options=options, urlStorage=urls, resume=True) as second:
            second.wait()
        assert link.count("POST") == 1
        assert link.upstream_bytes - before < SIZE_BYTES - kept + MIB
    app.check_arrived(ticket["id"], content.sha256())


@pytest.mark.parametrize("options", [{}, CHUNKED], ids=["whole", "chunked"])
def test_a_client_cancels(
    options: dict[str, object], shared_daemon: Daemon, shared_backend: Backend, app: App, tmp_path: Path
) -> None:
    """`abort(true)` ends the upload: the web app is told, and the bytes are gone."""
    # So large and slow that most of it is still on this side of all buffers when the client changes its mind.
    content = Content(random.randrange(1 << 30), 6 * SIZE_BYTES)
    file = content.write(tmp_path / "file")
    ticket = shared_backend.ticket()
    with Link(shared_daemon.public, rate_bytes_per_s=4 * MIB) as link:
        task_options = {"endpoint": link.through(ticket["upload_url"])} | options
        with tus_js(file, options=task_options, abortAtBytes=1 * MIB) as run:
            run.wait()
            run.wait_event("terminated")
        assert link.count("DELETE", 204) == 1
    assert shared_backend.get(ticket["id"])["status"] == "cancelled"
    assert len(app.wait_for(ticket["id"], "upload.cancelled")) == 1
    assert not app.of(ticket["id"], "upload.complete")


@pytest.mark.parametrize(
    "scenario", [scenario for scenario in SCENARIOS if scenario.by == "endpoint" and not scenario.parts], ids=str
)
def test_another_file_of_the_same_length_is_no_mixture(
    scenario: Scenario, shared_daemon: Daemon, shared_backend: Backend, app: App, tmp_path: Path
) -> None:
    """A client without memory of its first beginning comes with another file: that one arrives, whole."""
    first = Content(random.randrange(1 << 30), SIZE_BYTES)
    second = Content(first.seed + 1, SIZE_BYTES)
    ticket = ticket_for(shared_backend, scenario, first)
    file = first.write(tmp_path / "file")
    with Link(shared_daemon.public, rate_bytes_per_s=4 * MIB) as link:
        with scenario.run(link.through(ticket["upload_url"]), file):
            wait_until(
                lambda: shared_backend.get(ticket["id"])["offset"] >= MIB, "the first file is on its way", timeout_s=60
            )
        # What the client had given to the kernel would still be sent, which may be all of it.
        link.reset_all()
        second.write(file)
        link.rate_bytes_per_s = None
        with scenario.run(link.through(ticket["upload_url"]), file) as run:
            run.wait()
    app.check_arrived(ticket["id"], second.sha256())


def start_all(
    scenarios: list[Scenario],
    daemon: Daemon,
    backend: Backend,
    folder: Path,
    stack: contextlib.ExitStack,
    *,
    rate_bytes_per_s: float,
) -> list[tuple[Scenario, Content, dict[str, object], Link, ClientRun]]:
    """Start every scenario with a file and a slow link of its own."""
    started = []
    for number, scenario in enumerate(scenarios):
        content = Content(random.randrange(1 << 30), SIZE_BYTES + number)
        file = content.write(folder / f"{content.seed}.bin")
        ticket = ticket_for(backend, scenario, content)
        link = stack.enter_context(Link(daemon.public, rate_bytes_per_s=rate_bytes_per_s))
        url = link.through(str(ticket["upload_url"]))
        run = stack.enter_context(scenario.run(url, file, retry_delays_ms=RETRY_DELAYS_MS))
        started.append((scenario, content, ticket, link, run))
    return started


def kill_under_all(make_daemon: MakeDaemon, app: App, folder: Path, *, kills_min: int, file_s: float) -> None:
    """Run every scenario at once, each taking *file_s*, while the daemon is killed at random moments."""
    daemon = make_daemon({"handover.backoff_max_s": 1})
    backend = Backend(daemon, app)
    rate = SIZE_BYTES / file_s
    with contextlib.ExitStack() as stack:
        supervisor = stack.enter_context(Supervisor(daemon))
        # tuspy gives up by itself where its POST or its very first HEAD is cut, so it gets those through first.
        calm = start_all(
            [one for one in SCENARIOS if one.client == "tuspy"], daemon, backend, folder, stack, rate_bytes_per_s=rate
        )
        for *_, link, run in calm:
            wait_until(functools.partial(link.count, "PATCH"), f"tuspy has begun: {run.story()}")
        others = start_all(
            [one for one in SCENARIOS if one.client != "tuspy"], daemon, backend, folder, stack, rate_bytes_per_s=rate
        )

        def hold() -> bool:
            """Say whether a kill now would prove nothing about the daemon."""
            for scenario, content, _, link, run in calm + others:
                if run.status is not None:
                    continue
                # tus-js-client does not repeat the final POST of parallel uploads, whoever the server is.
                if scenario.parts and link.upstream_bytes > 0.6 * content.size_bytes:
                    return True
                # Its patience ends without progress, so everybody makes some between two kills.
                if link in seen and link.upstream_bytes < seen[link] + PROGRESS_BYTES:
                    return True
            return False

        def on_kill() -> None:
            seen.update((link, link.upstream_bytes) for *_, link, _ in calm + others)

        seen: dict[Link, int] = {}
        with Killer(supervisor, lambda: random.uniform(0, 1.5), hold=hold, on_kill=on_kill) as killer:
            for *_, run in calm + others:
                run.wait(timeout_s=100)
        for scenario, content, ticket, link, _ in calm + others:
            backend.wait_status(str(ticket["id"]), "finished", timeout_s=60)
            app.check_arrived(str(ticket["id"]), content.sha256())
            check_creations(link, scenario, str(ticket["upload_url"]))
        assert killer.kills >= kills_min, f"only {killer.kills} kills: the uploads were too quick for this test"


def test_no_stock_client_fails_when_the_daemon_is_killed(make_daemon: MakeDaemon, app: App, tmp_path: Path) -> None:
    """After `kill -9` at random moments all end well, none creates again after its 201, and every file is right."""
    kill_under_all(make_daemon, app, tmp_path, kills_min=3, file_s=8)


@pytest.mark.soak
@pytest.mark.parametrize("round_number", range(20))
def test_no_stock_client_fails_when_the_daemon_is_killed_often(
    round_number: int, make_daemon: MakeDaemon, app: App, tmp_path: Path
) -> None:
    """The same over and over, with longer uploads."""
    kill_under_all(make_daemon, app, tmp_path, kills_min=8, file_s=25)
