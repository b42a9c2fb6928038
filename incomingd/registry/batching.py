"""Many small calls as few large ones, without making a single one wait."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

from incomingd.registry.registry import RegistryUnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

E = TypeVar("E")
A = TypeVar("A")


class Batch(Generic[E, A]):
    """What is asked while a call is under way goes together with the next one.

    Args:
        send: makes one call for some entries; returns an answer for each, in their order.
        most: entries of one call.
    """

    def __init__(self, send: Callable[[Sequence[E]], Awaitable[Sequence[A]]], *, most: int) -> None:
        self._send = send
        self._most = most
        self._waiting: deque[tuple[E, asyncio.Future[A]]] = deque()
        self._turn = asyncio.Lock()

    async def ask(self, entry: E) -> A:
        """Return the answer for *entry*.

        Raises:
            RegistryUnavailableError: of the call with which it went.
        """
        answer: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        self._waiting.append((entry, answer))
        async with self._turn:
            # Whoever had the turn before may have asked for this one, too.
            if not answer.done():
                await self._call([self._waiting.popleft() for _ in range(min(len(self._waiting), self._most))])
        return await answer

    async def _call(self, batch: list[tuple[E, asyncio.Future[A]]]) -> None:
        try:
            answers = await self._send([entry for entry, _ in batch])
        except RegistryUnavailableError as error:
            for _, answer in batch:
                if not answer.done():
                    answer.set_exception(error)
                    # One that nobody waits for any more is no fault of the program.
                    answer.exception()
            return
        except BaseException:
            # Of who has the turn, such as its being cancelled: the others have a turn of their own yet.
            self._waiting.extendleft(reversed(batch))
            raise
        for (_, answer), found in zip(batch, answers, strict=True):
            if not answer.done():
                answer.set_result(found)
