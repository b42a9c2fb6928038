"""What tests need of the machine: where the project is, free ports, small file systems, the memory of a process."""

from __future__ import annotations

import os
import random
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[2]
"""The checkout (or the copy of it) that is being tested."""

BIN = Path(sys.executable).parent
"""Where the environment's commands are."""


_system_random = random.SystemRandom()

# Ports that this process has given away: two servers of one test must not get the same one before they listen.
_given: set[int] = set()


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody listens on, and that this process was not given before.

    It lies below the range from which the kernel takes ports for outgoing connections, so that a server that was
    killed finds it free again. Tests that run side by side take from ranges of their own; the choice does not follow
    the seed of the tests, which is the same for all of them.
    """
    side_by_side = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    own = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    for _ in range(1000):
        port = _system_random.randrange(10_000 + own, 32_000, side_by_side)
        if port in _given:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            _given.add(port)
            return port
    message = "no free port found"
    raise AssertionError(message)


def wait_until(probe: Callable[[], T | None], what: str, *, timeout_s: float = 30, interval_s: float = 0.02) -> T:
    """Call *probe* until it returns something true, and return that; fail with *what* after *timeout_s* seconds."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        found = probe()
        if found:
            return found
        assert time.monotonic() < deadline_s, f"waited {timeout_s} s in vain: {what}"
        time.sleep(interval_s)


@contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[Path]:
    """Mount an empty file system of *size_bytes* at *folder* (made if missing) while the block runs. Needs root."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=0755", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def resize(folder: Path, size_bytes: int) -> None:
    """Give the file system that `small_disk` mounted at *folder* another size while it is in use. Needs root."""
    subprocess.run(["mount", "-o", f"remount,size={size_bytes}", str(folder)], check=True)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Let nothing be opened for writing or changed by its path below *folder* while the block runs. Needs root.

    The folder is mounted over itself: a file system with open files cannot be turned read-only by force.
    """
    subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def pss_bytes(pid: int) -> int:
    """Return how much memory process *pid* takes, its share of shared pages included (PSS of smaps_rollup)."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    found = re.search(r"^Pss:\s+(\d+) kB$", text, re.MULTILINE)
    assert found is not None, text
    return int(found[1]) * 1024
