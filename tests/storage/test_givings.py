"""What a volume promises of uploads that other volumes give: taken or declined, and never both."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import os
from pathlib import Path

import pytest

from incomingd.core.record import Record
from incomingd.core.tenure import Claim, ClaimKind, Identity
from incomingd.storage.chain import answer_name, claim_name, record_name
from incomingd.storage.directory import files
from incomingd.storage.volume import ClaimTakenError, DeclinedError, RecordUnreadableError, VolumeError
from tests.storage.volumes import VOLUME_ID, AnyVolume, Machine, claimed, new_record, open_directory, owned_upload

TAKER = Identity("taker", "start-9")


def given(number: int = 1, *, epoch: int = 5) -> tuple[Claim, Record]:
    """Return the claim by which another volume has given an upload to this one, and the record that begins with it."""
    claim = Claim(epoch, TAKER, f"given {number} {epoch}", VOLUME_ID, ClaimKind.PULL, "question")
    return claim, new_record(number, epoch=epoch, owner=TAKER, claim_kind=claim.kind, create_id=claim.create_id)


async def go_on(volume: AnyVolume, record: Record) -> Record:
    """Pull what was taken."""
    claim, following = claimed(record, volume)
    await volume.claim(record.upload_id, claim)
    following = dataclasses.replace(following, create_id=claim.create_id)
    await volume.write(following, sync=True)
    return following


async def test_what_is_taken_stands_here(fleet: Machine) -> None:
    claim, record = given()
    await fleet.volume.take(claim, record)
    await fleet.volume.take(claim, record)
    again = await fleet.restart()
    standing = await again.standing(record.upload_id)
    assert standing is not None
    assert (standing.record, standing.claim, standing.given_from(again.id)) == (record, None, None)


async def test_what_is_declined_is_never_taken(fleet: Machine) -> None:
    """By nobody, however often it is given under the same claim."""
    claim, record = given()
    other = fleet.join()
    await fleet.volume.decline(claim, record.upload_id)
    await other.decline(claim, record.upload_id)
    await fleet.close()
    for volume in (fleet.join(), fleet.join()):
        with pytest.raises(DeclinedError):
            await volume.take(claim, record)
        assert await volume.standing(record.upload_id) is None


async def test_what_is_taken_is_not_declined(fleet: Machine) -> None:
    """Nor what has gone on since."""
    claim, record = given()
    await fleet.volume.take(claim, record)
    with pytest.raises(ClaimTakenError):
        await fleet.volume.decline(claim, record.upload_id)
    following = await go_on(fleet.volume, record)
    with pytest.raises(ClaimTakenError):
        await fleet.volume.decline(claim, record.upload_id)
    assert await fleet.volume.read(record.upload_id) == following


async def test_what_is_given_anew_may_be_taken(fleet: Machine) -> None:
    """A word that declines is about one claim."""
    claim, record = given()
    await fleet.volume.decline(claim, record.upload_id)
    later, record = given(epoch=7)
    await fleet.volume.take(later, record)
    assert await fleet.volume.read(record.upload_id) == record
    with pytest.raises(ClaimTakenError):
        await fleet.volume.take(claim, given()[1])
    assert await fleet.volume.read(record.upload_id) == record


async def test_what_lies_here_from_before_stays_when_it_is_declined(fleet: Machine) -> None:
    record = await owned_upload(fleet.volume)
    away = Claim(2, TAKER, "given away", "Volume000002", ClaimKind.PULL, "question")
    await fleet.volume.claim(record.upload_id, away)
    before = await fleet.volume.standing(record.upload_id)
    await fleet.volume.decline(given()[0], record.upload_id)
    assert await fleet.volume.standing(record.upload_id) == before


async def test_who_takes_and_who_declines_agree(fleet: Machine) -> None:
    """Of many at once, at several instances, either all take it or all decline it."""
    volumes = [fleet.volume, fleet.join(), fleet.join(), fleet.join()]
    for number in range(1, 9):
        claim, record = given(number)
        calls = [
            volume.decline(claim, record.upload_id) if each % 2 == number % 2 else volume.take(claim, record)
            for each, volume in enumerate(volumes)
        ]
        results = await asyncio.gather(*calls, return_exceptions=True)
        took = [result for each, result in enumerate(results) if each % 2 != number % 2]
        declined = [result for each, result in enumerate(results) if each % 2 == number % 2]
        if await fleet.volume.read(record.upload_id) is None:
            assert [type(each) for each in took] == [DeclinedError] * 2
            assert declined == [None, None]
        else:
            assert took == [None, None]
            assert [type(each) for each in declined] == [ClaimTakenError] * 2


@pytest.mark.parametrize("machine", ["memory shared"], indirect=True)
async def test_what_is_declined_stays_so_after_a_power_loss(machine: Machine) -> None:
    """The giver has made its next claim on the strength of it."""
    for seed in range(20):
        claim, record = given(seed + 1)
        await machine.volume.decline(claim, record.upload_id)
        machine.disk.lose_power()
        again = machine.open(start_id=f"after {seed}")
        with pytest.raises(DeclinedError):
            await again.take(claim, record)


# -- in a directory, where it takes several steps


def folder_of(root: Path, record: Record) -> Path:
    return root / "uploads" / record.upload_id[:2] / record.upload_id


async def test_what_is_half_taken_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer is there, the record is not: whoever finds that brings it to its end, also who wanted to decline."""
    root = tmp_path / "data"
    volume = open_directory(root, shared=True, start_id="start-1")
    claims = [given(1), given(2)]
    link = os.link

    def breaks_off(old: Path, new: Path) -> None:
        if not new.name.startswith("answer."):
            raise OSError(errno.EIO, "Input/output error")
        link(old, new)

    for claim, record in claims:
        with monkeypatch.context() as patched:
            # As if it were killed, or frozen, when the answer stands.
            patched.setattr(os, "link", breaks_off)
            with pytest.raises(VolumeError):
                await volume.take(claim, record)
        assert [each.name for each in folder_of(root, record).iterdir()] == [answer_name(claim.epoch)]
        assert await volume.standing(record.upload_id) is None
    (claim, record), (other, theirs) = claims
    await volume.take(claim, dataclasses.replace(record, boot_id="another one"))
    with pytest.raises(ClaimTakenError):
        await volume.decline(other, theirs.upload_id)
    for each in (record, theirs):
        assert await volume.read(each.upload_id) == each
        wanted = {answer_name(5), claim_name(5), record_name(5)}
        assert {path.name for path in folder_of(root, each).iterdir()} == wanted
    await volume.close()


