"""The groups of uploads, and looking through one: its ids, and how each of them stands; all of it blocks."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from incomingd.core import ids
from incomingd.storage.directory.contents import bytes_in, sizes_in
from incomingd.storage.volume import Found, RecordUnreadableError, Standing

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


GROUP_CHARS: Final = 2
"""So many letters of its id name an upload's group."""


def groups_in(uploads: Path) -> list[str]:
    """Return the names of the groups in the directory *uploads*."""
    # Beside them may lie what is none of ours, such as lost+found, which nobody but root may read.
    with os.scandir(uploads) as entries:
        return sorted(entry.name for entry in entries if len(entry.name) == GROUP_CHARS and entry.is_dir())


def stamps_in(uploads: Path) -> dict[str, int]:
    """Return when something came into each group in the directory *uploads*, or went: the directory's own time."""
    with os.scandir(uploads) as entries:
        return {
            entry.name: entry.stat().st_mtime_ns
            for entry in entries
            if len(entry.name) == GROUP_CHARS and entry.is_dir()
        }


def ids_in(group: Path) -> list[str] | None:
    """Return the ids of the uploads in the directory *group*; None: it is not there."""
    try:
        names = os.listdir(group)
    except FileNotFoundError:
        return None
    return sorted(filter(ids.is_upload_id, names))


def survey(root: Path, name: str, standing: Callable[[str], Standing | None], volume_id: str) -> list[Found]:
    """Return all uploads of the group called *name*.

    Args:
        root: of the volume.
        name: of the group.
        standing: reads how one of them stands.
        volume_id: of the volume.
    """
    group = root / "uploads" / name
    found: list[Found] = []
    for upload_id in ids_in(group) or ():
        try:
            stands = standing(upload_id)
            if stands is None:
                has_bytes = False
            elif stands.given_from(volume_id) is not None:
                has_bytes = bool(sizes_in(group / upload_id))
            else:
                has_bytes = stands.record.status.final and _has_left(group / upload_id, root / "files" / upload_id)
        except (RecordUnreadableError, OSError):
            # One file that cannot be read keeps nobody from the others.
            found.append(Found(upload_id, None, has_bytes=True))
        else:
            found.append(Found(upload_id, stands, has_bytes=has_bytes))
    return found


def _has_left(folder: Path, file: Path) -> bool:
    return any(bytes_in(folder)) or os.path.lexists(file) or os.path.lexists(f"{file}.new")
