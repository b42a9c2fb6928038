"""What every registry promises, whatever holds its values."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial

import pytest

from incomingd.core.ring import Instance
from incomingd.registry.registry import (
    GenerationChanged,
    Invitation,
    InvitationsWaiting,
    OwnershipContradicted,
    Registry,
    RegistryUnavailableError,
    SettledChanged,
    Trouble,
)
from incomingd.registry.store import TAKEN_MAX
from tests.registry.fleets import VOLUME, Fleet, Member, identity, until, upload

A, A_AGAIN, B, C = identity("a"), identity("a", "2f"), identity("b"), identity("c")

# -- ownership: also for an instance that is alone


async def test_nobody_is_known_to_own_what_nobody_has_published(registry: Registry) -> None:
    assert await registry.owner_of(upload()) is None


async def test_what_is_published_is_found(registry: Registry) -> None:
    assert await registry.owned(upload(1), A, 3) is None
    assert await registry.owned(upload(2), B, 7) is None
    assert await registry.owner_of(upload(1)) == (A, 3)
    assert await registry.owner_of(upload(2)) == (B, 7)


async def test_publishing_again_changes_nothing(registry: Registry) -> None:
    for _ in range(2):
        assert await registry.owned(upload(), A, 3) is None
    assert await registry.owner_of(upload()) == (A, 3)


@pytest.mark.parametrize(
    "published, then, stands",
    [
        ((A, 3), (B, 4), (B, 4)),
        ((A, 3), (A, 4), (A, 4)),
        ((A, 3), (A, 3), (A, 3)),
        ((A, 3), (B, 3), (A, 3)),
        ((A, 3), (A_AGAIN, 3), (A, 3)),
        ((A, 3), (B, 2), (A, 3)),
        ((A, 3), (A, 2), (A, 3)),
        # As numbers, not as texts.
        ((A, 9), (B, 10), (B, 10)),
        ((A, 10), (B, 9), (A, 10)),
    ],
)
async def test_an_entry_yields_to_a_higher_epoch_only(
    registry: Registry,
    published: tuple[object, int],
    then: tuple[object, int],
    stands: tuple[object, int],
) -> None:
    """And who publishes is told what stands against it."""
    await registry.owned(upload(), *published)  # type: ignore[arg-type] # a table's row
    answer = await registry.owned(upload(), *then)  # type: ignore[arg-type] # a table's row
    assert await registry.owner_of(upload()) == stands
    assert answer == (None if then == stands else stands)


async def test_an_entry_yields_to_a_correction_that_names_it(registry: Registry) -> None:
    """The volume wins, whatever the epochs are."""
    await registry.owned(upload(), B, 5)
    assert await registry.corrected(upload(), (B, 5), C, 1) is None
    assert await registry.owner_of(upload()) == (C, 1)
    assert await registry.corrected(upload(), (C, 1), None, 1) is None
    assert await registry.owner_of(upload()) is None


@pytest.mark.parametrize("named", [(A, 5), (B, 4), (B, 6), (identity("b", "2f"), 5)])
async def test_a_correction_of_what_no_longer_stands_does_nothing(
    registry: Registry, named: tuple[object, int]
) -> None:
    """A correction that is late must not undo what happened meanwhile; who makes it is told what stands."""
    await registry.owned(upload(), B, 5)
    for owner in (C, None):
        assert await registry.corrected(upload(), named, owner, 9) == (B, 5)  # type: ignore[arg-type] # a table's row
    assert await registry.owner_of(upload()) == (B, 5)


async def test_a_correction_where_nothing_stands_is_published(registry: Registry) -> None:
    assert await registry.corrected(upload(), (B, 5), C, 2) is None
    assert await registry.owner_of(upload()) == (C, 2)
    assert await registry.corrected(upload(1), (B, 5), None, 2) is None
    assert await registry.owner_of(upload(1)) is None


@pytest.mark.parametrize(
    "by, epoch, remains", [(A, 3, False), (A, 4, False), (A, 2, True), (B, 9, True), (A_AGAIN, 9, True)]
)
async def test_only_the_owner_takes_an_entry_back(registry: Registry, by: object, epoch: int, remains: bool) -> None:
    await registry.owned(upload(), A, 3)
    await registry.released(upload(), by, epoch)  # type: ignore[arg-type] # a table's row
    assert await registry.owner_of(upload()) == ((A, 3) if remains else None)


async def test_taking_back_what_is_not_there_is_no_error(registry: Registry) -> None:
    await registry.released(upload(), A, 1)
    assert await registry.owner_of(upload()) is None


async def test_an_instance_lives_and_invites_itself(registry: Registry) -> None:
    assert await registry.live() == [A]
    assert [each.identity for each in registry.instances] == [A]
    assert registry.available
    assert registry.lease_holds
    assert await registry.renew()
    await registry.invite(A, [Invitation(upload(), 2, A)])
    assert await registry.invitations() == [Invitation(upload(), 2, A)]
    assert await registry.invitations() == []


async def test_what_an_instance_says_of_itself_can_change(registry: Registry) -> None:
    await registry.advertise(replace(registry.instance, draining=True, full=True))
    [own] = registry.instances
    assert own.draining
    assert own.full


# -- several instances


async def test_instances_see_each_other_come_and_go(fleet: Fleet) -> None:
    a = await fleet.join("a")
    b = await fleet.join("b")
    await a.has_seen("a", "b")
    await b.has_seen("a", "b")
    assert sorted(await a.registry.live(), key=lambda each: each.name) == [A, B]
    await b.registry.close()
    await a.has_seen("a")
    assert a.came() == ["b"]
    assert a.gone() == ["b"]
    assert await a.registry.live() == [A]


async def test_what_an_instance_advertises_is_seen_by_the_others(fleet: Fleet) -> None:
    a, b = await fleet.join("a"), await fleet.join("b")
    said = replace(
        b.registry.instance,
        volumes=frozenset({VOLUME, "wwwwwwwwwwww"}),
        draining=True,
        full=True,
        version="9.9",
        started_at=12.5,
    )
    await b.registry.advertise(said)
    await until(lambda: said in a.registry.instances, "what b says now")


async def test_a_lease_that_nobody_renews_lapses(fleet: Fleet) -> None:
    a, b = await fleet.join("a"), await fleet.join("b")
    await a.has_seen("a", "b")
    await fleet.crash(b)
    assert B in await a.registry.live()
    await a.has_seen("a")
    assert await a.registry.live() == [A]


async def test_a_lease_that_is_renewed_does_not_lapse(fleet: Fleet) -> None:
    """It is still there when one that was not renewed since has lapsed."""
    # Long enough for a machine that is busy with something else.
    fleet.lease_s = 2.0
    a, b, c = await fleet.join("a"), await fleet.join("b"), await fleet.join("c")
    await a.has_seen("a", "b", "c")
    await fleet.crash(c)
    await a.has_seen("a", "b")
    await b.has_seen("a", "b")
    assert a.gone() == ["c"]
    assert b.gone() == ["c"]


async def test_runs_of_one_name_have_leases_of_their_own(fleet: Fleet) -> None:
    """A restarted instance does not keep its former run alive, nor end it."""
    watcher = await fleet.join("w")
    before = await fleet.join("a", "1f")
    await fleet.crash(before)
    after = await fleet.join("a", "2f")
    assert {A, A_AGAIN} <= set(await watcher.registry.live())
    await watcher.settled()
    await until(lambda: "a" in watcher.gone(), "the former run's lease has lapsed")
    assert await watcher.registry.lapsed(A)
    assert not await watcher.registry.lapsed(A_AGAIN)
    await after.registry.close()


async def test_settled_a_missing_lease_means_gone(fleet: Fleet) -> None:
    a = await fleet.join("a")
    assert not a.registry.settled
    assert not await a.registry.lapsed(B), "unsettled: nobody is gone"
    await a.settled()
    assert await a.registry.lapsed(B)
    assert not await a.registry.lapsed(A)
    await until(lambda: a.told(SettledChanged), "told so")
    assert a.told(SettledChanged) == [SettledChanged(settled=True)]


async def test_what_one_publishes_the_others_find(fleet: Fleet) -> None:
    a, b = await fleet.join("a"), await fleet.join("b")
    await a.registry.owned(upload(), A, 1)
    assert await b.registry.owner_of(upload()) == (A, 1)
    await b.registry.owned(upload(), B, 2)
    await a.registry.released(upload(), A, 1)
    assert await a.registry.owner_of(upload()) == (B, 2)


async def test_after_a_wipe_everything_that_is_owned_is_published_again(fleet: Fleet) -> None:
    """And leases are taken again, unsettled for one lease time; what was released stays so."""
    a, b = await fleet.join("a"), await fleet.join("b")
    for number in range(20):
        await a.registry.owned(upload(number), A, number + 1)
    await a.registry.released(upload(3), A, 4)
    await a.registry.owned(upload(50), C, 9)
    await a.settled()
    await until(lambda: a.told(SettledChanged), "told so")
    before, heard = a.told(GenerationChanged)[-1].generation, len(a.told(SettledChanged))
    fleet.wipe()
    for member in (a, b):
        await until(partial(has_another_generation, member, before), "the wipe is noticed")
        await member.settled()
    await until(lambda: len(a.told(SettledChanged)) >= heard + 2, "unsettled, and settled again")
    assert a.told(SettledChanged)[heard : heard + 2] == [SettledChanged(settled=False), SettledChanged(settled=True)]
    assert [await b.registry.owner_of(upload(number)) for number in range(20)] == [
        None if number == 3 else (A, number + 1) for number in range(20)
    ]
    assert await b.registry.owner_of(upload(50)) is None, "another's entry is for that other to publish"
    assert set(await b.registry.live()) == {A, B}
    assert a.told(GenerationChanged)[-1].generation == b.told(GenerationChanged)[-1].generation


def has_another_generation(member: Member, than: str) -> bool:
    return member.told(GenerationChanged)[-1].generation != than


async def test_all_instances_agree_on_the_generation(fleet: Fleet) -> None:
    members = [await fleet.join(name) for name in "abc"]
    await until(lambda: all(member.told(GenerationChanged) for member in members), "a generation")
    assert len({member.told(GenerationChanged)[0].generation for member in members}) == 1


async def test_an_owner_whose_entry_is_contradicted_hears_of_it(fleet: Fleet) -> None:
    """After a wipe somebody else's entry came first: the volume has to decide, and the correction is kept."""
    a, b = await fleet.join("a"), await fleet.join("b", started=False)
    await a.registry.owned(upload(), A, 1)
    fleet.wipe()
    await b.registry._store.publish([b.registry._entry(upload(), B, 5)])
    await until(lambda: a.told(OwnershipContradicted), "the contradiction")
    assert a.told(OwnershipContradicted)[0] == OwnershipContradicted(upload(), (B, 5))
    assert await a.registry.corrected(upload(), (B, 5), A, 1) is None
    assert await a.registry.owner_of(upload()) == (A, 1)


