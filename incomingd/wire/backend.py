"""What web apps send to the backend API: tickets, changes, cancels and confirmations.

Every mistake of a document is found in one go: the refusal names each field and
says what was expected of it. The sentences are those of the published
description, so both say the same.
"""

from __future__ import annotations

import base64
import binascii
import difflib
import hmac
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import ErrorDetails

from incomingd.core import names
from incomingd.core.errors import Code, Refusal
from incomingd.core.record import Record, Terms
from incomingd.core.status import Status

TICKETS_MAX: Final = 1000
LENGTH_MAX: Final = 10**18 - 1
URL_CHARS_MAX: Final = 2000
SECRET_BYTES_MIN: Final = 24
SECRET_BYTES_MAX: Final = 64
SECRET_PREFIX: Final = "whsec_"  # noqa: S105 -- a mark, not a secret
LABELS_MAX: Final = 8
LABEL_CHARS_MAX: Final = 64
LIST_ITEMS_MAX: Final = 64
APP_DATA_BYTES_MAX: Final = 16 * 1024
CLIENT_DATA_BYTES_MAX: Final = 4 * 1024
JSON_DEPTH_MAX: Final = 32
MESSAGE_CHARS_MAX: Final = 1000
KEY_CHARS_MAX: Final = 255
ERRORS_MAX: Final = 100
"""So many mistakes are told at once; a thousand tickets can hold very many."""

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_URL: Final = re.compile(r"[!-~]+", re.ASCII)
_NOT_IN_URLS: Final = re.compile(r"[\"<>\\^`{|}]")
_KEY: Final = re.compile(rf"[ -~]{{1,{KEY_CHARS_MAX}}}", re.ASCII)
_MEDIA_RANGE: Final = re.compile(r"(?:\*/\*|[a-z0-9!#$&\-^_.+]+/(?:\*|[a-z0-9!#$&\-^_.+]+))", re.ASCII)
_ORIGIN_HOST: Final = re.compile(r"(?:[a-z0-9](?:[a-z0-9.\-]*[a-z0-9])?|\[[0-9a-f:.]+\])", re.ASCII)


@dataclass(frozen=True, slots=True)
class Rules:
    """What the configuration says of tickets."""

    expires_in_max_s: float
    upload_bytes_max: int | None = None
    host_allowed: Callable[[str, int], bool] = lambda _host, _port: True
    """Whether callbacks may go to this host and port."""


# -- kinds of values


def _text(value: str) -> str:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("text that is Unicode: half of a surrogate pair stands alone in it") from None
    return value


def _plain_json(value: object, *, what: str, bytes_max: int) -> None:
    """Refuse JSON that could not be written down, or is more than is kept."""
    if _depth(value) > JSON_DEPTH_MAX:
        raise ValueError(f"{what} that is at most {JSON_DEPTH_MAX} levels deep")
    try:
        encoded = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8")
    except ValueError:
        raise ValueError(f"{what} of finite numbers and Unicode text") from None
    if len(encoded) > bytes_max:
        raise ValueError(f"{what} of at most {bytes_max} bytes; these are {len(encoded)}")


def _depth(value: object) -> int:
    depth, level = 0, [value]
    while level and depth <= JSON_DEPTH_MAX:
        depth += 1
        level = [
            item
            for parent in level
            if isinstance(parent, dict | list)
            for item in (parent.values() if isinstance(parent, dict) else parent)
        ]
    return depth


def _finish_url(value: str, info: ValidationInfo) -> str:
    expected = "an absolute http or https URL"
    if len(value) > URL_CHARS_MAX:
        raise ValueError(f"{expected} of at most {URL_CHARS_MAX} characters")
    if not _URL.fullmatch(value) or _NOT_IN_URLS.search(value):
        raise ValueError(f"{expected} in ASCII, other characters percent-encoded")
    try:
        url = urlsplit(value)
        port = url.port
    except ValueError:
        raise ValueError(expected) from None
    if url.scheme not in _DEFAULT_PORTS or not url.hostname or port == 0:
        raise ValueError(expected)
    if "@" in url.netloc:
        raise ValueError(f"{expected} without user name and password: the callback's signature is its proof")
    if "#" in value:
        raise ValueError(f"{expected} without a fragment")
    rules = _rules(info)
    if rules is not None and not rules.host_allowed(url.hostname, port or _DEFAULT_PORTS[url.scheme]):
        raise ValueError(f"{expected} of a host that handover.allowed_hosts names; {url.hostname!r} is none")
    return value


