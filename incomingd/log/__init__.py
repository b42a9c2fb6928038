"""The log: structlog, JSON lines or text for people, a catalogue of events, and a net that keeps secrets out."""

from structlog.contextvars import bind_contextvars, bound_contextvars, clear_contextvars

from incomingd.log import events
from incomingd.log.logger import STRICT_VARIABLE, Logger, UncataloguedError, get_logger, set_strict
from incomingd.log.pipeline import LogSettings, configure, flush, shutdown

__all__ = [
    "STRICT_VARIABLE",
    "LogSettings",
    "Logger",
    "UncataloguedError",
    "bind_contextvars",
    "bound_contextvars",
    "clear_contextvars",
    "configure",
    "events",
    "flush",
    "get_logger",
    "set_strict",
    "shutdown",
]