async def test_a_key_of_a_web_app_leads_everybody_to_the_upload_that_was_first(fleet: Fleet) -> None:
    a, b = (await fleet.join("a")).registry, (await fleet.join("b")).registry
    assert await a.upload_of("d1") is None
    assert await a.bind_key("d1", upload(1), instead_of=None, keep_s=60.0) == upload(1)
    assert await b.bind_key("d1", upload(2), instead_of=None, keep_s=60.0) == upload(1)
    assert [await each.upload_of("d1") for each in (a, b)] == [upload(1)] * 2
    # Its answer was lost; the same again.
    assert await a.bind_key("d1", upload(1), instead_of=None, keep_s=60.0) == upload(1)
    assert await b.bind_key("d2", upload(2), instead_of=None, keep_s=60.0) == upload(2)
    # What it led to is over; only who has seen just that may replace it.
    assert await b.bind_key("d1", upload(3), instead_of=upload(2), keep_s=60.0) == upload(1)
    assert await b.bind_key("d1", upload(3), instead_of=upload(1), keep_s=60.0) == upload(3)
    assert await a.bind_key("d1", upload(4), instead_of=upload(1), keep_s=60.0) == upload(3)


async def test_a_key_of_a_web_app_lapses(fleet: Fleet) -> None:
    a = (await fleet.join("a")).registry
    await a.bind_key("d", upload(1), instead_of=None, keep_s=0.05)
    deadline_s = time.monotonic() + 30
    while await a.upload_of("d") is not None:
        assert time.monotonic() < deadline_s
    assert await a.bind_key("d", upload(2), instead_of=None, keep_s=60.0) == upload(2)


