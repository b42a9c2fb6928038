"""What the code under test logs: strict against the catalogue, and nothing that warns unless the test says so."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog
from structlog.testing import LogCapture
from structlog.typing import EventDict

from incomingd.log import logger


class Logged:
    """The events of one test."""

    def __init__(self) -> None:
        self.capture = LogCapture()
        self.expected: set[str] = set()

    @property
    def entries(self) -> list[EventDict]:
        return list(self.capture.entries)

    def names(self) -> list[str]:
        return [str(entry["event"]) for entry in self.capture.entries]

    def of(self, name: str) -> list[EventDict]:
        return [entry for entry in self.capture.entries if entry["event"] == name]

    def expect(self, *names: str) -> None:
        """Take warnings and errors of these names for granted."""
        self.expected.update(names)


@pytest.fixture(autouse=True)
def logged() -> Iterator[Logged]:
    """The events of this test; a warning or an error that was not expected fails it."""
    logged = Logged()
    structlog.configure(processors=[logged.capture])
    logger.set_strict(True)
    yield logged
    logger.set_strict(False)
    loud = [
        entry
        for entry in logged.entries
        if entry["log_level"] in ("warning", "error") and entry["event"] not in logged.expected
    ]
    assert not loud, loud
