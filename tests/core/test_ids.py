"""Ids are file names, arguments and parts of URLs as they are, and cannot be guessed."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from incomingd.core import ids

VOLUME = "Volume000001"


@given(st.integers(0, 2**300 - 1))
def test_an_id_carries_its_chance_and_the_volume_of_its_birth(bits: int) -> None:
    upload_id = ids.upload_id(bits, VOLUME)
    assert ids.is_upload_id(upload_id)
    assert ids.volume_of(upload_id) == VOLUME
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,63}", upload_id)


@given(st.integers(0, 2**256 - 1), st.integers(0, 2**256 - 1))
def test_no_two_of_256_bits_share_an_id(one: int, other: int) -> None:
    assert (ids.upload_id(one, VOLUME) == ids.upload_id(other, VOLUME)) == (one == other)


@given(st.integers(0, 62**5 - 1))
def test_spelling_loses_nothing(number: int) -> None:
    spelled = ids.spell(number, 5)
    assert len(spelled) == 5
    assert sum(ids.ALPHABET.index(c) * 62**n for n, c in enumerate(spelled)) == number


UPLOAD = "a" * 43 + VOLUME


@pytest.mark.parametrize(
    "text",
    [
        "",
        UPLOAD[:-1],
        UPLOAD + "a",
        UPLOAD + "\n",
        "\n" + UPLOAD,
        UPLOAD[:-1] + "_",
        UPLOAD[:-1] + "é",
        UPLOAD[:-1] + "٣",
        UPLOAD[:-1] + "/",
        "../" + UPLOAD[3:],
        UPLOAD[:-1] + "\0",
    ],
)
def test_what_is_no_id_is_none(text: str) -> None:
    assert not ids.is_upload_id(text)
    with pytest.raises(AssertionError):
        ids.volume_of(text)


@pytest.mark.parametrize("check, chars", [(ids.is_part_id, ids.PART_CHARS), (ids.is_volume_id, ids.VOLUME_CHARS)])
def test_parts_and_volumes_have_ids_of_one_length(check: object, chars: int) -> None:
    assert callable(check)
    assert check("a" * chars)
    for text in ("a" * (chars - 1), "a" * (chars + 1), "a" * (chars - 1) + ".", "a" * chars + "\n", ""):
        assert not check(text)


def test_an_upload_is_not_born_on_what_is_no_volume() -> None:
    with pytest.raises(AssertionError):
        ids.upload_id(1, "no/volume/id")


def test_there_are_as_many_random_bits_as_promised() -> None:
    assert 62**ids.SECRET_CHARS > 2**256
    assert 62**ids.PART_CHARS > 2**128
    assert len(UPLOAD) <= 63
