"""The units as systemd runs them, in a booted container; see container.py."""

from __future__ import annotations

import concurrent.futures
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.app import DONE, WAIT, Answer, App, Delivery, running_app
from tests.support.backend import Backend
from tests.support.content import Content, sha256_of
from tests.support.daemon import Daemon
from tests.support.machine import wait_until
from tests.support.tus import TusUpload
from tests.support.wire import Wire
from tests.systemd.container import Container, booted, why_not
from tests.systemd.manager import Caller

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

HEALTH = "/incoming/1.0/health"
CONFIG = "/etc/incomingd/incomingd.yaml"


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    """One container for all; each test has instances of its own, and stops them."""
    with booted(tmp_path_factory.mktemp("container")) as container:
        yield container


@pytest.fixture(autouse=True)
def _stopped_again(container: Container) -> Iterator[None]:
    yield
    container.run("systemctl", "stop", "incomingd@*.service", "incomingd.socket", "incomingd.service", check=False)
    container.run("systemctl", "reset-failed", check=False)
    container.path(CONFIG).unlink(missing_ok=True)


def unit(instance: str) -> str:
    return f"incomingd@{instance}.service"


def drop_in(container: Container, instance: str, text: str) -> None:
    """Change a unit as `systemctl edit` does."""
    container.write(f"/etc/systemd/system/{unit(instance)}.d/test.conf", f"[Service]\n{text}\n")
    container.systemctl("daemon-reload")


def status(container: Container, instance: str) -> dict[str, Any]:
    """Return the status of an instance that has to answer."""
    found = container.status(instance)
    assert found is not None, container.journal(unit(instance))
    return found


def logged(container: Container, instance: str, event: str) -> list[dict[str, Any]]:
    """Return the events called *event* that an instance has logged."""
    lines = [line for line in container.journal(unit(instance)).splitlines() if line.startswith("{")]
    return [found for line in lines if (found := json.loads(line))["event"] == event]


def calls(instance: str, folder: Path, app: App) -> Backend:
    """Return the web app's calls to an instance of the container; made from within its network."""
    daemon = Daemon(folder)
    daemon.public = ("127.0.0.1", 4100 + int(instance))
    daemon.backend = ("127.0.0.1", 4200 + int(instance))
    return Backend(daemon, app)


def upload(backend: Backend, size_bytes: int) -> TusUpload:
    """Send a whole file; return how that went."""
    ticket = backend.ticket()
    found = TusUpload(ticket["upload_url"], Content(3, size_bytes), upload_id=ticket["id"])
    found.run(piece_bytes=1 << 20)
    return found


def test_the_units_have_no_fault(container: Container) -> None:
    """With everything installed systemd has nothing to say against them."""
    names = ("incomingd@01.service", "incomingd.service", "incomingd.socket", "incomingd.target")
    done = container.run("systemd-analyze", "verify", "--man=no", *names)
    assert (done.stdout, done.stderr) == ("", "")


def test_a_life(container: Container) -> None:
    """`start` returns once requests are answered; a reload is seen; `stop` ends it well."""
    container.write(CONFIG, "log: {level: info}\n")
    container.systemctl("start", unit("11"))
    assert status(container, "11")["state"] == "ready"
    assert container.show(unit("11"), "StatusText") == "ready"
    pid = container.show(unit("11"), "MainPID")
    assert status(container, "11")["pid"] == int(pid)
    user = container.path("/etc/passwd").read_text().partition("\nincomingd:")[2].split(":")[1]
    assert f"Uid:\t{user}\t{user}\t{user}\t{user}" in container.path(f"/proc/{pid}/status").read_text()

    container.write(CONFIG, "log: {level: debug}\n")
    container.systemctl("reload", unit("11"))
    wait_until(lambda: logged(container, "11", "config.reloaded"), "the reload")
    container.write(CONFIG, "log: {level: loud}\n")
    container.systemctl("reload", unit("11"))
    wait_until(lambda: "refused" in container.show(unit("11"), "StatusText"), "the refusal is shown")
    assert container.show(unit("11"), "ActiveState") == "active"
    assert container.show(unit("11"), "MainPID") == pid

    container.systemctl("stop", unit("11"))
    assert container.show(unit("11"), "Result") == "success"
    assert logged(container, "11", "daemon.stopped")
    assert not [line for line in container.journal(unit("11")).splitlines() if '"level":"error"' in line][1:]


def test_hardening_lets_it_work(container: Container, tmp_path: Path) -> None:
    """A file arrives and gets the web app's group; after a restart, too, which waits for a callback under way."""
    container.write("/etc/incomingd/21.env", "INCOMING_FILES__GROUP=webapp\n")
    # Less than the callback takes: the daemon has to ask for more.
    drop_in(container, "21", "TimeoutStopSec=1s")
    container.systemctl("start", unit("21"))
    called, let_go = threading.Event(), threading.Event()

    def hold(_: Delivery) -> Answer:
        called.set()
        assert let_go.wait(30)
        return DONE

    with container.network(), running_app(read_files=False) as app:
        backend = calls("21", tmp_path, app)
        app.answer = lambda _: WAIT
        sent = upload(backend, 3_000_000)
        (delivery,) = app.wait_for(sent.upload_id)
        file = container.path(str(delivery.data["path"]))
        webapp = int(container.path("/etc/group").read_text().partition("\nwebapp:")[2].split(":")[1])
        assert sha256_of(file) == sent.content.sha256()
        assert (file.stat().st_gid, file.stat().st_mode & 0o777) == (webapp, 0o640)

        app.answer = hold
        held = upload(backend, 10_000)
        assert called.wait(30)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            restart = pool.submit(container.systemctl, "restart", unit("21"))
            wait_until(lambda: container.show(unit("21"), "ActiveState") == "deactivating", "the stop has begun")
            # Longer than systemd would wait for a process that does not ask.
            assert not concurrent.futures.wait([restart], timeout=2).done
            let_go.set()
            restart.result(30)
        wait_until(lambda: backend.get(held.upload_id)["status"] == "finished", "the second file is taken")
        assert len(app.of(held.upload_id, "upload.complete")) == 1
    assert "Killing" not in container.journal(unit("21"))
    # Were the volume the state directory itself, systemd would have given all of it to the daemon's own group.
    assert file.stat().st_gid == webapp


