"""What clients call their files becomes fit to be shown and stored, whatever they say."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from incomingd.core import names

any_text = st.text(st.characters(codec=None))
nasty_text = st.text(st.sampled_from("aä.ÿ /\\:\0\n\u202e\u200b\ud800\U000e0001 \U0001f600~-"), max_size=30)


@pytest.mark.parametrize(
    "said, kept",
    [
        ("a.txt", "a.txt"),
        ("  a b .txt ", "a b .txt"),
        ("dir/a.txt", "a.txt"),
        ("/etc/passwd", "passwd"),
        ("../../a.txt", "a.txt"),
        ("C:\\Users\\me\\a.txt", "a.txt"),
        ("a\0b\r\n.txt", "ab.txt"),
        ("gpj.\u202eexe", "gpj.exe"),
        ("zero\u200bwidth", "zerowidth"),
        ("u\u0308.txt", "ü.txt"),
        ("\ud800a", "a"),
        ("", None),
        (".", None),
        ("..", None),
        (" . . ", None),
        ("a/", None),
        ("a/..", None),
        ("\0\n", None),
        (".htaccess", ".htaccess"),
        ("...a", "...a"),
    ],
)
def test_a_file_name_is_a_bare_name(said: str, kept: str | None) -> None:
    assert names.clean_filename(said) == kept


@pytest.mark.parametrize("letter", ["a", "ä", "\U0001f600"])
def test_a_long_name_keeps_its_extension(letter: str) -> None:
    name = names.clean_filename(letter * 10_000 + ".tar.gz")
    assert name is not None
    assert name.endswith(".gz")
    assert 250 <= len(name.encode()) <= 255
    endless = names.clean_filename("a." + letter * 10_000)
    assert endless is not None
    assert 250 <= len(endless.encode()) <= 255


@given(any_text | nasty_text)
def test_no_file_name_is_dangerous(said: str) -> None:
    name = names.clean_filename(said)
    if name is None:
        return
    assert name == name.strip()
    assert name not in ("", ".", "..")
    assert not set(name) & set("/\\\0")
    assert 1 <= len(name.encode("utf-8")) <= 255
    assert not [c for c in name if unicodedata.category(c) in {"Cc", "Cf", "Cs"}]
    assert names.clean_filename(name) == name


@pytest.mark.parametrize(
    "said, kept",
    [
        ("a/b/c.txt", "a/b/c.txt"),
        ("/a//b/", "a/b"),
        ("../a/../../b", "a/b"),
        ("a\\b", "a/b"),
        ("C:\\a\\b", "a/b"),
        ("c:/a", "a"),
        (" a / b ", "a/b"),
        ("..", None),
        ("/", None),
        ("", None),
        ("a\0/\nb", "a/b"),
        ("a/.../b", "a/b"),
    ],
)
def test_a_relative_path_leads_nowhere_else(said: str, kept: str | None) -> None:
    assert names.clean_relative_path(said) == kept


@given(any_text | nasty_text)
def test_no_relative_path_is_dangerous(said: str) -> None:
    path = names.clean_relative_path(said)
    if path is None:
        return
    assert not path.startswith("/")
    assert len(path.encode("utf-8")) <= 1024
    for step in path.split("/"):
        assert step.strip(". ") != ""
        assert "\\" not in step
        assert len(step.encode("utf-8")) <= 255
        assert not [c for c in step if unicodedata.category(c) in {"Cc", "Cf", "Cs"}]


def test_a_long_path_keeps_its_end() -> None:
    path = names.clean_relative_path("/".join(f"step{n:04}" for n in range(1000)) + "/file.txt")
    assert path is not None
    assert path.endswith("step0999/file.txt")
    assert len(path) <= 1024


def test_a_value_is_capped_and_printable() -> None:
    assert names.clean_value("a\0\u202eb" + "c" * 5000) == "ab" + "c" * 1022


@pytest.mark.parametrize(
    "said, kept",
    [
        ("image/png", "image/png"),
        (" Image/PNG ; charset=x", "image/png"),
        ("application/vnd.a+json", "application/vnd.a+json"),
        ("text", None),
        ("text/", None),
        ("/plain", None),
        ("text/pl ain", None),
        ("text/plain/x", None),
        ("text/*", None),
        ("tëxt/plain", None),
        ("text/plain\n", "text/plain"),
        ("a/" + "b" * 300, None),
        ("", None),
    ],
)
def test_a_content_type_is_a_media_type_without_parameters(said: str, kept: str | None) -> None:
    assert names.clean_content_type(said) == kept


@pytest.mark.parametrize(
    "content_type, accepted, answer",
    [
        (None, (), True),
        ("image/png", (), True),
        ("image/png", ("image/png",), True),
        ("image/png", ("IMAGE/PNG",), True),
        ("image/png", ("image/*",), True),
        ("image/png", ("*/*",), True),
        ("image/png", ("text/plain", "image/*"), True),
        ("imagery/png", ("image/*",), False),
        ("image/png", ("image/p",), False),
        ("image/png", ("text/*",), False),
        (None, ("image/*",), False),
    ],
)
def test_a_content_type_is_accepted_by_name_or_by_kind(
    content_type: str | None, accepted: tuple[str, ...], answer: bool
) -> None:
    assert names.content_type_accepted(content_type, accepted) == answer
