"""Finding who has an upload that lies on a volume which this instance does not reach.

Where to begin is a guess (the registry's, or the volume of the upload's birth);
from there on each claim that has given it away names who got it.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from incomingd.core import ids
from incomingd.core.errors import Code, Refusal
from incomingd.core.peering import Act, Acted, ActName, Elsewhere, Given, NotNow, Question, Recall, Unknown
from incomingd.core.tenure import same_run
from incomingd.peers.calls import PeerError
from incomingd.registry.registry import RegistryUnavailableError

if TYPE_CHECKING:
    from incomingd.core.record import Record
    from incomingd.core.tenure import Identity
    from incomingd.engine.owned import Services
    from incomingd.storage.volume import Standing

HOPS_MAX: Final = 16
"""So many owners of a chain are asked one after the other."""


def holders(volume_id: str, hint: Identity | None, services: Services) -> list[Identity]:
    """Return whom to ask for what lies on a volume: the one that was named first, then all who reach it."""
    able = [
        each.identity
        for each in services.registry.instances
        if volume_id in each.volumes and not same_run(each.identity, services.identity)
    ]
    if hint is None or same_run(hint, services.identity):
        return able
    # A former run of it is asked as well: its address may have another one that knows.
    return [hint, *(each for each in able if not same_run(each, hint))]


def born_here(upload_id: str, services: Services) -> bool:
    """Whether this instance's volume says of an upload that it was never born: it was its own, or it is the heir."""
    birth, volume = ids.volume_of(upload_id), services.volume
    return birth == volume.id or birth in volume.heir_of


async def ask(upload_id: str, standing: Standing | None, services: Services, *, question: str) -> _Found:
    """Ask for the upload, or, with an empty *question*, who owns it.

    Args:
        upload_id: which.
        standing: what this instance's own volume says.
        services: of the engine.
        question: random; see :class:`incomingd.core.peering.Question`.

    Returns:
        Who answered, and what: given, or owned by that instance. None for who: it lies on this instance's own volume.

    Raises:
        Refusal: `upload_unknown`, `upload_out_of_reach`, `not_ready`.
    """
    own = services.volume.id
    why = ""
    for beginning in await _beginnings(upload_id, standing, services):
        hint, volume_id, epoch = beginning
        for _ in range(HOPS_MAX):
            wanted = Question(upload_id, question, services.identity, own)
            answered = await _first(holders(volume_id, hint, services), wanted, services)
            if answered is None:
                why = why or "Nobody who is alive reaches its volume."
                break
            holder, reply = answered
            if isinstance(reply, Given):
                return holder, reply
            if isinstance(reply, Unknown):
                raise await _unknown(upload_id, services)
            if isinstance(reply, NotNow) or (epoch is not None and reply.epoch < epoch):
                # The second one: it was given to them once more since, and they have no record of that.
                why = reply.detail if isinstance(reply, NotNow) else "Whom it was given to has no record of it."
                if question and epoch is not None:
                    await _remind(holder, Recall(upload_id, epoch, services.identity), services)
                break
            if reply.volume_id == own or same_run(reply.owner, services.identity):
                return None, reply
            if same_run(reply.owner, holder):
                return holder, reply
            hint, volume_id, epoch = reply.owner, reply.volume_id, reply.epoch
    raise Refusal(Code.UPLOAD_OUT_OF_REACH, why, retry_after_s=1)


async def _unknown(upload_id: str, services: Services) -> Refusal:
    """Return what is told of an upload of which somebody who must know it says that it is over, or never was."""
    standing = await services.volume.standing(upload_id)
    if standing is not None and standing.given_from(services.volume.id) is None:
        # Another instance that shares the volume has been given it meanwhile: here it is, whatever became of it.
        return Refusal(Code.NOT_READY, retry_after_s=1)
    return Refusal(Code.UPLOAD_UNKNOWN)


_Found = tuple["Identity | None", Given | Elsewhere]


async def _remind(taker: Identity, recall: Recall, services: Services) -> None:
    """Have an instance take what was given to it: it may never have heard of that, and no client may come to it."""
    with contextlib.suppress(PeerError, Refusal):
        await services.peers.recall(taker, recall)


async def _beginnings(
    upload_id: str, standing: Standing | None, services: Services
) -> list[tuple[Identity | None, str, int | None]]:
    """Return whom to ask first, for what lies on which volume, and the epoch under which it was given to it, if any."""
    own = services.volume.id
    given = standing.given_from(own) if standing is not None else None
    if given is not None:
        return [(given.owner, given.volume_id, given.epoch)]
    if born_here(upload_id, services):
        if standing is not None:
            # It has come back since somebody looked.
            raise Refusal(Code.NOT_READY, retry_after_s=1)
        raise Refusal(Code.UPLOAD_UNKNOWN)
    birth = ids.volume_of(upload_id)
    beginnings: list[tuple[Identity | None, str, int | None]] = [(None, birth, None)]
    try:
        entry = await services.registry.owner_of(upload_id)
    except RegistryUnavailableError:
        entry = None
    if entry is not None and not same_run(entry[0], services.identity):
        beginnings.insert(0, (entry[0], birth, None))
    return beginnings


async def _first(
    who: list[Identity], question: Question, services: Services
) -> tuple[Identity, Given | Elsewhere | Unknown | NotNow] | None:
    """Return the first answer of those who may know; None: nobody answers."""
    for holder in who:
        try:
            return holder, await services.peers.ask(holder, question)
        except PeerError:
            continue
    return None


async def is_unknown_where_given(standing: Standing, services: Services) -> bool:
    """Whether somebody who reaches the volume that an upload was given to says that nothing of it lies there."""
    own = services.volume.id
    given = standing.given_from(own)
    if given is None:
        return False
    wanted = Question(standing.record.upload_id, "", services.identity, own)
    answered = await _first(holders(given.volume_id, None, services), wanted, services)
    # Who is only asked where it is has no other reason not to say.
    return answered is not None and isinstance(answered[1], NotNow | Unknown)


async def look(upload_id: str, standing: Standing | None, services: Services) -> Record:
    """Return the record as its owner has it, wherever that is; nothing moves.

    Raises:
        Refusal: `upload_unknown`, `upload_out_of_reach`, `not_ready`.
    """
    return (await view(upload_id, standing, services)).record


async def view(upload_id: str, standing: Standing | None, services: Services) -> Acted:
    """Return the record and the offset as the owner has them; nothing moves."""
    holder, _ = await ask(upload_id, standing, services, question="")
    if holder is None:
        raise Refusal(Code.NOT_READY, retry_after_s=1)
    try:
        return await services.peers.act(holder, Act(upload_id, ActName.VIEW))
    except PeerError as error:
        raise Refusal(Code.UPLOAD_OUT_OF_REACH, str(error), retry_after_s=1) from error
