from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from incomingd.core.ring import Instance, ranked, successor, takers
from incomingd.core.tenure import Identity

VOLUME = "vvvvvvvvvvvv"
OTHER_VOLUME = "wwwwwwwwwwww"

# For uploads(3) and fleet(5), as the first release ranked them.
GOLDEN: list[list[str]] = [
    ["incoming-1", "incoming-0", "incoming-4", "incoming-2", "incoming-3"],
    ["incoming-3", "incoming-1", "incoming-0", "incoming-2", "incoming-4"],
    ["incoming-2", "incoming-0", "incoming-1", "incoming-3", "incoming-4"],
]


def instance(name: str, start_id: str = "1", started_at: float = 0.0) -> Instance:
    return Instance(Identity(name, start_id), started_at=started_at, volumes=frozenset({VOLUME}))


def fleet(size: int) -> list[Instance]:
    return [instance(f"incoming-{number}") for number in range(size)]


def uploads(count: int) -> list[str]:
    return [f"upload{number:049}" for number in range(count)]


def names(instances: tuple[Instance, ...]) -> list[str]:
    return [each.identity.name for each in instances]


def test_the_ranking_never_changes_from_release_to_release() -> None:
    """Two versions of the program side by side come to the same ranking."""
    assert [names(ranked(upload, fleet(5))) for upload in uploads(3)] == GOLDEN


@given(st.permutations(fleet(7)))
def test_the_order_in_which_instances_are_known_plays_no_part(shuffled: list[Instance]) -> None:
    for upload in uploads(5):
        assert ranked(upload, shuffled) == ranked(upload, fleet(7))


def test_everyone_is_ranked_once() -> None:
    assert sorted(names(ranked("u", fleet(9)))) == sorted(names(tuple(fleet(9))))
    assert ranked("u", []) == ()


def test_load_is_balanced() -> None:
    shares = Counter(ranked(upload, fleet(20))[0].identity.name for upload in uploads(8_000))
    assert len(shares) == 20
    assert max(shares.values()) / statistics.mean(shares.values()) < 1.15
    assert min(shares.values()) / statistics.mean(shares.values()) > 0.85


def test_what_goes_moves_only_what_it_had_and_spreads_it() -> None:
    before = fleet(10)
    gone, after = before[3], before[:3] + before[4:]
    heirs: Counter[str] = Counter()
    for upload in uploads(4_000):
        was, now = ranked(upload, before)[0], ranked(upload, after)[0]
        if was == gone:
            assert now == ranked(upload, before)[1], "the second one inherits"
            heirs[now.identity.name] += 1
        else:
            assert now == was
    assert len(heirs) == 9
    assert max(heirs.values()) / statistics.mean(heirs.values()) < 1.4


def test_what_comes_takes_its_share_and_nothing_else_moves() -> None:
    before, newcomer = fleet(9), instance("newcomer")
    moved = 0
    for upload in uploads(4_000):
        was, now = ranked(upload, before)[0], ranked(upload, [*before, newcomer])[0]
        if now != was:
            assert now == newcomer
            moved += 1
    assert 0.08 < moved / 4_000 < 0.12


def test_a_restart_moves_nothing() -> None:
    """The later run stands for the name while the former one's lease still runs, and nothing else changes."""
    again = instance("incoming-2", start_id="0", started_at=5.0)
    for upload in uploads(50):
        both = ranked(upload, [*fleet(5), again])
        assert names(both) == names(ranked(upload, fleet(5)))
        assert again in both
    assert ranked("u", [*fleet(5), again]) == ranked("u", [again, *fleet(5)])


def test_a_successor_reaches_the_volume_and_takes_uploads() -> None:
    for upload in uploads(20):
        everyone = fleet(6)
        first, second, third, fourth, fifth, sixth = ranked(upload, everyone)
        assert successor(upload, everyone, volume_id=VOLUME) == first
        changed = [
            replace(first, draining=True),
            replace(second, full=True),
            replace(third, volumes=frozenset({OTHER_VOLUME})),
            fourth,
            fifth,
            sixth,
        ]
        assert successor(upload, changed, volume_id=VOLUME) == fourth
        assert successor(upload, changed, volume_id=VOLUME, without={fourth.identity}) == fifth
        assert successor(upload, changed, volume_id=OTHER_VOLUME) == changed[2]


def test_where_all_are_full_what_is_complete_still_has_a_successor() -> None:
    """They share the volume that is full, and its files have to be handed over all the same."""
    for upload in uploads(20):
        full = [replace(each, full=True) for each in fleet(4)]
        first, second, *_ = ranked(upload, full)
        assert successor(upload, full, volume_id=VOLUME) == first
        assert successor(upload, full, volume_id=VOLUME, without={first.identity}) == second
        assert takers(upload, full, volume_id=VOLUME) == ()


def test_without_anybody_at_the_volume_there_is_no_successor() -> None:
    assert successor("u", fleet(3), volume_id=OTHER_VOLUME) is None
    assert successor("u", [], volume_id=VOLUME) is None
    assert successor("u", [replace(each, draining=True) for each in fleet(3)], volume_id=VOLUME) is None


def test_who_reaches_the_volume_is_asked_first_and_then_the_others() -> None:
    everyone = [replace(each, volumes=frozenset({OTHER_VOLUME})) for each in fleet(3)] + [
        instance("near-0"),
        instance("near-1"),
        replace(instance("near-2"), draining=True),
    ]
    for upload in uploads(20):
        order = names(ranked(upload, everyone))
        near = [name for name in order if name in {"near-0", "near-1"}]
        far = [name for name in order if name.startswith("incoming")]
        assert names(takers(upload, everyone, volume_id=VOLUME)) == near + far
