"""Leaving the records of a volume that goes for good to another instance, its heir.

It comes after the evacuation: every byte has gone, and every upload that has
not ended. What is left, of each upload a claim that says to whom it was given,
or a record of one that has ended, is sent to the heir in bounded pieces. Only
when the heir has answered for all of them is this volume marked, and the heir
told to answer for it; from the mark on there is no way back.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from incomingd.core import codec
from incomingd.core.errors import Code, Refusal
from incomingd.core.peering import Bequest, Given
from incomingd.core.ring import ranked
from incomingd.core.tenure import Claim, ClaimKind, same_run
from incomingd.engine.ending import keeps_file
from incomingd.log import events, get_logger
from incomingd.peers.calls import PeerError
from incomingd.storage import volume as storage
from incomingd.storage.volume import ClaimTakenError, RecordUnreadableError, VolumeError

if TYPE_CHECKING:
    from incomingd.core.record import Record
    from incomingd.core.ring import Instance
    from incomingd.engine.engine import Engine
    from incomingd.engine.owned import Services
    from incomingd.storage.volume import Standing

log = get_logger()

HEIR_FORMAT: Final = 2
"""Who reads nothing newer than format 1 has never heard of heirs."""
PIECE_GIVENS: Final = 100
PIECE_BYTES: Final = 256 * 1024
"""Of records in one message, which may have a mebibyte; and the heir has to write it while the call is waited for."""


class Stage(Enum):
    """How far it has come."""

    WAITING = "waiting"
    """Until the drain has given away what it can."""
    GIVING = "giving"
    SEALED = "sealed"
    """The heir has everything, and may have been told to answer: there is no way back."""
    DONE = "done"
    NOT_NEEDED = "not_needed"
    """Other instances reach the volume, and answer for all that is on it."""


def heirs(services: Services, named: str | None = None) -> tuple[Instance, ...]:
    """Return who may be the heir of this instance's volume, best first.

    Args:
        services: of the engine.
        named: the only one that an operator wants.
    """
    own = services.volume.id
    return tuple(
        each
        for each in ranked(own, services.registry.instances)
        if each.takes()
        and each.format >= HEIR_FORMAT
        and each.identity.name != services.identity.name
        and named in (None, each.identity.name)
    )


def is_shared(services: Services) -> bool:
    """Whether another live instance reaches this instance's volume; a lease of a former run may still hold."""
    return any(
        services.volume.id in each.volumes
        for each in services.registry.instances
        if each.identity.name != services.identity.name
    )


def check(services: Services, named: str | None) -> None:
    """Refuse what cannot succeed now.

    Raises:
        Refusal: `no_heir`.
    """
    if services.volume.shared and (is_shared(services) or heirs(services, named)):
        return
    if not services.volume.shared:
        # Whoever has joined the fleet by configuration has a shared volume, be it a private one.
        detail = "This instance is alone: it has no registry.url."
    elif named is None:
        detail = "No other instance takes uploads now."
    else:
        detail = f"There is no other instance {named!r} that takes uploads now: see `incomingctl ring`."
    raise Refusal(Code.NO_HEIR, detail)


