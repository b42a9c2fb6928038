"""Digests of blocks beside the records of a volume in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from incomingd.storage.memory_parts import Directory, File
from incomingd.storage.volume import VolumeUnavailableError

if TYPE_CHECKING:
    from incomingd.storage.memory_calls import Calls
    from incomingd.storage.volume import See

PREFIX: Final = "digests."


class MemoryBlocks:
    """See :class:`incomingd.storage.volume.Blocks`."""

    def __init__(self, uploads: Directory[Directory[File]], calls: Calls) -> None:
        self._uploads = uploads
        self._calls = calls

    def _folder(self, upload_id: str) -> Directory[File]:
        folder = self._uploads.names.get(upload_id)
        if folder is None:
            raise VolumeUnavailableError(f"no upload {upload_id}")
        return folder

    async def read(self, upload_id: str, epoch: int) -> bytes:
        """Return what tenure *epoch* has written here."""

        def read() -> bytes:
            file = self._folder(upload_id).names.get(f"{PREFIX}{epoch}")
            return bytes(file.data) if file is not None else b""

        return await self._calls.make("read_blocks", read)

    async def write(self, upload_id: str, epoch: int, at: int, data: bytes) -> None:
        """Have *data* stand at the offset *at*, and nothing behind it."""

        def write() -> None:
            folder = self._folder(upload_id)
            if at == 0:
                former = [name for name in folder.names if name.startswith(PREFIX) and _epoch_of(name) < epoch]
                for name in former:
                    folder.drop(name)
            file = folder.names.get(f"{PREFIX}{epoch}")
            if file is None:
                file = File()
                folder.put(f"{PREFIX}{epoch}", file)
            file.cut(at)
            file.write(at, data)

        await self._calls.make("write_blocks", write)

    async def look_through(self, upload_id: str, segment: str, start: int, size: int, see: See) -> int:
        """Show bytes of a segment to *see*."""

        def read() -> bytes:
            file = self._folder(upload_id).names.get(segment)
            if file is None:
                raise VolumeUnavailableError(f"no segment {segment}")
            return bytes(file.data[start : start + size])

        data = await self._calls.make("look_through", read)
        see(data)
        return len(data)


def _epoch_of(name: str) -> int:
    return int(name.removeprefix(PREFIX))
