"""The page about problems, made from the catalogue."""

from __future__ import annotations

from typing import Final

from incomingd.core.errors import PROBLEMS
from incomingd.web.problems import CONTENT_TYPE, TYPE_PREFIX
from incomingd.wire import tus

_HEAD: Final = f"""\
# Problems

<!-- Made from incomingd/core/errors.py by `python -m incomingd.backend_api --write`. Do not edit. -->

Whatever is refused, the answer is a document of the type `{CONTENT_TYPE}` (RFC 9457):

| member | meaning |
| --- | --- |
| `code` | What is wrong, in a word that never changes: the first column below. Also in the library and the log. |
| `type` | `{TYPE_PREFIX}` and the code. |
| `title` | What is wrong, in a sentence that is the same every time. |
| `detail` | What is wrong with this very request. |
| `status` | The status of the answer. |
| `request_id` | The request, as in the log and in the header `X-Request-ID`. |
| `errors` | With `field_invalid`: a list of `field` and `expected`, every mistake at once. |
| `offset` | Where it helps the client: how many bytes the upload has. |

Answers to HEAD have no body; their status says it. For a HEAD of the upload resource (tus) the status in brackets
counts: clients of that protocol take anything else for the end of the upload and begin again from its first byte. A
download URL answers `header_malformed` with 416 for a range that has no byte of the file in it.

| code | status | what is wrong | what to do |
| --- | --- | --- | --- |
"""

_TAIL: Final = """
## Without a document

What is no HTTP, has a malformed `Content-Length` or a header section longer than `limits.header_bytes` is refused by
the parser, before anything else has seen it: a bare `400`, or a closed connection. A body that is larger than its
listener takes gets the same. The log has `parse.refused` for it.
"""


def problems_markdown() -> str:
    """Return the page."""
    lines = []
    for code, problem in PROBLEMS.items():
        of_head = tus.HEAD_STATUS[code]
        status = str(problem.status) if of_head == problem.status else f"{problem.status} ({of_head})"
        lines.append(f"| `{code.value}` | {status} | {problem.title} | {problem.remedy} |\n")
    return _HEAD + "".join(lines) + _TAIL