class Retirement:
    """One for each drain that is for good.

    Args:
        engine: that is emptied.
        named: the heir that an operator wants; None: whoever the ring says.
    """

    def __init__(self, engine: Engine, named: str | None = None) -> None:
        self._engine = engine
        self.named = named
        self.stage = Stage.WAITING
        self.left = 0
        """Uploads of which the heir has nothing yet, as far as it is known."""
        self.inherited = 0
        self.files_kept = 0
        """Files of uploads that have ended, which web apps have left in this data directory: they stay there."""
        self._heir: Instance | None = None
        self._heir_volume_id = ""
        self._sent: set[str] = set()
        self._kept: set[str] = set()
        self._began_at = engine.services.clock.monotonic()
        self._said = ""
        found = engine.services.volume.retirement
        if found is not None:
            # A former run has come so far; its heir may answer already.
            self.stage = Stage.SEALED
            self.named = None
            self._preferred = found.heir
        else:
            self._preferred = named or ""

    def name(self, heir: str | None) -> None:
        """Have another heir, if one is named and it is not too late."""
        if heir is not None:
            self.named = self._preferred = heir

    @property
    def may_end(self) -> bool:
        """Whether it can still be given up."""
        return self.stage not in (Stage.SEALED, Stage.DONE)

    @property
    def over(self) -> bool:
        """Whether nothing is left to be done."""
        return self.stage in (Stage.DONE, Stage.NOT_NEEDED)

    def as_json(self) -> dict[str, Any]:
        """Return it for ``/status``."""
        return {
            "stage": self.stage.value,
            "heir": self._heir.identity.name if self._heir is not None else None,
            "left": self.left,
            "inherited": self.inherited,
            "files_kept": self.files_kept,
        }

    def begin(self) -> None:
        """Begin: what could be given away was."""
        if self.stage is Stage.WAITING:
            self.stage = Stage.NOT_NEEDED if is_shared(self._engine.services) else Stage.GIVING

    async def step(self) -> bool:
        """Do what can be done now; return whether all is.

        What fails now is tried again by the next one.
        """
        if self.over:
            return True
        try:
            heir = await self._agreed_heir()
            if not await self._leave_all(heir):
                return False
            await self._seal(heir)
        except (PeerError, Refusal) as error:
            self._delayed(str(error))
            return False
        except VolumeError as error:
            self._engine.services.health.failed(error)
            return False
        return True

    def _delayed(self, why: str) -> None:
        if why != self._said:
            peer = self._heir.identity.name if self._heir is not None else None
            log.warning(events.RETIREMENT_DELAYED, detail=why, peer=peer)
        self._said = why

    # -- who

    async def _agreed_heir(self) -> Instance:
        """Return a live instance that has said it can keep what is left, and where.

        Raises:
            Refusal: `no_heir`: nobody can now.
            PeerError: it does not answer.
        """
        services = self._engine.services
        able = heirs(services, self.named)
        if not able:
            raise Refusal(Code.NO_HEIR, f"waiting for {self.named or 'an instance that takes uploads'}")
        heir = next((each for each in able if each.identity.name == self._preferred), able[0])
        if self._heir is None or not same_run(heir.identity, self._heir.identity):
            answer = await services.peers.inherit(heir.identity, Bequest(services.volume.id, ""))
            if answer.volume_id != self._heir_volume_id:
                # What another volume keeps is of no use there.
                self._sent.clear()
                self._heir_volume_id = answer.volume_id
            self._heir, self._preferred = heir, heir.identity.name
            log.info(events.RETIREMENT_STARTED, peer=heir.identity.name, volume_id=services.volume.id)
        return heir

    # -- what

    async def _leave_all(self, heir: Instance) -> bool:
        """Send what the heir has not got; return whether it has everything then."""
        volume = self._engine.services.volume
        if self._engine.state.births_open:
            return False
        wanted = [
            upload_id
            for group in await volume.groups()
            for upload_id in await volume.ids_in(group)
            if upload_id not in self._sent
        ]
        self.left = len(wanted)
        whole = True
        piece: dict[str, Given] = {}
        size = 0
        for upload_id in wanted:
            given = await self._given(upload_id, heir)
            if given is None:
                whole = False
                continue
            piece[upload_id] = given
            size += len(codec.encode(given.record))
            if len(piece) >= PIECE_GIVENS or size >= PIECE_BYTES:
                await self._send(heir, piece)
                piece, size = {}, 0
        if piece:
            await self._send(heir, piece)
        return whole

    async def _send(self, heir: Instance, piece: dict[str, Given]) -> None:
        services = self._engine.services
        bequest = Bequest(services.volume.id, self._heir_volume_id, tuple(piece.values()))
        await services.peers.inherit(heir.identity, bequest)
        self._sent.update(piece)
        self.inherited = len(self._sent)
        self.left -= len(piece)

    async def _given(self, upload_id: str, heir: Instance) -> Given | None:
        """Return what the heir is to know of an upload; None: not yet, something of it is still needed here."""
        engine, volume = self._engine, self._engine.services.volume
        try:
            standing = await volume.standing(upload_id)
        except RecordUnreadableError as error:
            raise Refusal(Code.STORAGE_UNAVAILABLE, f"the record of {upload_id} cannot be read: {error}") from error
        if standing is None:
            return None
        claim = standing.given_from(volume.id)
        if claim is None:
            return await self._give(upload_id, standing, heir)
        record = standing.record
        if record.status.final and claim.volume_id == self._heir_volume_id:
            return Given(claim, record)
        return Given(claim, record) if await engine.giving.handed_on(upload_id, standing) else None

    async def _give(self, upload_id: str, standing: Standing, heir: Instance) -> Given | None:
        """Give the record of an upload that has ended to the heir."""
        services, keeper = self._engine.services, self._engine.keeper
        if not standing.record.status.final:
            # Somebody could not take it after all: it is evacuated again.
            return None
        live = keeper.find(upload_id)
        if live is not None:
            await keeper.evict(live)
            if keeper.find(upload_id) is not None:
                return None
        await self._count_file(standing.record)
        claim = Claim(
            epoch=standing.epoch + 1,
            owner=heir.identity,
            create_id=services.new_token(),
            volume_id=self._heir_volume_id,
            kind=ClaimKind.PULL,
        )
        try:
            await services.volume.claim(upload_id, claim)
        except ClaimTakenError:
            return None
        # Until the claim stood, a callback may have been noted.
        latest = await services.volume.standing(upload_id)
        assert latest is not None, upload_id
        return Given(claim, latest.record)

    async def _count_file(self, record: Record) -> None:
        if not (record.joined and keeps_file(record)) or record.upload_id in self._kept:
            return
        file = await self._engine.services.volume.open_file(record)
        if file is not None:
            await file.close()
            self._kept.add(record.upload_id)
            self.files_kept = len(self._kept)

    # -- for good

    async def _seal(self, heir: Instance) -> None:
        services = self._engine.services
        volume, name = services.volume, heir.identity.name
        # Before the heir can answer: should this instance be started again meanwhile, it must not make new uploads.
        self.stage = Stage.SEALED
        await volume.retire(storage.Retirement(name, self._heir_volume_id))
        volumes = (volume.id, *sorted(volume.heir_of))
        await services.peers.inherit(heir.identity, Bequest(volume.id, self._heir_volume_id, volumes=volumes))
        await volume.retire(storage.Retirement(name, self._heir_volume_id, settled=True))
        self.stage = Stage.DONE
        self.left = 0
        log.info(
            events.RETIREMENT_ENDED,
            count=self.inherited,
            duration_s=round(services.clock.monotonic() - self._began_at, 3),
            peer=name,
            volume_id=volume.id,
        )
