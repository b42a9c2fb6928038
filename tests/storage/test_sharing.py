"""A directory that instances share: claims as files, runs that are over, and who may share it at all."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import fcntl
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import pytest_asyncio

from incomingd.core import codec
from incomingd.core.tenure import Identity
from incomingd.storage.directory import DirectoryVolume, keys, lock, opening, runs
from incomingd.storage.directory.files import boot_id
from incomingd.storage.directory.mounts import Mount, mount_of
from incomingd.storage.volume import (
    ClaimTakenError,
    RecordUnreadableError,
    VolumeFullError,
    VolumeLockedError,
    VolumeUnavailableError,
)
from tests.storage.disturbed import disturbed, failing_at
from tests.storage.volumes import (
    ME,
    VOLUME_ID,
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
from tests.support.machine import ROOT, small_disk
from tests.support.xfs import reason_to_skip, xfs_disk

OTHER = Identity("other", "start-2")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest_asyncio.fixture
async def volume(root: Path) -> AsyncIterator[DirectoryVolume]:
    volume = open_directory(root, shared=True, start_id="start-1")
    yield volume
    await volume.close()


def folder_of(volume: DirectoryVolume) -> Path:
    return volume.root / "uploads" / new_id()[:2] / new_id()


# -- opening


async def test_a_shared_volume_says_that_claims_are_files(root: Path) -> None:
    volume = open_directory(root, shared=True, start_id="start-1")
    await volume.close()
    assert json.loads((root / "volume.json").read_text()) == {"format": 2, "id": VOLUME_ID, "claims": "files"}


@pytest.mark.parametrize("said", [{"format": 2}, {"format": 1, "claims": "files"}, {"format": 2, "claims": "else"}])
async def test_a_mark_that_contradicts_itself_is_not_believed(root: Path, said: dict[str, object]) -> None:
    root.mkdir()
    (root / "volume.json").write_text(json.dumps({"id": VOLUME_ID, **said}))
    for shared in (True, False):
        with pytest.raises(VolumeUnavailableError, match=r"volume\.json is of format"):
            open_directory(root, shared=shared, start_id="start-1")


async def test_nothing_is_left_of_the_probes(volume: DirectoryVolume) -> None:
    second = open_directory(volume.root, shared=True, start_id="start-2")
    assert {path.name for path in volume.root.iterdir()} == {
        "volume.json", "lock", "instances", "uploads", "keys", "files",
    }  # fmt: skip
    assert list((volume.root / "files").iterdir()) == []
    await second.close()


async def test_what_a_killed_opening_left_of_its_probes_is_deleted(root: Path) -> None:
    await open_directory(root).close()
    for name in (".probe.0123", ".probe.4567"):
        (root / name).mkdir()
        (root / name / "looked-for").write_text("")
    (root / ".probe.0123.file").write_text("")
    await open_directory(root, shared=True, start_id="start-1").close()
    assert not list(root.glob(".probe*"))


async def test_who_wants_it_alone_is_told_who_shares_it(volume: DirectoryVolume) -> None:
    holder: dict[str, object] = {"instance": "second:4000", "pid": 77}
    second = DirectoryVolume.open(
        volume.root, new_id=VOLUME_ID, holder=holder, options=volume._options, shared=True, start_id="start-2"
    )
    with pytest.raises(VolumeLockedError, match=r"in use by instance second:4000, pid 77; instance test, pid 1$"):
        open_directory(volume.root)
    await volume.close()
    with pytest.raises(VolumeLockedError, match=r"in use by instance second:4000, pid 77$"):
        open_directory(volume.root)
    await second.close()
    await open_directory(volume.root).close()


async def test_who_wants_to_share_it_is_told_who_has_it_alone(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "SAYING_S", 0.05)
    alone = open_directory(root)
    with pytest.raises(VolumeLockedError, match=r"in use by instance test, pid 1$"):
        open_directory(root, shared=True, start_id="start-2")
    assert json.loads((root / "volume.json").read_text())["format"] == 1
    await alone.close()


async def test_a_shared_opening_that_fails_gives_the_lock_back(root: Path) -> None:
    """Whatever call it fails at; nothing but a volume's own error comes out, and the run is not taken for alive."""
    with disturbed() as watch:
        await open_directory(root, shared=True, start_id="run-0").close()
        count = len(watch.made)
    assert count > 100
    for number in range(0, count, 7):
        with disturbed() as watch:
            watch.before = failing_at(number, OSError(errno.EIO, "Input/output error"))
            with contextlib.suppress(VolumeUnavailableError):
                await open_directory(root, shared=True, start_id=f"run-{number}").close()
    volume = open_directory(root)
    assert not list((root / "instances").glob("*.lock"))
    await volume.close()


