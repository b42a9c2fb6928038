"""Volumes with very many uploads at rest, just as a daemon leaves them: it makes one of each kind, which is multiplied.

A copy has all files of the original's folder, with an id of its own in their text. So nothing here knows what an
upload looks like on a volume, but where its folder is.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from incomingd.core import codec, ids
from incomingd.core.record import Record
from incomingd.engine.ending import pending
from incomingd.storage.chain import RECORD
from tests.support.app import App
from tests.support.backend import Backend
from tests.support.content import Content
from tests.support.daemon import Daemon
from tests.support.tus import TusUpload

MEMORY = Path("/dev/shm")
"""A file system in memory, as Linux has it: a hundred thousand folders are made there, and gone again, in seconds."""
SIZE_BYTES = 1000
KEPT_BYTES = 300

_SEEDS = random.Random(5)


@contextmanager
def folder_for_many(otherwise: Path) -> Iterator[Path]:
    """Yield a folder for many small files while the block runs: in memory, or in *otherwise*."""
    where = MEMORY if MEMORY.is_dir() else otherwise
    with TemporaryDirectory(dir=where, prefix="incoming-test-") as folder:
        yield Path(folder)


def originals(daemon: Daemon, app: App) -> list[str]:
    """Have *daemon*, which runs, make one upload of each kind that rests, and stop it; return their ids.

    They are a ticket that nobody has begun, an upload that was begun and one of which some bytes are kept, one that
    was cancelled and one that the web app has got.
    """
    backend = Backend(daemon, app)
    waiting, begun, partial, cancelled, done = backend.tickets(5)
    for ticket, sent in ((begun, 0), (partial, KEPT_BYTES), (cancelled, KEPT_BYTES), (done, SIZE_BYTES)):
        content = Content(_SEEDS.randrange(1 << 30), SIZE_BYTES)
        upload = TusUpload(ticket["upload_url"], content)
        with upload.connect() as wire:
            assert upload.create(wire).status == 201
            if sent:
                assert upload.patch(wire, 0, content.read(0, sent)).status == 204
    backend.cancel(cancelled["id"])
    backend.wait_status(done["id"], "finished")
    daemon.wait_event("notification.attempted", upload_id=cancelled["id"])
    daemon.stop()
    made = [each["id"] for each in (waiting, begun, partial, cancelled, done)]
    assert not any(pending(_record(daemon.data_dir, each)[1]) for each in made)
    return made


def folder_of(data_dir: Path, upload_id: str) -> Path:
    """Return where an upload stands on the volume at *data_dir*."""
    return data_dir / "uploads" / upload_id[:2] / upload_id


def lay(data_dir: Path, upload_ids: Sequence[str], count: int, seed: int = 1) -> dict[str, list[str]]:
    """Lay *count* copies of uploads, as many of each of *upload_ids*; return the copies' ids. Nobody has the volume."""
    chance = random.Random(seed)
    made: dict[str, list[str]] = {}
    for number, original in enumerate(upload_ids):
        name, volume_id = original.encode("ascii"), ids.volume_of(original)
        found = [(path.name, path.read_bytes()) for path in folder_of(data_dir, original).iterdir()]
        made[original] = []
        for _ in range(number, count, len(upload_ids)):
            upload_id = ids.upload_id(chance.getrandbits(256), volume_id)
            folder = str(folder_of(data_dir, upload_id))
            os.makedirs(folder)
            for file, data in found:
                fd = os.open(f"{folder}/{file}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                os.write(fd, data.replace(name, upload_id.encode("ascii")))
                os.close(fd)
            made[original].append(upload_id)
    return made


def some_of(data_dir: Path, groups: int, target: Path, upload_ids: Collection[str]) -> Path:
    """Copy a volume, which nobody has, with so many of its groups of uploads, those of *upload_ids* among them.

    Returns:
        *target*, where the copy stands.
    """
    wanted = {upload_id[:2] for upload_id in upload_ids}
    there = sorted(os.listdir(data_dir / "uploads"), key=lambda group: (group not in wanted, group))
    left = there[groups:]
    shutil.copytree(data_dir, target, ignore=lambda folder, _: left if folder == str(data_dir / "uploads") else [])
    return target


def change(data_dir: Path, upload_id: str, **changes: object) -> None:
    """Have the record of one upload say something else; nobody has the volume."""
    path, record = _record(data_dir, upload_id)
    path.write_bytes(codec.encode(replace(record, **changes)))  # type: ignore[arg-type] # by name


def without_app(data_dir: Path, upload_id: str) -> None:
    """Have nobody called back for one upload; nobody has the volume."""
    _, record = _record(data_dir, upload_id)
    change(data_dir, upload_id, terms=replace(record.terms, finish_url=""))


def _record(data_dir: Path, upload_id: str) -> tuple[Path, Record]:
    path = folder_of(data_dir, upload_id) / RECORD
    return path, codec.decode(path.read_bytes())
