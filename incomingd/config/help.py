"""What `incomingd --help` prints."""

import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Final

from incomingd.config.keys import Key, keys
from incomingd.config.reference import default_in_words, default_text, summary

_WIDTH_MAX: Final = 110
_WIDTH_MIN: Final = 60
# Where descriptions begin: beside nearly every option on a wide terminal, below the long ones on a narrow one.
_COLUMN_WIDE: Final = 44
_COLUMN_NARROW: Final = 32
_WIDE: Final = 96

_HEAD: Final = """\
Usage: incomingd [OPTION]...

Takes large uploads from browsers and hands the finished files over to web apps.
Without any option it is a complete service on one machine: browsers connect to port 4000,
web apps on this machine to port 4001, and files are kept in ./incoming-data.
"""

_COMMANDS: Final = (
    ("--config FILE", "Read this file. Without it /etc/incomingd/incomingd.yaml is read if it is there."),
    ("--check-config", "Say everything that is wrong with the configuration, and end."),
    ("--print-config", "Print every setting in force and where it came from, and end."),
    ("--version", "Print the version, and end."),
    ("--help", "Print this page, and end."),
)

_SETTINGS: Final = """\
Settings. Each option is also a key of the YAML file (--public.address: `public: {address: ...}`)
and an environment variable (INCOMING_PUBLIC__ADDRESS). Options beat the environment, which
beats the file. SIZE: bytes, or 512 KiB, 10 GiB. LIST: separated by commas. ADDRESS: host:port,
[v6]:port or unix:/path.
"""


def help_page() -> str:
    """Make the page, as wide as the terminal and no wider than reads well."""
    width = min(_WIDTH_MAX, max(_WIDTH_MIN, shutil.get_terminal_size((_WIDTH_MAX, 24)).columns))
    bold, plain = ("\033[1m", "\033[0m") if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else ("", "")
    parts = [_HEAD, "\n", *_rows(_COMMANDS, width), "\n", _SETTINGS]
    for section, members in groupby(keys().values(), key=lambda key: key.section):
        listed = list(members)
        heading = f"{section}: {summary(listed[0].groups[0])}" if section else "General:"
        parts += ["\n", *(f"{bold}{line}{plain}\n" for line in textwrap.wrap(heading, width))]
        parts += _rows([(f"{key.option} {key.metavar}", f"{key.what} [{_default(key)}]") for key in listed], width)
    return "".join(parts)


def _default(key: Key) -> str:
    words = default_in_words(key)
    if key.default_text:
        return words
    text = default_text(key).strip("'")
    return f"{text} = {words}" if words else text


def _rows(rows: Sequence[tuple[str, str]], width: int) -> Iterator[str]:
    column = _COLUMN_WIDE if width >= _WIDE else _COLUMN_NARROW
    for left, right in rows:
        lead = f"  {left}"
        if len(lead) > column - 2:
            yield f"{lead}\n"
            lead = ""
        for line in textwrap.wrap(right, width - column, break_long_words=False, break_on_hyphens=False):
            yield f"{lead:<{column}}{line}\n"
            lead = ""
