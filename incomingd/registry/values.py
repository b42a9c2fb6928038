"""What the registry's values look like: JSON with a format version in each.

The fields ``format``, ``name``, ``start_id``, ``epoch`` and ``upload_id`` keep their names and
places in every format, for the store's single steps read them without knowing
it. All others belong to a format (:mod:`incomingd.core.formats`).
Fields that a program does not know it ignores: nothing is ever written back as read.

In format 1 an instance tells the newest format that it reads, in ``reads``, and
an empty address where it has none; in format 2 all formats that it reads, in
``formats``, and ``null`` for no address.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar

from incomingd.core.formats import PRESENT, Known
from incomingd.core.ids import is_upload_id
from incomingd.core.ring import Instance
from incomingd.core.tenure import Identity
from incomingd.registry.registry import Invitation, Ownership

T = TypeVar("T")
Fields: TypeAlias = dict[str, Any]


class UnreadableValueError(Exception):
    """A value that is damaged, or of a format that this program does not read."""


@dataclass(frozen=True, slots=True)
class Format:
    """How one format says what the fixed fields do not."""

    write_instance: Callable[[Instance], Fields]
    read_instance: Callable[[Identity, Fields], Instance]
    """Gets an identity without an address."""
    write_identity: Callable[[Identity], Fields]
    read_identity: Callable[[Identity, Fields], Identity]
    """Gets an identity without an address."""


def _write_instance_1(instance: Instance) -> Fields:
    return {
        "address": instance.identity.address,
        "started_at": instance.started_at,
        "volumes": sorted(instance.volumes),
        "draining": instance.draining,
        "full": instance.full,
        "reads": instance.format,
        "version": instance.version,
    }


def _read_instance_1(identity: Identity, fields: Fields) -> Instance:
    return Instance(
        identity=_read_identity_1(identity, fields),
        started_at=float(_a(int | float, fields["started_at"])),
        volumes=frozenset(_a(str, volume) for volume in _a(list, fields["volumes"])),
        draining=_a(bool, fields["draining"]),
        full=_a(bool, fields["full"]),
        format=_a(int, fields["reads"]),
        version=_a(str, fields["version"]),
    )


def _write_identity_1(identity: Identity) -> Fields:
    return {"address": identity.address}


def _read_identity_1(identity: Identity, fields: Fields) -> Identity:
    return Identity(identity.name, identity.start_id, _a(str, fields["address"]))


def _write_instance_2(instance: Instance) -> Fields:
    fields = _write_instance_1(instance) | _write_identity_2(instance.identity)
    newest = fields.pop("reads")
    return fields | {"formats": [each for each in (newest - 1, newest) if each > 0]}


def _read_instance_2(identity: Identity, fields: Fields) -> Instance:
    formats = [_a(int, each) for each in _a(list, fields["formats"])]
    former = {"reads": max(formats), "address": _read_identity_2(identity, fields).address}
    return _read_instance_1(identity, fields | former)


def _write_identity_2(identity: Identity) -> Fields:
    return {"address": identity.address or None}


def _read_identity_2(identity: Identity, fields: Fields) -> Identity:
    address = fields["address"]
    if address == "":
        raise ValueError("an empty address")
    return identity if address is None else Identity(identity.name, identity.start_id, _a(str, address))


def _a(kind: Any, value: Any) -> Any:
    # JSON's `true` is an int for Python, but for nobody else.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{value!r} is not what it should be")
    return value


FORMATS: Final[Mapping[int, Format]] = {
    1: Format(_write_instance_1, _read_instance_1, _write_identity_1, _read_identity_1),
    2: Format(_write_instance_2, _read_instance_2, _write_identity_2, _read_identity_2),
}


@dataclass(frozen=True, slots=True)
class Formats:
    """Reads and writes the values in the formats that a program knows."""

    known: Known = PRESENT

    def spoken(self, instances: tuple[Instance, ...], *, settled: bool) -> int:
        """Return the format to write in; see :meth:`incomingd.core.formats.Known.spoken`."""
        return self.known.spoken(instances, settled=settled)

    # -- to JSON

    def instance(self, instance: Instance, version: int) -> bytes:
        """Return what an instance says of itself as JSON of format *version*."""
        return _json(version, instance.identity, FORMATS[version].write_instance(instance))

    def ownership(self, owner: Identity, epoch: int, version: int) -> bytes:
        """Return who owns an upload as JSON of format *version*."""
        return _json(version, owner, {"epoch": epoch} | FORMATS[version].write_identity(owner))

    def invitation(self, invitation: Invitation, version: int) -> bytes:
        """Return an invitation, without the upload's id, as JSON of format *version*."""
        return self.ownership(invitation.by, invitation.epoch, version)

    def key(self, by: Identity, upload_id: str, version: int) -> bytes:
        """Return where a web app's key leads to, and who has said so, as JSON of format *version*: the same in both."""
        return _json(version, by, {"upload_id": upload_id})

    # -- from JSON; UnreadableValueError where it is none of a known format

    def read_instance(self, value: bytes) -> Instance:
        """Return what an instance says of itself."""
        return self._read(value, lambda known, identity, fields: known.read_instance(identity, fields))

    def read_ownership(self, value: bytes) -> Ownership:
        """Return who owns an upload."""

        def read(known: Format, identity: Identity, fields: Fields) -> Ownership:
            epoch = _a(int, fields["epoch"])
            if epoch < 0:
                raise ValueError("a negative epoch")
            return known.read_identity(identity, fields), epoch

        return self._read(value, read)

    def read_invitation(self, upload_id: str, value: bytes) -> Invitation:
        """Return an invitation."""
        by, epoch = self.read_ownership(value)
        return Invitation(upload_id, epoch, by)

    def read_key(self, value: bytes) -> str:
        """Return the id of the upload that a web app's key leads to."""

        def read(_: Format, __: Identity, fields: Fields) -> str:
            upload_id: str = _a(str, fields["upload_id"])
            if not is_upload_id(upload_id):
                raise ValueError("no upload's id")
            return upload_id

        return self._read(value, read)

    def _read(self, value: bytes, read: Callable[[Format, Identity, Fields], T]) -> T:
        try:
            fields = _a(dict, json.loads(value))
            version = _a(int, fields["format"])
            found = read(FORMATS[version], _fixed(fields), fields) if version in self.known else None
        except (ValueError, KeyError, RecursionError) as error:
            raise UnreadableValueError(f"{type(error).__name__}: {error}") from error
        if found is None:
            raise UnreadableValueError(f"format {version}; this program reads {self.known}")
        return found


def _fixed(fields: Fields) -> Identity:
    # Every format says it in the same way.
    return Identity(_a(str, fields["name"]), _a(str, fields["start_id"]))


def _json(version: int, identity: Identity, fields: Fields) -> bytes:
    document = {"format": version, "name": identity.name, "start_id": identity.start_id, **fields}
    return json.dumps(document, separators=(",", ":")).encode("ascii")
