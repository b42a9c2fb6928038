"""Memory that was freed between small things that stay goes back to the system."""

from __future__ import annotations

import subprocess
import sys

from tests.support.machine import ROOT

BURST = """
import asyncio
from incomingd.clock import SystemClock
from incomingd.daemon import memory

def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

async def main():
    trimming = asyncio.create_task(memory.keep_trim(SystemClock()))
    # First bytes of many clients, and what is made for each and stays.
    first, stays = [], []
    for _ in range(1000):
        first.append(bytearray(b"x") * 60_000)
        stays.append(bytearray(b"y") * 2_000)
    first.clear()
    freed = resident_bytes()
    while resident_bytes() > freed - 30_000_000:
        # Something is done meanwhile: who is idle is left alone.
        sum(range(100_000))
        await asyncio.sleep(0.01)
    trimming.cancel()

asyncio.run(asyncio.wait_for(main(), 30))
"""


def test_what_a_burst_left_behind_goes_back() -> None:
    """In a process of its own: what others have left in this one's heap would change it."""
    done = subprocess.run([sys.executable, "-c", BURST], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


LOADED = """
import sys
import incomingd.daemon.main
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def test_the_daemon_loads_nothing_that_only_its_command_line_needs() -> None:
    """Tables, colours and the client of Redis are megabytes, and a tenth of a second at each start."""
    done = subprocess.run([sys.executable, "-c", LOADED], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "structlog" in loaded
    assert not loaded & {"rich", "pygments", "click", "redis", "requests"}
