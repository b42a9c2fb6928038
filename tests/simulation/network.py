"""What lies between processes: messages of peers, and the registry's store, each with what can befall it."""

from __future__ import annotations

import asyncio
import copy
import json
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from incomingd.core.errors import Refusal
from incomingd.core.peering import (
    Act,
    Acted,
    Bequest,
    BytesWanted,
    Inherited,
    Question,
    Recall,
    Recalled,
    Recorded,
    Release,
    Voided,
)
from incomingd.core.tenure import Identity
from incomingd.peers.calls import (
    Document,
    PeerBody,
    PeerError,
    PeerGoneError,
    PeerRefusedError,
    PeerSilentError,
    Reply,
)
from incomingd.registry.memory import MemoryStore
from incomingd.registry.registry import RegistryUnavailableError, Trouble
from incomingd.registry.store import Entry, Sighting
from incomingd.storage.body import BodyCutError, CutReason
from incomingd.storage.volume import VolumeError
from tests.simulation.processes import HERE, outside
from tests.simulation.truth import BrokenError
from tests.simulation.wire import Server

if TYPE_CHECKING:
    from tests.simulation.fleet import Fleet, Process

T = TypeVar("T")

CALL_S = 5.0
PIECE_BYTES = 16


@dataclass
class Pick:
    """Messages that fare as somebody wants, not by chance."""

    what: str
    """They ask, or tell."""
    fate: str
    """``lost``, ``unanswered`` (it arrives, its answer does not), ``held`` (until it is delivered)."""
    count: float
    """So many."""


