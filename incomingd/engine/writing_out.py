"""Bringing the bytes of a long append to the disk while it goes on.

Whoever parks an upload, completes it or answers with durable bytes waits for
what is not on the disk yet. Without this that is all that one request has
brought: gigabytes, and so seconds, for a fast client that sends a file in one.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from incomingd.storage.volume import VolumeError

if TYPE_CHECKING:
    import asyncio

    from incomingd.engine.owned import OwnedUpload
    from incomingd.storage.body import Body, CutReason

STEP_BYTES: Final = 32 * 1024 * 1024
"""So many bytes are brought to the disk at once, while more arrive."""
AHEAD_BYTES: Final = 2 * STEP_BYTES
"""So many may have arrived since; then the sender waits for the disk."""


class WrittenOut:
    """A body whose bytes are on their way to the disk before they have all come.

    Args:
        body: what comes in.
        upload: whose bytes they are.
        part: of it.
    """

    def __init__(self, body: Body, upload: OwnedUpload, part: str | None) -> None:
        self._body = body
        self._upload = upload
        self._part = part
        self._arrived = 0
        self._asked = 0
        """How many had arrived when they were last brought to the disk."""
        self._under_way: asyncio.Task[None] | None = None
        # Alone, and with nothing promised of the disk, nobody waits for it.
        self._wanted = upload.syncs_completion or upload.services.volume.shared

    @property
    def length(self) -> int | None:
        """See the body."""
        return self._body.length

    async def read(self) -> bytes:
        """Return the body's next bytes, unless the disk is too far behind; then first wait for it."""
        # Whoever reads has kept what was read before.
        ahead = self._arrived - self._asked
        if self._wanted and ahead >= STEP_BYTES:
            if ahead >= AHEAD_BYTES:
                await self.rest()
            if self._under_way is None or self._under_way.done():
                self._asked = self._arrived
                name = f"write out {self._upload.id}"
                self._under_way = self._upload.services.clock.spawn(self._bring(), name=name)
        data = await self._body.read()
        self._arrived += len(data)
        return data

    async def _bring(self) -> None:
        upload = self._upload
        # The append's own sync hears of a failure, too: the kernel tells each open file once.
        with contextlib.suppress(VolumeError):
            await upload.services.volume.sync_segments(upload.record, upload.target(self._part))

    async def rest(self) -> None:
        """Wait until nothing is under way any more."""
        if self._under_way is not None:
            await self._under_way

    def cut(self, reason: CutReason) -> None:
        """See the body."""
        self._body.cut(reason)

    def kept(self, offset: int) -> None:
        """See the body."""
        self._body.kept(offset)