async def test_the_mark_is_made_by_one_who_is_alone(root: Path) -> None:
    with pytest.raises(VolumeUnavailableError, match="does not say so"):
        opening.mark_shared(root, VOLUME_ID, alone=False)
    assert not (root / "volume.json").exists()


OPEN = """
import asyncio, sys
from pathlib import Path
from incomingd.core.tenure import Claim, ClaimKind, Identity
from incomingd.storage.directory import DirectoryOptions, DirectoryVolume
from incomingd.storage.volume import ClaimTakenError

def open_it(root, start_id):
    holder = {"instance": start_id}
    options = DirectoryOptions(durable=False)
    return DirectoryVolume.open(
        Path(root), new_id="Volume000001", holder=holder, options=options, shared=True, start_id=start_id
    )

"""
HOLD = """
volume = open_it(*sys.argv[1:])
print("held", flush=True)
sys.stdin.read()
"""
RACE = """
async def main(root, start_id, upload_id, epochs):
    volume = open_it(root, start_id)
    print("ready", flush=True)
    sys.stdin.readline()
    won = []
    while True:
        standing = await volume.standing(upload_id)
        if standing.epoch >= int(epochs):
            break
        me = Identity("one", start_id)
        claim = Claim(standing.epoch + 1, me, f"{start_id}.{len(won)}", volume.id, ClaimKind.PULL)
        try:
            await volume.claim(upload_id, claim)
        except ClaimTakenError:
            continue
        won.append(claim.epoch)
        assert not await volume.look(upload_id, claim.epoch - 1)
    await volume.close()
    print(won, flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


@contextlib.contextmanager
def process(program: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    running = subprocess.Popen(
        [sys.executable, "-c", OPEN + program, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    try:
        yield running
    finally:
        running.kill()
        running.wait()
        for stream in (running.stdin, running.stdout):
            assert stream is not None
            stream.close()


def line_of(running: subprocess.Popen[str]) -> str:
    assert running.stdout is not None
    return running.stdout.readline()


async def test_of_claims_that_processes_race_for_each_has_one_winner(root: Path) -> None:
    """They open the volume at the same time, too, the first of them converting it."""
    alone = open_directory(root)
    await alone.create(new_record())
    await alone.close()
    epochs = 120
    with contextlib.ExitStack() as stack:
        racers = [stack.enter_context(process(RACE, str(root), f"run-{n}", new_id(), str(epochs))) for n in range(4)]
        assert [line_of(racer) for racer in racers] == ["ready\n"] * 4
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("go\n")
            racer.stdin.flush()
        won = [json.loads(line_of(racer)) for racer in racers]
    assert sorted(epoch for each in won for epoch in each) == list(range(1, epochs + 1))
    assert sum(1 for each in won if each) > 1, "nobody raced"
    volume = open_directory(root, shared=True, start_id="start-1")
    for number, each in enumerate(won):
        for epoch in each:
            claim = codec.decode_claim((folder_of(volume) / f"claim.{epoch}.json").read_bytes())
            assert claim.owner.start_id == f"run-{number}"
    assert not list(folder_of(volume).glob("*.new"))
    await volume.close()


async def test_a_killed_run_is_gone_and_a_frozen_one_is_not(volume: DirectoryVolume) -> None:
    """Also when it was killed while it was frozen; and it stays gone when its traces have been swept."""
    with process(HOLD, str(volume.root), "start-2") as holder:
        assert line_of(holder) == "held\n"
        assert not await volume.gone(OTHER)
        holder.send_signal(signal.SIGSTOP)
        assert not await volume.gone(OTHER)
        holder.kill()
        holder.wait()
        assert await volume.gone(OTHER)
    third = open_directory(volume.root, shared=True, start_id="start-3")
    assert sorted(path.name for path in (volume.root / "instances").iterdir()) == [
        "start-1.lock", "start-2.over", "start-3.lock",
    ]  # fmt: skip
    assert await volume.gone(OTHER)
    assert await third.gone(OTHER)
    assert not await third.gone(ME)
    await third.close()


# -- runs


def other_runs(volume: DirectoryVolume, *, boot: str, network: bool) -> runs.Runs:
    return runs.Runs(volume.root / "instances", boot_id=boot, network=network)


async def test_on_a_network_a_free_lock_shows_nothing_of_another_kernels_run(volume: DirectoryVolume) -> None:
    """The server may have given its locks away while it was cut off; it lives and goes on when the network is back."""
    with process(HOLD, str(volume.root), "start-2") as holder:
        assert line_of(holder) == "held\n"
        for boot in (boot_id(), "of another kernel"):
            assert not other_runs(volume, boot=boot, network=True).gone("start-2")
    assert other_runs(volume, boot="of another kernel", network=False).gone("start-2")
    assert other_runs(volume, boot=boot_id(), network=True).gone("start-2")
    assert not other_runs(volume, boot="of another kernel", network=True).gone("start-2")
    # Nor of one that came by another mount, the locks of which may end there.
    path = volume.root / "instances" / "start-2.lock"
    said = json.loads(path.read_text())
    path.write_text(json.dumps(said | {"device": said["device"] + 1}))
    assert not other_runs(volume, boot=boot_id(), network=True).gone("start-2")
    path.write_text(json.dumps(said))
    # Whom its own kernel has shown to be gone is gone for all.
    other_runs(volume, boot=boot_id(), network=True).sweep()
    assert other_runs(volume, boot="of another kernel", network=True).gone("start-2")


@pytest.mark.parametrize("said", [b"", b"\xff", b"[]", b"{", b'{"boot_id": 5}'])
async def test_a_run_whose_file_says_nothing_is_gone_only_where_the_lock_shows_it(
    volume: DirectoryVolume, said: bytes
) -> None:
    (volume.root / "instances" / "start-9.lock").write_bytes(said)
    assert other_runs(volume, boot=boot_id(), network=False).gone("start-9")
    assert not other_runs(volume, boot=boot_id(), network=True).gone("start-9")


async def test_a_deleted_file_makes_nobody_gone(volume: DirectoryVolume) -> None:
    second = open_directory(volume.root, shared=True, start_id="start-2")
    for path in (volume.root / "instances").iterdir():
        path.unlink()
    assert not await volume.gone(OTHER)
    assert not await second.gone(ME)
    await second.close()


async def test_of_very_many_runs_that_are_over_the_last_ones_are_remembered(
    volume: DirectoryVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "OVER_MAX", 3)
    directory = volume.root / "instances"
    for number in range(6):
        path = directory / f"old-{number}.{'over' if number % 2 else 'lock'}"
        path.write_text("{}")
        os.utime(path, (number, number))
    (directory / ".old.new").write_text("")
    (directory / "somebodys notes").write_text("")
    other_runs(volume, boot="of another kernel", network=True).sweep()
    left = sorted(path.name for path in directory.iterdir())
    assert left == ["old-4.lock", "old-5.over", "somebodys notes", "start-1.lock"]


async def test_held_alone_others_are_gone_but_not_those_of_another_kernel_on_a_network(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = open_directory(root, start_id="start-1")
    assert await volume.gone(OTHER)
    await volume.close()
    as_network(monkeypatch)
    volume = open_directory(root, start_id="start-3")
    assert not await volume.gone(OTHER)
    assert await volume.gone(ME)
    await volume.close()


# -- claims


async def test_a_claim_is_on_the_disk_before_its_name_and_its_name_before_the_answer(volume: DirectoryVolume) -> None:
    await volume.create(new_record())
    steps: list[str] = []

    def before(name: str, args: tuple[Any, ...]) -> None:
        if name in ("fsync", "fdatasync"):
            steps.append(f"sync {Path(os.readlink(f'/proc/self/fd/{args[0]}')).name}")
        elif name == "link":
            steps.append(f"link {Path(args[1]).name}")

    with disturbed() as watch:
        watch.before = before
        await volume.claim(new_id(), claimed(new_record(), volume)[0])
    assert [re.sub(r"json\..*", "json.new", step) for step in steps] == [
        "sync claim.1.json.new", "link claim.1.json", f"sync {new_id()}",
    ]  # fmt: skip
    assert sorted(path.name for path in folder_of(volume).iterdir()) == ["claim.1.json", "record.0.json"]


@pytest.mark.parametrize("number", [errno.EEXIST, errno.EIO])
async def test_an_answer_that_was_lost_is_settled_by_reading(volume: DirectoryVolume, number: int) -> None:
    """A network file system may do what was asked, and say that it failed, or that it was done already."""
    await volume.create(new_record())
    claim, _ = claimed(new_record(), volume)
    real = os.link

    def linked(*args: Any) -> None:
        real(*args)
        raise OSError(number, os.strerror(number))

    with disturbed() as watch:
        watch.instead["link"] = linked
        await volume.claim(new_id(), claim)
        assert await volume.bind_key("key", new_id(), instead_of=None) == new_id()
    standing = await volume.standing(new_id())
    assert standing is not None
    assert standing.claim == claim


async def test_a_claim_that_failed_is_not_made(volume: DirectoryVolume) -> None:
    await volume.create(new_record())
    claim, _ = claimed(new_record(), volume)
    for name, number, error in (
        ("link", errno.EIO, VolumeUnavailableError),
        ("pwrite", errno.ENOSPC, VolumeFullError),
        ("fdatasync", errno.EIO, VolumeUnavailableError),
    ):

        def failing(*args: Any, number: int = number) -> None:
            raise OSError(number, os.strerror(number))

        with disturbed() as watch:
            watch.instead[name] = failing
            with pytest.raises(error):
                await volume.claim(new_id(), claim)
        assert [path.name for path in folder_of(volume).iterdir()] == ["record.0.json"]
    await volume.claim(new_id(), claim)


async def test_the_exclusive_creation_decides_not_a_look_before_it(volume: DirectoryVolume) -> None:
    """Another host's claim comes in the moment between."""
    await volume.create(new_record())
    real = os.link
    other = claimed(new_record(), volume, owner=OTHER)[0]

    def too_late(source: Path, target: Path) -> None:
        target.write_bytes(codec.encode_claim(other))
        real(source, target)

    with disturbed() as watch:
        watch.instead["link"] = too_late
        with pytest.raises(ClaimTakenError):
            await volume.claim(new_id(), claimed(new_record(), volume)[0])
    standing = await volume.standing(new_id())
    assert standing is not None
    assert standing.claim == other


