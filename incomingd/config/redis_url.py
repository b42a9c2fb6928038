"""Where the registry is: in memory, or in a Redis, and how to get into that.

==========================  ======================================================================
``memory:``                 in this process, for a single instance
``redis://``                ``redis://user:password@host:6379/0``
``rediss://``               the same over TLS
``redis+sentinel://``       ``redis+sentinel://user:password@one:26379,two:26379,three:26379/primary/0``
``rediss+sentinel://``      the same, Redis and Sentinels over TLS
``redis+cluster://``        ``redis+cluster://user:password@one:6379,two:6379,three:6379``
``rediss+cluster://``       the same over TLS
==========================  ======================================================================

Of user, password, port and database each may be missing. A Cluster has one
database only, and tells where its other servers are. Options stand after
``?``: ``ca_file``, ``cert_file``, ``key_file`` (TLS), ``sentinel_user``,
``sentinel_password`` (the Sentinels' own), ``prefix`` (of all keys).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit, urlunsplit

REDIS_PORT: Final = 6379
SENTINEL_PORT: Final = 26379
DATABASE_MAX: Final = 1023
PREFIX: Final = "incoming"
MASK: Final = "***"

_KINDS: Final = ("redis", "redis+sentinel", "redis+cluster")
_SCHEMES: Final = frozenset({kind.replace("redis", scheme) for kind in _KINDS for scheme in ("redis", "rediss")})
_TLS_OPTIONS: Final = frozenset({"ca_file", "cert_file", "key_file"})
_SENTINEL_OPTIONS: Final = frozenset({"sentinel_user", "sentinel_password"})


@dataclass(frozen=True, slots=True)
class Login:
    """An ACL user; without a name the default one."""

    user: str | None = None
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Tls:
    """How the server is known, and this program to it. Paths of PEM files."""

    ca_file: str | None = None
    """Who may have signed the server's certificate; None: whom the system trusts."""
    cert_file: str | None = None
    key_file: str | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """Where a Redis is and how to get in. Shows no password when it is printed."""

    hosts: tuple[tuple[str, int], ...]
    """One Redis, the Sentinels, or some servers of a Cluster."""
    primary: str | None = None
    """What the Sentinels call it; None: no Sentinels."""
    cluster: bool = False
    """Whether it is a Redis Cluster."""
    database: int = 0
    login: Login = Login()
    sentinel_login: Login = Login()
    tls: Tls | None = None
    prefix: str = PREFIX

    def __str__(self) -> str:
        hosts = ", ".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        if self.cluster:
            return f"the Cluster of {hosts}"
        return hosts if self.primary is None else f"{self.primary!r} of the Sentinels {hosts}"


@dataclass(frozen=True, slots=True, repr=False)
class RegistryUrl:
    """Where the registry is. Shows no password when it is printed."""

    url: str
    """As it was written."""
    target: Target | None
    """None: in memory."""

    @property
    def secrets(self) -> tuple[str, ...]:
        """The passwords in it."""
        if self.target is None:
            return ()
        logins = (self.target.login, self.target.sentinel_login)
        return tuple(login.password for login in logins if login.password is not None)

    def __str__(self) -> str:
        parts = urlsplit(self.url)
        userinfo, at, hosts = parts.netloc.rpartition("@")
        user, colon, _ = userinfo.partition(":")
        options = [
            f"{name}={MASK if name == 'sentinel_password' else quote(value, safe='/')}"
            for name, value in parse_qsl(parts.query)
        ]
        netloc = user + (f":{MASK}" if colon else "") + at + hosts
        return urlunsplit((parts.scheme, netloc, parts.path, "&".join(options), ""))

    def __repr__(self) -> str:
        return f"RegistryUrl({self})"


MEMORY: Final = RegistryUrl("memory:", None)


def parse_registry_url(value: object) -> RegistryUrl:
    """Read ``memory:`` or the URL of a Redis.

    Raises:
        ValueError: with a sentence for operators, without the URL.
    """
    if isinstance(value, RegistryUrl):
        return value
    if not isinstance(value, str):
        raise ValueError("one text is expected here")  # noqa: TRY004 -- pydantic turns a ValueError into its report
    text = value.strip()
    return MEMORY if text == MEMORY.url else RegistryUrl(text, parse(text))


