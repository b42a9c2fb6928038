"""The contract of a body: pulled, bounded, cuttable, and what it says of its end."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from incomingd.storage.body import BodyCutError, CutReason
from incomingd.web.body import READ_BYTES, BodyLimits, HttpBody
from incomingd.web.rates import RateLimits, Rates
from incomingd.web.streams import HalfOpenStream

NEXT = b"GET /the/next HTTP/1.1\r\n"


class Ticks:
    """A clock that stands still unless it is moved."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Wire:
    """Both ends of a connection: the test writes to `client`, the body reads from `stream`."""

    def __init__(self) -> None:
        ours, self.client = socket.socketpair()
        self.client.setblocking(False)
        self.stream = HalfOpenStream(ours)

    def body(
        self,
        length: int | None,
        *,
        limits: BodyLimits | None = None,
        expects_continue: bool = False,
        ticks: Ticks | None = None,
    ) -> HttpBody:
        return HttpBody(
            self.stream,
            length=length,
            limits=limits or BodyLimits(),
            monotonic=ticks or asyncio.get_running_loop().time,
            expects_continue=expects_continue,
        )

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.client, data)

    async def rest(self, size: int) -> bytes:
        """Return what is still in the stream, behind the body."""
        return await self.stream.read_bytes(size)

    def close(self) -> None:
        self.client.close()
        self.stream.close()


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    made = Wire()
    yield made
    made.close()


async def read_all(body: HttpBody) -> bytes:
    pieces = []
    while piece := await body.read():
        pieces.append(piece)
    return b"".join(pieces)


async def waiting(body: HttpBody) -> asyncio.Task[bytes]:
    """Return a read that waits for bytes."""
    task = asyncio.ensure_future(body.read())
    while body._wake is None:
        await asyncio.sleep(0)
    return task


async def reason_of(task: Any) -> CutReason:
    with pytest.raises(BodyCutError) as caught:
        await task
    return caught.value.reason


def chunked(*pieces: bytes, trailer: bytes = b"") -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n" + trailer + b"\r\n"


# -- to the proper end


async def test_a_fixed_body_ends_with_its_last_byte(wire: Wire) -> None:
    body = wire.body(10)
    await wire.send(b"0123456789" + NEXT)
    assert body.length == 10
    assert await read_all(body) == b"0123456789"
    assert body.ended
    assert body.taken == 10
    assert body.cut_reason is None
    # Nothing behind it was touched.
    assert await wire.rest(len(NEXT)) == NEXT


async def test_a_fixed_body_has_ended_before_anybody_asks_for_more(wire: Wire) -> None:
    body = wire.body(3)
    await wire.send(b"abc")
    assert await body.read() == b"abc"
    assert body.ended
    for _ in range(2):
        assert await body.read() == b""


async def test_a_chunked_body_ends_with_its_trailers(wire: Wire) -> None:
    body = wire.body(None)
    await wire.send(chunked(b"0123", b"4", b"56789", trailer=b"X: y\r\n") + NEXT)
    assert body.length is None
    assert await read_all(body) == b"0123456789"
    assert body.ended
    assert await wire.rest(len(NEXT)) == NEXT


async def test_an_empty_chunked_body(wire: Wire) -> None:
    body = wire.body(None)
    await wire.send(b"0\r\n\r\n" + NEXT)
    assert await body.read() == b""
    assert body.ended
    assert await wire.rest(len(NEXT)) == NEXT


async def test_bytes_are_handed_out_as_they_come(wire: Wire) -> None:
    """Not held back for more: neither for the rest of a chunk nor for its end."""
    for body, pieces in ((wire.body(6), (b"ab", b"cd")), (wire.body(None), (b"6\r\nab", b"cd"))):
        await wire.send(pieces[0])
        assert await body.read() == b"ab"
        task = await waiting(body)
        await wire.send(pieces[1])
        assert await task == b"cd"
        await wire.send(b"ef")
        assert await body.read() == b"ef"
        if body.length is None:
            await wire.send(b"\r\n0\r\n\r\n")
            assert await body.read() == b""
        assert body.ended


async def test_small_chunks_that_are_here_are_handed_out_together(wire: Wire) -> None:
    body = wire.body(None)
    await wire.send(chunked(*[b"x"] * 200))
    reads = 0
    while await body.read():
        reads += 1
    assert body.taken == 200
    assert reads <= 3


