"""What tests of the log share."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from incomingd import log


@dataclass(frozen=True)
class LogSettings:
    """The settings of the log, as `incomingd.config` would give them."""

    level: str = "debug"
    format: str = "json"
    client_address: str = "full"


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class Logged:
    """What was logged so far."""

    def __init__(self, stream: io.StringIO) -> None:
        self.stream = stream

    @property
    def text(self) -> str:
        assert log.flush(10)
        return self.stream.getvalue()

    @property
    def events(self) -> list[dict[str, Any]]:
        """The lines as JSON."""
        return [json.loads(line) for line in self.text.splitlines()]


Configure = Callable[..., Logged]


@pytest.fixture
def configure() -> Iterator[Configure]:
    """Configure the log into a stream of the test's own: `configure(LogSettings(…), stream=…, hidden=…)`."""

    def to_stream(settings: LogSettings | None = None, stream: io.StringIO | None = None, **more: Any) -> Logged:
        stream = stream or io.StringIO()
        log.configure(settings or LogSettings(), instance="web1:4000", stream=stream, **more)
        return Logged(stream)

    yield to_stream
    log.shutdown()
    log.set_strict(False)
