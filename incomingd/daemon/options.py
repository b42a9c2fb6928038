"""Settings as each part wants them."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from incomingd import admin, backend_api
from incomingd.core.record import Terms
from incomingd.drain import DrainOptions
from incomingd.engine.options import Durability, EngineOptions
from incomingd.frontends.uploads import UploadOptions
from incomingd.handover import HandoverOptions
from incomingd.web.body import BodyLimits
from incomingd.web.rates import RateLimits
from incomingd.wire import tus

if TYPE_CHECKING:
    from incomingd.config import Settings


def take_over(old: UploadOptions, new: UploadOptions) -> None:
    """Change *old*, which several handlers hold, into *new*."""
    for field in fields(new):
        setattr(old, field.name, getattr(new, field.name))


def backend_tokens_of(settings: Settings) -> list[str]:
    """Return the tokens of web apps."""
    return [token.get_secret_value() for token in settings.backend.tokens]


def peer_keys_of(settings: Settings) -> tuple[str, ...]:
    """Return the keys of the fleet; the first one signs."""
    return tuple(key.get_secret_value() for key in settings.peer.keys)


def secrets_of(settings: Settings) -> list[str]:
    """Return what must never stand in the log."""
    return [*backend_tokens_of(settings), *peer_keys_of(settings), *settings.registry.url.secrets]


def engine_options(settings: Settings) -> EngineOptions:
    """Return what the engine takes from the settings."""
    return EngineOptions(
        durability=Durability(settings.durability),
        hold_s=settings.hold_s,
        lease_s=settings.registry.lease_s,
        expires_in_s=settings.uploads.expires_in_s,
        expires_in_max_s=settings.uploads.expires_in_max_s,
        records_keep_s=settings.records.keep_s,
        upload_bytes_max=settings.limits.upload_bytes,
        confirm_timeout_s=settings.handover.confirm_timeout_s,
        backfill_bytes_per_s=settings.peer.backfill_bytes_per_s,
        open_uploads_per_address=settings.limits.open_uploads_per_address,
    )


def drain_options(settings: Settings) -> DrainOptions:
    """Return what a drain takes from the settings."""
    return DrainOptions(cuts_per_s=settings.drain.cuts_per_s)


def handover_options(settings: Settings) -> HandoverOptions:
    """Return what the hand-over takes from the settings."""
    return HandoverOptions(
        give_up_after_s=settings.handover.give_up_after_s,
        confirm_timeout_s=settings.handover.confirm_timeout_s,
        backoff_first_s=settings.handover.backoff_first_s,
        backoff_max_s=settings.handover.backoff_max_s,
        concurrency=settings.handover.concurrency,
        backend_base_url=settings.backend.base_url,
        public_base_url=settings.public.base_url,
    )


def backend_options(settings: Settings) -> backend_api.BackendOptions:
    """Return what the backend API takes from the settings."""
    return backend_api.BackendOptions(
        tokens=tuple(backend_tokens_of(settings)),
        allowed_hosts=settings.handover.allowed_hosts,
        idle_s=settings.limits.body_idle_timeout_s,
        base_url=settings.public.base_url,
    )


def admin_options(settings: Settings) -> admin.AdminOptions:
    """Return what the admin API takes from the settings.

    Operators on a listener of their own are told apart by who reaches it; on
    the web apps' listener they need a token like everybody.
    """
    shared = settings.admin.address == settings.backend.address
    return admin.AdminOptions(
        tokens=tuple(backend_tokens_of(settings)) if shared else (),
        base_url=settings.public.base_url,
    )


def body_limits(settings: Settings) -> BodyLimits:
    """Return when a sender is too slow."""
    return BodyLimits(
        idle_s=settings.limits.body_idle_timeout_s,
        bytes_per_s_min=settings.limits.body_min_bytes_per_s,
        rate_after_s=settings.limits.body_min_rate_after_s,
    )


def rate_limits(settings: Settings) -> RateLimits:
    """Return how many bytes a second are taken."""
    return RateLimits(
        upload=settings.limits.upload_bytes_per_s,
        address=settings.limits.address_bytes_per_s,
        total=settings.limits.total_bytes_per_s,
    )


def upload_options(settings: Settings) -> UploadOptions:
    """Return what the upload resource takes from the settings."""
    return UploadOptions(
        limits=tus.Limits(
            upload_bytes_max=settings.limits.upload_bytes,
            metadata_chars_max=settings.limits.metadata_bytes,
            checksum_trailer=settings.tus.checksum_trailer,
        ),
        allowed_origins=settings.public.allowed_origins,
        base_url=settings.public.base_url,
        open_creation=settings.public.open_creation,
        open_creation_terms=_open_terms,
    )


def _open_terms() -> Terms:
    return Terms(finish_url="", secret="", after_handover="keep", open_creation=True)
