"""What holds the registry's values: single steps that nothing comes between.

The store knows nothing of time but how long values are to be kept, and of the
values only the fields that keep their places in every format
(:mod:`incomingd.registry.values`). The rest is :mod:`incomingd.registry.fleet`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

KEEP_S = 3600.0
"""Entries of ownership, and what belongs to the ring as a whole, last so long without being renewed."""
INVITATION_S = 60.0
"""An invitation that nobody has read within so long is void: its upload's client has come to somebody."""
TAKEN_MAX = 1000
"""Invitations that are read at once."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An ownership on its way into the store."""

    upload_id: str
    name: str
    start_id: str
    epoch: int
    value: bytes = b""
    """As it will be kept; holds name, start id and epoch too. Empty: nothing is to be kept."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """What a renewal saw."""

    generation: str
    """Random; another one when the store has been emptied."""
    run_id: str
    """Of the server; another one after a fail-over. Empty where the server does not tell."""
    stamp: str
    """Random; another one when leases have begun, ended or changed."""
    invitations: int
    """How many wait for this instance."""


class Store(Protocol):
    """Each method is one step. Each raises `RegistryUnavailableError` within about a second."""

    async def renew(self, lease_id: str, value: bytes, *, lease_s: float, fresh: str) -> Sighting:
        """Let a lease run for *lease_s* from now; drop those that have lapsed.

        Args:
            lease_id: whose.
            value: what the instance says of itself.
            lease_s: how long it runs.
            fresh: random; the new stamp if anything changes, the generation if there is none.
        """

    async def leases(self) -> dict[str, bytes]:
        """Return lease id -> value of those that run."""

    async def leave(self, lease_id: str, *, fresh: str) -> None:
        """End a lease and drop its invitations. *fresh* is the new stamp."""

    async def owner(self, upload_id: str) -> bytes | None:
        """Return the entry of an upload; None: there is none."""

    async def publish(self, entries: Sequence[Entry]) -> list[bytes | None]:
        """Keep each entry, unless one of a higher epoch, or of the same one and another run, stands.

        Returns:
            For each what stands against it; None: it was kept.
        """

    async def correct(self, replaced: Entry, by: Entry) -> bytes | None:
        """Put *by* (nothing if its value is empty) in the place of *replaced*, or where nothing is.

        Returns:
            The other entry that stands there, untouched; None: done.
        """

    async def release(self, entries: Sequence[Entry]) -> None:
        """Drop each entry, unless it is another run's or of a higher epoch."""

    async def keyed(self, key: str) -> bytes | None:
        """Return the value of a web app's key; None: there is none."""

    async def bind_key(self, key: str, value: bytes, *, upload_id: str, instead_of: str, keep_s: float) -> bytes | None:
        """Keep a value for a web app's key, unless one stands that names neither *upload_id* nor *instead_of*.

        Returns:
            What stands against it; None: it was kept.
        """

    async def invite(self, lease_id: str, invitations: Mapping[str, bytes]) -> None:
        """Keep invitations (upload id -> value) for the instance with that lease."""

    async def take(self, lease_id: str) -> dict[str, bytes]:
        """Return and drop up to `TAKEN_MAX` invitations."""

    async def listen(self, hint: Callable[[str], None]) -> None:
        """Call *hint* when something has changed: with a lease id (invitations), or "" (leases).

        Runs until it is cancelled. Hints may be lost, late or repeated; one comes whenever
        listening begins (again), for what may have been missed.
        """

    async def close(self) -> None:
        """Let go of what is held; the store is not used afterwards."""
