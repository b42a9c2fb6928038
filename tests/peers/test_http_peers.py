"""What a caller hears of its peers, over real connections: the answer, or what of three things went wrong."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trustme
from prometheus_client.parser import text_string_to_metric_families

from incomingd.config import Tls
from incomingd.core.errors import Code, Refusal
from incomingd.core.formats import FORMER
from incomingd.core.peering import (
    Act,
    Acted,
    ActName,
    Bequest,
    BytesWanted,
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
from incomingd.core.tenure import Identity
from incomingd.peers.calls import PeerError, PeerGoneError, PeerRefusedError, Peers, PeerSilentError
from incomingd.peers.http_peers import HttpPeers, tls_context
from incomingd.wire.peer import Formats
from tests.engine.logs import Logged
from tests.peers.members import CLAIM, KEY, ME, RECORD, STORAGE_FAILS, UPLOAD, VOLUME, Member, member
from tests.support.machine import free_port

THIRD = Identity("third", "3" * 32, "http://127.0.0.1:3")
RECALL = Recall(UPLOAD, 3, ME)
OTHER_KEY = "the-key-of-another-fleet"


@pytest.fixture
async def it() -> AsyncIterator[Member]:
    async with member() as running:
        yield running


@asynccontextmanager
async def talking(
    say: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[Identity]:
    """Have something answer that is no instance; gives whom one would take it for."""
    port = free_port()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await say(reader, writer)
        except (ConnectionError, EOFError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", port)
    try:
        yield Identity("it", "2" * 32, f"http://127.0.0.1:{port}")
    finally:
        server.close()
        await server.wait_closed()


async def read_message(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    return head + await reader.readexactly(length)


async def pass_on(call: bytes, port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(call)
        return await read_message(reader)
    finally:
        writer.close()
        await writer.wait_closed()


def saying(text: bytes) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(text)
        await writer.drain()

    return say


# -------------------------------------------------------------------------------------------------------------- answers


async def test_each_call_arrives_and_its_answer_comes_back(it: Member) -> None:
    peers: Peers = it.peers
    for recalled in Recalled:
        it.engine.recalled = recalled
        assert await peers.recall(it.identity, RECALL) is recalled
    act = Act(UPLOAD, ActName.CANCEL, {"reason": "changed my mind"})
    assert await peers.act(it.identity, act) == Acted(RECORD, 7)
    question = Question(UPLOAD, "q", ME, VOLUME)
    for reply in (Given(CLAIM, RECORD), Elsewhere(THIRD, 4, VOLUME), Unknown(), NotNow("later")):
        it.engine.reply = reply
        assert await peers.ask(it.identity, question) == reply
    voided, recorded, release = Voided(UPLOAD, "q", 4), Recorded(UPLOAD, 4), Release(UPLOAD, ("bytes.1",))
    await peers.void(it.identity, voided)
    await peers.recorded(it.identity, recorded)
    await peers.release(it.identity, release)
    bequest = Bequest("w" * 12, VOLUME, (Given(CLAIM, RECORD),), ("w" * 12,))
    assert await peers.inherit(it.identity, bequest) == Inherited(VOLUME)
    assert await peers.listing(it.identity, {"status": ["open"]}) == it.engine.page
    assert await peers.status(it.identity) == {"instance": "it"}
    assert it.engine.asked == [
        *[RECALL] * 3,
        act,
        *[question] * 4,
        voided,
        recorded,
        release,
        bequest,
        {"status": ["open"]},
        "status",
    ]


async def test_the_owners_refusal_of_an_act_is_raised_here(it: Member) -> None:
    it.engine.fails = Refusal(Code.TOO_LATE, "it is finished", retry_after_s=3, extra={"status_of_upload": "finished"})
    with pytest.raises(Refusal) as refused:
        await it.peers.act(it.identity, Act(UPLOAD, ActName.CANCEL))
    said = refused.value
    assert (said.code, said.detail, said.retry_after_s) == (Code.TOO_LATE, "it is finished", 3)
    assert said.extra == {"status_of_upload": "finished"}


async def test_whoever_cannot_do_what_is_asked_may_have_begun(it: Member) -> None:
    it.engine.fails = STORAGE_FAILS
    for call in (it.peers.recall(it.identity, RECALL), it.peers.status(it.identity)):
        with pytest.raises(PeerSilentError, match="storage_unavailable: the disk says nothing"):
            await call


async def test_a_mistake_of_the_other_side_is_a_silence_without_its_traceback(it: Member, logged: Logged) -> None:
    logged.expect("request.failed")
    it.engine.fails = ZeroDivisionError("secret of the other side")
    with pytest.raises(PeerSilentError) as silent:
        await it.peers.act(it.identity, Act(UPLOAD, ActName.CANCEL))
    assert "secret" not in str(silent.value)
    assert len(logged.of("request.failed")) == 1


# ----------------------------------------------------------------------------------------------------------------- gone


async def test_whose_address_refuses_is_gone(it: Member) -> None:
    await it.stop_listening()
    with pytest.raises(PeerGoneError, match="refuses connections"):
        await it.peers.recall(it.identity, RECALL)


async def test_another_run_at_the_address_means_that_the_one_is_gone(it: Member) -> None:
    former = replace(it.identity, start_id="f" * 32)
    with pytest.raises(PeerGoneError, match="another run answers"):
        await it.peers.recall(former, RECALL)
    body = it.peers.read(former, BytesWanted(UPLOAD, "bytes.1", 0, 5))
    with pytest.raises(Exception, match="client"):
        await body.read()
    assert isinstance(body.failure, PeerGoneError)
    assert it.engine.asked == [], "what is not meant for this run does not reach its engine"


# --------------------------------------------------------------------------------------------------------------- silent


async def test_nobody_waits_for_ever(it: Member) -> None:
    it.engine.waits = asyncio.Event()
    it.peers.options = replace(it.peers.options, recall_s=0.05, call_s=0.05)
    for call in (it.peers.recall(it.identity, RECALL), it.peers.status(it.identity)):
        with pytest.raises(PeerSilentError, match=r"has not answered within 0\.05 s"):
            await call
    it.engine.waits.set()
    it.engine.waits = None
    assert await it.peers.recall(it.identity, RECALL) is Recalled.PARKED, "the late answer is nobody else's"


@pytest.mark.parametrize(
    "text", [b"", b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345"], ids=["none", "head", "body"]
)
async def test_an_answer_that_breaks_off_is_none(it: Member, text: bytes) -> None:
    async with talking(saying(text)) as somebody:
        with pytest.raises(PeerSilentError, match="without a whole answer"):
            await it.peers.recall(somebody, RECALL)


async def test_a_name_that_nobody_has_is_not_the_end_of_an_instance(it: Member) -> None:
    with pytest.raises(PeerSilentError):
        await it.peers.recall(Identity("x", "2" * 32, "https://nobody.invalid:4002"), RECALL)


# -------------------------------------------------------------------------------------------------------------- refused


async def test_without_a_common_key_nothing_is_done_and_nothing_learned(it: Member, logged: Logged) -> None:
    logged.expect("peer.refused")
    async with member(start_id="3" * 32, keys=(OTHER_KEY,)) as stranger:
        with pytest.raises(PeerRefusedError, match=r"peer\.keys"):
            await stranger.peers.recall(it.identity, RECALL)
        former = replace(it.identity, start_id="f" * 32)
        with pytest.raises(PeerRefusedError):
            await stranger.peers.recall(former, RECALL)
    assert it.engine.asked == []


@pytest.mark.parametrize("off_s", [-40, 40])
async def test_clocks_that_differ_too_much_are_told_to_the_operator(it: Member, logged: Logged, off_s: float) -> None:
    logged.expect("peer.refused")
    async with member(start_id="3" * 32) as late:
        late.clock.off_s = off_s
        with pytest.raises(PeerRefusedError, match="the clocks"):
            await late.peers.recall(it.identity, RECALL)
    (told,) = logged.of("peer.refused")
    assert "by this clock" in told["detail"]
    assert it.engine.asked == []


SIGNED_LIKE = b"Incoming-Peer-From: " + b"2" * 32 + b"\r\nIncoming-Peer-Signature: v1," + b"A" * 43 + b"=\r\n"


@pytest.mark.parametrize(
    "text",
    [
        b'HTTP/1.1 200 OK\r\nContent-Length: 34\r\n\r\n{"format": 1, "answer": "parked" }',
        b"HTTP/1.1 200 OK\r\n" + SIGNED_LIKE + b'Content-Length: 34\r\n\r\n{"format": 1, "answer": "parked" }',
        b"HTTP/1.1 421 Misdirected\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n",
        b"220 mail.example ESMTP\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20_000 + b"\r\n\r\n",
        b"\xff" * 100 + b"\r\n\r\n",
    ],
    ids=[
        "unsigned",
        "a wrong signature",
        "an unsigned 421",
        "no length",
        "chunks",
        "a negative length",
        "an endless answer",
        "no HTTP",
        "an endless head",
        "bytes",
    ],
)
async def test_whoever_has_no_key_is_not_believed(it: Member, caplog: pytest.LogCaptureFixture, text: bytes) -> None:
    """Above all not that the run is gone, or that the upload is parked."""
    async with talking(saying(text)) as somebody:
        with pytest.raises(PeerRefusedError):
            await it.peers.recall(somebody, RECALL)
        body = it.peers.read(somebody, BytesWanted(UPLOAD, "bytes.1", 0, 5))
        with pytest.raises(Exception, match="client"):
            await body.read()
        assert isinstance(body.failure, PeerRefusedError)


async def test_an_answer_is_not_taken_for_that_of_another_call(it: Member) -> None:
    """Somebody on the way who has no key repeats an answer that he has seen."""
    async with member(start_id="3" * 32) as caller:
        heard = b""

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal heard
            call = await read_message(reader)
            heard = heard or await pass_on(call, it.port)
            writer.write(heard)
            await writer.drain()

        async with talking(relay) as way:
            assert await caller.peers.recall(way, RECALL) is Recalled.PARKED
            with pytest.raises(PeerRefusedError, match="wrong signature"):
                await caller.peers.recall(way, RECALL)


@pytest.mark.parametrize("address", ["", "127.0.0.1:4002", "ftp://h:1", "http://h", "http://h:x", "unix:/s", "http://"])
async def test_whoever_has_told_no_address_cannot_be_asked(it: Member, address: str) -> None:
    with pytest.raises(PeerRefusedError, match="no address"):
        await it.peers.recall(Identity("x", "2" * 32, address), RECALL)


async def test_plain_text_does_not_leave_the_machine_unless_allowed(it: Member) -> None:
    far = Identity("x", "2" * 32, "http://peer.invalid:4002")
    with pytest.raises(PeerRefusedError, match="plain text"):
        await replaced(it.peers, allow_plaintext=False).recall(far, RECALL)
    with pytest.raises(PeerSilentError):
        await replaced(it.peers, allow_plaintext=True).recall(far, RECALL)


def replaced(peers: HttpPeers, *, allow_plaintext: bool) -> HttpPeers:
    peers.options = replace(peers.options, allow_plaintext=allow_plaintext)
    return peers


# ---------------------------------------------------------------------------------------------------------- connections


async def test_calls_one_behind_the_other_use_one_connection(it: Member) -> None:
    for _ in range(5):
        await it.peers.status(it.identity)
    assert it.listener.open_connections == 1


async def test_calls_at_once_have_a_bound_and_all_are_answered(it: Member) -> None:
    it.engine.waits = asyncio.Event()
    calls = [asyncio.ensure_future(it.peers.status(it.identity)) for _ in range(50)]
    while len(it.engine.asked) < 32:
        await asyncio.sleep(0)
    assert it.listener.open_connections == 32
    it.engine.waits.set()
    assert len(await asyncio.gather(*calls)) == 50


async def test_a_connection_that_ended_while_it_was_kept_costs_no_call(it: Member) -> None:
    """As when the other side closes what is idle, or a middle box forgets it."""
    calls = 0

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Has the real one answer, keeps the connection, and drops it with the next call on it.
        nonlocal calls
        call = await read_message(reader)
        calls += 1
        writer.write(await pass_on(call, it.port))
        await writer.drain()
        await read_message(reader)

    async with member(start_id="3" * 32) as caller, talking(once) as way:
        for _ in range(3):
            assert await caller.peers.status(way) == {"instance": "it"}
    assert calls == 3
    assert it.engine.asked == ["status"] * 3


async def test_connections_to_a_peer_that_has_gone_are_not_kept(it: Member) -> None:
    async with member(start_id="3" * 32) as caller:
        await asyncio.gather(*(caller.peers.status(it.identity) for _ in range(3)))
        assert caller.peers.connections.idle == 3
        await it.stop_listening()
        while caller.peers.connections.idle:
            await asyncio.sleep(0)


async def test_a_call_that_is_cancelled_leaves_nothing_open(it: Member) -> None:
    it.engine.waits = asyncio.Event()
    call = asyncio.ensure_future(it.peers.status(it.identity))
    while not it.engine.asked:
        await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    it.engine.waits.set()
    it.engine.waits = None
    assert await it.peers.status(it.identity) == {"instance": "it"}
    while it.listener.open_connections > 1:
        await asyncio.sleep(0)


# ------------------------------------------------------------------------------------------------------------------ TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls(authority: trustme.CA, tmp_path: Path) -> tuple[Tls, Path]:
    """A certificate for localhost, and who signed it."""
    issued = authority.issue_cert("localhost")
    cert, key, ca = tmp_path / "cert", tmp_path / "key", tmp_path / "ca"
    issued.cert_chain_pems[0].write_to_path(cert)
    issued.private_key_pem.write_to_path(key)
    authority.cert_pem.write_to_path(ca)
    return Tls(cert=cert, key=key), ca


async def test_over_tls_the_certificate_is_checked(tls: tuple[Tls, Path], caplog: pytest.LogCaptureFixture) -> None:
    listening, ca = tls
    async with member(tls=listening, host="localhost", ca=tls_context(ca)) as it:
        assert it.identity.address.startswith("https://localhost:")
        assert await it.peers.recall(it.identity, RECALL) is Recalled.PARKED
        it.engine.content = bytes(1000)
        assert await read_all(it, 0, 1000) == bytes(1000)
        by_number = replace(it.identity, address=f"https://127.0.0.1:{it.port}")
        with pytest.raises(PeerRefusedError, match="TLS"):
            await it.peers.recall(by_number, RECALL)
        it.peers.apply(it.peers.options, tls_context(None))
        with pytest.raises(PeerRefusedError, match=r"TLS: .*certificate"):
            await it.peers.recall(it.identity, RECALL)
        plain = replace(it.identity, address=f"http://localhost:{it.port}")
        with pytest.raises(PeerError):
            await it.peers.recall(plain, RECALL)


def test_who_signs_certificates_is_read_at_once(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        tls_context(tmp_path / "nowhere")
    assert isinstance(tls_context(None), ssl.SSLContext)


# ----------------------------------------------------------------------------------------------------------------- keys


async def test_keys_are_changed_over_running_instances_without_a_refused_call(logged: Logged) -> None:
    """[old] -> [old, new] -> [new, old] -> [new], one instance after the other, while all of them talk."""
    old, new = KEY, "the-new-key-of-the-fleet"
    ids = [letter * 32 for letter in "abc"]
    async with (
        member(name="a", start_id=ids[0]) as a,
        member(name="b", start_id=ids[1]) as b,
        member(name="c", start_id=ids[2]) as c,
    ):
        members = [a, b, c]
        stopped = asyncio.Event()
        answered = 0

        async def talk(caller: Member, callee: Member) -> None:
            nonlocal answered
            while not stopped.is_set():
                assert await caller.peers.recall(callee.identity, RECALL) is Recalled.PARKED
                answered += 1

        talks = [
            asyncio.ensure_future(talk(caller, callee)) for caller in members for callee in members if caller != callee
        ]
        for keys in ((old, new), (new, old), (new,)):
            for each in members:
                # Each instance hears of it in the midst of calls, and goes on in the mixed state for a while.
                until = answered + 30
                while answered < until and not any(each.done() for each in talks):
                    await asyncio.sleep(0)
                each.set_keys(*keys)
        until = answered + 30
        while answered < until and not any(each.done() for each in talks):
            await asyncio.sleep(0)
        stopped.set()
        await asyncio.gather(*talks)
        assert answered >= 300
        assert not logged.of("peer.refused")
        logged.expect("peer.refused")
        async with member(start_id="d" * 32, keys=(old,)) as left_behind:
            with pytest.raises(PeerRefusedError):
                await left_behind.peers.recall(a.identity, RECALL)


# -------------------------------------------------------------------------------------------------------------- formats


async def test_two_versions_talk_in_the_format_of_the_older_one() -> None:
    """The newer one calls in the older format while somebody needs it, and answers each call in its own."""
    spoken = 1
    former = member(formats=Formats(FORMER))
    async with former as old, member(start_id="3" * 32, spoken=lambda: spoken) as new:
        assert await new.peers.status(old.identity)
        assert await old.peers.status(new.identity)
        spoken = 2
        assert await old.peers.status(new.identity), "it answers in the format that it was asked in"


async def test_who_reads_the_former_format_only_and_has_just_come_is_asked_in_it() -> None:
    """The registry tells of it within a second; until then a call is made twice, not in vain."""
    async with member(formats=Formats(FORMER)) as old, member(start_id="3" * 32, spoken=lambda: 2) as new:
        old.engine.content = b"abc"
        assert await new.peers.status(old.identity)
        assert await new.peers.read(old.identity, BytesWanted(UPLOAD, "bytes.1", 0, 3)).read() == b"abc"
        assert await new.peers.recall(old.identity, Recall(UPLOAD, 3, ME)) is Recalled.PARKED
        assert old.engine.asked[-1] == Recall(UPLOAD, 3, ME)
        assert told(new, "incomingd_peer_calls_repeated_total", reason="format") == 3
        # Nobody asks again who speaks it himself, and whoever knows no format at all is not asked for ever.
        new.peers.format_spoken = lambda: 1
        assert await new.peers.status(old.identity)
        assert told(new, "incomingd_peer_calls_repeated_total", reason="format") == 3


async def test_an_unknown_format_is_asked_about_once_more_at_most() -> None:
    async with member(formats=Formats(FORMER)) as old, member(start_id="3" * 32, spoken=lambda: 2) as new:
        old.api.formats = Formats(replace(FORMER, oldest=2, newest=2))
        new.peers.format_spoken = lambda: 1
        with pytest.raises(PeerRefusedError, match="peer_format_unknown"):
            await new.peers.status(old.identity)
        assert told(new, "incomingd_peer_calls_repeated_total", reason="format") == 0


def told(it: Member, name: str, **labels: str) -> float:
    """Return what the metrics of an instance say."""
    text = it.peers.metrics.render("")[0].decode()
    samples = [each for family in text_string_to_metric_families(text) for each in family.samples]
    [found] = [each.value for each in samples if (each.name, each.labels) == (name, labels)]
    return found


async def test_calls_are_counted_by_what_came_of_them(it: Member, logged: Logged) -> None:
    logged.expect("peer.refused")

    def calls(message: str, result: str) -> float:
        return told(it, "incomingd_peer_calls_total", message=message, result=result)

    question = Question(UPLOAD, "q", ME, VOLUME)
    await it.peers.ask(it.identity, question)
    it.engine.fails = STORAGE_FAILS
    with pytest.raises(Refusal):
        await it.peers.act(it.identity, Act(UPLOAD, ActName.VIEW))
    it.engine.fails = None
    with pytest.raises(PeerGoneError):
        await it.peers.ask(replace(it.identity, start_id="9" * 32), question)
    it.api.keys = ("another-key-of-another-fleet",)
    with pytest.raises(PeerRefusedError):
        await it.peers.ask(it.identity, question)
    assert (calls("ask", "answered"), calls("act", "failed"), calls("ask", "gone"), calls("ask", "refused")) == (1,) * 4
    assert calls("recall", "answered") == 0
    assert told(it, "incomingd_peer_call_duration_seconds_count", message="ask") == 3
    async with talking(saying(b"")) as broken:
        with pytest.raises(PeerSilentError):
            await it.peers.ask(broken, question)
    assert calls("ask", "silent") == 1


async def test_bytes_are_counted_where_they_come_from_and_where_they_go(it: Member) -> None:
    it.engine.content = b"x" * 300_000
    await read_all(it, 0, 300_000)
    it.api.metrics = it.peers.metrics
    await read_all(it, 0, 200_000)
    assert told(it, "incomingd_peer_received_bytes_total", reason="backfill") == 500_000
    assert told(it, "incomingd_peer_sent_bytes_total", reason="backfill") == 200_000
    assert told(it, "incomingd_peer_calls_total", message="read", result="answered") == 2
    body = it.peers.read(it.identity, BytesWanted(UPLOAD, "file", 0, 10))
    assert await body.read() == b"x" * 10
    assert told(it, "incomingd_peer_received_bytes_total", reason="download") == 10


async def read_all(it: Member, start: int, stop: int) -> bytes:
    body = it.peers.read(it.identity, BytesWanted(UPLOAD, "bytes.1", start, stop))
    assert body.length == stop - start
    found = b""
    while piece := await body.read():
        found += piece
    assert await body.read() == b""
    assert body.failure is None
    return found