class Network:
    """How messages fare."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.slow_s = 0.02
        self.lost = 0.0
        """Share of messages, and of answers, that get lost."""
        self.late = 0.0
        """Share of messages that come long after nobody waits for them any more."""
        self.twice = 0.0
        """Share of messages that come again, later."""
        self.cut: set[frozenset[str]] = set()
        """Pairs of names that do not reach each other."""
        self.picked: list[Pick] = []
        self.held: dict[str, list[Callable[[], None]]] = {}
        """Messages that somebody holds back, by what they ask."""

    def heal(self) -> None:
        """Let every message arrive, once and soon."""
        self.lost = self.late = self.twice = 0.0
        self.cut.clear()
        self.picked.clear()

    def picks(self, what: str, arrive: Callable[..., None]) -> bool:
        """Have happen to a message what somebody wants of just such ones; return whether anybody does."""
        for pick in self.picked:
            if pick.what == what and pick.count > 0:
                pick.count -= 1
                if pick.fate == "held":
                    self.held.setdefault(what, []).append(lambda: arrive(answers=True))
                elif pick.fate == "unanswered":
                    outside(self.delay_s(), lambda: arrive(answers=False))
                return True
        return False

    def deliver(self, what: str) -> None:
        """Let the messages that were held back arrive."""
        for arrive in self.held.pop(what, []):
            arrive()

    def delay_s(self) -> float:
        return self.chance.expovariate(1 / self.slow_s)

    def happens(self, share: float) -> bool:
        return share > 0 and self.chance.random() < share

    def reaches(self, one: str, other: str) -> bool:
        return frozenset((one, other)) not in self.cut


class SimPeers:
    """See :class:`incomingd.peers.calls.Peers`; of one process."""

    def __init__(self, fleet: Fleet, process: Process) -> None:
        self._fleet = fleet
        self._own = process

    async def _call(
        self,
        peer: Identity,
        what: str,
        work: Callable[[Process], Awaitable[T]],
        *,
        within_s: float = CALL_S,
        passes: bool = False,
    ) -> T:
        """Have *work* done by the run that *peer* names; see the interface for what is raised.

        Args:
            peer: whom.
            what: is asked, for the story.
            work: at the other end.
            within_s: so long somebody waits for it.
            passes: a refusal goes on to whoever asked for this.
        """
        network = self._fleet.network
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        async def serve(target: Process, *, answers: bool) -> None:
            result = await _done(work, target)
            if answers and not network.happens(network.lost) and network.reaches(self._own.name, target.name):
                outside(network.delay_s(), _settle, answer, result)

        def arrive(*, answers: bool) -> None:
            target, gone = self._reached(peer)
            if target is not None:
                _ = target.spawn(serve(target, answers=answers), f"{what} from {self._own.name}")
            elif gone is not None:
                outside(network.delay_s(), _settle, answer, gone)

        if not network.picks(what, arrive) and not network.happens(network.lost):
            late = within_s + network.chance.uniform(0, 20) if network.happens(network.late) else 0.0
            outside(network.delay_s() + late, lambda: arrive(answers=True))
            if network.happens(network.twice):
                outside(network.chance.uniform(0.1, 15.0), lambda: arrive(answers=False))
        if not await self._own.clock.timeout(within_s, answer):
            self._fleet.tell(self._own, f"{what} to {peer.name}: no answer")
            raise PeerSilentError(f"{what}: no answer within {within_s:g} s")
        result = answer.result()
        if isinstance(result, Refusal) and not passes:
            result = PeerRefusedError(str(result))
        if isinstance(result, PeerError | Refusal):
            self._fleet.tell(self._own, f"{what} to {peer.name}: {result}")
            raise result
        return result  # type: ignore[no-any-return] # what `work` returned

    def _reached(self, peer: Identity) -> tuple[Process | None, PeerGoneError | None]:
        """Return who is there, or what is told instead; neither: nobody tells anything."""
        target = self._fleet.running.get(peer.name)
        if not self._fleet.network.reaches(self._own.name, peer.name):
            return None, None
        if target is None:
            return None, PeerGoneError("connection refused")
        if target.identity.start_id != peer.start_id:
            return None, PeerGoneError("another run answers")
        return target, None

    async def recall(self, owner: Identity, recall: Recall) -> Recalled:
        async def work(target: Process) -> Recalled:
            live = target.engine.keeper.find(recall.upload_id)
            before = live.record.epoch if live is not None else None
            recalled = await target.engine.recall(recall)
            self._fleet.tell(
                target, f"recall of {self._fleet.name_of(recall.upload_id)} {recall.epoch}: {recalled.value}"
            )
            if recalled is Recalled.PARKED and before is not None and before > recall.epoch:
                raise BrokenError(f"a recall of tenure {recall.epoch} has taken tenure {before} away")
            return recalled

        within_s = max(self._fleet.lease_s / 4, 0.5)
        return await self._call(owner, "recall", work, within_s=within_s)

    async def act(self, owner: Identity, act: Act) -> Acted:
        return await self._call(owner, f"act {act.name.value}", lambda target: target.engine.act(act), passes=True)

    async def ask(self, holder: Identity, question: Question) -> Reply:
        return await self._plain(holder, "question", lambda target: target.engine.giving.ask(question))

    async def void(self, holder: Identity, voided: Voided) -> None:
        await self._plain(holder, "void", lambda target: target.engine.giving.void(voided))

    async def recorded(self, holder: Identity, recorded: Recorded) -> None:
        await self._plain(holder, "recorded", lambda target: target.engine.giving.recorded(recorded))

    async def release(self, holder: Identity, release: Release) -> None:
        await self._plain(holder, "release", lambda target: target.engine.giving.release(release))

    async def inherit(self, heir: Identity, bequest: Bequest) -> Inherited:
        return await self._plain(heir, "bequest", lambda target: target.engine.inheriting.inherit(bequest))

    async def _plain(self, peer: Identity, what: str, work: Callable[[Process], Awaitable[T]]) -> T:
        return await self._call(peer, what, work)

    def read(self, holder: Identity, wanted: BytesWanted) -> PeerBody:
        return SimPeerBody(self, holder, wanted)

    async def piece(self, holder: Identity, wanted: BytesWanted) -> bytes:
        """Return bytes of a segment that lies with *holder*."""

        async def work(target: Process) -> bytes:
            size = wanted.stop - wanted.start
            return await target.peer_side.read_range(wanted.upload_id, wanted.segment, wanted.start, size)

        return await self._call(holder, "bytes", work)

    async def listing(self, peer: Identity, query: Mapping[str, object]) -> Document:
        return await self._plain(peer, "listing", lambda target: target.peer_side.listing(dict(query)))

    async def status(self, peer: Identity) -> Document:
        return await self._plain(peer, "status", lambda target: target.peer_side.status())


class SimPeerBody:
    """See :class:`incomingd.peers.calls.PeerBody`: pieces, each with its own fate."""

    def __init__(self, peers: SimPeers, holder: Identity, wanted: BytesWanted) -> None:
        self.failure: PeerError | None = None
        self._peers, self._holder, self._wanted = peers, holder, wanted
        self._at = wanted.start
        self._cut: CutReason | None = None

    @property
    def length(self) -> int:
        return self._wanted.stop - self._wanted.start

    async def read(self) -> bytes:
        if self._cut is None and self._at < self._wanted.stop:
            stop = min(self._at + PIECE_BYTES, self._wanted.stop)
            try:
                data = await self._peers.piece(self._holder, replace(self._wanted, start=self._at, stop=stop))
            except PeerError as error:
                self.failure, self._cut = error, CutReason.CLIENT
            else:
                if len(data) == stop - self._at:
                    self._at = stop
                    return data
                self.failure, self._cut = PeerRefusedError("fewer bytes than were asked for"), CutReason.CLIENT
        if self._cut is not None:
            raise BodyCutError(self._cut)
        return b""

    def cut(self, reason: CutReason) -> None:
        self._cut = self._cut or reason

    def kept(self, offset: int) -> None:
        pass


async def _done(work: Callable[[Process], Awaitable[T]], target: Process) -> T | Refusal | PeerError:
    """Return what came of it, as the answering side would tell it."""
    try:
        return await work(target)
    except Refusal as refusal:
        return refusal
    except VolumeError as error:
        return PeerRefusedError(str(error))


def _settle(answer: asyncio.Future[Any], result: object) -> None:
    if not answer.done():
        answer.set_result(result)


class Redis:
    """The store that all share, and what befalls it."""

    def __init__(self, fleet: Fleet, chance: random.Random) -> None:
        self._fleet = fleet
        self.chance = chance
        self.store = MemoryStore(lambda: asyncio.get_running_loop().time(), lambda: f"{chance.getrandbits(128):032x}")
        self.server: Server | None = None
        """Where processes speak to it as they do to a real one."""
        self._now_is = "up"
        self.loses_answers = 0.0
        self.forged = False
        self._replica: dict[str, Any] | None = None

    @property
    def state(self) -> str:
        """``up``, ``down``, ``hung``."""
        return self._now_is

    @state.setter
    def state(self, state: str) -> None:
        self._now_is = state
        if self.server is not None:
            self.server.changed()

    def heal(self) -> None:
        self.state, self.loses_answers = "up", 0.0

    async def forge(self, entry: Entry) -> None:
        """Have an ownership stand there that nobody has told."""
        _ = await self.store.publish([entry])

    def owners(self) -> dict[str, str]:
        """Return upload id -> start id of who is published as its owner."""
        return {each: str(json.loads(value)["start_id"]) for each, (value, _) in self.store._owners.items()}

    def stop_replicating(self) -> None:
        """From now on the replica gets nothing."""
        self._replica = copy.deepcopy(self._values())

    def fail_over(self) -> None:
        """The replica becomes the primary: what it did not get is lost."""
        if self._replica is not None:
            vars(self.store).update(copy.deepcopy(self._replica))
        self.store.run_id = f"{self.chance.getrandbits(128):032x}"
        self._replica = None
        if self.server is not None:
            self.server.drop_all()

    def _values(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self.store).items() if name not in ("_now", "_hints", "run_id")}


class SimStore:
    """One process's connection to it; see :class:`incomingd.registry.store.Store`."""

    def __init__(self, redis: Redis, process: Process) -> None:
        self._redis = redis
        self._process = process

    async def _do(self, work: Callable[[MemoryStore], Awaitable[T]]) -> T:
        redis = self._redis
        await asyncio.sleep(redis.chance.expovariate(1 / 0.002))
        if redis.state == "down":
            raise RegistryUnavailableError(Trouble.UNREACHABLE, "connection refused")
        if redis.state == "hung":
            await asyncio.sleep(1.0)
            raise RegistryUnavailableError(Trouble.TIMED_OUT, "no answer within 1 s")
        done = await work(redis.store)
        if redis.chance.random() < redis.loses_answers:
            await asyncio.sleep(1.0)
            raise RegistryUnavailableError(Trouble.TIMED_OUT, "no answer within 1 s")
        return done

    async def renew(self, lease_id: str, value: bytes, *, lease_s: float, fresh: str) -> Sighting:
        return await self._do(lambda store: store.renew(lease_id, value, lease_s=lease_s, fresh=fresh))

    async def leases(self) -> dict[str, bytes]:
        return await self._do(lambda store: store.leases())

    async def leave(self, lease_id: str, *, fresh: str) -> None:
        await self._do(lambda store: store.leave(lease_id, fresh=fresh))

    async def owner(self, upload_id: str) -> bytes | None:
        return await self._do(lambda store: store.owner(upload_id))

    async def publish(self, entries: Sequence[Entry]) -> list[bytes | None]:
        return await self._do(lambda store: store.publish(entries))

    async def correct(self, replaced: Entry, by: Entry) -> bytes | None:
        return await self._do(lambda store: store.correct(replaced, by))

    async def release(self, entries: Sequence[Entry]) -> None:
        await self._do(lambda store: store.release(entries))

    async def keyed(self, key: str) -> bytes | None:
        return await self._do(lambda store: store.keyed(key))

    async def bind_key(self, key: str, value: bytes, *, upload_id: str, instead_of: str, keep_s: float) -> bytes | None:
        return await self._do(
            lambda store: store.bind_key(key, value, upload_id=upload_id, instead_of=instead_of, keep_s=keep_s)
        )

    async def invite(self, lease_id: str, invitations: Mapping[str, bytes]) -> None:
        await self._do(lambda store: store.invite(lease_id, invitations))

    async def take(self, lease_id: str) -> dict[str, bytes]:
        return await self._do(lambda store: store.take(lease_id))

    async def listen(self, hint: Callable[[str], None]) -> None:
        def hinted(what: str) -> None:
            # Where it is heard, not where it was brought about.
            _ = asyncio.get_running_loop().call_soon(hint, what, context=self._process.gate.context.copy())

        await self._redis.store.listen(hinted)

    async def close(self) -> None:
        assert HERE.get() is not None
