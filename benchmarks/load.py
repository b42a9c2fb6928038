"""The load: requests as they go out, and the C programs that send them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import HOST, BenchmarkError

TIMEOUT_S = 300
PROBE_INTERVAL_MS = 5
SLOW_BYTES_PER_S = 1024


@dataclass(frozen=True)
class Request:
    """One request: its head as it goes out, the size of its body, and the status that is expected."""

    head: bytes
    body_bytes: int
    status: int


@dataclass(frozen=True)
class Load:
    """What one run of the generator came to."""

    elapsed_s: float
    body_bytes: int
    requests: int
    cpu_s: float
    """Of the generator itself."""


@dataclass(frozen=True)
class Latency:
    """How long small questions took, from when each was due."""

    count: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float
    realtime: bool
    """Whether the questions were asked ahead of the load that runs on the same core."""


def head(method: str, path: str, headers: Mapping[str, str]) -> bytes:
    """Return the head of a request."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {HOST}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def plan(connections: Sequence[Sequence[Request]]) -> bytes:
    """Return what the generator reads: for each connection its requests, in order."""
    return b"".join(
        b"%d %d %d %d\n%b" % (index, len(request.head), request.body_bytes, request.status, request.head)
        for index, requests in enumerate(connections)
        for request in requests
    )


@dataclass(frozen=True)
class Generator:
    """The C programs, compiled; they run on the core of the process that starts them."""

    programs: Mapping[str, Path]

    def run(self, port: int, connections: Sequence[Sequence[Request]]) -> Load:
        """Send all *connections* at once, the requests of each one after the other; return once all are answered.

        Raises:
            BenchmarkError: an answer was not the expected one, or the server hung up.
        """
        command = [str(self.programs["load"]), HOST, str(port), str(TIMEOUT_S)]
        done = subprocess.run(command, input=plan(connections), capture_output=True, check=False)
        if done.returncode != 0:
            raise BenchmarkError(done.stderr.decode("utf-8", "replace").strip())
        return Load(**json.loads(done.stdout))

    @contextmanager
    def slow(self, port: int, requests: Sequence[Request], first_bytes: int) -> Iterator[None]:
        """Hold a connection for each of *requests* while the block runs, *first_bytes* of its body in, then 1 KiB/s."""
        command = [str(self.programs["hold"]), HOST, str(port), str(first_bytes), str(SLOW_BYTES_PER_S)]
        with _program(command, plan([[request] for request in requests])) as process:
            assert process.stdout is not None
            if process.stdout.readline() != b"ready\n":
                raise BenchmarkError(f"slow clients: {_rest(process)}")
            yield
            process.terminate()
            if process.wait(30) != 0:
                raise BenchmarkError(f"slow clients: {_rest(process)}")

    @contextmanager
    def probe(self, port: int, question: bytes) -> Iterator[list[Latency]]:
        """Ask *question* every 5 ms while the block runs; the list that it gets holds the figures afterwards."""
        command = [str(self.programs["probe"]), HOST, str(port), str(PROBE_INTERVAL_MS)]
        figures: list[Latency] = []
        with _program(command, question) as process:
            yield figures
            process.terminate()
            output, errors = process.communicate(timeout=60)
            if process.returncode != 0:
                raise BenchmarkError(f"probe: {errors.decode('utf-8', 'replace').strip()}")
            figures.append(Latency(**json.loads(output)))


@contextmanager
def _program(command: list[str], text: bytes) -> Iterator[subprocess.Popen[bytes]]:
    """Run *command* with *text* as its input; it does not outlive the block."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        try:
            process.stdin.write(text)
            process.stdin.close()
            process.stdin = None
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def _rest(process: subprocess.Popen[bytes]) -> str:
    _, errors = process.communicate(timeout=10)
    return errors.decode("utf-8", "replace").strip()
