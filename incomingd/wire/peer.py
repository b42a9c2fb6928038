"""Messages between instances as JSON.

Each says its ``format`` (:mod:`incomingd.core.formats`), and a record inside it
is of the same one; an answer is in the format of its call. How a former format
differs is a :class:`Dialect`: functions between its documents and those of the
present one. Format 1 says nothing by an empty text (no address of an instance,
no question), format 2 by ``null``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn, TypeAlias, TypeVar

from incomingd.core import codec
from incomingd.core.errors import Code, Refusal
from incomingd.core.formats import PRESENT, Known
from incomingd.core.ids import is_upload_id, is_volume_id
from incomingd.core.peering import (
    Act,
    Acted,
    ActName,
    Bequest,
    BytesWanted,
    Elsewhere,
    Given,
    Inherited,
    NotNow,
    Question,
    Recall,
    Recalled,
    Recorded,
    Release,
    Unknown,
    Voided,
)
from incomingd.core.tenure import Claim, ClaimKind, Identity

Document: TypeAlias = dict[str, Any]
T = TypeVar("T")

MESSAGE_BYTES_MAX: Final = 1024 * 1024
"""Of a call; an act carries what one call of a web app may say of one upload."""
ANSWER_BYTES_MAX: Final = 16 * 1024 * 1024
"""Of an answer that does not stream: a page of a list is the largest."""
EPOCH_MAX: Final = 2**62
NAME_CHARS_MAX: Final = 256
SEGMENTS_MAX: Final = 10_000
GIVENS_MAX: Final = 1000
VOLUMES_MAX: Final = 1000

_HEAD: Final = frozenset({"format", "answer"})
_SEGMENT: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z.-]{0,127}")


@dataclass(frozen=True, slots=True)
class ListingWanted:
    """A page of a list."""

    query: Document


@dataclass(frozen=True, slots=True)
class StatusWanted:
    """What the instance says of itself."""


@dataclass(frozen=True, slots=True)
class Done:
    """It is done; there is nothing to say of it."""


@dataclass(frozen=True, slots=True)
class Page:
    """A JSON object that passes through as it is."""

    document: Document


@dataclass(frozen=True, slots=True)
class Refused:
    """Whoever was asked does not do it."""

    refusal: Refusal
    understood: bool
    """Whether the message as such was right, so that the refusal is the engine's."""


