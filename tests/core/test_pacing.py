"""A client that comes back is never slowed; two that fight are, more and more; retries spread out."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from incomingd.core.pacing import PreemptionPacer, backoff_s


def delays(times: list[float]) -> list[float]:
    pacer = PreemptionPacer()
    return [pacer.preempted(time) for time in times]


def test_six_preemptions_within_ten_seconds_are_free() -> None:
    assert delays([0.0, 1.0, 2.0, 3.0, 4.0, 5.0]) == [0.0] * 6


def test_the_seventh_waits_a_second_and_each_further_one_twice_as_long_up_to_eight() -> None:
    assert delays([0.1 * n for n in range(13)]) == [0.0] * 6 + [1.0, 2.0, 4.0, 8.0, 8.0, 8.0, 8.0]


def test_seven_in_more_than_ten_seconds_are_free() -> None:
    assert delays([0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 10.1]) == [0.0] * 7


def test_a_client_that_reconnects_every_two_seconds_is_never_slowed() -> None:
    assert set(delays([2.0 * n for n in range(200)])) == {0.0}


def test_two_that_wait_their_delay_and_fight_on_stay_slowed() -> None:
    """The delays stretch the fight beyond the window; that must not make it free again."""
    pacer, now, found = PreemptionPacer(), 0.0, []
    for _ in range(60):
        delay_s = pacer.preempted(now)
        found.append(delay_s)
        now += delay_s + 0.2
    assert found[10:] == [8.0] * 50


def test_peace_of_more_than_the_window_makes_it_free_again() -> None:
    pacer = PreemptionPacer()
    assert [pacer.preempted(time * 0.1) for time in range(9)][-1] == 4.0
    assert pacer.preempted(0.8 + 10.1) == 0.0


@given(st.lists(st.floats(0, 20), max_size=60))
def test_a_delay_is_nothing_or_one_to_eight_seconds(gaps: list[float]) -> None:
    found = delays(list(itertools.accumulate(gaps)))
    assert set(found) <= {0.0, 1.0, 2.0, 4.0, 8.0}
    assert found[:6] == [0.0] * len(found[:6])


@pytest.mark.parametrize(
    "attempt, wait_s", [(1, 1.0), (2, 2.0), (3, 4.0), (12, 2048.0), (13, 3600.0), (10_000, 3600.0)]
)
def test_a_retry_waits_twice_as_long_as_the_one_before(attempt: int, wait_s: float) -> None:
    assert backoff_s(attempt, first_s=1.0, max_s=3600.0, jitter=0.0) == wait_s


@given(st.integers(1, 200), st.floats(0, 1, exclude_max=True))
def test_jitter_takes_away_at_most_a_half(attempt: int, jitter: float) -> None:
    full = backoff_s(attempt, first_s=0.5, max_s=100.0, jitter=0.0)
    # A jitter of nearly 1 is a half, as far as floats tell.
    assert full / 2 <= backoff_s(attempt, first_s=0.5, max_s=100.0, jitter=jitter) <= full


@pytest.mark.parametrize("attempt, jitter", [(0, 0.0), (-1, 0.0), (1, 1.0), (1, -0.1)])
def test_there_is_no_attempt_before_the_first(attempt: int, jitter: float) -> None:
    with pytest.raises(AssertionError):
        backoff_s(attempt, first_s=1.0, max_s=2.0, jitter=jitter)
