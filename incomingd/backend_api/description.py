"""The published description of the backend API (OpenAPI 3.1), made from what checks the calls."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from incomingd import __version__
from incomingd.backend_api.api import PREFIX
from incomingd.core.errors import PROBLEMS, Code
from incomingd.core.status import Status
from incomingd.web.problems import CONTENT_TYPE, TYPE_PREFIX
from incomingd.wire import backend as wire

C = Code

ALWAYS: Final = (C.INTERNAL_ERROR,)
WITH_TOKEN: Final = (C.TOKEN_MISSING, C.TOKEN_WRONG)
WITH_BODY: Final = (C.BODY_MALFORMED, C.CONTENT_TYPE_WRONG, C.FIELD_INVALID)
OF_ONE: Final = (C.UPLOAD_UNKNOWN, C.SECRET_WRONG, C.STORAGE_UNAVAILABLE)
OF_CHANGE: Final = (C.NOT_READY, C.STORAGE_FULL)

ENDS: Final = (
    C.UPLOAD_CANCELLED.value,
    C.UPLOAD_EXPIRED.value,
    "length_unknown",
    "refused",
    "confirm_timeout",
    C.UPLOAD_LOST.value,
)
"""Why an upload has ended badly: `error.code`."""

STATUS_OF: Final = {("file", C.HEADER_MALFORMED): 416}
"""Where a call answers another status than the catalogue says."""


@dataclass(frozen=True, slots=True)
class Call:
    """One method at one path."""

    path: str
    method: str
    name: str
    summary: str
    text: str
    answers: dict[int, str]
    """Status -> schema of a success; empty: a file."""
    codes: tuple[Code, ...]
    body: str = ""
    body_required: bool = True
    parameters: tuple[str, ...] = ()
    open: bool = False
    """Needs no bearer token."""


CALLS: Final = (
    Call(
        "/uploads", "post", "createUploads", "Get a ticket, or many",
        "A list is answered in its order; unless all of its tickets can be made, none is. With `Idempotency-Key` the"
        " same ticket is answered again while it is not final, whatever the body says; in a list the key counts for"
        " each place by itself. While nobody can tell of that ticket, since its host is away for a moment, the repeat"
        " is held for up to `hold_s`, then refused with `upload_out_of_reach`. A repeat under a key must bring the"
        " secret that the ticket was given, if it was given"
        " one. A secret that was made here is told only where a ticket is new: a web app that repeats calls chooses its"
        " secrets itself.",
        {201: "CreatedOneOrMany"},
        (
            *WITH_BODY, *WITH_TOKEN, C.HEADER_MALFORMED, C.SECRET_WRONG, C.TICKET_UNREADABLE, C.STORAGE_FULL,
            C.STORAGE_UNAVAILABLE,
        ),
        body="OneOrManyTickets", parameters=("idempotencyKey", "traceparent"),
    ),
    Call(
        "/uploads", "get", "listUploads", "List uploads",
        "In no order that means anything. A call reads a bounded number of records, so a page may be short, or empty,"
        " and not be the last: go on with `next_page` until it is null.",
        {200: "UploadList"},
        (*WITH_TOKEN, C.FIELD_INVALID, C.STORAGE_UNAVAILABLE),
        parameters=("status", "label", "handover", "page"),
    ),
    Call(
        "/uploads/{id}", "get", "getUpload", "Look at an upload", "",
        {200: "Upload"}, (*WITH_TOKEN, *OF_ONE), parameters=("id", "secret"),
    ),
    Call(
        "/uploads/{id}", "patch", "changeUpload", "Change a ticket's terms",
        "What is left out stays. `expires_in_s` and `max_length` can be changed while bytes are missing, the others"
        " until the upload is final.",
        {200: "Upload"}, (*WITH_BODY, *WITH_TOKEN, *OF_ONE, *OF_CHANGE, C.TOO_LATE),
        body="Change", parameters=("id", "secret"),
    ),
    Call(
        "/uploads/{id}/cancel", "post", "cancelUpload", "Cancel an upload",
        "Its bytes are deleted. Repeats get the same answer.",
        {200: "Upload"}, (*WITH_BODY, *WITH_TOKEN, *OF_ONE, *OF_CHANGE, C.HANDING_OVER, C.TOO_LATE),
        body="Cancel", body_required=False, parameters=("id", "secret"),
    ),
    Call(
        "/uploads/{id}/finish", "post", "finishUpload", "Confirm a hand-over",
        "After the callback was answered `wait`. Repeats get the same answer.",
        {200: "Upload"}, (*WITH_BODY, *WITH_TOKEN, *OF_ONE, *OF_CHANGE, C.NOT_WAITING),
        body="Finish", parameters=("id", "secret"),
    ),
    Call(
        "/uploads/{id}/redeliver", "post", "redeliverUpload", "Make the callback again",
        "With its old id. For complete uploads, and for ended ones with a callback of another type.",
        {200: "Upload"}, (*WITH_BODY, *WITH_TOKEN, *OF_ONE, *OF_CHANGE, C.NOTHING_TO_DELIVER),
        body="Nothing", body_required=False, parameters=("id", "secret"),
    ),
    Call(
        "/uploads/{id}/file", "get", "getFile", "Read the file",
        "The `download_url` of the callback. Its token opens the file until the upload is final; no bearer token and"
        " no secret is needed.",
        {200: "", 206: ""},
        (C.UPLOAD_UNKNOWN, C.TOKEN_WRONG, C.FILE_NOT_READY, C.FILE_GONE, C.HEADER_MALFORMED, C.STORAGE_UNAVAILABLE),
        parameters=("id", "token", "range", "ifRange"), open=True,
    ),
    Call(
        "/openapi.json", "get", "getDescription", "This description", "",
        {200: "Description"}, WITH_TOKEN,
    ),
)  # fmt: skip


@cache
def description() -> dict[str, Any]:
    """Return the description as JSON values; not to be changed by callers."""
    paths: dict[str, dict[str, Any]] = {}
    for call in CALLS:
        paths.setdefault(PREFIX + call.path, {})[call.method] = _operation(call)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Incoming!! backend API",
            "version": __version__,
            "summary": "What the backend of a web app asks of the upload service.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "paths": paths,
        "components": {
            "schemas": _schemas(),
            "parameters": _PARAMETERS,
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "One of `backend.tokens`. Where none is configured, none is needed.",
                }
            },
        },
        "security": [{}, {"token": []}],
    }


def statuses(call: Call) -> dict[int, list[Code]]:
    """Return the statuses with which a call is refused, each with its codes."""
    found: dict[int, list[Code]] = {}
    for code in (*call.codes, *ALWAYS):
        status = STATUS_OF.get((call.path.rpartition("/")[2], code), PROBLEMS[code].status)
        found.setdefault(status, []).append(code)
    return dict(sorted(found.items()))


def _operation(call: Call) -> dict[str, Any]:
    operation: dict[str, Any] = {"operationId": call.name, "summary": call.summary}
    if call.text:
        operation["description"] = call.text
    if call.open:
        operation["security"] = []
    if call.parameters:
        operation["parameters"] = [{"$ref": f"#/components/parameters/{name}"} for name in call.parameters]
    if call.body:
        operation["requestBody"] = {"required": call.body_required, "content": _json(call.body)}
    answers = {str(status): _success(status, schema) for status, schema in call.answers.items()}
    for status, codes in statuses(call).items():
        lines = [f"* `{code.value}`: {PROBLEMS[code].title}" for code in codes]
        answers[str(status)] = {
            "description": "\n".join(lines),
            "content": {CONTENT_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
    operation["responses"] = answers
    return operation


def _success(status: int, schema: str) -> dict[str, Any]:
    if schema:
        return {"description": "Done.", "content": _json(schema)}
    headers = {
        name: {"schema": {"type": "string"}, "description": text}
        for name, text in (
            ("Content-Disposition", "`attachment`, with the file's name (RFC 6266)."),
            ("Accept-Ranges", "`bytes`"),
            ("Etag", "Stays the same as long as the file is here; for `If-Range`."),
            *((("Content-Range", "Which bytes these are."),) if status == 206 else ()),
        )
    }
    text = "The file." if status == 200 else "The bytes that were asked for."
    return {"description": text, "headers": headers, "content": {"application/octet-stream": {}}}


def _json(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def _schemas() -> dict[str, Any]:
    documents: dict[str, type[wire.Document]] = {
        "Ticket": wire.TicketDocument,
        "Change": wire.ChangeDocument,
        "Cancel": wire.CancelDocument,
        "Finish": wire.FinishDocument,
        "Nothing": wire.NothingDocument,
    }
    schemas = {name: _plain(kind.model_json_schema()) for name, kind in documents.items()}
    for field in schemas["Change"]["properties"].values():
        # What is left out is not set to anything.
        field.pop("default", None)
    return schemas | _ANSWERS


def _plain(value: Any) -> Any:
    """Return a schema without the titles that only repeat the names of classes and fields."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if not (key == "title" and isinstance(item, str))}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _nullable(*types: str, **more: object) -> dict[str, Any]:
    return {"type": [*types, "null"], **more}


