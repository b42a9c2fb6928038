"""The directory volume: what is its own beside the contract of all volumes."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import json
import os
import re
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from incomingd.core.content import Content
from incomingd.core.record import Record
from incomingd.storage.body import BodyCutError, CutReason
from incomingd.storage.directory import DirectoryVolume, kept_open, splicing
from incomingd.storage.directory.files import boot_id
from incomingd.storage.directory.opening import mark_shared
from incomingd.storage.directory.segment import FileSegment
from incomingd.storage.directory.syncing import SYNCERS
from incomingd.storage.directory.syscalls import reserve
from incomingd.storage.volume import (
    RecordUnreadableError,
    UploadExistsError,
    VolumeError,
    VolumeFullError,
    VolumeLockedError,
    VolumeUnavailableError,
)
from tests.storage.disturbed import CHANGING, Disturbed, KilledError, disturbed, dying_at, failing_at
from tests.storage.volumes import (
    VOLUME_ID,
    Bytes,
    claimed,
    complete_record,
    fill,
    new_id,
    new_record,
    open_directory,
    owned_upload,
    put,
    whole_file,
)
from tests.support.machine import ROOT, read_only, resize, small_disk

DATA = bytes(range(256)) * 3


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest_asyncio.fixture
async def volume(root: Path) -> AsyncIterator[DirectoryVolume]:
    volume = open_directory(root)
    yield volume
    await volume.close()


def folder_of(volume: DirectoryVolume, record: Record) -> Path:
    return volume.root / "uploads" / record.upload_id[:2] / record.upload_id


# -- opening


async def test_a_new_volume_has_an_id_and_keeps_it(root: Path) -> None:
    volume = open_directory(root)
    assert volume.id == VOLUME_ID
    await volume.close()
    again = DirectoryVolume.open(root, new_id="Another00001", holder={}, options=volume._options)
    assert again.id == VOLUME_ID
    await again.close()
    assert json.loads((root / "volume.json").read_text()) == {"format": 1, "id": VOLUME_ID}


async def test_nobody_else_may_look_into_uploads(volume: DirectoryVolume) -> None:
    modes = {name: stat.S_IMODE((volume.root / name).stat().st_mode) for name in ("uploads", "keys", "files")}
    assert modes == {"uploads": 0o700, "keys": 0o700, "files": 0o770}
    record = await owned_upload(volume)
    await put(volume, record.upload_id, "bytes.1", b"abc")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder_of(volume, record).iterdir()}
    assert modes == {"record.json": 0o600, "bytes.1": 0o600}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b"{}",
        b'{"format": 1}',
        b'{"format": 1, "id": 7}',
        b'{"format": 1, "id": ""}',
        b'{"format": 1, "id": "../../etc/xx"}',
        b'{"format": 2, "id": "Volume000001"}',
        b'{"format": "1", "id": "Volume000001"}',
        b"\xff\xfe\x00",
        b"[" * 100_000,
    ],
    ids=lambda content: repr(content[:40]),
)
async def test_a_damaged_volume_is_not_opened_and_not_changed(root: Path, content: bytes) -> None:
    await open_directory(root).close()
    (root / "volume.json").write_bytes(content)
    with pytest.raises(VolumeUnavailableError, match=r"volume\.json"):
        open_directory(root)
    assert (root / "volume.json").read_bytes() == content
    # The lock was given back.
    (root / "volume.json").write_text(json.dumps({"format": 1, "id": VOLUME_ID}))
    await open_directory(root).close()


async def test_uploads_that_belong_to_no_volume_are_left_alone(root: Path) -> None:
    """An unmounted disk, half a backup: a new id here would hide every upload there is."""
    await open_directory(root).close()
    (root / "volume.json").unlink()
    with pytest.raises(VolumeUnavailableError, match=r"no volume\.json"):
        open_directory(root)
    assert not (root / "volume.json").exists()


def test_a_file_is_no_volume(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "data"):
        with pytest.raises(VolumeUnavailableError, match="opening"):
            open_directory(path)


@pytest.mark.parametrize("call", ["fchmod", "fchown"])
def test_a_mode_or_group_that_cannot_be_set_is_refused_at_the_start(root: Path, call: str) -> None:
    with disturbed() as watch:

        def refuse(name: str, args: tuple[Any, ...]) -> None:
            if name == call:
                raise PermissionError(errno.EPERM, "Operation not permitted")

        watch.before = refuse
        with pytest.raises(VolumeUnavailableError, match=r"files\.mode or files\.group cannot be set"):
            open_directory(root, file_group=os.getgid())
    assert list((root / "files").iterdir()) == []


# -- the lock

HOLD = """
import sys, time
from pathlib import Path
from incomingd.storage.directory import DirectoryOptions, DirectoryVolume
volume = DirectoryVolume.open(
    Path(sys.argv[1]), new_id="Volume000001", holder={"instance": "first:4000", "pid": 4711}, options=DirectoryOptions()
)
print("held", flush=True)
time.sleep(600)
"""


def hold(root: Path) -> subprocess.Popen[str]:
    """Have another process hold the volume."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(root)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


