"""The measurements: each starts one server, loads it, and returns plain numbers by name."""

from __future__ import annotations

import gc
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from benchmarks.balloon import Balloon
from benchmarks.load import Generator, Load, Request
from benchmarks.machine import (
    GB,
    GIB,
    KIB,
    MIB,
    ROOT,
    BenchmarkError,
    cpu_s,
    memory_bytes,
    peak_bytes,
    reset_peak,
    stolen_s,
)
from benchmarks.servers import Bystander, Incomingd, Place, Server, Sink, TusPeer

SETTLE_LOOKS = 10
SETTLE_INTERVAL_S = 0.3
SETTLE_WITHIN_S = 15
SETTLED_BYTES = 256 * KIB
SLOW_FIRST_BYTES = 64 * KIB
SLOW_UPLOAD_BYTES = 4 * MIB
"""Enough for as long as they are held, and all of them fit on the disk."""
SMALL_BYTES = 64 * KIB
NICENESS = 10
"""Of the sink beside which somebody else is asked: that of the daemon's threads."""
DISK_WRITERS = 8
DISK_STEP_BYTES = 8 * MIB


@dataclass(frozen=True)
class Sizes:
    """How much is sent. Powers of two, so that every split comes out even."""

    bulk_bytes: int = 2 * GIB
    """Of all connections together."""
    connections: int = 8
    many_connections: int = 64
    head_upload_bytes: int = GIB
    """Of each of the uploads beside which HEAD is asked."""
    head_peer_upload_bytes: int = 128 * MIB
    """The same for peers: theirs is told, not judged, and takes long enough to be seen."""
    head_idle_s: float = 2.0
    small_patches: int = 128
    """On each connection."""
    slow_connections: int = 512
    hash_bytes: int = GIB
    disk_bytes: int = 10 * GIB
    """Of the disk that is held equal; 0: files go to the folder as it is."""


SHORT = Sizes(
    bulk_bytes=16 * MIB,
    many_connections=16,
    head_upload_bytes=4 * MIB,
    head_peer_upload_bytes=4 * MIB,
    head_idle_s=0.2,
    small_patches=8,
    slow_connections=16,
    hash_bytes=16 * MIB,
    disk_bytes=0,
)

Figures = dict[str, float]


