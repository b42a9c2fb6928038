"""The bytes of an upload, or of one part of it: length, offset, map.

The map lists the segments that make up the offset. All its ranges but the last
are closed; the last may be open: it is the segment that grows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Range:
    """Bytes ``[start, stop)`` of the content, lying at the front of a segment.

    A segment holds only bytes of its own tenure, so the byte ``start`` of the
    content is the byte ``skip`` of the segment.
    """

    segment: str
    """Name of the segment; names carry the tenure that began it."""
    volume_id: str
    start: int
    stop: int | None
    """None: it still grows."""
    skip: int = 0
    contested: bool = False
    """Taken by force: its former writer may live and write behind the end. Such a segment is copied, never renamed."""

    def __post_init__(self) -> None:
        assert self.start >= 0, self
        assert self.stop is None or self.stop >= self.start, self

    def closed_at(self, stop: int) -> Range:
        """Return this range, ending at *stop* of the content."""
        return replace(self, stop=stop)


@dataclass(frozen=True, slots=True)
class Content:
    """What is known of a run of bytes that a client sends.

    ``noted_offset`` is what the record vouches for: bytes before it were kept
    when the record was written. The true offset may be further on, where the
    volume tells (:meth:`incomingd.storage.volume.Volume.measure`).
    """

    length: int | None = None
    map: tuple[Range, ...] = ()
    noted_offset: int = 0
    unverified_from: int | None = None
    """Bytes from here on belong to an append whose checksum was not compared
    yet; recovery cuts back to it."""
    metadata: str | None = None
    """Upload-Metadata as the client sent it, to the byte."""
    concat: str | None = None
    """Upload-Concat as the client sent it, to the byte."""
    length_deferred: bool = False
    """The client said that it will tell the length later."""

    def __post_init__(self) -> None:
        at = 0
        for index, part in enumerate(self.map):
            assert part.start == at, self.map
            if part.stop is None:
                assert index == len(self.map) - 1, self.map
            else:
                at = part.stop
        assert self.length is None or self.length >= 0, self.length
        assert self.noted_offset >= 0, self.noted_offset

    @property
    def growing(self) -> Range | None:
        """The open range at the map's end, if there is one."""
        if self.map and self.map[-1].stop is None:
            return self.map[-1]
        return None

    @property
    def closed_stop(self) -> int:
        """Where the closed ranges end."""
        closed = [part.stop for part in self.map if part.stop is not None]
        return closed[-1] if closed else 0

    @property
    def closed(self) -> bool:
        """Whether all bytes are in and none can be added."""
        return self.length is not None and self.growing is None and self.noted_offset == self.length

    def cut_at(self, offset: int) -> Content:
        """Return this content with every range closed, ending at *offset*.

        Ranges beyond *offset* are dropped, ranges that cover it end there.
        """
        ranges = []
        for part in self.map:
            if part.start >= offset:
                break
            stop = offset if part.stop is None else min(part.stop, offset)
            ranges.append(part.closed_at(stop))
        return replace(
            self,
            map=tuple(ranges),
            noted_offset=offset,
            unverified_from=None,
        )

    def grown_by(self, segment: str, volume_id: str, at: int) -> Content:
        """Return this content with a new, open range that begins at *at*."""
        assert self.growing is None, self.map
        assert self.closed_stop == at, (self.map, at)
        new = Range(segment=segment, volume_id=volume_id, start=at, stop=None)
        return replace(self, map=(*self.map, new))


def concatenated(contents: tuple[Content, ...]) -> Content:
    """Return the content that is *contents* one behind the other.

    Every one must be closed, and of known, reached length.
    """
    ranges: list[Range] = []
    at = 0
    for content in contents:
        assert content.growing is None, content
        for part in content.map:
            assert part.stop is not None
            size = part.stop - part.start
            if not size:
                continue
            ranges.append(replace(part, start=at, stop=at + size))
            at += size
    return Content(length=at, map=tuple(ranges), noted_offset=at)