async def test_a_second_process_is_told_who_holds_the_volume_and_a_killed_one_frees_it(root: Path) -> None:
    process = hold(root)
    try:
        with pytest.raises(VolumeLockedError, match="in use by instance first:4000, pid 4711"):
            open_directory(root)
        # Frozen is not gone.
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(VolumeLockedError):
            open_directory(root)
        process.kill()
        process.wait()
        volume = open_directory(root)
        assert json.loads((root / "lock").read_text()) == {"instance": "test", "pid": 1}
        await volume.close()
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.parametrize("said", [b"", b"\xff", b"[1]", b"{"])
async def test_a_lock_that_says_nothing_is_held_all_the_same(root: Path, said: bytes) -> None:
    volume = open_directory(root)
    (root / "lock").write_bytes(said)
    with pytest.raises(VolumeLockedError, match="in use by an unknown process"):
        open_directory(root)
    await volume.close()
    await volume.close()
    await open_directory(root).close()


async def test_an_opening_that_fails_gives_the_lock_back(root: Path) -> None:
    """Whatever call it fails at; and nothing but a volume's own error comes out."""
    with disturbed() as watch:
        volume = open_directory(root)
        await volume.close()
        count = len(watch.made)
    assert count > 10
    for number in range(count):
        with disturbed() as watch:
            watch.before = failing_at(number, OSError(errno.EIO, "Input/output error"))
            try:
                volume = open_directory(root)
            except VolumeError:
                pass
            else:
                await volume.close()
        volume = open_directory(root)
        await volume.close()


# -- a whole life, disturbed


class Life:
    """What an upload does to its volume, from creation to removal; knows what it was promised."""

    def __init__(self, volume: DirectoryVolume) -> None:
        self.volume = volume
        self.stored: Record | None = None
        """As last acknowledged."""
        self.asked: Record | None = None
        """What may or may not be there instead."""
        self.acknowledged = 0
        self.joined = False
        self.removing = False

    async def _write(self, record: Record, *, sync: bool = True) -> None:
        self.asked = record
        await self.volume.write(record, sync=sync)
        self.stored = record

    async def run(self, *, pieces: int = 1) -> None:
        volume = self.volume
        born = new_record()
        self.asked = born
        await volume.create(born)
        self.stored = born
        await volume.bind_key("key", born.upload_id, instead_of=None)
        assert await volume.find_key("key") == born.upload_id
        claim, record = claimed(born, volume)
        await volume.claim(born.upload_id, claim)
        await self._write(record)
        names = []
        for number in range(pieces):
            names.append(f"bytes.{number + 1}")
            await self._fill(record.upload_id, names[-1])
        whole = complete_record(record, *((name, 0, len(DATA)) for name in names), volume=volume)
        await volume.sync_segments(whole, whole.content)
        await self._write(whole)
        await volume.join(whole)
        self.joined = True
        await self._write(dataclasses.replace(whole, joined=True), sync=False)
        await volume.drop_bytes(whole, file_too=False)
        assert await whole_file(volume, whole) == DATA * pieces
        self.removing = True
        await volume.drop_bytes(whole, file_too=True)
        await volume.remove(whole.upload_id)
        await volume.forget_keys()

    async def _fill(self, upload_id: str, name: str) -> None:
        segment = await self.volume.open_segment(upload_id, name, create=True, size=0, sync=True)
        try:
            for at in range(0, len(DATA), 256):
                await fill(segment, DATA[at : at + 256])
                await segment.sync()
                if name == "bytes.1":
                    self.acknowledged = segment.size
        finally:
            await segment.close()


async def check(root: Path, life: Life, pieces: int) -> None:
    """A later process finds what was promised, and can go on with it."""
    volume = open_directory(root, durable=False)
    try:
        found = await volume.read(new_id())
        assert found in (life.stored, life.asked) or (life.removing and found is None)
        assert await volume.ids_in(volume.group_of(new_id())) in ([], [new_id()])
        if found is None or found.epoch == 0:
            return
        if not found.content.length and not life.removing:
            assert life.acknowledged <= await volume.measure(found, found.content) <= len(DATA)
        if found.content.length and not life.removing and not found.joined:
            # Whatever became of the former join.
            await volume.join(found)
        if found.content.length and not life.removing:
            assert await whole_file(volume, found) == DATA * pieces
        await volume.write(dataclasses.replace(found, expires_at=77.0), sync=True)
        await volume.drop_bytes(found, file_too=True)
        await volume.remove(found.upload_id)
        assert list((root / "files").iterdir()) == []
        assert not list((root / "uploads").glob("*/*"))
    finally:
        await volume.close()


async def opened(root: Path, *, shared: bool) -> DirectoryVolume:
    """Open it alone; where it was *shared* before, claims are files all the same."""
    if shared:
        await open_directory(root).close()
        mark_shared(root, VOLUME_ID, alone=True)
    return open_directory(root)


async def disturbed_life(
    root: Path, before: Callable[[str, tuple[Any, ...]], None], pieces: int, *, shared: bool = False
) -> tuple[Life, Any]:
    volume = await opened(root, shared=shared)
    life = Life(volume)
    ended: BaseException | None = None
    with disturbed() as watch:
        watch.before = before
        # They are calls that can fail; what they do is told by other tests.
        watch.instead = {"fsync": lambda fd: None, "fdatasync": lambda fd: None}
        try:
            await life.run(pieces=pieces)
        except (KilledError, VolumeError) as error:
            ended = error
        watch.before = lambda name, args: None
        await volume.close()
    return life, ended


async def count_calls(root: Path, pieces: int, *, shared: bool = False) -> Disturbed:
    volume = await opened(root, shared=shared)
    with disturbed() as watch:
        await Life(volume).run(pieces=pieces)
    await volume.close()
    return watch


