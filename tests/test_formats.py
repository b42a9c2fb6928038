"""What instances write for each other stays as it is, to the byte, in both formats.

Another version of the program may run beside this one; a change here needs a new format.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from incomingd.core import codec
from incomingd.core.tenure import Claim
from incomingd.registry import values
from incomingd.wire import peer
from tests.support import golden

Case = tuple[Callable[[int], bytes], Callable[[bytes], object], object]

VALUES = values.Formats()
PEER = peer.Formats()


def _call(name: str, message: peer.Message) -> Case:
    return lambda version: PEER.call(message, version), lambda data: PEER.read_call(name, data)[0], message


def _answer(answer: peer.Answer) -> Case:
    return lambda version: PEER.answer(answer, version), PEER.read_answer, answer


def _claim(claim: Claim) -> Case:
    return lambda version: codec.encode_claim(claim, version=version), codec.decode_claim, claim


CASES: dict[str, Case] = {
    "record": (
        lambda version: codec.encode(golden.RECORD, version=version),
        codec.decode,
        golden.RECORD,
    ),
    "claim": _claim(golden.CLAIM),
    "claim-of-nobodys-question": _claim(golden.CLAIM_OF_NOBODYS_QUESTION),
    "lease": (
        lambda version: VALUES.instance(golden.LEASE, version),
        VALUES.read_instance,
        golden.LEASE,
    ),
    "ownership": (
        lambda version: VALUES.ownership(golden.OWNER, 7, version),
        VALUES.read_ownership,
        (golden.OWNER, 7),
    ),
    "invitation": (
        lambda version: VALUES.invitation(golden.INVITATION, version),
        lambda data: VALUES.read_invitation(golden.INVITATION.upload_id, data),
        golden.INVITATION,
    ),
    **{f"calls/{name}": _call(name, message) for name, message in golden.MESSAGES.items()},
    **{f"answers/{word}": _answer(answer) for word, answer in golden.ANSWERS.items()},
}


def stored(version: int) -> dict[str, Path]:
    folder = golden.FOLDER / str(version)
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in folder.rglob("*.json")}


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("what", CASES)
def test_it_is_read_and_written_to_the_byte(what: str, version: int) -> None:
    write, read, value = CASES[what]
    # The files end with a line feed, as files do.
    data = stored(version)[what].read_bytes().removesuffix(b"\n")
    assert write(version).removesuffix(b"\n") == data
    assert read(data) == value
    assert json.loads(data)["format"] == version


@pytest.mark.parametrize("version", [1, 2])
def test_there_is_a_file_of_everything_that_there_is(version: int) -> None:
    assert stored(version).keys() == CASES.keys()
    assert {f"calls/{name}" for name in peer.MESSAGE_NAMES} <= CASES.keys()
    assert {f"answers/{word}" for word in peer.ANSWER_WORDS - {peer.REFUSED}} <= CASES.keys()
