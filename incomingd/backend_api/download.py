"""The complete file, for web apps that do not share a file system with this side."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from typing import TYPE_CHECKING, Final

from tornado.http1connection import HTTP1Connection
from tornado.iostream import StreamClosedError

from incomingd.backend_api.api import BackendHandler
from incomingd.core.errors import Code, Refusal
from incomingd.log import events, get_logger
from incomingd.storage.volume import VolumeError
from incomingd.web.access import upload_id_of
from incomingd.wire.download import Piece, RangeNotSatisfiable, content_disposition, entity_tag, piece_of, repr_digest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from incomingd.core.record import Record
    from incomingd.storage.volume import StoredFile

log = get_logger()

READ_BYTES: Final = 256 * 1024
PIECE_BYTES: Final = 64 * 1024
"""Whoever takes so much within `idle_s` is not idle."""


class FileHandler(BackendHandler):
    """``/uploads/<id>/file?token=``: the token in the URL is the permission.

    It comes with the callback and opens the file until the upload is final. A web app may pass the URL on to a program
    that knows none of `backend.tokens`, so none is asked for.
    """

    def tokens(self) -> Sequence[str]:
        """Ask for no bearer token."""
        return ()

    async def get(self, upload_id: str) -> None:
        """Answer the file, or a piece of it, as fast as the caller reads it."""
        record = (await self.api.engine.view(upload_id_of(upload_id))).record
        _check_token(self.get_query_argument("token", ""), record)
        file = await self.api.engine.open_file(record)
        if file is None:
            raise Refusal(Code.FILE_GONE)
        try:
            await self._answer(record, file)
        finally:
            await file.close()

    head = get

    async def _answer(self, record: Record, file: StoredFile) -> None:
        tag = entity_tag(record.upload_id)
        self.set_header("Accept-Ranges", "bytes")
        self.set_header("Etag", tag)
        if record.digest is not None:
            self.set_header("Repr-Digest", repr_digest(record.digest))
        condition = self.request.headers.get("If-Range")
        wanted = self.request.headers.get("Range") if condition in (None, tag) else None
        try:
            # Only GET has ranges (RFC 9110, section 14.2).
            piece = piece_of(wanted if self.request.method == "GET" else None, file.size)
        except RangeNotSatisfiable:
            raise Refusal(
                Code.HEADER_MALFORMED, f"Range: the file has {file.size} bytes.", extra={"size": file.size}
            ) from None
        if piece is not None:
            self.set_status(206)
            self.set_header("Content-Range", f"bytes {piece.start}-{piece.stop - 1}/{file.size}")
        else:
            piece = Piece(0, file.size)
        self.set_header("Content-Type", "application/octet-stream")
        self.set_header("Content-Disposition", content_disposition(record.terms.filename or record.client.filename))
        self.set_header("Content-Length", str(piece.stop - piece.start))
        if self.request.method == "GET":
            await self._send(record, file, piece)

    async def _send(self, record: Record, file: StoredFile, piece: Piece) -> None:
        at = piece.start
        try:
            while at < piece.stop:
                data = await _read(file, at, min(READ_BYTES, piece.stop - at))
                for start in range(0, len(data), PIECE_BYTES):
                    self.write(data[start : start + PIECE_BYTES])
                    if not await self._taken():
                        log.info(events.DOWNLOAD_STALLED, upload_id=record.upload_id, offset=at + start)
                        return
                at += len(data)
        except StreamClosedError:
            return
        except VolumeError as error:
            log.error(events.VOLUME_FAILED, detail=f"{record.upload_id}: {error}", code=Code.STORAGE_UNAVAILABLE.value)
            # Part of the answer is out: all that is left to say is that it is not whole.
            connection = self.request.connection
            assert isinstance(connection, HTTP1Connection)
            connection.stream.close()

    async def _taken(self) -> bool:
        """Return whether the connection has taken what was written: the caller's speed is ours.

        Where it takes nothing for too long it is closed: nobody holds a file open for ever.

        Raises:
            StreamClosedError: the caller has gone.
        """
        taken = asyncio.ensure_future(self.flush())
        in_time = await self.api.engine.services.clock.timeout(self.api.options.idle_s, taken)
        if not in_time:
            connection = self.request.connection
            assert isinstance(connection, HTTP1Connection)
            connection.stream.close()
            with contextlib.suppress(StreamClosedError):
                await taken
            return False
        taken.result()
        return True

    def status_of(self, refusal: Refusal) -> int:
        """Return 416 for a range without a byte in it."""
        return 416 if "size" in refusal.extra else super().status_of(refusal)

    def refuse(self, refusal: Refusal) -> None:
        """Tell the size with a 416, as RFC 9110, section 15.5.17, says."""
        if "size" in refusal.extra:
            self.set_header("Content-Range", f"bytes */{refusal.extra['size']}")
        super().refuse(refusal)


async def _read(file: StoredFile, start: int, size: int) -> bytes:
    data = await file.read(start, size)
    if not data:
        raise VolumeError("the file is shorter than it was")
    return data


def _check_token(given: str, record: Record) -> None:
    """Refuse a caller that the callback has not reached.

    Raises:
        Refusal: `file_gone`, `file_not_ready` or `token_wrong`.
    """
    if record.status.final:
        raise Refusal(Code.FILE_GONE, f"The upload is {record.status.value}: its download URL is not valid any more.")
    token = record.handover.download_token
    if token is None:
        raise Refusal(Code.FILE_NOT_READY)
    if not hmac.compare_digest(given.encode("utf-8", "surrogateescape"), token.encode("utf-8")):
        raise Refusal(Code.TOKEN_WRONG, "The download URL of the callback has the token: ?token=…")
    if not record.joined:
        raise Refusal(Code.FILE_NOT_READY)