@pytest.mark.parametrize("pieces, shared", [(1, False), (2, False), (2, True)])
async def test_killed_between_any_two_calls_a_record_is_whole_and_no_byte_is_missing(
    tmp_path: Path, pieces: int, shared: bool
) -> None:
    """Also in the middle of a join, by name (one piece) or by copy (two)."""
    watch = await count_calls(tmp_path / "count", pieces, shared=shared)
    changing = len([name for name in watch.names() if name in {"open", "pwrite", "replace", "link"}])
    assert changing > 20
    killed = 0
    for number in range(len(watch.made)):
        life, ended = await disturbed_life(tmp_path / str(number), dying_at(number), pieces, shared=shared)
        killed += isinstance(ended, KilledError)
        await check(tmp_path / str(number), life, pieces)
        if ended is None:
            break
    assert killed > 50


@pytest.mark.parametrize("number_of_error, shared", [(errno.EIO, False), (errno.ENOSPC, False), (errno.EIO, True)])
async def test_whatever_call_fails_the_volume_says_so_and_works_on(
    tmp_path: Path, number_of_error: int, shared: bool
) -> None:
    """No error of the system leaves the volume under its own name, and nothing is left behind."""
    watch = await count_calls(tmp_path / "count", 2, shared=shared)
    failed = 0
    for number, name in enumerate(watch.names()):
        if number_of_error == errno.ENOSPC and name not in CHANGING:
            continue
        root = tmp_path / str(number)
        error = OSError(number_of_error, os.strerror(number_of_error))
        life, ended = await disturbed_life(root, failing_at(number, error), 2, shared=shared)
        failed += ended is not None
        assert ended is None or type(ended) in (VolumeFullError, VolumeUnavailableError)
        if life.stored is None:
            # A creation that failed can be repeated at once.
            assert not list((root / "uploads").glob("*/*"))
        await check(root, life, 2)
    assert failed > 40


async def test_no_file_call_is_made_on_the_event_loops_thread(tmp_path: Path) -> None:
    watch = await count_calls(tmp_path / "data", 2)
    assert threading.current_thread() not in watch.threads
    volume = open_directory(tmp_path / "data")
    with disturbed() as watch:
        for group in await volume.groups():
            await volume.ids_in(group)
        await volume.has_room(1)
        record = await owned_upload(volume)
        await put(volume, record.upload_id, "bytes.1", b"abc")
        await volume.measure(record, record.content)
        await volume.cut_back(record.upload_id, record.content, 1)
        await volume.adopt_segments(record.upload_id, record.upload_id, {"bytes.1": "from-0.bytes.1"})
        await volume.drop_segments(record.upload_id, ["bytes.1"])
        segment = await volume.open_segment(record.upload_id, "bytes.1", create=True, size=0, sync=True)
        await fill(segment, b"abc")
        await segment.cut_back(1)
        await segment.read_back(0, bytearray().extend)
        await segment.close()
        assert await volume.open_file(record) is None
        assert await volume.read(new_id(5)) is None
        assert await volume.find_key("no") is None
    assert threading.current_thread() not in watch.threads
    assert {"statvfs", "listdir", "truncate", "ftruncate", "pread", "link"} <= set(watch.names())
    await volume.close()


async def test_the_loop_goes_on_while_every_disk_call_hangs(volume: DirectoryVolume) -> None:
    record = await owned_upload(volume)
    segment = await volume.open_segment(record.upload_id, "bytes.1", create=True, size=0, sync=True)
    released = threading.Event()
    with disturbed() as watch:
        watch.before = lambda name, args: (released.wait(60), None)[1]
        calls = [
            asyncio.ensure_future(call)
            for call in (
                volume.write(record, sync=True),
                volume.read(record.upload_id),
                fill(segment, b"abc"),
                volume.has_room(1),
                # More than there are threads.
                *(volume.measure(record, record.content) for _ in range(8)),
            )
        ]
        for _ in range(1000):
            await asyncio.sleep(0)
        assert not [call for call in calls if call.done()]
        released.set()
        await asyncio.gather(*calls)
    await segment.close()


# -- what must be on the disk before what


async def steps_of(work: Callable[[], Any]) -> list[str]:
    """Return what *work* writes, syncs, names and drops, in order; each with the last step of its path."""
    steps: list[str] = []

    def name_of(fd: int) -> str:
        return os.readlink(f"/proc/self/fd/{fd}").rsplit("/", 1)[-1]

    def before(name: str, args: tuple[Any, ...]) -> None:
        if name in ("fsync", "fdatasync"):
            steps.append(f"sync {name_of(args[0])}")
        elif name == "pwrite":
            steps.append(f"write {name_of(args[0])}")
        elif name in ("replace", "link"):
            steps.append(f"name {Path(args[1]).name}")
        elif name == "unlink":
            steps.append(f"drop {Path(args[0]).name}")

    with disturbed() as watch:
        watch.before = before
        await work()
    return steps


async def test_a_record_is_on_the_disk_before_its_name_and_its_name_before_the_answer(
    volume: DirectoryVolume,
) -> None:
    record = await owned_upload(volume)
    steps = await steps_of(lambda: volume.write(record, sync=True))
    assert steps == ["write record.json.new", "sync record.json.new", "name record.json", f"sync {record.upload_id}"]
    # Without a sync the answer does not wait for the name; but the name never leads to less than the record.
    steps = await steps_of(lambda: volume.write(record, sync=False))
    assert steps == ["write record.json.new", "sync record.json.new", "name record.json"]


