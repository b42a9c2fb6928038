"""What a body and a segment promise together, over each path: read and written, or inside the kernel."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import os
import random
import socket
import struct
import termios
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from incomingd.storage.body import BodyCutError, CutReason
from incomingd.storage.directory import DirectoryVolume, segment, splicing, syscalls, writeback
from incomingd.storage.directory.segment import FileSegment
from incomingd.storage.volume import Taken, VolumeFullError, VolumeUnavailableError
from incomingd.web import body as web_body
from incomingd.web.body import BodyLimits, HttpBody
from incomingd.web.streams import HalfOpenStream
from tests.storage.volumes import open_directory, owned_upload
from tests.support.machine import small_disk

KIB = 1024
MIB = 1024 * KIB
NEXT = b"GET /the/next HTTP/1.1\r\n"
DATA = random.Random(5).randbytes(3 * MIB + 5)

SPLICED = pytest.param("spliced", marks=pytest.mark.skipif(not splicing.offered(), reason="Linux only"))
SEEN = pytest.param("seen", marks=pytest.mark.skipif(not splicing.offered(), reason="Linux only"))
BOTH = pytest.mark.parametrize("path", ["read", SPLICED, SEEN], indirect=True)
DIRECT = pytest.mark.parametrize("path", [SPLICED, SEEN], indirect=True)
ONLY_SPLICED = pytest.mark.parametrize("path", [SPLICED], indirect=True)


class Turns:
    """Counts the turns of threads, and lets a test into each."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.seen = 0
        real = splicing.Splicer.turn

        def turn(splicer: splicing.Splicer, *args: Any) -> int:
            if args[-1] is None:
                self.count += 1
            else:
                self.seen += 1
            return real(splicer, *args)

        patch.setattr(splicing.Splicer, "turn", turn)


class Sight:
    """What somebody sees of the bytes on their way; the views that it is shown are good for the call only."""

    def __init__(self) -> None:
        self.data = bytearray()

    def append(self, data: bytes | memoryview) -> None:
        self.data += data


class Rig:
    """A connection, a body that comes through it, and a segment that it goes into."""

    def __init__(self, path: str, volume: DirectoryVolume, patch: pytest.MonkeyPatch) -> None:
        self.path = path
        self.volume = volume
        self.turns = Turns(patch)
        self.sizes: list[int] = []
        self.seen = Sight()
        self.client: socket.socket
        self.stream: HalfOpenStream
        self.segment: FileSegment
        self.upload_id = ""
        self._number = 0
        self._closing: list[Callable[[], None]] = []

    async def begin(self) -> None:
        """Make another connection and another upload."""
        self._number += 1
        record = await owned_upload(self.volume, self._number)
        self.upload_id = record.upload_id
        self.sizes = []
        self.seen = Sight()
        self.segment = await self.volume.open_segment(record.upload_id, "bytes.1", create=True, size=0, sync=False)
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self.client = socket.create_connection(listening.getsockname())
            ours, _ = listening.accept()
        self.client.setblocking(False)
        self.stream = HalfOpenStream(ours)
        self._closing += [self.client.close, self.stream.close]

    def body(self, length: int | None, **options: Any) -> HttpBody:
        return HttpBody(
            self.stream,
            length=length,
            limits=options.pop("limits", BodyLimits()),
            monotonic=options.pop("monotonic", asyncio.get_running_loop().time),
            expects_continue=options.pop("expects_continue", False),
        )

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.client, data)

    def take(self, body: HttpBody, *, room: int | None = None, see: Any = None) -> asyncio.Task[Taken]:
        if see is None and self.path == "seen":
            see = self.seen.append
        taking = self.segment.take(body, room=room, on_kept=self.sizes.append, see=see)
        return asyncio.ensure_future(taking)

    async def kept(self, size: int) -> None:
        """Wait until so many bytes are kept."""
        while self.segment.size < size:
            await asyncio.sleep(0.001)

    @property
    def file(self) -> Path:
        return self.volume.root / "uploads" / self.upload_id[:2] / self.upload_id / "bytes.1"

    def assert_path(self) -> None:
        """The path was the one that was meant."""
        assert (self.turns.count > 0) == (self.path == "spliced")
        assert (self.turns.seen > 0) == (self.path == "seen")
        if self.path == "seen":
            assert bytes(self.seen.data) == self.file.read_bytes()

    async def close(self) -> None:
        await self.segment.close()
        for close in self._closing:
            close()
        await self.volume.close()


