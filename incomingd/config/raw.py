"""What a source says, before it is checked: for each key the text and where it stands."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass, field

from incomingd.config.errors import Problem
from incomingd.config.keys import groups, keys


@dataclass(frozen=True, slots=True)
class Raw:
    """A value as it was written, and its source in words (`FILE:LINE`, `option --hold_s`)."""

    value: str | list[str]
    source: str


@dataclass(slots=True)
class Reading:
    """All that one source says, and what is wrong with it."""

    values: dict[str, Raw] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    @classmethod
    def failed(cls, problem: Problem) -> "Reading":
        """Make the reading of a source that cannot be read at all."""
        return cls({}, [problem])


def unknown_key(name: str, source: str, spell: Callable[[str], str] = str) -> Problem:
    """Say that a key does not exist, and which is near. `spell` writes a key as this source does."""
    if name in groups():
        first = next(key for key in keys() if key.startswith(f"{name}."))
        return Problem("unknown_key", source, name, f"{name} is a group of keys", f"keys such as {spell(first)}")
    nearest = _nearest_keys(name)
    if nearest:
        return Problem("unknown_key", source, name, f"there is no key {name}", nearest=" or ".join(map(spell, nearest)))
    parent = name.rpartition(".")[0]
    if parent in groups():
        others = ", ".join(key.rpartition(".")[2] for key in keys() if key.rpartition(".")[0] == parent)
        return Problem("unknown_key", source, name, f"there is no key {name}", f"one of {parent}: {others}")
    tops = ", ".join(dict.fromkeys(key.partition(".")[0] for key in keys()))
    return Problem("unknown_key", source, name, f"there is no key {name}", tops)


def _nearest_keys(name: str) -> list[str]:
    """Find the keys that were probably meant.

    A key whose group is missing or a wrong one (`open_creation`, `limits.timeout_s`) is found by its last part. That
    is not tried where there is no such group at all: `peer.address` is no slip of the pen for `public.address`.
    """
    wanted = name.lower().replace("-", "_")
    near = difflib.get_close_matches(wanted, keys(), n=1, cutoff=0.75)
    if near:
        return near
    group, _, leaf = wanted.rpartition(".")
    if group and group.rpartition(".")[2] not in {known.rpartition(".")[2] for known in groups()}:
        return []
    leaves: dict[str, list[str]] = {}
    for key in keys():
        leaves.setdefault(key.rpartition(".")[2], []).append(key)
    found = difflib.get_close_matches(leaf, leaves, n=1, cutoff=0.8)
    return leaves[found[0]] if found else []
