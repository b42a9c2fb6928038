"""How a byte travels from a socket to a file without standing in this program's memory.

::

    client ──> socket ──splice──> pipe ──splice──> page cache of the segment's file ──> disk
               (kernel)          (kernel)          (kernel; begun behind the writer, `writeback`)

1. The event loop waits until the socket has bytes (`incomingd.web.body`, which
   keeps every limit of a body), and hands a :class:`~incomingd.storage.body.Source`
   down: a descriptor of its own of that socket, and how many bytes are the body's.
2. One thread of a few takes a *turn*: into a pipe, and out of it into the file,
   until the socket is empty, the body is over or cut, or the turn is used up,
   so that others get theirs. It never waits for the network, since the socket
   does not block; it may wait for the disk, which the event loop never does.
3. Back on the loop the segment is that much longer, the body is told what was
   taken, and it all begins anew.

No step has a cost for each byte but the kernel's one copy into the page cache.

Where somebody looks at the bytes (a digest, a checksum), each step is read back
once it is in the file, in small pieces, while the processor's cache holds it.
That costs half of what it takes to have the bytes from the socket and write
them: the kernel writes a step of a megabyte in large pages, and one copy of it
is read, not two. A turn that is looked at takes several times as long, so those
have a :class:`Splicer` of their own: whoever needs no digest never waits for one.

What can go wrong, and what holds then:

* A pipe that still holds bytes would give them to the *next* upload. So a pipe
  goes back for others only when all that went in has come out, and each turn
  ends with an empty pipe or a closed one.
* A request that is cancelled leaves its turn to the thread: descriptors are the
  turn's own (the socket's) or are closed behind it (the file's).
* A full disk: what fitted is counted to the byte; what was in the pipe is lost
  with it, and so is the request, whose sender hears the offset.
* ``splice`` refuses files opened with ``O_APPEND``: segments are not, and each
  byte's place is given.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import sys
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from incomingd.storage.body import SourceState
from incomingd.storage.directory.files import PartialWriteError

if TYPE_CHECKING:
    from incomingd.storage.body import Source
    from incomingd.storage.volume import See

TURN_BYTES: Final = 8 * 1024 * 1024
"""At the most so many are moved before others have their turn."""
STEP_BYTES: Final = 1024 * 1024
"""At the most so many are in a pipe."""
LOOK_BYTES: Final = 64 * 1024
"""So many at once are read back for who looks at them."""
POLL_S: Final = 0.02
"""So long a thread waits for more from a sender that is fast: cheaper by far than to come back for it ..."""
POLL_BUSY_S: Final = 0.002
"""... and so long while others wait for a thread."""
NICENESS: Final = 10
"""Of the threads, above the process's own: one that waits for the processor weighs a tenth of the event loop."""
FAST_BYTES: Final = 256 * 1024
"""From such a one so many come at once. For a slow one no thread waits at all."""
_PIPE_SIZES: Final = (1024 * 1024, 256 * 1024)
"""Of a pipe, the first that the kernel allows; else what it gives by itself."""


def offered() -> bool:
    """Whether this platform can do it."""
    return sys.platform == "linux" and hasattr(os, "splice")


class Pipe:
    """A pipe of this process's own, both ends."""

    def __init__(self) -> None:
        self.out, self.into = os.pipe()
        for size in _PIPE_SIZES:
            # Refused above pipe-max-size, or where the user's pipes have too many pages already.
            with contextlib.suppress(PermissionError):
                fcntl.fcntl(self.into, fcntl.F_SETPIPE_SZ, size)
                break

    def close(self) -> None:
        """Give it up, with what may be in it."""
        os.close(self.into)
        os.close(self.out)


def step_back() -> None:
    """Let the event loop go first: for threads that have much to do.

    A loop that has a question to answer would stand in a row with them, with a
    turn of megabytes before its own. Linux has a niceness for each thread.
    """
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + NICENESS)


class Splicer:
    """Threads and pipes of one volume, which all its appends share; *name* is that of the threads."""

    def __init__(self, threads: int, name: str = "splice") -> None:
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix=name, initializer=step_back)
        self._idle: list[Pipe] = []
        self._waiting: deque[None] = deque()
        """One for each turn that waits for a thread; a deque needs no lock."""

    @property
    def pipes_idle(self) -> int:
        """How many pipes wait for a turn; never more than there are threads."""
        return len(self._idle)

    def close(self) -> None:
        """Wait for what is under way, then let go of everything."""
        self.pool.shutdown()
        while self._idle:
            self._idle.pop().close()

    def turn(self, source: Source, fd: int, at: int, most: int, see: See | None = None) -> int:
        """Move up to *most* bytes from *source* into the file; return how many. For a thread.

        What was taken from the source, and why the turn has ended, stands in
        it afterwards; its descriptor is closed. All that is written is shown to *see*.

        Raises:
            PartialWriteError: the file took fewer than came; the others are lost.
        """
        self._waiting.pop()
        try:
            pipe = self._idle.pop() if self._idle else Pipe()
        except IndexError:
            # Another thread was quicker.
            pipe = Pipe()
        except OSError as error:
            source.close()
            raise PartialWriteError(0, error) from error
        try:
            written = self._move(source, pipe, fd, at, min(most, TURN_BYTES), see)
        except BaseException:
            pipe.close()
            raise
        finally:
            source.close()
        self._idle.append(pipe)
        return written

    def want(self) -> None:
        """Say that a turn is asked for; it waits where all threads are busy."""
        self._waiting.append(None)

    def _more_comes(self, fd: int) -> bool:
        """Return whether more is there within a moment."""
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        wait_s = POLL_BUSY_S if self._waiting else POLL_S
        return bool(poll.poll(wait_s * 1000))

    def _move(self, source: Source, pipe: Pipe, fd: int, at: int, most: int, see: See | None) -> int:
        buffer = None if see is None else memoryview(bytearray(min(most, LOOK_BYTES)))
        done = seen = 0
        while done < most and not source.halted:
            try:
                came = os.splice(source.fd, pipe.into, min(most - done, STEP_BYTES))
            except BlockingIOError:
                if done - seen >= FAST_BYTES and self._more_comes(source.fd):
                    seen = done
                    continue
                source.state = SourceState.EMPTY
                break
            except OSError:
                # The connection is broken.
                source.state = SourceState.ENDED
                break
            if came == 0:
                source.state = SourceState.ENDED
                break
            source.taken += came
            begin, end = done, done + came
            try:
                while done < end:
                    done += os.splice(pipe.out, fd, end - done, offset_dst=at + done)
            except OSError as error:
                _show(fd, at, begin, done, see, buffer)
                raise PartialWriteError(done, error) from error
            _show(fd, at, begin, done, see, buffer)
        return done


def _show(fd: int, at: int, begin: int, end: int, see: See | None, buffer: memoryview | None) -> None:
    """Show what a turn has written from *begin* to *end*, behind *at* in the file.

    Raises:
        PartialWriteError: it cannot be read; what was not shown does not count.
    """
    if see is None or buffer is None:
        return
    while begin < end:
        try:
            came = os.preadv(fd, [buffer[: min(end - begin, LOOK_BYTES)]], at + begin)
        except OSError as error:
            raise PartialWriteError(begin, error) from error
        if came == 0:
            raise PartialWriteError(begin, OSError(errno.EIO, "what was written is not there"))
        see(buffer[:came])
        begin += came
