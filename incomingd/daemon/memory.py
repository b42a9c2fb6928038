"""Gives memory back that a burst has left behind, and spares the garbage collector what stays.

When hundreds of clients come at once, the first bytes of each are in memory
until a thread has written them. Small things that stay are made meanwhile and
lie between them, so the C library keeps what was freed: 60 KiB for each
connection of a burst, for as long as those small things live. Asked to, it
gives back every page in which nothing is left.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from incomingd.clock import Clock

INTERVAL_S: Final = 2.0
IDLE_CPU_S: Final = 0.02
"""Who has done so little since the last time has left nothing behind."""

GARBAGE_OBJECTS: Final = 5000
"""So many more objects have to be there before the collector looks at them: requests that end leave none behind that
only it could find, so that nearly all it would see are those under way."""


def spare_the_collector() -> None:
    """Have the garbage collector leave alone what there is now, and look less often at what comes."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_OBJECTS, *gc.get_threshold()[1:])


def trimmer() -> Callable[[], None] | None:
    """Return what gives unused pages back to the system; None where the C library does not offer it (glibc does)."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return None
    trim.argtypes = [ctypes.c_size_t]
    trim.restype = ctypes.c_int

    def give_back() -> None:
        trim(0)

    return give_back


async def keep_trim(clock: Clock) -> None:
    """Give back what is not used, every now and then while something is done; in a thread, until cancelled."""
    give_back = trimmer()
    if give_back is None:
        return
    used_s = time.process_time()
    while True:
        await clock.sleep(INTERVAL_S)
        if time.process_time() - used_s > IDLE_CPU_S:
            await asyncio.to_thread(give_back)
            used_s = time.process_time()
