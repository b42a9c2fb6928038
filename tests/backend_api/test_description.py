"""The published description: valid, current, and true of every call."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from openapi_spec_validator import validate

from incomingd.backend_api.__main__ import generated_files
from incomingd.backend_api.description import CALLS, Call, description, statuses
from incomingd.backend_api.paths import PATHS
from incomingd.core.errors import PROBLEMS, Code
from incomingd.core.status import Status
from incomingd.engine import listing
from incomingd.storage.volume import ClaimTakenError, RecordUnreadableError, VolumeFullError, VolumeUnavailableError
from tests.backend_api.conftest import MakeApi
from tests.backend_api.service import FINISH_URL, OTHER_SECRET, SECRET, ApiService, check_schema
from tests.support.machine import ROOT
from tests.wire.test_backend import FINE, TICKETS

C = Code


def test_the_description_is_valid_openapi() -> None:
    validate(description())


@pytest.mark.parametrize("name", generated_files())
def test_the_published_files_are_current(name: str) -> None:
    """Else run `python -m incomingd.backend_api --write`."""
    assert (ROOT / name).read_text("utf-8") == generated_files()[name]


def test_the_daemon_answers_it(api: ApiService) -> None:
    assert api.call("GET", "/openapi.json").json() == json.loads(json.dumps(description()))


def test_every_method_of_every_path_is_described() -> None:
    offered = {
        (path, method)
        for path, handler in PATHS.items()
        for method in ("get", "post", "put", "patch", "delete")
        if method in vars(handler)
    }
    assert offered == {(call.path, call.method) for call in CALLS}


def test_every_problem_is_listed() -> None:
    page = generated_files()["docs/problems.md"]
    for code, problem in PROBLEMS.items():
        assert f"| `{code.value}` | {problem.status}" in page


@pytest.mark.parametrize("field,value", FINE, ids=lambda value: repr(value)[:40])
def test_the_schema_takes_what_the_service_takes(field: str, value: object) -> None:
    check_schema({"finish_url": FINISH_URL, field: value}, {"$ref": "#/components/schemas/Ticket"})


@pytest.mark.parametrize("field,value", [case[:2] for case in TICKETS if case[0] == "length"], ids=repr)
def test_the_schema_knows_the_bounds_that_a_schema_can_tell(field: str, value: object) -> None:
    with pytest.raises(AssertionError):
        check_schema({"finish_url": FINISH_URL, field: value}, {"$ref": "#/components/schemas/Ticket"})


# -- every call with every code that it is said to refuse with

TOKEN = {"Authorization": "Bearer t"}
BODIES: dict[str, Any] = {
    "createUploads": {"finish_url": FINISH_URL},
    "changeUpload": {"app_data": {}},
    "cancelUpload": {},
    "finishUpload": {"outcome": "done"},
    "redeliverUpload": {},
}
NEEDS = {"finishUpload": Status.AWAITING_APP, "redeliverUpload": Status.COMPLETE, "getFile": Status.COMPLETE}
STATUS_FOR = {
    C.HANDING_OVER: Status.HANDING_OVER,
    C.TOO_LATE: Status.FINISHED,
    C.NOT_WAITING: Status.OPEN,
    C.NOTHING_TO_DELIVER: Status.OPEN,
    C.FILE_NOT_READY: Status.OPEN,
    C.FILE_GONE: Status.FINISHED,
}
CASES = [(call, code) for call in CALLS for codes in statuses(call).values() for code in codes]


class Provoked:
    """One call that is about to be refused."""

    def __init__(self, api: ApiService, call: Call, code: Code, monkeypatch: pytest.MonkeyPatch) -> None:
        self.api = api
        self.call = call
        self.monkeypatch = monkeypatch
        self.headers: dict[str, str] = dict(TOKEN)
        self.document = BODIES.get(call.name)
        self.data: bytes | None = None
        self.params: dict[str, str] = {}
        self.path = call.path
        if "{id}" in call.path:
            status = STATUS_FOR.get(code, NEEDS.get(call.name, Status.OPEN))
            upload_id = api.upload_in(status, secret=SECRET.removeprefix("whsec_"), secret_given=True)
            self.headers["X-Incoming-Secret"] = SECRET
            self.path = call.path.replace("{id}", upload_id)
            if call.name == "getFile":
                record = api.record(f"/incoming/1.0/frontend/uploads/{upload_id}")
                self.params = {"token": record.handover.download_token or ""}

    def made(self) -> Any:
        method = self.call.method.upper()
        document = None if self.data is not None else self.document
        return self.api.call(method, self.path, document, data=self.data, headers=self.headers, params=self.params)

    def fail(self, error: Exception, *names: str) -> None:
        """Have the volume fail."""

        async def failing(*args: object, **kwargs: object) -> None:
            raise error

        for name in names:
            self.monkeypatch.setattr(self.api.volume, name, failing)
        self.api.errors_expected.add("volume.failed")

    def unreadable(self) -> None:
        self.headers["Idempotency-Key"] = "k"
        self.document = {"finish_url": FINISH_URL, "secret": SECRET}
        assert self.made().status_code == 201
        self.fail(RecordUnreadableError("damaged on purpose"), "read")
        self.api.errors_expected.add("record.unreadable")

    def malformed(self) -> None:
        self.data, self.headers["Content-Type"] = b"{", "application/json"

    def text(self) -> None:
        self.data, self.headers["Content-Type"] = b"{}", "text/plain"

    def wrong_field(self) -> None:
        if self.call.body:
            self.document = {"wrong": 1}
        else:
            self.params = {"wrong": "1"}

    def wrong_header(self) -> None:
        if self.call.name == "getFile":
            self.headers["Range"] = "bytes=99-"
        else:
            self.headers["Idempotency-Key"] = "a" * 256

    def wrong_secret(self) -> None:
        if self.call.name == "createUploads":
            self.headers["Idempotency-Key"] = "k"
            self.document = {"finish_url": FINISH_URL, "secret": SECRET}
            assert self.made().status_code == 201
            self.document = {"finish_url": FINISH_URL, "secret": OTHER_SECRET}
        else:
            self.headers["X-Incoming-Secret"] = OTHER_SECRET

    def unknown(self) -> None:
        self.path = self.call.path.replace("{id}", "x")

    def no_token(self) -> None:
        del self.headers["Authorization"]

    def wrong_token(self) -> None:
        self.headers["Authorization"] = "Bearer wrong"
        self.params["token"] = "wrong"

    def full(self) -> None:
        self.fail(VolumeFullError("full"), "create", "write")

    def unavailable(self) -> None:
        # What was looked at lately is in memory, as it is while it is used.
        self.api.engine.keeper._live.clear()
        self.fail(VolumeUnavailableError("gone"), "create", "read", "groups", "open_file")

    def not_ready(self) -> None:
        """Have the upload be another run's, and that run be faster."""
        services = self.api.engine.services
        self.monkeypatch.setattr(services, "identity", replace(services.identity, start_id="new"))
        self.fail(ClaimTakenError("taken"), "claim")
        self.api.engine.keeper._live.clear()

    def bug(self) -> None:
        def broken(*args: object, **kwargs: object) -> None:
            raise RuntimeError("broken on purpose")

        self.monkeypatch.setattr(self.api.engine, "view", broken)
        self.monkeypatch.setattr(self.api.engine, "create", broken)
        self.monkeypatch.setattr(listing, "page", broken)
        self.monkeypatch.setattr("incomingd.backend_api.paths.description", broken)
        self.api.errors_expected.add("request.failed")