async def test_without_durability_nothing_is_synced(root: Path) -> None:
    volume = open_directory(root, durable=False)
    record = new_record()
    steps = await steps_of(lambda: volume.create(record))
    steps += await steps_of(lambda: volume.write(record, sync=False))
    steps += await steps_of(lambda: volume.bind_key("key", record.upload_id, instead_of=None))
    await put(volume, record.upload_id, "bytes.1", b"abc", sync=False)
    steps += await steps_of(lambda: volume.join(complete_record(record, ("bytes.1", 0, 3), volume=volume)))
    assert not [step for step in steps if step.startswith("sync")]
    await volume.close()


async def test_a_new_upload_is_on_the_disk_with_all_the_folders_above_it(volume: DirectoryVolume) -> None:
    first, second = new_record(1), new_record(1 + 62**2)
    assert volume.group_of(first.upload_id) == volume.group_of(second.upload_id)
    group = volume.group_of(first.upload_id)
    steps = await steps_of(lambda: volume.create(first))
    assert steps[-3:] == [f"sync {first.upload_id}", f"sync {group}", "sync uploads"]
    # Who finds the group there does not know whether it was synced; who has synced it does.
    steps = await steps_of(lambda: volume.create(second))
    assert steps[-2:] == [f"sync {second.upload_id}", f"sync {group}"]


async def test_a_segments_name_is_on_the_disk_before_anything_rests_on_it(volume: DirectoryVolume) -> None:
    record = await owned_upload(volume)

    async def append() -> None:
        await put(volume, record.upload_id, "bytes.1", b"abc")

    assert await steps_of(append) == [f"sync {record.upload_id}", "write bytes.1", "sync bytes.1"]


@pytest.mark.parametrize("pieces", [1, 2])
async def test_a_joined_file_is_on_the_disk_before_anybody_hears_of_it(volume: DirectoryVolume, pieces: int) -> None:
    record = await owned_upload(volume)
    for number in range(pieces):
        await put(volume, record.upload_id, f"bytes.{number + 1}", b"abc")
    whole = complete_record(record, *((f"bytes.{n + 1}", 0, 3) for n in range(pieces)), volume=volume)
    steps = await steps_of(lambda: volume.join(whole))
    by_name = ["sync bytes.1", f"name {record.upload_id}", "sync files"]
    by_copy = ["sync joined.1", f"name {record.upload_id}", "sync files"]
    last = [re.sub(r"(joined\.1)\.\w+", r"\1", step) for step in steps[-3:]]
    assert last == (by_name if pieces == 1 else by_copy)


async def test_the_record_goes_last(volume: DirectoryVolume) -> None:
    """While anything of an upload is there, it can be told what it is."""
    record = await owned_upload(volume)
    await put(volume, record.upload_id, "zzz.1", b"abc")
    await put(volume, record.upload_id, "bytes.1", b"abc")
    steps = await steps_of(lambda: volume.remove(record.upload_id))
    assert steps[-1] == "drop record.json"


# -- bytes


async def test_short_writes_are_gone_on_with(volume: DirectoryVolume) -> None:
    record = await owned_upload(volume)
    segment = await volume.open_segment(record.upload_id, "bytes.1", create=True, size=0, sync=True)
    real = os.pwrite
    with disturbed() as watch:
        watch.instead["pwrite"] = lambda fd, data, at: real(fd, bytes(data[:7]), at)
        await fill(segment, DATA)
        await volume.write(record, sync=True)
    await segment.close()
    assert (folder_of(volume, record) / "bytes.1").read_bytes() == DATA
    assert await volume.read(record.upload_id) == record


@pytest.mark.parametrize(
    "number, error",
    [
        (errno.ENOSPC, VolumeFullError),
        (errno.EDQUOT, VolumeFullError),
        (errno.EFBIG, VolumeFullError),
        (errno.EIO, VolumeUnavailableError),
        (errno.EROFS, VolumeUnavailableError),
        (errno.ESTALE, VolumeUnavailableError),
    ],
)
async def test_what_fitted_before_an_error_is_kept_and_told(
    volume: DirectoryVolume, number: int, error: type[VolumeError]
) -> None:
    record = await owned_upload(volume)
    segment = await volume.open_segment(record.upload_id, "bytes.1", create=True, size=0, sync=True)
    real = os.pwrite
    left = [100, 7, 0]

    def some(fd: int, data: Any, at: int) -> int:
        size = left.pop(0)
        if not size:
            raise OSError(number, os.strerror(number))
        return real(fd, bytes(data[:size]), at)

    seen = bytearray()
    with disturbed() as watch:
        watch.instead["pwrite"] = some
        with pytest.raises(error):
            await segment.take(Bytes(DATA), room=None, on_kept=lambda _: None, see=seen.extend)
    assert (segment.size, bytes(seen)) == (107, DATA[:107])
    await fill(segment, DATA[107:])
    await segment.close()
    assert (folder_of(volume, record) / "bytes.1").read_bytes() == DATA


async def test_bytes_that_could_not_be_deleted_are_forgotten_all_the_same(volume: DirectoryVolume) -> None:
    record = await owned_upload(volume)
    segment = await volume.open_segment(record.upload_id, "bytes.1", create=True, size=0, sync=True)
    await fill(segment, b"abcdef")
    with disturbed() as watch:
        watch.before = failing_at(0, OSError(errno.EIO, "Input/output error"))
        with pytest.raises(VolumeUnavailableError):
            await segment.cut_back(2)
    assert segment.size == 2
    await segment.close()
    segment = await volume.open_segment(record.upload_id, "bytes.1", create=False, size=2, sync=True)
    await fill(segment, b"X")
    await segment.close()
    assert (folder_of(volume, record) / "bytes.1").read_bytes() == b"abX"


