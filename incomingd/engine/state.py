"""What this instance is doing as a whole; answers read it."""

from __future__ import annotations

from enum import Enum


class Phase(Enum):
    """As told by the health checks and ``incomingctl status``."""

    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"


class InstanceState:
    """One for each process; only the daemon changes it."""

    def __init__(self) -> None:
        self.phase = Phase.STARTING

    @property
    def stopping(self) -> bool:
        """No append starts any more, and connections close after their answer."""
        return self.phase is Phase.STOPPING

    @property
    def close_after_answer(self) -> bool:
        """Whether persistent connections are closed after their current answer."""
        return self.stopping

    def ready(self) -> None:
        """Requests are taken from now on."""
        self.phase = Phase.READY

    def stop(self) -> None:
        """Nothing starts any more."""
        self.phase = Phase.STOPPING
