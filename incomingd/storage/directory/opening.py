"""What is done to a directory when it is opened as a volume; blocks."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from incomingd.core import ids
from incomingd.storage.directory import files
from incomingd.storage.directory.heirs import read_heir_of, refuse_retired
from incomingd.storage.directory.lock import DirectoryLock
from incomingd.storage.directory.mounts import Mount, mount_of
from incomingd.storage.directory.probing import UnfitError, probe
from incomingd.storage.directory.runs import Runs
from incomingd.storage.volume import Retirement, VolumeUnavailableError

FORMAT: Final = 1
"""Claims stand in the records."""
FORMAT_SHARED: Final = 2
"""Claims are files. Programs that know nothing of that refuse it."""
LOCK: Final = "lock"
RUNS: Final = "instances"
_MARK: Final = "files"
_PROBE: Final = ".probe."


@dataclass(frozen=True, slots=True)
class DirectoryOptions:
    """What an operator chooses."""

    threads: int = 16
    """At the most so many calls wait for the disk at once."""
    file_mode: int = 0o640
    """Of complete files."""
    file_group: int | None = None
    """Group id of complete files and of the way to them; None: the process's."""
    reserve_bytes: int = 64 * 1024 * 1024
    """Kept free: a length that would go below it is refused beforehand."""
    durable: bool = True
    """Joined files survive a power loss before anybody hears of them."""
    fast_path: bool = True
    """Bodies that nobody has to look at are taken by the kernel itself, where the platform can."""


@dataclass(frozen=True, slots=True)
class Held:
    """What an open volume holds, and what follows from how it was opened."""

    volume_id: str
    lock: DirectoryLock
    runs: Runs
    start_id: str
    token: str
    """Random, for names that no other run uses."""
    shared: bool
    claims_are_files: bool
    network: bool
    heir_of: frozenset[str]
    retirement: Retirement | None


def hold(
    root: Path, *, new_id: str, holder: dict[str, object], options: DirectoryOptions, shared: bool, start_id: str
) -> Held:
    """Take hold of the volume at *root*; see :meth:`incomingd.storage.directory.DirectoryVolume.open`."""
    assert start_id or not shared, "those who share need to know who is gone"
    with contextlib.ExitStack() as undo:
        if not root.is_dir():
            root.mkdir(parents=True, exist_ok=True)
            files.sync_directory(root.parent)
        mount = mount_under(root)
        if shared and (refusal := mount.refusal_to_share()):
            msg = f"{root} cannot be shared: {refusal}"
            raise VolumeUnavailableError(msg)
        runs = Runs(root / RUNS, boot_id=files.boot_id(), network=mount.network)
        lock = DirectoryLock(root / LOCK, holder=holder, shared=shared, sharers=runs.living)
        undo.callback(lock.release)
        volume_id, claims_are_files = identify(root, new_id)
        retirement = refuse_retired(root, shared=shared)
        token = secrets.token_hex(8)
        if lock.alone:
            sweep_probes(root)
        lay_out(root, mode=options.file_mode, group=options.file_group, token=token)
        if shared:
            probe_sharing(root, token)
            if not claims_are_files:
                mark_shared(root, volume_id, alone=lock.alone)
            if lock.alone:
                lock.share()
        if start_id:
            undo.callback(runs.leave)
            runs.enter(start_id, holder)
            runs.sweep()
        heir_of = read_heir_of(root)
        undo.pop_all()
        marked = shared or claims_are_files
    return Held(
        volume_id,
        lock,
        runs,
        start_id,
        token,
        shared=shared,
        claims_are_files=marked,
        network=mount.network,
        heir_of=heir_of,
        retirement=retirement,
    )


def mount_under(root: Path) -> Mount:
    """Return the mount on which *root* lies."""
    try:
        text = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape")
    except OSError:
        return Mount("")
    return mount_of(text, PurePosixPath(os.path.realpath(root)))


def identify(root: Path, new_id: str) -> tuple[str, bool]:
    """Return the id that the volume carries, giving it *new_id* if it has none, and whether claims are files."""
    path = root / "volume.json"
    try:
        known = json.loads(path.read_bytes())
        version, volume_id, claims = known["format"], str(known["id"]), known.get("claims")
    except FileNotFoundError:
        if (root / "uploads").exists():
            msg = f"{root} has uploads but no volume.json that says which volume it is"
            raise VolumeUnavailableError(msg) from None
        files.write_atomically(path, _line({"format": FORMAT, "id": new_id}), sync=True)
        return new_id, False
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        msg = f"{path} cannot be read: {error}"
        raise VolumeUnavailableError(msg) from error
    if (version, claims) not in ((FORMAT, None), (FORMAT_SHARED, _MARK)) or not ids.is_volume_id(volume_id):
        msg = f"{path} is of format {version!r}; this program knows format {FORMAT} and {FORMAT_SHARED}"
        raise VolumeUnavailableError(msg)
    return volume_id, version == FORMAT_SHARED


def mark_shared(root: Path, volume_id: str, *, alone: bool) -> None:
    """Say that claims are files from now on; only who holds the volume alone may."""
    if not alone:
        msg = f"{root} is shared by instances, but its volume.json does not say so"
        raise VolumeUnavailableError(msg)
    text = _line({"format": FORMAT_SHARED, "id": volume_id, "claims": _MARK})
    files.write_atomically(root / "volume.json", text, sync=True)


def _line(document: dict[str, object]) -> bytes:
    return json.dumps(document).encode() + b"\n"


def sweep_probes(root: Path) -> None:
    """Delete what former openings left that were killed; only who holds the volume alone may."""
    for name in os.listdir(root):
        if name.startswith(_PROBE):
            path = root / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                files.unlink_if_there(path)


def probe_sharing(root: Path, token: str) -> None:
    """See that several processes can share it.

    Raises:
        VolumeUnavailableError: they cannot; the text says why.
    """
    try:
        probe(root / f"{_PROBE}{token}")
    except UnfitError as unfit:
        msg = f"{root} cannot be shared: {unfit}"
        raise VolumeUnavailableError(msg) from unfit


def lay_out(root: Path, *, mode: int, group: int | None, token: str) -> None:
    """Make the directories, and see that files can be given away as configured."""
    for name, access in (("uploads", 0o700), ("keys", 0o700), (RUNS, 0o700), ("files", 0o770)):
        (root / name).mkdir(exist_ok=True)
        (root / name).chmod(access)
    if group is not None:
        # The app's user comes through the data directory to its files, and may
        # move them away; it cannot look into the other directories.
        for path in (root, root / "files"):
            os.chown(path, -1, group)
        root.chmod(0o710)
    files.sync_directory(root)
    probed = root / f"{_PROBE}{token}.file"
    fd = files.create_fresh(probed)
    try:
        if group is not None:
            os.fchown(fd, -1, group)
        os.fchmod(fd, mode)
    except OSError as error:
        msg = f"files.mode or files.group cannot be set in {root / 'files'}: {error.strerror}"
        raise VolumeUnavailableError(msg) from error
    finally:
        os.close(fd)
        probed.unlink()
