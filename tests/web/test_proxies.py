"""Who a request comes from: what proxies say counts if they are trusted, and is told otherwise."""

from __future__ import annotations

import pytest
import structlog
from tornado import httputil

from incomingd.config.values import parse_trusted_proxies
from incomingd.web.proxies import TrustedPeers

PROXY = "10.0.0.1"
OTHER_PROXY = "10.0.0.2"
CLIENT = "192.0.2.7"


def resolve(
    headers: dict[str, str], *, trusted: str = f"{PROXY},{OTHER_PROXY}", peer: str | None = PROXY
) -> tuple[str | None, str, str]:
    peers = TrustedPeers(parse_trusted_proxies(trusted), setting="public.trusted_proxies")
    return peers.resolve(peer=peer, scheme="http", host="inside:4000", headers=httputil.HTTPHeaders(headers))


@pytest.mark.parametrize(
    "headers, expected",
    [
        ({}, (PROXY, "http", "inside:4000")),
        ({"X-Forwarded-For": CLIENT}, (CLIENT, "http", "inside:4000")),
        (
            {"X-Forwarded-For": CLIENT, "X-Forwarded-Proto": "https", "X-Forwarded-Host": "up.example.org"},
            (CLIENT, "https", "up.example.org"),
        ),
        # The last one that is no proxy of ours: what stands before it, the client may have made up.
        ({"X-Forwarded-For": f"8.8.8.8, {CLIENT}, {OTHER_PROXY}"}, (CLIENT, "http", "inside:4000")),
        ({"X-Forwarded-For": f"{OTHER_PROXY}, {PROXY}"}, (OTHER_PROXY, "http", "inside:4000")),
        ({"X-Forwarded-For": f"{CLIENT}:50000"}, (CLIENT, "http", "inside:4000")),
        ({"X-Forwarded-For": "[2001:db8::7]:50000"}, ("2001:db8::7", "http", "inside:4000")),
        ({"X-Forwarded-For": "2001:DB8::7"}, ("2001:db8::7", "http", "inside:4000")),
        ({"X-Forwarded-For": "unknown"}, (PROXY, "http", "inside:4000")),
        ({"X-Forwarded-For": "\x1b[31m, <script>"}, (PROXY, "http", "inside:4000")),
        ({"X-Forwarded-For": ""}, (PROXY, "http", "inside:4000")),
        ({"X-Forwarded-Proto": "HTTPS"}, (PROXY, "https", "inside:4000")),
        ({"X-Forwarded-Proto": "ftp"}, (PROXY, "http", "inside:4000")),
        ({"X-Forwarded-Proto": "http, https"}, (PROXY, "https", "inside:4000")),
        ({"X-Forwarded-Host": "a b"}, (PROXY, "http", "")),
        ({"X-Forwarded-Host": "evil/../x"}, (PROXY, "http", "")),
        ({"Forwarded": f"for={CLIENT}"}, (CLIENT, "http", "inside:4000")),
        ({"Forwarded": f"for={CLIENT};proto=https;host=up.example.org"}, (CLIENT, "https", "up.example.org")),
        ({"Forwarded": f'For="{CLIENT}:50000" ; Proto=https'}, (CLIENT, "https", "inside:4000")),
        ({"Forwarded": 'for="[2001:db8::7]:50000"'}, ("2001:db8::7", "http", "inside:4000")),
        ({"Forwarded": f"for=8.8.8.8, for={CLIENT}, for={OTHER_PROXY}"}, (CLIENT, "http", "inside:4000")),
        ({"Forwarded": "for=_hidden, for=unknown"}, (PROXY, "http", "inside:4000")),
        ({"Forwarded": ";;,=,for"}, (PROXY, "http", "inside:4000")),
        # RFC 7239 is meant where both are there.
        ({"Forwarded": f"for={CLIENT}", "X-Forwarded-For": "8.8.8.8"}, (CLIENT, "http", "inside:4000")),
    ],
)
def test_what_a_trusted_proxy_says(headers: dict[str, str], expected: tuple[str, str, str]) -> None:
    assert resolve(headers) == expected


SAID = {"Forwarded": "for=8.8.8.8", "X-Forwarded-For": "8.8.8.8", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "e"}


@pytest.mark.parametrize("header", list(SAID))
def test_what_others_say_is_ignored_and_told_once(header: str) -> None:
    """API: from others they are ignored, and logged once with the key's name."""
    peers = TrustedPeers(parse_trusted_proxies(PROXY), setting="public.trusted_proxies")
    headers = httputil.HTTPHeaders({header: SAID[header]})
    with structlog.testing.capture_logs() as logged:
        for _ in range(3):
            assert peers.resolve(peer=CLIENT, scheme="http", host="h", headers=headers) == (CLIENT, "http", "h")
    assert [(e["event"], e["address"], e["setting"]) for e in logged] == [
        ("proxy.untrusted", CLIENT, "public.trusted_proxies")
    ]


def test_many_that_are_not_trusted_do_not_fill_the_log() -> None:
    peers = TrustedPeers(parse_trusted_proxies(""), setting="x")
    headers = httputil.HTTPHeaders(SAID)
    with structlog.testing.capture_logs() as logged:
        for n in range(200):
            peers.resolve(peer=f"192.0.2.{n}", scheme="http", host="h", headers=headers)
    assert len(logged) <= 16


def test_others_can_be_trusted_while_it_runs() -> None:
    peers = TrustedPeers(parse_trusted_proxies(""), setting="x")
    headers = httputil.HTTPHeaders({"X-Forwarded-For": CLIENT})
    with structlog.testing.capture_logs():
        assert peers.resolve(peer=PROXY, scheme="http", host="h", headers=headers)[0] == PROXY
    peers.replace(parse_trusted_proxies("10.0.0.0/8"))
    assert peers.resolve(peer=PROXY, scheme="http", host="h", headers=headers)[0] == CLIENT
