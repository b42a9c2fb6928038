"""What is wrong between keys that are each right, and what works but is probably not meant."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from incomingd.config.errors import Problem
from incomingd.config.keys import keys, value_of
from incomingd.config.secret_files import readable_by_others
from incomingd.config.settings import Settings

_TOKEN_CHARS_GOOD: Final = 16


def conflicts(settings: Settings) -> Iterator[tuple[tuple[str, ...], str]]:
    """Find what contradicts. Yields the keys (the one to blame first) and a sentence."""
    for name in ("public", "backend", "admin"):
        tls = getattr(settings, name).tls
        if (tls.cert is None) != (tls.key is None):
            missing, there = ("key", "cert") if tls.cert else ("cert", "key")
            yield (
                (f"{name}.tls.{there}", f"{name}.tls.{missing}"),
                f"{name}.tls.{there} needs {name}.tls.{missing} beside it",
            )
    yield from _listeners(settings)
    for less, more in (
        ("uploads.expires_in_s", "uploads.expires_in_max_s"),
        ("handover.backoff_first_s", "handover.backoff_max_s"),
        ("limits.metadata_bytes", "limits.header_bytes"),
    ):
        if value_of(settings, less) > value_of(settings, more):  # type: ignore[operator]  # both are numbers of one unit
            yield (less, more), f"{less} is more than {more}"


def _listeners(settings: Settings) -> Iterator[tuple[tuple[str, ...], str]]:
    public, backend, admin = settings.public, settings.backend, settings.admin
    if public.address == backend.address and not backend.tokens:
        yield (
            ("backend.address", "public.address", "backend.tokens"),
            "backend.address is the public listener's, so that anyone could make tickets: set backend.tokens, or another address",
        )
    if public.address == admin.address:
        yield (
            ("admin.address", "public.address", "backend.address"),
            "admin.address is the public listener's, so that anyone could stop and drain: give it an address of its own",
        )
    for name, other in (("backend", public), ("admin", backend)):
        group = getattr(settings, name)
        if group.address == other.address and group.tls != other.tls:
            other_name = "public" if other is public else "backend"
            yield (
                (f"{name}.tls.cert", f"{name}.tls.key", f"{other_name}.tls.cert", f"{other_name}.tls.key"),
                f"{name} and {other_name} share one listener ({group.address}), which has one certificate: set {other_name}.tls only",
            )


def doubts(settings: Settings, origins: Mapping[str, str], config_file: Path | None) -> Iterator[Problem]:
    """Find what works and is probably not meant."""
    backend = settings.backend
    if not backend.address.is_local and not backend.tokens:
        message = f"whoever reaches {backend.address} may make tickets: set backend.tokens, or listen on 127.0.0.1"
        yield Problem("doubtful", origins.get("backend.address", "default"), "backend.address", message)
    if not settings.admin.address.is_local:
        message = f"whoever reaches {settings.admin.address} may stop and drain this instance: give it a loopback or Unix address, or guard the port"
        yield Problem("doubtful", origins.get("admin.address", "default"), "admin.address", message)
    for key in (key for key in keys().values() if key.secret):
        source = origins.get(key.name, "")
        if source.startswith("option "):
            message = f"{key.name} on the command line can be read by every user of this machine: use {key.name}_file"
            yield Problem("doubtful", source, key.name, message)
        in_config_file = config_file is not None and source.startswith(f"{config_file}:")
        if in_config_file and config_file is not None and readable_by_others(config_file):
            message = (
                f"the file holds secrets and is readable by every user: chmod o-r {config_file}, or use {key.name}_file"
            )
            yield Problem("doubtful", source, key.name, message)
        secret_file = value_of(settings, f"{key.name}_file")
        if isinstance(secret_file, Path) and readable_by_others(secret_file):
            message = f"{secret_file} holds secrets and is readable by every user: chmod o-r {secret_file}"
            yield Problem("doubtful", origins.get(f"{key.name}_file", ""), f"{key.name}_file", message)
    weak = sum(len(token.get_secret_value()) < _TOKEN_CHARS_GOOD for token in backend.tokens)
    if weak:
        message = f"{weak} of the tokens are shorter than {_TOKEN_CHARS_GOOD} characters and can be guessed"
        yield Problem("doubtful", origins.get("backend.tokens", ""), "backend.tokens", message)