def _object(text: str, **properties: object) -> dict[str, Any]:
    return {
        "type": "object",
        "description": text,
        "required": list(properties),
        "properties": properties,
        "additionalProperties": False,
    }


def _of(schema: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{schema}"}


_TIME: Final = {"type": "string", "format": "date-time"}
_BYTES: Final = {"type": "integer", "minimum": 0, "maximum": wire.LENGTH_MAX}

_UPLOAD_PROPERTIES: Final[dict[str, Any]] = {
    "id": {
        "type": "string",
        "pattern": "^[A-Za-z0-9_-]{1,63}$",
        "description": "Also the permission to upload: keep it from whom the upload is none of the business.",
    },
    "upload_url": {
        "type": "string",
        "description": "Where the client uploads; a path where `public.base_url` is not set. Whoever knows it may.",
    },
    "status": {"enum": [status.value for status in Status], "description": "The last five are final."},
    "offset": _BYTES | {"description": "Bytes that are in."},
    "length": _nullable("integer", minimum=0, description="Bytes; null: not known yet."),
    "filename": _nullable("string", description="The ticket's, else what the client said."),
    "content_type": _nullable("string", description="What the client said; the bytes are not looked at."),
    "client": _object(
        "What the client said of its file: cleaned, not to be trusted.",
        metadata={
            "type": "object",
            "additionalProperties": {"type": "string"},
            "description": "All that came along with the creation, by name.",
        },
        relative_path=_nullable("string", description="Of a file in a folder that was chosen as a whole."),
        last_modified=_nullable("string", description="As the client wrote it."),
        address=_nullable("string", description="Whence the creation came; of a proxy unless it is trusted."),
    ),
    "labels": {"type": "array", "items": {"type": "string"}, "description": "The ticket's."},
    "app_data": {"type": "object", "additionalProperties": True, "description": "The ticket's."},
    "digest": {
        "oneOf": [
            {"type": "null"},
            _object(
                "Null: the ticket does not ask for it.",
                **{"sha-256": _nullable("string", pattern="^[0-9a-f]{64}$", description="Null: not known yet.")},
            ),
        ]
    },
    "created_at": _TIME | {"description": "Of the ticket."},
    "expires_at": _nullable("string", format="date-time", description="Null: it does not expire any more."),
    "handover": _object(
        "How far the hand-over has come.",
        state={
            "enum": ["arrived", "handing_over", "waiting", "done", "refused", None],
            "description": "Null: not all bytes are in, or it has ended before they were handed over.",
        },
        attempts={"type": "integer", "minimum": 0, "description": "Callbacks made so far."},
        last_error=_nullable("string", description="Why the last one failed; null: it did not."),
        next_attempt_at=_nullable(
            "string", format="date-time", description="Null after a `last_error`: the attempts have ended."
        ),
    ),
    "error": {
        "oneOf": [
            {"type": "null"},
            _object(
                "Why it has ended badly; null: it has not.",
                code={"type": "string", "description": f"Stable: {', '.join(f'`{code}`' for code in ENDS)}."},
                message={"type": "string", "description": "For people."},
            ),
        ]
    },
}

_ANSWERS: Final[dict[str, Any]] = {
    "Upload": _object("An upload; times are RFC 3339 in UTC, sizes in bytes.", **_UPLOAD_PROPERTIES),
    "CreatedUpload": _object("A ticket.", **_UPLOAD_PROPERTIES)
    | {
        "properties": _UPLOAD_PROPERTIES
        | {
            "secret": {
                "type": "string",
                "description": "With which callbacks are signed: told here, once, where the ticket came without one.",
            }
        }
    },
    "OneOrManyTickets": {
        "oneOf": [
            _of("Ticket"),
            {"type": "array", "minItems": 1, "maxItems": wire.TICKETS_MAX, "items": _of("Ticket")},
        ]
    },
    "CreatedOneOrMany": {"oneOf": [_of("CreatedUpload"), {"type": "array", "items": _of("CreatedUpload")}]},
    "UploadList": _object(
        "A piece of a list.",
        uploads={"type": "array", "items": _of("Upload")},
        next_page=_nullable("string", description="For `page`; null: this was the last."),
        partial={
            "type": "boolean",
            "description": (
                "Whether uploads may be missing: an instance did not answer, "
                "or it is not sure which instances there are (Redis was lost, or this instance has just started)."
            ),
        },
    ),
    "Description": {"type": "object", "description": "OpenAPI 3.1."},
    "Problem": {
        "type": "object",
        "description": "Why a call was refused (RFC 9457). `code` is stable.",
        "required": ["type", "title", "status", "detail", "code", "request_id"],
        "properties": {
            "type": {"type": "string", "pattern": f"^{TYPE_PREFIX}[a-z_]+$"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "code": {"enum": sorted(code.value for call in CALLS for code in {*call.codes, *ALWAYS})},
            "request_id": {"type": "string", "description": "By which the call is found in the log."},
            "errors": {
                "type": "array",
                "description": "With `field_invalid`: every mistake.",
                "items": _object(
                    "A mistake.",
                    field={"type": "string", "description": "As `labels[2]` or `[17].length`; empty: the whole body."},
                    expected={"type": "string"},
                ),
            },
            "size": _BYTES | {"description": "With status 416: the file's."},
        },
    },
}


def _parameter(name: str, place: str, text: str, *, required: bool = False, **schema: object) -> dict[str, Any]:
    return {
        "name": name,
        "in": place,
        "description": text,
        "required": required,
        "schema": {"type": "string", **schema},
    }


_PARAMETERS: Final = {
    "id": _parameter("id", "path", "The upload's id.", required=True),
    "secret": _parameter(
        "X-Incoming-Secret", "header", "The ticket's secret, where the ticket was given one; else it is not needed."
    ),
    "idempotencyKey": _parameter(
        "Idempotency-Key",
        "header",
        "The web app's own name for what it wants a ticket for, as of a user and a file.",
        minLength=1,
        maxLength=wire.KEY_CHARS_MAX,
    ),
    "traceparent": _parameter("traceparent", "header", "W3C Trace Context; callbacks of the upload carry it."),
    "status": _parameter(
        "status", "query", f"Only of these statuses, separated by commas: {', '.join(s.value for s in Status)}."
    ),
    "label": _parameter("label", "query", "Only with this label."),
    "handover": _parameter("handover", "query", "`stuck`: only where the callback was given up.", enum=["stuck"]),
    "page": _parameter("page", "query", "`next_page` of the call before."),
    "token": _parameter("token", "query", "Of the `download_url`.", required=True),
    "range": _parameter("Range", "header", "One range of bytes (RFC 9110); several are answered with the whole file."),
    "ifRange": _parameter("If-Range", "header", "An `Etag`: answer the whole file if it is not the present one."),
}