async def test_what_is_here_is_handed_out_in_one_piece(wire: Wire) -> None:
    """Each piece is a turn of a thread, and Tornado alone reads 64 KiB at a time."""
    size = 90_000
    for body, data in ((wire.body(size), bytes(size)), (wire.body(None), chunked(bytes(size)))):
        wire.client.sendall(data)
        assert len(await body.read()) == size
        assert await body.read() == b""


async def test_what_came_before_a_reset_counts() -> None:
    """Also where the reset is met by who looks for more."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = socket.create_connection(listening.getsockname())
        ours, _ = listening.accept()
    stream = HalfOpenStream(ours)
    body = HttpBody(
        stream,
        length=READ_BYTES,
        limits=BodyLimits(),
        monotonic=asyncio.get_running_loop().time,
        expects_continue=False,
    )
    data = random.Random(3).randbytes(100_000)
    client.sendall(data)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    came = await body.read()
    while len(came) < len(data):
        came += await body.read()
    client.close()
    assert came == data
    with pytest.raises(BodyCutError) as caught:
        await body.read()
    assert caught.value.reason is CutReason.CLIENT
    assert body.taken == len(data)
    stream.close()


async def test_one_read_is_bounded_whatever_comes(wire: Wire) -> None:
    """At most so much of one body is in memory."""
    size = 4 * READ_BYTES
    for body, data in ((wire.body(size), bytes(size)), (wire.body(None), chunked(bytes(size - 1), b"x"))):
        sending = asyncio.ensure_future(wire.send(data))
        taken = 0
        while piece := await body.read():
            assert len(piece) < 2 * READ_BYTES
            taken += len(piece)
        assert taken == size
        await sending


@given(
    st.lists(st.binary(min_size=1, max_size=300), max_size=12),
    st.lists(st.integers(1, 40), min_size=1, max_size=30),
    st.sampled_from([b"", b"X: y\r\n", b"Upload-Checksum: sha1 AAAA\r\n"]),
)
@settings(max_examples=60)
def test_however_it_is_cut_into_chunks_and_packets_it_is_the_same_body(
    pieces: list[bytes], packets: list[int], trailer: bytes
) -> None:
    async def run() -> None:
        wire = Wire()
        try:
            body = wire.body(None)
            data = chunked(*pieces, trailer=trailer) + NEXT

            async def send() -> None:
                at, n = 0, 0
                while at < len(data):
                    step = packets[n % len(packets)]
                    await wire.send(data[at : at + step])
                    at, n = at + step, n + 1
                    await asyncio.sleep(0)

            sending = asyncio.ensure_future(send())
            assert await read_all(body) == b"".join(pieces)
            assert ("upload-checksum" in body.trailers) is trailer.startswith(b"Upload")
            assert await wire.rest(len(NEXT)) == NEXT
            await sending
        finally:
            wire.close()

    asyncio.run(run())


# -- trailers


@pytest.mark.parametrize(
    "trailer, kept",
    [
        (b"", {}),
        (b"Upload-Checksum: sha1 AAAA\r\n", {"upload-checksum": "sha1 AAAA"}),
        (b"UPLOAD-CHECKSUM:sha1 AAAA  \r\n", {"upload-checksum": "sha1 AAAA"}),
        (b"X: y\r\nUpload-Checksum: a\r\nZ: z\r\n", {"upload-checksum": "a"}),
        (b"Upload-Checksum: a\r\nUpload-Checksum: b\r\n", {"upload-checksum": "a, b"}),
        (b"Content-Length: 5\r\nTransfer-Encoding: x\r\nUpload-Offset: 0\r\n", {}),
    ],
)
async def test_the_trailers_that_are_wanted_are_kept(wire: Wire, trailer: bytes, kept: dict[str, str]) -> None:
    body = wire.body(None)
    await wire.send(chunked(b"abc", trailer=trailer))
    assert await read_all(body) == b"abc"
    assert body.trailers == kept


@pytest.mark.parametrize(
    "trailer",
    [
        b"no colon\r\n",
        b"X: " + b"y" * 9000 + b"\r\n",
        b"X: y\r\n" * 2000,
        b"X: y\nZ: z\n",
        b" folded: x\r\n",
        b"a b: c\r\n",
    ],
)
async def test_trailers_that_are_none_break_the_body(wire: Wire, trailer: bytes) -> None:
    body = wire.body(None)
    sending = asyncio.ensure_future(wire.send(chunked(b"abc", trailer=trailer)))
    assert await body.read() == b"abc"
    assert await reason_of(body.read()) is CutReason.MALFORMED
    assert not body.ended
    sending.cancel()
    with contextlib.suppress(asyncio.CancelledError, ConnectionError):
        await sending


# -- cut


@pytest.mark.parametrize("length", [10, None])
@pytest.mark.parametrize("reason", [CutReason.PREEMPTED, CutReason.STOPPING, CutReason.ENDED])
async def test_cut_while_it_waits(wire: Wire, length: int | None, reason: CutReason) -> None:
    body = wire.body(length)
    await wire.send(b"01234" if length else b"a\r\n01234")
    assert await body.read() == b"01234"
    task = await waiting(body)
    body.cut(reason)
    assert await reason_of(task) is reason
    assert body.cut_reason is reason
    assert not body.ended


async def test_cut_while_nobody_reads(wire: Wire) -> None:
    """Further reads raise, whatever has come."""
    body = wire.body(10)
    await wire.send(b"01234")
    body.cut(CutReason.PREEMPTED)
    for _ in range(2):
        assert await reason_of(body.read()) is CutReason.PREEMPTED
    assert body.taken == 0


async def test_the_first_cut_counts(wire: Wire) -> None:
    body = wire.body(10)
    body.cut(CutReason.PREEMPTED)
    body.cut(CutReason.STOPPING)
    assert await reason_of(body.read()) is CutReason.PREEMPTED


async def test_a_body_that_has_ended_cannot_be_cut(wire: Wire) -> None:
    body = wire.body(3)
    await wire.send(b"abc")
    await body.read()
    body.cut(CutReason.PREEMPTED)
    assert await body.read() == b""
    assert body.cut_reason is None


@pytest.mark.parametrize("length", [10, None])
async def test_a_client_that_goes_away(wire: Wire, length: int | None) -> None:
    """What came before counts."""
    body = wire.body(length)
    await wire.send(b"01234" if length else b"2\r\n01\r\n3\r\n234\r\n8\r\n")
    wire.client.close()
    assert await body.read() == b"01234"
    for _ in range(2):
        assert await reason_of(body.read()) is CutReason.CLIENT


@pytest.mark.parametrize(
    "data, before",
    [
        (b"x\r\n", b""),
        (b"-1\r\n", b""),
        (b"\r\n", b""),
        (b"3\nabc\r\n0\r\n\r\n", b""),
        (b"1" * 16 + b"\r\n", b""),
        (b"3;" + b"x" * 600 + b"\r\nabc\r\n", b""),
        (b"3\r\nabcd\r\n", b"abc"),
        (b"3\r\nabc\n0\r\n\r\n", b"abc"),
        (b"1\r\na\r\n1\r\nb\r\nzz\r\n", b"ab"),
    ],
)
async def test_broken_framing(wire: Wire, data: bytes, before: bytes) -> None:
    """What came before counts; then it is the client's fault, for good."""
    body = wire.body(None)
    await wire.send(data)
    if before:
        assert await body.read() == before
    for _ in range(2):
        assert await reason_of(body.read()) is CutReason.MALFORMED


