"""What uploads at rest cost, in the real daemon: nothing at its start and its end, and no memory.

Each promise is held against a daemon on a volume with none or few of them, in the same run.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from tests.support import at_rest
from tests.support.app import running_app
from tests.support.daemon import Daemon
from tests.support.machine import wait_until
from tests.systemd.manager import Manager

KIB, MIB = 1024, 1024 * 1024
QUICK, MANY = 5_000, 100_000

FOR_EACH_BYTES = 20
FOR_THE_PASS_BYTES = 4 * MIB
"""For once and all: threads that have helped, what the allocator keeps, a number for each of the 3,844 groups."""
PASSING_BYTES = 8 * MIB
"""What looking through the volume takes meanwhile. A hundred thousand records together take hundreds."""


@dataclass
class Volume:
    """A volume with uploads at rest, which daemons use in turn."""

    data_dir: Path
    copies: dict[str, list[str]]
    """Of the upload of each kind."""

    @property
    def count(self) -> int:
        """How many uploads there are."""
        return len(self.copies) + sum(map(len, self.copies.values()))

    @property
    def partial(self) -> str:
        """One of which some bytes are kept."""
        return list(self.copies.values())[2][0]


@pytest.fixture(scope="module", params=[QUICK, pytest.param(MANY, marks=pytest.mark.soak)])
def volume(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Volume]:
    """So many uploads, of each kind that rests."""
    with at_rest.folder_for_many(tmp_path_factory.mktemp("at-rest")) as folder, running_app() as app:
        maker = Daemon(folder / "maker", {"data_dir": str(folder / "data")}).start()
        try:
            kinds = at_rest.originals(maker, app)
        finally:
            maker.stop()
        yield Volume(maker.data_dir, at_rest.lay(maker.data_dir, kinds, request.param - len(kinds)))


@pytest.fixture
def on(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Return a function that makes a daemon on a volume, or on one of its own; all are stopped in the end."""
    daemons: list[Daemon] = []

    def make(data_dir: Path | None = None, *, kind: type[Daemon] = Daemon, **settings: object) -> Daemon:
        folder = tmp_path / f"daemon-{len(daemons)}"
        chosen = {"data_dir": str(data_dir or folder / "data"), "uploads.sweep_interval_s": 1}
        daemons.append(kind(folder, chosen | {name.replace("__", "."): value for name, value in settings.items()}))
        return daemons[-1]

    try:
        yield make
        for daemon in daemons:
            daemon.stop()
            daemon.check_log()
    finally:
        for daemon in daemons:
            if daemon.process is not None and daemon.process.poll() is None:
                daemon.kill9()


# Runs the daemon; writes down how many files and directories of uploads it has opened till it was ready, and in all.
_COUNTED = """
import json, os, sys
path, below, *sys.argv[1:] = sys.argv[1:]
from incomingd.daemon import daemon, main
opened = 0

def hear(event, args):
    global opened
    if event in ("open", "os.listdir", "os.scandir") and args and not isinstance(args[0], (int, type(None))):
        opened += os.fsdecode(args[0]).startswith(below)

start = daemon.Daemon.start

async def counted(self):
    await start(self)
    at_ready.append(opened)

at_ready = []
daemon.Daemon.start = counted
sys.addaudithook(hear)
status = main.main()
with open(path, "w") as file:
    json.dump([*at_ready, opened], file)
sys.exit(status)
"""


class Counted(Daemon):
    """A daemon that counts the files and directories of uploads that it opens."""

    def command(self) -> list[str]:
        """Return the command line, by which the counter runs the daemon."""
        counter = [sys.executable, "-c", _COUNTED, str(self.folder / "opened"), str(self.data_dir / "uploads")]
        return [*counter, *super().command()[1:]]

    @property
    def opened(self) -> tuple[int, int]:
        """How many when it was ready, and in all; once it has ended."""
        at_ready, in_all = json.loads((self.folder / "opened").read_text("ascii"))
        return at_ready, in_all