Message: TypeAlias = (
    Recall | Act | Question | Voided | Recorded | Release | Bequest | BytesWanted | ListingWanted | StatusWanted
)
Answer: TypeAlias = Recalled | Acted | Given | Elsewhere | Unknown | NotNow | Inherited | Done | Page | Refused


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a former format says what it says otherwise: name of the message or answer -> function on its document."""

    write: Mapping[str, Callable[[Document], Document]] = field(default_factory=dict)
    """From the present document to the former one."""
    read: Mapping[str, Callable[[Document], Document]] = field(default_factory=dict)
    """And back."""


@dataclass(frozen=True, slots=True)
class Formats:
    """Reads and writes the messages in the formats that a program knows."""

    known: Known = PRESENT

    # -- calls

    def call(self, message: Message, version: int) -> bytes:
        """Return *message* in format *version*."""
        return _write(name_of(message), _message_document(message, version), version)

    def read_call(self, name: str, body: bytes) -> tuple[Message, int]:
        """Return the message called *name* that *body* holds, and its format.

        Raises:
            Refusal: `path_unknown`, `body_too_large`, `body_malformed`, `field_invalid` or `peer_format_unknown`.
        """
        reader = _MESSAGES.get(name)
        if reader is None:
            raise Refusal(Code.PATH_UNKNOWN, "There is no such message.")
        if len(body) > MESSAGE_BYTES_MAX:
            raise Refusal(Code.BODY_TOO_LARGE, f"A message has at most {MESSAGE_BYTES_MAX} bytes.")
        document, version = self._read(name, body)
        return _whole(reader, document, version), version

    # -- answers

    def answer(self, answer: Answer, version: int) -> bytes:
        """Return *answer* in format *version*."""
        word, document = _answer_document(answer, version)
        return _write(word, {"answer": word, **document}, version)

    def read_answer(self, body: bytes) -> Answer:
        """Return the answer that *body* holds.

        Raises:
            Refusal: as :meth:`read_call`.
        """
        said = _json(body)
        word = said.get("answer")
        if not isinstance(word, str) or word not in _ANSWERS:
            raise _malformed("answer", "a word that this version knows")
        # A refusal is the same in every format: else nobody could say that he does not know one.
        document, version = (said, self.known.oldest) if word == REFUSED else self._read(word, body)
        return _whole(_ANSWERS[word], {name: value for name, value in document.items() if name not in _HEAD}, version)

    # -- both

    def _read(self, name: str, body: bytes) -> tuple[Document, int]:
        document = _json(body)
        version = document.pop("format", None)
        if version not in self.known:
            raise Refusal(Code.PEER_FORMAT_UNKNOWN, f"This version reads {self.known}.")
        dialect = _DIALECTS[version]
        return (dialect.read[name](document) if name in dialect.read else document), version


def _write(name: str, document: Document, version: int) -> bytes:
    dialect = _DIALECTS[version]
    said = dialect.write[name](document) if name in dialect.write else document
    return json.dumps({"format": version, **said}, separators=(",", ":")).encode("ascii")


def name_of(message: Message) -> str:
    """Return what a message is called, in its path."""
    return _NAMES[type(message)]


# -- former formats


def _between_empty_and_null(document: Document, *paths: str) -> Document:
    """Exchange an empty text and ``null`` in these fields: this way and back."""
    for path in paths:
        *groups, name = path.split(".")
        group: Any = document
        for each in groups:
            group = group.get(each) if isinstance(group, dict) else None
        # What is damaged is refused by whoever reads it, in the words of the present format.
        if isinstance(group, dict) and name in group and group[name] in ("", None):
            group[name] = None if group[name] == "" else ""
    return document


def _without_null(name: str, *paths: str) -> tuple[str, Callable[[Document], Document]]:
    return name, lambda document: _between_empty_and_null(document, *paths)


def _between_in_bequest(document: Document) -> Document:
    _between_empty_and_null(document, "heir_volume_id")
    for given in document["givens"] if isinstance(document.get("givens"), list) else ():
        if isinstance(given, dict):
            _between_empty_and_null(given, "claim.owner.address", "claim.question")
    return document


_FORMAT_1: Final = dict(
    (
        ("inherit", _between_in_bequest),
        _without_null("recall", "by.address"),
        _without_null("ask", "by.address", "question"),
        _without_null("given", "claim.owner.address", "claim.question"),
        _without_null("elsewhere", "owner.address"),
    )
)
_DIALECTS: Final[Mapping[int, Dialect]] = {1: Dialect(write=_FORMAT_1, read=_FORMAT_1), 2: Dialect()}


# -- to JSON


def _identity_document(identity: Identity) -> Document:
    return {"name": identity.name, "start_id": identity.start_id, "address": identity.address or None}


def _claim_document(claim: Claim) -> Document:
    return {
        "epoch": claim.epoch,
        "owner": _identity_document(claim.owner),
        "create_id": claim.create_id,
        "volume_id": claim.volume_id,
        "kind": claim.kind.value,
        "question": claim.question or None,
    }


def _record_document(record: Any, version: int) -> Document:
    document: Document = json.loads(codec.encode(record, version=version))
    return document


def _given_document(given: Given, version: int) -> Document:
    return {"claim": _claim_document(given.claim), "record": _record_document(given.record, version)}


def _message_document(message: Message, version: int) -> Document:
    match message:
        case Recall(upload_id, epoch, by):
            return {"upload_id": upload_id, "epoch": epoch, "by": _identity_document(by)}
        case Act(upload_id, name, arguments):
            return {"upload_id": upload_id, "name": name.value, "arguments": arguments}
        case Question(upload_id, question, by, volume_id):
            return {
                "upload_id": upload_id,
                "question": question or None,
                "by": _identity_document(by),
                "volume_id": volume_id,
            }
        case Voided(upload_id, question, epoch):
            return {"upload_id": upload_id, "question": question, "epoch": epoch}
        case Recorded(upload_id, epoch):
            return {"upload_id": upload_id, "epoch": epoch}
        case Release(upload_id, segments):
            return {"upload_id": upload_id, "segments": list(segments)}
        case Bequest(volume_id, heir_volume_id, givens, volumes):
            return {
                "volume_id": volume_id,
                "heir_volume_id": heir_volume_id or None,
                "givens": [_given_document(given, version) for given in givens],
                "volumes": list(volumes),
            }
        case BytesWanted(upload_id, segment, start, stop):
            return {"upload_id": upload_id, "segment": segment, "start": start, "stop": stop}
        case ListingWanted(query):
            return {"query": query}
        case StatusWanted():
            return {}


REFUSED: Final = "refused"


def _answer_document(answer: Answer, version: int) -> tuple[str, Document]:
    match answer:
        case Recalled():
            return answer.value, {}
        case Acted(record, offset):
            return "acted", {"record": _record_document(record, version), "offset": offset}
        case Given():
            return "given", _given_document(answer, version)
        case Elsewhere(owner, epoch, volume_id, keeps):
            document: Document = {"owner": _identity_document(owner), "epoch": epoch, "volume_id": volume_id}
            return "elsewhere", {**document, "keeps": keeps}
        case Unknown():
            return "unknown", {}
        case NotNow(detail):
            return "not_now", {"detail": detail}
        case Inherited(volume_id):
            return "inherited", {"volume_id": volume_id}
        case Done():
            return "done", {}
        case Page(document):
            return "document", {"document": document}
        case Refused(refusal, understood):
            return REFUSED, {
                "code": refusal.code.value,
                "detail": refusal.detail,
                "offset": refusal.offset,
                "retry_after_s": refusal.retry_after_s,
                "extra": refusal.extra,
                "understood": understood,
            }


# -- from JSON


class _Fields:
    """Takes fields out of a document, and knows which are left."""

    def __init__(self, document: Document, version: int) -> None:
        self._left = dict(document)
        self.version = version

    def take(self, name: str, kind: type[T]) -> T:
        value = self._left.pop(name, None)
        # JSON's `true` is an int for Python, but for nobody else.
        if type(value) is not kind:
            raise _malformed(name, f"a value of the type {kind.__name__}")
        return value

    def optional(self, name: str, kind: type[T]) -> T | None:
        if self._left.get(name) is None:
            self._left.pop(name, None)
            return None
        return self.take(name, kind)

    def text(self, name: str) -> str:
        value = self.take(name, str)
        if len(value) > NAME_CHARS_MAX:
            raise _malformed(name, f"at most {NAME_CHARS_MAX} characters")
        return value

    def text_or_none(self, name: str) -> str:
        """Return a text; empty where the document says ``null``, and only there."""
        if name in self._left and self._left[name] is None:
            del self._left[name]
            return ""
        value = self.text(name)
        if not value:
            raise _malformed(name, "null, or a text that is not empty")
        return value

    def count(self, name: str, *, least: int = 0) -> int:
        value = self.take(name, int)
        if not least <= value <= EPOCH_MAX:
            raise _malformed(name, f"a number from {least} on")
        return value

    def upload_id(self) -> str:
        value = self.take("upload_id", str)
        if not is_upload_id(value):
            raise _malformed("upload_id", "an upload's id")
        return value

    def volume_id(self) -> str:
        value = self.take("volume_id", str)
        if not is_volume_id(value):
            raise _malformed("volume_id", "a volume's id")
        return value

    def list_of(self, name: str, kind: type[T], most: int) -> list[T]:
        values: list[Any] = self.take(name, list)
        if len(values) > most or any(type(value) is not kind for value in values):
            raise _malformed(name, f"at most {most} values of the type {kind.__name__}")
        return values

    def one_of(self, name: str, kind: Callable[[str], T]) -> T:
        value = self.take(name, str)
        try:
            return kind(value)
        except ValueError:
            raise _malformed(name, "a word that this version knows") from None

    def group(self, name: str) -> _Fields:
        value: Document = self.take(name, dict)
        return _Fields(value, self.version)

    def end(self) -> None:
        if self._left:
            raise _malformed(min(self._left)[:NAME_CHARS_MAX], "no such field")


def _whole(read: Callable[[_Fields], T], document: Document, version: int) -> T:
    fields = _Fields(document, version)
    found = read(fields)
    fields.end()
    return found


def _identity(fields: _Fields) -> Identity:
    identity = Identity(fields.text("name"), fields.text("start_id"), fields.text_or_none("address"))
    fields.end()
    return identity


def _claim(fields: _Fields) -> Claim:
    claim = Claim(
        epoch=fields.count("epoch", least=1),
        owner=_identity(fields.group("owner")),
        create_id=fields.text("create_id"),
        volume_id=fields.volume_id(),
        kind=fields.one_of("kind", ClaimKind),
        question=fields.text_or_none("question"),
    )
    fields.end()
    return claim


def _record(fields: _Fields) -> Any:
    document: Document = fields.take("record", dict)
    try:
        return codec.decode(json.dumps(document).encode("ascii"), known=Known(fields.version, fields.version))
    except (codec.RecordFormatError, RecursionError) as error:
        raise _malformed("record", f"a record: {error}") from None


def _bytes_wanted(fields: _Fields) -> BytesWanted:
    wanted = BytesWanted(
        fields.upload_id(), _segment(fields.take("segment", str)), fields.count("start"), fields.count("stop")
    )
    if wanted.stop < wanted.start:
        raise _malformed("stop", "no less than `start`")
    return wanted


def _given(fields: _Fields) -> Given:
    return Given(_claim(fields.group("claim")), _record(fields))


def _bequest(fields: _Fields) -> Bequest:
    volume_id, heir_volume_id = fields.volume_id(), fields.text_or_none("heir_volume_id")
    volumes = fields.list_of("volumes", str, VOLUMES_MAX)
    for name, each in (("heir_volume_id", heir_volume_id or volume_id), *(("volumes", each) for each in volumes)):
        # It becomes part of a path.
        if not is_volume_id(each):
            raise _malformed(name, "a volume's id")
    givens = [_whole(_given, each, fields.version) for each in fields.list_of("givens", dict, GIVENS_MAX)]
    for given in givens:
        if given.claim.epoch <= given.record.epoch:
            raise _malformed("givens", "a claim that follows the record")
    return Bequest(volume_id, heir_volume_id, tuple(givens), tuple(volumes))


def _segments(fields: _Fields) -> tuple[str, ...]:
    names = fields.take("segments", list)
    if len(names) > SEGMENTS_MAX:
        raise _malformed("segments", f"at most {SEGMENTS_MAX}")
    return tuple(_segment(name) for name in names)


def _segment(name: object) -> str:
    # It becomes part of a path.
    if not isinstance(name, str) or not _SEGMENT.fullmatch(name):
        raise _malformed("segment", "a segment's name")
    return name


def _refused(fields: _Fields) -> Refused:
    said = fields.take("code", str)
    known = {code.value: code for code in Code}
    refusal = Refusal(
        # One of a newer version: what it says is in the text.
        known.get(said, Code.INTERNAL_ERROR),
        fields.take("detail", str),
        offset=fields.optional("offset", int),
        retry_after_s=fields.optional("retry_after_s", int),
        extra=fields.take("extra", dict),
    )
    return Refused(refusal, fields.take("understood", bool))


_NAMES: Final[dict[type, str]] = {
    Recall: "recall",
    Act: "act",
    Question: "ask",
    Voided: "void",
    Recorded: "recorded",
    Release: "release",
    Bequest: "inherit",
    BytesWanted: "read",
    ListingWanted: "listing",
    StatusWanted: "status",
}

_MESSAGES: Final[dict[str, Callable[[_Fields], Message]]] = {
    "recall": lambda f: Recall(f.upload_id(), f.count("epoch"), _identity(f.group("by"))),
    "act": lambda f: Act(f.upload_id(), f.one_of("name", ActName), f.take("arguments", dict)),
    "ask": lambda f: Question(f.upload_id(), f.text_or_none("question"), _identity(f.group("by")), f.volume_id()),
    "void": lambda f: Voided(f.upload_id(), f.text("question"), f.count("epoch")),
    "recorded": lambda f: Recorded(f.upload_id(), f.count("epoch")),
    "release": lambda f: Release(f.upload_id(), _segments(f)),
    "inherit": _bequest,
    "read": _bytes_wanted,
    "listing": lambda f: ListingWanted(f.take("query", dict)),
    "status": lambda _: StatusWanted(),
}

_ANSWERS: Final[dict[str, Callable[[_Fields], Answer]]] = {
    Recalled.PARKED.value: lambda _: Recalled.PARKED,
    Recalled.NOT_OWNER.value: lambda _: Recalled.NOT_OWNER,
    Recalled.NOT_OPEN.value: lambda _: Recalled.NOT_OPEN,
    "acted": lambda f: Acted(_record(f), f.count("offset")),
    "given": _given,
    "elsewhere": lambda f: Elsewhere(
        _identity(f.group("owner")), f.count("epoch"), f.volume_id(), keeps=f.take("keeps", bool)
    ),
    "unknown": lambda _: Unknown(),
    "not_now": lambda f: NotNow(f.take("detail", str)),
    "inherited": lambda f: Inherited(f.volume_id()),
    "done": lambda _: Done(),
    "document": lambda f: Page(f.take("document", dict)),
    REFUSED: _refused,
}


MESSAGE_NAMES: Final = frozenset(_MESSAGES)
ANSWER_WORDS: Final = frozenset(_ANSWERS)


def _json(body: bytes) -> Document:
    try:
        document = json.loads(body, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise Refusal(Code.BODY_MALFORMED, "The body is no JSON.") from None
    if not isinstance(document, dict):
        raise Refusal(Code.BODY_MALFORMED, "The body is no JSON object.")
    return document


def _no_number(text: str) -> NoReturn:
    raise ValueError(text)


def _malformed(name: str, expected: str) -> Refusal:
    return Refusal(
        Code.FIELD_INVALID,
        f"{name}: expected {expected}",
        extra={"errors": [{"field": name, "expected": expected}]},
    )
