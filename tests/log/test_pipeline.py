"""What comes out of the log, and how it looks."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import logging
import os
import re
import socket
import subprocess
import sys
import threading
import warnings

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.web import Application, RequestHandler

from incomingd import log
from incomingd.config import Settings
from incomingd.log import events
from incomingd.log.render import printable
from tests.log.conftest import Configure, LogSettings, Terminal


def test_a_line_is_a_json_object_with_time_level_event_and_instance_first(configure: Configure) -> None:
    logged = configure()
    log.get_logger().info(events.SWEEP_ENDED, expired=3, deleted=0, duration_s=0.12345678)
    (event,) = logged.events
    assert list(event) == ["ts", "level", "event", "instance", "expired", "deleted", "duration_s"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event.pop("ts"))
    assert event == {
        "level": "info",
        "event": "sweep.ended",
        "instance": "web1:4000",
        "expired": 3,
        "deleted": 0,
        "duration_s": 0.123457,
    }


def test_the_settings_of_the_daemon_are_what_the_log_takes(capfd: pytest.CaptureFixture[str]) -> None:
    """`incomingd.log` does not import `incomingd.config`; the two fit all the same. The log goes to standard error."""
    log.configure(Settings().log, instance="i")
    log.get_logger().info(events.DAEMON_STOPPED, duration_s=1)
    log.shutdown()
    assert json.loads(capfd.readouterr().err)["event"] == "daemon.stopped"


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_what_is_below_the_level_is_left_out(configure: Configure, level: str) -> None:
    logged = configure(LogSettings(level=level))
    logger = log.get_logger()
    for method in (logger.debug, logger.info, logger.warning, logger.error):
        method(events.LIBRARY_LOGGED, library="x", message="y")
    order = ["debug", "info", "warning", "error"]
    assert [event["level"] for event in logged.events] == order[order.index(level) :]


def test_a_reload_counts_for_loggers_that_exist(configure: Configure) -> None:
    stream = io.StringIO()
    logged = configure(LogSettings(level="error"), stream)
    logger = log.get_logger().bind(library="x")
    logger.info(events.LIBRARY_LOGGED, message="left out")
    configure(LogSettings(level="info", client_address="none"), stream)
    logger.info(events.LIBRARY_LOGGED, message="from 192.0.2.1")
    assert [event["message"] for event in logged.events] == ["from ***"]


def test_ids_of_a_request_stand_in_every_line_of_it(configure: Configure) -> None:
    logged = configure()
    with log.bound_contextvars(request_id="r1", trace_id="t1"):
        log.get_logger().info(events.UPLOAD_COMPLETED, upload_id="u")
    log.get_logger().info(events.UPLOAD_COMPLETED, upload_id="v")
    first, second = logged.events
    assert (first["request_id"], first["trace_id"]) == ("r1", "t1")
    assert "request_id" not in second


async def test_requests_that_overlap_keep_their_ids_apart(configure: Configure) -> None:
    logged = configure()
    barrier = asyncio.Barrier(2)

    async def request(name: str) -> None:
        log.bind_contextvars(request_id=name)
        await barrier.wait()
        log.get_logger().info(events.UPLOAD_COMPLETED, upload_id=name)

    await asyncio.gather(request("a"), request("b"))
    assert sorted((event["request_id"], event["upload_id"]) for event in logged.events) == [("a", "a"), ("b", "b")]


def test_an_exception_is_told_with_its_cause_and_without_values_of_variables(configure: Configure) -> None:
    logged = configure()

    def fail(hush: str) -> None:
        try:
            {0: 0}[len(hush)]
        except KeyError as error:
            raise ValueError("wider") from error

    try:
        fail("hush-hush")
    except ValueError:
        log.get_logger().exception(events.REQUEST_FAILED, status=500)
    (event,) = logged.events
    assert event["level"] == "error"
    assert event["exception"].startswith("Traceback")
    assert "KeyError: 9" in event["exception"]
    assert event["exception"].endswith("ValueError: wider")
    assert "hush-hush" not in event["exception"].replace('fail("hush-hush")', "")


def test_endless_recursion_makes_no_endless_line(configure: Configure) -> None:
    logged = configure()

    def turn(depth: int) -> int:
        return back(depth) + 1

    def back(depth: int) -> int:
        return turn(depth) + 1

    try:
        turn(0)
    except RecursionError as error:
        log.get_logger().error(events.REQUEST_FAILED, exc_info=error)
    (event,) = logged.events
    assert len(event["exception"]) < 20_000
    assert "maximum recursion depth" in event["exception"]


def test_no_field_can_pass_for_what_the_line_says_of_itself(configure: Configure) -> None:
    logged = configure()
    log.get_logger().info("x.made", ts="t", level="l", instance="i", exception="e")
    (event,) = logged.events
    assert (event["level"], event["instance"]) == ("info", "web1:4000")
    assert "exception" not in event


# -------------------------------------------------------------------------------------------------- strict mode


def test_in_strict_mode_only_what_the_catalogue_has_can_be_logged(configure: Configure) -> None:
    logged = configure(strict=True)
    logger = log.get_logger()
    with log.bound_contextvars(request_id="r"):
        logger.info(events.SWEEP_ENDED, expired=1)
    with pytest.raises(log.UncataloguedError, match=r"sweep\.begun is not in the catalogue"):
        logger.info("sweep.begun")
    with pytest.raises(log.UncataloguedError, match=r"not catalogued with the fields found, lost"):
        logger.info(events.SWEEP_ENDED, lost=1, found=2)
    with pytest.raises(log.UncataloguedError, match=r"as debug or info, not error"):
        logger.error(events.SWEEP_ENDED)
    with pytest.raises(log.UncataloguedError, match=r"fields attempt"):
        logger.bind(attempt=1).info(events.SWEEP_ENDED)
    with pytest.raises(log.UncataloguedError, match=r"fields part"), log.bound_contextvars(part=1):
        logger.info(events.SWEEP_ENDED)
    assert len(logged.events) == 1


def test_otherwise_what_the_catalogue_does_not_have_is_logged_all_the_same(configure: Configure) -> None:
    """A slip in an event's name must not make a request fail at three in the morning."""
    logged = configure(strict=False)
    log.get_logger().info("sweep.begun", found=2)
    assert logged.events[0]["found"] == 2


