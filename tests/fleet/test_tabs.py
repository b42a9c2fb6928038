"""Two tabs send the same file at two instances: each takes the upload from the other, but not for ever."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import pytest

from tests.support.app import App
from tests.support.backend import Backend
from tests.support.content import Content
from tests.support.fleet import fleet
from tests.support.link import Link
from tests.support.stock import tus_js

KiB = 1 << 10
MiB = 1 << 20

RATE_BYTES_PER_S = 512 * KiB
CUTS_MIN = 12
CUTS_MAX = 30
"""Six at each instance are free; every further one comes later than the one before. Not slowed down: over 100.

Moves of an upload nobody is sending just now are not counted: who was cut asks for
the offset first, and a busy machine has the two ask by turns several times.
"""


@pytest.mark.parametrize("shared", [True, pytest.param(False, marks=pytest.mark.soak)], ids=["shared", "private"])
@pytest.mark.parametrize("size_bytes", [4 * MiB, pytest.param(24 * MiB, marks=pytest.mark.soak)])
def test_two_tabs_at_two_instances_do_not_cut_each_other_for_ever(
    size_bytes: int, app: App, tmp_path: Path, *, shared: bool
) -> None:
    """Stock clients that nothing keeps at one instance: both come to their ends, and the file is right."""
    with fleet(tmp_path, 2, shared=shared) as two:
        content = Content(random.randrange(1 << 30), size_bytes)
        file = content.write(tmp_path / "file.bin")
        ticket = Backend(two[0], app).ticket()
        with contextlib.ExitStack() as stack:
            links = [
                stack.enter_context(Link(each.public, rate_bytes_per_s=RATE_BYTES_PER_S)) for each in two.instances
            ]
            path = ticket["upload_url"].removeprefix(two[0].public_url)
            urls = [link.through(each.public_url + path) for link, each in zip(links, two.instances, strict=True)]
            first = stack.enter_context(tus_js(file, options={"endpoint": urls[0]}))
            first.wait_event("progress")
            second = stack.enter_context(tus_js(file, options={"uploadUrl": urls[1]}))
            first.wait()
            second.wait()
        app.check_arrived(ticket["id"], content.sha256())
        cuts = [event for each in two.instances for event in each.log_events("append.ended", code="preempted")]
        delays = [event["delay_s"] for each in two.instances for event in each.log_events("append.preempted")]
        assert CUTS_MIN <= len(cuts) <= CUTS_MAX, (len(cuts), delays)
        assert delays
