"""The body of a request, as the volume reads it: pulled, bounded, cuttable.

Tornado pushes bodies; here the reader pulls, so that the socket itself holds
the sender back while the disk is busy. This module is the only one that knows
how a body stands on the wire (RFC 9112, sections 6 and 7).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
import struct
import termios
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar, cast

from tornado.iostream import StreamClosedError, UnsatisfiableReadError

from incomingd.storage.body import BodyCutError, CutReason, Source, SourceState
from incomingd.web.streams import HalfOpenStream, ReadsNow

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tornado.iostream import IOStream

    from incomingd.web.rates import Share

T = TypeVar("T")
READ_BYTES: Final = 256 * 1024
"""At the most so many bytes of one body are in memory."""
DIRECT_VARIABLE: Final = "INCOMINGD_DIRECT_BYTES"
"""Of the environment: tests that hold for both paths have every body take the one of threads."""
DIRECT_BYTES: Final = int(os.environ.get(DIRECT_VARIABLE, str(256 * 1024)))
"""Bodies of fewer are read; a thread of their own would cost them more than it spares."""
BATCH_BYTES: Final = 1024 * 1024
"""From a fast sender so many are waited for before they are taken ..."""
BATCH_S: Final = 0.1
"""... but no longer than this ..."""
SLOW_BYTES: Final = 64 * 1024
BATCH_SLOW_S: Final = 0.5
"""... or than this, where fewer than `SLOW_BYTES` have come: a turn costs the same, however few bytes it takes."""
SLOW_READS: Final = 2
"""After so many small reads in a row the rest of a short body is taken in turns, too."""
PLENTY_BYTES: Final = 256 * 1024
"""Of a sender that has so many in the socket more are expected; of others no more than these are booked."""
PIECE_BYTES: Final = 16 * 1024
"""Behind a piece of so many bytes there may be more at once: what TLS gives at a time."""
CHUNK_LINE_BYTES: Final = 512
CHUNKS_AT_ONCE: Final = 256
"""Then others have their turn."""
TRAILER_BYTES: Final = 8 * 1024
TRAILERS_KEPT: Final = frozenset({"upload-checksum"})
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_CHUNK_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r\n")
_FIELD_LINE: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\0]*?)[ \t]*\r\n")
"""Strict: a line that others read as two, or as the end, must not be read as one here."""

_GOES_ON: Final = frozenset({CutReason.PREEMPTED, CutReason.STOPPING})
"""The upload goes on behind these, with what has come."""
_scratch: Final = memoryview(bytearray(READ_BYTES))
"""Of the event loop, for as long as one call lasts."""


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
        self.direct = 0
        """Of these, bytes that threads took from the socket by themselves."""
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
        # Only what is the connection's own bytes, in this very class: TLS and whatever else may come are read.
        self._direct: HalfOpenStream | None = None
        """Where bytes can be taken by the kernel itself."""
        if type(stream) is HalfOpenStream and length is not None and length >= DIRECT_BYTES:
            self._direct = stream
        self._source: Source | None = None
        """The turn that is under way."""
        self._source_empty = True
        """Nothing may be there: first wait."""
        self._batch_s = BATCH_S
        """So long much is waited for, before little is taken."""
        self._small_reads = 0
        self._rest_taken = False
        """What was there when it was cut has been asked for."""
        self.share: Share | None = None
        """What it may take where bytes a second are limited."""
        self.held_back_s = 0.0
        """So long it waited for its share."""

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
            if self._source is not None:
                self._source.halted = True
        # Who waits for its share may have the end of the body in its hands.
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
        self._take_back()
        try:
            await self._continue()
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
        if data and self.share is not None and self.share.limited:
            # It has come already, so it is never lost; no more is read until its time has come.
            await self._hold_back(self.share.book(len(data)))
            self.share.settle(len(data))
        return data

    def _read_most(self) -> int:
        """Return how many bytes may be read at once."""
        if self.share is not None and self.share.limited:
            return min(READ_BYTES, self.share.turn_bytes())
        return READ_BYTES

    async def _hold_back(self, duration_s: float) -> None:
        """Wait for its share, or until the body is cut."""
        if duration_s <= 0.0 or self._reason is not None:
            return
        loop = asyncio.get_running_loop()
        self._wake = wake = loop.create_future()
        timer = loop.call_later(duration_s, _end, wake)
        before = self._monotonic()
        try:
            await wake
        finally:
            timer.cancel()
            self._wake = None
            self.held_back_s += self._monotonic() - before

    async def _continue(self) -> None:
        if self._expects_continue:
            self._expects_continue = False
            # Only now: a request that is refused at once never gets it, and its
            # sender can spare itself the body (RFC 9110, section 10.1.1).
            await self._ready(self._stream.write(CONTINUE))

    # -- without being looked at

    async def source(self) -> Source | None:
        """See :class:`incomingd.storage.body.DirectBody`."""
        stream = self._direct
        if stream is None or self.ended:
            return None
        assert self._source is None, "one turn at a time"
        if self._reason is not None:
            return self._rest(stream)
        try:
            await self._continue()
        except StreamClosedError:
            self._gone()
        if not stream.lent and not stream.lend():
            # Some of it has come with the request's header.
            return None
        share = self.share if self.share is not None and self.share.limited else None
        if self._source_empty or (share is not None and not _bytes_there(stream)):
            try:
                await self._wait_readable(stream, share)
            except BodyCutError:
                return self._rest(stream)
        most = self._left
        if share is not None:
            most = await self._book(stream, share)
        if stream.closed():
            self._gone()
        self._source = Source(stream.descriptor(), most)
        return self._source

    def _rest(self, stream: HalfOpenStream) -> Source:
        """Return a last turn for what has come before the body was cut: it need not be sent again.

        Raises:
            BodyCutError: there is none, or it is of no use.
        """
        assert self._reason is not None
        there = 0
        limited = self.share is not None and self.share.limited
        if self._reason in _GOES_ON and stream.lent and not (self._rest_taken or limited or stream.closed()):
            there = min(_bytes_there(stream), self._left)
        # Of a fast sender more comes all the time: whoever cuts it does not wait for that.
        if not 0 < there <= SLOW_BYTES:
            raise BodyCutError(self._reason)
        self._rest_taken = True
        self._source = Source(stream.descriptor(), there)
        return self._source

    async def _book(self, stream: HalfOpenStream, share: Share) -> int:
        """Return how many bytes the next turn may take, once its time has come."""
        there = 0 if stream.closed() else _bytes_there(stream)
        most = min(self._left, share.turn_bytes())
        if 0 < there < PLENTY_BYTES:
            # No more than that: others would wait for bytes that do not come.
            most = min(most, there)
        await self._hold_back(share.book(most))
        if self._reason is not None:
            share.settle(0)
            raise BodyCutError(self._reason)
        return most

    def passed(self, source: Source) -> None:
        """See :class:`incomingd.storage.body.DirectBody`."""
        assert source is self._source
        self._source = None
        self._source_empty = source.state is SourceState.EMPTY
        self._batch_s = BATCH_S if source.taken >= SLOW_BYTES else min(2 * self._batch_s, BATCH_SLOW_S)
        self.taken += source.taken
        self.direct += source.taken
        self._left -= source.taken
        if self.share is not None:
            self.share.settle(source.taken)
        if self._left == 0:
            self.ended = True
            # All of it is here: whoever cut it came too late.
            self._reason = None
            self._take_back()
        elif source.state is SourceState.ENDED:
            self._reason = self._reason or CutReason.CLIENT
            self._stream.close()

    def _take_back(self) -> None:
        if self._direct is not None:
            self._direct.take_back()

    def _gone(self) -> NoReturn:
        self._reason = self._reason or CutReason.CLIENT
        raise BodyCutError(self._reason)

    async def _wait_readable(self, stream: HalfOpenStream, share: Share | None) -> None:
        """Wait until there is something to take: much, or after a moment anything, or the end of it."""
        idle_s = self._limits.idle_s
        if idle_s > self._batch_s:
            much = min(BATCH_BYTES, self._left, BATCH_BYTES if share is None else share.turn_bytes())
            if await self._wait_for(stream, much, self._batch_s, last=False):
                return
            if not stream.closed() and _bytes_there(stream):
                self._judge(0.0, done=True, last=True)
                return
            idle_s -= self._batch_s
        await self._wait_for(stream, 1, idle_s, last=True)

    async def _wait_for(self, stream: HalfOpenStream, bytes_min: int, duration_s: float, *, last: bool) -> bool:
        # One future and one timer: this is all that the loop does for a megabyte or two.
        loop = asyncio.get_running_loop()
        self._wake = wake = loop.create_future()
        seen = False

        def see() -> None:
            nonlocal seen
            seen = True
            _end(wake)

        stream.watch(see, bytes_min=bytes_min)
        timer = loop.call_later(duration_s, _end, wake)
        before = self._monotonic()
        try:
            await wake
        finally:
            timer.cancel()
            stream.unwatch()
        self._judge(self._monotonic() - before, done=seen, last=last)
        return seen

    async def _read_fixed(self) -> bytes:
        if self._left == 0:
            self.ended = True
            return b""
        most = min(self._left, self._read_most())
        data: bytes = await self._ready(self._stream.read_bytes(most, partial=True))
        # What else is there goes its own way where it can, and is in nobody's memory.
        data = data if self._direct is not None else self._with_more(data, most)
        self._left -= len(data)
        self._small_reads = self._small_reads + 1 if len(data) < PIECE_BYTES else 0
        if self._small_reads == SLOW_READS and self._direct is None and type(self._stream) is HalfOpenStream:
            self._direct = self._stream
        if self._left == 0:
            # Known now, and without another turn: a body is over with its last byte.
            self.ended = True
        return data

    def _with_more(self, data: bytes, most: int) -> bytes:
        """Return *data* with what else is there already, up to *most* bytes in all; of a slow sender nothing is."""
        if len(data) < PIECE_BYTES or len(data) == most or not isinstance(self._stream, ReadsNow):
            return data
        came = self._stream.read_now(_scratch[: most - len(data)])
        return b"".join((data, _scratch[:came])) if came else data

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
        size, size_max = 0, self._read_most()
        while not (self._in_trailers or size >= size_max or len(pieces) >= CHUNKS_AT_ONCE):
            try:
                future = self._ahead or self._begin_next()
                self._ahead = None
                if pieces and not future.done():
                    self._ahead = future
                    break
                read = await self._ready(future)
                if self._left and size + len(read) < size_max:
                    read = self._with_more(read, min(self._left, size_max - size))
                data = self._chunk_data(read)
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
            future = self._stream.read_bytes(min(self._left, self._read_most()), partial=True)
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
            try:
                await self._wait(future)
            except BodyCutError:
                self._pending = future
                # Its outcome does not matter any more; it must not be reported as unseen.
                future.add_done_callback(_see)
                raise
        return future.result()

    async def _wait(self, future: asyncio.Future[Any]) -> None:
        self._wake = asyncio.get_running_loop().create_future()
        before = self._monotonic()
        await asyncio.wait((future, self._wake), timeout=self._limits.idle_s, return_when=asyncio.FIRST_COMPLETED)
        self._judge(self._monotonic() - before, done=future.done(), last=True)

    def _judge(self, waited_s: float, *, done: bool, last: bool) -> None:
        """Cut the body of a sender that is too slow, behind a wait for it.

        Args:
            waited_s: how long.
            done: something came.
            last: no other wait for the same follows.

        Raises:
            BodyCutError: it was cut, now or meanwhile.
        """
        limits = self._limits
        self._waited_s += waited_s
        self._wake = None
        if self._reason is None:
            if not done:
                if last:
                    self._reason = CutReason.STALLED
            elif self._waited_s > limits.rate_after_s and self.taken < self._waited_s * limits.bytes_per_s_min:
                self._reason = CutReason.TOO_SLOW
        if self._reason is not None:
            raise BodyCutError(self._reason)

    async def discard(self, *, bytes_max: int, duration_s: float) -> None:
        """Read on and throw away, so that the sender gets to read its answer.

        A connection that is closed while its peer still sends is reset, and the
        answer can be lost with it.
        """
        deadline = self._monotonic() + duration_s
        # Nobody keeps it, and its time is bounded.
        self.share = None
        self._take_back()
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


def _end(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


def _bytes_there(stream: HalfOpenStream) -> int:
    """Return how many bytes can be taken from the socket at once."""
    answer = fcntl.ioctl(stream.socket.fileno(), termios.FIONREAD, bytes(4))
    size: int = struct.unpack("i", answer)[0]
    return size