def looked_through(daemon: Daemon) -> dict[str, Any]:
    """Wait until *daemon* has looked through its volume and counted; return the event."""
    event = daemon.wait_event("sweep.ended", timeout_s=600)
    wait_until(lambda: status(daemon)["uploads_counted"], "all uploads are counted", timeout_s=600)
    return event


def status(daemon: Daemon) -> dict[str, Any]:
    answer = requests.get(f"{daemon.backend_url}/incoming/1.0/admin/status", timeout=60)
    answer.raise_for_status()
    return dict(answer.json())


def head(daemon: Daemon, upload_id: str) -> requests.Response:
    url = f"{daemon.public_url}/incoming/1.0/frontend/uploads/{upload_id}"
    return requests.head(url, headers={"Tus-Resumable": "1.0.0"}, timeout=60)


def memory_bytes(pid: int, which: str) -> int:
    """Return how much memory process *pid* has, by its name in proc_pid_status(5).

    `RssAnon` is what it shares with no other process, as far as it is there; `VmHWM` the most that was ever there.
    """
    lines = Path(f"/proc/{pid}/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) * KIB for line in lines if line.startswith(f"{which}:"))


def check_loop_was_free(daemon: Daemon) -> None:
    """Fail if looking through the volume held up the event loop; where the machine was busy, others seem to have."""
    blocked = [event["stack"] for event in daemon.log_events("loop.blocked")]
    looking = ("incomingd.engine.upkeep.", "incomingd.engine.census.", "incomingd.storage.directory.surveying.")
    ours = [stack for stack in blocked if stack and any(frame.startswith(looking) for frame in stack[-3:])]
    assert not ours, ours


def test_the_start_opens_nothing_of_any_upload(volume: Volume, on: Callable[..., Daemon], tmp_path: Path) -> None:
    """Not one file or directory of theirs is opened before the daemon is ready; all are, soon after."""
    few = at_rest.some_of(volume.data_dir, 10, tmp_path / "few", [volume.partial])
    count = sum(len(list(group.iterdir())) for group in (few / "uploads").iterdir())
    daemon = on(few, kind=Counted)
    assert isinstance(daemon, Counted)
    looked_through(daemon.start())
    daemon.stop()
    at_ready, in_all = daemon.opened
    assert at_ready == 0
    assert in_all >= count >= 10


@dataclass
class Run:
    """One start and stop."""

    cpu_s: float
    """Of the process, when it was ready."""
    ready_s: float
    """As the daemon says, of a start."""
    stopped_s: float

    @classmethod
    def of(cls, daemon: Daemon) -> Run:
        """Start *daemon*, and stop it as soon as it is ready, amid its first look at all uploads."""
        daemon.log_path.unlink(missing_ok=True)
        daemon.folder.mkdir(exist_ok=True)
        with Manager(str(daemon.folder / f"notify-{daemon.starts}")) as manager:
            daemon.environment = {"NOTIFY_SOCKET": manager.address}
            daemon.launch()
            manager.wait("READY")
            times = psutil.Process(daemon.pid).cpu_times()
            daemon.stop()
        ready, stopped = daemon.wait_event("daemon.ready"), daemon.wait_event("daemon.stopped")
        return cls(times.user + times.system, ready["duration_s"], stopped["duration_s"])


def test_start_and_stop_are_as_quick_as_with_none(volume: Volume, on: Callable[..., Daemon]) -> None:
    """Reading all records takes seconds; a start or a stop that waited for that would be that much slower."""
    empty, full = on(), on(volume.data_dir)
    runs: dict[Daemon, list[Run]] = {empty: [], full: []}
    for _ in range(1 if volume.count <= QUICK else 3):
        for daemon, found in runs.items():
            found.append(Run.of(daemon))
    best = {
        name: [min(getattr(run, name) for run in runs[daemon]) for daemon in (empty, full)]
        for name in ("cpu_s", "ready_s", "stopped_s")
    }
    for name, (without, with_them) in best.items():
        assert with_them <= without + 0.4, f"{name}: {with_them} instead of {without}"


def test_they_cost_no_memory(volume: Volume, on: Callable[..., Daemon], tmp_path: Path) -> None:
    """Once the daemon has looked at all of them it holds nothing of them, and never many at a time."""
    few = on(at_rest.some_of(volume.data_dir, 10, tmp_path / "few", [volume.partial])).start()
    full = on(volume.data_dir).start()
    for daemon in (few, full):
        # While they are looked through, each can be asked for.
        answer = head(daemon, volume.partial)
        assert (answer.status_code, answer.headers["Upload-Offset"]) == (200, str(at_rest.KEPT_BYTES))
        looked_through(daemon)
    assert sum(status(full)["uploads"].values()) == volume.count
    more_at_peak = memory_bytes(full.pid, "VmHWM") - memory_bytes(few.pid, "VmHWM")
    assert more_at_peak <= PASSING_BYTES, f"{more_at_peak / MIB:.1f} MiB"
    most = FOR_THE_PASS_BYTES + FOR_EACH_BYTES * volume.count
    found: list[int] = []

    def is_flat() -> bool:
        found.append(memory_bytes(full.pid, "RssAnon") - memory_bytes(few.pid, "RssAnon"))
        return found[-1] <= most

    deadline_s = time.monotonic() + 20
    while not is_flat():
        assert time.monotonic() < deadline_s, f"{found[-1] / KIB:.0f} KiB more with {volume.count} uploads"
        time.sleep(0.2)
    check_loop_was_free(full)


def test_the_list_goes_through_all_of_them(volume: Volume, on: Callable[..., Daemon]) -> None:
    """Page by page, each in a bounded time, in the order of their ids, each once."""
    daemon = on(volume.data_dir).start()
    pages = 5 if volume.count <= QUICK else volume.count
    listed: list[str] = []
    page: str | None = ""
    while page is not None and pages:
        query = {"page": page} if page else {}
        answer = requests.get(f"{daemon.backend_url}/incoming/1.0/admin/uploads", params=query, timeout=60)
        answer.raise_for_status()
        found = answer.json()
        listed += [upload["id"] for upload in found["uploads"]]
        page, pages = found["next_page"], pages - 1
    everything = sorted([*volume.copies, *(each for some in volume.copies.values() for each in some)])
    assert len(listed) >= 400
    assert listed == everything[: len(listed)]
    assert page is not None or listed == everything


def test_many_that_expired_meanwhile_are_no_burden(volume: Volume, on: Callable[..., Daemon], tmp_path: Path) -> None:
    """Those whose time came while no daemon ran end, and old records go: few at a time are in memory."""
    _, _, partial, cancelled, _ = volume.copies
    count = volume.count // 20
    with at_rest.folder_for_many(tmp_path) as folder:
        few = on(at_rest.some_of(volume.data_dir, 3, folder / "few", (partial, cancelled, volume.partial))).start()
        data_dir = at_rest.some_of(volume.data_dir, 3, folder / "data", (partial, cancelled, volume.partial))
        at_rest.without_app(data_dir, partial)
        at_rest.change(data_dir, partial, expires_at=time.time() - 60)
        at_rest.change(data_dir, cancelled, ended_at=1.0)
        due = at_rest.lay(data_dir, (partial, cancelled), 2 * count, seed=2)
        full = on(data_dir).start()
        assert head(full, volume.partial).status_code == 200
        swept = looked_through(full)
        looked_through(few)
        assert (swept["expired"], swept["deleted"]) == (count + 1, count + 1)
        found = status(full)["uploads"]
        assert (found["expired"], found["cancelled"]) == (count + 1, status(few)["uploads"]["cancelled"] - 1)
        assert head(full, due[partial][0]).status_code == 410
        assert head(full, due[cancelled][0]).status_code == 404
        more = memory_bytes(full.pid, "VmHWM") - memory_bytes(few.pid, "VmHWM")
        assert more <= PASSING_BYTES, f"{more / MIB:.1f} MiB"
        check_loop_was_free(full)
        full.stop()
        few.stop()
