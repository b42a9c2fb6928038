"""Volumes on a file system that delivers late, forgets late and freezes, as NFS may: a FUSE one of the tests' own."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from incomingd.core.tenure import Identity
from incomingd.storage.directory import DirectoryVolume, place
from incomingd.storage.volume import VolumeUnavailableError
from tests.storage.volumes import claimed, complete_record, fill, new_id, new_record, open_directory, owned_upload
from tests.storage.volumes import whole_file as file_of
from tests.support.slowfs import Host, reason_to_skip, slow_host

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(reason_to_skip() is not None, reason=f"no FUSE: {reason_to_skip()}"),
]

ONE, TWO = Identity("one", "run-1"), Identity("two", "run-2")


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[tuple[Host, Host]]:
    """Two hosts that have mounted the same directory."""
    with (
        slow_host(tmp_path / "served", tmp_path / "a") as first,
        slow_host(tmp_path / "served", tmp_path / "b") as second,
    ):
        yield first, second


def open_on(host: Host, run: Identity) -> DirectoryVolume:
    # Nothing is left to what is configured.
    return open_directory(host.mount / "data", shared=True, start_id=run.start_id, durable=False)


async def test_where_missing_names_are_remembered_a_volume_is_not_shared(tmp_path: Path) -> None:
    """A look would not see the claim of another. Held alone it can be used."""
    with slow_host(tmp_path / "served", tmp_path / "a", remembers_missing=True) as host:
        with pytest.raises(VolumeUnavailableError, match="cannot be shared: it remembers missing names"):
            open_on(host, ONE)
        assert json.loads((tmp_path / "served" / "data" / "volume.json").read_text())["format"] == 1
        volume = open_directory(host.mount / "data", start_id="run-1")
        await owned_upload(volume)
        await volume.close()


async def test_bytes_count_as_they_are_noted_while_their_pages_are_on_the_way(hosts: tuple[Host, Host]) -> None:
    """The length of a segment goes ahead of its bytes: whoever believed it would promise a hole."""
    first, second = open_on(hosts[0], ONE), open_on(hosts[1], TWO)
    record = await owned_upload(first)
    segment = await first.open_segment(new_id(), "bytes.1", create=True, size=0, sync=False)
    await fill(segment, b"abcdef")
    await segment.sync()
    noted = dataclasses.replace(record, content=dataclasses.replace(record.content, noted_offset=6))
    await first.write(noted, sync=False)
    await fill(segment, b"ghi")
    seen = hosts[1].mount / "data" / "uploads" / new_id()[:2] / new_id() / "bytes.1"
    assert seen.read_bytes() == b"abcdef\0\0\0"

    claim, record_2 = claimed(record, second, owner=TWO)
    await second.claim(new_id(), claim)
    standing = await second.standing(new_id())
    assert standing is not None
    assert standing.record == noted
    assert await second.measure(standing.record, standing.record.content) == 6
    assert not await first.look(new_id(), 1)

    # Taken by force, closed where it was noted, gone on with in a segment of the new tenure.
    assert not await second.gone(ONE)
    late = await second.open_segment(new_id(), "bytes.2", create=True, size=0, sync=False)
    await fill(late, b"XYZ")
    await late.close()
    whole = complete_record(record_2, ("bytes.1", 0, 6), ("bytes.2", 0, 3), volume=second)
    content = whole.content
    content = dataclasses.replace(content, map=(dataclasses.replace(content.map[0], contested=True), content.map[1]))
    whole = dataclasses.replace(whole, content=content)
    await second.join(whole)
    await segment.close()
    assert await file_of(first, whole) == b"abcdefXYZ"
    await first.close()
    await second.close()


async def test_hosts_race_for_claims_and_each_has_one_winner(hosts: tuple[Host, Host]) -> None:
    first, second = open_on(hosts[0], ONE), open_on(hosts[1], TWO)
    await first.create(new_record())
    for epoch in range(1, 9):
        racers = [
            volume.claim(new_id(), claimed(new_record(), volume, owner=owner, epoch=epoch)[0])
            for volume, owner in ((first, ONE), (second, TWO)) * 2
        ]
        results = await asyncio.gather(*racers, return_exceptions=True)
        assert [type(result).__name__ for result in results].count("ClaimTakenError") == 3
        assert [await volume.look(new_id(), epoch - 1) for volume in (first, second)] == [False, False]
    await first.close()
    await second.close()


async def test_who_came_by_another_mount_is_not_shown_to_be_gone(hosts: tuple[Host, Host]) -> None:
    """Their locks do not reach each other, though one kernel holds them; a run that closed the volume is over."""
    first, second = open_on(hosts[0], ONE), open_on(hosts[1], TWO)
    assert not await second.gone(ONE)
    # As after a kill: the lock is free, and the file is there.
    await asyncio.get_running_loop().run_in_executor(None, os.close, first._held.runs._fd)
    first._held.runs._fd = -1
    assert not await second.gone(ONE)
    third = open_on(hosts[0], Identity("three", "run-3"))
    assert await third.gone(ONE)
    assert await second.gone(ONE), "noted by one that came by the same mount"
    for volume in (first, second, third):
        await volume.close()
    assert await asyncio.get_running_loop().run_in_executor(
        None, lambda: {path.suffix for path in (hosts[0].mount / "data" / "instances").iterdir()}
    ) == {".over"}


async def test_while_it_is_frozen_questions_end_and_the_loop_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writes wait, since nobody knows whether they were done; afterwards all is as it was."""
    monkeypatch.setattr(place, "ANSWER_S", 0.2)
    with slow_host(tmp_path / "served", tmp_path / "a") as host:
        volume = open_on(host, ONE)
        record = await owned_upload(volume)
        segment = await volume.open_segment(new_id(), "bytes.1", create=True, size=0, sync=True)
        host.freeze()
        try:
            write = asyncio.ensure_future(volume.write(dataclasses.replace(record, expires_at=9.0), sync=True))
            append = asyncio.ensure_future(fill(segment, b"abc"))
            ticks = 0

            async def tick() -> None:
                nonlocal ticks
                while True:
                    await asyncio.sleep(0)
                    ticks += 1

            ticking = asyncio.ensure_future(tick())
            # More of them than there are threads.
            for _ in range(3):
                questions: list[Coroutine[Any, Any, object]] = [
                    volume.look(new_id(), 1), volume.standing(new_id()), volume.read(new_id()), volume.gone(TWO),
                    volume.has_room(1), volume.find_key("key"), volume.stamps(),
                    volume.measure(record, record.content),
                ]  # fmt: skip
                asked = [asyncio.ensure_future(question) for question in questions]
                _, waiting = await asyncio.wait(asked, timeout=10)
                for question in waiting:
                    question.cancel()
                assert len(waiting) == 0
                answers = [question.exception() for question in asked]
                assert {type(answer) for answer in answers} == {VolumeUnavailableError}
                assert all("no answer within 0.2 s" in str(answer) for answer in answers)
            assert ticks > 100
            assert not write.done()
            assert not append.done()
        finally:
            host.thaw()
        await asyncio.gather(write, append)
        ticking.cancel()
        await segment.close()
        monkeypatch.undo()
        assert await volume.read(new_id()) == dataclasses.replace(record, expires_at=9.0)
        assert await volume.look(new_id(), 1)
        await volume.close()


async def test_a_host_that_is_cut_off_for_ever_fails_and_does_not_hang(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        host = stack.enter_context(slow_host(tmp_path / "served", tmp_path / "a"))
        volume = open_on(host, ONE)
        record = await owned_upload(volume)
        host.freeze()
        write = asyncio.ensure_future(volume.write(record, sync=True))
        await asyncio.sleep(0)
        stack.close()
        with pytest.raises(VolumeUnavailableError):
            await write
        with pytest.raises(VolumeUnavailableError):
            await volume.look(new_id(), 1)
        await volume.close()