async def test_an_invitation_reaches_the_one_who_is_invited_and_nobody_else(fleet: Fleet) -> None:
    a, b, c = await fleet.join("a"), await fleet.join("b"), await fleet.join("c")
    invitations = [Invitation(upload(number), number, A) for number in range(1, 6)]
    await a.registry.invite(B, invitations)
    await until(lambda: b.told(InvitationsWaiting), "b hears of it")
    assert b.told(InvitationsWaiting)[0].count == 5
    assert await c.registry.invitations() == []
    assert sorted(await b.registry.invitations(), key=lambda each: each.epoch) == invitations
    assert await b.registry.invitations() == [], "consumed"


async def test_a_later_invitation_to_the_same_upload_replaces_the_former(fleet: Fleet) -> None:
    a, b = await fleet.join("a"), await fleet.join("b")
    await a.registry.invite(B, [Invitation(upload(), 1, A)])
    await a.registry.invite(B, [Invitation(upload(), 3, A)])
    assert await b.registry.invitations() == [Invitation(upload(), 3, A)]


async def test_invitations_are_read_in_portions(fleet: Fleet) -> None:
    a, b = await fleet.join("a"), await fleet.join("b")
    await a.registry.invite(B, [Invitation(upload(number), 1, A) for number in range(TAKEN_MAX + 5)])
    first, rest = await b.registry.invitations(), await b.registry.invitations()
    assert (len(first), len(rest)) == (TAKEN_MAX, 5)
    assert {each.upload_id for each in first + rest} == {upload(number) for number in range(TAKEN_MAX + 5)}


