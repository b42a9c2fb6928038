"""Many small calls go as few large ones; none waits for company, and none is lost with another's."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from incomingd.registry.batching import Batch
from incomingd.registry.registry import RegistryUnavailableError, Trouble


class Server:
    """Answers each entry with itself and a half, when it may."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.open = asyncio.Event()

    async def __call__(self, entries: Sequence[int]) -> list[float]:
        self.calls.append(list(entries))
        await self.open.wait()
        if -1 in entries:
            raise RegistryUnavailableError(Trouble.TIMED_OUT, "no")
        return [entry + 0.5 for entry in entries]


async def test_what_is_asked_meanwhile_goes_together() -> None:
    """One call for the first, which does not wait; one for all the others, each with an answer of its own."""
    server = Server()
    batch = Batch(server, most=100)
    first = asyncio.create_task(batch.ask(0))
    while not server.calls:
        await asyncio.sleep(0)
    others = [asyncio.create_task(batch.ask(entry)) for entry in (1, 2, 3)]
    await asyncio.sleep(0)
    server.open.set()
    assert await asyncio.gather(first, *others) == [0.5, 1.5, 2.5, 3.5]
    assert server.calls == [[0], [1, 2, 3]]


async def test_a_call_has_so_many_entries_at_the_most() -> None:
    """More go with the next ones."""
    server = Server()
    server.open.set()
    batch = Batch(server, most=3)
    assert await asyncio.gather(*(batch.ask(each) for each in range(10))) == [each + 0.5 for each in range(10)]
    assert all(len(call) <= 3 for call in server.calls)


async def test_a_failure_is_told_to_all_that_went_with_it() -> None:
    """And to nobody else."""
    server = Server()
    batch = Batch(server, most=100)
    first = asyncio.create_task(batch.ask(-1))
    while not server.calls:
        await asyncio.sleep(0)
    second = asyncio.create_task(batch.ask(2))
    server.open.set()
    with pytest.raises(RegistryUnavailableError, match="no"):
        await first
    assert await second == 2.5


async def test_who_is_cancelled_takes_nobody_along() -> None:
    """Whoever makes the call for others may go: they make it themselves."""
    server = Server()
    batch = Batch(server, most=100)
    tasks = [asyncio.create_task(batch.ask(entry)) for entry in (1, 2, 3)]
    while not server.calls:
        await asyncio.sleep(0)
    tasks[0].cancel()
    server.open.set()
    assert await asyncio.gather(*tasks[1:]) == [2.5, 3.5]
    assert tasks[0].cancelled()
