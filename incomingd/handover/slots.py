"""Who is called next, when many web apps share one daemon.

A web app that hangs holds every call to it until it times out. So no host gets
all slots: one more goes to a host only while it holds fewer than are free. Of
16 slots a single host gets 8, a second one that hangs, too, gets 4 of the
rest, and a healthy one still finds a slot.
"""

from __future__ import annotations

from collections import Counter, deque


class Slots:
    """Uploads whose web apps are being called, and those that wait for a slot."""

    def __init__(self) -> None:
        self._held: dict[str, str] = {}
        """Upload -> host, for each slot in use."""
        self._by_host: Counter[str] = Counter()
        self._waiting: dict[str, deque[str]] = {}

    def __contains__(self, upload_id: str) -> bool:
        return upload_id in self._held

    def __len__(self) -> int:
        return len(self._held)

    def wait(self, upload_id: str, host: str) -> None:
        """Have an upload wait for a slot, behind those of its host."""
        self._waiting.setdefault(host, deque()).append(upload_id)

    def take(self, concurrency: int) -> list[str]:
        """Return the uploads that get a slot now; hosts take turns.

        Args:
            concurrency: slots there are.
        """
        taken: list[str] = []
        given = True
        while given:
            given = False
            for host, queue in list(self._waiting.items()):
                if self._by_host[host] >= concurrency - len(self._held):
                    continue
                upload_id = queue.popleft()
                if not queue:
                    del self._waiting[host]
                self._held[upload_id] = host
                self._by_host[host] += 1
                taken.append(upload_id)
                given = True
        return taken

    def release(self, upload_id: str) -> None:
        """Give the slot back."""
        host = self._held.pop(upload_id)
        self._by_host[host] -= 1
        if not self._by_host[host]:
            del self._by_host[host]
