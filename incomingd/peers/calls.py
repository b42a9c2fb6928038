"""What one instance may ask of another.

Every call is bounded in time. A call that fails with :class:`PeerSilentError` may
have been done or not: all of them can be repeated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from incomingd.core.peering import (
        Act,
        Acted,
        BytesWanted,
        Elsewhere,
        Given,
        NotNow,
        Question,
        Recall,
        Recalled,
        Recorded,
        Release,
        Unknown,
        Voided,
    )
    from incomingd.core.tenure import Identity
    from incomingd.storage.body import Body


class PeerError(Exception):
    """A peer could not be asked."""


class PeerGoneError(PeerError):
    """That run of that instance is over: its address refuses, or another run answers there."""


class PeerSilentError(PeerError):
    """No answer in time, or one that broke off: nobody knows whether it was done."""


class PeerRefusedError(PeerError):
    """It does not take our key, or does not know the format; nothing was done."""


class Peers(Protocol):
    """Calls to other instances; each is meant for one run of one instance, and done by no other.

    All raise :class:`PeerError`.
    """

    async def recall(self, owner: Identity, recall: Recall) -> Recalled:
        """Ask the owner to park an upload because its client came here."""

    async def act(self, owner: Identity, act: Act) -> Acted:
        """Have the owner do what arrived here.

        Raises:
            Refusal: the owner refused, with this.
        """

    async def ask(self, holder: Identity, question: Question) -> Given | Elsewhere | Unknown | NotNow:
        """Ask for an upload that lies on a volume which is not reached from here."""

    async def void(self, holder: Identity, voided: Voided) -> None:
        """Say that what was given cannot be taken."""

    async def recorded(self, holder: Identity, recorded: Recorded) -> None:
        """Say that what was given is taken."""

    async def release(self, holder: Identity, release: Release) -> None:
        """Say that segments are not needed any more."""

    def read(self, holder: Identity, wanted: BytesWanted) -> Body:
        """Return bytes of a segment, as they come; cut where they do not come whole."""

    async def listing(self, peer: Identity, query: Mapping[str, Any]) -> dict[str, Any]:
        """Return a page of the uploads that are looked after there."""

    async def status(self, peer: Identity) -> dict[str, Any]:
        """Return what the peer says of itself."""


class LonePeers:
    """For a single instance: whoever is named is a former run of its own, or one that is gone."""

    async def recall(self, owner: Identity, recall: Recall) -> Recalled:
        """There is nobody."""
        raise _nobody(owner, recall)

    async def act(self, owner: Identity, act: Act) -> Acted:
        """There is nobody."""
        raise _nobody(owner, act)

    async def ask(self, holder: Identity, question: Question) -> Given | Elsewhere | Unknown | NotNow:
        """There is nobody."""
        raise _nobody(holder, question)

    async def void(self, holder: Identity, voided: Voided) -> None:
        """There is nobody."""
        raise _nobody(holder, voided)

    async def recorded(self, holder: Identity, recorded: Recorded) -> None:
        """There is nobody."""
        raise _nobody(holder, recorded)

    async def release(self, holder: Identity, release: Release) -> None:
        """There is nobody."""
        raise _nobody(holder, release)

    def read(self, holder: Identity, wanted: BytesWanted) -> Body:
        """There is nobody."""
        raise _nobody(holder, wanted)

    async def listing(self, peer: Identity, query: Mapping[str, Any]) -> dict[str, Any]:
        """There is nobody."""
        raise _nobody(peer, query)

    async def status(self, peer: Identity) -> dict[str, Any]:
        """There is nobody."""
        raise _nobody(peer, None)


def _nobody(peer: Identity, message: object) -> PeerGoneError:
    return PeerGoneError(f"{peer.name}: this instance has no peers ({type(message).__name__})")