async def test_a_record_that_is_replaced_while_it_is_read_is_read_again(volume: DirectoryVolume) -> None:
    record = await owned_upload(volume)
    claim, record_2 = claimed(record, volume)
    second = open_directory(volume.root, shared=True, start_id="start-2")

    def replaced(name: str, args: tuple[Any, ...]) -> None:
        if name == "open" and Path(args[0]).name == "record.1.json":
            watch.before = lambda name, args: None
            second._claim(new_id(), claim)
            second._write(record_2, sync=True)

    for read in (second.read, second.standing):
        with disturbed() as watch:
            watch.before = replaced
            found = await read(new_id())
        assert found is not None
        assert getattr(found, "record", found) == record_2
    await second.close()


@pytest.mark.parametrize("content", [b"", b"\0" * 300, b"{", b'{"format": 9}'])
async def test_a_damaged_claim_is_neither_believed_nor_replaced(volume: DirectoryVolume, content: bytes) -> None:
    record = await owned_upload(volume)
    path = folder_of(volume) / "claim.2.json"
    path.write_bytes(content)
    with pytest.raises(RecordUnreadableError, match=r"claim\.2\.json"):
        await volume.standing(new_id())
    assert not await volume.look(new_id(), 1)
    with pytest.raises((ClaimTakenError, RecordUnreadableError)):
        await volume.claim(new_id(), claimed(record, volume)[0])
    assert path.read_bytes() == content


