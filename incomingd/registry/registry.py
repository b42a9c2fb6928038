"""What the engine may ask of a registry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from incomingd.core.tenure import Identity


class Registry(Protocol):
    """Leases of instances, and who seems to own which upload."""

    async def owner_of(self, upload_id: str) -> tuple[Identity, int] | None:
        """Return who seems to own the upload, and the epoch; None: nobody known."""

    async def owned(self, upload_id: str, owner: Identity, epoch: int) -> None:
        """Publish an ownership. A higher epoch wins over a lower one."""

    async def released(self, upload_id: str, owner: Identity, epoch: int) -> None:
        """Take an ownership back, unless another owner's or a later one is published.

        Args:
            upload_id: whose.
            owner: who gives it up.
            epoch: the last of its tenures; what is published may be an earlier one.
        """

    async def live(self) -> list[Identity]:
        """Return the instances whose leases run, the caller's own among them."""

    async def close(self) -> None:
        """Give up this instance's lease."""
