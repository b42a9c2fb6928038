"""Tests that measure how long others wait have the machine to themselves, also where several processes run tests.

What else runs is other tests: one that fills a disk makes each `fsync` of a fleet wait, and that is no fault.
The locks are on folders of the checkout: there is nothing to clear away.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

_HAS_TURN = "TESTS_HAVE_TURN"
_RUNNING = Path(__file__).parent
"""Held by every test while it runs."""
_WAITING = Path(__file__).parents[1]
"""Held by a test that waits to be alone, and for a moment by others before they begin: so it does not wait in vain."""


@contextlib.contextmanager
def _locked(folder: Path, how: int) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, how)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def turn(*, alone: bool) -> Iterator[None]:
    """Wait until a test may run beside those that do; a test that a test runs has that one's turn."""
    if _HAS_TURN in os.environ:
        yield
        return
    os.environ[_HAS_TURN] = "1"
    try:
        with _turn(alone=alone):
            yield
    finally:
        del os.environ[_HAS_TURN]


@contextlib.contextmanager
def _turn(*, alone: bool) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        with _locked(_WAITING, fcntl.LOCK_EX):
            stack.enter_context(_locked(_RUNNING, fcntl.LOCK_EX if alone else fcntl.LOCK_SH))
        yield