def test_a_variable_makes_a_daemon_strict_that_a_test_starts() -> None:
    code = "from incomingd import log; log.get_logger().info('no.such')"
    environ = os.environ | {log.STRICT_VARIABLE: "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False)
    assert "UncataloguedError: no.such is not in the catalogue" in done.stderr


def test_what_was_logged_can_be_looked_at_in_tests() -> None:
    with structlog.testing.capture_logs() as captured:
        log.get_logger().info(events.UPLOAD_COMPLETED, upload_id="u")
    assert captured == [{"event": "upload.completed", "upload_id": "u", "log_level": "info"}]


# ----------------------------------------------------------------------------------------------------- libraries


def test_what_libraries_log_comes_the_same_way(configure: Configure, caplog: pytest.LogCaptureFixture) -> None:
    logged = configure(LogSettings(level="info"), strict=True)
    logging.getLogger("asyncio").error("Task %r failed", "x")
    logging.getLogger("tornado.general").warning("hm")
    logging.getLogger("any").info("too little to tell")
    assert [(event["event"], event["level"], event["library"], event["message"]) for event in logged.events] == [
        ("library.logged", "error", "asyncio", "Task 'x' failed"),
        ("library.logged", "warning", "tornado.general", "hm"),
    ]


def test_warnings_of_python_come_the_same_way(configure: Configure, caplog: pytest.LogCaptureFixture) -> None:
    logged = configure()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)
        warnings.warn("is going away", DeprecationWarning, stacklevel=1)
        logging.captureWarnings(capture=False)
    (event,) = logged.events
    assert (event["library"], event["level"]) == ("py.warnings", "warning")
    assert "is going away" in event["message"]


class Answer(RequestHandler):
    def get(self) -> None:
        self.write("x")