async def test_a_claim_under_another_number_is_not_believed(volume: DirectoryVolume) -> None:
    await owned_upload(volume)
    (folder_of(volume) / "claim.7.json").write_bytes((folder_of(volume) / "claim.1.json").read_bytes())
    with pytest.raises(RecordUnreadableError, match="under the name of another"):
        await volume.standing(new_id())


async def test_what_else_lies_in_the_folder_is_neither_claim_nor_record(volume: DirectoryVolume) -> None:
    record = await owned_upload(volume)
    for name in ("claim.9.json.new", "claim.09.json", "record.x.json", "claim.-2.json", "record.5.json.old", "notes"):
        (folder_of(volume) / name).write_text("{}")
    assert await volume.read(new_id()) == record
    standing = await volume.standing(new_id())
    assert standing is not None
    assert standing.epoch == 1


async def test_of_a_removal_that_was_cut_short_the_next_one_takes_the_rest(volume: DirectoryVolume) -> None:
    for number in (1, 1 + 62**2):
        await owned_upload(volume, number)
        await put(volume, new_id(number), "bytes.1", b"abc")
    group = folder_of(volume).parent
    with disturbed() as watch:
        watch.instead["unlink"] = lambda *args: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error"))
        with pytest.raises(VolumeUnavailableError):
            await volume.remove(new_id())
    assert await volume.standing(new_id()) is None
    assert await volume.ids_in(group.name) == [new_id(1 + 62**2)]
    await volume.remove(new_id(1 + 62**2))
    assert list(group.iterdir()) == []


