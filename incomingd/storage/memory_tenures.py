"""Records and claims of a volume in memory, called as a directory calls them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from incomingd.core import codec
from incomingd.storage.chain import Chain, answer_name, claim_name, is_older_record, record_name
from incomingd.storage.memory_calls import Calls
from incomingd.storage.memory_parts import Directory, File
from incomingd.storage.volume import (
    ClaimTakenError,
    DeclinedError,
    RecordUnreadableError,
    Standing,
    VolumeFullError,
    VolumeUnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from incomingd.core.record import Record
    from incomingd.core.tenure import Claim
    from incomingd.storage.memory_disk import Platters
    from incomingd.storage.memory_parts import Trouble


class MemoryTenures:
    """What a volume in memory keeps of tenures, and what it has to do with those of other volumes."""

    def __init__(self, disk: Platters) -> None:
        self.disk = disk
        self.dead = False
        """The process is gone; nothing of it changes anything any more."""
        self.trouble: Callable[[str], Trouble | None] | None = None
        """In place of the disk's: what befalls the calls of this process."""
        self.formats = codec.NEWEST
        """Of records and claims; another one is set before the first use."""
        self._calls = Calls(self)

    def wrote(self, file: File) -> None:
        """Bytes have been written to *file*."""

    @property
    def _durable(self) -> bool:
        return self.disk.durable or self.disk.network

    @property
    def id(self) -> str:
        """The volume's own id."""
        return self.disk.volume_id

    def _folder(self, upload_id: str) -> Directory[File]:
        folder = self.disk.uploads.names.get(upload_id)
        if folder is None:
            raise VolumeUnavailableError(f"no upload {upload_id}")
        return folder

    def _segment(self, upload_id: str, name: str) -> File:
        file = self._folder(upload_id).names.get(name)
        if file is None:
            raise VolumeUnavailableError(f"no segment {name}")
        return file

    def _read(self, upload_id: str) -> Record | None:
        folder = self.disk.uploads.names.get(upload_id)
        name = Chain.of(folder.names).last_record if folder is not None else None
        if folder is None or name is None:
            return None
        try:
            return self.formats.decode(bytes(folder.names[name].data))
        except codec.RecordFormatError as error:
            raise RecordUnreadableError(str(error)) from error

    def _standing(self, upload_id: str) -> Standing | None:
        record = self._read(upload_id)
        if record is None:
            return None
        folder = self._folder(upload_id)
        last = Chain.of(folder.names).unrecorded
        return Standing(record, self._read_claim(folder, last) if last is not None else None)

    def _read_claim(self, folder: Directory[File], epoch: int) -> Claim:
        try:
            return self.formats.decode_claim(bytes(folder.names[claim_name(epoch)].data))
        except codec.RecordFormatError as error:
            raise RecordUnreadableError(str(error)) from error

    def _replace(self, folder: Directory[File], name: str, data: bytes, *, sync: bool) -> None:
        if self.disk.free_bytes == 0:
            raise VolumeFullError("no room for a record")
        file = File(data)
        # Whole or not at all: the bytes are down before the name points to them.
        file.synced = len(data)
        folder.put(name, file)
        if sync:
            folder.sync()

    # -- what other volumes give

    async def take(self, claim: Claim, record: Record) -> None:
        """Begin a tenure here that another volume's holder has given."""

        def take() -> None:
            assert self.disk.claims_are_files, "a fleet keeps its claims in files"
            folder = self._folder_made(record.upload_id)
            chain = Chain.of(folder.names)
            if chain.record is not None and chain.record >= claim.epoch:
                found = self.formats.decode(bytes(folder.names[record_name(chain.record)].data))
                if found.create_id != claim.create_id:
                    raise ClaimTakenError(record.upload_id)
            else:
                answer = answer_name(claim.epoch)
                if answer in folder.names:
                    # A record goes there and to its own place in one step, so this is a word that declines.
                    raise DeclinedError(record.upload_id)
                self._replace(folder, answer, self.formats.encode(record), sync=False)
                self._replace(folder, record_name(record.epoch), self.formats.encode(record), sync=True)
            self._replace(folder, claim_name(claim.epoch), self.formats.encode_claim(claim), sync=True)
            self.disk.uploads.sync()

        await self._calls.make("take", take)

    async def decline(self, claim: Claim, upload_id: str) -> None:
        """Have what another volume's holder has given never be taken here."""

        def decline() -> None:
            assert self.disk.claims_are_files, "a fleet keeps its claims in files"
            folder = self._folder_made(upload_id)
            answer = answer_name(claim.epoch)
            taken = (Chain.of(folder.names).record or 0) >= claim.epoch
            if taken:
                raise ClaimTakenError(upload_id)
            if answer not in folder.names:
                self._replace(folder, answer, self.formats.encode_claim(claim), sync=True)
            self.disk.uploads.sync()

        await self._calls.make("decline", decline)

    def _folder_made(self, upload_id: str) -> Directory[File]:
        folder = self.disk.uploads.names.get(upload_id)
        if folder is None:
            folder = Directory()
            self.disk.uploads.put(upload_id, folder)
            self.disk.enter(upload_id)
        return folder

    async def keep_given(self, claim: Claim, record: Record) -> None:
        """Keep what a volume that retires knew of an upload that it had given away."""

        def keep() -> None:
            standing = self._standing(record.upload_id)
            if standing is not None and standing.epoch >= claim.epoch:
                return
            folder = self._folder_made(record.upload_id)
            self._replace(folder, claim_name(claim.epoch), self.formats.encode_claim(claim), sync=True)
            self._replace(folder, record_name(record.epoch), self.formats.encode(record), sync=True)
            for older in [each for each in folder.names if is_older_record(each, record.epoch)]:
                folder.drop(older)
            self.disk.uploads.sync()

        await self._calls.make("keep_given", keep)
