"""Writing lines never holds up whoever logs, and says what it could not write."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from incomingd import log
from incomingd.log import events
from incomingd.log.writer import LineWriter
from tests.log.conftest import LogSettings


class Valve(io.StringIO):
    """A stream whose reader can be made to hang. `stuck` is set while a write waits."""

    def __init__(self) -> None:
        super().__init__()
        self.open = threading.Event()
        self.open.set()
        self.stuck = threading.Event()

    def write(self, text: str, /) -> int:
        if not self.open.is_set():
            self.stuck.set()
        self.open.wait()
        return super().write(text)


@pytest.fixture
def valve() -> Iterator[Valve]:
    valve = Valve()
    yield valve
    valve.open.set()


def writer_to(stream: io.StringIO, buffer_bytes_max: int = 100) -> LineWriter:
    return LineWriter(stream, lambda count: f"dropped {count}", buffer_bytes_max)


def stuck_writer(valve: Valve) -> LineWriter:
    """A writer whose stream hangs with the line `first`."""
    writer = writer_to(valve)
    valve.open.clear()
    writer.write("first")
    assert valve.stuck.wait(10)
    return writer


def test_lines_come_out_in_order_and_whole() -> None:
    stream = io.StringIO()
    writer = writer_to(stream, 1 << 20)
    for number in range(1000):
        writer.write(str(number))
    assert writer.close(10)
    assert stream.getvalue().split() == [str(number) for number in range(1000)]


def test_many_threads_share_a_writer() -> None:
    stream = io.StringIO()
    writer = writer_to(stream, 1 << 20)

    def log_some(name: str) -> None:
        for number in range(200):
            writer.write(f"{name}{number}")

    threads = [threading.Thread(target=log_some, args=[name]) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert writer.close(10)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 800
    for name in "abcd":
        assert [line for line in lines if line.startswith(name)] == [f"{name}{number}" for number in range(200)]


def test_a_reader_that_hangs_holds_nobody_up_and_what_was_dropped_is_said(valve: Valve) -> None:
    writer = stuck_writer(valve)
    for number in range(50):
        writer.write(f"{number:010}")  # returns at once, or this test never ends
    valve.open.set()
    assert writer.close(10)
    kept = [f"{number:010}" for number in range(10)]
    assert valve.getvalue().splitlines() == ["first", *kept, "dropped 40"]


def test_when_the_reader_reads_again_nothing_more_is_dropped(valve: Valve) -> None:
    writer = stuck_writer(valve)
    writer.write("x" * 101)
    valve.open.set()
    assert writer.flush(10)
    writer.write("later")
    assert writer.close(10)
    assert valve.getvalue().splitlines() == ["first", "later", "dropped 1"]


def test_flush_and_close_wait_no_longer_than_they_are_told(valve: Valve) -> None:
    writer = stuck_writer(valve)
    assert not writer.flush(0.01)
    assert not writer.close(0.01)
    writer.write("after the end")
    valve.open.set()


def test_a_reader_that_is_gone_is_no_mistake_of_the_program() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as stream:
        writer = writer_to(stream)  # type: ignore[arg-type]  # a real pipe, not a StringIO
        writer.write("nobody reads this")
        assert writer.flush(10)
        writer.write("nor this")
        assert writer.close(10)
        with pytest.raises(BrokenPipeError):
            stream.close()


def test_a_closed_stream_is_no_mistake_either() -> None:
    stream = io.StringIO()
    writer = writer_to(stream)
    stream.close()
    writer.write("x")
    assert writer.close(10)


def test_dropped_lines_are_an_event(valve: Valve) -> None:
    log.configure(LogSettings(), instance="i", stream=valve, strict=True)
    valve.open.clear()
    logger = log.get_logger()
    logger.error(events.UPLOAD_LOST, upload_id="first")
    assert valve.stuck.wait(10)
    for _ in range(5000):
        logger.error(events.UPLOAD_LOST, detail="x" * 2000)
    valve.open.set()
    assert log.shutdown(10)
    log.set_strict(False)
    lines = [json.loads(line) for line in valve.getvalue().splitlines()]
    (said,) = [line for line in lines if line["event"] == "log.lines_dropped"]
    assert said["level"] == "error"
    assert said["dropped"] + len(lines) - 1 == 5001
    assert sum(map(len, valve.getvalue().splitlines())) < (4 << 20) + 10_000


def test_a_process_whose_log_nobody_reads_ends_all_the_same() -> None:
    """Its standard error is a full pipe; it logs much, is done at once, and ends within its second of grace."""
    code = (
        "from incomingd import log\nfrom incomingd.config import Settings\n"
        "log.configure(Settings().log, instance='i')\n"
        "for _ in range(1000): log.get_logger().info(log.events.UPLOAD_EXPIRED, upload_id='x' * 1000)\n"
        "print('done', flush=True)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read() == "done\n"
        assert process.wait(30) == 0
        assert process.stderr is not None
        assert 0 < len(process.stderr.read()) < 1_000_000


def test_what_was_logged_last_is_written_when_the_process_ends() -> None:
    code = (
        "from incomingd import log\nfrom incomingd.config import Settings\n"
        "log.configure(Settings().log, instance='i')\n"
        "for number in range(500): log.get_logger().info(log.events.UPLOAD_EXPIRED, offset=number)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert [json.loads(line)["offset"] for line in done.stderr.splitlines()] == list(range(500))
