"""`incomingctl`, as a program, against a service on a real socket."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from incomingd import __version__
from incomingd.cli.main import main
from incomingd.config import Problem
from incomingd.config.changes import Change, Changes
from incomingd.core.ring import Instance
from incomingd.core.status import Status
from incomingd.core.tenure import Identity
from incomingd.engine import ending
from incomingd.engine.events import Told
from incomingd.frontends.uploads import PREFIX
from incomingd.registry.memory import MemoryRegistry
from tests.backend_api.conftest import MakeApi
from tests.backend_api.service import ApiService
from tests.support.app import Answer, App
from tests.support.machine import BIN, ROOT, free_port

COMMAND = [sys.executable, "-m", "incomingd.cli.main"]
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("INCOMINGCTL_")}


class Result:
    """What a command wrote, and how it ended."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status = status
        self.out = out
        self.err = err

    def json(self) -> Any:
        assert self.status == 0, self.err
        assert self.err == ""
        return json.loads(self.out)


def ctl(api: ApiService | None, *arguments: str, **environment: str) -> Result:
    """Run `incomingctl` in this process, which spares its start; its output goes to no terminal."""
    unset = dict.fromkeys(name for name in os.environ if name.startswith("INCOMINGCTL_"))
    address = {"INCOMINGCTL_ADDRESS": "{}:{}".format(*api.api_address)} if api is not None else {}
    done = CliRunner().invoke(main, arguments, env=unset | address | environment, catch_exceptions=False)
    return Result(done.exit_code, done.stdout, done.stderr)


def on_terminal(api: ApiService, *arguments: str) -> str:
    """Run `incomingctl` on a terminal of 160 columns; return what stands there, without colours."""
    ours, theirs = pty.openpty()
    environment = {"INCOMINGCTL_ADDRESS": "{}:{}".format(*api.api_address), "COLUMNS": "160", "TERM": "xterm"}
    with subprocess.Popen(
        [*COMMAND, *arguments], cwd=ROOT, env=ENVIRONMENT | environment, stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        written = b""
        while select.select([ours], [], [], 60)[0]:
            try:
                piece = os.read(ours, 65536)
            except OSError:
                break
            if not piece:
                break
            written += piece
    os.close(ours)
    assert process.returncode == 0, written
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written.decode())


def give_up(api: ApiService, upload_id: str) -> str:
    api.do(f"{PREFIX}/{upload_id}", lambda u: ending.handover_failed(u, error="down", next_attempt_at=None))
    return upload_id


# -- what each command does


def test_status(api: ApiService) -> None:
    api.upload_in(Status.FINISHED)
    give_up(api, api.upload_in(Status.HANDING_OVER))
    found = ctl(api, "status").json()
    assert (found["state"], found["uploads"]["finished"]) == ("ready", 1)
    shown = on_terminal(api, "status")
    assert re.search(r"state +ready", shown)
    assert re.search(r"finished +1", shown)
    assert re.search(r"stuck +1", shown)
    assert str(api.folder) in shown.replace("\r\n", "")


def test_uploads(api: ApiService) -> None:
    ids = [api.created(labels=["x"])["id"] for _ in range(3)]
    complete = api.upload_in(Status.COMPLETE)
    stuck = give_up(api, api.upload_in(Status.HANDING_OVER))

    def listed(*arguments: str) -> list[str]:
        return sorted(upload["id"] for upload in ctl(api, "uploads", *arguments).json())

    assert listed() == sorted([*ids, complete, stuck])
    assert listed("--label", "x") == sorted(ids)
    assert listed("--status", "complete", "--status", "finished") == sorted([complete, stuck])
    assert listed("--stuck") == [stuck]
    assert len(listed("--limit", "2")) == 2
    assert listed("--status", "lost") == []
    shown = on_terminal(api, "uploads", "--status", "complete")
    assert all(upload_id in shown for upload_id in (complete, stuck))
    assert "given up" in shown
    assert json.loads(on_terminal(api, "uploads", "--json", "--stuck"))[0]["id"] == stuck


