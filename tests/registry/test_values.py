from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from incomingd.core.formats import FORMER
from incomingd.core.ring import Instance
from incomingd.core.tenure import Identity
from incomingd.registry.registry import Invitation
from incomingd.registry.values import Formats, UnreadableValueError
from tests.support.golden import LEASE as INSTANCE
from tests.support.golden import OWNER

FORMATS = Formats()
UPLOAD = "u" * 43 + "v" * 12

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


versions = st.sampled_from([1, 2])


@given(instances, versions)
def test_what_an_instance_says_is_read_as_it_was_written(instance: Instance, version: int) -> None:
    assert FORMATS.read_instance(FORMATS.instance(instance, version)) == instance


@given(identities, st.integers(min_value=0), versions)
def test_ownerships_and_invitations_are_read_as_they_were_written(owner: Identity, epoch: int, version: int) -> None:
    assert FORMATS.read_ownership(FORMATS.ownership(owner, epoch, version)) == (owner, epoch)
    invitation = Invitation("u", epoch, owner)
    assert FORMATS.read_invitation("u", FORMATS.invitation(invitation, version)) == invitation


def test_format_2_says_all_formats_that_an_instance_reads_and_null_for_no_address() -> None:
    first = Instance(Identity("first", "1f"), format=1)
    assert json.loads(FORMATS.instance(first, 1)).items() >= {"reads": 1, "address": ""}.items()
    said = json.loads(FORMATS.instance(first, 2))
    assert (said["formats"], said["address"]) == ([1], None)
    assert json.loads(FORMATS.instance(INSTANCE, 2))["formats"] == [1, 2]
    damaged: list[dict[str, object]] = [{"formats": []}, {"formats": ["1"]}, {"formats": 2}, {"address": ""}]
    for wrong in damaged:
        with pytest.raises(UnreadableValueError):
            FORMATS.read_instance(json.dumps(said | wrong).encode())


def test_the_former_program_reads_nothing_newer() -> None:
    former = Formats(FORMER)
    with pytest.raises(UnreadableValueError, match="format 2; this program reads format 1"):
        former.read_instance(FORMATS.instance(INSTANCE, 2))
    assert former.read_instance(FORMATS.instance(INSTANCE, 1)) == INSTANCE


def test_where_a_key_leads_to_is_the_same_in_both_formats() -> None:
    both = [json.loads(Formats().key(OWNER, UPLOAD, version)) for version in (1, 2)]
    assert [each.pop("format") for each in both] == [1, 2]
    assert both == [{"name": OWNER.name, "start_id": OWNER.start_id, "upload_id": UPLOAD}] * 2
    assert Formats().read_key(Formats().key(OWNER, UPLOAD, 2)) == UPLOAD
    assert Formats(FORMER).read_key(Formats().key(OWNER, UPLOAD, 1)) == UPLOAD
    for damaged in (Formats().key(OWNER, "../x", 2), Formats().ownership(OWNER, 1, 2), b"{"):
        with pytest.raises(UnreadableValueError):
            Formats().read_key(damaged)


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
        b'{"format":3,"name":"a","start_id":"1","epoch":1,"address":""}',
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
