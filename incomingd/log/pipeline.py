"""Configuring the log: where events go, how they look, what is left out; libraries' own logs go the same way."""

import atexit
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, Protocol, TextIO

import structlog

from incomingd.log import events
from incomingd.log.logger import get_logger, set_strict
from incomingd.log.redact import TRACEBACK_CHARS_MAX, Redactor
from incomingd.log.render import ConsoleRenderer, render_json
from incomingd.log.writer import LineWriter

_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
# Fields whose text libraries write, addresses of clients included.
_FREE_TEXT: Final = ("message", "detail", "reason")
_CLOSE_TIMEOUT_S: Final = 1.0


class LogSettings(Protocol):
    """The part of the configuration that the log needs; `incomingd.config` has it as its group `log`."""

    @property
    def level(self) -> str:
        """`debug`, `info`, `warning` or `error`."""

    @property
    def format(self) -> str:
        """`json`, `console`, or `auto`: console on a terminal."""

    @property
    def client_address(self) -> str:
        """`full`, `masked` or `none`."""


class _Pipeline:
    """What an event goes through, from the call to the line."""

    def __init__(self, settings: LogSettings, instance: str, stream: TextIO, hidden: Iterable[str]) -> None:
        self.stream = stream
        self.least = _LEVELS[settings.level]
        self._instance = instance
        self._render: Callable[[Mapping[str, object]], str] = render_json
        self._redactor = Redactor(settings.client_address, hidden)
        terminal = stream.isatty()
        if settings.format == "console" or (settings.format == "auto" and terminal):
            colours = terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
            self._render = ConsoleRenderer(colours=colours)
        self.writer: LineWriter

    def process(self, _logger: object, level: str, event_dict: MutableMapping[str, Any]) -> str:
        """Make the line of an event. It is structlog's only processor, so that nothing gets past the redaction."""
        if _LEVELS[level] < self.least:
            raise structlog.DropEvent
        fields = structlog.contextvars.merge_contextvars(None, level, event_dict)
        return self.line(level, str(fields.pop("event")), fields)

    def line(self, level: str, event: str, fields: MutableMapping[str, Any]) -> str:
        exception = _traceback(fields.pop("exc_info", None))
        for name in _FREE_TEXT:
            if isinstance(fields.get(name), str):
                fields[name] = self._redactor.free_text(fields[name])
        line: dict[str, object] = {
            "ts": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": level,
            "event": event if event in events.CATALOGUE else self._redactor.text(event),
            "instance": self._instance,
            **{name: value for name, value in self._redactor.clean(fields).items() if name not in _RESERVED},
        }
        if exception:
            line["exception"] = self._redactor.free_text(exception, TRACEBACK_CHARS_MAX)
        return self._render(line)


_RESERVED: Final = frozenset({"ts", "level", "event", "instance", "exception"})
_TRACEBACK_FRAMES_MAX: Final = 40

_active: _Pipeline | None = None
_undo: list[tuple[object, str, object]] = []


def configure(
    settings: LogSettings,
    *,
    instance: str,
    stream: TextIO | None = None,
    hidden: Iterable[str] = (),
    strict: bool | None = None,
) -> None:
    """Begin to log, or, called again, go on with other settings (a reload): loggers that exist already follow.

    `instance` stands in every line. `stream` is standard error where none is given. `hidden` are secrets that are
    masked wherever they occur, as the backend's tokens. `strict`: see `logger.set_strict`; None leaves it as it is.
    """
    global _active  # noqa: PLW0603 - a process has one log
    pipeline = _Pipeline(settings, instance, stream or sys.stderr, hidden)
    if _active is not None and _active.stream is pipeline.stream:
        pipeline.writer = _active.writer
    else:
        shutdown()
        pipeline.writer = LineWriter(pipeline.stream, _say_dropped)
        _take_over_standard_library()
        atexit.register(shutdown)
    _active = pipeline
    if strict is not None:
        set_strict(strict)
    # No level filter of structlog's and no cached loggers: what is configured now counts for loggers that were made
    # before.
    structlog.configure(processors=[_process], logger_factory=_Output, cache_logger_on_first_use=False)
    # tornado.general tells at `info` what its parser refused; of other libraries only warnings are of interest.
    debug = settings.level == "debug"
    logging.getLogger().setLevel(logging.INFO if debug else logging.WARNING)
    logging.getLogger("tornado.general").setLevel(logging.INFO)


