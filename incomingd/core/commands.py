"""What clients ask for, whatever protocol they speak, and what they are told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from incomingd.core.status import Status


@dataclass(frozen=True, slots=True)
class Checksum:
    """A digest that the bytes of one append must have."""

    algorithm: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class Creation:
    """A client begins: the file's length and what it says of the file."""

    length: int | None
    metadata: str | None = None
    """As sent, to the byte."""
    pairs: tuple[tuple[str, str], ...] = ()
    """The same, decoded; values that are no UTF-8 are left out."""
    concat: str | None = None
    """Upload-Concat as sent, to the byte."""
    partial: bool = False
    final_of: tuple[str, ...] | None = None
    """Paths or URLs of the parts, in order."""
    body: Append | None = None
    """Bytes that came along."""
    protocol: str = "tus"
    address: str | None = None


@dataclass(frozen=True, slots=True)
class Append:
    """Bytes for an upload, from *offset* on."""

    offset: int
    body_length: int | None
    """Bytes announced; None where the body marks its own end."""
    length: int | None = None
    """The upload's length, told only now."""
    checksum: Checksum | None = None
    trailing_checksum: Callable[[], Checksum] | None = None
    """Asked behind the body; raises a Refusal where it is missing or malformed."""


@dataclass(frozen=True, slots=True)
class Resource:
    """What an answer of the upload resource tells."""

    upload_id: str
    part: str | None
    status: Status
    offset: int | None
    """None: a concatenation whose parts are not all there."""
    length: int | None
    length_deferred: bool
    length_limit: int | None
    metadata: str | None
    concat: str | None
    expires_at: float | None
    """Unix time, s; None once it does not expire any more."""
    bytes_taken: int = 0
    """By the request that is answered."""
