"""Who looks after uploads that nobody owns: expiry, orphans, records that are not needed any more.

On a volume that several instances reach, each of its groups of uploads has one
guardian: the first of the ring for that group. It learns by the groups' stamps
that uploads have come at other instances, and visits its groups again when an
instance is gone, since what that owned may be an orphan now.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from incomingd.core.ring import ranked
from incomingd.core.tenure import same_run
from incomingd.registry.registry import GenerationChanged, InstancesChanged, SettledChanged

if TYPE_CHECKING:
    from collections.abc import Callable

    from incomingd.core.ring import Instance
    from incomingd.engine.owned import Services
    from incomingd.registry.registry import Event


class Guardian:
    """One for each process.

    Args:
        services: of the engine.
        wake: called when there may be something to look after at once.
    """

    def __init__(self, services: Services, wake: Callable[[], None]) -> None:
        self._services = services
        self._wake = wake
        self._stamps: dict[str, int] = {}
        """Of the groups that are this instance's, when they were last visited."""
        self._again = False
        self._ring: tuple[Instance, ...] = ()
        self._known: dict[str, bool] = {}
        """Which groups are this instance's, as long as the ring is this one: each pass asks for all of them."""
        services.registry.watch(self._heard)

    def guards(self, group: str) -> bool:
        """Return whether this instance looks after *group*."""
        services = self._services
        if not services.volume.shared:
            return True
        instances = services.registry.instances
        if instances != self._ring:
            self._ring, self._known = instances, {}
        guards = self._known.get(group)
        if guards is None:
            volume_id = services.volume.id
            able = [each for each in instances if volume_id in each.volumes and not each.draining]
            first = ranked(f"{volume_id}/{group}", able)
            guards = self._known[group] = bool(first) and same_run(first[0].identity, services.identity)
        return guards

    async def to_visit(self) -> set[str]:
        """Return the groups of this instance that have to be looked through: new to it, or changed since.

        Raises:
            VolumeError: nobody can tell now.
        """
        if not self._services.volume.shared:
            return set()
        stamps = await self._services.volume.stamps()
        mine = {group: stamp for group, stamp in stamps.items() if self.guards(group)}
        before = {} if self._again else self._stamps
        self._again = False
        self._stamps = mine
        return {group for group, stamp in mine.items() if before.get(group) != stamp}

    def visit_again(self, group: str) -> None:
        """Have *group* looked through at the next pass: it could not be now."""
        self._stamps.pop(group, None)

    def _heard(self, event: Event) -> None:
        if isinstance(event, InstancesChanged) and event.gone:
            self._again = True
        if isinstance(event, SettledChanged) and event.settled:
            # Only now a missing lease means anything.
            self._again = True
        if isinstance(event, InstancesChanged | SettledChanged | GenerationChanged):
            self._wake()
