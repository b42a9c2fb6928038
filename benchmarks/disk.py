"""A disk on which every block is there already.

Where a file system gives freed blocks back (mount option `discard`), or lies in a file of a host's that grows, a block
costs several times more when it is written first than later: what is measured then is who came before. So as root the
files go to a file system of the benchmarks' own, in an image each block of which was written once, and which gives
none back. Elsewhere they go to the folder as it is, and the report says so.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.machine import GIB, MIB, BenchmarkError

BLOCK = bytes(range(256)) * (MIB // 256)
PROGRAMS = ("losetup", "mkfs.ext4", "mount", "umount")


@contextmanager
def own_disk(folder: Path, size_bytes: int) -> Iterator[tuple[Path, str]]:
    """Yield a folder that takes *size_bytes*, and what it is, for people; 0 bytes: *folder* as it is.

    Raises:
        BenchmarkError: there is not enough room.
    """
    files = folder / "files"
    files.mkdir()
    as_it_is = f"as it is: {_file_system(folder)}"
    if size_bytes == 0:
        yield files, as_it_is
        return
    room_bytes = shutil.disk_usage(folder).free
    if room_bytes < size_bytes + GIB:
        raise BenchmarkError(f"{folder} has {room_bytes / GIB:.0f} GiB of room; {size_bytes / GIB + 1:.0f} are needed")
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if os.geteuid() != 0 or missing:
        yield files, f"{as_it_is}; not held equal, for want of {', '.join(missing) or 'root'}"
        return
    image = folder / "disk.img"
    device = ""
    mounted = False
    try:
        with image.open("wb") as file:
            for _ in range(size_bytes // MIB):
                file.write(BLOCK)
            os.fsync(file.fileno())
        device = _run("losetup", "--find", "--show", "--direct-io=on", str(image)).strip()
        # -E nodiscard: what was written just now stays allocated. No blocks for root, and tables made at once.
        _run("mkfs.ext4", "-q", "-m", "0", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0", device)
        _run("mount", "-o", "nodiscard,noatime", device, str(files))
        mounted = True
        yield files, f"ext4 on an image of {size_bytes / GIB:.0f} GiB, written before, direct I/O; below it {as_it_is}"
    finally:
        if mounted:
            _run("umount", str(files))
        if device:
            _run("losetup", "--detach", device)
        image.unlink(missing_ok=True)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchmarkError(f"{command[0]} failed: {done.stderr.strip()}")
    return done.stdout


def _file_system(folder: Path) -> str:
    """Return the kind of file system, and its options, that *folder* lies on (proc(5), mountinfo)."""
    device = folder.stat().st_dev
    numbers = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text("utf-8").splitlines():
        fields, _, rest = line.partition(" - ")
        if fields.split()[2] == numbers:
            return f"{rest.split()[0]} ({fields.split()[5]})"
    return "a file system that mountinfo does not name"
