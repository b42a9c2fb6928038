"""What holds for every test: it is silent, it leaves nothing running, and it says why where it cannot run."""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Iterator

import hypothesis
import psutil
import pytest
import structlog

from incomingd.log import shutdown
from tests.support.alone import turn

pytest_plugins = ["tests.support.fixtures", "pytester"]

# A slow machine is no broken promise, so examples have no deadline.
hypothesis.settings.register_profile("incoming", deadline=None)
hypothesis.settings.load_profile("incoming")

# Output that a test has claimed by asking for a fixture that reads it (or, as pytester, repeats it on purpose).
_CLAIMS = {"log": {"caplog"}, "stdout": {"pytester"}, "stderr": {"pytester"}}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a test that passed but said something: an unexpected log line is a fault, and noise hides faults.

    Log lines that a test provokes on purpose it claims with ``caplog`` and looks at; printed text likewise with
    ``capsys`` or ``capfd`` (what they have read is not counted here).
    """
    report = yield
    if report.passed:
        fixtures = set(getattr(item, "fixturenames", ()))
        for stream, claims in _CLAIMS.items():
            title = f"Captured {stream} {report.when}"
            text = "".join(content for name, content in report.sections if name == title)
            if text.strip() and not claims & fixtures:
                report.outcome = "failed"
                report.longrepr = f"{item.nodeid}: a silent test suite, but this test wrote to {stream}:\n{text}"
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Let a test that measures run alone; before its time limit begins."""
    with turn(alone=item.get_closest_marker("alone") is not None):
        return (yield)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs root where we are not root."""
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root (mounts a file system or becomes another user)"))


@pytest.fixture(autouse=True)
def _structlog_as_found() -> Iterator[None]:
    """Give every test the loggers as a process begins with them, whatever the one before it configured."""
    loggers = [logging.getLogger(name) for name in (None, "tornado.general")]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
    shutdown()
    structlog.contextvars.clear_contextvars()
    if structlog.is_configured():
        structlog.reset_defaults()


@pytest.fixture(scope="session", autouse=True)
def _nothing_left_running() -> Iterator[None]:
    """Fail at the end if a process that a test started is still there."""
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    yield
    left = [child for child in psutil.Process().children(recursive=True) if child.pid not in before]
    names = [f"{child.pid} {' '.join(child.cmdline())}" for child in left if child.status() != psutil.STATUS_ZOMBIE]
    assert not names, f"left running: {names}"