@dataclass(frozen=True)
class Bench:
    """What every measurement needs."""

    generator: Generator
    place: Place
    sizes: Sizes

    @contextmanager
    def running(self, kind: type[Server], written_bytes: int) -> Iterator[Server]:
        """Run a server of *kind* from the same state of disk and memory, into which *written_bytes* will go.

        What the run before wrote is gone, nothing waits to be written, and the pages are warm.
        """
        if self.sizes.disk_bytes:
            # A short run does not wait for what the neighbours write.
            os.sync()
        gc.collect()
        with kind(self.place) as server:
            yield server
            if server.kept_bytes() < written_bytes:
                kept = server.kept_bytes()
                raise BenchmarkError(f"{server.name} said that it had {written_bytes} bytes and keeps {kept}")

    def bulk(self, kind: type[Server], connections: int) -> Figures:
        """Large uploads on as many *connections*: ``cpu_s_per_gb``, ``bytes_per_s`` and ``peak_bytes`` of memory."""
        size_bytes = self.sizes.bulk_bytes // connections
        with self.running(kind, self.sizes.bulk_bytes) as server:
            paths = server.uploads(connections, size_bytes)
            plan = [[server.request(path, 0, size_bytes)] for path in paths]
            reset_peak(server.pid)
            load, used_s = self._timed(server, lambda: self.generator.run(server.port, plan), self.sizes.bulk_bytes)
            return {
                "cpu_s_per_gb": used_s / (load.body_bytes / GB),
                "bytes_per_s": load.body_bytes / load.elapsed_s,
                "peak_bytes": float(peak_bytes(server.pid)),
                "load_cpu_s_per_gb": load.cpu_s / (load.body_bytes / GB),
            }

    def small_patches(self, kind: type[Server]) -> Figures:
        """PATCHes of 64 KiB, one after the other on each connection: ``cpu_s`` of one, ``requests_per_s``."""
        each = self.sizes.small_patches
        written_bytes = self.sizes.connections * each * SMALL_BYTES
        with self.running(kind, written_bytes) as server:
            paths = server.uploads(self.sizes.connections, each * SMALL_BYTES)
            plan = [
                [server.request(path, number * SMALL_BYTES, SMALL_BYTES) for number in range(each)] for path in paths
            ]
            load, used_s = self._timed(server, lambda: self.generator.run(server.port, plan), written_bytes)
            return {"cpu_s": used_s / load.requests, "requests_per_s": load.requests / load.elapsed_s}

    def small_files(self, kind: type[TusPeer]) -> Figures:
        """Files of 64 KiB, each in one request that creates it, too: ``cpu_s`` of one, ``requests_per_s``."""
        count = self.sizes.connections * self.sizes.small_patches
        with self.running(kind, count * SMALL_BYTES) as server:
            assert isinstance(server, TusPeer)
            paths: list[str | None] = [None] * count
            if isinstance(server, Incomingd):
                paths = [*server.tickets(count)]
            requests = [server.small_file(path, SMALL_BYTES) for path in paths]
            plan = [requests[first :: self.sizes.connections] for first in range(self.sizes.connections)]
            load, used_s = self._timed(server, lambda: self.generator.run(server.port, plan), count * SMALL_BYTES)
            return {"cpu_s": used_s / load.requests, "requests_per_s": load.requests / load.elapsed_s}

    def heads(self, kind: type[Server], size_bytes: int) -> Figures:
        """HEAD on an idle server, then beside uploads of *size_bytes*: ``idle_p99_ms``, ``p50_ms``, ``p99_ms``.

        ``stolen_s`` is how long the host kept processors back meanwhile: what is late then may be late for its sake.
        """
        written_bytes = size_bytes * self.sizes.connections
        with self.running(kind, written_bytes) as server:
            question = server.question(server.uploads(1, SMALL_BYTES)[0])
            paths = server.uploads(self.sizes.connections, size_bytes)
            plan = [[server.request(path, 0, size_bytes)] for path in paths]
            return self._asked(server.port, question, server, plan, written_bytes)

    def beside(self, size_bytes: int) -> Figures:
        """The same of a server that does nothing but answer, while the sink takes the uploads: see `heads`.

        What that one waits is the host's and the kernel's doing.
        """
        written_bytes = size_bytes * self.sizes.connections
        with self.running(Sink, written_bytes) as sink, Bystander(self.place) as asked:
            os.setpriority(os.PRIO_PROCESS, sink.pid, NICENESS)
            plan = [[sink.request(path, 0, size_bytes)] for path in sink.uploads(self.sizes.connections, size_bytes)]
            return self._asked(asked.port, asked.question("/any"), sink, plan, written_bytes)

    def _asked(
        self, port: int, question: bytes, server: Server, plan: list[list[Request]], written_bytes: int
    ) -> Figures:
        with self.generator.probe(port, question) as idle:
            time.sleep(self.sizes.head_idle_s)
        with Balloon(written_bytes), self.generator.probe(port, question) as busy:
            before_s = stolen_s()
            self.generator.run(server.port, plan)
            kept_back_s = stolen_s() - before_s
        return {
            "idle_p50_ms": idle[0].p50_ms,
            "idle_p99_ms": idle[0].p99_ms,
            "p50_ms": busy[0].p50_ms,
            "p99_ms": busy[0].p99_ms,
            "max_ms": busy[0].max_ms,
            "count": float(busy[0].count),
            "realtime": float(busy[0].realtime),
            "stolen_s": kept_back_s,
        }

    def disk(self) -> Figures:
        """What the disk takes from programs that write past the memory, side by side: ``bytes_per_s``."""
        each_bytes = self.sizes.bulk_bytes // DISK_WRITERS
        folder = self.place.folder / "disk"
        folder.mkdir()
        try:
            if self.sizes.disk_bytes:
                os.sync()
            start_s = time.monotonic()
            count = max(1, each_bytes // DISK_STEP_BYTES)
            with ExitStack() as stack:
                writers = [
                    stack.enter_context(
                        subprocess.Popen(
                            ["dd", "if=/dev/zero", f"of={folder / str(number)}", f"bs={each_bytes // count}",
                             f"count={count}", "oflag=direct", "conv=fdatasync"],
                            stderr=subprocess.PIPE,
                        )
                    )
                    for number in range(DISK_WRITERS)
                ]  # fmt: skip
                told = [writer.communicate()[1].decode("utf-8", "replace") for writer in writers]
            taken_s = time.monotonic() - start_s
            if any(writer.returncode for writer in writers):
                raise BenchmarkError(told[0].strip())
            return {"bytes_per_s": each_bytes * DISK_WRITERS / taken_s}
        finally:
            shutil.rmtree(folder)

    def slow(self, kind: type[Server]) -> Figures:
        """Slow connections, 64 KiB of each in: ``bytes_per_connection`` of the server's private memory."""
        count = self.sizes.slow_connections
        with self.running(kind, 0) as server:
            # What the first requests of a process bring into memory for good is not a connection's.
            first = server.uploads(1, SMALL_BYTES)[0]
            self.generator.run(server.port, [[server.request(first, 0, SMALL_BYTES)]])
            requests = [server.request(path, 0, SLOW_UPLOAD_BYTES) for path in server.uploads(count, SLOW_UPLOAD_BYTES)]
            before_bytes = self._settled(server)
            with self.generator.slow(server.port, requests, SLOW_FIRST_BYTES):
                grown_bytes = self._settled(server) - before_bytes
            return {"bytes_per_connection": grown_bytes / count}

    def sha256(self) -> Figures:
        """Bare SHA-256 of this machine, by the library that the daemon has it from: ``cpu_s_per_gb``."""
        command = [sys.executable, "-m", "benchmarks.measures", str(self.sizes.hash_bytes)]
        pinned = ["taskset", "--cpu-list", str(self.place.cores.server), *command]
        done = subprocess.run(pinned, cwd=ROOT, capture_output=True, text=True, check=True)
        return {"cpu_s_per_gb": float(done.stdout) / (self.sizes.hash_bytes / GB)}

    def _timed(self, server: Server, work: Callable[[], Load], written_bytes: int) -> tuple[Load, float]:
        with Balloon(written_bytes):
            before_s = cpu_s(server.pid)
            load = work()
            return load, cpu_s(server.pid) - before_s

    @staticmethod
    def _settled(server: Server) -> int:
        """Return the server's memory once it stays as it is."""
        looks = [memory_bytes(server.pid)]
        deadline_s = time.monotonic() + SETTLE_WITHIN_S
        while time.monotonic() < deadline_s:
            time.sleep(SETTLE_INTERVAL_S)
            looks.append(memory_bytes(server.pid))
            last = looks[-SETTLE_LOOKS:]
            if len(last) == SETTLE_LOOKS and max(last) - min(last) <= SETTLED_BYTES:
                break
        return looks[-1]


def hash_for(size_bytes: int) -> float:
    """Return the processor time of a SHA-256 over *size_bytes*, taken from memory that no cache holds whole."""
    block = MIB
    source = memoryview(bytearray(os.urandom(64 * block)))
    digest = hashlib.sha256()
    before_s = time.process_time()
    for at in range(0, size_bytes, block):
        start = at % len(source)
        digest.update(source[start : start + block])
    return time.process_time() - before_s


if __name__ == "__main__":
    sys.stdout.write(f"{hash_for(int(sys.argv[1]))}\n")
