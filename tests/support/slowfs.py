"""A FUSE file system that behaves as a network one may: stands in for NFS, which build machines cannot mount.

It shows another directory, and
 * delivers late: written bytes reach that directory when the file is synced or closed; its length goes ahead;
 * may remember missing names, also when they have been made meanwhile by a second name for a file;
 * answers nothing while its process is stopped (SIGSTOP).

Two of them over one directory are two hosts: what one has not delivered the other does not see, nor its locks.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.machine import ROOT, wait_until


class Host:
    """The mounted file system, seen from outside."""

    def __init__(self, mount: Path, process: subprocess.Popen[bytes]) -> None:
        self.mount = mount
        self._process = process

    def freeze(self) -> None:
        """Let every call to it wait."""
        self._process.send_signal(signal.SIGSTOP)
        stat = Path(f"/proc/{self._process.pid}/stat")
        wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", "stopped")

    def thaw(self) -> None:
        """Let it answer again."""
        self._process.send_signal(signal.SIGCONT)


def reason_to_skip() -> str | None:
    """Return why nothing can be mounted here, or None."""
    if os.geteuid() != 0:
        return "mounting needs root"
    if not Path("/dev/fuse").exists():
        return "there is no /dev/fuse"
    return None


@contextmanager
def slow_host(shown: Path, mount: Path, *, remembers_missing: bool = False) -> Iterator[Host]:
    """Mount one at *mount* (made if missing) that shows the directory *shown*, while the block runs. Needs root."""
    shown.mkdir(parents=True, exist_ok=True)
    mount.mkdir(parents=True, exist_ok=True)
    log = mount.with_name(f"{mount.name}.log")
    with log.open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.slowfs_server", str(shown), str(mount), str(remembers_missing)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
        )
    try:
        wait_until(lambda: process.poll() is not None or os.path.ismount(mount), "mounted")
        assert process.poll() is None, log.read_text()
        yield Host(mount, process)
    finally:
        # Calls that wait fail when the process is gone; nobody waits for it.
        process.kill()
        process.wait()
        subprocess.run(["umount", "--lazy", str(mount)], check=True, capture_output=True)
