"""By what instances know each other: nothing that is signed can be changed, used twice elsewhere, or kept for later."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from incomingd.wire import peer_signing as signing
from incomingd.wire.peer_signing import FRESH_S, PIECE_BYTES, Envelope, UnsignedError

OLD, NEW, OTHER = "the-old-key-of-the-fleet", "the-new-key-of-the-fleet", "the-key-of-another-fleet"
NOW = 1_800_000_000.5
BODY = b'{"format":1}'
ENVELOPE = signing.new_envelope("recall", to="2" * 32, random_bits=7, now=NOW)


def headers(key: str = OLD) -> dict[str, str]:
    return signing.call_headers(ENVELOPE, key, BODY)


def read(
    said: dict[str, str],
    *keys: str,
    path: str = ENVELOPE.path,
    body: bytes = BODY,
    now: float = NOW,
) -> tuple[Envelope, str]:
    return signing.read_call(path, said.get, body, keys or (OLD,), now=now)


@pytest.mark.parametrize("keys", [(OLD,), (OLD, NEW), (NEW, OLD)])
def test_a_call_is_known_by_any_key_that_is_accepted(keys: tuple[str, ...]) -> None:
    assert read(headers(OLD), *keys) == (ENVELOPE, OLD)


def test_a_call_of_another_fleet_is_not_known() -> None:
    with pytest.raises(UnsignedError, match="unknown key"):
        read(headers(OTHER), OLD, NEW)
    with pytest.raises(UnsignedError):
        signing.read_call(ENVELOPE.path, headers().get, BODY, (), now=NOW)


@pytest.mark.parametrize(
    "name,value",
    [
        (signing.TO, "3" * 32),
        (signing.TIME, str(int(NOW) + 1)),
        (signing.NONCE, f"{8:032x}"),
        (signing.SIGNATURE, "v1," + "A" * 43 + "="),
    ],
)
def test_no_header_of_a_call_can_be_changed(name: str, value: str) -> None:
    assert headers()[name] != value
    with pytest.raises(UnsignedError):
        read(headers() | {name: value})


def test_neither_path_nor_body_of_a_call_can_be_changed() -> None:
    for path in ("/incoming/1.0/peer/void", ENVELOPE.path + "?x", ENVELOPE.path + "/"):
        with pytest.raises(UnsignedError):
            read(headers(), path=path)
    with pytest.raises(UnsignedError):
        read(headers(), body=BODY + b" ")


@pytest.mark.parametrize("name", [signing.TO, signing.TIME, signing.NONCE, signing.SIGNATURE])
@pytest.mark.parametrize("value", ["", "x" * 1000, "é", "1\n2", "v1,", "-1", "1" * 30, "٣"])
def test_what_is_no_header_of_a_call_is_no_call(name: str, value: str) -> None:
    with pytest.raises(UnsignedError):
        read(headers() | {name: value})
    with pytest.raises(UnsignedError):
        read({other: said for other, said in headers().items() if other != name})


@pytest.mark.parametrize(
    "off_s,fresh", [(-FRESH_S, True), (FRESH_S, True), (-FRESH_S - 1, False), (FRESH_S + 1, False)]
)
def test_a_call_is_good_for_half_a_minute(off_s: float, fresh: bool) -> None:
    now = ENVELOPE.time + off_s
    if fresh:
        assert read(headers(), now=now)
    else:
        with pytest.raises(UnsignedError, match="s ago by this clock"):
            read(headers(), now=now)


def test_an_answer_fits_its_call_only() -> None:
    said = signing.answer_headers(ENVELOPE, OLD, by="2" * 32, status=200, body=b"yes")

    def check(
        envelope: Envelope = ENVELOPE, key: str = OLD, *, status: int = 200, body: bytes = b"yes", **changed: str
    ) -> str:
        found = said | {name.replace("_", "-"): value for name, value in changed.items()}
        return signing.check_answer(envelope, key, found.get, status=status, body=body)

    assert check() == "2" * 32
    another = signing.new_envelope("recall", to="2" * 32, random_bits=8, now=NOW)
    calls: list[Callable[[], str]] = [
        lambda: check(another),
        lambda: check(key=NEW),
        lambda: check(status=401),
        lambda: check(body=b"no"),
        lambda: check(Incoming_Peer_From="3" * 32),
        lambda: check(Incoming_Peer_Signature=""),
    ]
    for call in calls:
        with pytest.raises(UnsignedError):
            call()


def test_a_call_is_no_answer_and_a_whole_answer_no_stream() -> None:
    said = signing.answer_headers(ENVELOPE, OLD, by="2" * 32, status=200, body=b"")
    with pytest.raises(UnsignedError):
        signing.check_answer(ENVELOPE, OLD, said.get, status=200, body=None, size=0)
    streams = signing.stream_headers(ENVELOPE, OLD, by="2" * 32, size=5)
    assert signing.check_answer(ENVELOPE, OLD, streams.get, status=200, body=None, size=5) == "2" * 32
    with pytest.raises(UnsignedError):
        signing.check_answer(ENVELOPE, OLD, streams.get, status=200, body=None, size=6)


def test_a_piece_of_a_stream_fits_its_place_only() -> None:
    code = signing.piece_code(ENVELOPE, OLD, 5, b"piece")
    signing.check_piece(ENVELOPE, OLD, 5, b"piece", code)
    another = signing.new_envelope("read", to="2" * 32, random_bits=8, now=NOW)
    for envelope, key, at, piece, given_code in (
        (another, OLD, 5, b"piece", code),
        (ENVELOPE, NEW, 5, b"piece", code),
        (ENVELOPE, OLD, 6, b"piece", code),
        (ENVELOPE, OLD, 5, b"peace", code),
        (ENVELOPE, OLD, 5, b"piece", code[:-1]),
    ):
        with pytest.raises(UnsignedError):
            signing.check_piece(envelope, key, at, piece, given_code)


@given(st.integers(0, 4 * PIECE_BYTES + 1))
def test_the_length_of_a_stream_is_known_before_it_begins(size: int) -> None:
    pieces = [min(PIECE_BYTES, size - at) for at in range(0, size, PIECE_BYTES)]
    assert signing.streamed_bytes(size) == sum(piece + signing.CODE_BYTES for piece in pieces)