async def test_what_the_parser_of_tornado_refuses_is_an_event_and_an_answer_is_none(
    configure: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    logged = configure(strict=True)
    listener, port = bind_unused_port()
    server = HTTPServer(Application([("/", Answer)]))
    server.add_sockets([listener])
    for request in (b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", b"GET / HTTP/1.1\r\nno colon\r\n\r\n"):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        await reader.read()
        writer.close()
        await writer.wait_closed()
    server.stop()
    await server.close_all_connections()
    (event,) = logged.events
    assert (event["event"], event["level"], event["address"]) == ("parse.refused", "info", "127.0.0.1")
    assert "no colon" in event["detail"]


def test_a_thread_that_dies_says_so(configure: Configure) -> None:
    logged = configure(strict=True)

    def die() -> None:
        raise ValueError(1)

    thread = threading.Thread(target=die, name="mover")
    thread.start()
    thread.join()
    (event,) = logged.events
    assert (event["event"], event["reason"]) == ("daemon.crashed", "ValueError in thread mover")
    assert "in die" in event["exception"]


def test_a_process_that_dies_of_an_exception_says_so_in_one_line() -> None:
    code = (
        "from incomingd import log\nfrom incomingd.config import Settings\n"
        "log.configure(Settings().log, instance='i')\nraise ValueError('oh')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    (event,) = [json.loads(line) for line in done.stderr.splitlines()]
    assert (done.returncode, event["event"], event["reason"]) == (1, "daemon.crashed", "ValueError")


def test_shutdown_puts_everything_back(configure: Configure) -> None:
    root, access = logging.getLogger(), logging.getLogger("tornado.access")
    before = (root.level, list(root.handlers), access.disabled, sys.excepthook, threading.excepthook)
    configure()
    assert access.disabled
    assert log.shutdown()
    assert before == (root.level, list(root.handlers), access.disabled, sys.excepthook, threading.excepthook)
    assert not structlog.is_configured()
    assert log.shutdown(), "once is enough"
    gc.collect()


# ----------------------------------------------------------------------------------------------- on a terminal


def test_a_terminal_gets_text_and_anything_else_json(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    cases = {
        ("auto", Terminal): (False, True),
        ("auto", io.StringIO): (True, False),
        ("json", Terminal): (True, False),
        ("console", io.StringIO): (False, False),
    }
    for (form, stream), (is_json, is_coloured) in cases.items():
        logged = configure(LogSettings(format=form), stream())
        log.get_logger().info(events.DAEMON_STOPPED, duration_s=1)
        assert logged.text.startswith("{") is is_json, (form, stream)
        assert ("\x1b[" in logged.text) is is_coloured, (form, stream)


@pytest.mark.parametrize("name,value", [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_colours_can_be_switched_off(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv(name, value)
    logged = configure(LogSettings(format="auto"), Terminal())
    log.get_logger().info(events.DAEMON_STOPPED, duration_s=1)
    assert "\x1b" not in logged.text


def test_how_a_line_looks_to_a_person(configure: Configure) -> None:
    logged = configure(LogSettings(format="console"))
    log.get_logger().warning(
        events.HANDOVER_ATTEMPTED,
        upload_id="u1",
        attempt=2,
        status=None,
        detail="it's away",
        host="",
        result="a=b",
    )
    time, rest = logged.text.split(" ", 1)
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3}", time)
    assert rest == (
        "warning handover.attempted       upload_id=u1 attempt=2 detail='it\\'s away' host='' result='a=b'\n"
    )


def test_a_traceback_on_a_terminal_is_marked_line_by_line(configure: Configure) -> None:
    logged = configure(LogSettings(format="console"))
    try:
        int("one\n12:00:00.000 info    forged.event\r\x1b[2K")
    except ValueError:
        log.get_logger().exception(events.REQUEST_FAILED, status=500)
    first, *others = logged.text.splitlines()
    assert "request.failed" in first
    assert len(others) > 3
    assert all(line.startswith("    │ ") for line in others)


NASTY = st.text(alphabet=st.sampled_from("a \n\r\t\x00\x1b\x7f\x85\u2028\u2029\u202e\u200b\ud800'\"=\\é")) | st.text()


@given(value=NASTY, name=NASTY, form=st.sampled_from(["json", "console"]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
def test_whatever_a_value_holds_one_event_is_one_line(configure: Configure, value: str, name: str, form: str) -> None:
    """No client can write an event into the log, or colours, or turn its text around."""
    logged = configure(LogSettings(format=form))
    log.get_logger().info(events.APPEND_ENDED, detail=value, address=value, length={name: [value]})
    (line,) = logged.text.splitlines()
    assert logged.text.endswith("\n")
    assert printable(line) == line
    assert line.encode("ascii" if form == "json" else "utf-8")
    log.shutdown()


def test_values_that_json_does_not_know(configure: Configure) -> None:
    class Odd:
        def __str__(self) -> str:
            raise OSError

    logged = configure()
    values = [
        float("inf"),
        float("nan"),
        2**70,
        {
            1,
        },
        (1,),
        b"\xff",
        Odd(),
        ValueError("x"),
        {"a": {None: 1}},
    ]
    log.get_logger().info(events.CONFIG_RELOADED, applied=values)
    assert logged.events[0]["applied"] == [
        "inf",
        "nan",
        str(2**70),
        [1],
        [1],
        "\\xff",
        "<unprintable Odd>",
        "x",
        {"a": {"None": 1}},
    ]


def test_what_is_too_long_or_too_deep_is_cut_and_says_so(configure: Configure) -> None:
    logged = configure()
    deep: object = 1
    for _ in range(50):
        deep = [{"in": deep}]
    log.get_logger().info(
        events.CONFIG_RELOADED,
        applied=["x" * 5000, deep, list(range(99)), dict.fromkeys(range(99))],
        config_file="x" * 10**6,
    )
    (event,) = logged.events
    text, deep_shown, many, mapping = event["applied"]
    assert text == "x" * 2048 + "… (5000 characters)"
    assert json.dumps(deep_shown).count("[") < 5
    assert many[-1] == "… 49 more"
    assert len(mapping) == 51
    assert len(logged.text) < 10_000


def test_a_socket_is_no_file_that_the_log_would_keep_open(configure: Configure) -> None:
    """A value is turned into text when it is logged, not when it is written: what it was then is what counts."""
    logged = configure()
    left, right = socket.socketpair()
    fields = {"applied": [left]}
    log.get_logger().info(events.CONFIG_RELOADED, **fields)
    left.close()
    right.close()
    fields["applied"].clear()
    assert "socket.socket fd=" in logged.events[0]["applied"][0]
