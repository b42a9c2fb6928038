"""What an instance may ask of another one, whatever carries it.

Every call is bounded in time. That a call has failed says little: the other
side may have done what was asked. So all of them may be made again, and none
is ever the proof of anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias

from incomingd.core.peering import Elsewhere, Given, NotNow, Unknown
from incomingd.storage.body import Body, BodyCutError, CutReason

if TYPE_CHECKING:
    from collections.abc import Mapping

    from incomingd.core.peering import (
        Act,
        Acted,
        Bequest,
        BytesWanted,
        Inherited,
        Question,
        Recall,
        Recalled,
        Recorded,
        Release,
        Voided,
    )
    from incomingd.core.tenure import Identity

Reply: TypeAlias = Given | Elsewhere | Unknown | NotNow
"""To a question."""
Document: TypeAlias = dict[str, object]
"""A JSON object that passes through as it is."""


class PeerError(Exception):
    """A call that has no answer; the text says why, for people, and names nobody's secrets."""


class PeerGoneError(PeerError):
    """That run is over: its address refuses connections, or another run answers there."""


class PeerSilentError(PeerError):
    """No answer in time, none at all, or one that broke off. What was asked may have been done."""


class PeerRefusedError(PeerError):
    """Whoever answers does not take this instance for a peer, or is none itself; nothing was done."""


class PeerBody(Body, Protocol):
    """Bytes that come from a peer. Those that :meth:`read` returns are the ones that it sent."""

    @property
    def failure(self) -> PeerError | None:
        """Why the body was cut; None while it was not, or by the caller's own :meth:`cut`."""


class Peers(Protocol):
    """The other instances of the fleet.

    Each call names the run it is meant for and is answered by no other one.
    All raise :class:`PeerError`, if nothing else is said.
    """

    async def recall(self, owner: Identity, recall: Recall) -> Recalled:
        """Ask *owner* to park an upload. Answered within one lease time, or not at all."""

    async def act(self, owner: Identity, act: Act) -> Acted:
        """Have something done to an upload by its owner.

        Raises:
            Refusal: that of the owner.
            PeerError: see there.
        """

    async def ask(self, holder: Identity, question: Question) -> Reply:
        """Ask whoever holds an upload on a volume out of reach to give it."""

    async def void(self, holder: Identity, voided: Voided) -> None:
        """Say that what was given is not taken."""

    async def recorded(self, holder: Identity, recorded: Recorded) -> None:
        """Say that what was given is taken."""

    async def release(self, holder: Identity, release: Release) -> None:
        """Say which segments nobody needs any more."""

    async def inherit(self, heir: Identity, bequest: Bequest) -> Inherited:
        """Have another instance keep what is left on a volume that goes for good; answered when it is durable there."""

    def read(self, holder: Identity, wanted: BytesWanted) -> PeerBody:
        """Return bytes of a segment; nothing is asked for before the first of them is read."""

    async def listing(self, peer: Identity, query: Mapping[str, object]) -> Document:
        """Return a page of the uploads that *peer* looks after. Query and page are what the caller and it agree on."""

    async def status(self, peer: Identity) -> Document:
        """Return what *peer* says of itself."""


class UnreachableBody:
    """Bytes of somebody who cannot be asked."""

    def __init__(self, wanted: BytesWanted, failure: PeerError) -> None:
        self.failure: PeerError | None = failure
        self._length = wanted.stop - wanted.start

    @property
    def length(self) -> int:
        """How many bytes were wanted."""
        return self._length

    async def read(self) -> bytes:
        """Raise BodyCutError."""
        raise BodyCutError(CutReason.CLIENT)

    def cut(self, reason: CutReason) -> None:
        """Do nothing: it is cut."""

    def kept(self, offset: int) -> None:
        """Do nothing."""


class LonePeers:
    """There are none: a single instance. Whoever a record names as owner is gone."""

    async def recall(self, owner: Identity, recall: Recall) -> Recalled:
        """Raise PeerGoneError."""
        del recall
        raise _nobody(owner)

    async def act(self, owner: Identity, act: Act) -> Acted:
        """Raise PeerGoneError."""
        del act
        raise _nobody(owner)

    async def ask(self, holder: Identity, question: Question) -> Reply:
        """Raise PeerGoneError."""
        del question
        raise _nobody(holder)

    async def void(self, holder: Identity, voided: Voided) -> None:
        """Raise PeerGoneError."""
        del voided
        raise _nobody(holder)

    async def recorded(self, holder: Identity, recorded: Recorded) -> None:
        """Raise PeerGoneError."""
        del recorded
        raise _nobody(holder)

    async def release(self, holder: Identity, release: Release) -> None:
        """Raise PeerGoneError."""
        del release
        raise _nobody(holder)

    async def inherit(self, heir: Identity, bequest: Bequest) -> Inherited:
        """Raise PeerGoneError."""
        del bequest
        raise _nobody(heir)

    def read(self, holder: Identity, wanted: BytesWanted) -> PeerBody:
        """Return a body that is cut before its first byte."""
        return UnreachableBody(wanted, _nobody(holder))

    async def listing(self, peer: Identity, query: Mapping[str, object]) -> Document:
        """Raise PeerGoneError."""
        del query
        raise _nobody(peer)

    async def status(self, peer: Identity) -> Document:
        """Raise PeerGoneError."""
        raise _nobody(peer)


def _nobody(peer: Identity) -> PeerGoneError:
    return PeerGoneError(f"a single instance has no peer {peer.name!r}")