async def test_who_leaves_leaves_no_invitations(fleet: Fleet) -> None:
    a, b = await fleet.join("a"), await fleet.join("b")
    await a.registry.invite(B, [Invitation(upload(), 1, A)])
    await b.registry.close()
    again = await fleet.join("b")
    assert await again.registry.invitations() == []


async def test_changes_are_seen_before_the_next_renewal(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hints carry them: the next beat of itself would come in an hour."""
    monkeypatch.setattr("incomingd.registry.fleet.BEAT_S", 3600.0)
    fleet.lease_s = 4 * 3600.0
    a, b = await fleet.join("a"), await fleet.join("b")
    await a.has_seen("a", "b")
    for draining in (True, False, True):
        said = replace(b.registry.instance, draining=draining)
        await b.registry.advertise(said)
        await until(partial(is_seen, a, said), "the change")
    await b.registry.invite(A, [Invitation(upload(), 1, B)])
    await until(lambda: a.told(InvitationsWaiting), "the invitation")


def is_seen(member: Member, said: Instance) -> bool:
    return said in member.registry.instances


async def test_before_the_first_contact_nothing_is_known(fleet: Fleet) -> None:
    a = await fleet.join("a", started=False)
    assert not a.registry.available
    assert not a.registry.settled
    assert not a.registry.lease_holds
    with pytest.raises(RegistryUnavailableError) as refused:
        await a.registry.owner_of(upload())
    assert refused.value.trouble is Trouble.NOT_TRIED


async def test_who_stops_watching_hears_nothing_more(fleet: Fleet) -> None:
    a = await fleet.join("a")
    heard: list[object] = []
    stop = a.registry.watch(heard.append)
    stop()
    stop()
    b = await fleet.join("b")
    await a.has_seen("a", "b")
    await until(lambda: a.came() == [b.identity.name], "the one who still watches")
    assert heard == []


async def test_closing_twice_is_closing(fleet: Fleet) -> None:
    a = await fleet.join("a")
    await a.registry.close()
    await a.registry.close()
