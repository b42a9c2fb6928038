"""The peer listener, and those who should not be there: a code for whoever has a key, nothing for others."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from tornado.httpclient import HTTPRequest, HTTPResponse
from tornado.simple_httpclient import SimpleAsyncHTTPClient

from incomingd.core.errors import Code, Refusal
from incomingd.core.peering import Recall
from incomingd.peer_api.api import NONCES_MAX, Nonces
from incomingd.wire import peer_signing as signing
from incomingd.wire.peer import MESSAGE_BYTES_MAX, Formats
from tests.engine.logs import Logged
from tests.peers.members import KEY, ME, UPLOAD, Member, member

FORMATS = Formats()
RECALL = FORMATS.call(Recall(UPLOAD, 3, ME), 1)
OTHER_KEY = "the-key-of-another-fleet"


@pytest.fixture
async def it() -> AsyncIterator[Member]:
    async with member() as running:
        yield running


@dataclass
class Caller:
    """Calls by hand, so that everything can be wrong."""

    it: Member
    random_bits: int = 0

    def headers(self, message: str, body: bytes, *, key: str = KEY, to: str = "", off_s: float = 0) -> dict[str, str]:
        self.random_bits += 1
        envelope = signing.new_envelope(
            message,
            to=to or self.it.api.start_id,
            random_bits=self.random_bits,
            now=self.it.clock.now() + off_s,
        )
        return signing.call_headers(envelope, key, body)

    async def send(
        self, headers: dict[str, str], body: bytes, *, path: str = "/incoming/1.0/peer/recall", method: str = "POST"
    ) -> HTTPResponse:
        client = SimpleAsyncHTTPClient(force_instance=True, max_header_size=100_000)
        request = HTTPRequest(
            f"http://127.0.0.1:{self.it.port}{path}",
            method=method,
            headers=headers,
            body=body if method == "POST" else None,
        )
        try:
            return await client.fetch(request, raise_error=False)
        finally:
            client.close()

    async def call(self, message: str, body: bytes, **changed: str) -> tuple[int, dict[str, object]]:
        """Call with a good signature; returns status and answer, whose signature is good, too."""
        headers = self.headers(message, body, **changed)  # type: ignore[arg-type]  # texts only
        response = await self.send(headers, body, path=f"/incoming/1.0/peer/{message}")
        envelope = signing.Envelope(
            f"/incoming/1.0/peer/{message}",
            headers[signing.TO],
            headers[signing.NONCE],
            int(headers[signing.TIME]),
        )
        by = signing.check_answer(envelope, KEY, response.headers.get, status=response.code, body=response.body)
        assert by == self.it.api.start_id
        return response.code, json.loads(response.body)


@pytest.fixture
def caller(it: Member) -> Caller:
    return Caller(it)


async def test_a_good_call_is_answered(caller: Caller) -> None:
    assert await caller.call("recall", RECALL) == (200, {"format": 1, "answer": "parked"})
    assert caller.it.engine.asked == [Recall(UPLOAD, 3, ME)]


# ------------------------------------------------------------------------------------------------------------ strangers


def bare(response: HTTPResponse) -> dict[str, object]:
    """Check that an answer tells nothing but that there is none, and return what is the same each time."""
    assert response.code == 401
    document: dict[str, object] = json.loads(response.body)
    document.pop("request_id")
    names = {name.lower() for name in response.headers} - {"connection"}
    assert names == {
        "server",
        "content-type",
        "date",
        "cache-control",
        "x-content-type-options",
        "x-request-id",
        "content-length",
    }
    return document


async def test_a_stranger_gets_the_same_bare_answer_whatever_he_asks(caller: Caller, logged: Logged) -> None:
    logged.expect("peer.refused")
    good = caller.headers("recall", RECALL)
    other = caller.headers("recall", RECALL, key=OTHER_KEY)
    elsewhere = caller.headers("recall", RECALL, key=OTHER_KEY, to="f" * 32)
    answers = [
        await caller.send({}, RECALL),
        await caller.send({}, b""),
        await caller.send({}, b"{" * 100),
        await caller.send({}, b" " * (MESSAGE_BYTES_MAX + 1)),
        await caller.send({}, RECALL, path="/incoming/1.0/peer/nothing"),
        await caller.send(other, RECALL),
        await caller.send(elsewhere, RECALL),
        await caller.send(good, RECALL + b" "),
        await caller.send(good, RECALL, path="/incoming/1.0/peer/status"),
        await caller.send(good, RECALL, path="/incoming/1.0/peer/recall?more=1"),
        await caller.send(good | {signing.NONCE: "0" * 32}, RECALL),
        await caller.send(good | {signing.SIGNATURE: "v1," + "A" * 43 + "="}, RECALL),
        await caller.send(caller.headers("recall", RECALL, off_s=-31), RECALL),
        await caller.send(caller.headers("recall", RECALL, off_s=32), RECALL),
    ]
    assert {json.dumps(bare(answer)) for answer in answers} == {json.dumps(bare(answers[0]))}
    assert bare(answers[0])["code"] == "peer_refused"
    assert caller.it.engine.asked == []


async def test_other_methods_and_paths_say_nothing_either(caller: Caller) -> None:
    for path, method, status in (
        ("/incoming/1.0/peer/recall", "GET", 405),
        ("/incoming/1.0/peer/recall", "DELETE", 405),
        ("/incoming/1.0/peer/", "POST", 404),
        ("/incoming/1.0/peer/a/b", "POST", 404),
        ("/", "GET", 404),
    ):
        response = await caller.send({}, b"", path=path, method=method)
        assert response.code == status
        assert caller.it.api.start_id.encode() not in response.body
        assert signing.FROM not in response.headers


async def test_strangers_do_not_fill_the_log(caller: Caller, logged: Logged) -> None:
    logged.expect("peer.refused")
    for _ in range(5):
        await caller.send({}, b"")
    assert 1 <= len(logged.of("peer.refused")) < 5


async def test_strangers_are_counted_by_what_is_wrong(caller: Caller, logged: Logged) -> None:
    logged.expect("peer.refused")
    good = caller.headers("recall", RECALL)
    for headers in (
        {}, caller.headers("recall", RECALL, key=OTHER_KEY), caller.headers("recall", RECALL, off_s=-31), good, good,
    ):  # fmt: skip
        await caller.send(headers, RECALL)
    said = caller.it.api.metrics.render("")[0].decode()
    for reason in ("unsigned", "unknown_key", "stale", "repeated"):
        assert f'incomingd_peer_calls_rejected_total{{reason="{reason}"}} 1.0' in said


async def test_a_call_is_taken_once(caller: Caller, logged: Logged) -> None:
    """Also by one who has no key and repeats what he has heard."""
    logged.expect("peer.refused")
    headers = caller.headers("recall", RECALL)
    assert (await caller.send(headers, RECALL)).code == 200
    bare(await caller.send(headers, RECALL))
    assert len(caller.it.engine.asked) == 1
    (told,) = logged.of("peer.refused")
    assert told["detail"] == "the same call as before"


# ----------------------------------------------------------------------------------------------------- those with a key


async def test_what_is_meant_for_another_run_is_not_done(caller: Caller) -> None:
    status, answer = await caller.call("recall", RECALL, to="f" * 32)
    assert (status, answer["code"], answer["understood"]) == (421, "peer_other_run", False)
    assert caller.it.engine.asked == []


@pytest.mark.parametrize(
    "message,body,status,code",
    [
        ("forget", b"{}", 404, "path_unknown"),
        ("recall", b"{", 400, "body_malformed"),
        ("recall", b"[" * 50_000, 400, "body_malformed"),
        ("recall", b'{"format": 1}', 400, "field_invalid"),
        ("recall", RECALL.replace(b'"format":1', b'"format":3'), 400, "peer_format_unknown"),
        ("recall", b" " * (MESSAGE_BYTES_MAX + 1), 413, "body_too_large"),
    ],
)
async def test_what_is_no_message_has_a_code(caller: Caller, message: str, body: bytes, status: int, code: str) -> None:
    said, answer = await caller.call(message, body)
    assert (said, answer["code"], answer["understood"]) == (status, code, False)
    assert caller.it.engine.asked == []


async def test_a_refusal_of_the_engine_is_told_as_its_own(caller: Caller) -> None:
    caller.it.engine.fails = Refusal(Code.UPLOAD_UNKNOWN)
    status, answer = await caller.call("recall", RECALL)
    assert (status, answer["code"], answer["understood"]) == (404, "upload_unknown", True)


async def test_a_mistake_of_ours_is_no_traceback_of_theirs(caller: Caller, logged: Logged) -> None:
    logged.expect("request.failed")
    caller.it.engine.fails = ZeroDivisionError("inner secret")
    status, answer = await caller.call("recall", RECALL)
    assert (status, answer["code"]) == (500, "internal_error")
    assert "secret" not in json.dumps(answer)
    assert len(logged.of("request.failed")) == 1


# --------------------------------------------------------------------------------------------------------------- nonces


def test_a_nonce_is_remembered_for_as_long_as_its_call_is_fresh() -> None:
    nonces = Nonces()
    assert nonces.take("01" * 16, now_s=100)
    assert not nonces.take("01" * 16, now_s=100 + 2 * signing.FRESH_S)
    assert nonces.take("02" * 16, now_s=130)
    assert nonces.take("01" * 16, now_s=100 + 2 * signing.FRESH_S + 2)
    assert len(nonces) == 2, "the old one was forgotten"


def test_nonces_have_a_bound_and_none_is_forgotten_early() -> None:
    nonces = Nonces(most=3)
    for number in range(3):
        assert nonces.take(f"{number:032x}", now_s=0)
    with pytest.raises(Refusal) as refused:
        nonces.take(f"{9:032x}", now_s=1)
    assert refused.value.code is Code.NOT_READY
    assert not nonces.take(f"{0:032x}", now_s=1)
    assert nonces.take(f"{9:032x}", now_s=2 * signing.FRESH_S + 2)
    assert NONCES_MAX > 1000
