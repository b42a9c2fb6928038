"""Who a request really comes from, when proxies stand in front.

Only peers that the operator trusts may say. What others say is ignored, and
logged once, since a missing entry in ``public.trusted_proxies`` is found much
sooner that way than by its symptoms.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Final

from incomingd.log import events, get_logger

if TYPE_CHECKING:
    from tornado import httputil

    from incomingd.config import TrustedProxies

log = get_logger()

_PAIR: Final = re.compile(r"""\s*([A-Za-z]+)\s*=\s*("[^"]*"|[^;,]*)\s*""")
_HOST: Final = re.compile(r"[A-Za-z0-9.\-_\[\]:%]{1,255}", re.ASCII)
_SAYS: Final = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host")


class TrustedPeers:
    """Resolves the client's address, scheme and host of requests to one listener."""

    def __init__(self, trusted: TrustedProxies, *, setting: str) -> None:
        self._trusted = trusted
        self._setting = setting
        self._told: set[str] = set()

    def replace(self, trusted: TrustedProxies) -> None:
        """Trust others from now on."""
        self._trusted = trusted
        self._told.clear()

    def trusts(self, peer: str) -> bool:
        """Whether a peer may speak for others; empty for a Unix socket."""
        return self._trusted.trusts(peer)

    def resolve(
        self, *, peer: str | None, scheme: str, host: str, headers: httputil.HTTPHeaders
    ) -> tuple[str | None, str, str]:
        """Return the client's address, and the scheme and host that it used.

        Args:
            peer: IP address of the connection's other end; None: a Unix socket.
            scheme: of the connection itself.
            host: the request's Host header.
            headers: all of them.
        """
        said = [name for name in _SAYS if name in headers]
        if not said:
            return peer, scheme, host
        if not self._trusted.trusts(peer or ""):
            if len(self._told) < 16 and (peer or "") not in self._told:
                self._told.add(peer or "")
                log.warning(events.PROXY_UNTRUSTED, address=peer or "unix", setting=self._setting)
            return peer, scheme, host
        if "Forwarded" in headers:
            hops = [dict(_forwarded(hop)) for hop in headers["Forwarded"].split(",")]
            addresses = [_bare(hop.get("for", "")) for hop in hops]
            scheme = hops[-1].get("proto", scheme)
            host = hops[-1].get("host", host)
        else:
            addresses = [_bare(x) for x in headers.get("X-Forwarded-For", "").split(",")]
            scheme = headers.get("X-Forwarded-Proto", scheme).split(",")[-1].strip()
            host = headers.get("X-Forwarded-Host", host).split(",")[-1].strip()
        return (
            self._client(addresses) or peer,
            scheme.lower() if scheme.lower() in ("http", "https") else "http",
            host if _HOST.fullmatch(host) else "",
        )

    def _client(self, addresses: list[str | None]) -> str | None:
        """Return the last address that is not itself a trusted proxy's."""
        known = [address for address in addresses if address is not None]
        for address in reversed(known):
            if not self._trusted.trusts(address):
                return address
        return known[0] if known else None


def _forwarded(hop: str) -> list[tuple[str, str]]:
    """Return the pairs of one hop (RFC 7239, section 4)."""
    return [(name.lower(), value.strip().strip('"')) for name, value in _PAIR.findall(hop)]


def _bare(text: str) -> str | None:
    """Return the IP address in *text* without brackets and port, or None."""
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None