def _secret(value: str) -> str:
    decoded = _decoded_secret(value)
    if decoded is None or not SECRET_BYTES_MIN <= len(decoded) <= SECRET_BYTES_MAX:
        raise ValueError(_SECRET_EXPECTED)
    return base64.b64encode(decoded).decode("ascii")


def _decoded_secret(value: str) -> bytes | None:
    try:
        return base64.b64decode(value.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        return None


def _filename(value: str) -> str:
    cleaned = names.clean_filename(_text(value))
    if cleaned is None:
        raise ValueError("a file name: more than dots, blanks and control characters")
    return cleaned


def _media_range(value: str) -> str:
    lowered = value.strip().lower()
    if len(lowered) > names.NAME_BYTES_MAX or not _MEDIA_RANGE.fullmatch(lowered):
        raise ValueError("a media type without parameters, as image/png or image/*")
    return lowered


def _origin(value: str) -> str:
    expected = "an origin: scheme://host, or scheme://host:port"
    try:
        url = urlsplit(value.strip())
        port = url.port
    except ValueError:
        raise ValueError(expected) from None
    host = f"[{url.hostname}]" if ":" in (url.hostname or "") else (url.hostname or "")
    more = url.path not in {"", "/"} or url.query or url.fragment or "@" in url.netloc
    if url.scheme not in _DEFAULT_PORTS or more or not _ORIGIN_HOST.fullmatch(host):
        raise ValueError(expected)
    return f"{url.scheme}://{host}" + ("" if port in {None, _DEFAULT_PORTS[url.scheme]} else f":{port}")


def _label(value: str) -> str:
    if not 1 <= len(value) <= LABEL_CHARS_MAX or not value.isprintable():
        raise ValueError(f"a label of 1 to {LABEL_CHARS_MAX} printable characters")
    return value


def _app_data(value: dict[str, Any]) -> dict[str, Any]:
    _plain_json(value, what="a JSON object", bytes_max=APP_DATA_BYTES_MAX)
    return value


def _client_data(value: object) -> object:
    _plain_json(value, what="JSON", bytes_max=CLIENT_DATA_BYTES_MAX)
    return value


def _message(value: str) -> str:
    return names.clean_value(_text(value))[:MESSAGE_CHARS_MAX]


def _expires_in_s(value: float, info: ValidationInfo) -> float:
    rules = _rules(info)
    if rules is not None and value > rules.expires_in_max_s:
        raise ValueError(f"at most {rules.expires_in_max_s:.15g} s (uploads.expires_in_max_s)")
    return value


def _length(value: int, info: ValidationInfo) -> int:
    rules = _rules(info)
    if rules is not None and rules.upload_bytes_max is not None and value > rules.upload_bytes_max:
        raise ValueError(f"at most {rules.upload_bytes_max} bytes (limits.upload_bytes)")
    return value


def _callback_type(value: str) -> str:
    if value != "started":
        raise ValueError("`started`; no other callback can be asked for")
    return value


def _rules(info: ValidationInfo) -> Rules | None:
    assert info.context is None or isinstance(info.context, Rules)
    return info.context


_SECRET_EXPECTED: Final = (
    f"standard Base64 of {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} bytes, with or without `{SECRET_PREFIX}` before it"
)

FinishUrl = Annotated[str, AfterValidator(_finish_url)]
Length = Annotated[int, Field(ge=0, le=LENGTH_MAX), AfterValidator(_length)]
ExpiresIn = Annotated[float, Field(gt=0), AfterValidator(_expires_in_s)]
AppData = Annotated[
    dict[str, Any], AfterValidator(_app_data), WithJsonSchema({"type": "object", "additionalProperties": True})
]
Message = Annotated[str, AfterValidator(_message)]

_FINISH_URL = "an absolute http or https URL: where callbacks go"
_LENGTH = f"a whole number of bytes from 0 to {LENGTH_MAX}"
_EXPIRES_IN = "a number of seconds greater than 0"
_APP_DATA = f"a JSON object of at most {APP_DATA_BYTES_MAX} bytes; it is given back in callbacks"


class Document(BaseModel):
    """A JSON object of the backend API: exact types, no unknown fields."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)


class TicketDocument(Document):
    """A ticket, as a web app asks for it."""

    finish_url: FinishUrl = Field(description=_FINISH_URL)
    secret: Annotated[str, AfterValidator(_secret)] | None = Field(
        None, description=f"{_SECRET_EXPECTED}; left out: one is made and told once, in this call's answer"
    )
    length: Length | None = Field(None, description=f"{_LENGTH}: the file has exactly so many")
    max_length: Length | None = Field(None, description=f"{_LENGTH}: the file has at most so many")
    filename: Annotated[str, AfterValidator(_filename)] | None = Field(
        None, description="a file name; it counts instead of what the client says"
    )
    content_types: Annotated[list[Annotated[str, AfterValidator(_media_range)]], Field(max_length=LIST_ITEMS_MAX)] = (
        Field(
            default_factory=list,
            description=f"a list of up to {LIST_ITEMS_MAX} media types without parameters, as image/png or image/*;"
            " empty: all are accepted",
        )
    )
    expires_in_s: ExpiresIn | None = Field(
        None, description=f"{_EXPIRES_IN}, counted from now; left out: uploads.expires_in_s"
    )
    after_handover: Literal["delete", "keep"] = Field(
        "delete", description="`delete` or `keep`: what becomes of the file once the web app has said that it is done"
    )
    digest: Literal["sha-256", "none"] | None = Field(
        None, description="`sha-256`, `none` or null: whether the hand-over tells the SHA-256 of the file"
    )
    client_cancel: bool = Field(default=True, description="true or false: whether the client may cancel the upload")
    events: Annotated[
        list[Annotated[str, AfterValidator(_callback_type), WithJsonSchema({"enum": ["started"]})]],
        Field(max_length=LIST_ITEMS_MAX),
    ] = Field(default_factory=list, description="a list of further callbacks that are wanted: `started`")
    callback_format: Literal["json", "form"] = Field(
        "json", description="`json`, or `form` for callbacks as Incoming!! 0.1 made them"
    )
    labels: Annotated[list[Annotated[str, AfterValidator(_label)]], Field(max_length=LABELS_MAX)] = Field(
        default_factory=list,
        description=f"a list of up to {LABELS_MAX} labels of 1 to {LABEL_CHARS_MAX} printable characters,"
        " by which uploads are listed",
    )
    origins: Annotated[list[Annotated[str, AfterValidator(_origin)]], Field(max_length=LIST_ITEMS_MAX)] = Field(
        default_factory=list,
        description=f"a list of up to {LIST_ITEMS_MAX} origins (scheme://host:port) whose pages may upload; empty: no"
        " restriction beyond public.allowed_origins",
    )
    app_data: AppData = Field(default_factory=dict, description=_APP_DATA)

    @model_validator(mode="after")
    def _consistent(self) -> TicketDocument:
        if self.length is not None and self.max_length is not None and self.max_length < self.length:
            raise ValueError("max_length: not less than length")
        return self

    def terms(self, *, new_secret: str, traceparent: str | None) -> Terms:
        """Return the terms of the upload.

        Args:
            new_secret: Base64; taken where the web app gave none.
            traceparent: of the request that asks for the ticket.
        """
        return Terms(
            finish_url=self.finish_url,
            secret=self.secret if self.secret is not None else new_secret,
            secret_given=self.secret is not None,
            length=self.length,
            max_length=self.max_length,
            filename=self.filename,
            content_types=_unique(self.content_types),
            after_handover=self.after_handover,
            digest=self.digest if self.digest != "none" else None,
            client_cancel=self.client_cancel,
            events=_unique(self.events),
            callback_format=self.callback_format,
            labels=_unique(self.labels),
            origins=_unique(self.origins),
            app_data=self.app_data,
            traceparent=traceparent,
        )


class ChangeDocument(Document):
    """What of a ticket can be changed; what is left out stays."""

    expires_in_s: ExpiresIn = Field(0.0, description=f"{_EXPIRES_IN}, counted from now")
    max_length: Length | None = Field(
        None, description=f"{_LENGTH}, not less than what has come; null: as many as the configuration allows"
    )
    finish_url: FinishUrl = Field("", description=_FINISH_URL)
    app_data: AppData = Field(default_factory=dict, description=_APP_DATA)


class CancelDocument(Document):
    """Why an upload is cancelled."""

    reason: Message = Field("", description=f"text for people, at most {MESSAGE_CHARS_MAX} characters of it are kept")


class FinishDocument(Document):
    """What came of a file after a `wait`."""

    outcome: Literal["done", "failed"] = Field(description="`done` or `failed`")
    message: Message | None = Field(
        None, description=f"text for the page, at most {MESSAGE_CHARS_MAX} characters of it are kept"
    )
    client_data: Annotated[Any, AfterValidator(_client_data), WithJsonSchema({})] = Field(
        None, description=f"JSON for the page, at most {CLIENT_DATA_BYTES_MAX} bytes"
    )


class NothingDocument(Document):
    """A call that needs to be told nothing."""


class DrainDocument(Document):
    """How an instance is emptied."""

    retire: bool = Field(default=False, description="for good: another instance inherits what is left")
    heir: str | None = Field(None, min_length=1, description="name of that instance; none: whoever the ring says")
    dry_run: bool = Field(default=False, description="only say who would inherit")


D = TypeVar("D", bound=Document)


# -- reading


def parse(kind: type[D], document: object, rules: Rules | None = None) -> D:
    """Return *document* as a *kind*.

    Raises:
        Refusal: `field_invalid`, with every mistake.
    """
    found, errors = _validated(kind, document, rules, "")
    if found is None:
        raise invalid(errors)
    return found


def parse_tickets(document: object, rules: Rules) -> list[TicketDocument]:
    """Return the tickets of a list; all are looked at before any is refused.

    Raises:
        Refusal: `field_invalid`, with every mistake; fields are named ``[3].length``.
    """
    if not isinstance(document, list) or not 1 <= len(document) <= TICKETS_MAX:
        raise invalid([{"field": "", "expected": f"one ticket, or a list of 1 to {TICKETS_MAX}"}])
    tickets: list[TicketDocument] = []
    errors: list[dict[str, str]] = []
    for index, item in enumerate(document):
        ticket, wrong = _validated(TicketDocument, item, rules, f"[{index}]")
        errors += wrong
        if ticket is not None:
            tickets.append(ticket)
    if errors:
        raise invalid(errors)
    return tickets


def invalid(errors: Sequence[dict[str, str]]) -> Refusal:
    """Return the refusal of a document with these mistakes.

    Args:
        errors: each with `field` (empty: the document as a whole) and `expected`.
    """
    first = errors[0]
    detail = f"{first['field'] or 'The body'}: expected {first['expected']}"
    if len(errors) > 1:
        detail = f"{detail}; and {len(errors) - 1} more mistakes"
    return Refusal(Code.FIELD_INVALID, detail, extra={"errors": list(errors[:ERRORS_MAX])})


def _validated(
    kind: type[D], document: object, rules: Rules | None, prefix: str
) -> tuple[D | None, list[dict[str, str]]]:
    try:
        return kind.model_validate(document, context=rules), []
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
    errors = []
    for detail in found:
        field, expected = _mistake(kind, detail)
        joined = f"{prefix}.{field}" if prefix and field else prefix or field
        errors.append({"field": joined, "expected": expected})
    return None, errors


def _mistake(kind: type[Document], detail: ErrorDetails) -> tuple[str, str]:
    """Return the field that is wrong and what was expected of it."""
    if not detail["loc"]:
        said = str(detail.get("ctx", {}).get("error", "a JSON object"))
        field, colon, expected = said.partition(": ")
        return (field, expected) if colon else ("", said)
    top = str(detail["loc"][0])
    known = kind.model_fields.get(top)
    if known is None:
        near = difflib.get_close_matches(top, kind.model_fields, n=1)
        if near:
            return _shown(top), f"a known field: did you mean `{near[0]}`?"
        return _shown(top), f"one of {', '.join(kind.model_fields)}" if kind.model_fields else "no field at all"
    index = next((part for part in detail["loc"][1:] if isinstance(part, int)), None)
    field = top if index is None else f"{top}[{index}]"
    if detail["type"] == "value_error":
        return field, str(detail["ctx"]["error"])
    return field, known.description or detail["msg"]


def _shown(name: str) -> str:
    """Return a name that came from outside so that it can be shown."""
    return names.clean_value(name)[:LABEL_CHARS_MAX]


def _unique(items: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(items))


def idempotency_key(value: str | None) -> str | None:
    """Return an `Idempotency-Key` that can be used, or None where there is none.

    Raises:
        Refusal: `header_malformed`.
    """
    if value is None:
        return None
    if not _KEY.fullmatch(value.strip()):
        raise Refusal(
            Code.HEADER_MALFORMED, f"Idempotency-Key must be 1 to {KEY_CHARS_MAX} printable ASCII characters."
        )
    return value.strip()


# -- secrets


def secret_fits(given: str | None, terms: Terms) -> bool:
    """Whether *given* (with or without ``whsec_``) is the secret of these terms."""
    decoded = _decoded_secret(given.strip()) if given is not None else None
    # The comparison takes the same time wherever the two differ.
    return decoded is not None and hmac.compare_digest(decoded, base64.b64decode(terms.secret))


def told_secret(terms: Terms) -> str:
    """Return a ticket's secret as web apps are told it, and as libraries take it."""
    return SECRET_PREFIX + terms.secret


# -- changing


def changed(record: Record, change: ChangeDocument, *, offset: int, now: float) -> Record:
    """Return *record* with its web app's change.

    Args:
        record: not final.
        change: what is wanted.
        offset: bytes that are in.
        now: Unix time, s.

    Raises:
        Refusal: `field_invalid` or `too_late`.
    """
    wanted = change.model_fields_set
    late = sorted(wanted & {"expires_in_s", "max_length"})
    if late and record.status is not Status.OPEN:
        raise Refusal(Code.TOO_LATE, f"{' and '.join(late)} cannot be changed: all bytes are in already.")
    terms = record.terms
    if "max_length" in wanted:
        _check_max_length(record, change.max_length, offset)
        terms = replace(terms, max_length=change.max_length)
    if "finish_url" in wanted:
        terms = replace(terms, finish_url=change.finish_url)
    if "app_data" in wanted:
        terms = replace(terms, app_data=change.app_data)
    expires_at = now + change.expires_in_s if "expires_in_s" in wanted else record.expires_at
    return replace(record, terms=terms, expires_at=expires_at)


def _check_max_length(record: Record, max_length: int | None, offset: int) -> None:
    if max_length is None:
        return
    if max_length < offset:
        raise invalid([{"field": "max_length", "expected": f"not less than the offset, which is {offset}"}])
    length = record.length
    if length is not None and max_length < length:
        # Such an upload could go on, but never complete; that is what cancel is for.
        raise invalid([{"field": "max_length", "expected": f"not less than the file's length, which is {length}"}])