# -- too slow


async def test_a_sender_that_stalls(wire: Wire) -> None:
    body = wire.body(10, limits=BodyLimits(idle_s=0.05))
    await wire.send(b"0123")
    assert await body.read() == b"0123"
    assert await reason_of(body.read()) is CutReason.STALLED


async def test_each_byte_in_time_is_in_time(wire: Wire) -> None:
    body = wire.body(5, limits=BodyLimits(idle_s=5, rate_after_s=0.0, bytes_per_s_min=0))
    for n in range(5):
        task = await waiting(body)
        await wire.send(b"%d" % n)
        assert await task == b"%d" % n


async def test_a_sender_that_is_too_slow_on_average(wire: Wire) -> None:
    ticks = Ticks()
    body = wire.body(1000, limits=BodyLimits(idle_s=60, bytes_per_s_min=10, rate_after_s=20), ticks=ticks)

    async def next_after(duration_s: float, size: int) -> bytes:
        task = await waiting(body)
        ticks.now_s += duration_s
        await wire.send(bytes(size))
        return await task

    # 1 byte/s is too little, but is judged only after 20 s.
    assert await next_after(10, 10)
    assert await next_after(10, 10)
    assert await reason_of(next_after(1, 1)) is CutReason.TOO_SLOW


async def test_time_in_which_nobody_reads_does_not_count(wire: Wire) -> None:
    """A slow disk is not the sender's fault."""
    ticks = Ticks()
    body = wire.body(1000, limits=BodyLimits(idle_s=60, bytes_per_s_min=10, rate_after_s=1), ticks=ticks)
    for _ in range(5):
        task = await waiting(body)
        await wire.send(b"x")
        assert await task
        ticks.now_s += 1000
    assert body.cut_reason is None


