"""The catalogue of refusals: complete, distinct, and fit to be shown."""

from __future__ import annotations

import re

import pytest

from incomingd.core.errors import PROBLEMS, Code, Refusal


def test_the_catalogue_has_every_code() -> None:
    assert set(PROBLEMS) == set(Code)


@pytest.mark.parametrize("code", Code)
def test_a_problem_is_said_in_sentences(code: Code) -> None:
    problem = PROBLEMS[code]
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", code.value)
    assert code.value == code.name.lower()
    assert 400 <= problem.status <= 599
    for text in (problem.title, problem.remedy):
        assert text.endswith(".")
        assert text[0].isupper()
        assert "\n" not in text


def test_no_two_problems_have_the_same_title() -> None:
    assert len({problem.title for problem in PROBLEMS.values()}) == len(Code)


def test_a_refusal_says_its_title_where_it_has_nothing_to_add() -> None:
    plain = Refusal(Code.BODY_CUT)
    assert plain.detail == plain.problem.title
    assert (plain.offset, plain.retry_after_s, plain.extra) == (None, None, {})
    told = Refusal(Code.OFFSET_MISMATCH, "It is at 3.", offset=3, retry_after_s=0, extra={"a": 1})
    assert str(told) == "offset_mismatch: It is at 3."
    assert (told.offset, told.retry_after_s, told.extra) == (3, 0, {"a": 1})