async def test_a_segment_is_not_closed_under_a_write(volume: DirectoryVolume) -> None:
    """A cancelled append leaves its write in a thread: its descriptor must not become somebody else's."""
    record = await owned_upload(volume)
    segment = await volume.open_segment(record.upload_id, "bytes.1", create=True, size=0, sync=True)
    hold, entered = threading.Event(), threading.Event()

    def wait(name: str, args: tuple[Any, ...]) -> None:
        if name == "pwrite":
            entered.set()
            hold.wait(60)

    with disturbed() as watch:
        watch.before = wait
        append = asyncio.ensure_future(fill(segment, b"abc"))
        await asyncio.get_running_loop().run_in_executor(None, entered.wait)
        append.cancel()
        with pytest.raises(asyncio.CancelledError):
            await append
        closing = asyncio.ensure_future(segment.close())
        await asyncio.sleep(0)
        assert not closing.done()
        hold.set()
        await closing
    assert (folder_of(volume, record) / "bytes.1").read_bytes() == b"abc"


# -- joining


async def test_one_segment_becomes_the_file_without_a_copy(volume: DirectoryVolume) -> None:
    record = await owned_upload(volume)
    await put(volume, record.upload_id, "bytes.1", DATA)
    segment = folder_of(volume, record) / "bytes.1"
    whole = complete_record(record, ("bytes.1", 0, len(DATA)), volume=volume)
    await volume.join(whole)
    path = volume.path_of(whole)
    assert path == (volume.root / "files" / record.upload_id).absolute()
    assert path.samefile(segment)


@pytest.mark.parametrize("number", [errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL])
async def test_where_the_kernel_does_not_copy_the_program_does(volume: DirectoryVolume, number: int) -> None:
    record = await owned_upload(volume)
    await put(volume, record.upload_id, "bytes.1", DATA)
    await put(volume, record.upload_id, "bytes.2", DATA[::-1])
    whole = complete_record(record, ("bytes.1", 5, len(DATA) - 5), ("bytes.2", 0, 9), volume=volume)

    def not_here(*args: Any) -> int:
        raise OSError(number, os.strerror(number))

    with disturbed() as watch:
        watch.instead["copy_file_range"] = not_here
        await volume.join(whole)
    assert await whole_file(volume, whole) == DATA[5:] + DATA[::-1][:9]


async def test_a_file_of_another_attempt_is_replaced(volume: DirectoryVolume) -> None:
    record = await owned_upload(volume)
    await put(volume, record.upload_id, "bytes.1", b"right")
    (volume.root / "files" / record.upload_id).write_bytes(b"left behind")
    (volume.root / "files" / f"{record.upload_id}.new").write_bytes(b"half a copy")
    whole = complete_record(record, ("bytes.1", 0, 5), volume=volume)
    await volume.join(whole)
    assert await whole_file(volume, whole) == b"right"
    await volume.drop_bytes(whole, file_too=True)
    assert list((volume.root / "files").iterdir()) == []


@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.parametrize("mode", [0o640, 0o660, 0o444])
async def test_a_file_has_the_mode_that_was_configured(root: Path, mode: int, pieces: int) -> None:
    volume = open_directory(root, file_mode=mode)
    record = await owned_upload(volume)
    for number in range(pieces):
        await put(volume, record.upload_id, f"bytes.{number + 1}", b"abc")
    await volume.join(complete_record(record, *((f"bytes.{n + 1}", 0, 3) for n in range(pieces)), volume=volume))
    path = root / "files" / record.upload_id
    assert stat.S_IMODE(path.stat().st_mode) == mode
    await volume.close()


@pytest.mark.root
@pytest.mark.parametrize("pieces", [1, 2])
async def test_a_file_has_the_group_that_was_configured(root: Path, pieces: int) -> None:
    """And the group gets to it: through the data directory, without seeing what else is there."""
    volume = open_directory(root, file_group=12345)
    record = await owned_upload(volume)
    for number in range(pieces):
        await put(volume, record.upload_id, f"bytes.{number + 1}", b"abc")
    await volume.join(complete_record(record, *((f"bytes.{n + 1}", 0, 3) for n in range(pieces)), volume=volume))
    groups = {path.name: path.stat().st_gid for path in (root, root / "files", root / "files" / record.upload_id)}
    assert set(groups.values()) == {12345}
    assert stat.S_IMODE(root.stat().st_mode) == 0o710
    assert (root / "uploads").stat().st_gid != 12345
    await volume.close()


async def test_a_file_that_the_app_has_moved_away_is_not_there(volume: DirectoryVolume, tmp_path: Path) -> None:
    record = await owned_upload(volume)
    await put(volume, record.upload_id, "bytes.1", b"abc")
    whole = complete_record(record, ("bytes.1", 0, 3), volume=volume)
    await volume.join(whole)
    path = volume.path_of(whole)
    assert path is not None
    path.rename(tmp_path / "taken")
    assert await volume.open_file(whole) is None
    await volume.drop_bytes(whole, file_too=True)
    assert (tmp_path / "taken").read_bytes() == b"abc"


# -- records that are damaged


@pytest.mark.parametrize("content", [b"", b"\0" * 512, b"{", b'{"format": 99}'])
async def test_a_damaged_record_is_neither_believed_nor_missing(volume: DirectoryVolume, content: bytes) -> None:
    record = await owned_upload(volume)
    path = folder_of(volume, record) / "record.json"
    path.write_bytes(content)
    with pytest.raises(RecordUnreadableError, match=r"record\.json"):
        await volume.read(record.upload_id)
    assert path.read_bytes() == content
    assert await volume.ids_in(volume.group_of(record.upload_id)) == [record.upload_id]