async def test_a_vanished_directory_is_not_a_removed_upload(volume: DirectoryVolume, tmp_path: Path) -> None:
    record = await owned_upload(volume)
    volume.root.rename(tmp_path / "away")
    for attempt in (
        volume.standing(new_id()),
        volume.look(new_id(), 1),
        volume.claim(new_id(), claimed(record, volume)[0]),
        volume.stamps(),
        volume.forget_keys(),
    ):
        with pytest.raises(VolumeUnavailableError):
            await attempt
    (tmp_path / "away").rename(volume.root)
    assert await volume.look(new_id(), 1)


@pytest.mark.root
async def test_on_a_full_disk_a_claim_fails_and_leaves_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1024 * 1024) as disk:
        volume = open_directory(disk / "data", shared=True, start_id="start-1")
        await volume.create(new_record())
        with (disk / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
            while True:
                filler.write(bytes(4096))
        for _ in range(3):
            with pytest.raises(VolumeFullError):
                await volume.claim(new_id(), claimed(new_record(), volume)[0])
        assert [path.name for path in folder_of(volume).iterdir()] == ["record.0.json"]
        (disk / "filler").unlink()
        await volume.claim(new_id(), claimed(new_record(), volume)[0])
        await volume.close()


# -- keys


async def test_keys_from_before_the_sharing_are_found_and_replaced(root: Path) -> None:
    alone = open_directory(root)
    await alone.bind_key("key", new_id(1), instead_of=None)
    await alone.close()
    volume = open_directory(root, shared=True, start_id="start-1")
    assert await volume.find_key("key") == new_id(1)
    assert await volume.bind_key("key", new_id(2), instead_of=None) == new_id(1)
    assert await volume.bind_key("key", new_id(2), instead_of=new_id(1)) == new_id(2)
    await volume.create(new_record(2))
    await volume.forget_keys()
    assert await volume.find_key("key") == new_id(2)
    await volume.close()


async def test_forgotten_keys_leave_nothing_in_the_end(volume: DirectoryVolume) -> None:
    await volume.bind_key("key", new_id(1), instead_of=None)
    await volume.forget_keys()
    left = sorted((volume.root / "keys").glob("*/*/*"))
    assert [path.name for path in left] == ["1", "2"]
    long_ago = left[0].stat().st_mtime - 2 * keys.FORGOTTEN_S
    for path in left:
        os.utime(path, (long_ago, long_ago))
    await volume.forget_keys()
    assert not list((volume.root / "keys").glob("*/*"))
    assert await volume.bind_key("key", new_id(3), instead_of=None) == new_id(3)


# -- on a network


def as_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the directory taken for one of NFS."""
    nfs = Mount("nfs4", frozenset({"lookupcache=pos", "local_lock=none"}))
    monkeypatch.setattr("incomingd.storage.directory.opening.mount_under", lambda root: nfs)


@pytest.mark.parametrize("shared", [True, False])
async def test_on_a_network_only_what_was_noted_counts(
    root: Path, monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    """A file's length covers holes while pages are on their way."""
    as_network(monkeypatch)
    volume = open_directory(root, shared=shared, start_id="start-1", durable=False)
    assert volume.network
    record = await owned_upload(volume)
    await put(volume, new_id(), "bytes.1", b"abcdef")
    assert await volume.measure(record, record.content) == 0
    for noted, counted in ((4, 4), (6, 6), (9, 6)):
        content = dataclasses.replace(record.content, noted_offset=noted)
        assert await volume.measure(record, content) == counted
    await volume.close()


async def test_on_a_network_all_is_synced_whatever_is_configured(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_network(monkeypatch)
    volume = open_directory(root, shared=True, start_id="start-1", durable=False)
    record = await owned_upload(volume)
    for work in (
        volume.write(record, sync=False),
        volume.claim(new_id(), claimed(record, volume)[0]),
        volume.create(new_record(2)),
        volume.bind_key("key", new_id(2), instead_of=None),
        put(volume, new_id(), "bytes.1", b"abc", sync=False),
        volume.join(complete_record(record, ("bytes.1", 0, 3), volume=volume)),
    ):
        with disturbed() as watch:
            await work
        assert {"fsync", "fdatasync"} & set(watch.names()), work
    await volume.close()


@pytest.mark.parametrize(
    "kind, options, word",
    [
        ("nfs4", "rw,vers=4.2,local_lock=none", "lookupcache=pos"),
        ("nfs", "rw,lookupcache=all,local_lock=none", "lookupcache=pos"),
        ("nfs4", "rw,lookupcache=pos,local_lock=flock", "local_lock=flock"),
        ("nfs", "rw,lookupcache=pos,local_lock=all", "local_lock=all"),
        ("cifs", "rw,vers=3.1.1", "missing names"),
        ("9p", "rw,cache=loose", "cache=loose"),
        ("nfs4", "rw,lookupcache=pos,local_lock=none", None),
        ("nfs", "rw,lookupcache=none,local_lock=none", None),
        ("9p", "rw,cache=none", None),
        ("fuse.sshfs", "rw", None),
        ("ext4", "rw", None),
    ],
)
def test_a_mount_that_shows_claims_too_late_is_not_shared(kind: str, options: str, word: str | None) -> None:
    text = f"30 25 0:40 / /srv/data rw,relatime shared:5 - {kind} server:/export {options}\n"
    refusal = mount_of(text, PurePosixPath("/srv/data/incoming")).refusal_to_share()
    assert (word is None) == (refusal is None)
    if word is not None:
        assert word in str(refusal)


MOUNTINFO = r"""22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
30 22 0:40 /export /srv rw,noatime shared:5 master:1 - nfs4 host:/export rw,vers=4.2,lookupcache=pos
31 30 0:41 / /srv/with\040space\134 rw - xfs /dev/sdb rw
32 22 0:42 / /over rw - tmpfs tmpfs rw
33 32 0:43 / /over rw - fuse.sshfs me@host: rw,user_id=0
34 22 0:44 / /srvx rw - cifs //host/share rw
a line of nonsense
35 22 0:45 / /short
"""


@pytest.mark.parametrize(
    "path, kind, network",
    [
        ("/", "ext4", False),
        ("/var/data", "ext4", False),
        ("/srv", "nfs4", True),
        ("/srv/data/deep", "nfs4", True),
        ("/srv/with space\\/data", "xfs", False),
        ("/srv/with space", "nfs4", True),
        ("/over/data", "fuse.sshfs", True),
        ("/srvx/data", "cifs", True),
        ("/short", "ext4", False),
    ],
)
def test_the_mount_is_the_one_that_is_seen_at_the_path(path: str, kind: str, network: bool) -> None:
    mount = mount_of(MOUNTINFO, PurePosixPath(path))
    assert (mount.kind, mount.network) == (kind, network)


def test_a_file_system_of_which_nothing_is_known_is_taken_for_a_network() -> None:
    assert mount_of("", PurePosixPath("/data")).network
    assert Mount("of-tomorrow").network
    assert "lookupcache=pos" in mount_of(MOUNTINFO, PurePosixPath("/srv")).options


async def test_this_machines_disk_is_its_own(volume: DirectoryVolume) -> None:
    mount = opening.mount_under(volume.root)
    assert not mount.network, mount
    assert not volume.network


async def test_a_mount_that_cannot_be_shared_is_refused_before_anything_is_made(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("incomingd.storage.directory.opening.mount_under", lambda root: Mount("cifs"))
    with pytest.raises(VolumeUnavailableError, match="cannot be shared: cifs remembers missing names"):
        open_directory(root, shared=True, start_id="start-1")
    assert list(root.iterdir()) == []


# -- file systems that do not keep what sharing rests on


def refusal(root: Path, **instead: Any) -> str:
    with disturbed() as watch:
        watch.instead.update(instead)
        with pytest.raises(VolumeUnavailableError) as refused:
            open_directory(root, shared=True, start_id="start-1")
    assert json.loads((root / "volume.json").read_text())["format"] == 1
    assert not list(root.glob(".probe*"))
    assert not list((root / "instances").iterdir())
    return str(refused.value)


def test_links_that_replace_are_found_out(root: Path) -> None:
    """As of an object store that lets each of several racing creations succeed."""
    real = os.link

    def replacing(source: Path, target: Path) -> None:
        target.unlink(missing_ok=True)
        real(source, target)

    assert refusal(root, link=replacing).endswith("cannot be shared: it gives one name to two files")


def test_no_links_are_found_out(root: Path) -> None:
    def none(*args: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    assert "it cannot give a file a second name: Operation not permitted" in refusal(root, link=none)


def test_creations_that_are_not_exclusive_are_found_out(root: Path) -> None:
    real, real_file = os.open, io.open

    def careless(path: Any, flags: Any, *args: Any, **more: Any) -> Any:
        if isinstance(flags, str):
            return real_file(path, flags, *args, **more)
        return real(path, flags & ~os.O_EXCL if "_opened" in str(path) else flags, *args, **more)

    assert "of 4 that made one file at the same time, 4 were told that they were first" in refusal(root, open=careless)


def test_names_that_come_late_are_found_out(root: Path) -> None:
    missed: set[str] = set()
    real = os.stat

    def forgetful(path: Any, *args: Any, **more: Any) -> os.stat_result:
        name = os.fspath(path) if not isinstance(path, int) else ""
        if "looked-for" in str(name):
            if name in missed:
                raise FileNotFoundError(name)
            missed.add(str(name))
        return real(path, *args, **more)

    assert "it remembers missing names" in refusal(root, stat=forgetful)


def test_lists_that_lack_names_are_found_out(root: Path) -> None:
    real = os.listdir

    def lacking(path: Any) -> list[str]:
        return [name for name in real(path) if name != "looked-for"]

    assert "a list of its names lacks one that was just made" in refusal(root, listdir=lacking)


@pytest.mark.parametrize("what", ["none", "useless"])
def test_locks_that_lock_nothing_are_found_out(root: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    real = fcntl.flock

    def flock(fd: int, how: int) -> None:
        if "locked" not in os.readlink(f"/proc/self/fd/{fd}"):
            real(fd, how)
        elif what == "none":
            raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    text = "it has no locks: No locks available" if what == "none" else "it gives one lock to two"
    assert text in refusal(root)


@pytest.mark.parametrize("said", ["", '{"instance": "one that was here before"}', None])
async def test_a_shared_opening_waits_for_one_that_is_still_alone_with_it(
    root: Path, monkeypatch: pytest.MonkeyPatch, said: str | None
) -> None:
    """Instances that are started together must all get up; but not wait for one that never shares.

    Also where the other one has not yet come to say that it is going to share: *said* is what stands there then.
    """
    await open_directory(root).close()
    held = lock.DirectoryLock(root / "lock", holder={}, shared=True)
    assert held.alone
    shares = (root / "lock").read_text()
    with monkeypatch.context() as impatient:
        impatient.setattr(lock, "OPENING_S", 0.05)
        with pytest.raises(VolumeLockedError, match="in use by instances that share it"):
            open_directory(root, shared=True, start_id="start-2")
    if said is not None:
        (root / "lock").write_text(said)
    refused = threading.Event()
    take = lock.DirectoryLock._take

    def watched(self: lock.DirectoryLock, how: int) -> bool:
        taken = take(self, how)
        if how == fcntl.LOCK_SH and not taken:
            refused.set()
        return taken

    monkeypatch.setattr(lock.DirectoryLock, "_take", watched)
    loop = asyncio.get_running_loop()
    waiting = loop.run_in_executor(None, lambda: open_directory(root, shared=True, start_id="start-1"))
    assert await loop.run_in_executor(None, refused.wait, 60)
    assert not waiting.done()
    (root / "lock").write_text(shares)
    opening.mark_shared(root, VOLUME_ID, alone=True)
    held.share()
    volume = await waiting
    held.release()
    await volume.close()


async def test_the_file_of_a_contested_segment_is_another_one(volume: DirectoryVolume) -> None:
    record = await owned_upload(volume)
    await put(volume, new_id(), "bytes.1", b"abcdef")
    whole = complete_record(record, ("bytes.1", 0, 6), volume=volume)
    contested = dataclasses.replace(whole.content.map[0], contested=True)
    whole = dataclasses.replace(whole, content=dataclasses.replace(whole.content, map=(contested,)))
    await volume.join(whole)
    path = volume.path_of(whole)
    assert path is not None
    assert not path.samefile(folder_of(volume) / "bytes.1")
    assert await whole_file(volume, whole) == b"abcdef"


@pytest.mark.root
@pytest.mark.skipif(reason_to_skip() is not None, reason=f"no XFS: {reason_to_skip()}")
async def test_where_the_file_system_can_a_copy_shares_its_blocks(tmp_path: Path) -> None:
    """A segment that was taken by force costs no second room, and no time to copy."""
    with xfs_disk(tmp_path / "disk") as disk:
        volume = open_directory(disk / "data", shared=True, start_id="start-1")
        assert not volume.network
        record = await owned_upload(volume)
        size = 32 * 1024 * 1024
        segment = await volume.open_segment(new_id(), "bytes.1", create=True, size=0, sync=True)
        block = os.urandom(1024 * 1024)
        await fill(segment, *[block] * (size // len(block)), b"and what is not counted")
        await segment.sync()
        await segment.close()
        whole = complete_record(record, ("bytes.1", 0, size), volume=volume)
        contested = dataclasses.replace(whole.content.map[0], contested=True)
        whole = dataclasses.replace(whole, content=dataclasses.replace(whole.content, map=(contested,)))
        before = os.statvfs(disk)
        await volume.join(whole)
        after = os.statvfs(disk)
        assert (before.f_bfree - after.f_bfree) * before.f_frsize < size // 8
        path = volume.path_of(whole)
        assert path is not None
        assert path.stat().st_size == size
        assert not path.samefile(folder_of(volume) / "bytes.1")
        assert path.read_bytes() == block * (size // len(block))
        await volume.close()
