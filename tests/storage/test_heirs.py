"""What a volume promises to those that retire, and when it retires itself; held against each kind that is shared."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from incomingd.core.record import Record
from incomingd.core.tenure import Claim, ClaimKind, Identity
from incomingd.storage.chain import claim_name, record_name
from incomingd.storage.volume import (
    Retirement,
    VolumeError,
    VolumeLockedError,
    VolumeRetiredError,
    VolumeUnavailableError,
)
from tests.storage.volumes import ME, Machine, claimed, new_record, open_directory, owned_upload, put

ELSEWHERE = "Volume000002"
TAKER = Identity("taker", "start-9")


def given_away(number: int, *, epoch: int = 4) -> tuple[Claim, Record]:
    """Return what a volume knows of an upload that it has given to another one."""
    record = new_record(number, epoch=epoch, owner=None, claim_kind=ClaimKind.PULL, create_id=f"create {number}")
    return Claim(epoch + 1, TAKER, f"given {number}", ELSEWHERE, ClaimKind.PULL, "question"), record


async def test_what_another_had_given_away_is_given_away_here(fleet: Machine) -> None:
    claim, record = given_away(1)
    await fleet.volume.keep_given(claim, record)
    # The call may come again, and the process be another one.
    await fleet.volume.keep_given(claim, record)
    again = await fleet.restart()
    standing = await again.standing(record.upload_id)
    assert standing is not None
    assert (standing.record, standing.given_from(again.id)) == (record, claim)
    assert await again.read(record.upload_id) is None
    assert await again.ids_in(again.group_of(record.upload_id)) == [record.upload_id]


async def test_a_survey_tells_what_stands_and_what_was_given_away(fleet: Machine) -> None:
    """Of what was given away it tells whether bytes are left here."""
    volume = fleet.volume
    own = await owned_upload(volume)
    claim, record = given_away(2)
    await volume.keep_given(claim, record)

    async def found() -> dict[str, tuple[object, bool]]:
        groups = {volume.group_of(each.upload_id) for each in (own, record)}
        surveys = [await volume.survey(group) for group in groups]
        return {each.upload_id: (each.standing, each.has_bytes) for survey in surveys for each in survey}

    stands = {own.upload_id: await volume.standing(own.upload_id)}
    gone = {record.upload_id: await volume.standing(record.upload_id)}
    assert await found() == {upload_id: (standing, False) for upload_id, standing in (stands | gone).items()}
    await put(volume, record.upload_id, "bytes.4", b"abc")
    assert (await found())[record.upload_id] == (gone[record.upload_id], True)
    assert await volume.survey("zz") == []


async def test_no_record_stands_without_the_claim_that_follows_it(tmp_path: Path) -> None:
    """It would be an upload that lies here, of which somebody would become the second owner."""
    volume = open_directory(tmp_path / "data", shared=True, start_id="start-1")
    claim, record = given_away(1)
    folder = tmp_path / "data" / "uploads" / record.upload_id[:2] / record.upload_id
    in_the_way = folder / claim_name(claim.epoch)
    in_the_way.mkdir(parents=True)
    with pytest.raises(VolumeError):
        await volume.keep_given(claim, record)
    in_the_way.rmdir()
    assert await volume.standing(record.upload_id) is None
    # A crash between both leaves the claim alone, which says nothing yet.
    await volume.keep_given(claim, record)
    (folder / record_name(record.epoch)).unlink()
    assert await volume.standing(record.upload_id) is None
    await volume.keep_given(claim, record)
    standing = await volume.standing(record.upload_id)
    assert standing is not None
    assert (standing.record, standing.given_from(volume.id)) == (record, claim)
    await volume.close()


async def test_a_later_tenure_here_is_not_given_away(fleet: Machine) -> None:
    """The upload went there and came back: what the other one knows is old."""
    volume = fleet.volume
    record = await owned_upload(volume)
    for epoch in (2, 3):
        claim, record = claimed(record, volume, epoch=epoch)
        await volume.claim(record.upload_id, claim)
        await volume.write(record, sync=True)
    await put(volume, record.upload_id, "bytes.3", b"abc")
    old = Claim(3, TAKER, "given", ELSEWHERE, ClaimKind.PULL)
    await volume.keep_given(old, dataclasses.replace(record, epoch=2, owner=TAKER))
    assert await volume.read(record.upload_id) == record
    assert await volume.look(record.upload_id, 3)


async def test_an_earlier_tenure_here_is_followed(fleet: Machine) -> None:
    """It was here, went to the one that retires, and on from there."""
    volume = fleet.volume
    record = await owned_upload(volume)
    away = Claim(2, TAKER, "given", ELSEWHERE, ClaimKind.PULL)
    await volume.claim(record.upload_id, away)
    later = Claim(4, ME, "given on", "Volume000003", ClaimKind.PULL)
    theirs = dataclasses.replace(record, epoch=3, owner=TAKER, create_id="theirs")
    await volume.keep_given(later, theirs)
    standing = await volume.standing(record.upload_id)
    assert standing is not None
    assert (standing.record, standing.claim) == (theirs, later)


async def test_whose_heir_it_is_is_known_for_ever(fleet: Machine) -> None:
    other = fleet.join()
    volume = fleet.volume
    assert volume.heir_of == frozenset()
    await volume.inherit([ELSEWHERE])
    await volume.inherit([ELSEWHERE, "Volume000003"])
    both = {ELSEWHERE, "Volume000003"}
    assert volume.heir_of == both
    # Who shares the volume learns of it, too.
    assert await other.look_for_heirdoms() == other.heir_of == both
    await other.close()
    assert (await fleet.restart()).heir_of == both


async def test_a_retirement_that_may_be_known_is_gone_on_with(fleet: Machine) -> None:
    """By an instance of the fleet, and by no other; once it is settled by none."""
    begun = Retirement("heir", ELSEWHERE)
    await fleet.volume.retire(begun)
    assert fleet.volume.retirement == begun
    again = await fleet.restart()
    assert again.retirement == begun
    await again.close()
    with pytest.raises(VolumeRetiredError):
        fleet.open(shared=False)
    again = fleet.open()
    await again.retire(dataclasses.replace(begun, settled=True))
    await again.close()
    for shared in (False, True):
        with pytest.raises(VolumeRetiredError):
            fleet.open(shared=shared)


async def test_the_refusal_says_what_to_do(tmp_path: Path) -> None:
    """Who deletes the mark has the volume back; a mark that nobody can read is not passed over."""
    root = tmp_path / "data"
    volume = open_directory(root, shared=True, start_id="start-1")
    await volume.retire(Retirement("i2", ELSEWHERE, settled=True))
    await volume.close()
    with pytest.raises(VolumeRetiredError, match=rf"i2 \(volume {ELSEWHERE}\).*retired\.json"):
        open_directory(root, shared=True, start_id="start-2")
    mark = root / "retired.json"
    whole = json.loads(mark.read_bytes())
    for damaged in (b"", b"[]", b"{}", json.dumps(whole | {"format": 2}).encode()):
        mark.write_bytes(damaged)
        with pytest.raises(VolumeUnavailableError, match=r"retired\.json"):
            open_directory(root, shared=True, start_id="start-2")
    mark.unlink()
    again = open_directory(root, shared=True, start_id="start-2")
    assert again.retirement is None
    await again.close()


async def test_the_lock_comes_before_the_mark(tmp_path: Path) -> None:
    """Whoever asks while the instance still runs hears that it runs."""
    volume = open_directory(tmp_path / "data", shared=True, start_id="start-1")
    await volume.retire(Retirement("i2", ELSEWHERE, settled=True))
    with pytest.raises(VolumeLockedError):
        open_directory(tmp_path / "data")
    await volume.close()
