"""The reference that is made from the settings: the YAML file, the page and the JSON Schema."""

import textwrap
from collections.abc import Iterator
from functools import cache
from typing import Any, Final

import yaml

from incomingd.config.declaring import Group
from incomingd.config.keys import Key, keys
from incomingd.config.settings import Settings
from incomingd.config.text import dump, duration_text, yaml_text

_WIDTH: Final = 100

_YAML_HEAD: Final = """\
# yaml-language-server: $schema=incomingd.schema.json
#
# The configuration of incomingd: every key with its default, commented out. As delivered this file changes nothing.
# It is read from /etc/incomingd/incomingd.yaml, or from where `incomingd --config FILE` says.
#
# Every key can also be set by an environment variable (public.address: INCOMING_PUBLIC__ADDRESS) and by an option
# (--public.address). An option beats the environment, the environment beats this file.
#
# Sizes are numbers of bytes or texts such as 512 KiB, 10 GiB. Durations are numbers of seconds. Lists are YAML lists,
# or one text with commas. Relative paths count from the directory in which incomingd is started.
#
# `incomingd --check-config` says what is wrong with a configuration, `incomingd --print-config` what is in force and
# where it came from. A running daemon reads it again on SIGHUP.
"""

_PAGE_HEAD: Final = """\
# Configuration

<!-- Made from incomingd/config by `python -m incomingd.config --write`. Do not edit. -->

`incomingd` needs no configuration: without any it is a complete service on one machine. What can be set stands below.

A key is set in the YAML file, by an environment variable or by an option. An option beats the environment, the
environment beats the file, the file beats the default:

| where | how |
| --- | --- |
| file | `public: {address: "0.0.0.0:80"}` in `/etc/incomingd/incomingd.yaml`, or in the file that `--config FILE`
names |
| environment | `INCOMING_PUBLIC__ADDRESS=0.0.0.0:80`; an empty variable counts as not set |
| option | `--public.address 0.0.0.0:80` |

The text of a value means the same in all three. Sizes are numbers of bytes or texts such as `512 KiB` and `10 GiB`.
Durations are numbers of seconds. Lists are separated by commas (in the file they may also be YAML lists). Relative
paths count from the directory in which `incomingd` is started. `none` takes an optional value away.

A secret can be given by a file instead, in the key whose name ends in `_file`: one entry a line, lines that begin
with `#` do not count. Of the two keys the one from the stronger source counts.

* `incomingd --check-config` says everything that is wrong, with file and line.
* `incomingd --print-config` shows what is in force, and where each value came from.
* [`conf/incomingd.yaml`](../conf/incomingd.yaml) is this page as a file to start from;
  [`conf/incomingd.schema.json`](../conf/incomingd.schema.json) makes editors complete and check it.
* On SIGHUP a running daemon reads everything again. If anything is wrong, nothing changes, and the log has
  `config.reload_refused` with the text. What is in force at the next start only stays as it was until then, and
  `config.reloaded` names it.
"""


def reference_yaml() -> str:
    """Make conf/incomingd.yaml: every key, what it is, why one would change it, and its default, commented out."""
    return _YAML_HEAD + "".join(f"{line}\n" for line in _yaml_lines())


def reference_markdown() -> str:
    """Make docs/configuration.md."""
    return _PAGE_HEAD + "".join(f"{line}\n" for line in _page_lines())


def json_schema() -> dict[str, Any]:
    """Make conf/incomingd.schema.json (JSON Schema 2020-12), for editors."""
    schema = Settings.model_json_schema(mode="validation")
    definitions: dict[str, Any] = schema.pop("$defs")
    properties = _properties(Settings, definitions)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "incomingd configuration",
        "type": ["object", "null"],
        "additionalProperties": False,
        "properties": properties,
    }


def default_text(key: Key) -> str:
    """Write a key's default as it stands in the YAML file; for one that depends on something, what it is as a rule."""
    default = key.field.default
    return yaml_text(default) if isinstance(default, str) else _defaults()[key.name]