async def test_what_a_crash_left_of_a_record_does_not_disturb_the_next(volume: DirectoryVolume) -> None:
    record = await owned_upload(volume)
    (folder_of(volume, record) / "record.json.new").write_bytes(b"half a reco")
    changed = dataclasses.replace(record, expires_at=9.0)
    await volume.write(changed, sync=True)
    assert await volume.read(record.upload_id) == changed
    assert not (folder_of(volume, record) / "record.json.new").exists()


async def test_what_a_person_has_put_there_is_no_upload(volume: DirectoryVolume) -> None:
    record = await owned_upload(volume)
    group = folder_of(volume, record).parent
    (group / "notes.txt").write_text("")
    (group / "lost+found").mkdir()
    assert await volume.ids_in(group.name) == [record.upload_id]


@pytest.mark.parametrize("content", [b"", b"\xff\xff", b"../../etc/passwd\n", b"x" * 55 + b"!"])
async def test_a_damaged_key_leads_nowhere_and_is_forgotten(volume: DirectoryVolume, content: bytes) -> None:
    await volume.bind_key("key", new_id(), instead_of=None)
    (path,) = (volume.root / "keys").glob("*/*")
    path.write_bytes(content)
    assert await volume.find_key("key") is None
    await volume.bind_key("key", new_id(), instead_of=None)
    assert await volume.find_key("key") == new_id()


# -- volumes that are not what they were


async def test_a_directory_that_vanishes_makes_nothing_unknown(volume: DirectoryVolume, tmp_path: Path) -> None:
    """An unmounted disk: no upload is said not to be there, none is made in the empty place, and all come back."""
    record = await owned_upload(volume)
    await put(volume, record.upload_id, "bytes.1", b"abc")
    await volume.bind_key("key", record.upload_id, instead_of=None)
    volume.root.rename(tmp_path / "away")
    whole = complete_record(record, ("bytes.1", 0, 3), volume=volume)
    attempts: list[Callable[[], Any]] = [
        lambda: volume.read(record.upload_id),
        lambda: volume.read(new_id(9)),
        lambda: volume.create(new_record(9)),
        lambda: volume.write(record, sync=True),
        lambda: volume.measure(record, record.content),
        lambda: volume.open_segment(record.upload_id, "bytes.1", create=True, size=0, sync=True),
        lambda: volume.join(whole),
        lambda: volume.open_file(whole),
        lambda: volume.find_key("key"),
        lambda: volume.bind_key("key", record.upload_id, instead_of=None),
        lambda: volume.has_room(1),
        volume.groups,
        lambda: volume.ids_in(volume.group_of(record.upload_id)),
    ]
    for attempt in attempts:
        with pytest.raises(VolumeUnavailableError):
            await attempt()
    volume.root.mkdir()
    for attempt in attempts[:-3]:
        with pytest.raises(VolumeUnavailableError):
            await attempt()
    assert list(volume.root.iterdir()) == []
    volume.root.rmdir()
    (tmp_path / "away").rename(volume.root)
    assert await volume.read(record.upload_id) == record
    assert await volume.measure(record, record.content) == 3
    assert await volume.read(new_id(9)) is None
    await volume.create(new_record(9))


async def test_another_volume_in_its_place_is_noticed(volume: DirectoryVolume, tmp_path: Path) -> None:
    record = await owned_upload(volume)
    other = DirectoryVolume.open(tmp_path / "other", new_id="Another00001", holder={}, options=volume._options)
    await other.close()
    volume.root.rename(tmp_path / "away")
    (tmp_path / "other").rename(volume.root)
    for attempt in (
        lambda: volume.read(record.upload_id),
        lambda: volume.create(new_record(9)),
        lambda: volume.measure(record, record.content),
        lambda: volume.ids_in(volume.group_of(record.upload_id)),
    ):
        with pytest.raises(VolumeUnavailableError, match="another volume"):
            await attempt()
    assert not list((volume.root / "uploads").iterdir())


@pytest.mark.root
async def test_a_read_only_volume_is_read(volume: DirectoryVolume) -> None:
    record = await owned_upload(volume)
    await put(volume, record.upload_id, "bytes.1", b"abc")
    volume._kept_open.drop(record.upload_id)
    with read_only(volume.root):
        assert await volume.read(record.upload_id) == record
        assert await volume.measure(record, record.content) == 3
        for attempt in (
            volume.write(record, sync=True),
            volume.create(new_record(9)),
            volume.open_segment(record.upload_id, "bytes.1", create=False, size=3, sync=True),
            volume.remove(record.upload_id),
            volume.bind_key("key", record.upload_id, instead_of=None),
        ):
            with pytest.raises(VolumeUnavailableError, match="Read-only"):
                await attempt
    await volume.write(record, sync=True)


