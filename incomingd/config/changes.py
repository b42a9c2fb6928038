"""What differs between two configurations, and what of it a running daemon can take over."""

from dataclasses import dataclass
from typing import TypeVar

from incomingd.config.declaring import Group
from incomingd.config.keys import Key, keys, value_of
from incomingd.config.settings import Settings
from incomingd.config.text import dump

G = TypeVar("G", bound=Group)


@dataclass(frozen=True, slots=True)
class Change:
    """One key whose value differs. `old` and `new` are texts that a person may see: secrets are masked."""

    key: str
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.key}: {self.old} -> {self.new}"


@dataclass(frozen=True, slots=True)
class Changes:
    """`applied`: what changes while the daemon runs. `needs_restart`: what cannot, and stays as it was until then."""

    applied: tuple[Change, ...]
    needs_restart: tuple[Change, ...]


def changes(old: Settings, new: Settings) -> Changes:
    """Compare two configurations, in the order of the keys."""
    differing = [key for key in keys().values() if value_of(old, key.name) != value_of(new, key.name)]
    before, after = dump(old), dump(new)
    found = [(key, Change(key.name, before[key.name], after[key.name])) for key in differing]
    return Changes(
        applied=tuple(change for key, change in found if _can_change(key, old, new)),
        needs_restart=tuple(change for key, change in found if not _can_change(key, old, new)),
    )


def reloaded(old: Settings, new: Settings) -> Settings:
    """Give the settings that are in force after a reload: the new ones, but for the keys that need a restart."""
    kept = frozenset(change.key for change in changes(old, new).needs_restart)
    return _keep(old, new, kept, "")


def _keep(old: G, new: G, kept: frozenset[str], prefix: str) -> G:
    update: dict[str, object] = {}
    for name in type(new).model_fields:
        before, after = getattr(old, name), getattr(new, name)
        if isinstance(after, Group):
            update[name] = _keep(before, after, kept, f"{prefix}{name}.")
        elif prefix + name in kept:
            update[name] = before
    return new.model_copy(update=update)


def _can_change(key: Key, old: Settings, new: Settings) -> bool:
    group, _, leaf = key.name.rpartition(".")
    if group.endswith(".tls") and leaf in {"cert", "key"}:
        # A listener gets another certificate while it runs, but does not turn from HTTP to HTTPS or back.
        return value_of(old, key.name) is not None and value_of(new, key.name) is not None
    if key.name in {"peer.keys", "peer.keys_file"}:
        # Nor does the listener of other instances come or go.
        return bool(old.peer.keys and new.peer.keys)
    return key.reloadable
