"""Lists of uploads: a bounded piece of work for each call, however many uploads there are.

There is no index: records are read, group by group, from where the last call
ended. A call that has read its share without filling its page says where the
next one goes on.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from incomingd.core.errors import Code, Refusal
from incomingd.engine.outcomes import refusing
from incomingd.storage.volume import RecordUnreadableError
from incomingd.wire.listing import Position

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from incomingd.engine.engine import Engine, View
    from incomingd.wire.listing import ListQuery

PAGE_UPLOADS: Final = 100
GROUP_CHARS: Final = 2
"""So much of an id names its group, on every volume of a fleet."""
READS_MAX: Final = 1000
DURATION_MAX_S: Final = 5.0
"""On a slow volume a call ends earlier."""
READS_AT_ONCE: Final = 8


@dataclass(frozen=True, slots=True)
class Page:
    """A piece of a list."""

    views: tuple[View, ...]
    following: Position | None
    """Where the next piece begins; None: this was the last. A page may be short, or empty, and not be the last."""


async def page(
    engine: Engine, query: ListQuery, *, uploads_max: int = PAGE_UPLOADS, reads_max: int = READS_MAX
) -> Page:
    """Return the uploads that *query* wants, from its position on, in the order of their ids.

    Damaged records are left out; the log tells of them.

    Raises:
        Refusal: `storage_unavailable`.
    """
    clock = engine.services.clock
    ends_at = clock.monotonic() + DURATION_MAX_S
    views: list[View] = []
    reads = 0
    reached = query.position
    async with refusing():
        async for group, upload_ids in _batches(engine, query.position):
            if len(views) >= uploads_max or reads >= reads_max or clock.monotonic() >= ends_at:
                return Page(tuple(views), reached)
            reads += len(upload_ids)
            found = await asyncio.gather(*(_view(engine, query, upload_id) for upload_id in upload_ids))
            for upload_id, view in zip(upload_ids, found, strict=True):
                if len(views) >= uploads_max:
                    return Page(tuple(views), reached)
                reached = Position.behind(group, upload_id)
                if view is not None:
                    views.append(view)
    return Page(tuple(views), None)


async def _batches(engine: Engine, position: Position | None) -> AsyncIterator[tuple[str, list[str]]]:
    volume = engine.services.volume
    for group in sorted(await volume.groups()):
        if position is not None and group < position.group:
            continue
        upload_ids = [
            upload_id
            for upload_id in sorted(await volume.ids_in(group))
            if position is None or not position.passed(group, upload_id)
        ]
        for start in range(0, len(upload_ids), READS_AT_ONCE):
            yield group, upload_ids[start : start + READS_AT_ONCE]


async def _view(engine: Engine, query: ListQuery, upload_id: str) -> View | None:
    """Return the upload if it is wanted."""
    try:
        record = await engine.services.volume.read(upload_id)
        if record is None or not query.wants(record):
            # What is in memory is what is stored, for all that a query asks of.
            return None
        view = await engine.view(upload_id)
    except RecordUnreadableError:
        return None
    except Refusal as refusal:
        # Deleted meanwhile, or damaged.
        if refusal.code in (Code.UPLOAD_UNKNOWN, Code.STORAGE_UNAVAILABLE):
            return None
        raise
    return view if query.wants(view.record) else None
