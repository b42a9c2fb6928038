"""The heir of a volume that goes for good: what it keeps, what it leaves alone, when it answers, when it refuses."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from incomingd.core import ids
from incomingd.core.errors import Code
from incomingd.core.peering import Bequest, Elsewhere, Given, Inherited, NotNow, Question, Unknown
from incomingd.core.record import Delivery, Record
from incomingd.core.status import Status
from incomingd.core.tenure import Claim, ClaimKind, Identity
from incomingd.storage.memory import MemoryDisk, MemoryVolume
from tests.engine.logs import Logged
from tests.engine.world import VOLUME_ID, World, new_terms, refused
from tests.support.virtual import settle, virtual

GONE = "Volume000009"
"""The volume that retires."""
THIRD = "Volume000003"
TAKER = Identity("taker", "start-9", "taker.example:1")
ASKER = Identity("asker", "start-8", "asker.example:1")

_runs = itertools.count(1)


def heir() -> World:
    """Return a fleet's instance whose volume is its own; it is not started."""
    disk = MemoryDisk(VOLUME_ID)

    def opened() -> MemoryVolume:
        return disk.open(shared=True, start_id=f"start-{next(_runs)}")

    world = World(volume=opened)
    world.disk = disk
    return world


def left(number: int, *, to: str = THIRD, owner: Identity = TAKER, **changes: object) -> Given:
    """Return an upload that was born on the volume that retires, and given to *to*."""
    record = Record(
        upload_id=ids.upload_id(number, GONE), terms=new_terms(), created_at=1.0, expires_at=9e9, epoch=3, create_id="c"
    )
    record = dataclasses.replace(record, **changes)  # type: ignore[arg-type] # by name
    return Given(Claim(4, owner, f"given {number}", to, ClaimKind.PULL, "q"), record)


def ended(number: int, *notifications: Delivery) -> Given:
    """Return an upload that has ended, given to the heir."""
    return left(number, to=VOLUME_ID, status=Status.CANCELLED, ended_at=1.0, notifications=notifications)


def piece(*givens: Given, volumes: tuple[str, ...] = ()) -> Bequest:
    return Bequest(GONE, VOLUME_ID, givens, volumes)


def asked(given: Given) -> Question:
    return Question(given.record.upload_id, "", ASKER, "Volume000007")


@virtual
async def test_it_tells_to_whom_an_upload_was_given() -> None:
    world, given = heir(), left(1)
    world.start()
    assert await world.engine.inheriting.inherit(piece(given)) == Inherited(VOLUME_ID)
    for _ in range(2):
        assert await world.engine.giving.ask(asked(given)) == Elsewhere(TAKER, 4, THIRD)
        # Repeats change nothing, nor does a restart.
        await world.engine.inheriting.inherit(piece(given))
        await world.restart()
    await world.stop()


@virtual
async def test_what_has_ended_is_its_own_from_then_on() -> None:
    """It answers from the record, and makes the callback that was not made yet."""
    world = heir()
    world.start()
    quiet, telling = ended(1), ended(2, Delivery("upload.cancelled", "msg_1", next_attempt_at=1.0))
    await world.engine.inheriting.inherit(piece(quiet, telling))
    await world.clock.sleep(5.0)
    assert world.app.ids_of("upload.cancelled") == ["msg_1"]
    await world.engine.inheriting.inherit(piece(quiet, telling))
    await world.clock.sleep(5.0)
    assert world.app.ids_of("upload.cancelled") == ["msg_1"]
    for given in (quiet, telling):
        assert (await world.engine.view(given.record.upload_id)).record.status is Status.CANCELLED
        reply = await world.engine.giving.ask(asked(given))
        assert isinstance(reply, Elsewhere)
        assert (reply.owner, reply.volume_id, reply.keeps) == (world.engine.services.identity, VOLUME_ID, True)
    await world.stop()


@virtual
async def test_an_upload_that_came_here_long_ago_is_not_brought_back() -> None:
    """It was given to the heir while it was open, has ended and is forgotten since: its old record counts no more."""
    world, old = heir(), left(1, to=VOLUME_ID)
    world.start()
    await world.engine.inheriting.inherit(piece(old, volumes=(GONE,)))
    assert world.disk.uploads.names == {}
    with refused(Code.UPLOAD_UNKNOWN):
        await world.engine.view(old.record.upload_id)
    await world.stop()


@virtual
async def test_what_it_does_not_find_is_unknown_once_it_has_everything() -> None:
    """Before that it may be in a piece that has not come."""
    world, never, given = heir(), left(1), left(2)
    world.start()
    await world.engine.inheriting.inherit(piece(given))
    assert isinstance(await world.engine.giving.ask(asked(never)), NotNow)
    with refused(Code.UPLOAD_OUT_OF_REACH):
        await world.engine.view(never.record.upload_id)
    assert GONE not in world.registry.instance.volumes
    # It retires with what it was heir of itself.
    await world.engine.inheriting.inherit(piece(volumes=(GONE, "Volume000005")))
    assert world.registry.instance.volumes == {VOLUME_ID, GONE, "Volume000005"}
    assert isinstance(await world.engine.giving.ask(asked(never)), Unknown)
    with refused(Code.UPLOAD_UNKNOWN):
        await world.engine.view(never.record.upload_id)
    assert isinstance(await world.engine.giving.ask(asked(given)), Elsewhere)
    await world.stop()


@virtual
async def test_who_shares_the_heirs_volume_answers_too() -> None:
    world = heir()
    world.start()
    other = world.disk.open(shared=True, start_id="other")
    await other.inherit([GONE])
    watching = world.clock.spawn(world.engine.inheriting.run(), name="heirdoms")
    await world.clock.sleep(11.0)
    assert GONE in world.registry.instance.volumes
    watching.cancel()
    await settle()
    await world.stop()


@pytest.mark.parametrize(
    "why, code",
    [("draining", Code.STOPPING), ("full", Code.STORAGE_FULL), ("moved", Code.NOT_READY), ("own", Code.NO_HEIR)],
)
@virtual
async def test_who_cannot_keep_it_says_so(why: str, code: Code, logged: Logged) -> None:
    """Then whoever retires keeps it, and asks somebody else."""
    world, bequest = heir(), piece(left(1), ended(2), volumes=(GONE,))
    world.start()
    if why == "draining":
        world.engine.state.drain()
    elif why == "full":
        world.disk.free_bytes = 0
    elif why == "moved":
        bequest = dataclasses.replace(bequest, heir_volume_id=THIRD)
    else:
        bequest = dataclasses.replace(bequest, volume_id=VOLUME_ID)
    with refused(code):
        await world.engine.inheriting.inherit(bequest)
    await settle()
    assert world.disk.heir_of == frozenset()
    assert logged.of("volume.inherited") == []
    logged.expect(*(["volume.filled"] if why == "full" else []))
    world.disk.free_bytes = None
    await world.stop()
