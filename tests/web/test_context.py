"""By which names a request is found in logs."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
from tornado import httputil

from incomingd.config.values import parse_trusted_proxies
from incomingd.web.context import RequestContext, request_context
from incomingd.web.proxies import TrustedPeers

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def context(**headers: str) -> RequestContext:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection = SimpleNamespace(address=("192.0.2.7", 50000), protocol="https")
    trusted = TrustedPeers(parse_trusted_proxies(""), setting="x")
    return request_context(httputil.HTTPHeaders({"Host": "up.example.org"} | named), connection, trusted)


@pytest.mark.parametrize("said", ["abcdefgh", "0123-4567_89.ab:cd", "x" * 64])
def test_a_request_id_of_the_client_is_kept(said: str) -> None:
    assert context(X_Request_ID=said).request_id == said


@pytest.mark.parametrize("said", ["", "short", "x" * 65, "a b c d e f", "abcdefgh\u00e9", "abcdefg\x1b", "<script>"])
def test_a_request_id_that_is_none_is_replaced(said: str) -> None:
    made = context(X_Request_ID=said).request_id
    assert re.fullmatch(r"[0-9a-f]{16}", made)
    assert made != context(X_Request_ID=said).request_id


@pytest.mark.parametrize(
    "said, trace_id",
    [
        (f"00-{TRACE}-00f067aa0ba902b7-01", TRACE),
        (f" 00-{TRACE}-00f067aa0ba902b7-00 ", TRACE),
        (f"01-{TRACE}-00f067aa0ba902b7-01-more", TRACE),
        (f"00-{TRACE.upper()}-00f067aa0ba902b7-01", None),
        (f"00-{TRACE}-00f067aa0ba902b7", None),
        ("00-x-y-01", None),
        ("", None),
    ],
)
def test_the_trace_of_a_request(said: str, trace_id: str | None) -> None:
    """W3C Trace Context, section 3.2."""
    made = context(traceparent=said)
    assert made.trace_id == trace_id
    assert (made.traceparent is None) is (trace_id is None)


def test_the_address_scheme_and_host() -> None:
    made = context()
    assert (made.address, made.scheme, made.host) == ("192.0.2.7", "https", "up.example.org")


def test_a_unix_socket_has_no_address() -> None:
    trusted = TrustedPeers(parse_trusted_proxies(""), setting="x")
    connection = SimpleNamespace(address="0.0.0.0", protocol="http")
    assert request_context(httputil.HTTPHeaders(), connection, trusted).address is None
