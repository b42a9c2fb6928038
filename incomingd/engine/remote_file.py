"""A complete file that lies with another instance, for whoever asks this one for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from incomingd.core.peering import FILE, BytesWanted
from incomingd.storage.body import BodyCutError
from incomingd.storage.volume import VolumeUnavailableError

if TYPE_CHECKING:
    from incomingd.core.record import Record
    from incomingd.core.tenure import Identity
    from incomingd.peers.calls import Peers


class RemoteFile:
    """See :class:`incomingd.storage.volume.StoredFile`."""

    def __init__(self, record: Record, owner: Identity, peers: Peers) -> None:
        self._upload_id = record.upload_id
        self._size = record.content.length or 0
        self._owner = owner
        self._peers = peers

    @property
    def size(self) -> int:
        """Its size in bytes."""
        return self._size

    async def read(self, start: int, size: int) -> bytes:
        """Return up to *size* bytes from *start* on."""
        stop = min(start + size, self._size)
        if stop <= start:
            return b""
        body = self._peers.read(self._owner, BytesWanted(self._upload_id, FILE, start, stop))
        pieces: list[bytes] = []
        try:
            while piece := await body.read():
                pieces.append(piece)
        except BodyCutError as error:
            raise VolumeUnavailableError(f"{self._owner.name} does not send the file") from error
        return b"".join(pieces)

    async def close(self) -> None:
        """Nothing is open."""
