"""The kinds of values that settings have, and how each is read from text.

A value is written the same way in the YAML file, in an environment variable and on the command line: as text. So
there is one reader for each kind, and `mode: 0640`, `INCOMING_FILES__MODE=0640` and `--files.mode 0640` cannot mean
different things. Every reader also takes a value that is already of its kind, so that programs and tests need not
write text.
"""

import ipaddress
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import SplitResult, urlsplit

from pydantic import SecretStr

T = TypeVar("T")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# sun_path of a Unix socket is 108 bytes on Linux, one of them the closing zero byte.
_UNIX_PATH_BYTES_MAX: Final = 107
_HOST_NAME: Final = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*\Z"
)
_SIZE: Final = re.compile(r"(?P<number>[0-9]{1,19})[ \t]*(?P<unit>[KMGT]iB|B)?\Z")
_SIZE_UNITS: Final = {"TiB": 1 << 40, "GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10, "B": 1}
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
# RFC 6750 section 2.1, b64token: what can stand behind "Authorization: Bearer".
_BEARER: Final = re.compile(r"[A-Za-z0-9\-._~+/]+=*\Z")


# ------------------------------------------------------------------------------------------------------------ addresses


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """Where a listener listens: a host (name, IPv4 or IPv6 without brackets) and a port from 1 to 65535."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_local(self) -> bool:
        """Whether only this machine can connect. A name counts as local only if it is `localhost`."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def is_wildcard(self) -> bool:
        """Whether it stands for every address of this machine (`0.0.0.0`, `::`)."""
        try:
            return ipaddress.ip_address(self.host).is_unspecified
        except ValueError:
            return False


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """Where a listener listens: a Unix socket at an absolute path."""

    path: Path

    def __str__(self) -> str:
        return f"unix:{self.path}"

    @property
    def is_local(self) -> bool:
        """Whether only this machine can connect: always."""
        return True

    @property
    def is_wildcard(self) -> bool:
        """Whether it stands for several addresses: never."""
        return False


Address = TcpAddress | UnixAddress


def parse_tcp_address(value: object) -> TcpAddress:
    """Read `host:port` or `[v6]:port`. Raises ValueError with a sentence for people."""
    address = parse_address(value)
    if isinstance(address, UnixAddress):
        msg = "a Unix socket cannot be reached from another machine"
        raise ValueError(msg)  # noqa: TRY004 - pydantic turns a ValueError into its report, a TypeError it lets through
    return address


def parse_address(value: object) -> Address:
    """Read `host:port`, `[v6]:port` or `unix:path` (a relative path counts from the working directory).

    Raises ValueError with a sentence for people.
    """
    if isinstance(value, TcpAddress | UnixAddress):
        return value
    text = _text(value)
    if text.startswith("unix:"):
        return UnixAddress(_socket_path(text.removeprefix("unix:")))
    host, colon, port = text.rpartition(":")
    if not colon or not host:
        msg = (
            f"{text!r} has no host and port" if not colon else "the host is missing (0.0.0.0 means every IPv4 address)"
        )
        raise ValueError(msg)
    if not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        msg = f"{port!r} is not a port from 1 to 65535"
        raise ValueError(msg)
    return TcpAddress(_host(host), int(port))


def _socket_path(text: str) -> Path:
    if not text or text.endswith("/"):
        msg = "the path of the socket is missing"
        raise ValueError(msg)
    path = parse_path(text)
    if len(str(path).encode()) > _UNIX_PATH_BYTES_MAX:
        msg = f"the path of the socket is longer than {_UNIX_PATH_BYTES_MAX} bytes, more than the kernel takes"
        raise ValueError(msg)
    return path


def _host(text: str) -> str:
    if text.startswith("[") and text.endswith("]"):
        try:
            return str(ipaddress.IPv6Address(text[1:-1]))
        except ValueError:
            msg = f"{text} is not an IPv6 address"
            raise ValueError(msg) from None
    if ":" in text:
        msg = f"an IPv6 address needs brackets: [{text}]"
        raise ValueError(msg)
    if re.fullmatch(r"[0-9.]+", text):
        try:
            return str(ipaddress.IPv4Address(text))
        except ValueError:
            msg = f"{text} is not an IPv4 address"
            raise ValueError(msg) from None
    if not _HOST_NAME.match(text):
        msg = f"{text!r} is not a host name"
        raise ValueError(msg)
    return text.lower()


# ------------------------------------------------------------------------------------------- numbers, paths, small text


def parse_size(value: object) -> int:
    """Read a number of bytes: `10 GiB`, `512KiB`, `8192`. Raises ValueError."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    found = _SIZE.match(_text(value))
    if found is None:
        msg = f"{value!r} is not a size"
        raise ValueError(msg)
    return int(found["number"]) * _SIZE_UNITS[found["unit"] or "B"]


def format_size(size_bytes: int) -> str:
    """Write a size the way people do, without rounding: `10 GiB`, `1000`."""
    for unit, factor in _SIZE_UNITS.items():
        if size_bytes and size_bytes % factor == 0 and unit != "B":
            return f"{size_bytes // factor} {unit}"
    return str(size_bytes)


def parse_mode(value: object) -> int:
    """Read a file mode the way `chmod` does: octal digits, `0640` or `640`. Raises ValueError."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    text = _text(value).removeprefix("0o")
    if not re.fullmatch(r"0?[0-7]{3}", text):
        msg = f"{value!r} is not a mode of three octal digits"
        raise ValueError(msg)
    return int(text, 8)


def parse_path(value: object) -> Path:
    """Read a path; a relative one counts from the working directory. Raises ValueError."""
    text = str(value) if isinstance(value, Path) else _text(value)
    if not text or "\0" in text:
        msg = "the path is empty" if not text else "the path holds a zero byte"
        raise ValueError(msg)
    return Path(text).absolute()


def parse_base_url(value: object) -> str:
    """Read `http(s)://host[:port][/path]` and take the closing slash off. Raises ValueError."""
    text = _text(value)
    if text.startswith("unix:"):
        msg = "a Unix socket makes no base of URLs; say under which URL this listener is reached"
        raise ValueError(msg)
    url = _split_url(text)
    if url.username is not None or url.password is not None:
        msg = "a user name or password has no place in it"
        raise ValueError(msg)
    if "?" in text or "#" in text:
        msg = "it can have no query and no fragment"
        raise ValueError(msg)
    if re.search(r"[\x00-\x20\x7f\"<>\\^`{|}]", text) or not text.isascii():
        msg = "it holds a character that a URL cannot have"
        raise ValueError(msg)
    return text.rstrip("/")


def _split_url(text: str) -> SplitResult:
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError as error:
        msg = f"{text!r} is not a URL: {error}"
        raise ValueError(msg) from None
    if url.scheme not in _DEFAULT_PORTS or not url.hostname or port == 0:
        msg = f"{text!r} does not begin with http:// or https:// and a host"
        raise ValueError(msg)
    _host(f"[{url.hostname}]" if ":" in url.hostname else url.hostname)
    return url


def parse_instance(value: object) -> str:
    """Read an instance's name: up to 64 of letters, digits and `. _ : -`. Raises ValueError."""
    text = _text(value)
    if not re.fullmatch(r"[A-Za-z0-9._:\-]{1,64}", text):
        msg = f"{text!r} is not a name of up to 64 letters, digits and . _ : -"
        raise ValueError(msg)
    return text


def none_word(value: object) -> object:
    """Let `none`, `null`, `~` and nothing at all mean that an optional value is absent."""
    if isinstance(value, str) and value.strip().lower() in {"none", "null", "~", ""}:
        return None
    return value


def parse_name(value: object) -> str:
    """Read a name without blanks. Raises ValueError."""
    text = _text(value)
    if not text or re.search(r"\s", text):
        msg = f"{text!r} is not a name"
        raise ValueError(msg)
    return text


def parse_optional(value: object, parse: Callable[[object], T]) -> T | None:
    """Read a value that may be absent."""
    return None if none_word(value) is None else parse(value)


def _text(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        msg = (
            "one value is expected here, not a list or a group of keys"
            if isinstance(value, list | dict)
            else "a value is missing"
        )
        raise ValueError(msg)  # noqa: TRY004 - pydantic turns a ValueError into its report, a TypeError it lets through
    return str(value).strip()


# ---------------------------------------------------------------------------------------------------------------- lists


def split_list(value: object) -> Sequence[object]:
    """Take a list as it is and split text at its commas; `none` and nothing are the empty list."""
    if none_word(value) is None or value is None:
        return []
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    if isinstance(value, list | tuple):
        return value
    msg = "a list is expected here"
    raise ValueError(msg)


def _each_text(value: object) -> list[str]:
    return [_text(item) for item in split_list(value)]


@dataclass(frozen=True, slots=True)
class Origins:
    """The origins (RFC 6454) whose pages may upload; `entries` None means all of them."""

    entries: tuple[str, ...] | None

    def allows(self, origin: str) -> bool:
        """Whether a page with this `Origin` header may upload. `null` is allowed only where all are."""
        if self.entries is None:
            return True
        try:
            return _normal_origin(origin) in self.entries
        except ValueError:
            return False

    def __str__(self) -> str:
        return "all" if self.entries is None else ", ".join(self.entries) or "none"


def parse_origins(value: object) -> Origins:
    """Read `all` or a list of `scheme://host[:port]`. Raises ValueError."""
    if isinstance(value, Origins):
        return value
    texts = _each_text(value)
    if texts == ["all"]:
        return Origins(None)
    return Origins(tuple(_normal_origin(text) for text in texts))


def _normal_origin(text: str) -> str:
    url = _split_url(text.strip())
    if url.path not in {"", "/"} or url.query or url.fragment or "@" in url.netloc:
        msg = f"{text!r} is more than scheme://host:port"
        raise ValueError(msg)
    host = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname
    port = "" if url.port in {None, _DEFAULT_PORTS[url.scheme]} else f":{url.port}"
    return f"{url.scheme}://{host}{port}"


@dataclass(frozen=True, slots=True)
class TrustedProxies:
    """Who may say where a request really comes from: networks, and the peers of a Unix socket."""

    networks: tuple[Network, ...]
    unix: bool = False

    def trusts(self, address: str) -> bool:
        """Whether the connection's other end may be believed. `address` is its IP address; empty for a Unix socket."""
        if not address:
            return self.unix
        try:
            ip = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        # A listener on [::] sees IPv4 peers as ::ffff:a.b.c.d.
        ip = (ip.ipv4_mapped or ip) if isinstance(ip, ipaddress.IPv6Address) else ip
        return any(ip in network for network in self.networks)

    def __str__(self) -> str:
        return ", ".join([*map(str, self.networks), *(["unix"] if self.unix else [])]) or "none"


def parse_trusted_proxies(value: object) -> TrustedProxies:
    """Read a list of IP addresses and networks, and `unix` for whoever connects to a Unix socket. Raises ValueError."""
    if isinstance(value, TrustedProxies):
        return value
    texts = _each_text(value)
    networks: list[Network] = []
    for text in texts:
        if text == "unix":
            continue
        try:
            networks.append(ipaddress.ip_network(text))
        except ValueError as error:
            msg = (
                f"{text!r} is not a network: {error}"
                if "host bits" in str(error)
                else f"{text!r} is not an IP address or network"
            )
            raise ValueError(msg) from None
    return TrustedProxies(tuple(networks), unix="unix" in texts)


@dataclass(frozen=True, slots=True)
class HostRule:
    """One entry of a host list: a name, `*.` and a name, an IP address or a network; each may be tied to a port."""

    host: str
    port: int | None = None

    def matches(self, host: str, port: int) -> bool:
        """Whether a URL's host (lower case, IPv6 without brackets) and port are meant."""
        if self.port is not None and self.port != port:
            return False
        try:
            return ipaddress.ip_address(host) in ipaddress.ip_network(self.host)
        except ValueError:
            if self.host.startswith("*."):
                return host.endswith(self.host[1:]) and len(host) > len(self.host) - 1
            return host == self.host

    def __str__(self) -> str:
        if self.port is None:
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Hosts:
    """The hosts that callbacks may go to; `rules` None means all of them."""

    rules: tuple[HostRule, ...] | None

    def allows(self, host: str, port: int) -> bool:
        """Whether a callback may go to this host of a URL (IPv6 without brackets) at this port.

        A network matches only a URL that names an IP address: what a name resolves to can change between check and use.
        """
        plain = host.lower().rstrip(".")
        return self.rules is None or any(rule.matches(plain, port) for rule in self.rules)

    def __str__(self) -> str:
        return "all" if self.rules is None else ", ".join(map(str, self.rules)) or "none"


def parse_hosts(value: object) -> Hosts:
    """Read `all` or a list of host rules. Raises ValueError."""
    if isinstance(value, Hosts):
        return value
    texts = _each_text(value)
    if texts == ["all"]:
        return Hosts(None)
    if "all" in texts:
        msg = "'all' is not one host among others; it stands alone"
        raise ValueError(msg)
    return Hosts(tuple(_host_rule(text) for text in texts))


def _host_rule(text: str) -> HostRule:
    try:
        return HostRule(str(ipaddress.ip_network(text)) if "/" in text else str(ipaddress.ip_address(text)))
    except ValueError:
        pass  # not a bare address or network: a name, or something with a port
    host, port = text, None
    found = re.fullmatch(r"(.+):([0-9]{1,5})", text)
    if found:
        host, port = found[1], int(found[2])
    prefix = "*." if host.startswith("*.") else ""
    return HostRule(prefix + _host(host.removeprefix(prefix)), port)


_TOKEN_CHARS_MAX: Final = 512


def parse_tokens(value: object) -> tuple[SecretStr, ...]:
    """Read a list of bearer tokens. Raises ValueError, whose text shows none of them."""
    tokens: list[str] = []
    for item in split_list(value):
        token = item.get_secret_value() if isinstance(item, SecretStr) else _text(item)
        if not _BEARER.match(token) or len(token) > _TOKEN_CHARS_MAX:
            msg = f"entry {len(tokens) + 1} cannot stand in an Authorization header"
            raise ValueError(msg)
        tokens.append(token)
    return tuple(SecretStr(token) for token in dict.fromkeys(tokens))


_KEY_CHARS_MIN: Final = 16


def parse_peer_keys(value: object) -> tuple[SecretStr, ...]:
    """Read a list of keys that instances share. Raises ValueError, whose text shows none of them."""
    keys: list[str] = []
    for item in split_list(value):
        key = item.get_secret_value() if isinstance(item, SecretStr) else _text(item)
        if not _BEARER.match(key) or len(key) > _TOKEN_CHARS_MAX:
            msg = f"entry {len(keys) + 1} is not of up to {_TOKEN_CHARS_MAX} letters, digits and - . _ ~ + / ="
            raise ValueError(msg)
        if len(key) < _KEY_CHARS_MIN:
            msg = f"entry {len(keys) + 1} can be guessed: a key has {_KEY_CHARS_MIN} random characters or more"
            raise ValueError(msg)
        keys.append(key)
    return tuple(SecretStr(key) for key in dict.fromkeys(keys))
