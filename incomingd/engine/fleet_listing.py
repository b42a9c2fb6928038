"""Lists of the uploads of the whole fleet: of one's own volume, and of those that other instances reach."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from incomingd.core.tenure import same_run
from incomingd.engine import listing
from incomingd.log import events, get_logger
from incomingd.peers.calls import PeerError
from incomingd.wire.listing import Position, parse_query

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from incomingd.core.tenure import Identity
    from incomingd.engine.engine import Engine, View

log = get_logger()


@dataclass(frozen=True, slots=True)
class _Piece:
    """What one instance has answered."""

    uploads: list[dict[str, Any]]
    following: Position | None


async def page(
    engine: Engine,
    arguments: Mapping[str, Sequence[str]],
    document: Callable[[View], dict[str, Any]],
    *,
    base_url: str | None,
) -> dict[str, Any]:
    """Return a piece of the list as web apps and operators get it, in the order of ids.

    Args:
        engine: of this instance.
        arguments: of the query string.
        document: makes what is shown of an upload that lies here.
        base_url: before the paths that others tell of their uploads.

    Raises:
        Refusal: `field_invalid`, `storage_unavailable`.
    """
    query = parse_query(arguments)
    asked = [_of_peer(engine, peer, arguments) for peer in _peers(engine)]
    own, others = await asyncio.gather(listing.page(engine, query), asyncio.gather(*asked))
    pieces = [_Piece([document(view) for view in own.views], own.following)]
    for piece in others:
        if piece is not None:
            for upload in piece.uploads:
                upload["upload_url"] = (base_url or "") + str(upload["upload_url"])
            pieces.append(piece)
    uploads, following = _merged(pieces)
    return {
        "uploads": uploads,
        "next_page": str(following) if following is not None else None,
        # Where the registry has lost what it knew, there may be instances that nobody could ask.
        "partial": len(pieces) <= len(others) or not engine.services.registry.settled,
    }


def _peers(engine: Engine) -> list[Identity]:
    """Return one live instance for each volume that this one does not reach."""
    services = engine.services
    reached: set[str] = set()
    found: list[Identity] = []
    # Who is the heir of other volumes comes first: it tells of those, too, and nobody else must tell the same.
    for each in sorted(services.registry.instances, key=lambda each: len(each.volumes), reverse=True):
        if same_run(each.identity, services.identity) or services.volume.id in each.volumes:
            continue
        if not each.volumes <= reached:
            reached |= each.volumes
            found.append(each.identity)
    return found


async def _of_peer(engine: Engine, peer: Identity, arguments: Mapping[str, Sequence[str]]) -> _Piece | None:
    try:
        answer = await engine.services.peers.listing(peer, {name: list(values) for name, values in arguments.items()})
    except PeerError as error:
        log.warning(events.LISTING_PARTIAL_ANSWERED, peer=peer.name, detail=str(error))
        return None
    uploads: Any = answer.get("uploads")
    following = answer.get("next_page")
    position = parse_query({"page": [str(following)]}).position if following else None
    return _Piece(list(uploads), position)


def _merged(pieces: list[_Piece]) -> tuple[list[dict[str, Any]], Position | None]:
    """Put pieces together, as far as all of them reach."""
    ends = [piece.following for piece in pieces if piece.following is not None]
    limit = min(ends, key=lambda end: (end.group, end.after), default=None)
    found = sorted((upload for piece in pieces for upload in piece.uploads), key=lambda upload: str(upload["id"]))
    if limit is not None:
        found = [upload for upload in found if limit.passed(_group(upload), str(upload["id"]))]
    if len(found) > listing.PAGE_UPLOADS:
        found = found[: listing.PAGE_UPLOADS]
        limit = Position.behind(_group(found[-1]), str(found[-1]["id"]))
    return found, limit


def _group(upload: dict[str, Any]) -> str:
    return str(upload["id"])[: listing.GROUP_CHARS]
