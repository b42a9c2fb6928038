"""Whether the volume works: told once when it stops to, and once when it does again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from incomingd.core.errors import Code
from incomingd.log import events, get_logger
from incomingd.storage.volume import VolumeError, VolumeFullError

if TYPE_CHECKING:
    from incomingd.clock import Clock

log = get_logger()


class VolumeHealth:
    """A full disk under a thousand uploads is one event, not a thousand."""

    def __init__(self, volume_id: str, clock: Clock) -> None:
        self._volume_id = volume_id
        self._clock = clock
        self._failing_since: float | None = None

    @property
    def failing(self) -> bool:
        """Whether the last write failed."""
        return self._failing_since is not None

    def failed(self, error: VolumeError) -> None:
        """A write failed."""
        if self._failing_since is None:
            self._failing_since = self._clock.monotonic()
            code = Code.STORAGE_FULL if isinstance(error, VolumeFullError) else Code.STORAGE_UNAVAILABLE
            log.error(events.VOLUME_FAILED, volume_id=self._volume_id, code=code.value, detail=str(error))

    def worked(self) -> None:
        """A write worked."""
        if self._failing_since is not None:
            duration_s = self._clock.monotonic() - self._failing_since
            self._failing_since = None
            log.info(events.VOLUME_RECOVERED, volume_id=self._volume_id, duration_s=round(duration_s, 3))