def parse(url: str) -> Target:
    """Return what *url* says.

    Raises:
        ValueError: with a sentence for operators, without the URL: it may hold a password.
    """
    scheme, separator, _ = url.partition("://")
    secure = scheme.startswith("rediss")
    sentinel, cluster = scheme.endswith("+sentinel"), scheme.endswith("+cluster")
    if not separator or scheme not in _SCHEMES:
        raise ValueError(
            "it is not memory: and does not begin with redis://, redis+sentinel:// or redis+cluster://"
            " (with TLS rediss://, rediss+sentinel:// or rediss+cluster://)"
        )
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError("the URL's brackets do not match") from None
    if parts.fragment:
        raise ValueError("the URL holds a '#'; in a password write %23")
    options = _options(parts, secure=secure, sentinel=sentinel)
    userinfo, _, hosts = parts.netloc.rpartition("@")
    path = [unquote(part) for part in parts.path.removeprefix("/").split("/")]
    primary = path.pop(0) if sentinel else None
    if primary == "":
        raise ValueError("the URL does not name the primary: redis+sentinel://host:26379,host:26379/primary")
    if len(path) > 1:
        raise ValueError("the URL's path is longer than it should be")
    if ("cert_file" in options) != ("key_file" in options):
        raise ValueError("cert_file and key_file go together")
    names = hosts.split(",")
    if len(names) > 1 and not (sentinel or cluster):
        raise ValueError(
            "several hosts are Sentinels, redis+sentinel://host:26379,host:26379/primary,"
            " or a Cluster, redis+cluster://host:6379,host:6379"
        )
    located = tuple(_host(name, SENTINEL_PORT if sentinel else REDIS_PORT) for name in names)
    database = _database(path[0]) if path and path[0] else 0
    if cluster and database:
        raise ValueError("a Cluster has no other database than 0")
    return Target(
        hosts=located,
        primary=primary,
        cluster=cluster,
        database=database,
        login=_login(userinfo),
        sentinel_login=Login(options.get("sentinel_user"), options.get("sentinel_password")),
        tls=Tls(options.get("ca_file"), options.get("cert_file"), options.get("key_file")) if secure else None,
        prefix=options.get("prefix", PREFIX),
    )


def _options(parts: SplitResult, *, secure: bool, sentinel: bool) -> dict[str, str]:
    allowed = {"prefix"} | (_TLS_OPTIONS if secure else set()) | (_SENTINEL_OPTIONS if sentinel else set())
    options: dict[str, str] = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in allowed:
            elsewhere = " with this scheme" if name in _TLS_OPTIONS | _SENTINEL_OPTIONS else ""
            raise ValueError(f"there is no option {name!r}{elsewhere}; there are: {', '.join(sorted(allowed))}")
        if name in options or not value:
            raise ValueError(f"the option {name!r} is " + ("empty" if not value else "there twice"))
        options[name] = value
    if not re.fullmatch(r"[A-Za-z0-9._:\-]{1,64}", options.get("prefix", PREFIX)):
        raise ValueError("a prefix is up to 64 letters, digits and . _ : -")
    return options


def _login(userinfo: str) -> Login:
    user, _, password = userinfo.partition(":")
    return Login(unquote(user) or None, unquote(password) or None)


def _host(text: str, default_port: int) -> tuple[str, int]:
    # Without the text: what follows an unescaped @ or / of a password would be in it.
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._\-]+))(?::(\d{1,5}))?", text)
    port = int(found[3] or default_port) if found else 0
    if found is None or not 0 < port < 65536:
        raise ValueError(
            "the URL's hosts are not host:port, with IPv6 addresses in brackets;"
            " in a password write %40 for @, %2F for / and %3A for :"
        )
    return found[1] or found[2], port


def _database(text: str) -> int:
    if not text.isdecimal() or int(text) > DATABASE_MAX:
        raise ValueError(f"the database is a number up to {DATABASE_MAX}")
    return int(text)
