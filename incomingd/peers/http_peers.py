"""Peers over HTTP: what :class:`incomingd.peers.calls.Peers` promises, for a fleet."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

from incomingd.core.errors import Code, Refusal
from incomingd.core.peering import Acted, Elsewhere, Given, Inherited, NotNow, Recalled, Unknown
from incomingd.metrics import Metrics
from incomingd.peers.calls import PeerError, PeerGoneError, PeerRefusedError, PeerSilentError
from incomingd.peers.connections import Connections, StaleError, is_peer_url, stays_here
from incomingd.storage.body import BodyCutError, CutReason
from incomingd.wire import peer_signing as signing
from incomingd.wire.peer import (
    ANSWER_BYTES_MAX,
    MESSAGE_NAMES,
    Done,
    Formats,
    ListingWanted,
    Page,
    Refused,
    StatusWanted,
    name_of,
)

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine, Mapping
    from pathlib import Path

    from incomingd.clock import Clock
    from incomingd.core.peering import Act, Bequest, BytesWanted, Question, Recall, Recorded, Release, Voided
    from incomingd.core.tenure import Identity
    from incomingd.peers.calls import Document, Reply
    from incomingd.peers.connections import Connection, Head
    from incomingd.wire.peer import Answer, Message
    from incomingd.wire.peer_signing import Envelope

T = TypeVar("T")

GRACE_S: Final = 0.1
"""Where this process itself stalled, the answer may be there and not yet read."""


@dataclass(frozen=True, slots=True)
class PeersOptions:
    """Replaced as a whole when the configuration is read again."""

    keys: tuple[str, ...] = field(repr=False)
    """`peer.keys`; the first one signs."""
    allow_plaintext: bool = False
    """`peer.allow_plaintext`"""
    recall_s: float = 5.0
    """Until a recall counts as unanswered: one lease time."""
    call_s: float = 15.0
    """The same for all other calls. Longer than a web app's act may be held on the other side."""
    stall_s: float = 15.0
    """The same for each piece of a stream."""


