"""What is wrong with a configuration, said so that a person can put it right."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_WIDTH: Final = 100


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in the configuration.

    `code` is stable: `unknown_key`, `bad_value`, `duplicate_key`, `conflict`, `bad_file`, `bad_option`;
    among warnings `doubtful`.
    `source` says where it stands: `FILE:LINE`, `environment variable NAME`, `option --NAME`, or the name of a file.
    `key` is the key in question (empty where none is), `message` what is wrong, `expected` what would be right and
    `nearest` the key that was probably meant; the latter two may be empty.
    """

    code: str
    source: str
    key: str
    message: str
    expected: str = ""
    nearest: str = ""

    def __str__(self) -> str:
        lines = [f"{self.source}: {self.message}"]
        if self.expected:
            lines.append(f"    expected: {self.expected}")
        if self.nearest:
            lines.append(f"    did you mean: {self.nearest}")
        return "\n".join(lines)


class ConfigError(Exception):
    """The configuration cannot be used. `problems` has all that was found; `str()` is the text for people."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        assert problems
        self.problems = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        count = len(self.problems)
        head = "the configuration has a mistake:" if count == 1 else f"the configuration has {count} mistakes:"
        lines = [part for problem in self.problems for line in str(problem).splitlines() for part in _wrapped(line)]
        return "\n".join([head, "", *lines, ""])


def _wrapped(line: str) -> list[str]:
    """Indent a line, and break it where it is too long for most terminals; what follows is indented further."""
    text = line.lstrip()
    indent = " " * (2 + len(line) - len(text))
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=indent,
        subsequent_indent=f"{indent}    ",
        break_long_words=False,
        break_on_hyphens=False,
    )
