"""How an event looks: a JSON object a line for collectors, aligned text for people.

Either way one event is one line. Only a traceback on a terminal takes more, each line of it marked, so that no value
that a client sent can pass for an event.
"""

import json
from collections.abc import Mapping
from typing import Final

from structlog import dev

# Made once: `json.dumps` with arguments makes one for every line.
_JSON: Final = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"), default=str)
_EVENT_WIDTH: Final = 24
_LEVEL_STYLES: Final = {"debug": dev.DIM, "info": dev.GREEN, "warning": dev.YELLOW, "error": dev.RED + dev.BRIGHT}


def render_json(fields: Mapping[str, object]) -> str:
    """Write an event as one line of JSON in ASCII, so that whatever a value holds, the line stays one."""
    return _JSON.encode(fields)


class ConsoleRenderer:
    """Writes an event for a person: the time of day in UTC, level, event, then the fields."""

    def __init__(self, *, colours: bool) -> None:
        dim, bold, cyan, reset = (dev.DIM, dev.BRIGHT, dev.CYAN, dev.RESET_ALL) if colours else ("", "", "", "")
        self._render = dev.ConsoleRenderer(
            sort_keys=False,
            columns=[
                dev.Column("ts", dev.KeyValueColumnFormatter(None, dim, reset, _time_of_day)),
                dev.Column("level", _LevelColumn(colours=colours)),
                dev.Column("event", dev.KeyValueColumnFormatter(None, bold, reset, printable, width=_EVENT_WIDTH)),
                dev.Column("", dev.KeyValueColumnFormatter(cyan, "", reset, _shown)),
            ],
        )
        self._bar = f"    {dim}│{reset} "

    def __call__(self, fields: Mapping[str, object]) -> str:
        """Write one event; without colours it is plain text."""
        # One terminal shows one instance: its name in every line would only push the rest to the right, as would what
        # has no value in this case.
        shown = {
            printable(name): value
            for name, value in fields.items()
            if name not in {"instance", "exception"} and value is not None
        }
        line = self._render(None, "", shown)
        traceback = fields.get("exception")
        if isinstance(traceback, str):
            line += "".join(f"\n{self._bar}{printable(part)}" for part in traceback.splitlines())
        return line


class _LevelColumn:
    def __init__(self, *, colours: bool) -> None:
        self._colours = colours

    def __call__(self, key: str, value: object) -> str:  # noqa: ARG002 - the interface of structlog's columns
        level = str(value)
        padded = level.ljust(len("warning"))
        return f"{_LEVEL_STYLES.get(level, '')}{padded}{dev.RESET_ALL}" if self._colours else padded


def printable(value: object) -> str:
    """Escape what does not print: control characters, line ends of every kind, marks that turn text around."""
    text = str(value)
    return text if text.isprintable() else "".join(char if char.isprintable() else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def _time_of_day(value: object) -> str:
    return str(value).partition("T")[2].removesuffix("Z") or str(value)


def _shown(value: object) -> str:
    if isinstance(value, str):
        # Quotes only where the text would not stand out as one value.
        plain = printable(value)
        return plain if plain and not set(plain) & set(" \"'=") else "'" + plain.replace("'", "\\'") + "'"
    return printable(json.dumps(value, ensure_ascii=False, default=str))
