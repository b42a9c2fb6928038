"""docs/protocol.md says what the upload resource does: its tables are compared, its example is sent."""

from __future__ import annotations

import json
import re
from typing import Final

from incomingd.core.digests import ALGORITHMS
from incomingd.core.errors import Code
from incomingd.core.status import Status
from incomingd.wire import tus
from tests.frontends.service import Service
from tests.frontends.test_statuses import TABLE
from tests.support.machine import ROOT
from tests.support.wire import Wire

PAGE: Final = (ROOT / "docs/protocol.md").read_text("utf-8")

ELSEWHERE: Final = {
    *(Code.BODY_TOO_LARGE, Code.FIELD_INVALID, Code.TOKEN_MISSING, Code.TOKEN_WRONG, Code.SECRET_WRONG),
    *(Code.TOO_LATE, Code.NOT_WAITING, Code.NOTHING_TO_DELIVER, Code.FILE_NOT_READY, Code.FILE_GONE),
    *(Code.PEER_REFUSED, Code.PEER_OTHER_RUN, Code.PEER_FORMAT_UNKNOWN, Code.TICKET_UNREADABLE),
    *(Code.NO_HEIR, Code.INSTANCE_RETIRED),
}
"""Codes of other listeners. A new code belongs here or on the page."""


def rows(text: str) -> list[list[str]]:
    """Return the cells of a table's rows, without its head."""
    found = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in found[2:]]


def block(mark: str) -> str:
    """Return the fenced block behind a mark."""
    found = re.search(rf"<!-- {mark} -->\n```\w+\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def test_every_code_is_listed_with_its_status() -> None:
    told = {Code(code.strip("`")): (int(status), head) for code, status, head in rows(PAGE.split("<!-- codes -->")[1])}
    assert {code: status for code, (status, _) in told.items()} == {
        code: status for code, status in tus.STATUS.items() if code not in ELSEWHERE
    }
    heads = {code: int(head) for code, (_, head) in told.items() if head}
    assert heads == {code: tus.HEAD_STATUS[code] for code in heads}
    statuses = [status for status, _ in told.values()]
    assert statuses == sorted(statuses)


def test_what_a_request_meets_is_what_it_meets() -> None:
    text = PAGE.split("## What a request meets")[1].split("\n\n")[1]
    told = {Status(name.strip("` ")): cells for names, *cells in rows(text) for name in names.split(",")}
    assert set(told) == set(Status)
    for status, (head, empty, other, creation, delete) in told.items():
        row = TABLE[status]
        numbers = [re.findall(r"\b[1-5]\d\d\b", cell) for cell in (head, empty, other, creation, delete)]
        assert numbers[0] == [str(row["head"][0])]
        assert numbers[1] == [str(row["empty at the end"][0])]
        assert set(numbers[2]) >= {str(row["wrong offset"][0]), str(row["beyond"][0])}
        assert set(numbers[3]) == {str(row["same creation"][0]), str(row["other creation"][0])}
        assert numbers[4][0] == str(row["delete"][0])


def test_what_is_offered_is_named() -> None:
    text = " ".join(PAGE.split())
    assert ", ".join(tus.EXTENSIONS[:-1]) in text
    assert tus.EXTENSIONS[-1] in text
    assert f"Tus-Checksum-Algorithm: {','.join(ALGORITHMS)}" in text


def test_every_header_that_is_answered_is_named() -> None:
    source = (ROOT / "incomingd/wire/tus.py").read_text("utf-8")
    headers = set(re.findall(r'"((?:Upload|Tus)-[A-Za-z-]+|Location|Retry-After)"', source))
    assert len(headers) > 12
    # Only a version that is not spoken, and the other protocol, are told by these.
    missing = {name for name in headers if name not in PAGE}
    assert missing == {"Upload-Draft-Interop-Version", "Upload-Complete"}


def test_the_example_is_what_happens(service: Service) -> None:
    """Each request of the page is sent, and its answer has the lines that the page shows."""
    path = service.ticket()
    text = block("exchange").replace("/incoming/1.0/frontend/uploads/<id>", path)
    messages = re.split(r"^(?=POST |PATCH |HEAD |HTTP/1\.1 )", text, flags=re.MULTILINE)[1:]
    pairs = list(zip(messages[::2], messages[1::2], strict=True))
    assert len(pairs) == 4
    with Wire(service.address) as wire:
        for request, answer in pairs:
            head, _, body = request.partition("\n\n")
            first, *lines = head.splitlines()
            wire.send("\r\n".join((first, "Host: x", *lines, "", "")).encode() + body.removesuffix("\n").encode())
            got = wire.read_response(first.split()[0])
            status_line, *expected = answer.strip().splitlines()
            assert status_line == f"HTTP/1.1 {got.status} {got.reason}"
            for line in expected:
                name, _, value = line.partition(": ")
                assert got.headers[name.lower()] == value
    assert service.file_of(path) == b"hello world"
    with Wire(service.address) as wire:
        assert wire.request("GET", f"{path}/status").json() == json.loads(block("status"))


def test_every_key_exists(service: Service) -> None:
    keys = set(re.findall(r"`((?:public|limits|tus)\.\w+|hold_s)`", PAGE))
    assert len(keys) > 5
    for key in keys:
        value: object = service.settings
        for name in key.split("."):
            value = getattr(value, name)
