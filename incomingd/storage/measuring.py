"""How many bytes of an upload count, told from the sizes of its segments."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from incomingd.core.content import Content
    from incomingd.core.record import Record


def counted(
    record: Record,
    content: Content,
    *,
    size_of: Callable[[str], int],
    boot_id: str,
    volume_id: str,
    network: bool = False,
) -> int:
    """Return how many bytes of *content* count.

    Args:
        record: that vouches for them.
        content: the upload's own, or that of one of its parts.
        size_of: name of a segment -> bytes in it; 0 where it is not there.
        boot_id: of the running kernel.
        volume_id: of the volume that measures; what lies on others is vouched for by the record.
        network: pages may arrive in any order, also after their writer is gone.
    """
    offset = content.closed_stop
    for part in content.map:
        if part.volume_id != volume_id and part.stop is not None:
            continue
        size = max(size_of(part.segment) - part.skip, 0)
        if part.stop is None:
            offset = part.start + size
        elif size < part.stop - part.start:
            offset = part.start + size
            break
    if network or record.boot_id != boot_id:
        # A file may be longer than what reached the disk of it, after a power loss
        # or while pages are on their way; only what was noted after a sync counts.
        offset = min(offset, content.noted_offset)
    if content.unverified_from is not None:
        offset = min(offset, content.unverified_from)
    if content.length is not None:
        offset = min(offset, content.length)
    return offset