@pytest.mark.root
async def test_a_full_disk_keeps_what_is_there_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 2 * 1024 * 1024) as disk:
        volume = open_directory(disk / "data")
        record = await owned_upload(volume)
        segment = await volume.open_segment(record.upload_id, "bytes.1", create=True, size=0, sync=True)
        block = os.urandom(64 * 1024)
        # As is not told beforehand; else room would be asked for.
        body = Bytes(*[block] * 64, cut=CutReason.CLIENT)
        with pytest.raises(VolumeFullError):
            await segment.take(body, room=None, on_kept=lambda _: None)
        assert 1024 * 1024 < segment.size < 2 * 1024 * 1024
        await segment.close()
        assert await volume.measure(record, record.content) == segment.size
        for _ in range(3):
            with pytest.raises(VolumeFullError):
                await volume.write(dataclasses.replace(record, create_id="x" * 9000), sync=True)
            with pytest.raises(VolumeFullError):
                await volume.create(dataclasses.replace(new_record(9), create_id="x" * 9000))
        assert await volume.read(record.upload_id) == record
        assert await volume.read(new_id(9)) is None
        assert not await volume.has_room(1024 * 1024)
        # A daemon that starts on a full disk can hand files over, and so make room.
        await volume.close()
        volume = open_directory(disk / "data")
        assert await volume.measure(record, record.content) == segment.size
        await volume.join(complete_record(record, ("bytes.1", 0, 100), volume=volume))
        resize(disk, 8 * 1024 * 1024)
        assert await volume.has_room(1024 * 1024)
        await volume.create(new_record(9))
        await volume.close()


