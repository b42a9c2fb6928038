"""The life of an upload: which event leads where, and that an illegal one changes nothing."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from incomingd.core.record import Record, Terms
from incomingd.core.status import TRANSITIONS, Event, IllegalEventError, Status, legal, next_status

# As a person would draw it; said here a second time, so that a change of the table is a decision.
LEGAL = {
    (Status.OPEN, Event.STORED): Status.OPEN,
    (Status.OPEN, Event.COMPLETED): Status.COMPLETE,
    (Status.OPEN, Event.CANCEL): Status.CANCELLED,
    (Status.OPEN, Event.EXPIRE): Status.EXPIRED,
    (Status.OPEN, Event.BYTES_LOST): Status.LOST,
    (Status.OPEN, Event.PARK): Status.OPEN,
    (Status.OPEN, Event.PULL): Status.OPEN,
    (Status.COMPLETE, Event.HANDOVER_STARTED): Status.HANDING_OVER,
    (Status.COMPLETE, Event.CANCEL): Status.CANCELLED,
    (Status.COMPLETE, Event.BYTES_LOST): Status.LOST,
    (Status.COMPLETE, Event.PARK): Status.COMPLETE,
    (Status.COMPLETE, Event.PULL): Status.COMPLETE,
    (Status.HANDING_OVER, Event.APP_DONE): Status.FINISHED,
    (Status.HANDING_OVER, Event.APP_WAITS): Status.AWAITING_APP,
    (Status.HANDING_OVER, Event.APP_UNREACHABLE): Status.COMPLETE,
    (Status.HANDING_OVER, Event.APP_REFUSED): Status.FAILED,
    (Status.HANDING_OVER, Event.BYTES_LOST): Status.LOST,
    (Status.HANDING_OVER, Event.PARK): Status.COMPLETE,
    (Status.HANDING_OVER, Event.PULL): Status.COMPLETE,
    (Status.AWAITING_APP, Event.APP_DONE): Status.FINISHED,
    (Status.AWAITING_APP, Event.APP_REFUSED): Status.FAILED,
    (Status.AWAITING_APP, Event.EXPIRE): Status.FAILED,
    (Status.AWAITING_APP, Event.BYTES_LOST): Status.LOST,
    (Status.AWAITING_APP, Event.PARK): Status.AWAITING_APP,
    (Status.AWAITING_APP, Event.PULL): Status.AWAITING_APP,
}
FINAL = {Status.FINISHED, Status.CANCELLED, Status.FAILED, Status.EXPIRED, Status.LOST}


def record_in(status: Status) -> Record:
    return Record("id", Terms("http://app.example/", "c2VjcmV0"), created_at=1.0, expires_at=2.0, status=status)


@pytest.mark.parametrize("status, event", list(itertools.product(Status, Event)))
def test_every_event_in_every_status(status: Status, event: Event) -> None:
    """A legal event leads where the table says; an illegal one raises, and nothing was changed."""
    record = record_in(status)
    before = dataclasses.replace(record)
    expected = LEGAL.get((status, event))
    assert legal(status, event) == (expected is not None)
    if expected is not None:
        assert next_status(status, event) is expected
        assert record.after(event, epoch=9) == dataclasses.replace(before, status=expected, epoch=9)
    else:
        with pytest.raises(IllegalEventError, match=f"{event.value} while {status.value}"):
            next_status(status, event)
        with pytest.raises(IllegalEventError):
            record.after(event, epoch=9)
    assert record == before


def test_final_is_what_nothing_leads_out_of() -> None:
    assert {status for status in Status if status.final} == FINAL
    assert not FINAL & TRANSITIONS.keys()


def test_every_status_is_reached() -> None:
    assert {Status.OPEN} | set(LEGAL.values()) == set(Status)


def test_every_event_means_something() -> None:
    assert {event for _, event in LEGAL} == set(Event)


@pytest.mark.parametrize("status", Status)
def test_whole_and_gone_say_what_became_of_the_bytes(status: Status) -> None:
    whole = {Status.COMPLETE, Status.HANDING_OVER, Status.AWAITING_APP, Status.FINISHED}
    assert status.whole == (status in whole)
    assert status.gone == (status in FINAL - {Status.FINISHED})