def nothing(provoked: Provoked) -> None:
    """The upload's status is enough."""


PROVOKE: dict[Code, Callable[[Provoked], None]] = {
    C.BODY_MALFORMED: Provoked.malformed,
    C.CONTENT_TYPE_WRONG: Provoked.text,
    C.FIELD_INVALID: Provoked.wrong_field,
    C.HEADER_MALFORMED: Provoked.wrong_header,
    C.TOKEN_MISSING: Provoked.no_token,
    C.TOKEN_WRONG: Provoked.wrong_token,
    C.SECRET_WRONG: Provoked.wrong_secret,
    C.UPLOAD_UNKNOWN: Provoked.unknown,
    C.TICKET_UNREADABLE: Provoked.unreadable,
    C.STORAGE_FULL: Provoked.full,
    C.STORAGE_UNAVAILABLE: Provoked.unavailable,
    C.NOT_READY: Provoked.not_ready,
    C.INTERNAL_ERROR: Provoked.bug,
    **dict.fromkeys(STATUS_FOR, nothing),
}


@pytest.mark.parametrize("call,code", CASES, ids=[f"{call.name}-{code.value}" for call, code in CASES])
def test_every_call_refuses_as_described(
    call: Call, code: Code, make_api: MakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each code that the description names for a call can be had, with the status that it names."""
    provoked = Provoked(make_api({"backend": {"tokens": ["t"]}}), call, code, monkeypatch)
    PROVOKE[code](provoked)
    answer = provoked.made()
    assert answer.json()["code"] == code.value, answer.text
    monkeypatch.undo()
