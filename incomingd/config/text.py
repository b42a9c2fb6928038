"""Settings as text: what a person reads and what the YAML file can hold."""

from typing import Any

import yaml
from pydantic_core import to_jsonable_python

from incomingd.config.declaring import DAY_S, HOUR_S, MINUTE_S
from incomingd.config.keys import Key, keys, value_of
from incomingd.config.redis_url import MASK, RegistryUrl
from incomingd.config.settings import Settings


def dump(settings: Settings) -> dict[str, str]:
    """Give every key's value as text in one line that the YAML file could hold; secrets are masked."""
    tree = settings.model_dump(mode="json")
    return {
        key.name: _secret(_leaf(tree, key)) if key.secret else yaml_text(_leaf(tree, key)) for key in keys().values()
    }


def hides(settings: Settings, key: Key) -> bool:
    """Whether the key's text, as :func:`dump` gives it, lacks a secret that its value has."""
    value = value_of(settings, key.name)
    return bool(value.secrets) if isinstance(value, RegistryUrl) else key.secret and bool(value)


def yaml_text(value: object) -> str:
    """Write one value as it stands in the YAML file behind its key."""
    if value is None or value == []:
        return "none"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = yaml.safe_dump(to_jsonable_python(value), default_flow_style=True, width=10_000, allow_unicode=True)
    return text.removesuffix("...\n").strip()


def duration_text(seconds: float) -> str:
    """Say a long duration in words (`3 days`); empty where the number says it as well."""
    for unit, unit_s in (("day", DAY_S), ("hour", HOUR_S), ("minute", MINUTE_S)):
        if seconds >= unit_s and seconds % unit_s == 0:
            count = int(seconds // unit_s)
            return f"{count} {unit}" if count == 1 else f"{count} {unit}s"
    return ""


def _leaf(tree: dict[str, Any], key: Key) -> object:
    value: Any = tree
    for part in key.name.split("."):
        value = value[part]
    return value


def _secret(value: object) -> str:
    if not value:
        return "none"
    return "[" + ", ".join([MASK] * len(value)) + "]" if isinstance(value, list) else MASK