@pytest.fixture
def path(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def rig(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    made = Rig(path, open_directory(tmp_path / "data", fast_path=path != "read"), monkeypatch)
    await made.begin()
    yield made
    await made.close()


async def reason_of(awaited: Awaitable[object]) -> CutReason:
    with pytest.raises(BodyCutError) as caught:
        await awaited
    return caught.value.reason


# -- to the end


@BOTH
async def test_all_bytes_arrive_and_none_behind_them_is_touched(rig: Rig) -> None:
    body = rig.body(len(DATA))
    taking = rig.take(body, room=len(DATA))
    await rig.send(DATA + NEXT)
    assert await taking == Taken(overflow=False)
    assert rig.file.read_bytes() == DATA
    assert rig.sizes == sorted(set(rig.sizes))
    assert rig.sizes[-1] == rig.segment.size == body.taken == len(DATA)
    assert body.ended
    assert await body.read() == b""
    assert await rig.stream.read_bytes(len(NEXT)) == NEXT
    rig.assert_path()


@BOTH
async def test_bytes_that_came_with_the_header_are_the_first(rig: Rig) -> None:
    await rig.send(b"header\r\n\r\n" + DATA[: 100 * KIB])
    await rig.stream.read_until(b"\r\n\r\n")
    # Later ones are in the socket while the first ones are still in the stream.
    await rig.send(DATA[100 * KIB : 200 * KIB])
    taking = rig.take(rig.body(len(DATA)))
    await rig.send(DATA[200 * KIB :])
    await taking
    assert rig.file.read_bytes() == DATA
    rig.assert_path()


@BOTH
async def test_two_bodies_on_one_connection_and_one_segment(rig: Rig) -> None:
    for data in (DATA, DATA[::-1]):
        taking = rig.take(rig.body(len(data)))
        await rig.send(data)
        await taking
    assert rig.file.read_bytes() == DATA + DATA[::-1]
    rig.assert_path()


@BOTH
async def test_a_slow_sender_is_taken_as_it_sends(rig: Rig) -> None:
    """What is there is kept though more is to come, long before it is enough for anybody."""
    taking = rig.take(rig.body(len(DATA)))
    for end in (1, 1000, 70_000, len(DATA)):
        await rig.send(DATA[rig.segment.size : end])
        await rig.kept(end)
    await taking
    assert rig.file.read_bytes() == DATA
    rig.assert_path()


@BOTH
async def test_the_sender_hears_continue_before_its_bytes_are_waited_for(rig: Rig) -> None:
    taking = rig.take(rig.body(len(DATA), expects_continue=True))
    assert await asyncio.get_running_loop().sock_recv(rig.client, 100) == web_body.CONTINUE
    await rig.send(DATA)
    await taking
    assert rig.file.read_bytes() == DATA
    rig.assert_path()


@BOTH
async def test_bytes_that_are_looked_at_are_seen_in_order(rig: Rig) -> None:
    digest = hashlib.sha256()
    taking = rig.take(rig.body(len(DATA)), see=digest.update)
    await rig.send(DATA)
    await taking
    assert digest.digest() == hashlib.sha256(DATA).digest() == hashlib.sha256(rig.file.read_bytes()).digest()
    assert rig.turns.count == 0, "what is looked at has threads of its own"
    assert (rig.turns.seen > 0) == (rig.path != "read")


@ONLY_SPLICED
@pytest.mark.parametrize("length", [web_body.DIRECT_BYTES - 1, None])
async def test_small_and_chunked_bodies_are_read(rig: Rig, length: int | None) -> None:
    data = DATA[: web_body.DIRECT_BYTES - 1]
    taking = rig.take(rig.body(length))
    await rig.send(data if length else b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data))
    await taking
    assert rig.file.read_bytes() == data
    assert rig.turns.count == 0


# -- not to the end


@BOTH
@pytest.mark.parametrize("how", ["half-closed", "closed", "reset"])
async def test_of_a_body_that_ends_early_what_came_is_kept(rig: Rig, how: str) -> None:
    body = rig.body(len(DATA))
    taking = rig.take(body)
    await rig.send(DATA[:MIB])
    await rig.kept(MIB)
    if how == "half-closed":
        rig.client.shutdown(socket.SHUT_WR)
    else:
        if how == "reset":
            rig.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        rig.client.close()
    assert await reason_of(taking) is CutReason.CLIENT
    assert rig.file.read_bytes() == DATA[:MIB]
    assert body.cut_reason is CutReason.CLIENT
    assert not body.ended
    assert rig.stream.closed()
    assert await reason_of(body.read()) is CutReason.CLIENT
    rig.assert_path()


@BOTH
@pytest.mark.parametrize("size", [0, MIB + 3])
async def test_a_body_is_cut_while_it_is_waited_for(rig: Rig, size: int) -> None:
    body = rig.body(len(DATA))
    taking = rig.take(body)
    await rig.send(DATA[:size])
    await rig.kept(size)
    while body._wake is None:
        await asyncio.sleep(0)
    body.cut(CutReason.PREEMPTED)
    assert await reason_of(taking) is CutReason.PREEMPTED
    # Nothing that comes later gets in.
    await rig.send(b"later")
    assert await reason_of(body.read()) is CutReason.PREEMPTED
    assert rig.file.read_bytes() == DATA[:size]
    await body.discard(bytes_max=MIB, duration_s=0.01)


@BOTH
async def test_a_body_is_cut_while_its_bytes_are_written(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The write under way is answered; what it kept counts, and it is an exact beginning of the body."""
    began, go_on = threading.Event(), threading.Event()
    _hold_writes(monkeypatch, began, go_on)
    body = rig.body(len(DATA))
    taking = rig.take(body)
    await rig.send(DATA[:-1])
    await asyncio.to_thread(began.wait)
    body.cut(CutReason.STOPPING)
    assert not taking.done()
    go_on.set()
    assert await reason_of(taking) is CutReason.STOPPING
    found = rig.file.read_bytes()
    # That one write, and none behind it.
    assert 0 < len(found) == rig.segment.size <= splicing.STEP_BYTES
    assert found == DATA[: len(found)]
    rig.assert_path()


def _hold_writes(patch: pytest.MonkeyPatch, began: threading.Event, go_on: threading.Event) -> None:
    """Have each write to a file begin, and then wait."""
    real_splice, real_pwrite = os.splice, os.pwrite

    def splice(source: int, target: int, count: int, offset_src: int | None = None, **options: Any) -> int:
        if options:
            began.set()
            go_on.wait()
        return real_splice(source, target, count, offset_src, **options)

    def pwrite(*args: Any) -> int:
        began.set()
        go_on.wait()
        return real_pwrite(*args)

    patch.setattr(os, "splice", splice)
    patch.setattr(os, "pwrite", pwrite)


@BOTH
async def test_a_cancelled_request_leaves_no_thread_behind_that_writes(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The segment is closed only behind the write that is under way: its descriptor is nobody else's before."""
    began, go_on = threading.Event(), threading.Event()
    _hold_writes(monkeypatch, began, go_on)
    taking = rig.take(rig.body(len(DATA)))
    await rig.send(DATA[:MIB])
    await asyncio.to_thread(began.wait)
    taking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await taking
    # The connection goes with its request; a turn has a descriptor of its own.
    rig.stream.close()
    closing = asyncio.ensure_future(rig.segment.close())
    await asyncio.sleep(0)
    assert not closing.done()
    go_on.set()
    await closing
    found = rig.file.read_bytes()
    assert 0 < len(found) == rig.segment.size
    assert found == DATA[: len(found)]
    rig.assert_path()


@BOTH
async def test_a_stalled_sender_is_cut(rig: Rig) -> None:
    body = rig.body(len(DATA), limits=BodyLimits(idle_s=0.15))
    taking = rig.take(body)
    await rig.send(DATA[:MIB])
    assert await reason_of(taking) is CutReason.STALLED
    assert rig.file.read_bytes() == DATA[:MIB]
    await body.discard(bytes_max=MIB, duration_s=0.01)
    rig.assert_path()


@BOTH
async def test_a_sender_that_is_too_slow_is_cut(rig: Rig) -> None:
    times = iter(range(0, 10_000, 50))
    limits = BodyLimits(idle_s=60, bytes_per_s_min=MIB, rate_after_s=60)
    taking = rig.take(rig.body(len(DATA), limits=limits, monotonic=lambda: float(next(times))))
    sent = 0
    while not taking.done():
        with contextlib.suppress(ConnectionError):
            await rig.send(DATA[sent : sent + 1000])
        sent += 1000
        while rig.segment.size < sent and not taking.done():
            await asyncio.sleep(0.001)
    assert await reason_of(taking) is CutReason.TOO_SLOW
    found = rig.file.read_bytes()
    assert found == DATA[: len(found)]


# -- slow senders


def patience(patch: pytest.MonkeyPatch, least_s: float, most_s: float) -> list[float]:
    """Have bodies wait for much for so long; return a list of the waits, which grows."""
    waits: list[float] = []
    real = HttpBody._wait_for

    async def wait_for(body: HttpBody, stream: HalfOpenStream, much: int, duration_s: float, *, last: bool) -> bool:
        if not last:
            waits.append(duration_s)
        return await real(body, stream, much, duration_s, last=last)

    patch.setattr(web_body, "BATCH_S", least_s)
    patch.setattr(web_body, "BATCH_SLOW_S", most_s)
    patch.setattr(HttpBody, "_wait_for", wait_for)
    return waits


@DIRECT
async def test_the_slower_a_sender_the_longer_are_its_turns_apart(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each turn costs the same, whether it takes ten bytes or a mebibyte. Who sends much again is as before."""
    waits = patience(monkeypatch, 0.001, 0.004)
    taking = rig.take(rig.body(len(DATA)))
    sent = 0
    for size in (1, 1, 1, 1, 1, web_body.BATCH_BYTES, 1):
        await rig.send(DATA[sent : sent + size])
        sent += size
        await rig.kept(sent)
    await rig.send(DATA[sent:])
    assert await taking == Taken(overflow=False)
    assert waits[:7] == [0.001, 0.002, 0.004, 0.004, 0.004, 0.004, 0.001]
    assert rig.file.read_bytes() == DATA


@DIRECT
@pytest.mark.parametrize("reason", [CutReason.STOPPING, CutReason.PREEMPTED])
async def test_what_has_come_of_a_slow_body_when_it_is_cut_counts(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, reason: CutReason
) -> None:
    """It need not be sent again, however long it has been waiting to be taken."""
    waits = patience(monkeypatch, 50, 50)
    body = rig.body(len(DATA))
    taking = rig.take(body)
    for start in range(0, 5000, 1000):
        await rig.send(DATA[start : start + 1000])
    while not waits or there(rig.stream) != 5000:
        await asyncio.sleep(0)
    body.cut(reason)
    assert await reason_of(taking) is reason
    assert rig.sizes == [5000]
    assert rig.file.read_bytes() == DATA[:5000]
    rig.assert_path()
    await rig.send(DATA[5000:6000])
    await body.discard(bytes_max=1000, duration_s=10)
    assert rig.segment.size == 5000


@DIRECT
async def test_nothing_more_is_taken_of_an_upload_that_is_over(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = patience(monkeypatch, 50, 50)
    body = rig.body(len(DATA))
    taking = rig.take(body)
    await rig.send(DATA[:1000])
    while not waits or there(rig.stream) != 1000:
        await asyncio.sleep(0)
    body.cut(CutReason.ENDED)
    assert await reason_of(taking) is CutReason.ENDED
    assert rig.segment.size == 0


@DIRECT
async def test_the_end_of_a_slow_body_is_waited_for_no_longer(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = patience(monkeypatch, 50, 50)
    taking = rig.take(rig.body(web_body.DIRECT_BYTES))
    while not waits:
        await asyncio.sleep(0)
    await rig.send(DATA[: web_body.DIRECT_BYTES])
    assert await taking == Taken(overflow=False)


@DIRECT
async def test_a_short_body_is_taken_in_turns_once_it_is_seen_to_be_slow(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Short bodies are read: most are there at once. Of a slow one each packet would else be a way to a thread."""
    patience(monkeypatch, 0.001, 0.002)
    size = web_body.DIRECT_BYTES - 1
    taking = rig.take(rig.body(size))
    turns = []
    for start in range(3):
        await rig.send(DATA[start : start + 1])
        await rig.kept(start + 1)
        turns.append(rig.turns.count + rig.turns.seen)
    assert turns == [0, 0, 1]
    await rig.send(DATA[3:size])
    assert await taking == Taken(overflow=False)
    assert rig.file.read_bytes() == DATA[:size]


def there(stream: HalfOpenStream) -> int:
    """Return how many bytes wait in the socket."""
    (size,) = struct.unpack("i", fcntl.ioctl(stream.socket.fileno(), termios.FIONREAD, bytes(4)))
    return int(size)


@BOTH
@pytest.mark.parametrize("room", [0, MIB, len(DATA) - 1])
async def test_not_one_byte_more_than_there_is_room_for(rig: Rig, room: int) -> None:
    body = rig.body(len(DATA))
    taking = rig.take(body, room=room)
    sending = asyncio.ensure_future(rig.send(DATA))
    assert await taking == Taken(overflow=True)
    assert rig.file.read_bytes() == DATA[:room]
    await body.discard(bytes_max=len(DATA), duration_s=10)
    await sending


# -- the disk


@BOTH
@pytest.mark.root
async def test_a_full_disk_in_the_middle_counts_what_fitted_and_spoils_no_other_upload(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on a file system that reserves nothing, where others write, too.
    monkeypatch.setattr(FileSegment, "_reserve", lambda *_: None)
    with small_disk(tmp_path / "disk", 2 * MIB) as disk:
        rig = Rig(path, open_directory(disk / "data", fast_path=path != "read"), monkeypatch)
        await rig.begin()
        body = rig.body(len(DATA))
        taking = rig.take(body)
        sending = asyncio.ensure_future(rig.send(DATA))
        with pytest.raises(VolumeFullError):
            await taking
        found = rig.file.read_bytes()
        assert MIB < len(found) == rig.segment.size < 2 * MIB
        assert found == DATA[: len(found)]
        rig.assert_path()
        await body.discard(bytes_max=len(DATA), duration_s=10)
        await sending
        await rig.segment.cut_back(0)
        await rig.segment.close()
        # A pipe with the rest in it would give that to the next one.
        await rig.begin()
        other = DATA[: -MIB - 1 : -1]
        taking = rig.take(rig.body(MIB))
        await rig.send(other)
        await taking
        assert rig.file.read_bytes() == other
        await rig.close()


@BOTH
@pytest.mark.root
async def test_a_body_that_does_not_fit_is_refused_before_its_first_byte(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(tmp_path / "disk", 2 * MIB) as disk:
        rig = Rig(path, open_directory(disk / "data", fast_path=path != "read"), monkeypatch)
        await rig.begin()
        body = rig.body(len(DATA))
        with pytest.raises(VolumeFullError):
            await rig.take(body)
        assert (rig.segment.size, body.taken) == (0, 0)
        await rig.segment.close()
        assert await rig.volume.has_room(MIB), "what was reserved of it is given back"
        await rig.close()


@BOTH
async def test_what_was_reserved_and_did_not_come_is_given_back(rig: Rig) -> None:
    body = rig.body(512 * MIB)
    taking = rig.take(body)
    await rig.send(DATA)
    await rig.kept(len(DATA))
    during = os.stat(rig.file)
    assert during.st_size == len(DATA), "room is no length"
    body.cut(CutReason.PREEMPTED)
    await reason_of(taking)
    await rig.segment.close()
    after = os.stat(rig.file)
    assert after.st_size == len(DATA)
    assert after.st_blocks * 512 < len(DATA) + MIB
    if during.st_blocks * 512 < 512 * MIB:
        pytest.skip("this file system reserves nothing")


async def test_what_a_killed_process_had_reserved_is_given_back_by_who_goes_on(tmp_path: Path) -> None:
    """Else an upload could be refused for the room that it holds itself."""
    volume = open_directory(tmp_path / "data")
    record = await owned_upload(volume)
    file = tmp_path / "data" / "uploads" / record.upload_id[:2] / record.upload_id / "bytes.1"
    file.write_bytes(DATA)
    with file.open("r+b") as opened:
        if not syscalls.reserve(opened.fileno(), len(DATA), 64 * MIB):
            pytest.skip("this file system reserves nothing")
    assert file.stat().st_blocks * 512 >= 64 * MIB
    segment = await volume.open_segment(record.upload_id, "bytes.1", create=False, size=len(DATA), sync=False)
    assert file.stat().st_blocks * 512 < len(DATA) + MIB
    assert file.read_bytes() == DATA
    await segment.close()
    await volume.close()


@BOTH
async def test_a_disk_that_fails_is_told_by_the_sync_that_follows(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel tells a failed write-back once, and it told the write-behind: the sync must not call it well."""

    def wait_written(*_: int) -> bool:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(writeback, "STEP_BYTES", 256 * KIB)
    monkeypatch.setattr(writeback, "AHEAD_BYTES", 512 * KIB)
    monkeypatch.setattr(syscalls, "wait_written", wait_written)
    taking = rig.take(rig.body(len(DATA)))
    await rig.send(DATA)
    await taking
    with pytest.raises(VolumeUnavailableError, match="syncing a segment: Input/output error"):
        await rig.segment.sync()


@BOTH
async def test_a_writer_is_at_most_so_far_ahead_of_the_disk(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[tuple[int, int]] = []
    waited: list[tuple[int, int]] = []
    monkeypatch.setattr(writeback, "STEP_BYTES", 256 * KIB)
    monkeypatch.setattr(writeback, "AHEAD_BYTES", 1024 * KIB)

    def noting(calls: list[tuple[int, int]]) -> Callable[[int, int, int], bool]:
        def call(fd: int, start: int, size: int) -> bool:
            calls.append((start, size))
            return True

        return call

    monkeypatch.setattr(syscalls, "begin_writing", noting(begun))
    monkeypatch.setattr(syscalls, "wait_written", noting(waited))
    taking = rig.take(rig.body(len(DATA)))
    await rig.send(DATA)
    await taking
    assert begun == [(number * 256 * KIB, 256 * KIB) for number in range(12)]
    assert waited == begun[: len(begun) - 4]


@pytest.mark.parametrize("call", [syscalls.begin_writing, syscalls.wait_written, syscalls.reserve])
def test_help_of_the_kernel_changes_no_byte_and_no_length(call: Callable[[int, int, int], bool], root: Path) -> None:
    fd = os.open(root, os.O_RDWR | os.O_CREAT)
    try:
        os.pwrite(fd, DATA, 0)
        call(fd, 0, 8 * MIB)
        assert os.fstat(fd).st_size == len(DATA)
        assert os.pread(fd, len(DATA) + 1, 0) == DATA
        with pytest.raises(OSError, match="Bad file descriptor"):
            call(-1, 0, 1)
    finally:
        os.close(fd)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "file"


# -- hazards of splicing


@DIRECT
async def test_a_pipe_that_held_bytes_at_an_error_is_used_no_more(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.splice
    fail = True

    def splice(source: int, target: int, count: int, offset_src: int | None = None, **options: Any) -> int:
        if options and fail:
            raise OSError(errno.EIO, "Input/output error")
        return real(source, target, count, offset_src, **options)

    monkeypatch.setattr(os, "splice", splice)
    body = rig.body(len(DATA))
    taking = rig.take(body)
    await rig.send(DATA[:MIB])
    with pytest.raises(VolumeUnavailableError, match="writing a segment"):
        await taking
    splicer = rig.volume._splicer if rig.path == "spliced" else rig.volume._seer
    assert splicer is not None
    assert (rig.segment.size, splicer.pipes_idle) == (0, 0)
    fail = False
    await rig.segment.close()
    await rig.begin()
    taking = rig.take(rig.body(MIB))
    await rig.send(DATA[-MIB:])
    await taking
    assert rig.file.read_bytes() == DATA[-MIB:]
    assert splicer.pipes_idle == 1


@pytest.mark.parametrize("path", [SEEN], indirect=True)
async def test_bytes_that_cannot_be_read_back_do_not_count(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks has seen all that counts, and the sender hears an offset that is right for both."""
    real = os.preadv
    calls = 0

    def preadv(fd: int, buffers: Any, at: int) -> int:
        nonlocal calls
        calls += 1
        if calls > 2:
            raise OSError(errno.EIO, "Input/output error")
        return real(fd, buffers, at)

    taking = rig.take(rig.body(len(DATA)))
    monkeypatch.setattr(os, "preadv", preadv)
    await rig.send(DATA[:MIB])
    with pytest.raises(VolumeUnavailableError, match="writing a segment"):
        await taking
    assert rig.segment.size == len(rig.seen.data) > 0
    assert bytes(rig.seen.data) == DATA[: rig.segment.size]


@pytest.mark.parametrize("path", [SEEN], indirect=True)
async def test_of_a_write_that_stops_the_part_that_counts_is_seen(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.splice
    written = 0

    def splice(source: int, target: int, count: int, offset_src: int | None = None, **options: Any) -> int:
        nonlocal written
        if not options:
            return real(source, target, count, offset_src)
        if written:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = real(source, target, min(count, 4 * KIB), offset_src, **options)
        return written

    monkeypatch.setattr(os, "splice", splice)
    taking = rig.take(rig.body(len(DATA)))
    await rig.send(DATA[:MIB])
    with pytest.raises(VolumeFullError):
        await taking
    assert rig.segment.size == len(rig.seen.data) == written
    assert bytes(rig.seen.data) == DATA[:written]


@ONLY_SPLICED
async def test_many_uploads_need_few_pipes_and_no_more_descriptors(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pipes are those of the threads, however many uploads there are; what a turn had is closed behind it."""
    monkeypatch.setattr(splicing, "TURN_BYTES", 64 * KIB)
    loop = asyncio.get_running_loop()
    rigs = []
    for _ in range(12):
        rigs.append((rig.client, rig.segment, rig.body(MIB), rig.file))
        await rig.begin()
    files = len(os.listdir("/proc/self/fd"))
    datas = [random.Random(number).randbytes(MIB) for number in range(len(rigs))]
    takes = [each.take(body, room=None, on_kept=lambda _: None) for _, each, body, _ in rigs]
    sends = [loop.sock_sendall(client, data) for (client, *_), data in zip(rigs, datas, strict=True)]
    await asyncio.gather(*takes, *sends)
    for (_, each, _, file), data in zip(rigs, datas, strict=True):
        assert file.read_bytes() == data
        await each.close()
    splicer = rig.volume._splicer
    assert splicer is not None
    assert 1 <= splicer.pipes_idle <= splicer.pool._max_workers
    assert len(os.listdir("/proc/self/fd")) == files - len(rigs) + 2 * splicer.pipes_idle
    assert rig.turns.count >= len(rigs) * 16, "nobody has more than a turn at once"


@ONLY_SPLICED
async def test_the_kernel_wakes_nobody_for_a_few_bytes_of_a_fast_sender(rig: Rig) -> None:
    """Few turns for many bytes: else each packet would cost a turn of its own."""
    data = DATA * 10
    taking = rig.take(rig.body(len(data)))
    await rig.send(data)
    await taking
    assert rig.turns.count <= len(data) // (256 * KIB)


@ONLY_SPLICED
async def test_the_socket_is_as_it_was_behind_the_body(rig: Rig) -> None:
    taking = rig.take(rig.body(len(DATA)))
    await rig.send(DATA)
    await taking
    assert not rig.stream.lent
    assert rig.stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1
    # It answers, it reads again, and it sees its end.
    await rig.stream.write(b"answer")
    assert await asyncio.get_running_loop().sock_recv(rig.client, 100) == b"answer"
    reading = asyncio.ensure_future(rig.stream.read_until(b"\n"))
    await rig.send(b"more\n")
    assert await reading == b"more\n"


@ONLY_SPLICED
async def test_a_connection_that_is_closed_meanwhile_ends_the_wait_for_its_bytes(rig: Rig) -> None:
    """By whoever stops the server: its number may be another connection's at once."""
    body = rig.body(len(DATA))
    taking = rig.take(body)
    await rig.send(DATA[:MIB])
    await rig.kept(MIB)
    while body._wake is None:
        await asyncio.sleep(0)
    number = rig.stream.socket.fileno()
    rig.stream.close()
    assert await reason_of(taking) is CutReason.CLIENT
    loop: Any = asyncio.get_running_loop()
    assert number not in loop._selector.get_map()


@ONLY_SPLICED
async def test_without_a_pipe_nothing_is_taken(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def pipe() -> tuple[int, int]:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "pipe", pipe)
    body = rig.body(len(DATA))
    taking = rig.take(body)
    await rig.send(DATA[:MIB])
    with pytest.raises(VolumeUnavailableError):
        await taking
    assert (rig.segment.size, body.taken) == (0, 0)


def test_a_segment_is_not_opened_to_be_appended_to(root: Path) -> None:
    """splice(2) refuses such files; and a segment's bytes have their places."""
    import fcntl  # noqa: PLC0415 -- Linux only, as what it looks at

    fd = segment.open_for_append(root, create=True, size=0, sync=False)
    try:
        assert not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_APPEND
    finally:
        os.close(fd)
