"""A disk image with a file system on which copies can share their blocks."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SIZE_BYTES = 400 * 1024 * 1024
"""XFS takes no disk below 300 MiB; of the image only what is written takes room."""


def reason_to_skip() -> str | None:
    """Return why none can be mounted here, or None."""
    if os.geteuid() != 0:
        return "mounting needs root"
    if shutil.which("mkfs.xfs") is None:
        return "there is no mkfs.xfs"
    if not Path("/dev/loop-control").exists():
        return "there are no loop devices"
    if "\txfs\n" not in Path("/proc/filesystems").read_text():
        return "this kernel has no XFS"
    return None


@contextmanager
def xfs_disk(folder: Path) -> Iterator[Path]:
    """Mount an empty XFS with reflinks at *folder* (made if missing) while the block runs. Needs root."""
    folder.mkdir(parents=True, exist_ok=True)
    image = folder.with_name(f"{folder.name}.image")
    with image.open("wb") as file:
        file.truncate(SIZE_BYTES)
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
        image.unlink()