def tls_context(ca: Path | None) -> ssl.SSLContext:
    """Return how certificates of peers are checked.

    Args:
        ca: `peer.tls.ca`; None: whom this machine trusts.

    Raises:
        OSError, ssl.SSLError: it cannot be read.
    """
    context = ssl.create_default_context(cafile=ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


class HttpPeers:
    """The other instances, over HTTP.

    Args:
        clock: time, randomness, tasks.
        options: see there.
        tls: from :func:`tls_context`.
        format_spoken: tells the format that all who live understand.
        formats: those that this program knows.
        metrics: told of each call.
    """

    def __init__(
        self,
        clock: Clock,
        options: PeersOptions,
        *,
        tls: ssl.SSLContext,
        format_spoken: Callable[[], int] | None = None,
        formats: Formats | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self.metrics = metrics or Metrics(version="", instance="")
        self.metrics.peer_messages(MESSAGE_NAMES)
        assert options.keys, "a fleet has a key"
        self.options = options
        self.formats = formats or Formats()
        self.clock = clock
        self.connections = Connections(clock, tls)
        self.format_spoken = format_spoken or (lambda: self.formats.known.newest)

    def apply(self, options: PeersOptions, tls: ssl.SSLContext) -> None:
        """Work with other options from now on; calls that are under way end as they began."""
        assert options.keys, "a fleet has a key"
        self.options = options
        self.connections.tls = tls
        self.connections.drop_idle()

    async def close(self) -> None:
        """Close what is open and not in use."""
        self.connections.close()

    # -- calls

    async def recall(self, owner: Identity, recall: Recall) -> Recalled:
        """Ask *owner* to park an upload."""
        return _expected(Recalled, await self._call(owner, recall, within_s=self.options.recall_s))

    async def act(self, owner: Identity, act: Act) -> Acted:
        """Have something done to an upload by its owner."""
        answer = await self._call(owner, act, within_s=self.options.call_s)
        if isinstance(answer, Refused) and answer.understood and answer.refusal.code is not Code.INTERNAL_ERROR:
            raise answer.refusal
        return _expected(Acted, answer)

    async def ask(self, holder: Identity, question: Question) -> Reply:
        """Ask *holder* to give an upload."""
        answer = await self._call(holder, question, within_s=self.options.call_s)
        if isinstance(answer, Given | Elsewhere | Unknown | NotNow):
            return answer
        raise _unexpected(answer)

    async def void(self, holder: Identity, voided: Voided) -> None:
        """Say that what was given is not taken."""
        _expected(Done, await self._call(holder, voided, within_s=self.options.call_s))

    async def recorded(self, holder: Identity, recorded: Recorded) -> None:
        """Say that what was given is taken."""
        _expected(Done, await self._call(holder, recorded, within_s=self.options.call_s))

    async def release(self, holder: Identity, release: Release) -> None:
        """Say which segments nobody needs any more."""
        _expected(Done, await self._call(holder, release, within_s=self.options.call_s))

    async def inherit(self, heir: Identity, bequest: Bequest) -> Inherited:
        """Have *heir* keep what is left on a volume that goes for good."""
        return _expected(Inherited, await self._call(heir, bequest, within_s=self.options.call_s))

    def read(self, holder: Identity, wanted: BytesWanted) -> HttpPeerBody:
        """Return bytes of a segment."""
        return HttpPeerBody(self, holder, wanted)

    async def listing(self, peer: Identity, query: Mapping[str, object]) -> Document:
        """Return a page of the uploads that *peer* looks after."""
        wanted = ListingWanted(dict(query))
        return _expected(Page, await self._call(peer, wanted, within_s=self.options.call_s)).document

    async def status(self, peer: Identity) -> Document:
        """Return what *peer* says of itself."""
        return _expected(Page, await self._call(peer, StatusWanted(), within_s=self.options.call_s)).document

    async def _call(self, peer: Identity, message: Message, *, within_s: float) -> Answer:
        url = self.url_of(peer)
        began = self.clock.monotonic()
        result = "silent"
        try:
            answer = await self.within(within_s, self._asked(url, peer, message), what=f"{url} has not answered")
            result = "failed" if isinstance(answer, Refused) else "answered"
            return answer
        except PeerError as error:
            result = result_of(error)
            raise
        finally:
            duration_s = self.clock.monotonic() - began
            self.metrics.peer_called(message=name_of(message), result=result, duration_s=duration_s)

    async def _asked(self, url: str, peer: Identity, message: Message) -> Answer:
        async with self.connections.turn(url):
            version = self.format_spoken()
            answer = await self._answered(url, peer, message, version)
            if self.repeats(answer, version):
                answer = await self._answered(url, peer, message, self.formats.known.oldest)
            return answer

    async def _answered(self, url: str, peer: Identity, message: Message, version: int) -> Answer:
        call = await self.sent(url, peer, message, version)
        try:
            return await self.answer_to(call)
        except BaseException:
            call.connection.close()
            raise

    def repeats(self, answer: Answer, version: int) -> bool:
        """Whether a call of format *version* is made again in the former one.

        Its peer reads no newer: it has come just now, and the registry has not told of it yet. Nothing was done.
        """
        unread = isinstance(answer, Refused) and answer.refusal.code is Code.PEER_FORMAT_UNKNOWN
        if not unread or version == self.formats.known.oldest:
            return False
        self.metrics.peer_call_repeated("format")
        return True

    # -- what calls and streams share

    def url_of(self, peer: Identity) -> str:
        """Return where *peer* is.

        Raises:
            PeerRefusedError: it has told nothing that can be used.
        """
        url = peer.address
        if not is_peer_url(url):
            raise PeerRefusedError(f"{peer.name} has told no address")
        if url.startswith("http://") and not (self.options.allow_plaintext or stays_here(url)):
            raise PeerRefusedError(f"{url} is plain text: see peer.allow_plaintext")
        return url

    async def sent(self, url: str, peer: Identity, message: Message, version: int) -> _Call:
        """Send *message* in format *version*; return what the head of its answer says.

        A connection that had ended is replaced.
        All messages may be repeated, and a message that nobody answered was not taken by a listener that lives.
        """
        while True:
            connection = await self.connections.take(url)
            try:
                return await self._send(connection, url, peer, message, version)
            except StaleError:
                self.metrics.peer_call_repeated("connection")
                continue
            except BaseException:
                connection.close()
                raise

    async def _send(self, connection: Connection, url: str, peer: Identity, message: Message, version: int) -> _Call:
        body = self.formats.call(message, version)
        # A key that is changed meanwhile still fits the answer.
        key = self.options.keys[0]
        envelope = signing.new_envelope(
            name_of(message),
            to=peer.start_id,
            random_bits=self.clock.random_bits(signing.NONCE_BITS),
            now=self.clock.now(),
        )
        headers = {
            "Host": url.partition("://")[2],
            "Content-Type": "application/json",
            **signing.call_headers(envelope, key, body),
        }
        head = await connection.send(envelope.path, headers, body)
        return _Call(url, peer, connection, head, envelope, key)

    async def answer_to(self, call: _Call) -> Answer:
        """Read an answer that does not stream, and give its connection back.

        Raises:
            PeerError: nobody who has the key has given it, or it is none.
        """
        head = call.head
        if head.status == 401:
            raise PeerRefusedError(f"{call.url} does not take this instance for a peer: see peer.keys, and the clocks")
        if head.size > ANSWER_BYTES_MAX:
            raise PeerRefusedError(f"{call.url} answers with {head.size} bytes")
        body = await call.connection.read(head.size)
        try:
            by = signing.check_answer(call.envelope, call.key, head.get, status=head.status, body=body)
            answer = self.formats.read_answer(body)
        except signing.UnsignedError as error:
            raise PeerRefusedError(f"{call.url}: {error}") from error
        except Refusal as error:
            raise PeerRefusedError(f"{call.url} says what this version does not understand: {error.detail}") from error
        self.connections.put_back(call.url, call.connection, head)
        if by != call.peer.start_id or (isinstance(answer, Refused) and answer.refusal.code is Code.PEER_OTHER_RUN):
            raise PeerGoneError(f"another run answers at {call.url}")
        return answer

    async def within(
        self,
        duration_s: float,
        work: Coroutine[Any, Any, T],
        *,
        what: str,
        started: Callable[[asyncio.Task[None]], None] | None = None,
    ) -> T:
        """Return what *work* returns.

        Args:
            duration_s: so long it may take.
            work: what is done.
            what: the beginning of a sentence, should it not end in time.
            started: gets the task, by which it can be cancelled.

        Raises:
            PeerSilentError: it has not ended in time.
            PeerError, Refusal: that of *work*.
        """
        results: list[T] = []
        failures: list[PeerError | Refusal] = []

        async def run() -> None:
            try:
                results.append(await work)
            except (PeerError, Refusal) as error:
                failures.append(error)

        running = self.clock.spawn(run(), name="peers.call")
        if started is not None:
            started(running)
        try:
            if not (await self.clock.timeout(duration_s, running) or await self.clock.timeout(GRACE_S, running)):
                raise PeerSilentError(f"{what} within {duration_s:g} s")
        finally:
            running.cancel()
        if failures:
            raise failures[0]
        if running.cancelled():
            raise PeerSilentError(f"{what}: nobody waits for it any more")
        running.result()
        return results[0]


@dataclass(frozen=True, slots=True)
class _Call:
    """A call whose answer has begun."""

    url: str
    peer: Identity
    connection: Connection
    head: Head
    envelope: Envelope
    key: str


class HttpPeerBody:
    """Bytes of a segment that lies with a peer; see :class:`incomingd.peers.calls.PeerBody`."""

    def __init__(self, peers: HttpPeers, holder: Identity, wanted: BytesWanted) -> None:
        self.failure: PeerError | None = None
        self._peers = peers
        self._holder = holder
        self._wanted = wanted
        self._size = wanted.stop - wanted.start
        self._at = 0
        self._call: _Call | None = None
        self._cut: CutReason | None = None
        self._reading: asyncio.Task[None] | None = None

    @property
    def length(self) -> int:
        """How many bytes were asked for; never fewer come, without a word."""
        return self._size

    async def read(self) -> bytes:
        """Return the next bytes, checked; ``b""`` behind the last one."""
        if self._cut is None and self._at < self._size:
            try:
                piece = await self._peers.within(
                    self._peers.options.stall_s,
                    self._next(),
                    what=f"{self._holder.name} has sent nothing",
                    started=self._started,
                )
            except PeerError as error:
                self._fail(error)
            else:
                if self._cut is None:
                    return piece
        if self._cut is not None:
            raise BodyCutError(self._cut)
        return b""

    def cut(self, reason: CutReason) -> None:
        """End it now."""
        if self._cut is None:
            self._cut = reason
            self._drop()
            if self._reading is not None:
                self._reading.cancel()

    def _started(self, reading: asyncio.Task[None]) -> None:
        self._reading = reading

    def kept(self, offset: int) -> None:
        """Do nothing: the other side does not wait for this."""

    def _fail(self, error: PeerError) -> None:
        if self._cut is None:
            self.failure = error
            self._peers.metrics.peer_called(message=name_of(self._wanted), result=result_of(error), duration_s=None)
            self.cut(CutReason.STALLED if isinstance(error, PeerSilentError) else CutReason.CLIENT)

    def _drop(self) -> None:
        if self._call is not None:
            self._call.connection.close()
            self._call = None

    async def _next(self) -> bytes:
        peers, call = self._peers, self._call
        if call is None:
            call = self._call = await self._begun(peers.format_spoken())
        size = min(signing.PIECE_BYTES, self._size - self._at)
        data = await call.connection.read(size + signing.CODE_BYTES)
        piece = data[:size]
        try:
            signing.check_piece(call.envelope, call.key, self._at, piece, data[size:])
        except signing.UnsignedError as error:
            raise PeerRefusedError(f"{call.url}: {error}") from error
        self._at += size
        peers.metrics.peer_bytes("received", self._wanted.reason, size)
        if self._at == self._size:
            self._call = None
            peers.metrics.peer_called(message=name_of(self._wanted), result="answered", duration_s=None)
            peers.connections.put_back(call.url, call.connection, call.head)
        return piece

    async def _begun(self, version: int) -> _Call:
        peers = self._peers
        call = await peers.sent(peers.url_of(self._holder), self._holder, self._wanted, version)
        try:
            if call.head.status == 200:
                self._check(call)
                return call
            refused = await peers.answer_to(call)
        except BaseException:
            call.connection.close()
            raise
        if peers.repeats(refused, version):
            return await self._begun(peers.formats.known.oldest)
        raise _unexpected(refused)

    def _check(self, call: _Call) -> None:
        try:
            by = signing.check_answer(call.envelope, call.key, call.head.get, status=200, body=None, size=self._size)
        except signing.UnsignedError as error:
            raise PeerRefusedError(f"{call.url}: {error}") from error
        if call.head.size != signing.streamed_bytes(self._size):
            raise PeerRefusedError(f"{call.url} sends {call.head.size} bytes, and not those that were asked for")
        if by != self._holder.start_id:
            raise PeerGoneError(f"another run answers at {call.url}")


def result_of(error: PeerError) -> str:
    """Return what has come of a call, as metrics say it."""
    if isinstance(error, PeerGoneError):
        return "gone"
    return "refused" if isinstance(error, PeerRefusedError) else "silent"


def _expected(kind: type[T], answer: Answer) -> T:
    if isinstance(answer, kind):
        return answer
    raise _unexpected(answer)


def _unexpected(answer: Answer) -> PeerError:
    if not isinstance(answer, Refused):
        return PeerRefusedError(f"an answer to another question: {type(answer).__name__}")
    refusal = answer.refusal
    said = f"{refusal.code.value}: {refusal.detail}"
    # A peer that is overloaded, or whose disk does not answer, may have begun to do it.
    if answer.understood or refusal.problem.status >= 500:
        return PeerSilentError(f"the peer cannot: {said}")
    return PeerRefusedError(f"the peer does not understand: {said}")
