"""Bringing the bytes of a long append to the disk while it goes on.

Whoever parks an upload, completes it or answers with durable bytes waits for
what is not on the disk yet. Without this that is all that one request has
brought: gigabytes, and so seconds, for a fast client that sends a file in one.
And a sender that is faster than the disk would fill the memory with bytes that
wait for it, until the kernel makes every writer wait.
"""

from __future__ import annotations

from typing import Final

from incomingd.storage.directory import syscalls

STEP_BYTES: Final = 8 * 1024 * 1024
"""So many are begun to be written at once, while more arrive."""
AHEAD_BYTES: Final = 64 * 1024 * 1024
"""So many may have arrived since; then the writer waits for the disk."""


class WriteBack:
    """Follows one open file's writer; all of it blocks, in the writer's thread."""

    def __init__(self, fd: int, start: int) -> None:
        self._fd = fd
        self._begun = start
        self._written = start
        self._offered = True
        self.failure: OSError | None = None
        """The kernel tells of bytes that it could not write once; it told this one here."""

    def follow(self, size: int) -> None:
        """See to it that of a file of *size* bytes, all but the last few are on their way."""
        while self._offered and self.failure is None and size - self._begun >= STEP_BYTES:
            try:
                self._offered = syscalls.begin_writing(self._fd, self._begun, STEP_BYTES)
                self._begun += STEP_BYTES
                if self._offered and self._begun - self._written > AHEAD_BYTES:
                    self._offered = syscalls.wait_written(self._fd, self._written, STEP_BYTES)
                    self._written += STEP_BYTES
            except OSError as error:
                self.failure = error
