"""The backend and the admin API on real sockets, in a thread; every answer is held against its description."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import requests
from openapi_schema_validator import OAS31Validator
from tornado.web import Application

from incomingd import admin, backend_api
from incomingd.backend_api.description import CALLS, Call, description, statuses
from incomingd.backend_api.paths import PATHS
from incomingd.config import Address, ConfigError, Problem, TcpAddress, UnixAddress
from incomingd.config.changes import Changes
from incomingd.config.settings import Tls
from incomingd.core import ids
from incomingd.core.errors import PROBLEMS, Code
from incomingd.core.record import Record, Terms
from incomingd.core.status import Status
from incomingd.daemon import options
from incomingd.daemon.listeners import Listener, ListenerOptions
from incomingd.drain import Drain, DrainOptions
from incomingd.engine.census import Census
from incomingd.metrics import Metrics
from incomingd.web.handler import JSON_BYTES_MAX, UnknownPathHandler, log_nothing
from incomingd.web.proxies import TrustedPeers
from tests.frontends.service import Service, id_of
from tests.support.machine import free_port

BACKEND: Final = backend_api.PREFIX
ADMIN: Final = admin.PREFIX
FINISH_URL: Final = "http://127.0.0.1:9/finish"
SECRET: Final = "whsec_" + "c2VjcmV0LW9mLWEtd2ViLWFwcC1mb3ItdGVzdHM="
OTHER_SECRET: Final = "whsec_" + "YW5vdGhlci1zZWNyZXQtb2YtYS13ZWItYXBwLi4uLi4="

_PATTERNS: Final = {path: re.compile(re.escape(BACKEND + path).replace(r"\{id\}", "[^/]+")) for path in PATHS}


class ApiService(Service):
    """A `Service` with the listener of web apps and operators. `reload_problems`: what the next reload complains of."""

    def __init__(self, folder: Path, settings: dict[str, Any] | None = None, **more: Any) -> None:
        super().__init__(folder, settings, **more)
        self.api_address = ("127.0.0.1", free_port())
        self.reload_problems: list[Problem] = []
        self.reload_changes = Changes((), ())
        self.metrics: Metrics
        self.backend: backend_api.BackendApi
        self.admin: admin.AdminApi
        self.census: Census
        self._api_listeners: list[Listener]

    async def _open(self) -> None:
        await super()._open()
        self.metrics = Metrics(version="1.2.3", instance="test")
        self.backend = backend_api.BackendApi(self.engine, options.backend_options(self.settings), self.metrics)
        self.census = Census(self.engine)
        self.admin = admin.AdminApi(
            self.engine,
            admin.AdminOptions(tokens=self.backend.options.tokens),
            instance=admin.Instance(version="1.2.3", name="test", volume_path=self.folder),
            metrics=self.metrics,
            census=self.census,
            reload=self._reload,
            drain=Drain(self.engine, DrainOptions(), callbacks_open=lambda: 0),
            connections=lambda: {"backend": self.api_connections},
        )
        self._api_listeners = []
        await self._listen(TcpAddress(*self.api_address))
        await self.census.count()

    async def _listen(self, address: Address) -> None:
        trusted = TrustedPeers(self.settings.public.trusted_proxies, setting="public.trusted_proxies")
        application = Application(
            [*backend_api.routes(self.backend), *admin.routes(self.admin)],
            default_handler_class=UnknownPathHandler,
            trusted=trusted,
            close_after_answer=self.exchange_options.close_after_answer,
            log_function=log_nothing,
        )
        listener = Listener(
            "backend",
            address,
            application,
            tls=Tls(),
            options=ListenerOptions(
                header_bytes=self.settings.limits.header_bytes,
                idle_timeout_s=self.settings.limits.idle_connection_timeout_s,
                body_bytes=JSON_BYTES_MAX,
                connections_max=self.settings.limits.connections,
                trusts=trusted.trusts,
                clock=self.clock,
            ),
        )
        listener.bind()
        listener.start()
        self._api_listeners.append(listener)

    async def _close(self) -> None:
        for listener in self._api_listeners:
            listener.stop()
            await listener.close()
        await super()._close()

    def _reload(self) -> Changes:
        if self.reload_problems:
            raise ConfigError(self.reload_problems)
        return self.reload_changes

    async def _ticket(self, terms: dict[str, Any]) -> Record:
        expires_in_s = terms.pop("expires_in_s", None)
        fields = {"finish_url": FINISH_URL, "secret": "c2VjcmV0"} | terms
        record, _ = await self.engine.create(Terms(**fields), expires_in_s=expires_in_s)
        return record

    def listen_at(self, path: Path) -> None:
        """Answer web apps and operators at a Unix socket, too."""
        self.run(self._listen(UnixAddress(path)))

    @property
    def api_connections(self) -> int:
        """How many connections of web apps and operators are open."""
        return sum(listener.open_connections for listener in self._api_listeners)

    # -- calls

    @property
    def api_url(self) -> str:
        """``http://host:port`` of the listener of web apps and operators."""
        return f"http://{self.api_address[0]}:{self.api_address[1]}"

    def call(
        self,
        method: str,
        path: str,
        document: object = None,
        *,
        headers: Mapping[str, str | bytes] | None = None,
        data: bytes | None = None,
        params: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Call *path* below the backend API; the answer is as the description says, or the test fails."""
        answer = requests.request(
            method, self.api_url + BACKEND + path, json=document, data=data, headers=headers, params=params, timeout=30
        )
        check_described(answer)
        return answer

    def admin_call(
        self, method: str, path: str, document: object = None, *, headers: Mapping[str, str] | None = None
    ) -> requests.Response:
        """Call *path* below the admin API."""
        return requests.request(method, self.api_url + ADMIN + path, json=document, headers=headers, timeout=30)

    def created(self, **fields: object) -> dict[str, Any]:
        """Get a ticket; return the upload."""
        answer = self.call("POST", "/uploads", {"finish_url": FINISH_URL, **fields})
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    def listed(self, **params: str) -> list[dict[str, Any]]:
        """List uploads, all pages."""
        found: list[dict[str, Any]] = []
        page: str | None = ""
        while page is not None:
            answer = self.call("GET", "/uploads", params=params | ({"page": page} if page else {}))
            assert answer.status_code == 200, answer.text
            found += answer.json()["uploads"]
            page = answer.json()["next_page"]
        return found

    def upload_in(self, status: Status, content: bytes = b"0123456789", **terms: Any) -> str:
        """Bring an upload of *content* into this status; return its id."""
        return id_of(self.bring(status, content, **terms))


def crowd(api: ApiService, monkeypatch: pytest.MonkeyPatch, groups: int) -> None:
    """Have new uploads fall into so few groups of the volume; by chance each would have one of its own."""
    random_bits, spread = api.clock.random_bits, len(ids.ALPHABET) ** 2

    def in_few_groups(bits: int) -> int:
        drawn = random_bits(bits)
        return drawn - drawn % spread + drawn % groups

    monkeypatch.setattr(api.clock, "random_bits", in_few_groups)


def call_of(method: str, path: str) -> Call | None:
    """Return the described call that a request is, None where there is none."""
    found = [known for known, pattern in _PATTERNS.items() if pattern.fullmatch(path)]
    name = "get" if method == "HEAD" else method.lower()
    return next((call for call in CALLS if call.path in found and call.method == name), None)


def check_described(answer: requests.Response) -> None:
    """Fail unless the description has this answer of this call."""
    request = answer.request
    path = str(request.path_url).partition("?")[0]
    call = call_of(request.method or "", path)
    status = answer.status_code
    if call is None:
        assert status in (404, 405), f"{request.method} {path} is not described, and answered {status}"
        return
    content_type = answer.headers.get("Content-Type", "").partition(";")[0]
    declared = description()["paths"][BACKEND + call.path][call.method]["responses"].get(str(status))
    assert declared is not None, f"{call.name} does not describe status {status}: {answer.text}"
    assert content_type in declared["content"], f"{call.name} answers {content_type}"
    if request.method == "HEAD":
        assert not answer.content
        return
    if status >= 400:
        code = Code(answer.json()["code"])
        assert code in statuses(call)[status], f"{call.name} does not describe {code.value} with {status}"
        assert answer.json()["title"] == PROBLEMS[code].title
        assert answer.json()["request_id"] == answer.headers["X-Request-ID"]
    schema = declared["content"][content_type].get("schema")
    if schema is not None:
        check_schema(_shortened(answer.json()), schema)


def _shortened(value: Any) -> Any:
    """Return an answer with the first few of many uploads: they are all made in one way."""
    if isinstance(value, list):
        return value[:3]
    return value | {"uploads": value["uploads"][:3]} if "uploads" in value else value


def check_schema(value: object, schema: dict[str, Any]) -> None:
    """Fail unless *value* is as *schema*, a piece of the description, says."""
    validator = OAS31Validator({**schema, "components": description()["components"]})
    errors = [f"{'/'.join(map(str, error.absolute_path))}: {error.message}" for error in validator.iter_errors(value)]
    assert not errors, errors


def errors_of(answer: requests.Response) -> dict[str, str]:
    """Return the mistakes that an answer names: field -> what was expected."""
    assert answer.status_code == 400, answer.text
    assert answer.json()["code"] == "field_invalid", answer.text
    return {error["field"]: error["expected"] for error in answer.json()["errors"]}
