"""What this instance is doing as a whole; answers read it."""

from __future__ import annotations

from enum import Enum


class Phase(Enum):
    """As told by the health checks and ``incomingctl status``."""

    STARTING = "starting"
    READY = "ready"
    SUSPENDED = "suspended"
    """The registry is out of reach; what this instance owns goes on."""
    DRAINING = "draining"
    DRAINED = "drained"
    STOPPING = "stopping"


class Balancing(Enum):
    """What the agent check tells a load balancer."""

    DOWN = "down"
    READY = "up ready"
    DRAIN = "drain"
    """Nothing new; requests for uploads that are here still come."""
    MAINT = "maint"
    """Nothing at all."""


class InstanceState:
    """One for each process; only the daemon and the drain change it."""

    def __init__(self) -> None:
        self._phase = Phase.STARTING
        self.registry_away = False
        """The registry cannot be asked just now."""
        self.balancing_told: dict[Balancing, int] = {}
        """How many times a load balancer has heard which word."""
        self.retiring = False
        """Of a drain: it is for good, and no upload may be born here any more."""
        self.births_open = 0
        """How many uploads are being made just now."""
        self.takes_nothing = False
        """Of a drain: not even requests for uploads that are here may come any more."""

    @property
    def phase(self) -> Phase:
        """What the instance is doing, in one word."""
        return Phase.SUSPENDED if self._phase is Phase.READY and self.registry_away else self._phase

    @property
    def serving(self) -> bool:
        """Whether requests are taken, be it only to be sent elsewhere: a load balancer's health check."""
        return self._phase in (Phase.READY, Phase.DRAINING)

    @property
    def draining(self) -> bool:
        """Whether uploads are given away, and none is taken."""
        return self._phase in (Phase.DRAINING, Phase.DRAINED)

    @property
    def stopping(self) -> bool:
        """No append starts any more, and connections close after their answer."""
        return self._phase is Phase.STOPPING

    @property
    def close_after_answer(self) -> bool:
        """Whether persistent connections are closed after their current answer."""
        return self.stopping or self.draining

    @property
    def balancing(self) -> Balancing:
        """What a load balancer is to be told."""
        if self._phase is Phase.READY:
            return Balancing.READY
        if self._phase is Phase.DRAINING and not self.takes_nothing:
            return Balancing.DRAIN
        return Balancing.DOWN if self._phase is Phase.STARTING else Balancing.MAINT

    def ready(self) -> None:
        """Requests are taken from now on."""
        self._phase = Phase.READY
        self.takes_nothing = False

    def drain(self) -> None:
        """Uploads are given away from now on."""
        self._phase = Phase.DRAINING
        self.takes_nothing = False
        self.balancing_told.clear()

    def drain_again(self) -> None:
        """Somebody has come who takes what nobody took before; requests come no more for that."""
        if not self.stopping:
            self._phase = Phase.DRAINING

    def drained(self) -> None:
        """Nothing is here any more that another instance could have."""
        if not self.stopping:
            self._phase = Phase.DRAINED

    def stop(self) -> None:
        """Nothing starts any more."""
        self._phase = Phase.STOPPING
