"""Writing log lines from a thread of its own, so that a reader that does not read cannot stop the daemon.

Standard error is often a pipe. When its reader hangs, a plain write blocks, and with it the event loop and every
upload. So lines go into a bounded buffer, a thread writes them, and where the buffer is full lines are dropped and
counted: uploads are worth more than log lines. What was dropped is said in the log as soon as it flows again.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

BUFFER_BYTES_MAX: Final = 4 << 20
GATHER_S: Final = 0.02
"""So long lines are gathered: under load to wake a thread for each costs more than to make it."""


class Stream(Protocol):
    """Where lines are written: the part of a text file that is needed."""

    def write(self, text: str, /) -> object:
        """Take text; may wait for whoever reads."""

    def flush(self) -> object:
        """Let go of what is held back; may wait for whoever reads."""


class LineWriter:
    """Writes lines to a stream, in order, from a thread of its own.

    `say_dropped` makes the line that tells how many were dropped. The thread is a daemon thread: a stuck reader does
    not keep the process from ending.
    """

    def __init__(
        self, stream: Stream, say_dropped: Callable[[int], str], buffer_bytes_max: int = BUFFER_BYTES_MAX
    ) -> None:
        self._stream = stream
        self._say_dropped = say_dropped
        self._buffer_bytes_max = buffer_bytes_max
        self._changed = threading.Condition()
        # All below is guarded by _changed.
        self._lines: deque[str] = deque()
        self._bytes = 0
        self._dropped = 0  # since the last line that said so
        self._writing = False  # lines are taken from the buffer and not yet in the stream
        self._closed = False
        self._idle = False  # the thread waits until there is a line
        self._hurry = 0  # somebody waits until all is written
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def write(self, line: str) -> None:
        """Take a line, without its end, to be written; drop it where the buffer is full. Never waits for the stream."""
        with self._changed:
            if self._closed or self._bytes + len(line) > self._buffer_bytes_max:
                self._dropped += 1
                return
            self._lines.append(line)
            self._bytes += len(line)
            if self._idle:
                self._idle = False
                self._changed.notify_all()

    def flush(self, timeout_s: float) -> bool:
        """Wait until all lines taken so far are in the stream. Returns whether they are."""
        with self._changed:
            self._hurry += 1
            self._changed.notify_all()
            written = self._changed.wait_for(lambda: not self._lines and not self._writing, timeout_s)
            self._hurry -= 1
            return written

    def close(self, timeout_s: float) -> bool:
        """Write what is left, for at most so long, and end. Returns whether all was written."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(max(0.0, deadline - time.monotonic()))
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._lines or self._closed):
                    self._idle = True
                    self._changed.wait()
                self._idle = False
                self._changed.wait_for(lambda: self._closed or self._hurry, GATHER_S)
                if not self._lines:
                    return
                batch = list(self._lines)
                if self._dropped:
                    batch.append(self._say_dropped(self._dropped))
                    self._dropped = 0
                self._lines.clear()
                self._bytes = 0
                self._writing = True
            self._put("".join(f"{line}\n" for line in batch))
            with self._changed:
                self._writing = False
                self._changed.notify_all()

    def _put(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            # The reader is gone or the stream is closed: there is no place left where this could be said.
            pass
