"""The ring: live instances, ranked for each upload by rendezvous hashing.

Every instance that knows the same live instances comes to the same ranking
without asking anybody. When one comes or goes, only the uploads change hands
that go to it or were with it; there is nothing to balance.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from hashlib import blake2b

from incomingd.core.formats import FORMAT
from incomingd.core.tenure import Identity


@dataclass(frozen=True, slots=True)
class Instance:
    """A run of an instance whose lease is running, and what it says of itself."""

    identity: Identity
    started_at: float = 0.0
    """Unix time in s by its own clock; of two runs under one name the later one counts."""
    volumes: frozenset[str] = frozenset()
    """Ids of the volumes that it reaches."""
    draining: bool = False
    """It gives its uploads away and takes none."""
    full: bool = False
    """It has no room for further bytes: it keeps and looks after what it has, and is given nothing."""
    format: int = FORMAT
    """The newest format of records, registry values and peer messages that it reads; it reads the one before it too."""
    version: str = ""
    """Of the program."""

    def takes(self) -> bool:
        """Whether it takes uploads at all."""
        return not (self.draining or self.full)


def ranked(upload_id: str, instances: Iterable[Instance]) -> tuple[Instance, ...]:
    """Return *instances*, the one first that the upload belongs to before all others.

    The ranking depends on names only, so that a restart moves nothing. Of several
    runs under one name (one of them is about to lapse) the latest stands for all.
    """
    latest: dict[str, Instance] = {}
    for instance in instances:
        known = latest.get(instance.identity.name)
        if known is None or _recency(known) < _recency(instance):
            latest[instance.identity.name] = instance
    beginning = blake2b(upload_id.encode(), digest_size=8)

    def score(instance: Instance) -> tuple[bytes, str]:
        drawn = beginning.copy()
        # No upload id and no name holds a zero byte, so no two pairs are the same bytes.
        drawn.update(b"\0" + instance.identity.name.encode())
        return drawn.digest(), instance.identity.name

    return tuple(sorted(latest.values(), key=score, reverse=True))


def _recency(instance: Instance) -> tuple[float, str]:
    return instance.started_at, instance.identity.start_id


def takers(
    upload_id: str, instances: Iterable[Instance], *, volume_id: str, without: Collection[Identity] = ()
) -> tuple[Instance, ...]:
    """Return who may be invited to take the upload over, best first.

    Those that reach its volume come before those that would have to copy its bytes.

    Args:
        upload_id: which upload.
        instances: those with live leases.
        volume_id: where the upload's bytes lie.
        without: those that are out of the question: the caller itself, whoever did not answer.
    """
    may = [each for each in ranked(upload_id, instances) if each.takes() and each.identity not in without]
    # Sorting keeps the ranking among equals.
    return tuple(sorted(may, key=lambda each: volume_id not in each.volumes))


def successor(
    upload_id: str, instances: Iterable[Instance], *, volume_id: str, without: Collection[Identity] = ()
) -> Instance | None:
    """Return who looks after the upload while nobody owns it; None: nobody who reaches its volume can.

    Full ones come last: where a volume is full, all who reach it are, and what is complete wants no more room.

    Args:
        upload_id: which upload.
        instances: those with live leases.
        volume_id: where the upload's bytes lie.
        without: those that are out of the question: whoever did not answer.
    """
    near = [
        each
        for each in ranked(upload_id, instances)
        if volume_id in each.volumes and not each.draining and each.identity not in without
    ]
    return min(near, key=lambda each: each.full, default=None)
