"""The catalogue of log events, and that the program keeps to it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import get_args

import pytest

from incomingd.log import events
from incomingd.log.events import CATALOGUE, COMMON_FIELDS, FIELDS, Event
from incomingd.log.reference import reference_markdown
from tests.support.machine import ROOT
from tests.support.tree import files, shown

# What names are made of, where it is no past participle in -ed.
IRREGULAR = {"begun", "given", "lost", "made", "sent", "taken"}


def test_the_page_is_current() -> None:
    """Else: `python -m incomingd.log --write`."""
    assert (ROOT / "docs" / "log-events.md").read_text(encoding="utf-8") == reference_markdown()


def test_the_command_says_so_too() -> None:
    command = [sys.executable, "-m", "incomingd.log"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("name", CATALOGUE)
def test_an_event_is_described(name: str) -> None:
    event = CATALOGUE[name]
    assert re.fullmatch(r"[a-z]+\.[a-z]+(_[a-z]+)*", name)
    assert set(event.levels) <= set(get_args(events.Level))
    assert event.meaning.endswith((".", ".)"))
    assert not event.fields.keys() & COMMON_FIELDS.keys()
    assert getattr(events, name.replace(".", "_").upper()) is event, "the constant has the event's name"


def test_every_field_is_described_and_used() -> None:
    assert all(field.meaning.endswith(".") for field in FIELDS.values())
    assert FIELDS.keys() == {name for event in CATALOGUE.values() for name in event.fields}


def test_a_name_that_is_no_event_cannot_be_catalogued_twice() -> None:
    with pytest.raises(AssertionError, match="twice"):
        events._event("append.ended", "info", "Again.", "")
    with pytest.raises(AssertionError, match="FIELDS does not describe"):
        events._event("append.begun", "info", "New.", "no_such_field")
    with pytest.raises(AssertionError, match="a level that there is not"):
        events._event("append.begun", "loud", "New.", "")
    assert "append.begun" not in CATALOGUE


def calls() -> Iterator[tuple[str, ast.Call]]:
    """Every call in the package whose first argument is an event of the catalogue: where, and the call."""
    for path in files(".py", under="incomingd"):
        for part in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(part, ast.Call) and part.args and event_of(part) is not None:
                yield f"{shown(path)}:{part.lineno}", part


def event_of(call: ast.Call) -> Event | None:
    first = call.args[0]
    if isinstance(first, ast.Attribute) and isinstance(first.value, ast.Name) and first.value.id.endswith("events"):
        found = getattr(events, first.attr, None)
        return found if isinstance(found, Event) else None
    return None


def test_the_program_logs_what_the_catalogue_says() -> None:
    """Each call in the package that names an event and spells out level and fields: also those no test reaches."""
    wrong = []
    for where, call in calls():
        event = event_of(call)
        assert event is not None
        level = call.func.attr if isinstance(call.func, ast.Attribute) else ""
        level = "error" if level == "exception" else level
        if level not in get_args(events.Level):
            continue
        fields = {keyword.arg for keyword in call.keywords if keyword.arg} - {"exc_info"}
        if level not in event.levels or fields - event.fields.keys() - COMMON_FIELDS.keys():
            wrong.append(f"{where}: {event} as {level} with {sorted(fields - event.fields.keys())}")
    assert not wrong
    assert list(calls()), "the search finds something"
