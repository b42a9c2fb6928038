"""What the engine may ask of a volume, and what a volume promises.

Every volume holds records, claims and segments. An upload's record is replaced
as a whole or not at all. Nothing here waits on the event loop's thread for a
disk or a network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path
    from typing import TypeAlias

    from incomingd.core.content import Content
    from incomingd.core.record import Record
    from incomingd.core.tenure import Claim, Identity
    from incomingd.storage.body import Body

    See: TypeAlias = Callable[[bytes | memoryview], None]
    """Is shown bytes, in order, in another thread; a view of them is good for that call only."""


class VolumeError(Exception):
    """A volume could not do what was asked."""


class VolumeFullError(VolumeError):
    """There is no room, or the quota is used up."""


class VolumeUnavailableError(VolumeError):
    """The volume does not answer, is read-only, or is gone."""


class VolumeLockedError(VolumeError):
    """Another process holds the volume; the text says which."""


class VolumeRetiredError(VolumeError):
    """The volume has an heir: nothing may begin here any more. The text says what to do."""


class RecordUnreadableError(VolumeError):
    """The upload's record is damaged or of an unknown format."""


class ClaimTakenError(VolumeError):
    """The claim exists already: another tenure has begun."""


class DeclinedError(ClaimTakenError):
    """What was given under that claim was declined here, for ever: the giver may have it back."""


class UploadExistsError(VolumeError):
    """There is an upload of this id already."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a body that went into a segment."""

    overflow: bool
    """The body had more bytes than there was room for; they were not written."""


@dataclass(frozen=True, slots=True)
class Retirement:
    """That a volume goes for good, and who keeps its records then."""

    heir: str
    """Name of the instance."""
    volume_id: str
    """Of the volume that it has them on."""
    settled: bool = False
    """The heir has said that it has them; else it may have been told."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How far the chain of an upload's tenures has come."""

    record: Record
    """The last one written: of a tenure that may be over."""
    claim: Claim | None
    """The last one made, if its tenure has no record yet, which is all that it is needed for; else None."""

    @property
    def owner(self) -> Identity | None:
        """Who owns the upload, or has claimed it and is about to; None: it is parked."""
        if self.claim is not None and self.claim.epoch > self.record.epoch:
            return self.claim.owner
        return self.record.owner

    def given_from(self, volume_id: str) -> Claim | None:
        """Return the claim that has given the upload from this volume to another; None: it is here."""
        claim = self.claim
        if claim is None or claim.epoch <= self.record.epoch or claim.volume_id == volume_id:
            return None
        return claim

    @property
    def epoch(self) -> int:
        """Of the last claim; the next one is one higher."""
        return max(self.record.epoch, self.claim.epoch if self.claim is not None else 0)


@dataclass(frozen=True, slots=True)
class Found:
    """An upload as a look through its group finds it."""

    upload_id: str
    standing: Standing | None
    """None: there is no record, or it cannot be read now."""
    has_bytes: bool
    """Whether bytes of it lie here; only looked for where none should: it was given to another volume, or has ended."""


class Segment(Protocol):
    """A run of bytes, open for one append."""

    @property
    def size(self) -> int:
        """Bytes kept in it so far."""

    async def take(
        self,
        body: Body,
        *,
        room: int | None,
        on_kept: Callable[[int], None],
        see: See | None = None,
    ) -> Taken:
        """Keep the bytes of *body* behind those kept so far, until it ends.

        Args:
            body: where they come from.
            room: at most so many are kept; None: any number.
            on_kept: told the segment's size in bytes each time it has grown.
            see: gets every kept byte, in order, in another thread; for digests.

        Raises:
            BodyCutError: the body was cut; what came before it is kept.
            VolumeFullError, VolumeUnavailableError: what fitted is kept; `size`
                tells how much.
        """

    async def sync(self) -> None:
        """Return when all kept bytes would survive a power loss."""

    async def cut_back(self, size: int) -> None:
        """Forget the bytes behind the first *size*, even where that fails."""

    async def read_back(self, start: int, see: See) -> None:
        """Hand the kept bytes from *start* on to *see*, in another thread."""

    async def close(self) -> None:
        """Let go of it. Never raises."""


