"""What the benchmarks need of the machine: cores, ports, C programs, time and memory of a tree of processes."""

from __future__ import annotations

import os
import platform
import re
import resource
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
C_SOURCES = ROOT / "benchmarks" / "c"
HOST = "127.0.0.1"

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
GB = 1_000_000_000
"""What "a GB" means in every figure."""

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
OPEN_FILES = 16_384


class BenchmarkError(Exception):
    """A measurement that could not be had; the text says why."""


@dataclass(frozen=True)
class Cores:
    """Which processors do what: all servers run on *server*, the generator and this program on *load*."""

    server: int
    load: int


def take_cores() -> Cores:
    """Choose the cores, bind this process to the one of the load, and return both.

    Raises:
        BenchmarkError: there is one core only; a generator that takes its time from the server measures nothing.
    """
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise BenchmarkError("the benchmarks need two processors: one for the server, one for the load")
    chosen = Cores(server=cores[0], load=cores[-1])
    os.sched_setaffinity(0, {chosen.load})
    return chosen


def raise_open_files() -> None:
    """Let this process and those that it starts open as many files as many connections need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def compile_programs(folder: Path) -> dict[str, Path]:
    """Compile every program of ``benchmarks/c`` into *folder*; return where each is, by name.

    Raises:
        BenchmarkError: there is no compiler, or a program does not compile.
    """
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise BenchmarkError("no C compiler; on Debian: apt-get install gcc libc6-dev")
    folder.mkdir(parents=True, exist_ok=True)
    programs = {}
    for source in sorted(C_SOURCES.glob("*.c")):
        target = folder / source.stem
        command = [compiler, "-O2", "-Wall", "-Wextra", "-Werror", "-std=gnu11", "-o", str(target), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise BenchmarkError(f"{source.name} does not compile:\n{done.stderr}")
        programs[source.stem] = target
    return programs


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def wait_until(probe: Callable[[], bool], what: str, *, timeout_s: float = 30) -> None:
    """Call *probe* until it returns true.

    Raises:
        BenchmarkError: it did not within *timeout_s* seconds.
    """
    deadline_s = time.monotonic() + timeout_s
    while not probe():
        if time.monotonic() > deadline_s:
            raise BenchmarkError(f"waited {timeout_s:g} s in vain: {what}")
        time.sleep(0.02)


def listens(port: int) -> bool:
    """Return whether somebody accepts connections on *port*."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((HOST, port)) == 0


def tree(pid: int) -> Iterator[int]:
    """Yield *pid* and the ids of all living processes that it, or one of its children, has started."""
    yield pid
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
    except FileNotFoundError:
        return
    for task in tasks:
        try:
            children = (task / "children").read_text(encoding="ascii").split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        for child in children:
            yield from tree(int(child))


def cpu_s(pid: int) -> float:
    """Return the processor time, in seconds, of *pid*: all threads, ended ones too, and all children.

    Of living processes it is exact; of children that have ended it is counted in ticks of 10 ms (proc(5), stat).
    """
    total_s = 0.0
    for each in tree(pid):
        # The processor-time clock of another process, as clock_getcpuclockid(3) spells it, which Python does not offer.
        total_s += time.clock_gettime((~each << 3) | 2)
        # The name in parentheses may hold anything, so counting begins behind it: cutime is field 16, cstime 17.
        fields = Path(f"/proc/{each}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        total_s += sum(int(field) for field in fields[13:15]) / TICKS_PER_S
    return total_s


def stolen_s() -> float:
    """Return how long, in seconds, the host has kept processors from this machine so far (proc(5), stat: steal).

    All cores together; 0 where nobody hosts the machine, or the host does not tell.
    """
    fields = Path("/proc/stat").read_text(encoding="ascii").partition("\n")[0].split()
    return int(fields[8]) / TICKS_PER_S


def memory_bytes(pid: int) -> int:
    """Return the private memory of *pid* and its children (Private_Clean, Private_Dirty of smaps_rollup).

    Private, so that other processes that run the same program, of a neighbour, change nothing.
    """
    total = 0
    for each in tree(pid):
        text = Path(f"/proc/{each}/smaps_rollup").read_text(encoding="ascii")
        total += sum(int(size) for size in re.findall(r"^Private_(?:Clean|Dirty):\s+(\d+) kB$", text, re.MULTILINE))
    return total * KIB


def reset_peak(pid: int) -> None:
    """Let the peak of resident memory begin anew, for *pid* and its children (proc(5), clear_refs: 5)."""
    for each in tree(pid):
        Path(f"/proc/{each}/clear_refs").write_text("5", encoding="ascii")


def peak_bytes(pid: int) -> int:
    """Return the most resident memory since `reset_peak`, shared pages included, of *pid* and its children."""
    total = 0
    for each in tree(pid):
        found = re.search(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{each}/status").read_text("utf-8"), re.MULTILINE)
        total += int(found[1]) * KIB if found else 0
    return total


def memory_info(field: str) -> int:
    """Return a field of ``/proc/meminfo`` in bytes."""
    found = re.search(rf"^{field}:\s+(\d+) kB$", Path("/proc/meminfo").read_text(encoding="ascii"), re.MULTILINE)
    assert found is not None, field
    return int(found[1]) * KIB


def describe(cores: Cores) -> list[tuple[str, str]]:
    """Return what a reader must know of this machine: pairs of what and its value."""
    model = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text("utf-8"), re.MULTILINE)
    release = re.search(r'^PRETTY_NAME="(.+)"$', Path("/etc/os-release").read_text("utf-8"), re.MULTILINE)
    return [
        ("processor", f"{model[1] if model else platform.machine()}, {os.cpu_count()} cores seen"),
        ("cores used", f"{cores.server} for the servers, {cores.load} for the load"),
        ("memory", f"{memory_info('MemTotal') / GIB:.0f} GiB"),
        ("system", f"{release[1] if release else platform.system()}, Linux {platform.release()}"),
        ("Python", platform.python_version()),
        ("load average at the start", " ".join(f"{each:.1f}" for each in os.getloadavg())),
    ]
