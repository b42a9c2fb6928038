"""Upload-Metadata: keys and Base64 values (tus 1.0.0, creation)."""

from __future__ import annotations

import base64

import pytest

from incomingd.core.errors import Code, Refusal
from incomingd.wire.metadata import parse_metadata


@pytest.mark.parametrize(
    "text, pairs",
    [
        ("", ()),
        ("  ", ()),
        ("filename YS50eHQ=", (("filename", "a.txt"),)),
        ("filename YS50eHQ=,is_confidential", (("filename", "a.txt"), ("is_confidential", ""))),
        ("is_confidential ,filename YS50eHQ=", (("is_confidential", ""), ("filename", "a.txt"))),
        ("a YQ== , b Yg==", (("a", "a"), ("b", "b"))),
        ("a  YQ==", (("a", "a"),)),
        ("\ta YQ==\t", (("a", "a"),)),
        ("Key YQ==,key Yg==", (("Key", "a"), ("key", "b"))),
        ('we!rd;k"ey=x YQ==', (('we!rd;k"ey=x', "a"),)),
        # A value that is no text is left out of what people see; HEAD still gives it back.
        ("bytes //79,name YQ==", (("name", "a"),)),
    ],
)
def test_pairs_are_read(text: str, pairs: tuple[tuple[str, str], ...]) -> None:
    assert parse_metadata(text, size_max=8192) == pairs


def test_a_value_may_hold_any_text() -> None:
    name = "\u202e../..\\\x00 \U0001f4a9\r\nSet-Cookie: a=b"
    encoded = base64.b64encode(name.encode()).decode()
    assert parse_metadata(f"filename {encoded}", size_max=8192) == (("filename", name),)


@pytest.mark.parametrize(
    "text",
    [
        ",",
        "a YQ==,",
        ",a YQ==",
        "a YQ==,,b Yg==",
        "a YQ==,a Yg==",
        "a YQ==,a YQ==",
        "a,a",
        "a YQ",
        "a YQ=",
        "a YQ=== ",
        "a Y Q==",
        "a YQ==\tb",
        "a _-8=",
        "a Y*==",
        "k\u00e9y YQ==",
        "k\x00y YQ==",
        "\u00a0a YQ==",
        "a \u00a0YQ==",
        "a YQ\u00ff=",
    ],
)
def test_what_breaks_the_grammar_is_refused(text: str) -> None:
    with pytest.raises(Refusal) as caught:
        parse_metadata(text, size_max=8192)
    assert caught.value.code is Code.METADATA_MALFORMED


def test_too_much_is_refused_before_it_is_read() -> None:
    fits = "a " + "A" * 252
    assert parse_metadata(fits, size_max=254)
    with pytest.raises(Refusal) as caught:
        parse_metadata(fits + "A", size_max=254)
    assert caught.value.code is Code.METADATA_TOO_LARGE
    assert "254" in caught.value.detail
