"""Whose request it is, and by which names it is found in logs."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from incomingd.log import bind_contextvars, unbind_contextvars

if TYPE_CHECKING:
    from tornado import httputil

    from incomingd.web.proxies import TrustedPeers

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:-]{8,64}", re.ASCII)
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class RequestContext:
    """What a listener knows of a request beside its own fields."""

    request_id: str
    trace_id: str | None
    traceparent: str | None
    address: str | None
    """The client's, as far as the proxies on the way may say; None on a Unix socket."""
    scheme: str
    host: str

    def bound(self) -> BoundNames:
        """Have every log event inside carry the request's names."""
        names = {"request_id": self.request_id}
        if self.trace_id is not None:
            names["trace_id"] = self.trace_id
        return BoundNames(names)


class BoundNames:
    """Names that every log event carries while the block runs; requests do not run within each other."""

    __slots__ = ("_names",)

    def __init__(self, names: dict[str, str]) -> None:
        self._names = names

    def __enter__(self) -> None:
        bind_contextvars(**self._names)

    def __exit__(self, *_: object) -> None:
        unbind_contextvars(*self._names)


def request_context(headers: httputil.HTTPHeaders, connection: Any, trusted: TrustedPeers) -> RequestContext:
    """Return the context of a request.

    Args:
        headers: of the request.
        connection: Tornado's context of the connection (address, protocol).
        trusted: which peers may speak for others.
    """
    said_id = headers.get("X-Request-ID", "")
    traceparent = headers.get("traceparent")
    match = _TRACEPARENT.fullmatch(traceparent.strip()) if traceparent else None
    peer = connection.address[0] if isinstance(connection.address, tuple) else None
    scheme = getattr(connection, "protocol", "http")
    address, scheme, host = trusted.resolve(peer=peer, scheme=scheme, host=headers.get("Host", ""), headers=headers)
    return RequestContext(
        request_id=said_id if _REQUEST_ID.fullmatch(said_id) else os.urandom(8).hex(),
        trace_id=match[1] if match else None,
        traceparent=traceparent.strip() if match and traceparent else None,
        address=address,
        scheme=scheme,
        host=host,
    )