def test_more_uploads_than_a_page_has(api: ApiService) -> None:
    tickets = [{"finish_url": "http://127.0.0.1:9/"}] * 120
    ids = {upload["id"] for upload in api.call("POST", "/uploads", tickets).json()}
    assert {upload["id"] for upload in ctl(api, "uploads").json()} == ids


class OneIsSilent(MemoryRegistry):
    """Knows of an instance that has uploads of its own and does not answer."""

    @property
    def instances(self) -> tuple[Instance, ...]:
        return (*super().instances, Instance(Identity("silent", "1f"), volumes=frozenset({"Volume000002"})))


def test_a_list_of_which_a_part_is_missing_says_so(api: ApiService) -> None:
    api.engine.services.registry = OneIsSilent(api.engine.services.identity)
    upload_id = api.created()["id"]
    missing = "Uploads may be missing here: an instance did not answer, or it is not sure which instances there are."
    found = ctl(api, "uploads")
    # What programs read keeps its shape.
    assert ([each["id"] for each in json.loads(found.out)], found.err) == ([upload_id], f"incomingctl: {missing}\n")
    shown = on_terminal(api, "uploads").splitlines()
    assert (shown[-1], upload_id in shown[-2]) == (missing, True)
    # Not all that are stuck can have been delivered again.
    refused = ctl(api, "redeliver", "--stuck")
    assert (refused.status, json.loads(refused.out), refused.err) == (1, [], f"incomingctl: {missing}\n")
    events = [entry["event"] for entry in api.log_events()]
    assert "listing.partial_answered" in events


def test_upload(api: ApiService) -> None:
    upload_id = give_up(api, api.upload_in(Status.HANDING_OVER, app_data={"user": 7}))
    found = ctl(api, "upload", upload_id).json()
    assert found["callbacks"][0]["given_up"]
    shown = on_terminal(api, "upload", upload_id)
    for text in (upload_id, "upload.complete", "given up", "down", '{"user": 7}', "10 B of 10 B"):
        assert text in shown, text


def test_cancel(api: ApiService) -> None:
    upload_id = api.created()["id"]
    found = ctl(api, "cancel", upload_id, "--reason", "spam").json()
    assert (found["status"], found["error"]["message"]) == ("cancelled", "spam")
    assert "cancelled" in on_terminal(api, "cancel", upload_id)


def test_redeliver(api: ApiService) -> None:
    stuck = {give_up(api, api.upload_in(Status.HANDING_OVER)) for _ in range(3)}
    other = api.upload_in(Status.COMPLETE)
    due: list[str] = []
    api.engine.services.events.subscribe(Told.DUE, lambda record: due.append(record.upload_id))
    assert {upload["id"] for upload in ctl(api, "redeliver", "--stuck", "--dry-run").json()} == stuck
    assert "3 would be redelivered" in on_terminal(api, "redeliver", "--stuck", "--dry-run")
    assert due == []
    assert {upload["id"] for upload in ctl(api, "redeliver", "--stuck").json()} == stuck
    assert sorted(due) == sorted(stuck)
    assert ctl(api, "redeliver", other, other).json()[0]["id"] == other
    assert due[-1] == other
    assert ctl(api, "redeliver", "--stuck").json() == []


def test_redeliver_goes_on_where_one_is_refused(api: ApiService) -> None:
    opened, complete = api.created()["id"], api.upload_in(Status.COMPLETE)
    done = ctl(api, "redeliver", opened, complete)
    assert done.status == 1
    assert [upload["id"] for upload in json.loads(done.out)] == [complete]
    assert done.err == f"incomingctl: {opened}: The upload is open. (nothing_to_deliver)\n"


def test_reload(api: ApiService) -> None:
    assert "Nothing has changed" in on_terminal(api, "reload")
    api.reload_changes = Changes((Change("hold_s", "10", "5"),), (Change("data_dir", "a", "b"),))
    assert ctl(api, "reload").json()["applied"][0]["key"] == "hold_s"
    shown = on_terminal(api, "reload")
    assert re.search(r"in force now.*hold_s.*needs a restart.*data_dir", shown, re.DOTALL)