HANGS = """
import asyncio, os, pathlib, time
from incomingd.daemon.daemon import Daemon

start = Daemon.start

def a_callback_that_hangs():
    if pathlib.Path("/etc/incomingd/hangs/pid").read_text() == str(os.getpid()):
        time.sleep(1000)
    asyncio.get_running_loop().call_later(0.05, a_callback_that_hangs)

async def start_and_look(self):
    await start(self)
    a_callback_that_hangs()

Daemon.start = start_and_look
"""


def test_a_daemon_that_hangs_is_killed_and_started_again(container: Container) -> None:
    """By the watchdog; the log says where it stood."""
    container.write("/etc/incomingd/hangs/sitecustomize.py", HANGS)
    container.write("/etc/incomingd/hangs/pid", "nobody's")
    drop_in(container, "12", "WatchdogSec=2s\nRestartSec=10ms\nEnvironment=PYTHONPATH=/etc/incomingd/hangs")
    container.systemctl("start", unit("12"))
    pid = container.show(unit("12"), "MainPID")
    container.write("/etc/incomingd/hangs/pid", pid)
    wait_until(lambda: container.show(unit("12"), "NRestarts") != "0", "systemd has started it again")
    wait_until(lambda: container.show(unit("12"), "ActiveState") == "active", "it is ready again")
    found = status(container, "12")
    assert found["state"] == "ready"
    assert found["pid"] != int(pid)
    journal = container.journal(unit("12"))
    assert "Watchdog timeout" in journal
    _, _, dump = journal.partition("Fatal Python error: Aborted")
    assert "in a_callback_that_hangs" in dump, journal


@pytest.fixture
def fleet(container: Container) -> Iterator[tuple[str, str]]:
    """Two instances on one volume, with Redis, started; their names."""
    container.run(
        *("systemd-run", "--quiet", "--unit=test-redis", "--property=Type=notify"),
        *("redis-server", "--supervised", "systemd", "--save", "", "--bind", "127.0.0.1"),
    )
    container.write("/etc/incomingd/peer.keys", "a-key-of-the-tests-alone\n")
    container.run("chown", "root:incomingd", "/etc/incomingd/peer.keys")
    container.run("chmod", "0640", "/etc/incomingd/peer.keys")
    for instance in ("01", "02"):
        container.write(
            f"/etc/incomingd/{instance}.env",
            "INCOMING_DATA_DIR=/var/lib/incoming/shared/data\n"
            "INCOMING_REGISTRY__URL=redis://127.0.0.1:6379\n"
            "INCOMING_PEER__KEYS_FILE=/etc/incomingd/peer.keys\n",
        )
    container.systemctl("start", unit("01"), unit("02"))
    yield "01", "02"
    container.run("systemctl", "stop", unit("01"), unit("02"), check=False)
    container.systemctl("stop", "test-redis.service")


def test_a_rolling_restart(container: Container, fleet: tuple[str, str], tmp_path: Path) -> None:
    """One after the other, each a new process; what is under way goes on. At one that does not come back it stops."""
    before = [status(container, each)["pid"] for each in fleet]
    with container.network(), running_app(read_files=False) as app:
        backend = calls("01", tmp_path, app)
        content = Content(5, 2_000_000)
        ticket = backend.ticket()
        sent = TusUpload(ticket["upload_url"], content, upload_id=ticket["id"])
        with sent.connect() as wire:
            assert sent.create(wire).status == 201
            assert sent.patch(wire, 0, content.read(0, 1_000_000)).status == 204
        done = container.run("incomingctl", "rolling-restart", "--json")
        assert [each["unit"] for each in json.loads(done.stdout)] == [unit("01"), unit("02")]
        sent.run(piece_bytes=1_000_000)
        app.wait_for(sent.upload_id)
    after = [status(container, each)["pid"] for each in fleet]
    assert not set(before) & set(after)
    assert after[0] < after[1]
    assert f"{unit('01')}: restarting (1 of 2)" in done.stderr
    assert all(logged(container, each, "drain.ended") for each in fleet)

    container.write("/etc/incomingd/01.env", "INCOMING_NO_SUCH_KEY=1\n")
    failed = container.run("incomingctl", "rolling-restart", check=False)
    assert failed.returncode == 1
    assert f"{unit('01')} did not come back" in failed.stderr
    assert "incomingctl rolling-restart 02" in failed.stderr
    assert status(container, "02")["pid"] == after[1]


def test_a_restart_of_the_single_instance_refuses_no_connection(container: Container) -> None:
    """The address is systemd's; the daemon is started by the first connection, and restarted under the next ones."""
    container.write("/etc/incomingd/single.env", container.path("/etc/incomingd/common.env").read_text())
    container.systemctl("start", "incomingd.socket")
    address = ("127.0.0.1", 4000)
    with container.network():
        with Wire(address) as wire:
            assert wire.request("GET", HEALTH).status == 200
        pid = container.show("incomingd.service", "MainPID")
        with Caller(address, HEALTH) as caller:
            container.systemctl("restart", "incomingd.service")
    assert caller.answered > 0
    assert container.show("incomingd.service", "MainPID") != pid
    assert container.show("incomingd.socket", "ActiveState") == "active"
