"""The registry of one instance that is alone: it knows what it owns."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from incomingd.core.tenure import Identity


class MemoryRegistry:
    """See :class:`incomingd.registry.registry.Registry`.

    Holds an entry only for uploads that are in use, so memory does not grow
    with uploads at rest.
    """

    def __init__(self, own: Identity) -> None:
        self._own = own
        self._owners: dict[str, tuple[Identity, int]] = {}

    async def owner_of(self, upload_id: str) -> tuple[Identity, int] | None:
        """Return who seems to own the upload."""
        return self._owners.get(upload_id)

    async def owned(self, upload_id: str, owner: Identity, epoch: int) -> None:
        """Publish an ownership."""
        known = self._owners.get(upload_id)
        if known is None or known[1] <= epoch:
            self._owners[upload_id] = (owner, epoch)

    async def released(self, upload_id: str, owner: Identity, epoch: int) -> None:
        """Take an ownership back, unless another owner's or a later one is published."""
        known = self._owners.get(upload_id)
        if known is not None and known[0] == owner and known[1] <= epoch:
            del self._owners[upload_id]

    async def live(self) -> list[Identity]:
        """Return the only instance there is."""
        return [self._own]

    async def close(self) -> None:
        """Forget everything."""
        self._owners.clear()