async def test_the_reserve_is_left_free(root: Path) -> None:
    status = os.statvfs(root.parent)
    free = status.f_bavail * status.f_frsize
    volume = open_directory(root, reserve_bytes=free // 2)
    assert await volume.has_room(free // 4)
    assert not await volume.has_room(free * 3 // 4)
    await volume.close()


async def test_an_upload_that_exists_is_not_made_again_by_a_failing_creation(volume: DirectoryVolume) -> None:
    record = await owned_upload(volume)
    await put(volume, record.upload_id, "bytes.1", b"abc")
    with pytest.raises(UploadExistsError):
        await volume.create(new_record())
    assert await volume.measure(record, record.content) == 3


async def test_the_boot_id_is_the_kernels(volume: DirectoryVolume) -> None:
    assert volume.boot_id == boot_id() == Path("/proc/sys/kernel/random/boot_id").read_text().strip()


async def test_segments_of_parts_and_of_other_uploads_are_deleted_with_the_bytes(volume: DirectoryVolume) -> None:
    record, source = await owned_upload(volume, 1), await owned_upload(volume, 2)
    await put(volume, source.upload_id, "bytes.1", b"abc")
    for name in ("bytes.1", "bytes.12", "part-p.1"):
        await put(volume, record.upload_id, name, b"abc")
    await volume.adopt_segments(record.upload_id, source.upload_id, {"bytes.1": "from-0.bytes.1"})
    await volume.drop_bytes(record, file_too=True)
    assert [path.name for path in folder_of(volume, record).iterdir()] == ["record.json"]
    assert await volume.measure(source, Content().grown_by("bytes.1", volume.id, 0)) == 3


# -- many at once


async def _many_segments(volume: DirectoryVolume, count: int) -> list[FileSegment]:
    segments = []
    for number in range(count):
        record = await owned_upload(volume, number)
        segment = await volume.open_segment(record.upload_id, "bytes.1", create=True, size=0, sync=False)
        await fill(segment, DATA)
        segments.append(segment)
    return segments


async def test_syncs_of_many_uploads_keep_nobody_from_the_volume(root: Path) -> None:
    """They share a few threads of their own, in groups; each upload is synced, and only then told so."""
    volume = open_directory(root, threads=2)
    segments = await _many_segments(volume, 40)
    go_on = threading.Event()
    with disturbed() as watch:

        def before(name: str, args: tuple[Any, ...]) -> None:
            if name == "fdatasync":
                go_on.wait()

        watch.before = before
        syncs = [asyncio.ensure_future(segment.sync()) for segment in segments]
        # A record is read, and a segment written, while all of them wait.
        assert await volume.read(new_id(7)) is not None
        other = await volume.open_segment(new_id(7), "bytes.2", create=True, size=0, sync=False)
        await fill(other, DATA)
        assert not any(sync.done() for sync in syncs)
        go_on.set()
        await asyncio.gather(*syncs)
        synced = {args[0] for name, args in watch.made if name == "fdatasync"}
        assert synced == {segment._fd for segment in segments}
        assert len({thread for thread in watch.threads if thread.name.startswith("sync")}) <= SYNCERS
    for segment in [*segments, other]:
        await segment.close()
    await volume.close()


async def test_of_a_group_that_is_synced_only_those_fail_that_failed(root: Path) -> None:
    volume = open_directory(root)
    segments = await _many_segments(volume, 20)
    bad = {segment._fd for segment in segments[::3]}

    def before(name: str, args: tuple[Any, ...]) -> None:
        if name == "fdatasync" and args[0] in bad:
            raise OSError(errno.EIO, "Input/output error")

    with disturbed() as watch:
        watch.before = before
        results = await asyncio.gather(*(segment.sync() for segment in segments), return_exceptions=True)
    assert [type(result) for result in results] == [
        VolumeUnavailableError if segment._fd in bad else type(None) for segment in segments
    ]
    for segment in segments:
        await segment.close()
    await volume.close()


async def test_a_segment_is_not_closed_under_its_sync(root: Path) -> None:
    """Whoever asked for it may be gone; the descriptor is nobody else's before."""
    volume = open_directory(root)
    (segment,) = await _many_segments(volume, 1)
    began, go_on = threading.Event(), threading.Event()

    def before(name: str, args: tuple[Any, ...]) -> None:
        if name == "fdatasync":
            began.set()
            go_on.wait()

    with disturbed() as watch:
        watch.before = before
        syncing = asyncio.ensure_future(segment.sync())
        await asyncio.to_thread(began.wait)
        syncing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await syncing
        closing = asyncio.ensure_future(segment.close())
        await asyncio.sleep(0)
        assert not closing.done()
        go_on.set()
        await closing
    await volume.close()


async def test_room_that_was_reserved_does_not_stay_with_the_complete_file(root: Path) -> None:
    volume = open_directory(root)
    record = await owned_upload(volume)
    await put(volume, record.upload_id, "bytes.1", DATA)
    path = root / "uploads" / record.upload_id[:2] / record.upload_id / "bytes.1"
    with path.open("r+b") as file:
        if not reserve(file.fileno(), len(DATA), 8 * 1024 * 1024):
            pytest.skip("this file system reserves nothing")
    await volume.join(complete_record(record, ("bytes.1", 0, len(DATA)), volume=volume))
    joined = (root / "files" / record.upload_id).stat()
    assert (joined.st_size, joined.st_blocks * 512 < 1024 * 1024) == (len(DATA), True)
    await volume.close()


async def test_threads_that_move_bytes_stand_behind_the_event_loop(root: Path) -> None:
    """With one processor, eight uploads at full speed and no such order, a question waits for all of their turns."""
    volume = open_directory(root)
    try:
        for mover in (volume._splicer, volume._seer):
            if mover is not None:
                loop = asyncio.get_running_loop()
                theirs = await loop.run_in_executor(mover.pool, os.getpriority, os.PRIO_PROCESS, 0)
                assert theirs == min(os.getpriority(os.PRIO_PROCESS, 0) + splicing.NICENESS, 19)
    finally:
        await volume.close()


async def appended(volume: DirectoryVolume, upload_id: str, data: bytes, *, size: int) -> None:
    """Append *data* behind *size* bytes, by a segment of its own."""
    segment = await volume.open_segment(upload_id, "bytes.1", create=size == 0, size=size, sync=False)
    await segment.take(Bytes(data), room=None, on_kept=lambda _: None)
    await segment.close()


def open_files(folder: Path) -> list[str]:
    """Return what this process has open below *folder*."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
    return [path for path in found if path.startswith(f"{folder}/uploads/")]


async def until_open(volume: DirectoryVolume, count: int) -> None:
    """Wait until just *count* files of uploads are open."""
    async with asyncio.timeout(10):
        while len(open_files(volume.root)) != count:
            await asyncio.sleep(0.001)


async def test_a_segment_stays_open_between_small_pieces_and_is_closed_with_its_upload(volume: DirectoryVolume) -> None:
    """The next piece needs no look at the directory; and nothing stays open of what is deleted."""
    record = await owned_upload(volume)
    await appended(volume, record.upload_id, b"", size=0)
    await appended(volume, record.upload_id, b"abc", size=0)
    assert len(open_files(volume.root)) == 1
    await appended(volume, record.upload_id, b"def", size=3)
    assert await volume.read_range(record.upload_id, "bytes.1", 0, 9) == b"abcdef"
    await volume.remove(record.upload_id)
    await until_open(volume, 0)


async def test_an_open_segment_is_looked_at_again_before_its_next_piece(volume: DirectoryVolume) -> None:
    """What was written behind its end is cut off; what has lost bytes, or its name, is not appended to."""
    record = await owned_upload(volume)
    await appended(volume, record.upload_id, b"abc", size=0)
    path = volume._folder(record.upload_id) / "bytes.1"
    path.write_bytes(b"abc and more")
    await appended(volume, record.upload_id, b"def", size=3)
    assert path.read_bytes() == b"abcdef"
    os.truncate(path, 2)
    with pytest.raises(VolumeUnavailableError, match="has 2 bytes of 6"):
        await appended(volume, record.upload_id, b"ghi", size=6)
    os.truncate(path, 6)
    await appended(volume, record.upload_id, b"ghi", size=6)
    path.unlink()
    with pytest.raises(VolumeUnavailableError):
        await appended(volume, record.upload_id, b"jkl", size=9)


async def test_a_segment_of_which_a_write_has_failed_does_not_stay_open(volume: DirectoryVolume) -> None:
    """What the kernel told of it once it would not tell again."""
    record = await owned_upload(volume)
    segment = await volume.open_segment(record.upload_id, "bytes.1", create=True, size=0, sync=False)
    with pytest.raises(BodyCutError):
        await segment.take(Bytes(b"abc", cut=CutReason.CLIENT), room=None, on_kept=lambda _: None)
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, segment._fd)
    os.close(full)
    with pytest.raises(VolumeFullError):
        await segment.take(Bytes(b"def"), room=None, on_kept=lambda _: None)
    await segment.close()
    assert len(volume._kept_open) == 0


async def test_no_more_segments_stay_open_than_a_few(volume: DirectoryVolume, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_open, "KEPT_MAX", 2)
    records = [await owned_upload(volume, number) for number in range(1, 5)]
    for record in records:
        await appended(volume, record.upload_id, b"abc", size=0)
    await until_open(volume, 2)


async def test_a_segment_is_closed_when_nobody_asks_for_it_any_more(
    volume: DirectoryVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_open, "KEPT_S", 0.01)
    record = await owned_upload(volume)
    await appended(volume, record.upload_id, b"abc", size=0)
    await until_open(volume, 0)


async def test_however_often_a_segment_is_asked_for_its_name_is_looked_up_anew_at_times(
    volume: DirectoryVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else small pieces would go on for ever into a volume that was moved away."""
    monkeypatch.setattr(kept_open, "KEPT_S", 600.0)
    monkeypatch.setattr(kept_open, "OPEN_S", 0.0)
    record = await owned_upload(volume)
    await appended(volume, record.upload_id, b"abc", size=0)
    await until_open(volume, 0)
