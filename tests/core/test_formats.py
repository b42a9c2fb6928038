"""Which format is written and which are read."""

from __future__ import annotations

from dataclasses import replace

import pytest

from incomingd.core.formats import FORMAT, FORMER, OLDEST, PRESENT, Known, known_by
from incomingd.core.ring import Instance
from incomingd.core.tenure import Identity

NEW = Instance(Identity("a", "1"))
OLD = replace(NEW, format=1)


def test_the_older_format_is_spoken_while_somebody_reads_no_newer_one() -> None:
    assert PRESENT.spoken([OLD, NEW], settled=True) == 1
    assert PRESENT.spoken([NEW], settled=True) == 2
    assert PRESENT.spoken([], settled=True) == 2
    assert FORMER.spoken([OLD, NEW], settled=True) == 1


def test_who_does_not_know_who_lives_speaks_so_that_all_understand() -> None:
    assert PRESENT.spoken([NEW], settled=False) == 1


def test_a_program_reads_its_own_format_and_the_one_before() -> None:
    assert [each for each in (0, 1, 2, 3, True, "1", 1.0, None) if each in PRESENT] == [1, 2]
    assert [each for each in (0, 1, 2) if each in FORMER] == [1]
    assert (str(PRESENT), str(FORMER)) == ("the formats 1 and 2", "format 1")
    assert FORMAT == OLDEST + 1 == NEW.format
    with pytest.raises(AssertionError):
        Known(2, 3)


def test_an_operator_may_have_a_run_speak_as_the_version_before() -> None:
    assert known_by({"INCOMINGD_FORMATS": "1"}) == FORMER
    assert known_by({"INCOMINGD_FORMATS": "2"}) == known_by({"INCOMINGD_FORMATS": ""}) == known_by({}) == PRESENT
    with pytest.raises(ValueError, match="INCOMINGD_FORMATS: expected 1 or 2"):
        known_by({"INCOMINGD_FORMATS": "0.1"})
