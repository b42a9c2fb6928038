"""How instances know each other: what is signed of a call and of its answer.

Signed is what the Standard Webhooks convention signs, ``id.timestamp.content``
(HMAC-SHA256), by the library that signs callbacks. Here the id is a random
nonce, and the content says what the message is for:

* of a call: method, path, the run that it is addressed to, the SHA-256 of its body;
* of its answer: status, the run that answers, the SHA-256 of its body, under the
  nonce and time of the call, so that no answer fits another call;
* of an answer that streams: its length instead of a digest; each piece of it is
  followed by a code of its own, so that no byte is believed before it is checked.

The first key signs calls, all keys are accepted. An answer is signed with the
key of its call: that one the caller surely has.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final

from standardwebhooks.webhooks import Webhook

METHOD: Final = "POST"
PREFIX: Final = "/incoming/1.0/peer/"
TO: Final = "Incoming-Peer-To"
TIME: Final = "Incoming-Peer-Time"
NONCE: Final = "Incoming-Peer-Nonce"
SIGNATURE: Final = "Incoming-Peer-Signature"
FROM: Final = "Incoming-Peer-From"

FRESH_S: Final = 30
"""So far a call's time may be from the callee's, in either direction."""
NONCE_BITS: Final = 128
PIECE_BYTES: Final = 256 * 1024
"""A stream is cut into pieces of this size; the last one may be shorter."""
CODE_BYTES: Final = 32
"""Behind each piece."""

_START_ID: Final = re.compile(r"[0-9A-Za-z_-]{1,64}")
_NONCE: Final = re.compile(r"[0-9a-f]{32}")
_TIME: Final = re.compile(r"[0-9]{1,11}")
_SIGNATURE: Final = re.compile(r"v1,[0-9A-Za-z+/]{43}=")
_DIGITS: Final = re.compile(r"[0-9]{1,18}")


class UnsignedError(Exception):
    """A message that nobody with a key has written; the text says what is wrong, without what it holds.

    Args:
        text: that.
        reason: the same in one word, of a closed list: `unsigned`, `unknown_key`, `stale`, `repeated`.
    """

    def __init__(self, text: str, reason: str = "unsigned") -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Envelope:
    """What is signed of a call beside its body."""

    path: str
    to: str
    """Start id of the run that shall answer."""
    nonce: str
    time: int
    """Unix time, s."""

    def sign(self, key: str, content: str) -> str:
        """Return the signature of *content* under this call's nonce and time."""
        return Webhook(key.encode()).sign(self.nonce, datetime.fromtimestamp(self.time, UTC), content)


def new_envelope(message: str, *, to: str, random_bits: int, now: float) -> Envelope:
    """Return the envelope of a new call.

    Args:
        message: its name.
        to: start id of the run that shall answer.
        random_bits: :data:`NONCE_BITS` of them.
        now: Unix time, s.
    """
    return Envelope(PREFIX + message, to, f"{random_bits:032x}", int(now))


def call_headers(envelope: Envelope, key: str, body: bytes) -> dict[str, str]:
    """Return the headers that a call is known by."""
    return {
        TO: envelope.to,
        TIME: str(envelope.time),
        NONCE: envelope.nonce,
        SIGNATURE: envelope.sign(key, _of_call(envelope, body)),
    }


