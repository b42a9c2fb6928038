"""What uploads, moves and instances cost, measured with the real programs: the figures of `docs/operating/scaling.md`.

    .venv/bin/python -m scripts.measure_fleet

Counts and processor time, which say the same on a busy machine; where it is time, it says so. Some minutes.
"""

from __future__ import annotations

import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import psutil

from incomingd.registry import redis_scripts
from tests.registry.scale import calls, stats
from tests.support.app import App, running_app
from tests.support.backend import Backend
from tests.support.content import Content
from tests.support.fleet import Fleet, at, fleet, go_to
from tests.support.haproxy import HAProxy, instance_of
from tests.support.link import Link
from tests.support.machine import pss_bytes
from tests.support.redis import RedisServer
from tests.support.tus import TusUpload

KiB: Final = 1 << 10
MiB: Final = 1 << 20
UPLOADS: Final = 100
SOME: Final = 20
MOVES: Final = 40


_seeds = itertools.count()


def content(size_bytes: int) -> Content:
    """Return a file that is like no other."""
    return Content(next(_seeds), size_bytes)


def told(what: str, figure: str) -> None:
    """Print a line."""
    print(f"{what:<72} {figure}", flush=True)


def cpu_s(pid: int) -> float:
    """Return the processor time of a process and those it has started."""
    process = psutil.Process(pid)
    times = [each.cpu_times() for each in (process, *process.children(recursive=True))]
    return sum(each.user + each.system for each in times)


class Monitor:
    """What clients ask of Redis, but what leases cost anyway: renewals, looks around, signs of life."""

    USUAL = (redis_scripts.RENEW, redis_scripts.LEASES)

    def __init__(self, server: RedisServer, file: Path) -> None:
        self._file = file
        self._read = 0
        self._process = subprocess.Popen(["redis-cli", "-p", str(server.port), "monitor"], stdout=file.open("w"))

    def since(self) -> int:
        """Return how many commands came since the last call."""
        # What a moment ago was told in the background is counted, too.
        time.sleep(1)
        lines = self._file.read_text().splitlines()
        new, self._read = lines[self._read :], len(lines)
        return sum(self._counts(line) for line in new)

    def _counts(self, line: str) -> bool:
        asked = line.partition("] ")[2]
        if " lua] " in line or not asked.startswith(('"EVAL', '"GET')):
            return False
        return not any(asked.split('" "')[1].encode().decode("unicode_escape") == usual for usual in self.USUAL)

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait()


def begun(running: Fleet, app: App, index: int, size_bytes: int, length: int) -> TusUpload:
    """Begin an upload at an instance, and bring so many bytes there."""
    ticket = Backend(running[index], app).ticket()
    upload = at(running, index, ticket, content(length))
    upload.upload_id = ticket["id"]
    with upload.connect() as wire:
        upload.create(wire)
        if size_bytes:
            upload.patch(wire, 0, upload.content.read(0, size_bytes))
    return upload


