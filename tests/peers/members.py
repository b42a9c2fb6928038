"""Instances of a fleet as far as the peer protocol goes: real listeners, real calls, and an engine that notes them."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tornado.web import Application

from incomingd.clock import SystemClock
from incomingd.config import Tls, TrustedProxies, parse_address
from incomingd.core.errors import Code, Refusal
from incomingd.core.peering import (
    Act,
    Acted,
    Bequest,
    Elsewhere,
    Given,
    Inherited,
    NotNow,
    Question,
    Recall,
    Recalled,
    Recorded,
    Release,
    Unknown,
    Voided,
)
from incomingd.core.record import Record, Terms
from incomingd.core.tenure import Claim, ClaimKind, Identity
from incomingd.daemon.listeners import Listener, ListenerOptions
from incomingd.peer_api import LISTENER_BODY_BYTES, PeerApi, routes
from incomingd.peers.http_peers import HttpPeers, PeersOptions
from incomingd.web.handler import UnknownPathHandler, log_nothing
from incomingd.web.proxies import TrustedPeers
from incomingd.wire.peer import Formats
from tests.support.machine import free_port

KEY = "a-key-of-the-fleet"
VOLUME = "vvvvvvvvvvvv"
UPLOAD = "u" * 43 + VOLUME
ME = Identity("me", "1" * 32, "http://127.0.0.1:1")
RECORD = Record(UPLOAD, Terms("https://app.example/done", "c2VjcmV0"), created_at=1.0, expires_at=2.0)
CLAIM = Claim(2, ME, "create", VOLUME, ClaimKind.PULL, "question")


class NotingEngine:
    """Answers with what it is told to, and notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[object] = []
        self.recalled = Recalled.PARKED
        self.reply: Given | Elsewhere | Unknown | NotNow = Unknown()
        self.fails: BaseException | None = None
        self.waits: asyncio.Event | None = None
        self.content = b""
        self.page: dict[str, object] = {"uploads": []}

    async def _note(self, asked: object) -> None:
        self.asked.append(asked)
        if self.waits is not None:
            await self.waits.wait()
        if self.fails is not None:
            raise self.fails

    async def recall(self, recall: Recall) -> Recalled:
        await self._note(recall)
        return self.recalled

    async def act(self, act: Act) -> Acted:
        await self._note(act)
        return Acted(RECORD, 7)

    async def ask(self, question: Question) -> Given | Elsewhere | Unknown | NotNow:
        await self._note(question)
        return self.reply

    async def inherit(self, bequest: Bequest) -> Inherited:
        await self._note(bequest)
        return Inherited(bequest.heir_volume_id or VOLUME)

    async def void(self, voided: Voided) -> None:
        await self._note(voided)

    async def recorded(self, recorded: Recorded) -> None:
        await self._note(recorded)

    async def release(self, release: Release) -> None:
        await self._note(release)

    async def read_range(self, upload_id: str, segment: str, start: int, size: int) -> bytes:
        await self._note((upload_id, segment, start, size))
        return self.content[start : start + size]

    async def listing(self, query: dict[str, object]) -> dict[str, object]:
        await self._note(query)
        return self.page

    async def status(self) -> dict[str, object]:
        await self._note("status")
        return {"instance": "it"}


class ShiftedClock(SystemClock):
    """Goes wrong by `off_s`."""

    off_s = 0.0

    def now(self) -> float:
        return super().now() + self.off_s


@dataclass
class Member:
    """One instance: it answers, and it calls."""

    engine: NotingEngine
    api: PeerApi
    peers: HttpPeers
    listener: Listener
    identity: Identity
    clock: ShiftedClock
    port: int
    closes: list[Callable[[], None]] = field(default_factory=list)

    def set_keys(self, *keys: str) -> None:
        """Do what a reload does."""
        self.api.keys = keys
        self.peers.apply(PeersOptions(keys=keys, **_SHORT), self.peers.connections.tls)

    async def stop_listening(self) -> None:
        self.listener.stop()
        await self.listener.close()


_SHORT: dict[str, Any] = {"recall_s": 5.0, "call_s": 5.0, "stall_s": 5.0}


@asynccontextmanager
async def member(
    *,
    name: str = "it",
    start_id: str = "2" * 32,
    keys: tuple[str, ...] = (KEY,),
    port: int = 0,
    tls: Tls | None = None,
    ca: ssl.SSLContext | None = None,
    host: str = "127.0.0.1",
    formats: Formats | None = None,
    spoken: Callable[[], int] | None = None,
) -> AsyncIterator[Member]:
    """Run one."""
    clock = ShiftedClock()
    engine = NotingEngine()
    port = port or free_port()
    scheme = "http" if tls is None else "https"
    identity = Identity(name, start_id, f"{scheme}://{host}:{port}")
    api = PeerApi(engine, start_id=start_id, keys=keys, clock=clock, formats=formats)
    trusted = TrustedPeers(TrustedProxies(()), setting="none")
    application = Application(
        list(routes(api)),
        default_handler_class=UnknownPathHandler,
        trusted=trusted,
        close_after_answer=lambda: False,
        log_function=log_nothing,
    )
    listener = Listener(
        "peer",
        parse_address(f"127.0.0.1:{port}"),
        application,
        tls=tls or Tls(),
        options=ListenerOptions(
            header_bytes=16 * 1024,
            idle_timeout_s=75,
            body_bytes=LISTENER_BODY_BYTES,
            connections_max=100,
            trusts=lambda _: False,
            clock=clock,
        ),
    )
    listener.bind()
    listener.start()
    peers = HttpPeers(
        clock,
        PeersOptions(keys=keys, **_SHORT),
        # To read whom the machine trusts takes longer than most tests; the one that needs it says so.
        tls=ca or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        format_spoken=spoken,
        formats=formats,
    )
    try:
        yield Member(engine, api, peers, listener, identity, clock, port)
    finally:
        await peers.close()
        listener.stop()
        await listener.close()
        await clock.close()


STORAGE_FAILS = Refusal(Code.STORAGE_UNAVAILABLE, "the disk says nothing")
