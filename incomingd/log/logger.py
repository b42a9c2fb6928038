"""The logger that the rest of the program uses: structlog's, held to the catalogue."""

import os
from collections.abc import Iterable
from typing import Any, Final, cast

import structlog
from structlog.contextvars import get_contextvars

from incomingd.log.events import CATALOGUE, COMMON_FIELDS, Level

# For the project's own tests: a daemon that they start is as strict as they are.
STRICT_VARIABLE: Final = "INCOMINGD_STRICT_LOG"

_strict = bool(os.environ.get(STRICT_VARIABLE))


class UncataloguedError(AssertionError):
    """Code logs an event, a level of it or a field that the catalogue does not know. Raised in strict mode only."""


def set_strict(strict: bool) -> None:  # noqa: FBT001 - it is the whole of it
    """Let loggers refuse what the catalogue does not know, or let it pass."""
    global _strict  # noqa: PLW0603 - a mode of the process, set once at its start or by its tests
    _strict = strict


class Logger(structlog.BoundLoggerBase):
    """Logs events of the catalogue, with their fields as keyword arguments: `log.info(events.SWEEP_ENDED, expired=3)`.

    In strict mode an event, level or field that is not catalogued raises UncataloguedError; otherwise it is logged as
    it is.
    """

    def debug(self, event: str, **fields: object) -> None:
        """Log what only somebody who follows a single problem wants."""
        self._log("debug", event, fields)

    def info(self, event: str, **fields: object) -> None:
        """Log what happened."""
        self._log("info", event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """Log what an operator should look at some time."""
        self._log("warning", event, fields)

    def error(self, event: str, **fields: object) -> None:
        """Log what an operator should look at now."""
        self._log("error", event, fields)

    def exception(self, event: str, **fields: object) -> None:
        """Log an error with the traceback of the exception that is being handled."""
        self._log("error", event, {"exc_info": True, **fields})

    def bind(self, **fields: object) -> "Logger":
        """Give a logger that adds these fields to every event."""
        return super().bind(**fields)

    def _log(self, level: Level, event: str, fields: dict[str, Any]) -> None:
        if _strict:
            check(level, event, {*self._context, *get_contextvars(), *fields} - {"exc_info"})
        self._proxy_to_logger(level, str(event), **fields)


def check(level: str, name: str, fields: Iterable[str]) -> None:
    """Raise UncataloguedError unless the catalogue has this event with this level and these fields."""
    event = CATALOGUE.get(name)
    if event is None:
        msg = f"{name} is not in the catalogue of events"
        raise UncataloguedError(msg)
    if level not in event.levels:
        msg = f"{name} is catalogued as {' or '.join(event.levels)}, not {level}"
        raise UncataloguedError(msg)
    unknown = set(fields) - COMMON_FIELDS.keys() - set(event.fields)
    if unknown:
        msg = f"{name} is not catalogued with the fields {', '.join(sorted(unknown))}"
        raise UncataloguedError(msg)


def get_logger() -> Logger:
    """Give a logger. It may be taken before `configure`: what is configured counts when it logs."""
    return cast("Logger", structlog.wrap_logger(None, wrapper_class=Logger))
