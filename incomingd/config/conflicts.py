"""What is wrong between keys that are each right, and what works but is probably not meant."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, cast

from incomingd.config.errors import Problem
from incomingd.config.keys import Key, keys, value_of
from incomingd.config.listeners import Tls
from incomingd.config.secret_files import readable_by_others
from incomingd.config.settings import Settings
from incomingd.config.text import dump, hides

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
    yield from _peers(settings)
    yield from _agent(settings)
    texts = dump(settings)
    for less, more in _ORDERED:
        if cast("float", value_of(settings, less)) > cast("float", value_of(settings, more)):
            yield (less, more), f"{less} ({texts[less]}) is more than {more} ({texts[more]})"


def _certificates(settings: Settings) -> Iterator[tuple[tuple[str, ...], str]]:
    for name in ("public", "backend", "admin", "peer"):
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


def _agent(settings: Settings) -> Iterator[tuple[tuple[str, ...], str]]:
    for name in ("public", "backend", "admin", "peer"):
        if settings.agent.address is not None and settings.agent.address == getattr(settings, name).address:
            about = ("agent.address", f"{name}.address")
            yield about, f"the agent check speaks no HTTP and needs a listener of its own: {about[1]} is the same"


def _peers(settings: Settings) -> Iterator[tuple[tuple[str, ...], str]]:
    peer = settings.peer
    for name in ("public", "backend", "admin"):
        if peer.address == getattr(settings, name).address:
            about = ("peer.address", f"{name}.address")
            yield about, f"other instances need a listener of their own: {about[1]} is the same"
    if peer.address is not None and not (peer.address.is_local or peer.tls.enabled or peer.allow_plaintext):
        message = f"instances would talk in plain text at {peer.address}: set peer.tls.cert and peer.tls.key"
        yield (
            ("peer.address", "peer.tls.cert", "peer.allow_plaintext"),
            f"{message}, or peer.allow_plaintext where nobody can listen in",
        )
    if peer.advertised_address is not None and peer.advertised_address.is_wildcard:
        yield ("peer.advertised_address",), "nobody can connect to a wildcard: say under which name it is reached"
    if settings.registry.url.target is None:
        return
    if peer.address is None:
        yield ("registry.url", "peer.address"), "the instances of a fleet talk to each other: set peer.address"
    if not peer.keys:
        yield ("registry.url", "peer.keys"), "the instances of a fleet know each other by a key: set peer.keys_file"


def doubts(settings: Settings, origins: Mapping[str, str], config_file: Path | None) -> Iterator[Problem]:
    """Find what works and is probably not meant. `origins` has the source of each key that is set."""
    backend = settings.backend
    if not backend.address.is_local and not backend.tokens:
        message = f"whoever reaches {backend.address} may make tickets: set backend.tokens, or listen on 127.0.0.1"
        yield _doubt(origins, "backend.address", message)
    if not settings.admin.address.is_local:
        message = f"whoever reaches {settings.admin.address} may stop this instance: use a loopback or Unix address"
        yield _doubt(origins, "admin.address", message)
    if settings.peer.address is not None and not settings.peer.keys:
        yield _doubt(origins, "peer.address", "without peer.keys nobody is answered there: set peer.keys_file")
    for key in (key for key in keys().values() if hides(settings, key)):
        yield from _exposed(key, settings, origins, config_file)
    weak = sum(len(token.get_secret_value()) < _TOKEN_CHARS_GOOD for token in backend.tokens)
    if weak:
        message = f"{weak} of the tokens can be guessed: use {_TOKEN_CHARS_GOOD} random characters or more"
        yield _doubt(origins, "backend.tokens", message)


def _exposed(key: Key, settings: Settings, origins: Mapping[str, str], config_file: Path | None) -> Iterator[Problem]:
    """Find secrets that other users of this machine can read."""
    source = origins.get(key.name, "")
    twin = f"{key.name}_file" if key.secret else key.environment_variable
    if source.startswith("option "):
        yield _doubt(origins, key.name, f"every user of this machine sees the command line: use {twin}")
    if config_file is not None and source.startswith(f"{config_file}:") and readable_by_others(config_file):
        message = f"the file holds secrets and every user can read it: chmod o-r {config_file}, or use {twin}"
        yield _doubt(origins, key.name, message)
    secret_file = value_of(settings, twin) if key.secret else None
    if isinstance(secret_file, Path) and readable_by_others(secret_file):
        yield _doubt(origins, twin, f"every user of this machine can read the secrets: chmod o-r {secret_file}")


def _doubt(origins: Mapping[str, str], key: str, message: str) -> Problem:
    return Problem("doubtful", origins.get(key, "default"), key, message)