def redis_costs(folder: Path, app: App) -> None:
    """Commands and memory, for instances and uploads; then a drain."""
    with fleet(folder, settings={"registry.lease_s": 5, "durability": "acknowledgement"}) as running:
        time.sleep(6)
        running.redis.ask("CONFIG", "RESETSTAT")
        began_s = time.monotonic()
        time.sleep(20)
        passed_s = time.monotonic() - began_s
        found = stats(running.redis, "stats")
        told("Redis: renewals a second of an idle instance", f"{calls(running.redis)['eval'][0] / passed_s / 3:.2f}")
        traffic = int(found["total_net_input_bytes"]) + int(found["total_net_output_bytes"])
        told("Redis: traffic of an idle instance, bytes a second", f"{traffic / passed_s / 3:.0f}")
        monitor = Monitor(running.redis, folder / "monitor")
        monitor.since()
        tickets = [Backend(running[0], app).ticket() for _ in range(SOME)]
        told("Redis: commands for a ticket", f"{monitor.since() / SOME:.2f}")
        uploads = [at(running, 0, each, content(MiB)) for each in tickets]
        for upload in uploads:
            with upload.connect() as wire:
                upload.create(wire)
        told("Redis: commands for a creation", f"{monitor.since() / SOME:.2f}")
        sizes = [int(running.redis.ask("MEMORY", "USAGE", f"incoming:{{{each['id']}}}:owner")) for each in tickets]
        told("Redis: memory for an upload in use, bytes", f"{statistics.mean(sizes):.0f}")
        for upload in uploads:
            with upload.connect() as wire:
                for offset in range(0, MiB // 2, MiB // 16):
                    upload.patch(wire, offset, upload.content.read(offset, MiB // 16))
        told("Redis: commands for an append", f"{monitor.since() / SOME / 8:.2f}")
        for upload in uploads:
            go_to(upload, running, 1)
            with upload.connect() as wire:
                upload.head(wire)
        told("Redis: commands for a move on one volume", f"{monitor.since() / SOME:.2f}")
        for upload, ticket in zip(uploads, tickets, strict=True):
            upload.run(piece_bytes=MiB)
            app.check_arrived(ticket["id"], upload.content.sha256())
        running[1].wait_event("handover.ended", upload_id=tickets[-1]["id"])
        time.sleep(45)
        told("Redis: commands for completion, hand-over and end", f"{monitor.since() / SOME:.2f}")
        for _ in range(UPLOADS):
            begun(running, app, 0, 64 * KiB, MiB)
        monitor.since()
        before = cpu_s(running[0].pid)
        running.drain(running[0])
        spent_s = cpu_s(running[0].pid) - before
        told("drain, one volume: processor time for an upload, ms", f"{spent_s / UPLOADS * 1000:.2f}")
        told("Redis: commands for an upload that a drain parks", f"{monitor.since() / UPLOADS:.2f}")
        monitor.stop()


def instance_costs(folder: Path, app: App) -> None:
    """Processor time and memory in an instance."""
    settings: dict[str, object] = {"durability": "acknowledgement"}
    with fleet(folder, 2, settings=settings) as running:
        daemon = running[0]
        begun(running, app, 0, 4 * MiB, 8 * MiB)

        def spent_s(act: Callable[[], object]) -> float:
            before = cpu_s(daemon.pid)
            act()
            return cpu_s(daemon.pid) - before

        small = [content(4 * KiB) for _ in range(UPLOADS)]
        tickets = [Backend(daemon, app).ticket() for _ in small]

        def send_small() -> None:
            for file, ticket in zip(small, tickets, strict=True):
                at(running, 0, ticket, file).run(piece_bytes=MiB)
            for file, ticket in zip(small, tickets, strict=True):
                app.check_arrived(ticket["id"], file.sha256())

        told(
            "processor time of a whole upload of 4 KiB, without its ticket, ms",
            f"{spent_s(send_small) / UPLOADS * 1000:.1f}",
        )
        large = begun(running, app, 0, 0, 512 * MiB)
        told(
            "processor time for a GiB that comes in, HTTP, s",
            f"{spent_s(lambda: large.run(piece_bytes=64 * MiB)) * 2:.2f}",
        )
        before = pss_bytes(daemon.pid)
        for _ in range(4 * UPLOADS):
            begun(running, app, 0, KiB, MiB)
        told(
            "memory of an upload in use, between two requests, KiB",
            f"{(pss_bytes(daemon.pid) - before) / 4 / UPLOADS / KiB:.1f}",
        )


def pulls(folder: Path, app: App) -> None:
    """Time of moves, by durability, on one volume and between two."""
    for shared in (True, False):
        for durability in ("none", "completion", "acknowledgement"):
            name = f"{'shared' if shared else 'private'}-{durability}"
            with fleet(folder / name, 2, shared=shared, settings={"durability": durability}) as running:
                upload = begun(running, app, 0, MiB, 64 * MiB)
                times_s = []
                spent = cpu_s(running[0].pid) + cpu_s(running[1].pid)
                for number in range(MOVES):
                    go_to(upload, running, (number + 1) % 2)
                    with upload.connect() as wire:
                        began_s = time.perf_counter()
                        offset = upload.head(wire).offset
                        times_s.append(time.perf_counter() - began_s)
                        upload.patch(wire, offset, upload.content.read(offset, 4 * KiB))
                spent = cpu_s(running[0].pid) + cpu_s(running[1].pid) - spent
                times_s.sort()
                told(
                    f"HEAD that moves an upload, {'one volume' if shared else 'two volumes'}, {durability}, ms",
                    f"median {statistics.median(times_s) * 1000:.1f}, worst {times_s[-1] * 1000:.1f};"
                    f" processor time of both {spent / MOVES * 1000:.1f}",
                )


def peer_traffic(folder: Path, app: App) -> None:
    """Bytes between instances for a move."""
    for shared in (True, False):
        made = Fleet(folder / str(shared), 2, shared=shared)
        host, _, port = str(made[0].settings["peer.address"]).rpartition(":")
        with Link((host, int(port))) as link:
            made[0].settings["peer.advertised_address"] = f"{link.address[0]}:{link.address[1]}"
            made.start()
            try:
                counted_before = link.upstream_bytes
                for _ in range(MOVES):
                    upload = begun(made, app, 0, 16 * KiB, MiB)
                    go_to(upload, made, 1)
                    with upload.connect() as wire:
                        upload.head(wire)
                    if not shared:
                        made[1].wait_event("upload.backfilled", upload_id=upload.upload_id)
                        made[0].wait_event("upload.released", upload_id=upload.upload_id)
                told(
                    f"bytes that are asked of the former owner for a move, {'one volume' if shared else 'two volumes'}",
                    f"{(link.upstream_bytes - counted_before) / MOVES:.0f}",
                )
            finally:
                made.stop()


def balancer_costs(folder: Path, app: App) -> None:
    """Processor time of HAProxy."""
    with (
        fleet(folder, 2) as running,
        HAProxy(folder / "balancer", [instance_of(each) for each in running.instances]) as balancer,
    ):
        balancer.start()
        assert balancer.process is not None
        pid = balancer.process.pid
        upload = begun(running, app, 0, 0, 512 * MiB)
        upload.url = upload.url.replace(running[0].public_url, balancer.plain_url)
        before = cpu_s(pid)
        upload.run(piece_bytes=64 * MiB)
        told("processor time of HAProxy for a GiB, HTTP/1.1 without TLS, s", f"{(cpu_s(pid) - before) * 2:.2f}")
        idle = begun(running, app, 0, KiB, MiB)
        idle.url = idle.url.replace(running[0].public_url, balancer.plain_url)
        before = cpu_s(pid)
        with idle.connect() as wire:
            for _ in range(2000):
                idle.head(wire)
        told("processor time of HAProxy for a request on a kept connection, ms", f"{(cpu_s(pid) - before) / 2:.3f}")


def main() -> None:
    """Measure all, or what the arguments name."""
    parts = {each.__name__: each for each in (redis_costs, instance_costs, pulls, peer_traffic, balancer_costs)}
    with running_app() as app, tempfile.TemporaryDirectory() as folder:
        for name in sys.argv[1:] or parts:
            parts[name](Path(folder) / name, app)


if __name__ == "__main__":
    main()