async def test_who_takes_late_does_not_replace_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another instance that shares the volume was quicker, and has written more into it since."""
    root = tmp_path / "data"
    slow, quick = (open_directory(root, shared=True, start_id=run) for run in ("start-1", "start-2"))
    claim, record = given()
    latest = dataclasses.replace(record, expires_at=99.0)
    quick_tenures = quick._tenures
    write_whole, turn = files.write_whole, [True]

    def held(path: Path, data: bytes, *, sync: bool) -> None:
        write_whole(path, data, sync=sync)
        if turn and turn.pop():
            assert quick_tenures is not None
            quick_tenures.take(folder_of(root, record), claim, record)
            quick_tenures.write(folder_of(root, record), latest, sync=True)

    monkeypatch.setattr(files, "write_whole", held)
    await slow.take(claim, record)
    assert not turn
    assert await slow.read(record.upload_id) == latest
    for each in (slow, quick):
        await each.close()


async def test_a_damaged_answer_is_neither(tmp_path: Path) -> None:
    """Nobody takes or declines on the strength of what cannot be read, or of an answer to somebody else."""
    root = tmp_path / "data"
    volume = open_directory(root, shared=True, start_id="start-1")
    claim, record = given()
    await volume.decline(claim, record.upload_id)
    answer = folder_of(root, record) / answer_name(claim.epoch)
    whole = answer.read_bytes()
    for damaged in (b"", b"{}", whole[:-9], whole.replace(claim.create_id.encode(), b"another")):
        answer.write_bytes(damaged)
        with pytest.raises(RecordUnreadableError):
            await volume.take(claim, record)
        with pytest.raises(RecordUnreadableError):
            await volume.decline(claim, record.upload_id)
    await volume.close()
