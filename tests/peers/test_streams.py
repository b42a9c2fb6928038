"""Bytes from one instance to another: all of them and as they are, or a cut that says why."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import pytest

from incomingd.core.errors import Code, Refusal
from incomingd.core.peering import BytesWanted
from incomingd.core.tenure import Identity
from incomingd.peers.calls import LonePeers, PeerBody, PeerError, PeerGoneError, PeerRefusedError, PeerSilentError
from incomingd.storage.body import BodyCutError, CutReason
from incomingd.storage.volume import VolumeError
from incomingd.wire.peer_signing import CODE_BYTES, PIECE_BYTES
from tests.engine.logs import Logged
from tests.peers.members import UPLOAD, Member, member
from tests.support.machine import free_port

SIZE = 5 * PIECE_BYTES + 3
CONTENT = os.urandom(SIZE)


@pytest.fixture
async def it() -> AsyncIterator[Member]:
    async with member() as running:
        running.engine.content = CONTENT
        yield running


def wanted(start: int = 0, stop: int = SIZE) -> BytesWanted:
    return BytesWanted(UPLOAD, "bytes.1", start, stop)


async def read(body: PeerBody) -> tuple[bytes, CutReason | None]:
    """Return what came, and why no more."""
    found = b""
    try:
        while piece := await body.read():
            found += piece
    except BodyCutError as cut:
        return found, cut.reason
    return found, None


@pytest.mark.parametrize(
    "start,stop",
    [
        (0, SIZE),
        (0, 1),
        (7, 7),
        (0, PIECE_BYTES),
        (1, PIECE_BYTES + 2),
        (PIECE_BYTES - 1, 3 * PIECE_BYTES - 1),
        (SIZE - 1, SIZE),
    ],
)
async def test_the_bytes_that_were_asked_for_come(it: Member, start: int, stop: int) -> None:
    body = it.peers.read(it.identity, wanted(start, stop))
    assert body.length == stop - start
    assert await read(body) == (CONTENT[start:stop], None)
    assert await body.read() == b""
    assert body.failure is None


async def test_a_peer_that_reads_no_more_is_not_waited_for(it: Member) -> None:
    """Its connection is closed: what was read for it is held for ever by nobody."""
    it.api.stall_s = 0.2
    # More than sockets hold.
    it.engine.content = bytes(1024 * PIECE_BYTES)
    body = it.peers.read(it.identity, wanted(0, len(it.engine.content)))
    assert await body.read()
    while it.listener.open_connections:
        await asyncio.sleep(0.01)
    _, reason = await read(body)
    assert reason is not None


async def test_a_stream_leaves_its_connection_to_the_next_call(it: Member) -> None:
    for _ in range(3):
        await read(it.peers.read(it.identity, wanted()))
        await it.peers.status(it.identity)
    assert it.listener.open_connections == 1


async def test_nothing_is_asked_for_before_it_is_read(it: Member) -> None:
    it.peers.read(it.identity, wanted())
    await it.peers.status(it.identity)
    assert it.engine.asked == ["status"]


async def test_the_holder_reads_no_further_than_the_taker_takes(it: Member) -> None:
    """Memory is bounded on both sides, however large the segment is."""
    far = 2**40
    zeros = bytes(4 * PIECE_BYTES)
    reads = 0

    async def read_range(upload_id: str, segment: str, start: int, size: int) -> bytes:
        nonlocal reads
        reads += 1
        return zeros[:size]

    it.engine.read_range = read_range  # type: ignore[method-assign]  # a segment of a tebibyte
    body = it.peers.read(it.identity, wanted(0, far))
    assert await body.read() == bytes(PIECE_BYTES)
    before = -1
    while before != reads:
        before = reads
        await it.peers.status(it.identity)
        await it.peers.status(it.identity)
    assert reads * len(zeros) < 64 * 1024 * 1024
    body.cut(CutReason.STOPPING)


async def test_a_stream_that_ends_with_the_holders_daemon_says_nothing_more(it: Member) -> None:
    """No second answer is tried in the midst of the first, and nothing is logged: it ends, and is not whole."""
    serving: list[asyncio.Task[None]] = []

    async def read_range(upload_id: str, segment: str, start: int, size: int) -> bytes:
        task = asyncio.current_task()
        assert task is not None
        serving.append(task)
        return bytes(size)

    it.engine.read_range = read_range  # type: ignore[method-assign]  # notes who reads
    body = it.peers.read(it.identity, wanted(0, 2**40))
    assert await body.read() == bytes(PIECE_BYTES)
    serving[0].cancel()
    found, reason = await read(body)
    assert reason is CutReason.STALLED
    assert not any(found)


# --------------------------------------------------------------------------------------------------------- what ends it


async def test_a_segment_that_is_shorter_is_told_before_the_first_byte(it: Member) -> None:
    it.engine.content = CONTENT[:10]
    body = it.peers.read(it.identity, wanted(0, 11))
    assert await read(body) == (b"", CutReason.STALLED)
    assert isinstance(body.failure, PeerSilentError)
    assert "file_gone: bytes.1: it ends before byte 11" in str(body.failure)


@pytest.mark.parametrize("error", [VolumeError("the disk says nothing"), Refusal(Code.STORAGE_UNAVAILABLE)])
async def test_a_disk_that_fails_at_the_first_byte_is_told(it: Member, logged: Logged, error: Exception) -> None:
    logged.expect("volume.failed")
    it.engine.fails = error
    body = it.peers.read(it.identity, wanted())
    assert await read(body) == (b"", CutReason.STALLED)
    assert "storage_unavailable" in str(body.failure)


async def test_a_disk_that_fails_in_the_midst_cuts_the_stream(it: Member, logged: Logged) -> None:
    logged.expect("volume.failed")
    fine = it.engine.read_range

    async def read_range(upload_id: str, segment: str, start: int, size: int) -> bytes:
        if start:
            raise VolumeError("the disk says nothing")
        return await fine(upload_id, segment, start, size)

    it.engine.read_range = read_range  # type: ignore[method-assign]  # of a disk that fails later
    body = it.peers.read(it.identity, wanted())
    found, reason = await read(body)
    assert reason is CutReason.STALLED
    assert CONTENT.startswith(found)
    assert len(found) < SIZE
    assert isinstance(body.failure, PeerSilentError)


async def test_a_stream_that_stalls_is_cut(it: Member) -> None:
    it.engine.waits = asyncio.Event()
    it.peers.options = replace(it.peers.options, stall_s=0.05)
    body = it.peers.read(it.identity, wanted())
    assert await read(body) == (b"", CutReason.STALLED)
    assert isinstance(body.failure, PeerSilentError)
    it.engine.waits.set()


async def test_a_taker_that_wants_no_more_ends_a_read_that_waits(it: Member) -> None:
    it.engine.waits = asyncio.Event()
    body = it.peers.read(it.identity, wanted())
    reading = asyncio.ensure_future(body.read())
    while not it.engine.asked:
        await asyncio.sleep(0)
    body.cut(CutReason.ENDED)
    for _ in range(1000):
        await asyncio.sleep(0)
    assert reading.done(), "it does not wait for the peer"
    with pytest.raises(BodyCutError) as cut:
        await reading
    assert cut.value.reason is CutReason.ENDED
    assert body.failure is None, "that was no fault of the peer"
    it.engine.waits.set()


async def test_nobody_there(it: Member) -> None:
    body = it.peers.read(replace(it.identity, address=f"http://127.0.0.1:{free_port()}"), wanted())
    assert await read(body) == (b"", CutReason.CLIENT)
    assert isinstance(body.failure, PeerGoneError)
    with pytest.raises(BodyCutError):
        await body.read()


async def test_a_stranger_gets_no_byte(it: Member, logged: Logged) -> None:
    logged.expect("peer.refused")
    async with member(start_id="3" * 32, keys=("the-key-of-another-fleet",)) as stranger:
        body = stranger.peers.read(it.identity, wanted())
        assert await read(body) == (b"", CutReason.CLIENT)
        assert isinstance(body.failure, PeerRefusedError)
    assert it.engine.asked == []


# ----------------------------------------------------------------------------------------------------------- on the way


class Way:
    """What lies between two instances: passes everything on, and the answer as it is told to."""

    def __init__(self, to: Member, change: Callable[[bytes, int], bytes]) -> None:
        self.port = free_port()
        self._to = to
        self._change = change

    @property
    def identity(self) -> Identity:
        return replace(self._to.identity, address=f"http://127.0.0.1:{self.port}")

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        server = await asyncio.start_server(self._pass_on, "127.0.0.1", self.port)
        try:
            await work()
        finally:
            server.close()
            await server.wait_closed()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward, back = await asyncio.open_connection("127.0.0.1", self._to.port)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            back.write(head + await reader.readexactly(length))
            writer.write(await onward.readuntil(b"\r\n\r\n"))
            at = 0
            while data := await onward.read(64 * 1024):
                changed = self._change(data, at)
                writer.write(changed)
                await writer.drain()
                at += len(data)
                if len(changed) < len(data):
                    break
        except ConnectionError:
            pass
        finally:
            for each in (back, writer):
                each.close()


@pytest.mark.parametrize("at", [0, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + CODE_BYTES, SIZE + 5 * CODE_BYTES])
async def test_a_byte_that_is_changed_on_the_way_is_not_believed(it: Member, at: int) -> None:
    """Nor is the code behind a piece; every byte that was read before is good."""

    def flip(data: bytes, start: int) -> bytes:
        if not start <= at < start + len(data):
            return data
        return data[: at - start] + bytes([data[at - start] ^ 1]) + data[at - start + 1 :]

    way = Way(it, flip)

    async def work() -> None:
        async with member(start_id="3" * 32) as taker:
            body = taker.peers.read(way.identity, wanted())
            found, reason = await read(body)
            assert reason is CutReason.CLIENT
            assert found == CONTENT[: at // (PIECE_BYTES + CODE_BYTES) * PIECE_BYTES]
            assert isinstance(body.failure, PeerRefusedError)

    await way.run(work)


@pytest.mark.parametrize("at", [0, 1, PIECE_BYTES, 3 * PIECE_BYTES, SIZE])
async def test_a_connection_that_breaks_is_no_end(it: Member, at: int) -> None:
    def cut(data: bytes, start: int) -> bytes:
        return data[: max(0, at - start)]

    way = Way(it, cut)

    async def work() -> None:
        async with member(start_id="3" * 32) as taker:
            body = taker.peers.read(way.identity, wanted())
            found, reason = await read(body)
            assert reason is CutReason.STALLED
            assert CONTENT.startswith(found)
            assert len(found) % PIECE_BYTES == 0
            assert isinstance(body.failure, PeerSilentError)

    await way.run(work)


# ---------------------------------------------------------------------------------------------------- a single instance


async def test_a_single_instance_has_no_peers(it: Member) -> None:
    """Whoever stands in a record is gone, so its uploads can be taken."""
    peers = LonePeers()
    with pytest.raises(PeerGoneError):
        await peers.status(it.identity)
    body = peers.read(it.identity, wanted())
    assert await read(body) == (b"", CutReason.CLIENT)
    assert isinstance(body.failure, PeerError)
