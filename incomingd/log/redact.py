"""What must not come out of a log: secrets, addresses that the operator does not want, endless values.

It works on the finished fields of an event, at any depth, and on text in which a secret is embedded. It is a net, not a
licence: code that logs should not have the secret in its hands in the first place.
"""

import ipaddress
import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import lru_cache
from typing import Final

from incomingd.log.events import COMMON_FIELDS, FIELDS

MASK: Final = "***"
TEXT_CHARS_MAX: Final = 2_048
TRACEBACK_CHARS_MAX: Final = 16_384
ITEMS_MAX: Final = 50
DEPTH_MAX: Final = 6
_NAME_CHARS_MAX: Final = 64
# Beyond this many readers of JSON lose digits (RFC 8259 section 6).
_INTEGER_MAX: Final = 2**53 - 1
# What the longest secret may have: text is looked at so much further than it is logged, and that end is then cut off,
# so that a secret that the cut would halve is not logged in half.
_MARGIN_CHARS: Final = 1_024
# Shorter ones would blacken ordinary words wherever they occur.
_HIDDEN_CHARS_MIN: Final = 6

_SECRET_WORDS: Final = frozenset(
    (
        "token",
        "tokens",
        "secret",
        "secrets",
        "password",
        "passwords",
        "passwd",
        "passphrase",
        "pwd",
        "authorization",
        "authentication",
        "cookie",
        "cookies",
        "credential",
        "credentials",
        "key",
        "keys",
        "apikey",
        "bearer",
        "signature",
        "signatures",
        "whsec",
    )
)
_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")

# Every pattern takes linear time: what it looks at was written by others.
# Quotes may be escaped any number of times: JSON in a repr, JSON in JSON.
_QUOTE: Final = r"(?:\\*[\"'])?"
_NAMED: Final = rf"((?:token|secret|passwd|credential|signature|key)s?{_QUOTE})"
_NAMED_TO_LINE_END: Final = rf"((?:authorization|cookie|password|passphrase)s?{_QUOTE})"
_QUOTED: Final = r"\\*\"(?:[^\"\\]++|\\++.)*+\"?|\\*'(?:[^'\\]++|\\++.)*+'?"
_IN_TEXT: Final = (
    # Secrets of tickets, which carry their mark with them.
    (re.compile(r"whsec_[A-Za-z0-9+/=_-]*"), f"whsec_{MASK}"),
    # Bearer …, with or without the header's name before it.
    (re.compile(r"\b(Bearer|Basic)(?:\s+|%20|\+)[^\s,;\"'&<>]+", re.IGNORECASE), rf"\1 {MASK}"),
    # Authorization: anything; password: several words.
    (re.compile(rf"{_NAMED_TO_LINE_END}(\s*[:=]\s*)(?:{_QUOTED}|[^\r\n&]+)", re.IGNORECASE), rf"\1\2{MASK}"),
    # Query strings, forms and reprs: ?token=…&, secret='…'.
    (re.compile(rf"{_NAMED}(=|%3D)(?:{_QUOTED}|[^&\s\"'<>]+)", re.IGNORECASE), rf"\1\2{MASK}"),
    # Headers and JSON: X-Incoming-Secret: …, "secret": "…".
    (re.compile(rf"{_NAMED}(\s*:\s*)(?:{_QUOTED}|[^\s,;}}\])]+)", re.IGNORECASE), rf"\1\2{MASK}"),
    # http://user:password@host
    (re.compile(r"://[^/\s@\"']{1,256}@"), f"://{MASK}@"),
)
# Beside one of these stands every secret that a pattern finds, in small letters ("passw": password, passwd).
_SIGNS: Final = (
    "token",
    "secret",
    "key",
    "authorization",
    "cookie",
    "passw",
    "passphrase",
    "credential",
    "signature",
    "://",
)
_ADDRESS_FIELDS: Final = frozenset({"address", "client_address", "peer_address", "remote_ip"})
# Only finds what may be an address; whether it is one, `ipaddress` says.
_MAYBE_ADDRESS: Final = re.compile(
    r"(?<![\w.])[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?!\w|\.\w)"
    r"|(?<![\w:.])(?=[0-9A-Fa-f]{0,4}:)[0-9A-Fa-f:]{2,39}(?:\.[0-9]{1,3}){0,3}(?!\w)"
)
_WITH_PORT: Final = re.compile(r"\[(?P<v6>[^\]]+)\](?::[0-9]+)?|(?P<v4>[0-9.]+):[0-9]+")


def _may_hold_secret(text: str) -> bool:
    """Whether any pattern could change a text: nearly all texts are ids and words, and need no second look."""
    lower = text.lower()
    if "whsec_" in text or "bearer" in lower or "basic" in lower:
        return True
    return ("=" in text or ":" in text or "%3d" in lower) and any(sign in lower for sign in _SIGNS)


@lru_cache(maxsize=1024)
def is_secret_name(name: str) -> bool:
    """Whether a field of this name is taken to hold a secret: one of its words says so (`api_key`, `xSecret`)."""
    return any(word.lower() in _SECRET_WORDS for word in _WORD.findall(name))


_PLAIN_FIELDS: Final = frozenset(
    name for name in (*FIELDS, *COMMON_FIELDS) if name not in _ADDRESS_FIELDS and not is_secret_name(name)
)


