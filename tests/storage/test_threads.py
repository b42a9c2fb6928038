"""The threads of a volume: nobody waits for a disk that is not his, and nothing is lost on the way."""

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from incomingd.storage.directory.threads import Threads

MOST = 4


@pytest.fixture
async def threads() -> AsyncIterator[Threads]:
    made = Threads(MOST, "test")
    yield made
    await asyncio.to_thread(made.close)


async def test_each_gets_what_its_own_call_returns_or_raises(threads: Threads) -> None:
    async def ask(number: int) -> float | str:
        try:
            return await threads.run(lambda: 12 / number)
        except ZeroDivisionError as error:
            return str(error)

    assert await asyncio.gather(*map(ask, range(5))) == ["division by zero", 12.0, 6.0, 4.0, 3.0]


async def test_calls_that_wait_for_nothing_share_a_thread(threads: Threads) -> None:
    idents = await asyncio.gather(*(threads.run(threading.get_ident) for _ in range(100)))
    assert len(set(idents)) < MOST


async def test_a_call_that_waits_holds_up_no_other(threads: Threads) -> None:
    """Every thread but the last may hang in a dead disk."""
    gate = threading.Event()
    hanging = [threads.run(gate.wait) for _ in range(MOST - 1)]
    try:
        async with asyncio.timeout(10):
            assert await threads.run(lambda: "done") == "done"
        assert not any(each.done() for each in hanging)
    finally:
        gate.set()
    assert await asyncio.gather(*hanging) == [True] * len(hanging)


async def test_no_more_calls_wait_at_once_than_may(threads: Threads) -> None:
    lock, now, most = threading.Lock(), 0, 0
    gate = threading.Semaphore(0)

    def call() -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        gate.acquire()
        with lock:
            now -= 1

    asked = [threads.run(call) for _ in range(3 * MOST)]
    while most < MOST:
        await asyncio.sleep(0.001)
    gate.release(len(asked))
    await asyncio.gather(*asked)
    assert most == MOST


async def test_what_is_cancelled_before_its_turn_does_not_begin(threads: Threads) -> None:
    gate = threading.Event()
    hanging = [threads.run(gate.wait) for _ in range(MOST)]
    begun: list[int] = []
    late = threads.run(begun.append, 1)
    late.cancel()
    gate.set()
    await asyncio.gather(*hanging, threads.run(begun.append, 2))
    assert begun == [2]


async def test_what_was_asked_for_is_done_before_the_end() -> None:
    threads = Threads(MOST, "test")
    done: list[int] = []
    asked = [threads.run(done.append, number) for number in range(50)]
    await asyncio.to_thread(threads.close)
    await asyncio.gather(*asked)
    assert sorted(done) == list(range(50))
    with pytest.raises(RuntimeError, match="closed"):
        _ = threads.run(done.append, 51)


async def test_what_is_asked_for_in_a_turn_of_the_loop_is_done_before_a_close_in_the_same() -> None:
    """The thread is only woken at the end of the turn."""
    threads = Threads(2, "closed at once")
    done: list[int] = []
    asked = threads.run(done.append, 1)
    threads.close()
    assert done == [1]
    await asked
