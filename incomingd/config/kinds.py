"""The types of settings: how each is read, written and described to people and to editors."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from pydantic import BeforeValidator, PlainSerializer, SecretStr, WithJsonSchema

from incomingd.config.redis_url import RegistryUrl, parse_registry_url
from incomingd.config.values import (
    Address,
    Hosts,
    Origins,
    TcpAddress,
    TrustedProxies,
    format_size,
    none_word,
    parse_address,
    parse_base_url,
    parse_hosts,
    parse_instance,
    parse_mode,
    parse_name,
    parse_optional,
    parse_origins,
    parse_path,
    parse_peer_keys,
    parse_size,
    parse_tcp_address,
    parse_tokens,
    parse_trusted_proxies,
)


@dataclass(frozen=True, slots=True)
class Expects:
    """Part of a type: what a person is told to write, in words and as one word of `--help`."""

    text: str
    metavar: str


_SIZE_SCHEMA: Final = {
    "anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": r"^[0-9]+[ \t]*([KMGT]iB|B)?$"}]
}
_MODE_SCHEMA: Final = {"anyOf": [{"type": "string", "pattern": "^(0o)?0?[0-7]{3}$"}, {"type": "integer"}]}


def _list_schema(*words: str) -> dict[str, object]:
    return {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "string", "examples": list(words)}]}


AddressValue = Annotated[
    Address,
    BeforeValidator(parse_address),
    PlainSerializer(str),
    WithJsonSchema({"type": "string"}),
    Expects("host:port, [v6 address]:port or unix:/path", "ADDRESS"),
]
Size = Annotated[
    int,
    BeforeValidator(parse_size),
    PlainSerializer(format_size),
    WithJsonSchema(_SIZE_SCHEMA),
    Expects("a size such as 512 KiB, 10 GiB or a number of bytes", "SIZE"),
]
OptionalSize = Annotated[
    int | None,
    BeforeValidator(lambda value: parse_optional(value, parse_size)),
    PlainSerializer(lambda value: None if value is None else format_size(value)),
    WithJsonSchema({"anyOf": [*_SIZE_SCHEMA["anyOf"], {"const": "none"}, {"type": "null"}]}),
    Expects("a size such as 512 KiB, 10 GiB or a number of bytes; or none", "SIZE"),
]
Seconds = Annotated[float, Expects("a number of seconds", "SECONDS")]
Count = Annotated[int, Expects("a whole number", "NUMBER")]
OptionalCount = Annotated[
    int | None,
    BeforeValidator(none_word),
    WithJsonSchema({"anyOf": [{"type": "integer"}, {"const": "none"}, {"type": "null"}]}),
    Expects("a whole number; or none", "NUMBER"),
]
Switch = Annotated[bool, Expects("true or false", "true|false")]
Mode = Annotated[
    int,
    BeforeValidator(parse_mode),
    PlainSerializer(lambda value: f"{value:04o}"),
    WithJsonSchema(_MODE_SCHEMA),
    Expects("a mode of octal digits such as 0640", "MODE"),
]
PathValue = Annotated[
    Path,
    BeforeValidator(parse_path),
    PlainSerializer(str),
    WithJsonSchema({"type": "string"}),
    Expects("a path", "PATH"),
]
OptionalPath = Annotated[
    Path | None,
    BeforeValidator(lambda value: parse_optional(value, parse_path)),
    PlainSerializer(lambda value: None if value is None else str(value)),
    WithJsonSchema({"type": ["string", "null"]}),
    Expects("the path of a file; or none", "FILE"),
]
OptionalName = Annotated[
    str | None,
    BeforeValidator(lambda value: parse_optional(value, parse_name)),
    WithJsonSchema({"type": ["string", "null"]}),
    Expects("a name; or none", "NAME"),
]
InstanceName = Annotated[
    str,
    BeforeValidator(parse_instance),
    WithJsonSchema({"type": "string", "pattern": r"^[A-Za-z0-9._:\-]{1,64}$"}),
    Expects("a name of up to 64 letters, digits and . _ : -", "NAME"),
]
OptionalUrl = Annotated[
    str | None,
    BeforeValidator(lambda value: parse_optional(value, parse_base_url)),
    WithJsonSchema({"anyOf": [{"type": "string", "pattern": "^https?://"}, {"const": "none"}, {"type": "null"}]}),
    Expects("a URL such as https://upload.example.org; or none", "URL"),
]
BaseUrl = Annotated[
    str,
    BeforeValidator(parse_base_url),
    WithJsonSchema({"type": "string", "pattern": "^https?://"}),
    Expects("a URL such as https://upload.example.org", "URL"),
]
OptionalTcpAddress = Annotated[
    TcpAddress | None,
    BeforeValidator(lambda value: parse_optional(value, parse_tcp_address)),
    PlainSerializer(lambda value: None if value is None else str(value)),
    WithJsonSchema({"type": ["string", "null"]}),
    Expects("host:port or [v6 address]:port; or none", "ADDRESS"),
]
RegistryUrlValue = Annotated[
    RegistryUrl,
    BeforeValidator(parse_registry_url),
    PlainSerializer(str),
    WithJsonSchema({"type": "string", "pattern": r"^(memory:$|rediss?(\+sentinel|\+cluster)?://)"}),
    Expects(
        "memory:, or a URL that begins with redis://, redis+sentinel:// or redis+cluster:// (rediss… with TLS)", "URL"
    ),
]
OriginList = Annotated[
    Origins,
    BeforeValidator(parse_origins),
    PlainSerializer(str),
    WithJsonSchema(_list_schema("all")),
    Expects("all, or a list of scheme://host[:port]", "LIST"),
]
ProxyList = Annotated[
    TrustedProxies,
    BeforeValidator(parse_trusted_proxies),
    PlainSerializer(str),
    WithJsonSchema(_list_schema("none")),
    Expects("a list of IP addresses and networks such as 10.0.0.0/8, and unix; or none", "LIST"),
]
HostList = Annotated[
    Hosts,
    BeforeValidator(parse_hosts),
    PlainSerializer(str),
    WithJsonSchema(_list_schema("all")),
    Expects(
        "all, or a list of names, *.names, IP addresses and networks, with :port where only that port may be used",
        "LIST",
    ),
]
TokenList = Annotated[
    tuple[SecretStr, ...],
    BeforeValidator(parse_tokens),
    WithJsonSchema(_list_schema("none")),
    Expects("a list of tokens of up to 512 letters, digits and - . _ ~ + / =", "LIST"),
]
KeyList = Annotated[
    tuple[SecretStr, ...],
    BeforeValidator(parse_peer_keys),
    WithJsonSchema(_list_schema("none")),
    Expects("a list of keys, each of 16 to 512 letters, digits and - . _ ~ + / =", "LIST"),
]