def test_a_reload_that_fails(api: ApiService) -> None:
    """API.md's promise to scripts: nothing has changed, 1, and the text."""
    api.reload_problems = [Problem("unknown_key", "conf.yaml:3", "hold", "there is no key `hold`", nearest="hold_s")]
    done = ctl(api, "reload")
    assert (done.status, done.out) == (1, "")
    assert "conf.yaml:3: there is no key `hold`" in done.err
    assert "did you mean: hold_s" in done.err
    assert "(field_invalid)" in done.err


# -- the test callback


def test_a_test_callback_is_signed_and_harmless(app: App) -> None:
    done = ctl(None, "callback", "test", app.url, "--secret", app.secret)
    found = done.json()
    (delivery,) = app.deliveries
    assert delivery.verified
    assert (delivery.type, delivery.id) == ("upload.test", found["webhook_id"])
    assert (delivery.data["path"], delivery.data["download_url"]) == (None, None)
    assert (found["status"], found["body"], found["as_answer_to_complete"]) == (200, "done", "done")
    assert app.secret not in done.out


def test_a_test_callback_without_a_secret_makes_one(app: App) -> None:
    first, again = (ctl(None, "callback", "test", app.url).json() for _ in range(2))
    assert first["signed_with"].startswith("whsec_")
    assert first["signed_with"] != again["signed_with"]
    done = ctl(None, "callback", "test", app.url, INCOMINGCTL_SECRET=app.secret)
    assert "signed_with" not in done.json()
    assert [delivery.verified for delivery in app.deliveries] == [False, False, True]


def test_a_test_callback_that_the_app_refuses(app: App) -> None:
    app.answer = lambda _: Answer(b"what is this?", status=400)
    done = ctl(None, "callback", "test", app.url)
    assert done.status == 1
    assert json.loads(done.out)["status"] == 400
    assert json.loads(done.out)["as_answer_to_complete"] == "error: the web app answered 400"


def test_a_test_callback_that_nobody_answers() -> None:
    done = ctl(None, "callback", "test", f"http://127.0.0.1:{free_port()}/")
    assert (done.status, done.out) == (1, "")
    assert "does not answer: Connection refused" in done.err


@pytest.mark.parametrize("arguments", [["nonsense"], ["http://127.0.0.1:9/", "--secret", "short"]])
def test_a_test_callback_that_no_ticket_could_ask_for(arguments: list[str]) -> None:
    done = ctl(None, "callback", "test", *arguments)
    assert done.status == 2
    assert "expected" in done.err


# -- exit status and words


@pytest.mark.parametrize(
    "arguments", [["upload", "x"], ["cancel", "../../health"], ["redeliver", "x"], ["upload", "\x1b[2J"]]
)
def test_a_refusal_ends_with_1_and_its_code(arguments: list[str], api: ApiService) -> None:
    done = ctl(api, *arguments)
    assert (done.status, done.err.count("(upload_unknown)")) == (1, 1)
    assert "\x1b" not in done.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["status", "--nonsense"],
        ["upload"],
        ["uploads", "--status", "nonsense"],
        ["uploads", "--limit", "0"],
        ["redeliver"],
        ["redeliver", "x", "--stuck"],
        ["status", "--address", "nonsense"],
        ["status", "--address", "http://127.0.0.1:4001/path"],
        ["status", "--token-file", "nowhere"],
    ],
)
def test_a_wrong_command_line_ends_with_2(arguments: list[str]) -> None:
    done = ctl(None, *arguments)
    assert (done.status, done.out) == (2, "")
    assert "Error: " in done.err


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "http://127.0.0.1:{}", "https://127.0.0.1:{}", "unix:{}.sock"])
def test_no_daemon_ends_with_3(form: str) -> None:
    done = ctl(None, "--address", form.format(free_port()), "status")
    assert (done.status, done.out) == (3, "")
    assert done.err.startswith("incomingctl: no incomingd answers at ")
    assert done.err.count("\n") == 1


