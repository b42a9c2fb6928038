"""The record of an upload: all that is stored of it beside its bytes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

from incomingd.core.content import Content
from incomingd.core.status import Event, Status, next_status
from incomingd.core.tenure import ClaimKind, Identity

PARTS_MAX: Final = 64
"""Live parts of one ticket."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What the web app asked for; changed only by the web app."""

    finish_url: str
    secret: str
    """Base64, without the ``whsec_`` before it."""
    secret_given: bool = False
    """The app chose it: calls on this upload need it."""
    length: int | None = None
    max_length: int | None = None
    filename: str | None = None
    content_types: tuple[str, ...] = ()
    after_handover: str = "delete"
    digest: str | None = None
    """``sha-256``: that of the whole file is wanted."""
    client_cancel: bool = True
    events: tuple[str, ...] = ()
    callback_format: str = "json"
    form_secret: str = ""
    """Sent back in callbacks of the 0.1 form, which are not signed there."""
    labels: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    app_data: dict[str, object] = field(default_factory=dict)
    traceparent: str | None = None
    open_creation: bool = False
    """Begun by a client without a ticket: there is nobody to call back."""


@dataclass(frozen=True, slots=True)
class Client:
    """What the client said of its file: untrusted, capped and cleaned."""

    filename: str | None = None
    content_type: str | None = None
    relative_path: str | None = None
    last_modified: str | None = None
    metadata: tuple[tuple[str, str], ...] = ()
    address: str | None = None


@dataclass(frozen=True, slots=True)
class Delivery:
    """One callback on its way to the web app: the same id at every attempt."""

    type: str
    """``upload.complete``, ``upload.cancelled``, …"""
    webhook_id: str
    attempts: int = 0
    first_attempt_at: float | None = None
    next_attempt_at: float | None = None
    """Unix time, s; None: nothing is planned."""
    last_error: str | None = None
    given_up: bool = False
    delivered: bool = False


@dataclass(frozen=True, slots=True)
class Handover:
    """How far the hand-over of the complete file has come."""

    delivery: Delivery | None = None
    download_token: str | None = None
    """Opens the download URL until the upload is final."""
    wait_deadline: float | None = None
    """Unix time, s, until when the app has to confirm after a ``wait``."""
    message: str | None = None
    client_data: object = None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an upload ended without being handed over."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Record:
    """One upload. Only the tenure that it names replaces it."""

    upload_id: str
    terms: Terms
    created_at: float
    expires_at: float
    status: Status = Status.OPEN
    epoch: int = 0
    owner: Identity | None = None
    """None: parked."""
    claim_kind: ClaimKind | None = None
    create_id: str = ""
    content: Content = Content()
    parts: tuple[tuple[str, Content], ...] = ()
    final_of: tuple[str, ...] | None = None
    """The parts, in order and with repeats, that the content is made of."""
    wanted_by: tuple[str, ...] = ()
    """Final uploads that wait for this one, under open creation."""
    protocol: str | None = None
    client: Client = Client()
    beginnings: int = 0
    """How many times a client has begun."""
    boot_id: str = ""
    """Of the kernel under which the record was written."""
    digest: str | None = None
    """SHA-256 of the complete file, in hex; None: not wanted, or not known yet."""
    joined: bool = False
    """The file stands whole under its final name."""
    completed_at: float | None = None
    ended_at: float | None = None
    handover: Handover = Handover()
    notifications: tuple[Delivery, ...] = ()
    failure: Failure | None = None
    let_go: bool = False
    """Its client has deleted it after the web app had it: clients are told that it is gone."""

    @property
    def tenure(self) -> tuple[Identity | None, int]:
        """The owner and the epoch."""
        return (self.owner, self.epoch)

    def after(self, event: Event, **changes: object) -> Record:
        """Return this record in the status to which *event* leads."""
        status = next_status(self.status, event)
        return replace(self, status=status, **changes)  # type: ignore[arg-type]  # the caller's fields

    def target(self, part: str | None) -> Content | None:
        """Return the content of *part*, or the upload's own for None."""
        if part is None:
            return self.content
        return dict(self.parts).get(part)

    def with_target(self, part: str | None, content: Content) -> Record:
        """Return this record with the content of *part* replaced or added."""
        if part is None:
            return replace(self, content=content)
        parts = dict(self.parts)
        parts[part] = content
        return replace(self, parts=tuple(parts.items()))

    @property
    def length(self) -> int | None:
        """The length in bytes, as far as it is known."""
        return self.content.length if self.content.length is not None else self.terms.length

    @property
    def length_limit(self) -> int | None:
        """The most bytes the ticket allows, if it says so."""
        limits = [x for x in (self.terms.length, self.terms.max_length) if x is not None]
        return min(limits) if limits else None
