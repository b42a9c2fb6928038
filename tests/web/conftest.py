"""The seam with Tornado, without a daemon around it."""

from __future__ import annotations

import logging

import pytest


@pytest.fixture(autouse=True)
def _refusals_of_the_parser_are_no_noise(caplog: pytest.LogCaptureFixture) -> None:
    """Tornado tells at `info` what it refused; a daemon logs that under a name of its own."""
    caplog.set_level(logging.WARNING, "tornado.general")
