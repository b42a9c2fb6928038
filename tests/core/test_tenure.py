"""Claims are counted from 1: 0 is an upload that was born and never owned."""

from __future__ import annotations

import pytest

from incomingd.core.tenure import Claim, ClaimKind, Identity


@pytest.mark.parametrize("epoch", [0, -1])
def test_there_is_no_claim_before_the_first(epoch: int) -> None:
    with pytest.raises(AssertionError):
        Claim(epoch, Identity("a", "b"), "c", "Volume000001", ClaimKind.PULL)


def test_another_run_of_an_instance_is_another_owner() -> None:
    assert Identity("one:4000", "first") != Identity("one:4000", "second")
