"""What a directory says of volumes that have retired; all of it blocks.

::

    heir-of/<volume id>   a volume whose records are kept here since it has retired: one file for each, so that
                          instances that share the directory never replace each other's
    retired.json          this volume itself has an heir, or is just getting one

Whoever knows better may delete ``retired.json``: it is all that keeps a program from using the directory again.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Final

from incomingd.core import ids
from incomingd.storage.directory import files
from incomingd.storage.volume import Retirement, VolumeRetiredError, VolumeUnavailableError

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

HEIR_OF: Final = "heir-of"
RETIRED: Final = "retired.json"
_FORMAT: Final = 1


def read_heir_of(root: Path) -> frozenset[str]:
    """Return the ids of the volumes whose heir this one is."""
    try:
        return frozenset(filter(ids.is_volume_id, os.listdir(root / HEIR_OF)))
    except FileNotFoundError:
        return frozenset()


def add_heir_of(root: Path, volumes: Collection[str]) -> None:
    """Be the heir of *volumes*, too, from now on for ever."""
    folder = root / HEIR_OF
    if not folder.exists():
        folder.mkdir(mode=0o700, exist_ok=True)
        files.sync_directory(root)
    for volume_id in volumes:
        assert ids.is_volume_id(volume_id), volume_id
        fd = os.open(folder / volume_id, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.close(fd)
    files.sync_directory(folder)


def read_retirement(root: Path) -> Retirement | None:
    """Return how far this volume's own retirement has come; None: it serves.

    Raises:
        VolumeUnavailableError: it cannot be read.
    """
    path = root / RETIRED
    try:
        known = json.loads(path.read_bytes())
        version, heir, volume_id, settled = known["format"], known["heir"], known["heir_volume_id"], known["settled"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        msg = f"{path} cannot be read: {error}"
        raise VolumeUnavailableError(msg) from error
    if version != _FORMAT or type(heir) is not str or not ids.is_volume_id(str(volume_id)) or type(settled) is not bool:
        msg = f"{path} is of a format that this program does not know"
        raise VolumeUnavailableError(msg)
    return Retirement(heir, volume_id, settled=settled)


def write_retirement(root: Path, retirement: Retirement) -> None:
    """Say how far this volume's own retirement has come; survives a power loss."""
    document = {
        "format": _FORMAT,
        "heir": retirement.heir,
        "heir_volume_id": retirement.volume_id,
        "settled": retirement.settled,
    }
    files.write_atomically(root / RETIRED, json.dumps(document).encode() + b"\n", sync=True)


def refuse_retired(root: Path, *, shared: bool) -> Retirement | None:
    """Return how far the volume's retirement has come, if it may still be opened.

    Raises:
        VolumeRetiredError: it has an heir; or it is just getting one, and would be opened by an instance that is alone.
        VolumeUnavailableError: nobody can tell.
    """
    retirement = read_retirement(root)
    if retirement is None or (shared and not retirement.settled):
        return retirement
    if retirement.settled:
        told = f"instance {retirement.heir} (volume {retirement.volume_id}) answers for its uploads now"
    else:
        told = f"instance {retirement.heir} may answer for its uploads already; only within its fleet can that be ended"
    msg = (
        f"{root} has retired: {told}. Give this instance a new data directory."
        f" Only who knows that it was a mistake deletes {root / RETIRED}"
    )
    raise VolumeRetiredError(msg)