async def test_time_in_which_it_is_held_back_does_not_count(wire: Wire) -> None:
    """Whoever is over a limit of bytes a second sends too much, not too little."""
    ticks = Ticks()
    body = wire.body(1000, limits=BodyLimits(idle_s=60, bytes_per_s_min=10, rate_after_s=1), ticks=ticks)
    with Rates(RateLimits(upload=1024)).sending(None, "upload", ticks) as body.share:
        await wire.send(bytes(100))
        assert await body.read()
        await wire.send(bytes(100))
        held_back = await waiting(body)
        ticks.now_s += 1000
        assert await held_back
        assert body.held_back_s == 1000
        task = await waiting(body)
        ticks.now_s += 0.01
        await wire.send(bytes(100))
        assert await task


# -- the interim answer


async def test_the_sender_is_told_to_go_on_when_the_first_byte_is_wanted(wire: Wire) -> None:
    body = wire.body(3, expects_continue=True)
    with pytest.raises(BlockingIOError):
        wire.client.recv(100)
    task = await waiting(body)
    assert wire.client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    await wire.send(b"abc")
    assert await task == b"abc"
    with pytest.raises(BlockingIOError):
        wire.client.recv(100)


async def test_a_sender_that_is_cut_before_it_began_is_told_nothing(wire: Wire) -> None:
    body = wire.body(3, expects_continue=True)
    body.cut(CutReason.PREEMPTED)
    await reason_of(body.read())
    await body.discard(bytes_max=100, duration_s=0.01)
    with pytest.raises(BlockingIOError):
        wire.client.recv(100)


# -- what nobody wants


@pytest.mark.parametrize("length", [10, None])
async def test_a_refused_body_is_read_to_its_end_and_no_further(wire: Wire, length: int | None) -> None:
    body = wire.body(length, expects_continue=True)
    await wire.send((b"0123456789" if length else chunked(b"0123456789")) + NEXT)
    await asyncio.wait_for(body.discard(bytes_max=1000, duration_s=60), 10)
    assert await wire.rest(len(NEXT)) == NEXT
    with pytest.raises(BlockingIOError):
        wire.client.recv(100)


async def test_a_refused_body_is_read_so_far_only(wire: Wire) -> None:
    body = wire.body(10**9)
    await wire.send(bytes(1000))
    await asyncio.wait_for(body.discard(bytes_max=1000, duration_s=60), 10)
    assert body.taken == 1000


@pytest.mark.parametrize("length", [10, None])
async def test_a_refused_body_is_waited_for_so_long_only(wire: Wire, length: int | None) -> None:
    body = wire.body(length)
    await asyncio.wait_for(body.discard(bytes_max=1000, duration_s=0.05), 10)


@pytest.mark.parametrize("length", [10, None])
async def test_a_cut_body_is_read_on(wire: Wire, length: int | None) -> None:
    """Its sender gets to read the answer; the read that was cut is still under way."""
    body = wire.body(length)
    task = await waiting(body)
    body.cut(CutReason.PREEMPTED)
    await reason_of(task)
    discarding = asyncio.ensure_future(body.discard(bytes_max=10, duration_s=60))
    await wire.send(b"0123456789" if length else b"5\r\n01234\r\n")
    await asyncio.wait_for(discarding, 10)


@pytest.mark.parametrize("length", [10, None])
async def test_a_sender_that_is_gone_is_not_read_on(wire: Wire, length: int | None) -> None:
    body = wire.body(length)
    wire.client.close()
    await asyncio.wait_for(body.discard(bytes_max=1000, duration_s=60), 10)
    broken = wire.body(length)
    await asyncio.wait_for(broken.discard(bytes_max=1000, duration_s=60), 10)
