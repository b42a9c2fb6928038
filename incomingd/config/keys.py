"""The keys of the configuration as a table: what loading, help, reference and schema walk over."""

import types
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, cast, get_args, get_origin

from annotated_types import Ge, Le
from pydantic.fields import FieldInfo

from incomingd.config.declaring import Group
from incomingd.config.kinds import Expects
from incomingd.config.settings import Settings
from incomingd.config.values import format_size


@dataclass(frozen=True, slots=True)
class Key:
    """One key. `name` is dotted (`public.tls.cert`), `groups` are the classes of its groups, outermost first."""

    name: str
    groups: tuple[type[Group], ...]
    field: FieldInfo

    @property
    def what(self) -> str:
        """What it is, in one or two sentences."""
        return self.field.description or ""

    @property
    def why(self) -> str:
        """Why one would change it."""
        return str(self._extra["x-why"])

    @property
    def unit(self) -> str:
        """The unit of its value, as `s` or `bytes`; empty where it has none."""
        return str(self._extra["x-unit"])

    @property
    def reloadable(self) -> bool:
        """Whether a reload applies a change of it."""
        return bool(self._extra["x-reload"])

    @property
    def secret(self) -> bool:
        """Whether its value is never shown."""
        return bool(self._extra["x-secret"])

    @property
    def optional(self) -> bool:
        """Whether `none` is a value of it."""
        return types.NoneType in get_args(self.field.annotation)

    @property
    def default_text(self) -> str:
        """The default in words where it depends on something, else empty."""
        return str(self._extra["x-default"])

    @property
    def section(self) -> str:
        """The outermost group's name; empty for a key that stands alone."""
        return self.name.partition(".")[0] if self.groups else ""

    @property
    def environment_variable(self) -> str:
        """The variable that sets it."""
        return "INCOMING_" + self.name.replace(".", "__").upper()

    @property
    def option(self) -> str:
        """The option that sets it."""
        return f"--{self.name}"

    @property
    def metavar(self) -> str:
        """What stands for the value in `--help`."""
        choices = _choices(self.field.annotation)
        return "|".join(choices) if choices else self._expects.metavar

    @property
    def expects(self) -> str:
        """What a person is told to write, with the bounds."""
        choices = _choices(self.field.annotation)
        if choices:
            return f"{', '.join(choices[:-1])} or {choices[-1]}"
        text = self._expects.text
        low = next((item.ge for item in self.field.metadata if isinstance(item, Ge)), None)
        high = next((item.le for item in self.field.metadata if isinstance(item, Le)), None)
        if low is None or high is None or self.metavar == "MODE":
            return text
        head, separator, tail = text.partition(";")
        return f"{head}, from {self._bound(low)} to {self._bound(high)}{separator}{tail}"

    def _bound(self, bound: object) -> str:
        return format_size(cast("int", bound)) if self.metavar == "SIZE" else str(bound)

    @property
    def _expects(self) -> Expects:
        return next(item for item in self.field.metadata if isinstance(item, Expects))

    @property
    def _extra(self) -> dict[str, Any]:
        return cast("dict[str, Any]", self.field.json_schema_extra)


def _choices(annotation: object) -> tuple[str, ...]:
    return get_args(annotation) if get_origin(annotation) is Literal else ()


@cache
def keys() -> types.MappingProxyType[str, Key]:
    """Give every key by its dotted name, in the order of declaration."""
    return types.MappingProxyType({key.name: key for key in _walk(Settings, "", ())})


@cache
def groups() -> types.MappingProxyType[str, type[Group]]:
    """Give every group by its dotted name (`public`, `public.tls`)."""
    found: dict[str, type[Group]] = {}
    for key in keys().values():
        parts = key.name.split(".")
        for depth, group in enumerate(key.groups, start=1):
            found[".".join(parts[:depth])] = group
    return types.MappingProxyType(found)


def _walk(group: type[Group], prefix: str, around: tuple[type[Group], ...]) -> Iterator[Key]:
    for name, field in group.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Group):
            yield from _walk(kind, f"{prefix}{name}.", (*around, kind))
        else:
            yield Key(prefix + name, around, field)


def value_of(settings: Settings, name: str) -> object:
    """Give the effective value of a key."""
    value: object = settings
    for part in name.split("."):
        value = getattr(value, part)
    return value
