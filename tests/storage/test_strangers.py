"""What a directory is besides: other programs and other people write into it, too."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from incomingd.storage.directory import DirectoryVolume
from incomingd.storage.volume import RecordUnreadableError, VolumeFullError, VolumeUnavailableError
from tests.storage.volumes import (
    complete_record,
    new_id,
    open_directory,
    owned_upload,
    put,
    whole_file,
)

PRECIOUS = b"nothing that a web app may read or write"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """A file of the daemon's user, outside of the directory that web apps reach."""
    path = tmp_path / "precious"
    path.write_bytes(PRECIOUS)
    path.chmod(0o600)
    return path


async def two_pieces(volume: DirectoryVolume) -> Any:
    record = await owned_upload(volume)
    await put(volume, record.upload_id, "bytes.1", b"hello ")
    await put(volume, record.upload_id, "bytes.2", b"world")
    return complete_record(record, ("bytes.1", 0, 6), ("bytes.2", 0, 5), volume=volume)


# -- links and pipes that a web app has put among the complete files


async def test_a_join_does_not_write_through_a_link(root: Path, precious: Path) -> None:
    volume = open_directory(root)
    record = await two_pieces(volume)
    (root / "files" / f"{record.upload_id}.new").symlink_to(precious)
    await volume.join(record)
    assert await whole_file(volume, record) == b"hello world"
    assert precious.read_bytes() == PRECIOUS
    await volume.close()


async def test_a_link_to_the_segment_is_not_taken_for_the_file(root: Path) -> None:
    """The segment is deleted once the file stands: it would be all there was."""
    volume = open_directory(root)
    record = await owned_upload(volume)
    await put(volume, record.upload_id, "bytes.1", b"hello")
    record = complete_record(record, ("bytes.1", 0, 5), volume=volume)
    target = root / "files" / record.upload_id
    target.symlink_to(next((root / "uploads").glob("*/*/bytes.1")))
    await volume.join(record)
    await volume.drop_bytes(record, file_too=False)
    assert not target.is_symlink()
    assert await whole_file(volume, record) == b"hello"
    await volume.close()


@pytest.mark.parametrize("kind", ["link", "pipe", "directory"])
async def test_only_a_file_is_opened_as_the_complete_file(root: Path, precious: Path, kind: str) -> None:
    """A link would show any file of the daemon's user to whoever has a download URL; a pipe would hang."""
    volume = open_directory(root)
    record = await owned_upload(volume)
    target = root / "files" / record.upload_id
    if kind == "link":
        target.symlink_to(precious)
    elif kind == "pipe":
        os.mkfifo(target)
    else:
        target.mkdir()
    assert await volume.open_file(record) is None
    await volume.close()


async def test_the_probe_at_the_start_does_not_follow_a_link(root: Path, precious: Path) -> None:
    await open_directory(root).close()
    (root / "files" / ".probe").symlink_to(precious)
    await open_directory(root).close()
    assert precious.read_bytes() == PRECIOUS
    assert precious.stat().st_mode & 0o777 == 0o600


# -- what does not belong there


async def test_what_is_no_group_is_left_out(root: Path) -> None:
    """Such as ``lost+found``, which only root may read: the uploads beside it must be looked after."""
    volume = open_directory(root)
    record = await owned_upload(volume)
    (root / "uploads" / "lost+found").mkdir()
    (root / "uploads" / "README").write_text("hands off")
    (root / "uploads" / "ab").write_text("a file, and no group")
    assert await volume.groups() == [volume.group_of(record.upload_id)]
    await volume.close()


async def test_a_copied_upload_is_not_the_one_that_it_was_copied_from(root: Path) -> None:
    """What is done to the copy would be done to the original."""
    volume = open_directory(root)
    await owned_upload(volume, 1)
    original = next((root / "uploads").glob("*/*"))
    shutil.copytree(original, root / "uploads" / volume.group_of(new_id(2)) / new_id(2))
    with pytest.raises(RecordUnreadableError):
        await volume.read(new_id(2))
    assert await volume.read(new_id(1)) is not None
    await volume.close()


async def test_a_segment_is_never_made_longer(root: Path) -> None:
    """Bytes that got lost under the daemon are not replaced by zeros."""
    volume = open_directory(root)
    record = await owned_upload(volume)
    await put(volume, record.upload_id, "bytes.1", b"hello")
    path = next((root / "uploads").glob("*/*/bytes.1"))
    os.truncate(path, 2)
    with pytest.raises(VolumeUnavailableError):
        await volume.open_segment(record.upload_id, "bytes.1", create=False, size=5, sync=False)
    assert path.read_bytes() == b"he"
    await volume.close()


# -- a full disk


async def test_a_copy_that_found_no_room_takes_none(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would keep the disk full for everybody, and itself from ever being made."""
    volume = open_directory(root)
    record = await two_pieces(volume)
    copied: list[int] = []

    def full(source: int, out: int, *more: Any) -> int:
        if copied:
            raise OSError(28, "No space left on device")
        copied.append(os.write(out, os.read(source, 6)))
        return copied[-1]

    monkeypatch.setattr(os, "copy_file_range", full)
    with pytest.raises(VolumeFullError):
        await volume.join(record)
    assert copied == [6]
    assert list((root / "files").iterdir()) == []
    monkeypatch.undo()
    await volume.join(record)
    assert await whole_file(volume, record) == b"hello world"
    await volume.close()
