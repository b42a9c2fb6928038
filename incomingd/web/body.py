"""The body of a request, as the volume reads it: pulled, bounded, cuttable.

Tornado pushes bodies; here the reader pulls, so that the socket itself holds
the sender back while the disk is busy. This module is the only one that knows
how a body stands on the wire (RFC 9112, sections 6 and 7).
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar, cast

from tornado.iostream import StreamClosedError, UnsatisfiableReadError

from incomingd.storage.body import BodyCutError, CutReason

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tornado.iostream import IOStream

T = TypeVar("T")
READ_BYTES: Final = 256 * 1024
"""At the most so many bytes of one body are in memory."""
CHUNK_LINE_BYTES: Final = 512
CHUNKS_AT_ONCE: Final = 256
"""Then others have their turn."""
TRAILER_BYTES: Final = 8 * 1024
TRAILERS_KEPT: Final = frozenset({"upload-checksum"})
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_CHUNK_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r\n")
_FIELD_LINE: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\0]*?)[ \t]*\r\n")
"""Strict: a line that others read as two, or as the end, must not be read as one here."""


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """When a sender is too slow; all in the clock's seconds."""

    idle_s: float = 60.0
    bytes_per_s_min: int = 64
    rate_after_s: float = 120.0


class HttpBody:
    """See :class:`incomingd.storage.body.Body`."""

    def __init__(
        self,
        stream: IOStream,
        *,
        length: int | None,
        limits: BodyLimits,
        monotonic: Callable[[], float],
        expects_continue: bool,
    ) -> None:
        self.trailers: dict[str, str] = {}
        """Field values that stood behind a chunked body; names in lower case."""
        self.ended = False
        """The proper end has been read."""
        self.taken = 0
        """Bytes read so far."""
        self._stream = stream
        self._length = length
        self._left = length if length is not None else 0
        self._in_chunk = False
        self._in_trailers = False
        self._ahead: asyncio.Future[bytes] | None = None
        """A read that was begun and has not ended, while there was other data to hand out."""
        self._limits = limits
        self._monotonic = monotonic
        self._expects_continue = expects_continue
        self._waited_s = 0.0
        self._reason: CutReason | None = None
        self._wake: asyncio.Future[None] | None = None
        self._pending: asyncio.Future[Any] | None = None

    @property
    def length(self) -> int | None:
        """How many bytes were announced."""
        return self._length

    @property
    def cut_reason(self) -> CutReason | None:
        """Why the body was cut, if it was."""
        return self._reason

    def cut(self, reason: CutReason) -> None:
        """End the body now."""
        if self._reason is None and not self.ended:
            self._reason = reason
            if self._wake is not None and not self._wake.done():
                self._wake.set_result(None)

    def kept(self, offset: int) -> None:
        """Hear what is kept; tus tells its client at the end of a request only."""

    async def read(self) -> bytes:
        """Return the next bytes, or ``b""`` at the proper end."""
        if self.ended:
            return b""
        if self._reason is not None:
            raise BodyCutError(self._reason)
        try:
            if self._expects_continue:
                self._expects_continue = False
                # Only now: a request that is refused at once never gets it, and its
                # sender can spare itself the body (RFC 9110, section 10.1.1).
                await self._ready(self._stream.write(CONTINUE))
            data: bytes = await (self._read_fixed() if self._length is not None else self._read_chunked())
        except UnsatisfiableReadError:
            self._break()
        except StreamClosedError as error:
            # Raised by a read that is begun, and by one that was waited for.
            if isinstance(error.real_error, UnsatisfiableReadError):
                self._break()
            self._reason = self.cut_reason or CutReason.CLIENT
            raise BodyCutError(self._reason) from None
        self.taken += len(data)
        return data

    async def _read_fixed(self) -> bytes:
        if self._left == 0:
            self.ended = True
            return b""
        data: bytes = await self._ready(self._stream.read_bytes(min(self._left, READ_BYTES), partial=True))
        self._left -= len(data)
        if self._left == 0:
            # Known now, and without another turn: a body is over with its last byte.
            self.ended = True
        return data

    async def _read_chunked(self) -> bytes:
        if not self._in_trailers and (data := await self._read_chunks()):
            return data
        await self._read_trailers()
        self.ended = True
        return b""

    async def _read_chunks(self) -> bytes:
        """Return the data of as many chunks as are here, ``b""`` at the last one.

        A write for each small one would cost far more.
        """
        pieces: list[bytes] = []
        size = 0
        while not (self._in_trailers or size >= READ_BYTES or len(pieces) >= CHUNKS_AT_ONCE):
            try:
                future = self._ahead or self._begin_next()
                self._ahead = None
                if pieces and not future.done():
                    self._ahead = future
                    break
                data = self._chunk_data(await self._ready(future))
            except (BodyCutError, StreamClosedError, UnsatisfiableReadError):
                if not pieces:
                    raise
                # First what came before it; the next read meets it again.
                break
            if data:
                pieces.append(data)
                size += len(data)
        return b"".join(pieces)

    def _begin_next(self) -> asyncio.Future[bytes]:
        """Begin to read what comes next: data of a chunk, its end, or the size of another one."""
        if self._left:
            future = self._stream.read_bytes(min(self._left, READ_BYTES), partial=True)
        elif self._in_chunk:
            future = self._stream.read_bytes(2)
        else:
            future = self._stream.read_until(b"\r\n", max_bytes=CHUNK_LINE_BYTES)
        # Tornado's streams return futures, though they say less.
        return cast("asyncio.Future[bytes]", future)

    def _chunk_data(self, read: bytes) -> bytes:
        """Return the data in what was read, which may be none."""
        if self._left:
            self._left -= len(read)
            return read
        if self._in_chunk:
            if read != b"\r\n":
                self._break()
            self._in_chunk = False
            return b""
        match = _CHUNK_SIZE.fullmatch(read)
        if match is None:
            self._break()
        self._left = int(match[1], 16)
        self._in_chunk = self._left > 0
        self._in_trailers = not self._in_chunk
        return b""

    async def _read_trailers(self) -> None:
        left = TRAILER_BYTES
        while True:
            line: bytes = await self._ready(self._stream.read_until(b"\r\n", max_bytes=left))
            if line == b"\r\n":
                return
            left -= len(line)
            match = _FIELD_LINE.fullmatch(line)
            if match is None or left <= 0:
                self._break()
            name, value = match[1].decode("latin-1").lower(), match[2].decode("latin-1")
            if name in TRAILERS_KEPT:
                # One that comes twice is a list (RFC 9110, section 5.3), never a choice.
                self.trailers[name] = f"{self.trailers[name]}, {value}" if name in self.trailers else value

    def _break(self) -> NoReturn:
        self._reason = CutReason.MALFORMED
        raise BodyCutError(CutReason.MALFORMED)

    async def _ready(self, awaited: Awaitable[T]) -> T:
        """Return what is awaited, unless the body is cut or stalls before."""
        # Tornado's streams return futures, though they say less.
        future = cast("asyncio.Future[T]", awaited)
        if not future.done():
            await self._wait(future)
        return future.result()

    async def _wait(self, future: asyncio.Future[Any]) -> None:
        limits = self._limits
        self._wake = asyncio.get_running_loop().create_future()
        before = self._monotonic()
        await asyncio.wait((future, self._wake), timeout=limits.idle_s, return_when=asyncio.FIRST_COMPLETED)
        self._waited_s += self._monotonic() - before
        self._wake = None
        if self._reason is None:
            if not future.done():
                self._reason = CutReason.STALLED
            elif self._waited_s > limits.rate_after_s and self.taken < self._waited_s * limits.bytes_per_s_min:
                self._reason = CutReason.TOO_SLOW
        if self._reason is not None:
            self._pending = future
            # Its outcome does not matter any more; it must not be reported as unseen.
            future.add_done_callback(_see)
            raise BodyCutError(self._reason)

    async def discard(self, *, bytes_max: int, duration_s: float) -> None:
        """Read on and throw away, so that the sender gets to read its answer.

        A connection that is closed while its peer still sends is reset, and the
        answer can be lost with it.
        """
        deadline = self._monotonic() + duration_s
        if self._reason is None:
            # Nobody has cut it, so its end can be found, and no more is waited for.
            await self._discard_to_end(bytes_max, deadline)
            return
        if self._length is not None:
            bytes_max = min(bytes_max, self._left)
        pending = self._pending or self._ahead
        self._pending = self._ahead = None
        while bytes_max > 0 and not self._stream.closed():
            left_s = deadline - self._monotonic()
            if left_s <= 0:
                return
            try:
                future: asyncio.Future[Any] = pending or cast(
                    "asyncio.Future[bytes]", self._stream.read_bytes(READ_BYTES, partial=True)
                )
            except StreamClosedError:
                return
            pending = None
            if not future.done():
                await asyncio.wait((future,), timeout=left_s)
            if not future.done():
                future.add_done_callback(_see)
                return
            try:
                bytes_max -= len(future.result() or b"")
            except (StreamClosedError, UnsatisfiableReadError):
                return

    async def _discard_to_end(self, bytes_max: int, deadline: float) -> None:
        self._expects_continue = False
        most = self.taken + bytes_max
        with contextlib.suppress(BodyCutError):
            while not self.ended and self.taken < most:
                left_s = deadline - self._monotonic()
                if left_s <= 0:
                    return
                self._limits = replace(self._limits, idle_s=left_s)
                await self.read()


def _see(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()
