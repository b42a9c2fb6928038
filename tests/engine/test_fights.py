"""An instance remembers from whom it was recalled again and again; who comes back waits once for each such cut."""

from __future__ import annotations

from incomingd.engine.fights import KEPT, Fights


def test_the_seventh_cut_within_ten_seconds_is_owed_for() -> None:
    fights = Fights()
    owed = []
    for number in range(9):
        fights.cut("upload", number * 0.1)
        owed.append(fights.owed_s("upload"))
    assert owed == [0.0] * 6 + [1.0, 2.0, 4.0]


def test_a_delay_is_owed_once_and_by_that_upload_only() -> None:
    fights = Fights()
    for number in range(7):
        fights.cut("upload", number * 0.1)
        fights.cut("other", number * 100.0)
    assert (fights.owed_s("other"), fights.owed_s("upload"), fights.owed_s("upload")) == (0.0, 1.0, 0.0)


def test_the_longest_unheard_of_is_forgotten() -> None:
    fights = Fights()
    for number in range(7):
        fights.cut("upload", number * 0.1)
    for number in range(KEPT):
        fights.cut(f"other {number}", 1.0)
    assert fights.owed_s("upload") == 0.0
    assert len(fights._pacers) == KEPT
    assert len(fights._owed_s) <= KEPT
