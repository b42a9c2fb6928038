"""The command line of the daemon: `incomingd [OPTION…]`, every key an option."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NoReturn

from incomingd.config.errors import ConfigError, Problem
from incomingd.config.help import help_page
from incomingd.config.keys import keys
from incomingd.config.raw import Raw, Reading, unknown_key

_MISSING: Final = object()


@dataclass(frozen=True, slots=True)
class CommandLine:
    """What the command line says. `reading` has the options that are keys, and what is wrong with them."""

    config: Path | None = None
    check_config: bool = False
    print_config: bool = False
    version: bool = False
    reading: Reading = field(default_factory=Reading)


class _Parser(argparse.ArgumentParser):
    """Says mistakes the way all mistakes of the configuration are said, and prints a help page made for people."""

    def format_help(self) -> str:
        return help_page()

    def error(self, message: str) -> NoReturn:
        raise ConfigError([Problem("bad_option", "command line", "", message)])


def parse(argv: Sequence[str]) -> CommandLine:
    """Read the command line (without the program's name). `--help` prints and raises SystemExit(0).

    Mistakes stand in `reading`; ConfigError is raised only for what argparse itself gives up on (`--version=3`).
    """
    options, rest = _parser().parse_known_args(list(argv))
    reading = Reading(problems=list(_unknown(rest)))
    for name in ("config", *keys()):
        value, source = getattr(options, name), f"option --{name}"
        if value is _MISSING:
            expected = keys()[name].expects if name in keys() else "the name of a file"
            reading.problems.append(Problem("bad_option", source, name, "the value is missing", expected))
        elif value is not None and name in keys():
            reading.values[name] = Raw(value, source)
    return CommandLine(
        config=Path(options.config) if isinstance(options.config, str) else None,
        check_config=options.check_config,
        print_config=options.print_config,
        version=options.version,
        reading=reading,
    )


def _parser() -> _Parser:
    parser = _Parser(prog="incomingd", allow_abbrev=False)
    # An option without its value is one mistake of perhaps several; argparse alone would stop at it.
    parser.add_argument("--config", nargs="?", const=_MISSING)
    parser.add_argument("--check-config", action="store_true")
    parser.add_argument("--print-config", action="store_true")
    parser.add_argument("--version", action="store_true")
    for key in keys().values():
        parser.add_argument(key.option, dest=key.name, nargs="?", const=_MISSING)
    return parser


def _unknown(rest: Sequence[str]) -> list[Problem]:
    problems: list[Problem] = []
    after_option = False
    for argument in rest:
        if argument == "--":
            continue
        if argument.startswith("--"):
            option = argument.partition("=")[0]
            name = option.removeprefix("--")
            problems.append(unknown_key(name, f"option {option}", lambda key: f"--{key}"))
            after_option = "=" not in argument
        elif after_option:
            after_option = False  # the value of the unknown option
        else:
            problems.append(Problem("bad_option", "command line", "", f"{argument!r} is not an option"))
    return problems
