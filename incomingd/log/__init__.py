"""The log: structlog, JSON lines or text for people, a catalogue of events, and a net that keeps secrets out."""

from incomingd.log import lean  # noqa: F401, I001 -- before anything else loads structlog
from structlog.contextvars import bind_contextvars, bound_contextvars, clear_contextvars, unbind_contextvars

from incomingd.log import events
from incomingd.log.logger import STRICT_VARIABLE, Logger, UncataloguedError, get_logger, set_strict
from incomingd.log.pipeline import LogSettings, configure, flush, shutdown
from incomingd.log.sparing import Sparing

__all__ = [
    "STRICT_VARIABLE",
    "LogSettings",
    "Logger",
    "Sparing",
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
    "unbind_contextvars",
]
