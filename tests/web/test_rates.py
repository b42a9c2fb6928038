"""Bytes a second, on a clock that the test moves: who takes how much, in which order, and what is remembered."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import count

import pytest

from incomingd.web.rates import RateLimits, Rates, network_of

KIB = 1024
MIB = 1024 * KIB


class Ticks:
    """Time that is moved."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def taken_by(
    rates: Rates,
    senders: Sequence[tuple[str | None, str, float]],
    duration_s: float,
    *,
    late_s: float = 0.0,
    used: float = 1.0,
) -> list[int]:
    """Let *senders* send for so long; return how many bytes of each were taken.

    Args:
        rates: under which.
        senders: address, upload, and how many bytes come from it in a second.
        duration_s: for how long.
        late_s: all timers are so late.
        used: of what was booked so much is taken, and the rest given back.
    """
    ticks, order = Ticks(), count()
    began_s = ticks.now_s
    taken = [0] * len(senders)
    came = [0.0] * len(senders)
    events: list[tuple[float, int, int, int]] = []
    with ExitStack() as stack:
        shares = [stack.enter_context(rates.sending(address, upload, ticks)) for address, upload, _ in senders]

        def begin(number: int) -> None:
            there = senders[number][2] * (ticks.now_s - began_s) - came[number]
            most = shares[number].turn_bytes()
            if there < min(most, KIB):
                heapq.heappush(events, (ticks.now_s + KIB / senders[number][2], next(order), number, 0))
                return
            size = int(min(most, there))
            wait_s = shares[number].book(size)
            heapq.heappush(events, (ticks.now_s + wait_s + (late_s if wait_s else 0.0), next(order), number, size))

        for number in range(len(senders)):
            heapq.heappush(events, (ticks.now_s, next(order), number, 0))
        while events and events[0][0] <= began_s + duration_s:
            ticks.now_s, _, number, size = heapq.heappop(events)
            if size:
                size = int(size * used)
                shares[number].settle(size)
                taken[number] += size
                came[number] += size
            # The turn itself takes a moment.
            ticks.now_s += 1e-6
            begin(number)
    return taken


FAST = 1e12


@pytest.mark.parametrize("rate", [KIB, 100 * KIB, MIB, 1000 * MIB])
@pytest.mark.parametrize("senders", [1, 7, 50])
@pytest.mark.parametrize("late_s, used", [(0.0, 1.0), (0.02, 1.0), (0.0, 0.9)])
def test_the_sum_keeps_to_the_limit(rate: int, senders: int, late_s: float, used: float) -> None:
    """Within a few percent, however many send, also where timers are late and turns end early."""
    rates = Rates(RateLimits(total=rate))
    duration_s = 20.0
    all_of_them = [("a", str(n), FAST) for n in range(senders)]
    taken = sum(taken_by(rates, all_of_them, duration_s, late_s=late_s, used=used))
    # What is booked and not taken yet is on the way.
    assert 0.97 * rate * duration_s - senders * KIB <= taken <= 1.03 * rate * duration_s + senders * KIB


def test_who_sends_as_fast_as_all_others_gets_as_much() -> None:
    rates = Rates(RateLimits(total=10 * MIB))
    taken = taken_by(rates, [("a", str(n), FAST) for n in range(20)], 60)
    assert max(taken) < 1.05 * min(taken)


def test_slow_senders_lose_nothing_to_a_fast_one() -> None:
    """Under one limit for all: who needs less than its part gets all that it needs."""
    rates = Rates(RateLimits(total=MIB))
    taken = taken_by(rates, [("a", "fast", FAST), *(("a", str(n), 4.0 * KIB) for n in range(50))], 60)
    assert min(taken[1:]) > 0.95 * 4 * KIB * 60
    assert taken[0] > 0.95 * (MIB - 50 * 4 * KIB) * 60


def test_each_limit_holds_for_whom_it_is_for() -> None:
    rates = Rates(RateLimits(upload=100 * KIB, address=150 * KIB))
    # Two parts of one upload; two uploads of one address; one of an address of its own; one whose address nobody knows.
    senders = [("a", "x"), ("a", "x"), ("b", "y"), ("b", "z"), ("c", "u"), (None, "v"), ("2001:db8::1", "w1")]
    senders += [("2001:db8::2", "w2")]
    taken = taken_by(rates, [(*sender, FAST) for sender in senders], 60)
    rate = [each / 60 / KIB for each in taken]
    assert rate[0] + rate[1] == pytest.approx(100, rel=0.05)
    assert rate[2] + rate[3] == pytest.approx(150, rel=0.05)
    assert rate[4] == pytest.approx(100, rel=0.05)
    assert rate[5] == pytest.approx(100, rel=0.05)
    assert rate[6] + rate[7] == pytest.approx(150, rel=0.05)


def test_what_is_limited_elsewhere_does_not_hold_up_others() -> None:
    """An upload at its own limit waits alone."""
    rates = Rates(RateLimits(upload=10 * KIB, total=MIB))
    taken = taken_by(rates, [("a", str(n), FAST) for n in range(10)], 60)
    assert min(taken) > 0.95 * 10 * KIB * 60


def test_who_comes_again_comes_back_to_its_debts() -> None:
    """A sender cannot get more by asking again and again, and is forgotten once it owes nothing."""
    ticks = Ticks()
    rates = Rates(RateLimits(address=10 * KIB))
    taken, began_s = 0, ticks.now_s
    while ticks.now_s < began_s + 60:
        with rates.sending("a", f"upload {taken}", ticks) as share:
            size = share.turn_bytes()
            ticks.now_s += share.book(size)
            share.settle(size)
            taken += size
    assert taken <= 1.1 * 10 * KIB * 60
    assert rates.lines_kept <= 4
    ticks.now_s += 10
    with rates.sending("b", "another", ticks) as share:
        share.turn_bytes()
        assert rates.lines_kept == 2


def test_what_was_booked_in_vain_is_given_back() -> None:
    """Whoever is cut while it waits, or finds nothing, leaves its place to others."""
    ticks = Ticks()
    rates = Rates(RateLimits(total=10 * KIB))
    with rates.sending("a", "first", ticks) as first, rates.sending("a", "second", ticks) as second:
        assert first.book(100 * KIB) == 0
        assert second.book(1) == pytest.approx(10, abs=0.2)
        second.settle(0)
        first.settle(20 * KIB)
        assert second.book(1) == pytest.approx(2, abs=0.2)
        second.settle(0)
        first.book(100 * KIB)
    with rates.sending("a", "third", ticks) as third:
        assert third.book(1) == pytest.approx(2, abs=0.2)


def test_other_limits_hold_for_who_sends_already() -> None:
    ticks = Ticks()
    rates = Rates()
    assert not rates.limited
    with rates.sending("a", "upload", ticks) as share:
        assert not share.limited
        rates.limits = RateLimits(upload=10 * KIB)
        assert bool(share.limited)
        assert share.turn_bytes() < MIB
        share.book(10 * KIB)
        rates.limits = RateLimits()
        share.settle(10 * KIB)
        assert not share.limited
        assert share.book(MIB) == 0
        share.settle(MIB)


@pytest.mark.parametrize(
    "address, network",
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("fe80::1%eth0", "fe80::"),
        ("not:an:address", "not:an:address"),
    ],
)
def test_what_counts_as_one_client(address: str, network: str) -> None:
    assert network_of(address) == network
