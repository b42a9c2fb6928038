"""Putting the sources together: defaults < file < environment < command line."""

import grp
import ssl
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from incomingd.config.commandline import parse
from incomingd.config.conflicts import conflicts, doubts
from incomingd.config.environment import read_environment
from incomingd.config.errors import ConfigError, Problem
from incomingd.config.keys import Key, keys, value_of
from incomingd.config.listeners import Tls
from incomingd.config.raw import Raw, Reading
from incomingd.config.secret_files import read_secrets
from incomingd.config.settings import Settings
from incomingd.config.values import none_word, parse_optional, parse_path
from incomingd.config.yaml_file import read_file

DEFAULT_FILE: Final = Path("/etc/incomingd/incomingd.yaml")
_SHOWN_CHARS_MAX: Final = 60
_STAND_IN_URL: Final = "http://stand-in.invalid"
# What pydantic calls a mistake, in words; what is not here has a sentence of its own kind.
_MISTAKES: Final = {
    "bool_parsing": "is neither true nor false",
    "float_parsing": "is not a number",
    "int_parsing": "is not a whole number",
    "literal_error": "is not among the choices",
    "finite_number": "is not a finite number",
    "greater_than_equal": "is too low",
    "less_than_equal": "is too high",
}


@dataclass(frozen=True, slots=True)
class Loaded:
    """The effective settings and where they came from.

    `config_file` is the file that was read, None without one. `warnings` are things that work and yet are probably
    not meant.
    """

    settings: Settings
    config_file: Path | None
    warnings: tuple[Problem, ...]
    origins: Mapping[str, str]

    def origin_of(self, key: str) -> str:
        """Say where the value of a key comes from: `FILE:LINE`, `environment variable …`, `option …` or `default`.

        Raises KeyError for what is no key.
        """
        found = keys()[key]
        if key in self.origins:
            return self.origins[key]
        if key.startswith("admin.tls.") and value_of(self.settings, key) is not None:
            return "default: the same as backend.tls"
        return f"default: {found.default_text}" if found.default_text else "default"


def load(argv: Sequence[str], environ: Mapping[str, str], *, default_file: Path = DEFAULT_FILE) -> Loaded:
    """Read and check the whole configuration. `argv` is without the program's name.

    The same call again is a reload. Raises ConfigError with everything that is wrong, SystemExit for `--help`.
    """
    line = parse(argv)
    config_file = line.config or (default_file if _is_there(default_file) else None)
    sources = [_state_directory(environ)]
    if config_file is not None:
        sources.append(read_file(config_file))
    sources += [read_environment(environ), line.reading]
    problems = [problem for source in sources for problem in source.problems]
    values = _settle(sources, problems)
    settings, wrong = _validate(values, problems)
    problems += _checks(settings, values, wrong)
    if problems:
        raise ConfigError(sorted(problems, key=_place))
    origins = {name: raw.source for name, raw in values.items()}
    return Loaded(settings, config_file, tuple(doubts(settings, origins, config_file)), origins)


def _place(problem: Problem) -> tuple[int, int]:
    """Order mistakes as one puts them right: the file from top to bottom, the environment, options, what follows."""
    kind, _, name = problem.source.partition(" ")
    if kind in {"environment", "option", "command", "default"} and (name or kind == "default"):
        return ("environment", "command", "option", "default").index(kind) + 1, 0
    line = problem.source.rpartition(":")[2]
    return 0, int(line) if line.isdigit() else 0


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return True  # it cannot even be looked at: then reading it says why, better than to go on without it


def _state_directory(environ: Mapping[str, str]) -> Reading:
    # systemd gives a list with colons where a unit has several state directories; the first is ours.
    path = environ.get("STATE_DIRECTORY", "").partition(":")[0]
    return Reading({"data_dir": Raw(path, "default: $STATE_DIRECTORY")} if path else {})


def _settle(sources: Sequence[Reading], problems: list[Problem]) -> dict[str, Raw]:
    """Let later sources win, key by key; a secret and its file count as one key."""
    values: dict[str, Raw] = {}
    secrets = [key.name for key in keys().values() if key.secret]
    for source in sources:
        for secret in secrets:
            _settle_twins(secret, source, values, problems)
        values.update(source.values)
    for secret in secrets:
        _follow_twin(secret, values, problems)
    return values


def _settle_twins(secret: str, source: Reading, values: dict[str, Raw], problems: list[Problem]) -> None:
    """Let a source that says one of a secret and its file silence what weaker sources say of the other."""
    twin = f"{secret}_file"
    here = [name for name in (secret, twin) if name in source.values]
    # With both, `none` in one only says again that it is the other that counts, as what `--print-config` prints does.
    set_here = [name for name in here if none_word(source.values[name].value) is not None]
    if len(set_here) > 1:
        message = f"{secret} and {twin} are both set; only one can be"
        problems.append(Problem("conflict", source.values[twin].source, twin, message))
    elif here:
        values.pop(secret, None)
        values.pop(twin, None)
        if set_here == [twin]:
            source.values.pop(secret, None)


