"""Whatever a client sends in its headers: a command or a refusal, and no other exception."""

from __future__ import annotations

import base64
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from incomingd.core.digests import ALGORITHMS
from incomingd.core.errors import Refusal
from incomingd.engine.beginning import client_of
from incomingd.wire import tus
from incomingd.wire.headers import number
from incomingd.wire.metadata import parse_metadata

# Tornado decodes headers as Latin-1, so no other character can come; but nothing here relies on that.
LATIN = st.text(st.characters(max_codepoint=255), max_size=40)
ANY = st.text(max_size=40)
NEARLY = st.sampled_from(
    [
        *("", "0", "1", "10", "-1", "+5", "1_0", "\u0665", "5\u00a0", "9" * 18, "9" * 19),
        *("1.0.0", "2.0.0", "partial", "final;", "final;/a http://[ /b", "PATCH", "delete"),
        *("application/offset+octet-stream", "text/plain; charset", "upload-checksum"),
        *("sha1 AAAAAAAAAAAAAAAAAAAAAAAAAAA=", "md5 x", "crc32 AAAAAA=="),
        *("filename YQ==", "a,b,c", "a YQ==,a YQ==", "filename gA==", "name //8=,type dGV4dC9wbGFpbg=="),
    ]
)
VALUE = st.one_of(NEARLY, LATIN, ANY)
NAMES = (
    "Tus-Resumable",
    "X-HTTP-Method-Override",
    "Content-Type",
    "Upload-Length",
    "Upload-Defer-Length",
    "Upload-Offset",
    "Upload-Metadata",
    "Upload-Concat",
    "Upload-Checksum",
    "Upload-Complete",
    "Upload-Draft-Interop-Version",
)
HEADERS = st.dictionaries(st.sampled_from(NAMES), st.lists(VALUE, max_size=3))
METHODS = st.sampled_from(["POST", "PATCH", "HEAD", "DELETE", "OPTIONS", "GET", "PUT"])
BODY_LENGTHS = st.one_of(st.none(), st.integers(0, 2**62))


def refused_or(call: Callable[[], object]) -> bool:
    """Call; return whether it was refused. Anything else that is raised fails the test."""
    try:
        call()
    except Refusal:
        return True
    return False


@given(METHODS, HEADERS)
def test_any_method_and_version(method: str, headers: dict[str, list[str]]) -> None:
    def get_all(name: str) -> list[str]:
        return headers.get(name, [])

    refused_or(lambda: tus.check_version(tus.effective_method(method, get_all), get_all))


@given(HEADERS, BODY_LENGTHS, st.booleans())
def test_any_creation(headers: dict[str, list[str]], body_length: int | None, has_body: bool) -> None:
    def get_all(name: str) -> list[str]:
        return headers.get(name, [])

    def parse() -> None:
        wanted = tus.parse_creation(
            get_all, limits=tus.Limits(), body_length=body_length, has_body=has_body, address=None, trailing=None
        )
        assert (wanted.length is None) or 0 <= wanted.length < 10**18
        assert wanted.final_of is None or wanted.final_of
        assert (wanted.body is not None) is has_body
        # What is said of the file is cleaned whatever it is.
        client = client_of(wanted)
        assert "/" not in (client.filename or "")
        assert "\0" not in str(client)

    refused_or(parse)


@given(HEADERS, BODY_LENGTHS)
def test_any_append(headers: dict[str, list[str]], body_length: int | None) -> None:
    def get_all(name: str) -> list[str]:
        return headers.get(name, [])

    refused_or(lambda: tus.parse_append(get_all, body_length=body_length, trailing=None))


@given(VALUE)
def test_any_number(text: str) -> None:
    """Where it is read, it is what its digits say; nothing but digits is read."""

    def get_all(_: str) -> list[str]:
        return [text]

    plain = text.strip(" \t")
    legal = 1 <= len(plain) <= 18 and set(plain) <= set("0123456789")
    assert refused_or(lambda: number(get_all, "Upload-Offset")) is not legal


@given(VALUE)
def test_any_metadata(text: str) -> None:
    refused_or(lambda: parse_metadata(text, size_max=8192))


@given(
    st.dictionaries(
        st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters=","), min_size=1, max_size=9),
        st.text(max_size=20),
        max_size=5,
    )
)
def test_metadata_goes_in_and_comes_out(pairs: dict[str, str]) -> None:
    text = ",".join(
        f"{key} {base64.b64encode(value.encode('utf-8', 'ignore')).decode()}" for key, value in pairs.items()
    )
    expected = {key: value.encode("utf-8", "ignore").decode() for key, value in pairs.items()}
    assert dict(parse_metadata(text, size_max=8192)) == expected


@given(VALUE)
def test_any_checksum(text: str) -> None:
    def parse() -> None:
        checksum = tus.parse_checksum(text)
        assert len(checksum.digest) == ALGORITHMS[checksum.algorithm]

    refused_or(parse)


@given(st.dictionaries(st.sampled_from(["upload-checksum", "other"]), VALUE))
def test_any_trailer(trailers: dict[str, str]) -> None:
    refused_or(lambda: tus.trailing_checksum(trailers))