@cache
def _defaults() -> dict[str, str]:
    return dump(Settings())


def default_in_words(key: Key) -> str:
    """Say what the default depends on, or how long it is; empty where the value says it all."""
    default = key.field.default
    if key.default_text:
        return key.default_text
    return duration_text(default) if key.unit == "s" and isinstance(default, int | float) else ""


def summary(group: type[Group]) -> str:
    """Give the sentences that say what a group is for."""
    text = (group.__doc__ or "").strip()
    return " ".join(text.split())


def _new_groups(key: Key, before: tuple[str, ...]) -> Iterator[tuple[int, str, type[Group]]]:
    names = key.name.split(".")[:-1]
    for depth, (name, group) in enumerate(zip(names, key.groups, strict=True)):
        if tuple(names[: depth + 1]) != before[: depth + 1]:
            yield depth, name, group


def _yaml_lines() -> Iterator[str]:
    before: tuple[str, ...] = ()
    for key in keys().values():
        for depth, name, group in _new_groups(key, before):
            indent = "  " * depth
            if depth == 0:
                yield ""
                yield ""
            else:
                yield ""
            yield from _comment(summary(group), indent)
            yield f"{indent}{name}:"
        before = tuple(key.name.split(".")[:-1])
        indent = "  " * len(before)
        yield ""
        yield from _comment(key.what, indent)
        yield from _comment(f"Why change it: {key.why}", indent)
        yield from _comment(f"Takes {_takes(key)}. {_in_force(key)}.", indent)
        words = default_in_words(key)
        if words:
            yield from _comment(f"Default: {words}.", indent)
        yield f"{indent}#{key.name.rpartition('.')[2]}: {default_text(key)}"


def _takes(key: Key) -> str:
    return f"{key.expects} ({key.unit})" if key.unit == "bytes/s" else key.expects


def _in_force(key: Key) -> str:
    return "In force after a reload" if key.reloadable else "In force at the next start"


def _comment(text: str, indent: str) -> Iterator[str]:
    lead = f"{indent}# "
    yield from textwrap.wrap(
        text, _WIDTH, initial_indent=lead, subsequent_indent=lead, break_long_words=False, break_on_hyphens=False
    )


def _page_lines() -> Iterator[str]:
    before = ""
    first = next(iter(keys().values()))
    for key in keys().values():
        if key.section != before or key is first:
            yield ""
            yield f"## `{key.section}`" if key.section else "## General"
            yield ""
            yield summary(key.groups[0]) if key.groups else "Keys that stand alone."
        before = key.section
        words = default_in_words(key)
        yield ""
        yield f"### `{key.name}`"
        yield ""
        yield key.what
        yield ""
        yield f"Why change it: {key.why}"
        yield ""
        yield f"* Takes {_takes(key)}"
        yield f"* Default: `{default_text(key)}`{f' ({words})' if words else ''}"
        yield f"* {_in_force(key)}"


def _properties(group: type[Group], definitions: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    definition = definitions.get(group.__name__) or Settings.model_json_schema()
    properties: dict[str, Any] = {}
    for name, field in group.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Group):
            properties[name] = {
                "description": summary(kind),
                "type": ["object", "null"],
                "additionalProperties": False,
                "properties": _properties(kind, definitions, f"{prefix}{name}."),
            }
        else:
            properties[name] = _property(keys()[prefix + name], definition["properties"][name])
    return properties


def _property(key: Key, made: dict[str, Any]) -> dict[str, Any]:
    kept = {word: value for word, value in made.items() if not word.startswith("x-") and word != "title"}
    # The default as the YAML file says it: that of the code may be made from other things when the daemon starts.
    kept["default"] = yaml.safe_load(default_text(key))
    return {**kept, "description": f"{key.what} {key.why} Takes {key.expects}."}
