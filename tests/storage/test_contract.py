"""What every volume promises (`incomingd.storage.volume`), held against each kind of volume."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from incomingd.core.content import Content
from incomingd.core.record import Record
from incomingd.core.status import Status
from incomingd.core.tenure import Claim, ClaimKind, Identity
from incomingd.storage.body import BodyCutError, CutReason
from incomingd.storage.volume import (
    ClaimTakenError,
    UploadExistsError,
    VolumeError,
    VolumeLockedError,
    VolumeUnavailableError,
)
from tests.storage.volumes import (
    ME,
    AnyVolume,
    Bytes,
    Machine,
    claimed,
    complete_record,
    fill,
    new_id,
    new_record,
    owned_upload,
    put,
    whole_file,
)

# -- records


async def test_a_record_is_read_as_it_was_stored(volume: AnyVolume) -> None:
    record = new_record(expires_at=5.5, status=Status.OPEN)
    await volume.create(record)
    assert await volume.read(record.upload_id) == record


async def test_what_was_never_made_is_not_there(volume: AnyVolume) -> None:
    await volume.create(new_record(1))
    assert await volume.read(new_id(2)) is None


async def test_an_upload_is_made_once(volume: AnyVolume) -> None:
    record = await owned_upload(volume)
    with pytest.raises(UploadExistsError):
        await volume.create(new_record())
    assert await volume.read(record.upload_id) == record


async def test_of_racing_creations_one_wins(volume: AnyVolume) -> None:
    racers = [new_record(expires_at=float(number)) for number in range(8)]
    results = await asyncio.gather(*map(volume.create, racers), return_exceptions=True)
    winners = [racer for racer, result in zip(racers, results, strict=True) if result is None]
    assert len(winners) == 1
    assert [type(result) for result in results].count(UploadExistsError) == 7
    assert await volume.read(new_id()) == winners[0]


@pytest.mark.parametrize("sync", [True, False])
async def test_a_written_record_replaces_the_former(volume: AnyVolume, sync: bool) -> None:
    record = await owned_upload(volume)
    changed = dataclasses.replace(record, expires_at=99.0)
    await volume.write(changed, sync=sync)
    assert await volume.read(record.upload_id) == changed


async def test_records_survive_the_process(machine: Machine) -> None:
    record = await owned_upload(machine.volume)
    volume = await machine.restart()
    assert await volume.read(record.upload_id) == record
    assert volume.id == record.content.map[0].volume_id


async def test_a_volume_is_one_processs_at_a_time_unless_all_share_it(machine: Machine) -> None:
    with pytest.raises(VolumeLockedError):
        machine.open(shared=False)
    if not machine.shared:
        with pytest.raises(VolumeLockedError):
            machine.open(shared=True)


# -- claims


async def test_a_tenure_begins_once(volume: AnyVolume) -> None:
    """Claim e+1 exists, so nobody claims e+1 again, and nobody claims e+2 on top of e."""
    record = await owned_upload(volume)
    again, _ = claimed(new_record(), volume)
    with pytest.raises(ClaimTakenError):
        await volume.claim(record.upload_id, again)
    too_far = Claim(record.epoch + 2, ME, "x", volume.id, ClaimKind.PULL)
    with pytest.raises(ClaimTakenError):
        await volume.claim(record.upload_id, too_far)
    following, _ = claimed(record, volume)
    await volume.claim(record.upload_id, following)


async def test_no_claim_on_what_is_not_there(volume: AnyVolume) -> None:
    claim, _ = claimed(new_record(), volume)
    with pytest.raises(ClaimTakenError):
        await volume.claim(new_id(), claim)


async def test_the_last_tenure_is_seen_as_the_last(volume: AnyVolume) -> None:
    record = await owned_upload(volume)
    assert await volume.look(record.upload_id, record.epoch)


# -- segments


async def measured(volume: AnyVolume, record: Record, content: Content | None = None) -> int:
    return await volume.measure(record, content if content is not None else record.content)


async def test_bytes_are_kept_in_order(volume: AnyVolume) -> None:
    record = await owned_upload(volume)
    segment = await volume.open_segment(record.upload_id, "bytes.1", create=True, size=0, sync=True)
    sizes: list[int] = []
    body = Bytes(b"abc", b"", b"never read")
    taken = await segment.take(body, room=None, on_kept=sizes.append)
    assert (taken.overflow, segment.size, sizes) == (False, 3, [3])
    await fill(segment, b"de", b"f")
    await segment.close()
    assert await measured(volume, record) == 6
    await volume.join(complete_record(record, ("bytes.1", 0, 6), volume=volume))
    assert await whole_file(volume, record) == b"abcdef"


async def test_a_segment_goes_on_where_the_last_append_ended(volume: AnyVolume) -> None:
    record = await owned_upload(volume)
    await put(volume, record.upload_id, "bytes.1", b"abc")
    segment = await volume.open_segment(record.upload_id, "bytes.1", create=False, size=3, sync=True)
    await fill(segment, b"def")
    await segment.close()
    assert await measured(volume, record) == 6


async def test_what_lies_behind_the_opened_size_is_dropped(volume: AnyVolume) -> None:
    record = await owned_upload(volume)
    await put(volume, record.upload_id, "bytes.1", b"abcdef")
    segment = await volume.open_segment(record.upload_id, "bytes.1", create=False, size=2, sync=True)
    await fill(segment, b"X")
    await segment.close()
    assert await measured(volume, record) == 3
    await volume.join(complete_record(record, ("bytes.1", 0, 3), volume=volume))
    assert await whole_file(volume, record) == b"abX"


async def test_a_segment_is_never_made_longer(volume: AnyVolume) -> None:
    """Bytes that got lost meanwhile are missed, not replaced."""
    record = await owned_upload(volume)
    await put(volume, record.upload_id, "bytes.1", b"abc")
    with pytest.raises(VolumeUnavailableError):
        await volume.open_segment(record.upload_id, "bytes.1", create=False, size=4, sync=True)
    assert await measured(volume, record) == 3


async def test_a_segment_that_should_be_there_is_not_made(volume: AnyVolume) -> None:
    record = await owned_upload(volume)
    with pytest.raises(VolumeUnavailableError):
        await volume.open_segment(record.upload_id, "bytes.1", create=False, size=2, sync=True)


@pytest.mark.parametrize(
    "room, pieces, kept, overflow",
    [
        (3, [b"abc"], 3, False),
        (3, [b"abcd"], 3, True),
        (3, [b"ab", b"cd"], 3, True),
        (3, [b"abc", b"d"], 3, True),
        (0, [b"a"], 0, True),
        (0, [], 0, False),
        (None, [b"ab", b"cd"], 4, False),
    ],
)
async def test_no_more_is_kept_than_there_is_room_for(
    volume: AnyVolume, room: int | None, pieces: list[bytes], kept: int, overflow: bool
) -> None:
    record = await owned_upload(volume)
    segment = await volume.open_segment(record.upload_id, "bytes.1", create=True, size=0, sync=True)
    taken = await fill(segment, *pieces, room=room)
    await segment.close()
    assert (taken.overflow, segment.size, await measured(volume, record)) == (overflow, kept, kept)


async def test_what_came_before_a_cut_is_kept(volume: AnyVolume) -> None:
    record = await owned_upload(volume)
    segment = await volume.open_segment(record.upload_id, "bytes.1", create=True, size=0, sync=True)
    with pytest.raises(BodyCutError) as cut:
        await segment.take(Bytes(b"abc", cut=CutReason.CLIENT), room=None, on_kept=lambda _: None)
    assert cut.value.reason is CutReason.CLIENT
    await segment.close()
    assert (segment.size, await measured(volume, record)) == (3, 3)


async def test_every_kept_byte_is_shown_once_and_in_order(volume: AnyVolume) -> None:
    record = await owned_upload(volume)
    segment = await volume.open_segment(record.upload_id, "bytes.1", create=True, size=0, sync=True)
    seen = bytearray()
    await segment.take(Bytes(b"ab", b"cdef"), room=5, on_kept=lambda _: None, see=seen.extend)
    assert seen == b"abcde"
    again = bytearray()
    await segment.read_back(2, again.extend)
    await segment.close()
    assert again == b"cde"


async def test_what_is_cut_back_is_forgotten(volume: AnyVolume) -> None:
    record = await owned_upload(volume)
    segment = await volume.open_segment(record.upload_id, "bytes.1", create=True, size=0, sync=True)
    await fill(segment, b"abcdef")
    await segment.cut_back(2)
    assert segment.size == 2
    await fill(segment, b"X")
    await segment.close()
    assert await measured(volume, record) == 3


async def test_two_targets_have_segments_of_their_own(volume: AnyVolume) -> None:
    record = await owned_upload(volume)
    part = Content().grown_by("part-p.1", volume.id, 0)
    await put(volume, record.upload_id, "bytes.1", b"abc")
    await put(volume, record.upload_id, "part-p.1", b"defgh")
    assert (await measured(volume, record), await measured(volume, record, part)) == (3, 5)


# -- measuring


async def test_nothing_is_measured_where_no_byte_has_come(volume: AnyVolume) -> None:
    record = await owned_upload(volume)
    assert await measured(volume, record) == 0
    assert await measured(volume, record, Content()) == 0


async def test_closed_ranges_and_the_growing_one_make_the_offset(volume: AnyVolume) -> None:
    record = await owned_upload(volume)
    await put(volume, record.upload_id, "bytes.1", b"abcdef")
    await put(volume, record.upload_id, "bytes.2", b"gh")
    content = record.content.cut_at(4).grown_by("bytes.2", volume.id, 4)
    assert await measured(volume, record, content) == 6


async def test_a_closed_range_that_is_short_ends_the_offset(volume: AnyVolume) -> None:
    """Less than is noted: bytes were lost."""
    record = await owned_upload(volume)
    await put(volume, record.upload_id, "bytes.1", b"abc")
    await put(volume, record.upload_id, "bytes.2", b"gh")
    content = record.content.cut_at(4).grown_by("bytes.2", volume.id, 4)
    assert await measured(volume, record, content) == 3 < content.noted_offset


async def test_unverified_bytes_do_not_count(volume: AnyVolume) -> None:
    record = await owned_upload(volume)
    await put(volume, record.upload_id, "bytes.1", b"abcdef")
    assert await measured(volume, record, dataclasses.replace(record.content, unverified_from=2)) == 2


async def test_no_more_counts_than_the_length(volume: AnyVolume) -> None:
    record = await owned_upload(volume)
    await put(volume, record.upload_id, "bytes.1", b"abcdef")
    assert await measured(volume, record, dataclasses.replace(record.content, length=5)) == 5


@pytest.mark.parametrize("noted", [0, 2])
async def test_after_another_boot_only_what_was_noted_counts(volume: AnyVolume, noted: int) -> None:
    record = await owned_upload(volume)
    await put(volume, record.upload_id, "bytes.1", b"abcdef")
    content = dataclasses.replace(record.content, noted_offset=noted)
    before = dataclasses.replace(record, boot_id="of another kernel")
    assert await measured(volume, before, content) == noted
    assert await measured(volume, record, content) == 6


async def test_a_lost_segment_is_noticed(volume: AnyVolume) -> None:
    record = await owned_upload(volume)
    content = dataclasses.replace(record.content, noted_offset=6)
    assert await measured(volume, record, content) == 0


async def test_what_does_not_count_can_be_cut_back(volume: AnyVolume) -> None:
    """After this it does not count for another record that knows nothing of it, either."""
    record = await owned_upload(volume)
    await put(volume, record.upload_id, "bytes.1", b"abcdef")
    await volume.cut_back(record.upload_id, record.content, 4)
    assert await measured(volume, record) == 4
    # More than there is: nothing is added, and nothing is to be found fault with.
    await volume.cut_back(record.upload_id, record.content, 9)
    assert await measured(volume, record) == 4
    await volume.cut_back(record.upload_id, record.content.cut_at(1), 0)
    assert await measured(volume, record) == 4


async def test_cutting_back_minds_what_the_segment_skips(volume: AnyVolume) -> None:
    record = await owned_upload(volume)
    await put(volume, record.upload_id, "bytes.1", b"abcdef")
    await put(volume, record.upload_id, "bytes.2", b"gh")
    content = record.content.cut_at(4).grown_by("bytes.2", volume.id, 4)
    await volume.cut_back(record.upload_id, content, 5)
    assert await measured(volume, record, content) == 5


# -- joining


async def test_a_segment_that_nobody_has_written_yet_need_not_be_there_to_be_synced(volume: AnyVolume) -> None:
    """Whoever is killed between a claim and the first byte leaves a record that names it. One that holds bytes must."""
    record = await owned_upload(volume)
    await put(volume, record.upload_id, "bytes.1", b"abc")
    whole = complete_record(record, ("bytes.1", 0, 3), volume=volume).content
    await volume.sync_segments(record, whole.grown_by("bytes.2", volume.id, 3))
    await volume.drop_segments(record.upload_id, ["bytes.1"])
    with pytest.raises(VolumeUnavailableError):
        await volume.sync_segments(record, whole)


@pytest.mark.parametrize(
    "pieces, expected",
    [
        ([("bytes.1", 0, 6)], b"abcdef"),
        ([("bytes.1", 0, 4)], b"abcd"),
        ([("bytes.1", 2, 4)], b"cdef"),
        ([("bytes.1", 0, 3), ("bytes.2", 0, 2)], b"abcgh"),
        ([("bytes.2", 0, 2), ("bytes.1", 0, 6), ("bytes.2", 0, 2)], b"ghabcdefgh"),
        ([("bytes.1", 0, 0), ("bytes.2", 0, 2)], b"gh"),
        ([("bytes.9", 0, 0)], b""),
        ([], b""),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else None,
)
async def test_a_complete_file_is_made_of_its_pieces(
    volume: AnyVolume, pieces: list[tuple[str, int, int]], expected: bytes
) -> None:
    """Made again, as after a crash, it is the same; and the same when the segments are gone."""
    record = await owned_upload(volume)
    await put(volume, record.upload_id, "bytes.1", b"abcdef")
    await put(volume, record.upload_id, "bytes.2", b"gh")
    complete = complete_record(record, *pieces, volume=volume)
    await volume.write(complete, sync=True)
    await volume.sync_segments(complete, complete.content if expected else Content())
    for _ in range(2):
        await volume.join(complete)
        assert await whole_file(volume, complete) == expected
    await volume.drop_bytes(complete, file_too=False)
    assert await whole_file(volume, complete) == expected
    await volume.drop_bytes(complete, file_too=True)
    assert await whole_file(volume, complete) is None


async def test_a_file_is_never_made_of_too_little(volume: AnyVolume) -> None:
    record = await owned_upload(volume)
    await put(volume, record.upload_id, "bytes.1", b"abc")
    for pieces in ([("bytes.1", 0, 4)], [("bytes.1", 0, 3), ("bytes.1", 1, 3)], [("bytes.7", 0, 1)]):
        with pytest.raises(VolumeUnavailableError):
            await volume.join(complete_record(record, *pieces, volume=volume))
        assert await whole_file(volume, record) is None


async def test_a_file_is_read_in_pieces(volume: AnyVolume) -> None:
    record = await owned_upload(volume)
    await put(volume, record.upload_id, "bytes.1", b"abcdef")
    await volume.join(complete_record(record, ("bytes.1", 0, 6), volume=volume))
    file = await volume.open_file(record)
    assert file is not None
    assert file.size == 6
    assert [await file.read(0, 4), await file.read(4, 4), await file.read(6, 4)] == [b"abcd", b"ef", b""]
    await file.close()
    await file.close()


async def test_adopted_bytes_outlive_where_they_come_from(volume: AnyVolume) -> None:
    source = await owned_upload(volume, 1)
    taker = await owned_upload(volume, 2)
    await put(volume, source.upload_id, "bytes.1", b"abc")
    for _ in range(2):
        await volume.adopt_segments(taker.upload_id, source.upload_id, {"bytes.1": "from-0.bytes.1"})
    await volume.drop_bytes(source, file_too=True)
    await volume.remove(source.upload_id)
    await volume.join(complete_record(taker, ("from-0.bytes.1", 0, 3), volume=volume))
    assert await whole_file(volume, taker) == b"abc"


# -- deleting


async def test_dropped_segments_are_gone_and_others_stay(volume: AnyVolume) -> None:
    record = await owned_upload(volume)
    await put(volume, record.upload_id, "bytes.1", b"abc")
    await put(volume, record.upload_id, "part-p.1", b"de")
    await volume.drop_segments(record.upload_id, ["part-p.1", "part-never.1"])
    assert await measured(volume, record) == 3
    assert await measured(volume, record, Content().grown_by("part-p.1", volume.id, 0)) == 0


async def test_without_its_bytes_the_record_stays(volume: AnyVolume) -> None:
    record = await owned_upload(volume)
    await put(volume, record.upload_id, "bytes.1", b"abc")
    await put(volume, record.upload_id, "part-p.1", b"abc")
    for _ in range(2):
        await volume.drop_bytes(record, file_too=True)
    assert await volume.read(record.upload_id) == record
    assert await measured(volume, record) == 0


async def test_a_removed_upload_is_gone_but_for_a_file_that_was_kept(volume: AnyVolume) -> None:
    record = await owned_upload(volume)
    await put(volume, record.upload_id, "bytes.1", b"abc")
    await volume.join(complete_record(record, ("bytes.1", 0, 3), volume=volume))
    for _ in range(2):
        await volume.remove(record.upload_id)
    assert await volume.read(record.upload_id) is None
    assert await volume.ids_in(volume.group_of(record.upload_id)) == []
    assert await whole_file(volume, record) == b"abc"


async def test_what_is_written_to_a_removed_upload_is_refused(volume: AnyVolume) -> None:
    record = await owned_upload(volume)
    await volume.remove(record.upload_id)
    with pytest.raises(VolumeError):
        await volume.write(record, sync=True)
    assert await volume.read(record.upload_id) is None


# -- lists and keys


async def test_every_upload_is_in_its_group(volume: AnyVolume) -> None:
    wanted = sorted(new_id(number) for number in range(1, 200, 7))
    for number in range(1, 200, 7):
        await volume.create(new_record(number))
    found = [upload_id for group in await volume.groups() for upload_id in await volume.ids_in(group)]
    assert sorted(found) == wanted
    for upload_id in wanted:
        assert upload_id in await volume.ids_in(volume.group_of(upload_id))
    assert await volume.ids_in("zz") == []


async def test_a_key_leads_to_the_upload_that_it_was_bound_to_last(machine: Machine) -> None:
    volume = machine.volume
    odd = "../../ü\n" + "x" * 5000
    assert await volume.find_key(odd) is None
    await volume.bind_key(odd, new_id(1), instead_of=None)
    await volume.bind_key("other", new_id(3), instead_of=None)
    assert await volume.bind_key(odd, new_id(2), instead_of=new_id(1)) == new_id(2)
    volume = await machine.restart()
    assert (await volume.find_key(odd), await volume.find_key("other")) == (new_id(2), new_id(3))


async def test_keys_of_uploads_that_are_gone_are_forgotten(volume: AnyVolume) -> None:
    await volume.create(new_record(1))
    await volume.bind_key("stays", new_id(1), instead_of=None)
    await volume.bind_key("goes", new_id(2), instead_of=None)
    await volume.forget_keys()
    assert (await volume.find_key("stays"), await volume.find_key("goes")) == (new_id(1), None)


async def test_there_is_room_for_a_little_and_not_for_anything(volume: AnyVolume) -> None:
    if not hasattr(volume, "root"):
        volume.disk.free_bytes = 10**6
    assert await volume.has_room(1000)
    assert not await volume.has_room(10**18)


async def test_a_group_shows_that_an_upload_has_come(volume: AnyVolume) -> None:
    assert await volume.stamps() == {}
    await volume.create(new_record(1))
    group = volume.group_of(new_id(1))
    before = await volume.stamps()
    assert set(before) == {group}
    await volume.create(new_record(1 + 62**2))
    assert (await volume.stamps())[group] != before[group]


async def test_a_run_of_bytes_is_read_from_a_segment(volume: AnyVolume) -> None:
    record = await owned_upload(volume)
    await put(volume, record.upload_id, "bytes.1", b"abcdef")
    read = [await volume.read_range(record.upload_id, "bytes.1", *span) for span in ((0, 6), (2, 3), (4, 9), (6, 1))]
    assert read == [b"abcdef", b"cde", b"ef", b""]
    with pytest.raises(VolumeUnavailableError):
        await volume.read_range(record.upload_id, "bytes.2", 0, 1)


async def test_an_upload_stands_where_its_record_says(volume: AnyVolume) -> None:
    assert await volume.standing(new_id()) is None
    await volume.create(new_record())
    standing = await volume.standing(new_id())
    assert standing is not None
    assert (standing.record, standing.claim, standing.epoch) == (new_record(), None, 0)
    claim, record = claimed(new_record(), volume)
    await volume.claim(record.upload_id, claim)
    await volume.write(record, sync=True)
    standing = await volume.standing(new_id())
    assert standing is not None
    assert (standing.record, standing.epoch) == (record, 1)


async def test_the_own_run_is_not_gone(volume: AnyVolume) -> None:
    assert not await volume.gone(ME)


async def test_a_run_that_had_the_volume_before_is_gone(machine: Machine) -> None:
    """It closed it; and where nobody shares it, the lock shows it of every other run."""
    volume = await machine.restart()
    assert await volume.gone(ME)
    assert await volume.gone(Identity("other", "never-here")) is not machine.shared


# -- several processes


OTHER = Identity("other", "start-2", "10.0.0.2:4002")


async def test_of_racing_claims_one_wins(fleet: Machine) -> None:
    """Whoever makes it, the chain has no gap and no fork."""
    first, second = fleet.volume, fleet.join()
    await first.create(new_record())
    for epoch in range(1, 6):
        racers = [(volume, claimed(new_record(), volume, epoch=epoch)[0]) for volume in (first, second) * 4]
        results = await asyncio.gather(*(v.claim(new_id(), claim) for v, claim in racers), return_exceptions=True)
        won = [claim for (_, claim), result in zip(racers, results, strict=True) if result is None]
        assert len(won) == 1, results
        assert [type(result) for result in results].count(ClaimTakenError) == 7
        standing = await second.standing(new_id())
        assert standing is not None
        assert (standing.claim, standing.epoch, standing.record) == (won[0], epoch, new_record())


async def test_a_claim_of_another_process_is_seen_at_the_next_look(fleet: Machine) -> None:
    first, second = fleet.volume, fleet.join()
    record = await owned_upload(first)
    assert await first.look(record.upload_id, 1)
    assert await second.look(record.upload_id, 1)
    claim, _ = claimed(record, second, owner=OTHER)
    await second.claim(record.upload_id, claim)
    assert not await first.look(record.upload_id, 1)
    assert await second.look(record.upload_id, 2)


async def test_a_claim_without_a_record_only_uses_up_its_number(fleet: Machine) -> None:
    first, second = fleet.volume, fleet.join()
    record = await owned_upload(first)
    claim, _ = claimed(record, second, owner=OTHER)
    await second.claim(record.upload_id, claim)
    assert await first.read(record.upload_id) == record
    for epoch in (1, 2, 4):
        with pytest.raises(ClaimTakenError):
            await first.claim(record.upload_id, claimed(record, first, epoch=epoch)[0])
    third, record_3 = claimed(record, first, epoch=3)
    await first.claim(record.upload_id, third)
    await first.write(record_3, sync=True)
    standing = await second.standing(record.upload_id)
    assert standing is not None
    assert (standing.record, standing.epoch) == (record_3, 3)


async def test_a_claim_whose_answer_was_lost_is_ones_own(fleet: Machine) -> None:
    """The same claim again succeeds; the same number under another random id does not."""
    volume = fleet.volume
    await volume.create(new_record())
    claim, _ = claimed(new_record(), volume)
    await volume.claim(new_id(), claim)
    await volume.claim(new_id(), claim)
    with pytest.raises(ClaimTakenError):
        await volume.claim(new_id(), dataclasses.replace(claim, create_id="another"))


async def test_a_late_write_of_a_former_tenure_replaces_nothing(fleet: Machine) -> None:
    first, second = fleet.volume, fleet.join()
    record = await owned_upload(first)
    claim, record_2 = claimed(record, second, owner=OTHER)
    await second.claim(record.upload_id, claim)
    await second.write(record_2, sync=True)
    assert fleet.names(record.upload_id) == {"claim.1.json", "claim.2.json", "record.2.json"}
    await first.write(dataclasses.replace(record, expires_at=99.0), sync=True)
    assert await second.read(record.upload_id) == record_2
    assert await first.read(record.upload_id) == record_2


async def test_claims_stay_files_when_nobody_shares_any_more(fleet: Machine) -> None:
    record = await owned_upload(fleet.volume)
    await fleet.close()
    alone = fleet.open(shared=False)
    claim, record = claimed(record, alone)
    await alone.claim(record.upload_id, claim)
    await alone.write(record, sync=True)
    assert fleet.names(record.upload_id) == {"claim.1.json", "claim.2.json", "record.2.json"}
    await alone.close()
    again = fleet.join()
    standing = await again.standing(record.upload_id)
    assert standing is not None
    assert (standing.record, standing.epoch) == (record, 2)


@pytest.mark.parametrize("machine", ["directory", "memory"], indirect=True)
async def test_uploads_from_before_the_sharing_go_on(machine: Machine) -> None:
    """Their record stays as it is until the next tenure has written its own."""
    record = await owned_upload(machine.volume)
    await put(machine.volume, record.upload_id, "bytes.1", b"abc")
    await machine.close()
    volume = machine.join()
    assert machine.names(record.upload_id) == {"record.json", "bytes.1"}
    standing = await volume.standing(record.upload_id)
    assert standing is not None
    assert (standing.record, standing.claim, standing.epoch) == (record, None, 1)
    for epoch in (1, 3):
        with pytest.raises(ClaimTakenError):
            await volume.claim(record.upload_id, claimed(record, volume, epoch=epoch)[0])
    claim, record_2 = claimed(record, volume)
    await volume.claim(record.upload_id, claim)
    assert await volume.read(record.upload_id) == record
    assert await volume.measure(record, record.content) == 3
    await volume.write(record_2, sync=True)
    assert machine.names(record.upload_id) == {"claim.2.json", "record.2.json", "bytes.1"}


async def test_of_a_run_that_lives_or_was_never_here_nothing_shows_that_it_is_gone(fleet: Machine) -> None:
    first, second = fleet.volume, fleet.join()
    assert not await first.gone(OTHER)
    assert not await second.gone(ME)
    for start_id in ("never-here", "", "../start-1", "x" * 300, "ü\n"):
        assert not await first.gone(Identity("other", start_id))
    await second.close()
    assert await first.gone(OTHER)
    assert await first.gone(dataclasses.replace(OTHER, name="under another name", address=""))


async def test_what_is_removed_is_gone_at_once_for_all(fleet: Machine) -> None:
    first, second = fleet.volume, fleet.join()
    record = await owned_upload(first)
    segment = await first.open_segment(record.upload_id, "bytes.1", create=True, size=0, sync=True)
    await second.remove(record.upload_id)
    assert not await first.look(record.upload_id, 1)
    assert await first.standing(record.upload_id) is None
    with pytest.raises(ClaimTakenError):
        await first.claim(record.upload_id, claimed(record, first)[0])
    with pytest.raises(VolumeError):
        await first.write(record, sync=True)
    await fill(segment, b"late")
    await segment.close()
    assert await second.standing(record.upload_id) is None
    assert await second.ids_in(second.group_of(record.upload_id)) == []


@pytest.mark.parametrize("skipped", [0, 2])
async def test_a_range_that_was_taken_by_force_is_copied(fleet: Machine, skipped: int) -> None:
    """Its former writer may still have it open: whatever it writes, the complete file stays as it is."""
    first, second = fleet.volume, fleet.join()
    record = await owned_upload(first)
    segment = await first.open_segment(record.upload_id, "bytes.1", create=True, size=0, sync=True)
    await fill(segment, b"abcdef")
    whole = complete_record(record, ("bytes.1", skipped, 4), volume=second)
    (part,) = whole.content.map
    content = dataclasses.replace(whole.content, map=(dataclasses.replace(part, contested=True),))
    whole = dataclasses.replace(whole, content=content)
    await second.join(whole)
    await segment.cut_back(2)
    await fill(segment, b"XYZ late")
    await segment.close()
    assert await whole_file(second, whole) == b"abcdef"[skipped : skipped + 4]
    await second.drop_bytes(whole, file_too=False)
    assert await whole_file(first, whole) == b"abcdef"[skipped : skipped + 4]


async def test_two_runs_may_make_the_same_file(fleet: Machine) -> None:
    """One of them was taken for dead."""
    first, second = fleet.volume, fleet.join()
    record = await owned_upload(first)
    await put(first, record.upload_id, "bytes.1", b"abc")
    await put(first, record.upload_id, "bytes.2", b"def")
    whole = complete_record(record, ("bytes.1", 0, 3), ("bytes.2", 0, 3), volume=first)
    for _ in range(4):
        await asyncio.gather(first.join(whole), second.join(whole))
    assert await whole_file(first, whole) == b"abcdef"
    await second.drop_bytes(whole, file_too=False)
    assert {name for name in fleet.names(record.upload_id) if not name.endswith(".json")} == set()


async def test_bytes_go_and_claims_stay(fleet: Machine) -> None:
    record = await owned_upload(fleet.volume)
    await put(fleet.volume, record.upload_id, "bytes.1", b"abc")
    await fleet.volume.drop_bytes(record, file_too=True)
    assert fleet.names(record.upload_id) == {"claim.1.json", "record.1.json"}


async def test_of_racing_bindings_of_a_key_one_wins_and_all_are_told(fleet: Machine) -> None:
    volumes = [fleet.volume, fleet.join(), fleet.join()]
    before = None
    for number in range(10, 15):
        racers = [(volume, new_id(100 * number + index)) for index, volume in enumerate(volumes * 3)]
        told = await asyncio.gather(*(v.bind_key("key", each, instead_of=before) for v, each in racers))
        assert len(set(told)) == 1
        assert told[0] in [upload_id for _, upload_id in racers]
        assert [await volume.find_key("key") for volume in volumes] == [told[0]] * 3
        before = told[0]


async def test_who_has_seen_an_older_binding_is_told_the_newer_one(machine: Machine) -> None:
    volume = machine.volume
    assert await volume.bind_key("key", new_id(1), instead_of=None) == new_id(1)
    assert await volume.bind_key("key", new_id(2), instead_of=None) == new_id(1)
    assert await volume.bind_key("key", new_id(2), instead_of=new_id(1)) == new_id(2)
    assert await volume.bind_key("key", new_id(3), instead_of=new_id(1)) == new_id(2)
    assert await volume.find_key("key") == new_id(2)


async def test_a_forgotten_key_can_be_bound_again(machine: Machine) -> None:
    volume = machine.volume
    for number in range(1, 4):
        assert await volume.bind_key("key", new_id(number), instead_of=None) == new_id(number)
        await volume.forget_keys()
        assert await volume.find_key("key") is None
    await volume.create(new_record(5))
    assert await volume.bind_key("key", new_id(5), instead_of=new_id(3)) == new_id(5)
    await volume.forget_keys()
    assert await volume.find_key("key") == new_id(5)


# -- digests of blocks


def written(machine: Machine, upload_id: str) -> set[str]:
    return {name for name in machine.names(upload_id) if name.startswith("digests.")}


async def test_digests_of_blocks_are_read_as_they_were_written(machine: Machine) -> None:
    """Each piece at its place, and nothing stays behind the last one; the next process finds them."""
    upload_id = (await owned_upload(machine.volume)).upload_id
    blocks = machine.volume.blocks
    assert await blocks.read(upload_id, 1) == b""
    await blocks.write(upload_id, 1, 0, b"head one two")
    await blocks.write(upload_id, 1, 12, b" three")
    await blocks.write(upload_id, 1, 8, b" 2")
    assert await blocks.read(upload_id, 1) == b"head one 2"
    assert await (await machine.restart()).blocks.read(upload_id, 1) == b"head one 2"


async def test_digests_of_former_tenures_go_when_a_later_one_begins_its_own(machine: Machine) -> None:
    """Not before, since it reads them; and one that comes late takes nothing from a later tenure."""
    record = await owned_upload(machine.volume)
    blocks = machine.volume.blocks
    await blocks.write(record.upload_id, 2, 0, b"two")
    await blocks.write(record.upload_id, 10, 0, b"ten")
    assert written(machine, record.upload_id) == {"digests.10"}
    await blocks.write(record.upload_id, 9, 0, b"late")
    assert await blocks.read(record.upload_id, 10) == b"ten"
    assert await blocks.read(record.upload_id, 2) == b""


async def test_digests_of_blocks_are_no_bytes_and_go_with_them(machine: Machine) -> None:
    record = await owned_upload(machine.volume)
    await put(machine.volume, record.upload_id, "bytes.1", b"abc")
    await machine.volume.blocks.write(record.upload_id, 1, 0, b"digests")
    assert await machine.volume.segments_of(record.upload_id) == {"bytes.1": 3}
    await machine.volume.drop_bytes(record, file_too=True)
    assert written(machine, record.upload_id) == set()


async def test_a_segment_is_shown_as_far_as_it_reaches(volume: AnyVolume) -> None:
    record = await owned_upload(volume)
    await put(volume, record.upload_id, "bytes.1", b"abcdef")

    async def shown(start: int, size: int) -> tuple[int, bytes]:
        seen = bytearray()
        count = await volume.blocks.look_through(record.upload_id, "bytes.1", start, size, seen.extend)
        return count, bytes(seen)

    assert [await shown(*span) for span in ((0, 6), (2, 3), (4, 9), (6, 1))] == [
        (6, b"abcdef"),
        (3, b"cde"),
        (2, b"ef"),
        (0, b""),
    ]
    with pytest.raises(VolumeUnavailableError):
        await volume.blocks.look_through(record.upload_id, "bytes.2", 0, 1, bytearray().extend)


async def test_digests_of_an_upload_that_is_gone_are_refused(volume: AnyVolume) -> None:
    record = await owned_upload(volume)
    await volume.remove(record.upload_id)
    with pytest.raises(VolumeUnavailableError):
        await volume.blocks.write(record.upload_id, 1, 0, b"digests")


# -- looking through a group


async def test_a_group_is_looked_through_as_its_uploads_stand(machine: Machine) -> None:
    """Also what an end has left behind, and what cannot be read; of one that is open no bytes are looked for."""
    volume = machine.volume
    number = 62**2
    opened, ended = await owned_upload(volume, 1), await owned_upload(volume, 1 + number)
    left = await owned_upload(volume, 1 + 2 * number)
    for record in (opened, left):
        await put(volume, record.upload_id, "bytes.1", b"abc")
    ended, left = (dataclasses.replace(record, status=Status.CANCELLED) for record in (ended, left))
    for record in (ended, left):
        await volume.write(record, sync=True)
    group = volume.group_of(opened.upload_id)
    found = {each.upload_id: each for each in await volume.survey(group)}
    for record, has_bytes in ((opened, False), (ended, False), (left, True)):
        standing = found[record.upload_id].standing
        assert standing is not None
        assert (standing.record, standing.claim) == (record, None)
        assert found[record.upload_id].has_bytes is has_bytes
    await volume.drop_bytes(left, file_too=True)
    assert not any(each.has_bytes for each in await volume.survey(group))
    assert await volume.survey("zz") == []