def _follow_twin(secret: str, values: dict[str, Raw], problems: list[Problem]) -> None:
    twin = values.get(f"{secret}_file")
    if twin is None or secret in values:
        return
    try:
        path = parse_optional(twin.value, parse_path)
        if path is not None:
            values[secret] = Raw(read_secrets(path), f"{path} ({twin.source})")
    except ValueError as error:
        problems.append(Problem("bad_file", twin.source, f"{secret}_file", f"{secret}_file is wrong: {error}"))


def _validate(values: Mapping[str, Raw], problems: list[Problem]) -> tuple[Settings, frozenset[str]]:
    """Make the settings; a wrong value is reported and left out, so that the others can still be checked together.

    Returns the settings, and the keys whose values were wrong.
    """
    left = dict(values)
    wrong: set[str] = set()
    while True:
        try:
            return Settings.model_validate(_nested(left)), frozenset(wrong)
        except ValidationError as error:
            # A default that would be made from a wrong value is no mistake of its own.
            bad = {
                _key_at(details["loc"]): details
                for details in reversed(error.errors(include_url=False))
                if details["type"] != "default_factory_not_called"
            }
            problems += (_problem(keys()[name], bad[name], values.get(name)) for name in keys() if name in bad)
            wrong.update(bad)
            # What is bad and was never set is the base URL that a Unix socket does not give: another stands in for it.
            stand_in = {name: Raw(_STAND_IN_URL, "") for name in bad if name not in left}
            left = {name: raw for name, raw in left.items() if name not in wrong} | stand_in


def _nested(values: Mapping[str, Raw]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, raw in values.items():
        *path, leaf = name.split(".")
        group = tree
        for part in path:
            group = group.setdefault(part, {})
        group[leaf] = raw.value
    return tree


def _key_at(location: tuple[int | str, ...]) -> str:
    name = ""
    for part in location:
        name = f"{name}.{part}".lstrip(".")
        if name in keys():
            return name
    raise AssertionError(location)  # sources let known keys through only


def _problem(key: Key, details: ErrorDetails, raw: Raw | None) -> Problem:
    source = raw.source if raw else "default"
    cause = details.get("ctx", {}).get("error")
    if isinstance(cause, ValueError):
        message = f"{key.name} is wrong: {cause}"
    elif raw is None or isinstance(raw.value, list):
        message = f"{key.name} is a list, where one value is expected"
    else:
        message = f"{key.name} = {_shown(raw.value)} {_MISTAKES.get(details['type'], 'cannot be read')}"
    return Problem("bad_value", source, key.name, message, key.expects)


def _shown(text: str) -> str:
    return ascii(text) if len(text) <= _SHOWN_CHARS_MAX else ascii(text[:_SHOWN_CHARS_MAX]) + "…"


def _checks(settings: Settings, values: Mapping[str, Raw], wrong: frozenset[str]) -> Iterator[Problem]:
    """Check what goes beyond single values; where a wrong value has a part in it, say nothing."""
    for about, message in conflicts(settings):
        if not wrong.intersection(about):
            blamed = next((name for name in about if name in values), about[0])
            yield Problem("conflict", values[blamed].source if blamed in values else "default", blamed, message)
    for name in ("public", "backend", "admin", "peer"):
        tls: Tls = getattr(settings, name).tls
        cert, key = f"{name}.tls.cert", f"{name}.tls.key"
        if tls.cert and tls.key and cert in values and key in values:
            problem = _tls_problem(tls.cert, tls.key)
            if problem:
                yield Problem("bad_file", values[cert].source, cert, f"the certificate of {name} is wrong: {problem}")
    if settings.peer.tls.ca is not None and (problem := _ca_problem(settings.peer.tls.ca)):
        yield Problem("bad_file", values["peer.tls.ca"].source, "peer.tls.ca", f"peer.tls.ca is wrong: {problem}")
    if settings.files.group is not None:
        try:
            grp.getgrnam(settings.files.group)
        except KeyError:
            raw = values["files.group"]
            yield Problem(
                "bad_value",
                raw.source,
                "files.group",
                f"files.group is wrong: there is no group {settings.files.group!r} on this machine",
            )


def _ca_problem(path: Path) -> str:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError:
        return f"{path} holds no certificate in PEM"
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    return ""


def _tls_problem(cert: Path, key: Path) -> str:
    for path in (cert, key):
        try:
            path.open("rb").close()
        except OSError as error:
            return f"{path} cannot be read: {error.strerror}"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # Without a password function OpenSSL would ask on the terminal for the pass phrase.
        context.load_cert_chain(cert, key, password=lambda: "")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            return f"{key} is not the key of {cert}"
        return (
            f"{cert} and {key} are no PEM certificate with its key, without a pass phrase ({error.reason or 'no PEM'})"
        )
    return ""
