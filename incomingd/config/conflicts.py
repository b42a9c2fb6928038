"""What is wrong between keys that are each right, and what works but is probably not meant."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, cast

from incomingd.config.errors import Problem
from incomingd.config.keys import Key, keys, value_of
from incomingd.config.listeners import Tls
from incomingd.config.secret_files import readable_by_others
from incomingd.config.settings import Settings
from incomingd.config.text import dump

_TOKEN_CHARS_GOOD: Final = 16
# What cannot be more than what, each pair of one unit.
_ORDERED: Final = (
    ("uploads.expires_in_s", "uploads.expires_in_max_s"),
    ("handover.backoff_first_s", "handover.backoff_max_s"),
    ("limits.metadata_bytes", "limits.header_bytes"),
)


def conflicts(settings: Settings) -> Iterator[tuple[tuple[str, ...], str]]:
    """Find what contradicts. Yields the keys that have a part in it, the one to blame first, and a sentence."""
    yield from _certificates(settings)
    yield from _listeners(settings)
    texts = dump(settings)
    for less, more in _ORDERED:
        if cast("float", value_of(settings, less)) > cast("float", value_of(settings, more)):
            yield (less, more), f"{less} ({texts[less]}) is more than {more} ({texts[more]})"


def _certificates(settings: Settings) -> Iterator[tuple[tuple[str, ...], str]]:
    for name in ("public", "backend", "admin"):
        tls: Tls = getattr(settings, name).tls
        if (tls.cert is None) != (tls.key is None):
            there, missing = ("cert", "key") if tls.cert else ("key", "cert")
            keys_ = (f"{name}.tls.{there}", f"{name}.tls.{missing}")
            yield keys_, f"{keys_[0]} is set and {keys_[1]} is not; one needs the other"


def _listeners(settings: Settings) -> Iterator[tuple[tuple[str, ...], str]]:
    public, backend, admin = settings.public, settings.backend, settings.admin
    if public.address == backend.address:
        about: tuple[str, ...] = ("backend.address", "public.address")
        yield (
            about,
            "web apps would share the listener of browsers, which is for the world: set another backend.address",
        )
    if public.address == admin.address:
        about = ("admin.address", "public.address", "backend.address")
        yield (
            about,
            "operators would share the listener of browsers, and anyone could stop it: set admin.address",
        )
    if admin.address == backend.address and admin.tls != backend.tls:
        about = ("admin.tls.cert", "admin.tls.key", "backend.tls.cert", "backend.tls.key")
        yield about, "admin and backend share one listener, which has one certificate: set backend.tls only"


def doubts(settings: Settings, origins: Mapping[str, str], config_file: Path | None) -> Iterator[Problem]:
    """Find what works and is probably not meant. `origins` has the source of each key that is set."""
    backend = settings.backend
    if not backend.address.is_local and not backend.tokens:
        message = f"whoever reaches {backend.address} may make tickets: set backend.tokens, or listen on 127.0.0.1"
        yield _doubt(origins, "backend.address", message)
    if not settings.admin.address.is_local:
        message = f"whoever reaches {settings.admin.address} may stop this instance: use a loopback or Unix address"
        yield _doubt(origins, "admin.address", message)
    for key in (key for key in keys().values() if key.secret):
        yield from _exposed(key, settings, origins, config_file)
    weak = sum(len(token.get_secret_value()) < _TOKEN_CHARS_GOOD for token in backend.tokens)
    if weak:
        message = f"{weak} of the tokens can be guessed: use {_TOKEN_CHARS_GOOD} random characters or more"
        yield _doubt(origins, "backend.tokens", message)


def _exposed(key: Key, settings: Settings, origins: Mapping[str, str], config_file: Path | None) -> Iterator[Problem]:
    """Find secrets that other users of this machine can read."""
    source = origins.get(key.name, "")
    twin = f"{key.name}_file"
    if source.startswith("option "):
        yield _doubt(origins, key.name, f"every user of this machine sees the command line: use {twin}")
    if config_file is not None and source.startswith(f"{config_file}:") and readable_by_others(config_file):
        message = f"the file holds secrets and every user can read it: chmod o-r {config_file}, or use {twin}"
        yield _doubt(origins, key.name, message)
    secret_file = value_of(settings, twin)
    if isinstance(secret_file, Path) and readable_by_others(secret_file):
        yield _doubt(origins, twin, f"every user of this machine can read the secrets: chmod o-r {secret_file}")


def _doubt(origins: Mapping[str, str], key: str, message: str) -> Problem:
    return Problem("doubtful", origins.get(key, "default"), key, message)