def test_something_else_answers(app: App) -> None:
    """A web app's port by mistake: told so, not guessed at."""
    done = ctl(None, "--address", app.url.partition("://")[2].partition("/")[0], "status")
    assert done.status == 3
    assert "no incomingd" in done.err


def test_nothing_is_done_where_output_goes_nowhere(api: ApiService) -> None:
    """`incomingctl uploads | head -1` ends quietly."""
    api.call("POST", "/uploads", [{"finish_url": "http://127.0.0.1:9/"}] * 300)
    read, write = os.pipe()
    process = subprocess.Popen(
        [*COMMAND, "--address", "{}:{}".format(*api.api_address), "uploads"],
        cwd=ROOT, env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=write, stderr=subprocess.PIPE,
    )  # fmt: skip
    os.close(write)
    os.read(read, 10)
    os.close(read)
    _, complaints = process.communicate(timeout=60)
    assert complaints == b""


# -- where the daemon is, and who asks


def test_the_command_is_installed() -> None:
    command = [str(BIN / "incomingctl"), "--address", f"127.0.0.1:{free_port()}"]
    done = subprocess.run([*command, "--version"], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"incomingctl {__version__}\n", "")
    done = subprocess.run([*command, "status"], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (3, "")


def test_options_stand_before_the_command_or_behind_it(api: ApiService) -> None:
    address = "{}:{}".format(*api.api_address)
    for arguments in (["--address", address, "--json", "status"], ["status", "--json", "--address", address]):
        assert ctl(None, *arguments).json()["state"] == "ready"
    wrong = f"127.0.0.1:{free_port()}"
    assert ctl(None, "status", "--address", address, INCOMINGCTL_ADDRESS=wrong).json()["state"] == "ready"
    assert ctl(None, "--address", f"http://{address}", "status").json()["state"] == "ready"


def test_tokens(make_api: MakeApi, tmp_path: Path) -> None:
    api = make_api({"backend": {"tokens": ["right-token"]}})
    (tmp_path / "token").write_text("right-token\n")
    (tmp_path / "empty").write_text("\n")
    done = ctl(api, "status")
    assert (done.status, "(token_missing)" in done.err) == (1, True)
    done = ctl(api, "status", "--token", "wrong-token")
    assert (done.status, "(token_wrong)" in done.err, "wrong-token" in done.err) == (1, True, False)
    assert ctl(api, "status", "--token", "right-token").json()
    assert ctl(api, "--token-file", str(tmp_path / "token"), "status").json()
    assert ctl(api, "status", INCOMINGCTL_TOKEN="right-token").json()
    assert ctl(api, "status", INCOMINGCTL_TOKEN_FILE=str(tmp_path / "token")).json()
    assert ctl(api, "status", "--token-file", str(tmp_path / "empty")).status == 2


def test_a_unix_socket(api: ApiService, tmp_path: Path) -> None:
    path = tmp_path / "s"
    api.listen_at(path)
    assert ctl(None, "status", "--address", f"unix:{path}").json()["state"] == "ready"


def test_what_clients_say_cannot_command_a_terminal(api: ApiService) -> None:
    """Colours, cursor jumps and right-to-left overrides in what a web app or a client chose are shown as nothing."""
    upload_id = give_up(api, api.upload_in(Status.HANDING_OVER, app_data={"a": "\x9b2J\u202e"}))
    api.do(f"{PREFIX}/{upload_id}", _poison)
    for arguments in (["uploads"], ["upload", upload_id], ["upload", upload_id, "--json"]):
        shown = on_terminal(api, *arguments)
        assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202e]", shown), repr(shown)


async def _poison(upload: Any) -> None:
    """Have an error text in the record that no cleaning has seen."""
    async with upload.guard:
        handover = upload.record.handover
        delivery = replace(handover.delivery, last_error="\x1b]0;x\x07\x9b2Jbad\u202e")
        await upload.write(replace(upload.record, handover=replace(handover, delivery=delivery)), sync=False)
