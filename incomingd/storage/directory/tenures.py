"""Claims and records of one upload, each in a file of its own; all of it blocks.

A claim is written whole under another name and then linked to its own: of all
who try, on whatever host, exactly one succeeds. It is never replaced, and never
deleted before the whole folder goes.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from typing import TYPE_CHECKING, Final

from incomingd.core import codec
from incomingd.storage.chain import Chain, answer_name, claim_name, is_older_record, record_name
from incomingd.storage.directory import files
from incomingd.storage.volume import ClaimTakenError, DeclinedError, RecordUnreadableError, Standing

if TYPE_CHECKING:
    from pathlib import Path

    from incomingd.core.record import Record
    from incomingd.core.tenure import Claim

_READS_MAX: Final = 100
"""So often a record may be replaced by a later tenure's while it is being read."""


class TenureFiles:
    """Reads and writes them."""

    def __init__(self, *, token: str, durable: bool, formats: codec.Formats) -> None:
        """Set it up.

        Args:
            token: that no other run has: it keeps the files apart that are being written.
            durable: what is written survives a power loss.
            formats: of records and claims.
        """
        self._formats = formats
        self._token = token
        self._durable = durable
        self._count = itertools.count()

    def standing(self, folder: Path, upload_id: str) -> Standing | None:
        """Return the last record, and the last claim if that has no record; None: there is no record at all."""
        for _ in range(_READS_MAX):
            chain = self._chain(folder)
            if chain is None or chain.last_record is None:
                return None
            try:
                record = read_record(folder / chain.last_record, upload_id, self._formats)
                claim = None
                if chain.unrecorded is not None:
                    claim = self._read_claim(folder / claim_name(chain.unrecorded))
            except FileNotFoundError:
                # A later tenure has written its own, and dropped this one.
                continue
            return Standing(record, claim)
        msg = f"{folder}: records come and go"
        raise RecordUnreadableError(msg)

    def read(self, folder: Path, upload_id: str, volume_id: str) -> Record | None:
        """Return the last record; None: there is none, or the last claim has given the upload to another volume."""
        for _ in range(_READS_MAX):
            chain = self._chain(folder)
            if chain is None or chain.last_record is None:
                return None
            with contextlib.suppress(FileNotFoundError):
                if chain.unrecorded is not None:
                    claim = self._read_claim(folder / claim_name(chain.unrecorded))
                    if claim.volume_id != volume_id:
                        return None
                return read_record(folder / chain.last_record, upload_id, self._formats)
        msg = f"{folder}: records come and go"
        raise RecordUnreadableError(msg)

    def _chain(self, folder: Path) -> Chain | None:
        try:
            return Chain.of(os.listdir(folder))
        except FileNotFoundError:
            return None

    def claim(self, folder: Path, upload_id: str, claim: Claim) -> None:
        """Make the claim.

        Raises:
            ClaimTakenError: it cannot be made.
        """
        chain = self._chain(folder)
        last = self._last_epoch(folder, upload_id, chain)
        if chain is not None and chain.claim == claim.epoch and self._is_ours(folder, claim):
            return
        if last is None or claim.epoch != last + 1:
            raise ClaimTakenError(upload_id)
        self._make(folder, upload_id, claim)

    def take(self, folder: Path, claim: Claim, record: Record) -> None:
        """Keep a claim that was made on another volume, and write the record of the tenure that it begins.

        Raises:
            DeclinedError: somebody has declined what the claim gives.
            ClaimTakenError: a later tenure has begun here.
        """
        chain = self._chain(folder)
        assert chain is not None, folder
        if chain.record is not None and chain.record >= claim.epoch:
            found = read_record(folder / record_name(chain.record), record.upload_id, self._formats)
            if found.create_id != claim.create_id:
                raise ClaimTakenError(record.upload_id)
            # Written before, and its answer lost. It may have gone on since.
        elif self._answer(folder, record.upload_id, claim, self._formats.encode(record)):
            self._record_the_answer(folder, claim)
        else:
            raise DeclinedError(record.upload_id)
        self._make(folder, record.upload_id, claim)

    def decline(self, folder: Path, upload_id: str, claim: Claim) -> None:
        """Have nobody take any more what *claim* gives.

        Raises:
            ClaimTakenError: it has been taken.
        """
        chain = self._chain(folder)
        assert chain is not None, folder
        # A record may stand without an answer: after a power loss, and where a former version has taken it.
        if chain.record is None or chain.record < claim.epoch:
            if not self._answer(folder, upload_id, claim, self._formats.encode_claim(claim)):
                files.sync_directory(folder)
                return
            # Who has taken it may never come to write it down.
            self._record_the_answer(folder, claim)
            self._make(folder, upload_id, claim)
        raise ClaimTakenError(upload_id)

    def _answer(self, folder: Path, upload_id: str, claim: Claim, data: bytes) -> bool:
        """Have the answer to what *claim* gives be *data*, unless there is one; return whether that is a record."""
        path = folder / answer_name(claim.epoch)
        fresh = folder / f"{path.name}.{self._token}-{next(self._count)}.new"
        try:
            files.write_whole(fresh, data, sync=True)
            try:
                os.link(fresh, path)
            except OSError:
                # Exists, or failed: what stands there is read below, if it does.
                if not path.exists():
                    raise
        finally:
            with contextlib.suppress(OSError):
                fresh.unlink()
        found = path.read_bytes()
        try:
            declined: Claim | None = self._formats.decode_claim(found)
        except codec.RecordFormatError:
            declined = None
        create_id = (declined or read_record(path, upload_id, self._formats)).create_id
        if create_id != claim.create_id:
            msg = f"{path}: the answer to another claim"
            raise RecordUnreadableError(msg)
        return declined is None

    def _record_the_answer(self, folder: Path, claim: Claim) -> None:
        """Have the record that the answer holds be that of its tenure, unless that has one."""
        # Never in place of one: whoever was quicker may have gone on with it.
        with contextlib.suppress(FileExistsError):
            os.link(folder / answer_name(claim.epoch), folder / record_name(claim.epoch))
        # Before the claim: a claim without its record would be taken for one that was made here.
        files.sync_directory(folder)
        self._drop_older_records(folder, claim.epoch)

    def keep_given(self, folder: Path, claim: Claim, record: Record) -> None:
        """Keep a claim by which another volume had given the upload away, and its record of the time before."""
        last = self._last_epoch(folder, record.upload_id, self._chain(folder))
        if last is not None and last >= claim.epoch:
            return
        # Before the record: a record without the claim that follows it would be an upload that lies here.
        self._make(folder, record.upload_id, claim)
        self.write(folder, record, sync=True)

    def _make(self, folder: Path, upload_id: str, claim: Claim) -> None:
        path = folder / claim_name(claim.epoch)
        fresh = folder / f"{path.name}.{self._token}-{next(self._count)}.new"
        try:
            files.write_whole(fresh, self._formats.encode_claim(claim), sync=self._durable)
            try:
                os.link(fresh, path)
            except OSError:
                # Exists, or failed: the answer to an attempt that succeeded may have been lost.
                try:
                    ours = self._is_ours(folder, claim)
                except FileNotFoundError:
                    ours = None
                if ours is None:
                    raise
                if not ours:
                    raise ClaimTakenError(upload_id) from None
        finally:
            with contextlib.suppress(OSError):
                fresh.unlink()
        if self._durable:
            files.sync_directory(folder)

    def _last_epoch(self, folder: Path, upload_id: str, chain: Chain | None) -> int | None:
        if chain is None or chain.last_record is None:
            return None
        if chain.record is None and chain.claim is None:
            try:
                return read_record(folder / chain.last_record, upload_id, self._formats).epoch
            except FileNotFoundError:
                return None
        return max(chain.record or 0, chain.claim or 0)

    def _is_ours(self, folder: Path, claim: Claim) -> bool:
        return self._read_claim(folder / claim_name(claim.epoch)).create_id == claim.create_id

    def look(self, folder: Path, epoch: int) -> bool | None:
        """Return whether no claim has followed *epoch*; None: there is no such folder."""
        try:
            os.stat(folder / claim_name(epoch + 1))
        except FileNotFoundError:
            return True if folder.exists() else None
        return False

    def write(self, folder: Path, record: Record, *, sync: bool) -> None:
        """Replace the record of its tenure, and drop those of former ones."""
        path = folder / record_name(record.epoch)
        first = not path.exists()
        fresh = folder / f"{path.name}.{self._token}.new"
        try:
            files.write_atomically(path, self._formats.encode(record), sync=sync, whole=self._durable, fresh=fresh)
        except OSError:
            with contextlib.suppress(OSError):
                fresh.unlink()
            raise
        if first and (sync or not self._durable):
            self._drop_older_records(folder, record.epoch)

    def _drop_older_records(self, folder: Path, epoch: int) -> None:
        for name in os.listdir(folder):
            if is_older_record(name, epoch):
                files.unlink_if_there(folder / name)

    def _read_claim(self, path: Path) -> Claim:
        data = path.read_bytes()
        try:
            claim = self._formats.decode_claim(data)
        except codec.RecordFormatError as error:
            msg = f"{path}: {error}"
            raise RecordUnreadableError(msg) from error
        if path.name != claim_name(claim.epoch):
            msg = f"{path}: claim {claim.epoch} under the name of another"
            raise RecordUnreadableError(msg)
        return claim


def read_record(path: Path, upload_id: str, formats: codec.Formats) -> Record:
    """Return the record at *path*.

    Raises:
        FileNotFoundError: there is none.
        RecordUnreadableError: it is damaged, or another upload's.
    """
    data = path.read_bytes()
    try:
        record = formats.decode(data)
    except codec.RecordFormatError as error:
        msg = f"{path}: {error}"
        raise RecordUnreadableError(msg) from error
    if record.upload_id != upload_id:
        # A copy that somebody made: what is done by it would be done to the other upload.
        msg = f"{path}: the record of another upload"
        raise RecordUnreadableError(msg)
    return record
