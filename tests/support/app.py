"""A web app that receives hand-overs: a real HTTP server in a thread, with answers that a test sets."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import requests
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

from tests.support.content import sha256_of
from tests.support.machine import free_port


@dataclass(frozen=True)
class Answer:
    """What the app answers to a callback. With *hang* it answers nothing until the app is closed."""

    body: bytes = b"done"
    status: int = 200
    content_type: str = "text/plain"
    hang: bool = False


DONE = Answer()
WAIT = Answer(b"wait")
ERROR = Answer(b"out of order", status=500)
GONE = Answer(b"", status=410)
HANG = Answer(hang=True)


def as_json(result: str, **fields: object) -> Answer:
    """Return the JSON form of an answer: *result* is ``done``, ``wait`` or ``refuse``."""
    return Answer(json.dumps({"result": result} | fields).encode(), content_type="application/json")


@dataclass(frozen=True)
class Delivery:
    """One callback as it came in."""

    id: str
    """``webhook-id``: the same for all attempts."""
    type: str
    data: dict[str, Any]
    headers: dict[str, str]
    """Names in lower case."""
    verified: bool
    """Whether the signature is right."""
    sha256_by_path: str | None = None
    """Of the file at ``path``, None if it could not be read."""
    sha256_by_url: str | None = None
    """Of what ``download_url`` answered, None if it was not 200."""
    body: bytes = field(default=b"", repr=False)

    @property
    def upload_id(self) -> str:
        """The upload's id."""
        return str(self.data["id"])


class App:
    """The web app. `deliveries` are all callbacks so far, in order of their arrival."""

    def __init__(self, *, read_files: bool = True) -> None:
        self.secret = "whsec_" + "aW5jb21pbmctdGVzdHMtaW5jb21pbmctdGVzdHM="
        self.deliveries: list[Delivery] = []
        self.answer: Callable[[Delivery], Answer] = lambda _: DONE
        self.read_files = read_files
        self._scripts: dict[str, deque[Answer]] = defaultdict(deque)
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._address = ("127.0.0.1", free_port())
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Where callbacks go: the ``finish_url`` of tickets."""
        return f"http://{self._address[0]}:{self._address[1]}/handover"

    def up(self) -> App:
        """Listen (again)."""
        assert self._server is None
        self._closing.clear()
        handler = type("Handler", (_Handler,), {"app": self})
        self._server = _Server(self._address, handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, name="app", daemon=True
        )
        self._thread.start()
        return self

    def down(self) -> None:
        """Stop listening: connections are refused until `up` is called."""
        if self._server is None:
            return
        assert self._thread is not None
        self._closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._server = None

    def script(self, upload_id: str, *answers: Answer) -> None:
        """Answer the next callbacks about this upload so, one after the other; then as `answer` says."""
        with self._changed:
            self._scripts[upload_id].extend(answers)

    def of(self, upload_id: str, kind: str | None = None) -> list[Delivery]:
        """Return the callbacks about this upload so far (those of type *kind*)."""
        with self._changed:
            return [
                delivery
                for delivery in self.deliveries
                if delivery.upload_id == upload_id and kind in (None, delivery.type)
            ]

    def wait_for(
        self, upload_id: str, kind: str = "upload.complete", *, count: int = 1, timeout_s: float = 30
    ) -> list[Delivery]:
        """Wait until *count* callbacks of type *kind* about this upload have come; return all of them."""
        with self._changed:
            came = self._changed.wait_for(lambda: len(self.of(upload_id, kind)) >= count, timeout_s)
            found = self.of(upload_id, kind)
        assert came, f"{len(found)} of {count} callbacks {kind} for {upload_id} within {timeout_s} s"
        return found

    def check_arrived(self, upload_id: str, sha256: str, *, timeout_s: float = 30) -> Delivery:
        """Wait for the file, and fail unless it is *sha256*, well signed, and known by one callback id only.

        Where the daemon may have been killed while the app was reading, wait for the upload to be finished first: only
        of the last callback it is sure that the daemon lived through it.
        """
        deliveries = self.wait_for(upload_id, timeout_s=timeout_s)
        for delivery in deliveries:
            assert delivery.verified, f"bad signature: {delivery}"
            for seen in (delivery.sha256_by_path, delivery.sha256_by_url):
                assert seen in (None, sha256), f"another file arrived: {delivery}"
        last = deliveries[-1]
        if self.read_files:
            assert last.sha256_by_path == sha256, f"the file could not be read by its path: {last}"
            assert last.sha256_by_url == sha256, f"the file could not be read by its URL: {last}"
        assert len({delivery.id for delivery in deliveries}) == 1, f"several callback ids: {deliveries}"
        return last

    # -- called by the server's threads

    def receive(self, headers: dict[str, str], body: bytes) -> Answer:
        """Record a callback and return the answer to it."""
        try:
            Webhook(self.secret).verify(body, headers)
            verified = True
        except WebhookVerificationError:
            verified = False
        document = json.loads(body)
        data = document["data"]
        complete = document["type"] == "upload.complete" and self.read_files
        delivery = Delivery(
            id=headers["webhook-id"],
            type=document["type"],
            data=data,
            headers=headers,
            verified=verified,
            sha256_by_path=self._hash_path(data) if complete else None,
            sha256_by_url=self._hash_url(data) if complete else None,
            body=body,
        )
        with self._changed:
            script = self._scripts[delivery.upload_id]
            answer = script.popleft() if script else self.answer(delivery)
            self.deliveries.append(delivery)
            self._changed.notify_all()
        if answer.hang:
            self._closing.wait()
        return answer

    @staticmethod
    def _hash_path(data: dict[str, Any]) -> str | None:
        path = data.get("path")
        try:
            return sha256_of(Path(path)) if path else None
        except OSError:
            return None

    @staticmethod
    def _hash_url(data: dict[str, Any]) -> str | None:
        url = data.get("download_url")
        if not url:
            return None
        try:
            with requests.get(url, stream=True, timeout=60) as answer:
                if answer.status_code != 200:
                    return None
                digest = hashlib.sha256()
                for piece in answer.iter_content(1 << 20):
                    digest.update(piece)
                return digest.hexdigest()
        except requests.RequestException:
            return None


@contextlib.contextmanager
def running_app(*, read_files: bool = True) -> Iterator[App]:
    """Run an `App` for the length of the block."""
    app = App(read_files=read_files).up()
    try:
        yield app
    finally:
        app.down()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # Hundreds of files may arrive in one second.
    request_queue_size = 1024

    def handle_error(self, request: object, client_address: object) -> None:
        """A daemon that is killed in mid-callback cuts its connection: that is no fault of the app's."""


class _Handler(BaseHTTPRequestHandler):
    app: App
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        body = self.rfile.read(length)
        if len(body) < length:
            self.close_connection = True
            return
        answer = self.app.receive({name.lower(): value for name, value in self.headers.items()}, body)
        if answer.hang:
            self.close_connection = True
            return
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, *_: object) -> None:
        """The suite is silent."""