class Redactor:
    """Makes the fields of an event fit to be written. Knows how much of a client's address may be shown.

    `hidden` are secrets that are known by their value; they are masked wherever they occur.
    """

    def __init__(self, client_address: str = "full", hidden: Iterable[str] = ()) -> None:
        assert client_address in {"full", "masked", "none"}
        self._client_address = client_address
        long_enough = sorted({text for text in hidden if len(text) >= _HIDDEN_CHARS_MIN}, key=len, reverse=True)
        self._hidden = re.compile("|".join(map(re.escape, long_enough))) if long_enough else None

    def clean(self, fields: Mapping[str, object]) -> dict[str, object]:
        """Give the fields as values of JSON: secrets masked, text and depth capped, anything else turned into text."""
        cleaned: dict[str, object] = {}
        for name, value in fields.items():
            if name in _PLAIN_FIELDS and (value is None or type(value) is str):
                # Nearly all there is.
                cleaned[name] = None if value is None else self.text(value)
            elif name not in _ADDRESS_FIELDS:
                known = name in FIELDS or name in COMMON_FIELDS
                cleaned[name if known else self.text(name, _NAME_CHARS_MAX)] = self._value(name, value, 0)
            elif self._client_address != "none":
                cleaned[name] = None if value is None else self._address(str(value))
        return cleaned

    def text(self, text: str, chars_max: int = TEXT_CHARS_MAX) -> str:
        """Mask the secrets in a text, and cut it."""
        too_long = len(text) > chars_max + _MARGIN_CHARS
        cut = text[: chars_max + _MARGIN_CHARS] if too_long else text
        if self._hidden:
            cut = self._hidden.sub(MASK, cut)
        if _may_hold_secret(cut):
            for pattern, replacement in _IN_TEXT:
                cut = pattern.sub(replacement, cut)
        if too_long:
            cut = cut[:-_MARGIN_CHARS]
        if too_long or len(cut) > chars_max:
            return f"{cut[:chars_max]}… ({len(text)} characters)"
        return cut

    def free_text(self, text: str, chars_max: int = TEXT_CHARS_MAX) -> str:
        """Mask as `text`, for what libraries wrote: addresses of clients may stand in it, too."""
        if self._client_address != "full":
            cut = text[: chars_max + _MARGIN_CHARS]
            text = _MAYBE_ADDRESS.sub(lambda found: self._embedded_address(found[0]), cut) + text[len(cut) :]
        return self.text(text, chars_max)

    def _value(self, name: str, value: object, depth: int) -> object:
        if value is None or isinstance(value, bool):
            return value
        if is_secret_name(name):
            return MASK
        if isinstance(value, int):
            return value if -_INTEGER_MAX <= value <= _INTEGER_MAX else self.text(str(value))
        if isinstance(value, float):
            # Microseconds and less are noise of the clock; JSON has no infinity.
            return round(value, 6) if math.isfinite(value) else str(value)
        if isinstance(value, str):
            return self.text(str(value))
        if isinstance(value, bytes | bytearray | memoryview):
            return self.text(bytes(value[: TEXT_CHARS_MAX * 2]).decode("utf-8", "backslashreplace"))
        if depth >= DEPTH_MAX and isinstance(value, Mapping | Sequence | AbstractSet):
            return "…"
        return self._container(value, depth)

    def _container(self, value: object, depth: int) -> object:
        if isinstance(value, Mapping):
            shown = {
                self.text(_text_of(key), _NAME_CHARS_MAX): self._value(_text_of(key), item, depth + 1)
                for key, item in itertools.islice(value.items(), ITEMS_MAX)
            }
            return {**shown, "…": f"{len(value) - ITEMS_MAX} more"} if len(value) > ITEMS_MAX else shown
        if isinstance(value, Sequence | AbstractSet):
            items = list(itertools.islice(value, ITEMS_MAX))
            # A header as a pair: ("Authorization", "…").
            pair = len(items) == len(("name", "value")) and isinstance(items[0], str | bytes)
            name = _text_of(items[0]) if pair else ""
            listed = [self._value(name if index else "", item, depth + 1) for index, item in enumerate(items)]
            return [*listed, f"… {len(value) - ITEMS_MAX} more"] if len(value) > ITEMS_MAX else listed
        return self.text(_text_of(value))

    def _address(self, text: str) -> str:
        if self._client_address == "full":
            return self.text(text)
        port = _WITH_PORT.fullmatch(text)
        bare = (port["v6"] or port["v4"]) if port else text
        try:
            return _network_of(bare)
        except ValueError:
            # Not an address after all: a Unix socket's peer has none, and nothing else shall slip through.
            return text if text in {"", "unix"} else MASK

    def _embedded_address(self, text: str) -> str:
        # A colon behind may be the sentence's, not the address's.
        for address, rest in ((text, ""), (text[:-1], text[-1:])):
            try:
                network = _network_of(address)
            except ValueError:
                continue
            return f"{network if self._client_address == 'masked' else MASK}{rest}"
        return text


@lru_cache(maxsize=1024)
def _network_of(text: str) -> str:
    """Give the network that a masked address is shown as: /24 for IPv4, /48 for IPv6. Raises ValueError."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return str(ipaddress.ip_network((address, 24 if address.version == 4 else 48), strict=False))


def _text_of(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - whatever a foreign __str__ raises, the log line must still be written
        return f"<unprintable {type(value).__name__}>"
