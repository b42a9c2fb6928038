"""Header fields are read strictly: what is not plainly legal is refused with a stable code."""

from __future__ import annotations

import pytest

from incomingd.core.errors import Code, Refusal
from incomingd.wire.headers import media_type, number, single
from tests.wire.headers import fields


@pytest.mark.parametrize(
    "text, value",
    [
        ("0", 0),
        ("5", 5),
        ("007", 7),
        (" 5 ", 5),
        ("\t5\t", 5),
        ("999999999999999999", 10**18 - 1),
    ],
)
def test_a_number_is_digits(text: str, value: int) -> None:
    assert number(fields(Upload_Offset=text), "Upload-Offset") == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "-1",
        "+5",
        "--5",
        "1_000",
        "1,000",
        "1.0",
        "1e3",
        "0x10",
        "1 2",
        "5;",
        '"5"',
        "five",
        "1000000000000000000",
        "9" * 5000,
        "\u0665",  # Arabic-Indic five: Python's int() takes it
        "\uff15",  # full-width five
        "\u00b2",  # superscript two: isdigit() says yes
        "5\u00a0",  # no-break space: str.strip() takes it away
        "\u00855",  # next line: likewise
        "5\n",
        "5\x00",
        "5\x0b",
    ],
)
def test_whatever_else_python_takes_for_a_number_is_none(text: str) -> None:
    with pytest.raises(Refusal) as caught:
        number(fields(Upload_Offset=text), "Upload-Offset")
    assert caught.value.code is Code.HEADER_MALFORMED
    assert "Upload-Offset" in caught.value.detail


def test_a_number_that_was_not_sent_is_none() -> None:
    assert number(fields(), "Upload-Offset") is None


def test_a_field_that_came_twice_with_one_value_counts_once() -> None:
    get_all = fields(("Upload-Offset", "5"), ("Upload-Offset", " 5"))
    assert number(get_all, "upload-offset") == 5


def test_a_field_that_came_twice_with_two_values_is_refused() -> None:
    with pytest.raises(Refusal) as caught:
        single(fields(("Upload-Offset", "5"), ("Upload-Offset", "6")), "Upload-Offset")
    assert caught.value.code is Code.HEADER_REPEATED


@pytest.mark.parametrize(
    "value, expected",
    [
        ("application/offset+octet-stream", "application/offset+octet-stream"),
        ("Application/Offset+Octet-Stream", "application/offset+octet-stream"),
        ("application/offset+octet-stream; charset=utf-8", "application/offset+octet-stream"),
        (" application/offset+octet-stream ;x=y;z", "application/offset+octet-stream"),
        ("application/json", "application/json"),
        ("", ""),
        (";", ""),
    ],
)
def test_a_media_type_is_read_without_its_parameters(value: str, expected: str) -> None:
    assert media_type(value) == expected
