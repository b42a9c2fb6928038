"""Finding who has an upload that lies on a volume which this instance does not reach.

Where to begin is a guess (the registry's, or the volume of the upload's birth);
from there on each claim that has given it away names who got it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from incomingd.core import ids
from incomingd.core.errors import Code, Refusal
from incomingd.core.peering import Act, Acted, ActName, Elsewhere, Given, NotNow, Question, Unknown
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
        hint, volume_id = beginning
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
                raise Refusal(Code.UPLOAD_UNKNOWN)
            if isinstance(reply, NotNow):
                why = reply.detail
                break
            if reply.volume_id == own or same_run(reply.owner, services.identity):
                return None, reply
            if same_run(reply.owner, holder):
                return holder, reply
            hint, volume_id = reply.owner, reply.volume_id
    raise Refusal(Code.UPLOAD_OUT_OF_REACH, why, retry_after_s=1)


_Found = tuple["Identity | None", Given | Elsewhere]


async def _beginnings(
    upload_id: str, standing: Standing | None, services: Services
) -> list[tuple[Identity | None, str]]:
    own = services.volume.id
    given = standing.given_from(own) if standing is not None else None
    if given is not None:
        return [(given.owner, given.volume_id)]
    birth = ids.volume_of(upload_id)
    if birth == own:
        raise Refusal(Code.UPLOAD_UNKNOWN)
    beginnings: list[tuple[Identity | None, str]] = [(None, birth)]
    try:
        entry = await services.registry.owner_of(upload_id)
    except RegistryUnavailableError:
        entry = None
    if entry is not None and not same_run(entry[0], services.identity):
        beginnings.insert(0, (entry[0], birth))
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
