"""``POST /incoming/1.0/peer/<message>``: from a signed call to the engine and back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from tornado.http1connection import HTTP1Connection
from tornado.iostream import StreamClosedError
from tornado.routing import URLSpec

from incomingd.core.errors import Code, Refusal
from incomingd.core.peering import Act, Bequest, BytesWanted, Question, Recall, Recorded, Release, Voided
from incomingd.log import events, get_logger
from incomingd.storage.volume import VolumeError
from incomingd.web.handler import JsonHandler
from incomingd.web.problems import internal_error
from incomingd.wire import peer_signing as signing
from incomingd.wire.peer import Answer, Done, ListingWanted, Message, Page, Refused, StatusWanted

if TYPE_CHECKING:
    from incomingd.peer_api.api import PeerApi, PeerEngine
    from incomingd.wire.peer_signing import Envelope

log = get_logger()

PIECES_AT_ONCE: Final = 4
"""Read from the volume in one go."""


def routes(api: PeerApi) -> list[URLSpec]:
    """Return what answers on the peer listener.

    The application that they are put into has `trusted` and `close_after_answer` among its settings, as
    :class:`incomingd.web.handler.JsonHandler` says.
    """
    return [URLSpec(signing.PREFIX + "([^/]+)$", PeerHandler, {"api": api})]


class PeerHandler(JsonHandler):
    """Answers one message. Whoever has no key gets a bare 401, whatever he asks."""

    api: PeerApi
    _envelope: Envelope | None = None
    _key = ""
    _version = 0
    _understood = False

    def initialize(self, api: PeerApi) -> None:
        """Take what the daemon has put together."""
        self.api = api
        self._version = api.formats.known.oldest

    async def post(self, name: str) -> None:
        """Answer."""
        try:
            # The whole target of the request is signed, not only its path.
            envelope, key = self.api.admit(self.request.uri or "", self.request.headers.get, self.request.body)
            self._admitted(envelope, key)
        except signing.UnsignedError as error:
            self.api.metrics.peer_rejected(error.reason)
            if self.api.tells():
                log.warning(events.PEER_REFUSED, address=self.context.address, detail=str(error))
            raise Refusal(Code.PEER_REFUSED) from None
        message, self._version = self.api.formats.read_call(name, self.request.body)
        self._understood = True
        try:
            if isinstance(message, BytesWanted):
                await self._stream(message)
            else:
                self._tell(await _answer(self.api.engine, message), status=200)
        except VolumeError as error:
            log.error(events.VOLUME_FAILED, detail=str(error), code=Code.STORAGE_UNAVAILABLE.value)
            raise Refusal(Code.STORAGE_UNAVAILABLE, str(error)) from error

    def _admitted(self, envelope: Envelope, key: str) -> None:
        try:
            self.api.check_addressed(envelope)
        except Refusal:
            # Of one who has the key; so he is told why.
            self._envelope, self._key = envelope, key
            raise
        self._envelope, self._key = envelope, key

    def _tell(self, answer: Answer, *, status: int) -> None:
        assert self._envelope is not None
        body = self.api.formats.answer(answer, self._version)
        said = signing.answer_headers(self._envelope, self._key, by=self.api.start_id, status=status, body=body)
        self.set_status(status)
        self.set_header("Content-Type", "application/json")
        for header, value in said.items():
            self.set_header(header, value)
        _ = self.finish(body)

    def refuse(self, refusal: Refusal) -> None:
        """Tell a peer why; tell anybody else nothing but that."""
        if self._envelope is None:
            super().refuse(refusal)
            return
        status = refusal.problem.status
        self.decorate()
        log.info(
            events.REQUEST_REFUSED,
            code=refusal.code.value,
            status=status,
            method=self.request.method,
            path=self.request.path[:200],
            detail=refusal.detail,
            address=self.context.address,
        )
        self._tell(Refused(refusal, understood=self._understood), status=status)

    # -- streams

    async def _stream(self, wanted: BytesWanted) -> None:
        """Answer bytes, in pieces each with its code, as fast as the peer reads them."""
        assert self._envelope is not None
        size = wanted.stop - wanted.start
        # The first bytes are read before anything is said: what is wrong can still be told then.
        block = await self._block(wanted, 0)
        self.set_header("Content-Type", "application/octet-stream")
        for header, value in signing.stream_headers(self._envelope, self._key, by=self.api.start_id, size=size).items():
            self.set_header(header, value)
        at = 0
        try:
            while at < size:
                following = at + len(block)
                ahead = asyncio.ensure_future(self._block(wanted, following))
                try:
                    await self._write_block(at, block)
                    self.api.metrics.peer_bytes("sent", wanted.reason, len(block))
                finally:
                    # Also where nobody reads any more: then what was read is dropped.
                    block = await ahead
                at = following
        except StreamClosedError:
            return
        except asyncio.CancelledError:
            # The daemon stops, and this task is at its end either way. No other answer can follow what was said.
            self._cut()
            return
        except (VolumeError, Refusal) as error:
            log.error(events.VOLUME_FAILED, detail=f"{wanted.upload_id}: {error}", code=Code.STORAGE_UNAVAILABLE.value)
            # Part of the answer is out: all that is left to say is that it is not whole.
            self._cut()
            return
        _ = self.finish()

    async def _block(self, wanted: BytesWanted, at: int) -> bytes:
        size = min(PIECES_AT_ONCE * signing.PIECE_BYTES, wanted.stop - wanted.start - at)
        if size == 0:
            return b""
        block = await self.api.engine.read_range(wanted.upload_id, wanted.segment, wanted.start + at, size)
        if len(block) != size:
            raise Refusal(Code.FILE_GONE, f"{wanted.segment}: it ends before byte {wanted.start + at + size}.")
        return block

    async def _write_block(self, at: int, block: bytes) -> None:
        assert self._envelope is not None
        for start in range(0, len(block), signing.PIECE_BYTES):
            piece = block[start : start + signing.PIECE_BYTES]
            self.write(piece)
            self.write(signing.piece_code(self._envelope, self._key, at + start, piece))
            await self._taken()

    async def _taken(self) -> None:
        """Return when the connection has taken what was written: the peer's speed is ours.

        Where it takes nothing for too long it is closed: nobody holds what was read for ever.

        Raises:
            StreamClosedError: nobody reads it.
        """
        taken = asyncio.ensure_future(self.flush())
        if not await self.api.clock.timeout(self.api.stall_s, taken):
            self._cut()
        await taken

    def _cut(self) -> None:
        connection = self.request.connection
        assert isinstance(connection, HTTP1Connection)
        connection.stream.close()

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer what was raised; called by Tornado."""
        error = kwargs.get("exc_info", (None, None, None))[1]
        if self._envelope is not None and not isinstance(error, Refusal):
            self.refuse(internal_error())
        else:
            super().write_error(status_code, **kwargs)


async def _answer(engine: PeerEngine, message: Message) -> Answer:
    match message:
        case Recall():
            return await engine.recall(message)
        case Act():
            return await engine.act(message)
        case Question():
            return await engine.ask(message)
        case Bequest():
            return await engine.inherit(message)
        case Voided():
            await engine.void(message)
        case Recorded():
            await engine.recorded(message)
        case Release():
            await engine.release(message)
        case ListingWanted(query):
            return Page(await engine.listing(query))
        case StatusWanted():
            return Page(await engine.status())
        case BytesWanted():
            raise AssertionError(message)
    return Done()
