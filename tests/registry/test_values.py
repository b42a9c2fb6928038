from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from incomingd.core.ring import Instance
from incomingd.core.tenure import Identity
from incomingd.registry.registry import Invitation
from incomingd.registry.values import Formats, UnreadableValueError

FORMATS = Formats()
OWNER = Identity("incoming-1", "0badcafe", "10.0.0.1:4002")
INSTANCE = Instance(OWNER, 1_800_000_000.5, frozenset({"v1", "v2"}), draining=True, version="2.0.1")

identities = st.builds(Identity, st.text(), st.text(), st.text())
instances = st.builds(
    Instance,
    identities,
    st.floats(allow_nan=False, allow_infinity=False),
    st.frozensets(st.text()),
    st.booleans(),
    st.booleans(),
    st.integers(min_value=1),
    st.text(),
)


def test_format_1_stays_as_it_was_released() -> None:
    """Two versions of the program run side by side; a change here needs a new format."""
    assert FORMATS.instance(INSTANCE, 1) == (
        b'{"format":1,"name":"incoming-1","start_id":"0badcafe","address":"10.0.0.1:4002","started_at":1800000000.5,'
        b'"volumes":["v1","v2"],"draining":true,"full":false,"reads":1,"version":"2.0.1"}'
    )
    assert FORMATS.ownership(OWNER, 7, 1) == (
        b'{"format":1,"name":"incoming-1","start_id":"0badcafe","epoch":7,"address":"10.0.0.1:4002"}'
    )


@given(instances)
def test_what_an_instance_says_is_read_as_it_was_written(instance: Instance) -> None:
    assert FORMATS.read_instance(FORMATS.instance(instance, 1)) == instance


@given(identities, st.integers(min_value=0))
def test_ownerships_and_invitations_are_read_as_they_were_written(owner: Identity, epoch: int) -> None:
    assert FORMATS.read_ownership(FORMATS.ownership(owner, epoch, 1)) == (owner, epoch)
    invitation = Invitation("u", epoch, owner)
    assert FORMATS.read_invitation("u", FORMATS.invitation(invitation, 1)) == invitation


def test_fields_that_nobody_knows_are_ignored() -> None:
    value = json.loads(FORMATS.ownership(OWNER, 7, 1)) | {"mood": "good"}
    assert FORMATS.read_ownership(json.dumps(value).encode()) == (OWNER, 7)


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"nonsense",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"7",
        b"{}",
        b"[" * 100_000,
        b'{"format":0,"name":"a","start_id":"1","epoch":1,"address":""}',
        b'{"format":2,"name":"a","start_id":"1","epoch":1,"address":""}',
        b'{"format":true,"name":"a","start_id":"1","epoch":1,"address":""}',
        b'{"format":"1","name":"a","start_id":"1","epoch":1,"address":""}',
        b'{"format":1,"name":"a","start_id":1,"epoch":1,"address":""}',
        b'{"format":1,"name":"a","start_id":"1","epoch":"1","address":""}',
        b'{"format":1,"name":"a","start_id":"1","epoch":-1,"address":""}',
        b'{"format":1,"name":"a","start_id":"1","epoch":true,"address":""}',
        b'{"format":1,"name":"a","start_id":"1","epoch":1,"address":null}',
        b'{"format":1,"name":"a","start_id":"1","epoch":1}',
    ],
    ids=lambda value: str(value[:70]),
)
def test_what_is_damaged_or_of_an_unknown_format_is_refused(damaged: bytes) -> None:
    with pytest.raises(UnreadableValueError):
        FORMATS.read_ownership(damaged)
    with pytest.raises(UnreadableValueError):
        FORMATS.read_instance(damaged)


@pytest.mark.parametrize(
    "field, value",
    [("volumes", ["v", 1]), ("volumes", "v"), ("draining", 1), ("started_at", "now"), ("reads", True), ("version", 2)],
)
def test_an_instance_s_fields_are_checked(field: str, value: object) -> None:
    said = json.loads(FORMATS.instance(INSTANCE, 1)) | {field: value}
    with pytest.raises(UnreadableValueError):
        FORMATS.read_instance(json.dumps(said).encode())
