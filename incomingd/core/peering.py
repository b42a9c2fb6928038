"""What instances say to each other, as values; how it is spelled stands in :mod:`incomingd.wire.peer`.

Every message may be late, lost or repeated. So each names the tenure or the
question that it is about, and one that names another is ignored.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from incomingd.core.record import Record
    from incomingd.core.tenure import Claim, Identity

FILE: Final = "file"
"""What peers call the joined file, as if it were a segment."""


@dataclass(frozen=True, slots=True)
class Recall:
    """A client came to `by`: the owner is asked to park the upload."""

    upload_id: str
    epoch: int
    """Of the tenure that is recalled; any other is not touched."""
    by: Identity


class Recalled(Enum):
    """What became of a recall."""

    PARKED = "parked"
    """The record says so; whoever claims next has it."""
    NOT_OWNER = "not_owner"
    """This run lives, and that tenure is not its own or is over: look at the volume again."""
    NOT_OPEN = "not_open"
    """The upload takes no bytes any more: it stays, acts on it are sent to its owner."""


class ActName(Enum):
    """What may be done to an upload at its owner, for a request that arrived elsewhere."""

    VIEW = "view"
    CHANGE = "change"
    CANCEL = "cancel"
    CONFIRM = "confirm"
    REDELIVER = "redeliver"
    TERMINATE = "terminate"


@dataclass(frozen=True, slots=True)
class Act:
    """A request of a web app, an operator or a client, sent on to the owner."""

    upload_id: str
    name: ActName
    arguments: dict[str, object] = field(default_factory=dict)
    """JSON values, as the act's own parameters are called."""


@dataclass(frozen=True, slots=True)
class Acted:
    """How the upload stands after an act."""

    record: Record
    offset: int


@dataclass(frozen=True, slots=True)
class Question:
    """May I have the upload? Asked of who holds it on a volume that the asker does not reach."""

    upload_id: str
    question: str
    """Random; in the asker's memory, and in the claim that answers it. Empty: only who owns it is asked."""
    by: Identity
    volume_id: str
    """Where the asker would write."""


@dataclass(frozen=True, slots=True)
class Given:
    """Yes: the claim is made in the asker's name; the upload is its own once it has written the record."""

    claim: Claim
    record: Record
    """As the giver left it, with the whole map."""


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """No: somebody else has it."""

    owner: Identity
    epoch: int
    volume_id: str
    keeps: bool = False
    """The upload takes no bytes any more and stays there: acts on it are sent to its owner."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """No: this volume, where the id says it was born, knows no such upload."""


@dataclass(frozen=True, slots=True)
class NotNow:
    """No, not now: a disk that does not answer, a tenure that cannot be taken over yet."""

    detail: str = ""


@dataclass(frozen=True, slots=True)
class Voided:
    """What was given is declined, on the volume that it was given to, for ever: the giver may have it back."""

    upload_id: str
    question: str
    """That was answered. It proves nothing: several may have been, by several instances."""
    epoch: int
    """Of the claim that gave it."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """The taker's record stands: the giver need not wait for it any more."""

    upload_id: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Release:
    """The owner has copies of these segments, durable and in its map: they may be deleted."""

    upload_id: str
    segments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Bequest:
    """What an instance that goes for good leaves to another one: a piece of it, or the question whether it may."""

    volume_id: str
    """Of the volume that retires."""
    heir_volume_id: str
    """Where it is to be kept, as the heir has said; empty: only this is asked."""
    givens: tuple[Given, ...] = ()
    """Uploads that were given away, each with the claim: those whose claim names the heir's volume are its own."""
    volumes: tuple[str, ...] = ()
    """With the last piece: ids of the volumes for which the heir answers from now on."""


@dataclass(frozen=True, slots=True)
class Inherited:
    """What was sent is kept, and survives a power loss."""

    volume_id: str
    """On which volume."""


@dataclass(frozen=True, slots=True)
class BytesWanted:
    """Bytes ``[start, stop)`` of a segment that lies with the one asked."""

    upload_id: str
    segment: str
    start: int
    stop: int

    @property
    def reason(self) -> str:
        """What they are wanted for: `backfill`, or `download` of the joined file."""
        return "download" if self.segment == FILE else "backfill"
