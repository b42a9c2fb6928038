"""Problem documents (RFC 9457): how a refusal looks in JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from incomingd.core.errors import Code, Refusal

if TYPE_CHECKING:
    from incomingd.core.errors import Problem

CONTENT_TYPE: Final = "application/problem+json"
TYPE_PREFIX: Final = "tag:incomingd,2026:problem:"
"""A problem's `type`: a name, not an address (RFC 9457, section 3.1.1)."""


def document(refusal: Refusal, *, status: int, request_id: str) -> bytes:
    """Return the problem document of *refusal*.

    Args:
        refusal: what was refused.
        status: the answer's.
        request_id: by which it is found in the log.
    """
    problem: Problem = refusal.problem
    members: dict[str, object] = {
        "type": TYPE_PREFIX + refusal.code.value,
        "title": problem.title,
        "status": status,
        "detail": refusal.detail,
        "code": refusal.code.value,
        "request_id": request_id,
    }
    if refusal.offset is not None:
        members["offset"] = refusal.offset
    members.update(refusal.extra)
    return json.dumps(members, ensure_ascii=False).encode("utf-8")


def internal_error() -> Refusal:
    """Return what is told of a programming error: nothing but that there is one."""
    return Refusal(Code.INTERNAL_ERROR)
