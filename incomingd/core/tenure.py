"""Who owns an upload: instances, tenures, claims.

A tenure is one unbroken stretch of one instance owning one upload. It begins
by a claim; its epoch is the number of that claim. Claim e+1 is made only by
one who saw e as the last, so tenures form one chain that cannot fork.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True, slots=True)
class Identity:
    """One run of one instance."""

    name: str
    start_id: str
    """Random, made anew at every start of the process, never stored by it."""
    address: str = ""
    """Where peers reach it; empty for an instance without a peer listener."""


def same_run(one: Identity | None, other: Identity | None) -> bool:
    """Return whether both name the same run of the same instance; addresses may be told differently."""
    if one is None or other is None:
        return one is other
    return (one.name, one.start_id) == (other.name, other.start_id)


class ClaimKind(Enum):
    """What a claim begins."""

    PULL = "pull"
    ANEW = "anew"
    COMPLETE = "complete"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Claim:
    """The beginning of a tenure; created exclusively, never changed."""

    epoch: int
    owner: Identity
    create_id: str
    """Random: a create whose answer was lost is settled by reading it back."""
    volume_id: str
    """Where this tenure writes."""
    kind: ClaimKind
    question: str = ""
    """Of a claim that gives the upload to an instance on another volume: the random id of the question it answers."""

    def __post_init__(self) -> None:
        assert self.epoch >= 1, self.epoch