class Blocks(Protocol):
    """Digests of uploads' blocks, beside their records, and the reading anew that it takes to compute them.

    What stands there is a help that may be lost, or be cut off by a crash: never synced, and gone with the upload's
    bytes (:mod:`incomingd.core.blocks` says what of it counts). All of it happens in the background of other work.
    """

    async def read(self, upload_id: str, epoch: int) -> bytes:
        """Return what tenure *epoch* has written here; nothing, if it has not."""

    async def write(self, upload_id: str, epoch: int, at: int, data: bytes) -> None:
        """Have *data* stand at the offset *at* of what tenure *epoch* writes, and nothing behind it.

        At 0 what former tenures have written goes.
        """

    async def look_through(self, upload_id: str, segment: str, start: int, size: int, see: See) -> int:
        """Show bytes ``[start, start + size)`` of a segment to *see*; return how many of them there were."""


class Volume(Protocol):
    """A place that holds uploads.

    All methods raise :class:`VolumeUnavailableError` where the volume cannot be
    reached, and :class:`VolumeFullError` where it has no room.
    """

    @property
    def id(self) -> str:
        """The volume's own id, stored on it."""

    @property
    def shared(self) -> bool:
        """Whether other processes may claim uploads here meanwhile."""

    @property
    def network(self) -> bool:
        """Whether bytes reach it late and in any order: they count as noted, never by length; all is synced always."""

    @property
    def heir_of(self) -> frozenset[str]:
        """Ids of the retired volumes whose records are kept here, as far as it was looked at last."""

    @property
    def retirement(self) -> Retirement | None:
        """How far this volume's own retirement has come; None: it serves."""

    @property
    def blocks(self) -> Blocks:
        """What is kept here of the digests of blocks."""

    # -- records and claims

    async def create(self, record: Record) -> None:
        """Store the record of a new upload, parked at offset 0.

        Raises:
            UploadExistsError: there is one.
        """

    async def read(self, upload_id: str) -> Record | None:
        """Return the last record, or None: there is no such upload here, or it was given to another volume.

        Raises:
            RecordUnreadableError: there is one that cannot be read.
        """

    async def standing(self, upload_id: str) -> Standing | None:
        """Return the last record together with the last claim, or None: there is no such upload here.

        Raises:
            RecordUnreadableError: one of them cannot be read.
        """

    async def claim(self, upload_id: str, claim: Claim) -> None:
        """Begin the tenure that *claim* describes: exactly one caller can.

        What a former tenure has written until now counts; what was read before
        this may be older: on a shared volume, read again before measuring.

        Raises:
            ClaimTakenError: that tenure has begun already, or the one before it has not.
        """

    async def take(self, claim: Claim, record: Record) -> None:
        """Begin a tenure here that another volume's holder has given: keep its claim, and write its first record.

        What lies here of the upload from an earlier tenure stays. Survives a power loss once it returns. Repeatable.
        Of all that :meth:`take` and :meth:`decline` what one claim gives, only those of one kind ever succeed.

        Raises:
            DeclinedError: it was declined.
            ClaimTakenError: the chain has gone on here already.
        """

    async def decline(self, claim: Claim, upload_id: str) -> None:
        """Have what another volume's holder has given under *claim* never be taken here, by nobody.

        Survives a power loss once it returns. Repeatable.

        Raises:
            ClaimTakenError: it has been taken; should that have stopped half-way, it is brought to its end.
        """

    async def keep_given(self, claim: Claim, record: Record) -> None:
        """Keep what a volume that retires knew of an upload that it had given away: its last record, and the claim.

        From then on this volume has given it away. Where it knows of a tenure as late as that already, nothing changes.
        Survives a power loss once it returns. Repeatable.
        """

    async def inherit(self, volumes: Collection[str]) -> None:
        """Be the heir of *volumes* for ever; survives a power loss once it returns. Repeatable."""

    async def look_for_heirdoms(self) -> frozenset[str]:
        """Look whose heir the volume is, since another instance that shares it may have inherited; return it."""

    async def retire(self, retirement: Retirement) -> None:
        """Note how far this volume's own retirement has come; survives a power loss once it returns.

        Once it is settled nobody opens the volume any more.
        """

    async def look(self, upload_id: str, epoch: int) -> bool:
        """Return whether no claim has followed claim *epoch*, and the upload is still there."""

    async def gone(self, owner: Identity) -> bool:
        """Return whether it is shown that *owner*, a run of an instance, writes nothing here any more.

        False where nothing shows it: a run that lives, that is frozen, or of
        which nothing is known.
        """

    async def write(self, record: Record, *, sync: bool) -> None:
        """Replace the record as a whole.

        Args:
            record: written by the tenure that it names, and by no other.
            sync: return only when it would survive a power loss. Else a power
                loss may bring the former one back, as a whole.
        """

    # -- bytes

    async def measure(self, record: Record, content: Content) -> int:
        """Return how many bytes of *content* count, after a claim was made.

        Less than what the record notes means that bytes were lost.
        """

    async def cut_back(self, upload_id: str, content: Content, offset: int) -> None:
        """Drop what lies in the growing segment behind *offset* of *content*.

        For bytes that were measured and do not count. Once the record does not
        say so any more, they would.
        """

    async def open_segment(self, upload_id: str, name: str, *, create: bool, size: int, sync: bool) -> Segment:
        """Open a segment for the one append that goes into it.

        Args:
            upload_id: whose it is.
            name: of the segment; carries its tenure.
            create: make it, if it is not there.
            size: so many bytes of it count; what lies behind them is dropped.
            sync: its directory entry must survive a power loss before anything
                rests on it.
        """

    async def read_range(self, upload_id: str, segment: str, start: int, size: int) -> bytes:
        """Return bytes ``[start, start + size)`` of a segment; fewer where it ends before."""

    async def sync_segments(self, record: Record, content: Content) -> None:
        """Return when all bytes of *content* would survive a power loss.

        A segment into which nobody has written yet need not be there.
        """

    async def join(self, record: Record) -> None:
        """Make the complete file of its segments, under its final name.

        Repeatable: a join that was interrupted is done again.
        """

    def path_of(self, record: Record) -> Path | None:
        """Return where the joined file stands, for apps that share the volume."""

    async def open_file(self, record: Record) -> StoredFile | None:
        """Open the joined file for reading; None if it is not there any more."""

    async def unjoin(self, record: Record, segment: str) -> None:
        """Give the joined file a second name as a segment, so that it can be given to another volume; repeatable."""

    async def adopt_segments(self, upload_id: str, source_id: str, names: Mapping[str, str]) -> None:
        """Give segments of another upload a second name in this one; repeatable.

        Args:
            upload_id: that gets them.
            source_id: that has them, and keeps them.
            names: name there -> name here.
        """

    async def drop_segments(self, upload_id: str, names: Sequence[str]) -> None:
        """Delete these segments, as far as they exist."""

    async def drop_bytes(self, record: Record, *, file_too: bool) -> None:
        """Delete all segments and, where asked, the joined file."""

    async def segments_of(self, upload_id: str) -> dict[str, int]:
        """Return name and size in bytes of all of an upload's segments here, also of those that no map names."""

    async def drop_file(self, upload_id: str) -> None:
        """Delete the joined file, if there is one."""

    async def remove(self, upload_id: str) -> None:
        """Delete all that is left of an upload."""

    # -- room

    async def has_room(self, size: int) -> bool:
        """Whether *size* more bytes fit, with the reserve left free."""

    # -- all uploads

    async def groups(self) -> list[str]:
        """Return the names of the groups into which uploads are divided."""

    async def survey(self, group: str) -> list[Found]:
        """Return all uploads of one group, as they stand one after the other; cheap for each of them."""

    async def ids_in(self, group: str) -> list[str]:
        """Return the ids of the uploads of one group, sorted."""

    async def stamps(self) -> dict[str, int]:
        """Return for each group a number that changes whenever an upload comes into it, also at another process."""

    def group_of(self, upload_id: str) -> str:
        """Return the group that *upload_id* belongs to."""

    # -- keys that make a repeated create find the first one's upload

    async def find_key(self, key: str) -> str | None:
        """Return the id of the upload that was bound to *key*, if any."""

    async def bind_key(self, key: str, upload_id: str, *, instead_of: str | None) -> str:
        """Bind *key* to *upload_id*, if it is bound to *instead_of* or to nothing.

        Args:
            key: any text.
            upload_id: that it shall name.
            instead_of: what it was seen to name; None: nothing.

        Returns:
            The id that it names now: *upload_id*, or that of whoever was first.
        """

    async def forget_keys(self) -> None:
        """Forget the keys of uploads that are not here any more."""

    async def close(self) -> None:
        """Let go of the volume and its lock."""


class StoredFile(Protocol):
    """A complete file, open for reading."""

    @property
    def size(self) -> int:
        """Its size in bytes."""

    async def read(self, start: int, size: int) -> bytes:
        """Return up to *size* bytes from *start* on."""

    async def close(self) -> None:
        """Let go of it. Never raises."""
