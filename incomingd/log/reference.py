"""The page about log events, made from the catalogue."""

from collections.abc import Iterator
from itertools import groupby
from typing import Final

from incomingd.log.events import CATALOGUE, COMMON_FIELDS, Event

_HEAD: Final = """\
# Log events

<!-- Made from incomingd/log/events.py by `python -m incomingd.log --write`. Do not edit. -->

The log goes to standard error: a JSON object a line, or text for people where standard error is a terminal
(`log.format`). Every line has

| field | meaning |
| --- | --- |
| `ts` | When, in UTC, with milliseconds (RFC 3339). |
| `level` | `debug`, `info`, `warning` or `error`. |
| `event` | What happened: one of the names below. |
| `instance` | This instance's name (key `instance`); left out on a terminal, like fields that are null. |

and the fields of its event. Fields that mean nothing in a case are null or left out. For one append or one callback
there is one line that says all about it: `append.ended`, `handover.attempted`. These may stand in any line:

| field | meaning |
| --- | --- |
"""

_TAIL: Final = """
## What a line never holds

Secrets and tokens are masked (`***`), whether they are the value of a field, part of a text or of a traceback;
tracebacks show no values of variables. Clients' addresses are shown as `log.client_address` says. Control characters
are escaped, so that one event is one line; only on a terminal a traceback takes several, each marked with a bar. Long
texts are cut, and say so.

## When the log is not read

Lines are written by a thread of their own. When whoever reads standard error hangs, up to 4 MiB of lines wait; what
comes after that is dropped and counted, and `log.lines_dropped` says how many as soon as lines can be written again.
Uploads never wait for the log.
"""


def reference_markdown() -> str:
    """Make docs/log-events.md."""
    common = "".join(f"| `{name}` | {field.meaning} |\n" for name, field in COMMON_FIELDS.items())
    return _HEAD + common + "".join(f"{line}\n" for line in _events()) + _TAIL


def _events() -> Iterator[str]:
    for subject, events in groupby(CATALOGUE.values(), key=lambda event: event.partition(".")[0]):
        yield ""
        yield f"## {subject}"
        for event in events:
            yield from _event(event)


def _event(event: Event) -> Iterator[str]:
    yield ""
    yield f"### `{event}`"
    yield ""
    yield f"{event.meaning} Level: {' or '.join(f'`{level}`' for level in event.levels)}."
    if event.fields:
        yield ""
        yield "| field | meaning |"
        yield "| --- | --- |"
        for name, field in event.fields.items():
            yield f"| `{name}` | {field.meaning} |"
