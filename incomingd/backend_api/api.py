"""What all calls of the backend API share."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from incomingd.config import Hosts
from incomingd.core.errors import Code, Refusal
from incomingd.web.access import ApiHandler, upload_id_of
from incomingd.wire import backend as wire
from incomingd.wire.upload import upload_document

if TYPE_CHECKING:
    from collections.abc import Sequence

    from incomingd.engine.engine import Engine, View
    from incomingd.metrics import Metrics

PREFIX: Final = "/incoming/1.0/backend"
NEW_SECRET_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class BackendOptions:
    """Replaced as a whole when the configuration is read again."""

    tokens: tuple[str, ...] = field(default=(), repr=False)
    """`backend.tokens`; none: whoever reaches the listener may call."""
    allowed_hosts: Hosts = field(default_factory=lambda: Hosts(None))
    """`handover.allowed_hosts`"""
    idle_s: float = 60.0
    """`limits.body_idle_timeout_s`: so long the reader of a file may read nothing."""
    base_url: str | None = None
    """`public.base_url`: stands before the path of `upload_url`."""


class BackendApi:
    """One for each process; its `options` are replaced at a reload."""

    def __init__(self, engine: Engine, options: BackendOptions, metrics: Metrics | None = None) -> None:
        self.engine = engine
        self.options = options
        self.metrics = metrics

    def rules(self) -> wire.Rules:
        """Return what the configuration says of tickets just now."""
        options = self.engine.services.options
        return wire.Rules(
            expires_in_max_s=options.expires_in_max_s,
            upload_bytes_max=options.upload_bytes_max,
            host_allowed=self.options.allowed_hosts.allows,
        )

    def new_secret(self) -> str:
        """Return a new secret for a ticket that came without one: Base64."""
        bits = self.engine.services.clock.random_bits(NEW_SECRET_BYTES * 8)
        return base64.b64encode(bits.to_bytes(NEW_SECRET_BYTES, "big")).decode("ascii")

    def upload(self, view: View) -> dict[str, Any]:
        """Return the upload as web apps see it."""
        return upload_document(view.record, offset=view.offset, base_url=self.options.base_url)


class BackendHandler(ApiHandler):
    """A call of the backend API."""

    listener = "backend"
    api: BackendApi

    def initialize(self, api: BackendApi) -> None:
        """Take what the routes hand down."""
        self.api = api
        self.metrics = api.metrics

    def tokens(self) -> Sequence[str]:
        """Return `backend.tokens`."""
        return self.api.options.tokens

    async def view(self, text: str) -> View:
        """Return the upload that a path names, if the caller may know of it.

        Raises:
            Refusal: `upload_unknown`, or `secret_wrong` where the web app gave the ticket a secret and this call does
                not know it.
        """
        view = await self.api.engine.view(upload_id_of(text))
        terms = view.record.terms
        if terms.secret_given and not wire.secret_fits(self.request.headers.get("X-Incoming-Secret"), terms):
            raise Refusal(Code.SECRET_WRONG)
        return view
