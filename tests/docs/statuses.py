"""Makes the table and the diagram of statuses in docs/architecture.md from `incomingd.core.status`.

``python -m tests.docs.statuses --write`` brings the page up to date; a test holds that it is.
"""

from __future__ import annotations

import sys
from collections import defaultdict

from incomingd.core.status import TRANSITIONS, Event, Status
from tests.support.machine import ROOT

PAGE = ROOT / "docs/architecture.md"
BEGIN = "<!-- statuses: made by `python -m tests.docs.statuses --write`, do not edit -->\n"
END = "<!-- end of statuses -->\n"

WORDS = {
    Event.STORED: "bytes kept",
    Event.COMPLETED: "completed",
    Event.HANDOVER_STARTED: "hand-over started",
    Event.APP_DONE: "the app is done",
    Event.APP_WAITS: "the app waits",
    Event.APP_UNREACHABLE: "the app is unreachable",
    Event.APP_REFUSED: "the app refuses",
    Event.CANCEL: "cancel",
    Event.EXPIRE: "the deadline passes",
    Event.BYTES_LOST: "bytes lost",
    Event.PARK: "park",
    Event.PULL: "pull",
}


def _by_goal(status: Status) -> dict[Status, list[str]]:
    goals: dict[Status, list[str]] = defaultdict(list)
    for event, goal in TRANSITIONS.get(status, {}).items():
        goals[goal].append(WORDS[event])
    return goals


def markdown() -> str:
    """Return what stands between the two marks."""
    lines = ["", "| status | event → next status |", "| --- | --- |"]
    for status in Status:
        rows = [f"{', '.join(words)} → `{goal.value}`" for goal, words in _by_goal(status).items()]
        lines.append(f"| `{status.value}` | {'; '.join(rows) or 'final'} |")
    lines += ["", "```mermaid", "stateDiagram-v2", "    [*] --> open"]
    for status in Status:
        for goal, words in _by_goal(status).items():
            if goal is not status:
                lines.append(f"    {status.value} --> {goal.value}: {', '.join(words)}")
        if status.final:
            lines.append(f"    {status.value} --> [*]")
    return "\n".join([*lines, "```", "", ""])


def current(text: str) -> str:
    """Return the page's *text* with the present table in it."""
    before, mark, rest = text.partition(BEGIN)
    assert mark, f"{PAGE} has no line {BEGIN!r}"
    _, mark, after = rest.partition(END)
    assert mark, f"{PAGE} has no line {END!r}"
    return before + BEGIN + markdown() + END + after


def main() -> int:
    """Write the page, or say that it is not current."""
    text = PAGE.read_text("utf-8")
    wanted = current(text)
    if text == wanted:
        return 0
    if "--write" in sys.argv[1:]:
        PAGE.write_text(wanted, "utf-8")
        return 0
    sys.stdout.write(f"{PAGE.name} is not current\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