def flush(timeout_s: float = _CLOSE_TIMEOUT_S) -> bool:
    """Wait until what was logged so far is written. Returns whether it is."""
    return _active is None or _active.writer.flush(timeout_s)


def shutdown(timeout_s: float = _CLOSE_TIMEOUT_S) -> bool:
    """Write what is left, for at most so long, and put everything back as it was. Returns whether all was written."""
    global _active  # noqa: PLW0603 - as in `configure`
    if _active is None:
        return True
    for holder, name, value in reversed(_undo):
        setattr(holder, name, value)
    _undo.clear()
    logging.captureWarnings(capture=False)
    logging.getLogger().removeHandler(_handler)
    atexit.unregister(shutdown)
    structlog.reset_defaults()
    written = _active.writer.close(timeout_s)
    _active = None
    return written


class _Output:
    """Where structlog puts finished lines."""

    def __init__(self, *_arguments: object) -> None:
        pass

    def debug(self, line: str) -> None:
        if _active is not None:
            _active.writer.write(line)

    info = warning = error = debug


def _process(logger: object, level: str, event_dict: MutableMapping[str, Any]) -> str:
    if _active is None:
        raise structlog.DropEvent
    return _active.process(logger, level, event_dict)


def _say_dropped(count: int) -> str:
    assert _active is not None
    return _active.line("error", events.LOG_LINES_DROPPED, {"dropped": count})


def _traceback(exc_info: object) -> str:
    """Give the traceback, without locals, of what logging calls take as `exc_info`: True, an exception, a triple."""
    if exc_info is True:
        exc_info = sys.exc_info()
    error = exc_info[1] if isinstance(exc_info, tuple) else exc_info
    if not isinstance(error, BaseException):
        return ""
    # The last frames say where it happened; endless recursion would fill the log.
    return "".join(traceback.format_exception(error, limit=-_TRACEBACK_FRAMES_MAX)).rstrip()


# --------------------------------------------------------------------------------------------- what others log or raise


class _StandardLibraryHandler(logging.Handler):
    """Brings what libraries log into the same lines."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._emit(record)
        except Exception:  # noqa: BLE001 - the rule of logging: a handler reports its own failure and never raises
            self.handleError(record)

    def _emit(self, record: logging.LogRecord) -> None:
        arguments = record.args if isinstance(record.args, tuple) else ()
        if (
            record.name == "tornado.general"
            and record.msg.startswith("Malformed HTTP message from")
            and len(arguments) == 2
        ):
            get_logger().info(events.PARSE_REFUSED, address=str(arguments[0]), detail=str(arguments[1]))
            return
        if record.name == "tornado.general" and record.msg.startswith("Unsatisfiable read"):
            get_logger().info(events.PARSE_REFUSED, detail=record.getMessage())
            return
        level = next((name for name, number in reversed(_LEVELS.items()) if record.levelno >= number), "debug")
        method = getattr(get_logger(), level)
        method(events.LIBRARY_LOGGED, library=record.name, message=record.getMessage(), exc_info=record.exc_info)


_handler: Final = _StandardLibraryHandler()


def _take_over_standard_library() -> None:
    root, general, access = (logging.getLogger(name) for name in (None, "tornado.general", "tornado.access"))
    _undo.extend((logger, "level", logger.level) for logger in (root, general))
    # Answers are logged by what they did (append.ended, request.refused), not a second time by their status.
    _replace(access, "disabled", value=True)
    root.addHandler(_handler)
    logging.captureWarnings(capture=True)
    _replace(sys, "excepthook", value=_exception_hook)
    _replace(threading, "excepthook", value=_thread_hook)


def _replace(holder: object, name: str, *, value: object) -> None:
    _undo.append((holder, name, getattr(holder, name)))
    setattr(holder, name, value)


def _exception_hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    get_logger().error(events.DAEMON_CRASHED, reason=kind.__name__, exc_info=(kind, error, trace))
    flush()


def _thread_hook(arguments: threading.ExceptHookArgs) -> None:
    if arguments.exc_value is not None and not issubclass(arguments.exc_type, SystemExit):
        name = arguments.thread.name if arguments.thread else "unknown"
        get_logger().error(
            events.DAEMON_CRASHED,
            reason=f"{arguments.exc_type.__name__} in thread {name}",
            exc_info=arguments.exc_value,
        )