def read_call(
    path: str, header: Callable[[str], str | None], body: bytes, keys: Sequence[str], *, now: float
) -> tuple[Envelope, str]:
    """Return the envelope of a call and the key that it is signed with.

    Args:
        path: of the request.
        header: returns the value of a header field.
        body: whole.
        keys: those that are accepted.
        now: Unix time, s.

    Raises:
        UnsignedError: it is not signed with any of *keys*, or not of this time.
    """
    to, time, nonce = (header(name) or "" for name in (TO, TIME, NONCE))
    signature = header(SIGNATURE) or ""
    if not (
        _START_ID.fullmatch(to)
        and _TIME.fullmatch(time)
        and _NONCE.fullmatch(nonce)
        and _SIGNATURE.fullmatch(signature)
    ):
        raise UnsignedError("no signature")
    envelope = Envelope(path, to, nonce, int(time))
    content = _of_call(envelope, body)
    # All of them, always: neither how many fit nor which one shows in the time.
    fits = [hmac.compare_digest(envelope.sign(key, content), signature) for key in keys]
    if not any(fits):
        raise UnsignedError("signed with an unknown key", "unknown_key")
    if abs(now - envelope.time) > FRESH_S:
        raise UnsignedError(f"signed {now - envelope.time:+.0f} s ago by this clock", "stale")
    return envelope, keys[fits.index(True)]


def answer_headers(envelope: Envelope, key: str, *, by: str, status: int, body: bytes) -> dict[str, str]:
    """Return the headers that an answer is known by.

    Args:
        envelope: of the call.
        key: that the call was signed with.
        by: start id of the run that answers.
        status: of the answer.
        body: of the answer, whole.
    """
    return {FROM: by, SIGNATURE: envelope.sign(key, _of_answer(status, by, _digest(body)))}


def stream_headers(envelope: Envelope, key: str, *, by: str, size: int) -> dict[str, str]:
    """Return the headers that an answer of *size* bytes, in pieces, is known by."""
    said = _of_answer(200, by, _stream(size))
    return {FROM: by, SIGNATURE: envelope.sign(key, said), "Content-Length": str(streamed_bytes(size))}


def check_answer(
    envelope: Envelope, key: str, header: Callable[[str], str | None], *, status: int, body: bytes | None, size: int = 0
) -> str:
    """Return the start id of the run that has answered.

    Args:
        envelope: of the call.
        key: that it was signed with.
        header: returns the value of a header field.
        status: of the answer.
        body: of the answer, whole; None: it streams, and *size* bytes are expected.
        size: see there.

    Raises:
        UnsignedError: nobody who has the key has given this answer to this call.
    """
    by, signature = header(FROM) or "", header(SIGNATURE) or ""
    if not (_START_ID.fullmatch(by) and _SIGNATURE.fullmatch(signature)):
        raise UnsignedError("an answer without a signature")
    said = _of_answer(status, by, _stream(size) if body is None else _digest(body))
    if not hmac.compare_digest(envelope.sign(key, said), signature):
        raise UnsignedError("an answer with a wrong signature")
    return by


def piece_code(envelope: Envelope, key: str, at: int, piece: bytes) -> bytes:
    """Return the code of the piece that begins *at* bytes from the start of the stream."""
    code = hmac.new(key.encode(), f"piece\n{envelope.nonce}\n{at}\n".encode(), sha256)
    code.update(piece)
    return code.digest()


def check_piece(envelope: Envelope, key: str, at: int, piece: bytes, code: bytes) -> None:
    """Let pass what the callee has sent.

    Raises:
        UnsignedError: it was changed on its way.
    """
    if not hmac.compare_digest(piece_code(envelope, key, at, piece), code):
        raise UnsignedError("a piece of the stream was changed on its way")


def streamed_bytes(size: int) -> int:
    """Return how many bytes go over the wire for *size* bytes in pieces."""
    return size + CODE_BYTES * -(-size // PIECE_BYTES)


def number(text: str | None) -> int | None:
    """Return a header's number; None: it is none."""
    return int(text) if text is not None and _DIGITS.fullmatch(text) else None


def _of_call(envelope: Envelope, body: bytes) -> str:
    return "\n".join(("call", METHOD, envelope.path, envelope.to, _digest(body)))


def _of_answer(status: int, by: str, content: str) -> str:
    return "\n".join(("answer", str(status), by, content))


def _digest(body: bytes) -> str:
    return f"sha256 {sha256(body).hexdigest()}"


def _stream(size: int) -> str:
    return f"stream {size}"
