"""What all answers to peers share: who may ask, and who is asked."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

from incomingd.core.errors import Code, Refusal
from incomingd.core.peering import Elsewhere, Given, NotNow, Unknown
from incomingd.metrics import Metrics
from incomingd.wire.peer import MESSAGE_BYTES_MAX, Formats
from incomingd.wire.peer_signing import FRESH_S, UnsignedError, read_call

if TYPE_CHECKING:
    from collections.abc import Callable

    from incomingd.clock import Clock
    from incomingd.core.peering import (
        Act,
        Acted,
        Bequest,
        Inherited,
        Question,
        Recall,
        Recalled,
        Recorded,
        Release,
        Voided,
    )
    from incomingd.wire.peer_signing import Envelope

LISTENER_BODY_BYTES: Final = 2 * MESSAGE_BYTES_MAX
"""What the listener reads before anybody has looked at it; so a message that is too large is told so."""
TELL_EVERY_S: Final = 1.0
STALL_S: Final = 30.0
"""Longer than a peer waits for a piece itself."""
NONCES_MAX: Final = 200_000
"""3,000 calls a second, one minute long; some 30 MB."""

Document: TypeAlias = dict[str, object]
Reply: TypeAlias = Given | Elsewhere | Unknown | NotNow


class PeerEngine(Protocol):
    """What peers may ask of this instance. Each may raise a Refusal, which the peer is told."""

    async def recall(self, recall: Recall) -> Recalled:
        """Park an upload for a peer to which its client has come."""

    async def act(self, act: Act) -> Acted:
        """Do something to an upload that is owned here."""

    async def ask(self, question: Question) -> Reply:
        """Give an upload that lies on a volume which the peer does not reach."""

    async def void(self, voided: Voided) -> None:
        """Hear that what was given is not taken."""

    async def recorded(self, recorded: Recorded) -> None:
        """Hear that what was given is taken."""

    async def release(self, release: Release) -> None:
        """Hear which segments nobody needs any more."""

    async def inherit(self, bequest: Bequest) -> Inherited:
        """Keep what is left on the volume of an instance that goes for good."""

    async def read_range(self, upload_id: str, segment: str, start: int, size: int) -> bytes:
        """Return bytes ``[start, start + size)`` of a segment that lies here; fewer where it ends before."""

    async def listing(self, query: Document) -> Document:
        """Return a page of the uploads that this instance looks after."""

    async def status(self) -> Document:
        """Return what this instance says of itself."""


class Nonces:
    """Those of the calls of the last minute: no call is taken twice.

    Only signed calls come here, so that strangers cannot fill it.
    """

    def __init__(self, most: int = NONCES_MAX) -> None:
        self._most = most
        self._until: OrderedDict[bytes, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._until)

    def take(self, nonce: str, *, now_s: float) -> bool:
        """Remember a nonce; return whether it is new.

        Args:
            nonce: of a call whose time is fresh.
            now_s: that never jumps.

        Raises:
            Refusal: `not_ready`: there are too many; none is forgotten early.
        """
        while self._until and next(iter(self._until.values())) < now_s:
            self._until.popitem(last=False)
        key = bytes.fromhex(nonce)
        if key in self._until:
            return False
        if len(self._until) >= self._most:
            raise Refusal(Code.NOT_READY, "Too many calls of peers within a minute.", retry_after_s=1)
        # A call from the near future is fresh for twice the span.
        self._until[key] = now_s + 2 * FRESH_S + 1
        return True


class PeerApi:
    """One for each process; its `keys` are replaced at a reload.

    Args:
        engine: of this process.
        start_id: of this run.
        keys: `peer.keys`; all are accepted.
        clock: tells whether a call is fresh.
        formats: those that this program knows.
        metrics: told who is not taken for a peer, and what is sent.
    """

    def __init__(
        self,
        engine: PeerEngine,
        *,
        start_id: str,
        keys: tuple[str, ...],
        clock: Clock,
        formats: Formats | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self.metrics = metrics or Metrics(version="", instance="")
        self.engine = engine
        self.start_id = start_id
        self.keys = keys
        self.formats = formats or Formats()
        self.clock = clock
        self.stall_s = STALL_S
        """A peer that takes no piece of a stream for so long does not read any more."""
        self._nonces = Nonces()
        self._told_at: float | None = None

    def admit(self, path: str, header: Callable[[str], str | None], body: bytes) -> tuple[Envelope, str]:
        """Return the envelope of a call and the key that its answer is signed with.

        Raises:
            UnsignedError: no peer has made it now.
        """
        return read_call(path, header, body, self.keys, now=self.clock.now())

    def tells(self) -> bool:
        """Whether the log shall have a word of a stranger now: whoever knocks must not fill it."""
        now_s = self.clock.monotonic()
        if self._told_at is not None and now_s - self._told_at < TELL_EVERY_S:
            return False
        self._told_at = now_s
        return True

    def check_addressed(self, envelope: Envelope) -> None:
        """Let pass what is meant for this run and comes for the first time.

        Raises:
            UnsignedError: it came before.
            Refusal: `peer_other_run`, `not_ready`.
        """
        if not self._nonces.take(envelope.nonce, now_s=self.clock.monotonic()):
            raise UnsignedError("the same call as before", "repeated")
        if envelope.to != self.start_id:
            raise Refusal(Code.PEER_OTHER_RUN)
