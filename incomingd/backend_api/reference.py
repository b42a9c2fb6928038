"""The page about the backend API, made from its description."""

from __future__ import annotations

import re
import textwrap
from typing import Any, Final

from incomingd.backend_api.api import PREFIX
from incomingd.backend_api.description import CALLS, Call, description, statuses
from incomingd.core.errors import Code
from incomingd.wire import backend as wire

_HEAD: Final = f"""\
# Backend API

<!-- Made from incomingd/backend_api by `python -m incomingd.backend_api --write`. Do not edit. -->

What the backend of a web app asks of `incomingd`. [The guide](web-apps.md) shows it at work;
[openapi.json](openapi.json) is the same for programs, and the daemon answers it at `{PREFIX}/openapi.json`.

All paths are below `{PREFIX}`, on the listener `backend.address`. Bodies are JSON with
`Content-Type: application/json`; answers are JSON. Sizes are bytes, durations seconds, times RFC 3339 in UTC. Unknown
fields are refused, so that a misspelled one is found at once.

**Who may call.** Where `backend.tokens` is set, every call but that of a file needs one of them:
`Authorization: Bearer …`. Without tokens whoever reaches the listener may call. A call on one upload also needs the
upload's secret, `X-Incoming-Secret: …`, where the web app gave the ticket one: so web apps that share a daemon cannot
touch each other's.

**Refusals** are [problems](problems.md): `code` is stable, `detail` says what is wrong with this request. With
`field_invalid` the member `errors` lists every mistake at once, each with `field` and `expected`. Besides the codes
below, calls are refused with `token_missing` (401), `token_wrong` (403), `body_malformed` (400), `storage_unavailable`
or `not_ready` (503: try again), and, where this program has a mistake, `internal_error` (500).

**Repeats are safe.** Cancel and finish answer the same again; creating takes an `Idempotency-Key`.

## Calls

| call | |
| --- | --- |
"""

_EVERYWHERE: Final = frozenset(
    {"internal_error", "storage_unavailable", "not_ready", "token_missing", "token_wrong", "body_malformed"}
)
_DEFAULTS: Final = {"content_types": "all", "events": "none", "labels": "none", "origins": "no restriction"}


def reference_markdown() -> str:
    """Return the page."""
    schemas = description()["components"]["schemas"]
    parts = [_HEAD]
    parts += [f"| [`{_title(call)}`](#{_anchor(_title(call))}) | {call.summary} |\n" for call in CALLS]
    parts += [_call(call) for call in CALLS]
    parts.append("\n## The fields of a ticket\n\n")
    parts.append(
        _paragraph(
            "`null` is the same as leaving a field out where its default is none. What is wrong is refused, never bent"
            " into shape; only `filename` is cleaned of directories and control characters."
        )
        + "\n"
    )
    parts.append(_fields(schemas["Ticket"], required=True))
    parts.append("\n## The fields of an upload\n\nThe same in answers and in callbacks.\n\n")
    parts.append(_upload(schemas["Upload"]))
    return "".join(parts)


def _paragraph(text: str) -> str:
    return textwrap.fill(text.strip(), 120, break_long_words=False, break_on_hyphens=False) + "\n"


def _title(call: Call) -> str:
    return f"{call.method.upper()} {call.path}"


def _anchor(title: str) -> str:
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _call(call: Call) -> str:
    components = description()["components"]
    lines = [f"\n### {_title(call)}\n\n", _paragraph(f"{call.summary}. {call.text}")]
    parameters = [components["parameters"][name] for name in call.parameters if name not in {"id", "secret"}]
    if parameters:
        lines.append("\n| | where | |\n| --- | --- | --- |\n")
        lines += [f"| `{p['name']}` | {p['in']} | {_cell(p['description'])} |\n" for p in parameters]
    if call.body in {"Change", "Cancel", "Finish"}:
        lines.append("\n" + _fields(components["schemas"][call.body], required=call.body == "Finish"))
    elif call.body == "OneOrManyTickets":
        text = (
            f"The body is [a ticket](#the-fields-of-a-ticket), or a list of up to {wire.TICKETS_MAX}. The answer has"
            " [the upload](#the-fields-of-an-upload) and, where a secret was made, `secret`; a list gets a list."
        )
        lines += ["\n", _paragraph(text)]
    lines += ["\n", _paragraph(f"Answers: {_answers(call)}.")]
    return "".join(lines)


def _answers(call: Call) -> str:
    said = {"": "the file", "Description": "the description", "UploadList": "`uploads`, `next_page`, `partial`"}
    answers = [
        f"{status} with {'the piece' if status == 206 else said.get(schema, 'the upload')}"
        for status, schema in call.answers.items()
    ]
    for status, codes in statuses(call).items():
        told = [f"`{code.value}`" for code in codes if code.value not in _EVERYWHERE]
        if call.open:
            told = [f"`{code.value}`" for code in codes if code is not Code.INTERNAL_ERROR]
        if told:
            answers.append(f"{status} {', '.join(told)}")
    return "; ".join(answers)


def _fields(schema: dict[str, Any], *, required: bool) -> str:
    lines = ["| field | value | default |\n| --- | --- | --- |\n"]
    for name, field in schema["properties"].items():
        default = "stays" if schema is description()["components"]["schemas"]["Change"] else _default(name, field)
        if required and name in schema.get("required", []):
            default = "required"
        lines.append(f"| `{name}` | {_cell(field['description'])} | {default} |\n")
    return "".join(lines)


def _default(name: str, field: dict[str, Any]) -> str:
    if name in _DEFAULTS:
        return _DEFAULTS[name]
    default = field.get("default")
    if default in (None, "") or default == {}:
        return "none"
    return f"`{str(default).lower()}`"


def _upload(schema: dict[str, Any]) -> str:
    lines = ["| field | |\n| --- | --- |\n"]
    for name, field in schema["properties"].items():
        lines.append(f"| `{name}` | {_cell(_meaning(field))} |\n")
        for inner, value in _inner(field).items():
            lines.append(f"| `{name}.{inner}` | {_cell(_meaning(value))} |\n")
    return "".join(lines)


def _inner(field: dict[str, Any]) -> dict[str, Any]:
    for option in [field, *field.get("oneOf", [])]:
        if option.get("properties"):
            return dict(option["properties"])
    return {}


def _meaning(field: dict[str, Any]) -> str:
    text = [str(field.get("description", ""))]
    text += [str(option.get("description", "")) for option in field.get("oneOf", [])]
    if "enum" in field:
        text.insert(0, ", ".join(f"`{value}`" for value in field["enum"] if value is not None) + ".")
    if field.get("format") == "date-time":
        text.insert(0, "A time.")
    elif not any(text):
        kind = field.get("type")
        nullable = isinstance(kind, list)
        text.append(f"{'A number' if 'integer' in str(kind) else 'Text'}{', or null' if nullable else ''}.")
    return " ".join(part for part in text if part)


def _cell(text: str) -> str:
    sentence = text[:1].upper() + text[1:]
    return sentence.replace("|", "\\|").replace("\n", " ")
