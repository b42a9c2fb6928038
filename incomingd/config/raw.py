"""What a source says, before it is checked: for each key the text and where it stands."""

import difflib
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


def nearest_key(name: str) -> str:
    """Find the key that was probably meant; empty where none is near.

    A misplaced key (`open_creation` without its group, `limits.timeout_s` of another group) is found by its last part.
    """
    wanted = name.lower().replace("-", "_")
    near = difflib.get_close_matches(wanted, keys(), n=1, cutoff=0.75)
    if near:
        return near[0]
    leaves: dict[str, list[str]] = {}
    for key in keys():
        leaves.setdefault(key.rpartition(".")[2], []).append(key)
    leaf = difflib.get_close_matches(wanted.rpartition(".")[2], leaves, n=1, cutoff=0.8)
    return " or ".join(leaves[leaf[0]]) if leaf else ""


def unknown_key(name: str, source: str) -> Problem:
    """Say that a key does not exist, and which is near."""
    if name in groups():
        return Problem("unknown_key", source, name, f"{name} is a group of keys, not a key")
    nearest = nearest_key(name)
    parent = name.rpartition(".")[0]
    if nearest or parent not in groups():
        return Problem("unknown_key", source, name, f"there is no key {name}", nearest=nearest)
    others = ", ".join(key.rpartition(".")[2] for key in keys() if key.rpartition(".")[0] == parent)
    return Problem("unknown_key", source, name, f"there is no key {name}", f"one of {parent}: {others}")
