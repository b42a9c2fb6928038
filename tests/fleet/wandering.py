"""Uploads whose client goes to another instance with each request, so that they move all the time."""

from __future__ import annotations

import itertools
import random
import threading
from types import TracebackType
from typing import Self

from tests.support.app import App
from tests.support.backend import Backend
from tests.support.content import Content
from tests.support.fleet import Fleet, at, go_to
from tests.support.machine import wait_until
from tests.support.tus import TusUpload

PIECE_BYTES = 64 * 1024


class Wanderers:
    """Such uploads, in threads of their own, for as long as the block runs; then they are brought to their ends.

    Nobody is in their way, so every answer has to be the right one at once: the first other one is the failure.
    """

    def __init__(self, fleet: Fleet, app: App, count: int) -> None:
        self._fleet = fleet
        self._app = app
        self._over = threading.Event()
        self._failures: list[BaseException] = []
        self.moves = [0] * count
        """How often each has moved so far."""
        self.uploads = [self._begun(number) for number in range(count)]
        self._threads = [threading.Thread(target=self._run, args=(number,), daemon=True) for number in range(count)]

    def _begun(self, number: int) -> TusUpload:
        content = Content(random.randrange(1 << 30), 1 << 30)
        ticket = Backend(self._fleet[number % 3], self._app).ticket()
        upload = at(self._fleet, number % 3, ticket, content)
        upload.upload_id = ticket["id"]
        with upload.connect() as wire:
            headers = {"Tus-Resumable": "1.0.0", "Upload-Defer-Length": "1"}
            assert wire.request("POST", upload.path, headers).status == 201
        return upload

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        if kind is None:
            self.check()
            for upload in self.uploads:
                self._end(upload)

    def check(self) -> None:
        """Fail as soon as one of them has."""
        if self._failures:
            raise self._failures[0]

    def wait_moved(self, times: int) -> None:
        """Return when each has moved so often from now on."""
        since = list(self.moves)
        wait_until(lambda: self._all_moved(times, since), f"each has moved {times} times; all: {since}")

    def _all_moved(self, times: int, since: list[int]) -> bool:
        self.check()
        return all(now - before >= times for now, before in zip(self.moves, since, strict=True))

    def _run(self, number: int) -> None:
        upload = self.uploads[number]
        try:
            for index in itertools.count(number):
                if self._over.is_set():
                    return
                go_to(upload, self._fleet, index % len(self._fleet.instances))
                with upload.connect() as wire:
                    answer = upload.head(wire)
                    assert answer.status == 200, f"{answer.status} {answer.headers}"
                    offset = answer.offset
                    assert offset == upload.acknowledged
                    answer = upload.patch(wire, offset, upload.content.read(offset, PIECE_BYTES))
                    assert answer.status == 204, f"{answer.status} {answer.code} {answer.body!r}"
                self.moves[number] += 1
        except BaseException as error:  # noqa: BLE001 -- `check` raises it in the test's own thread
            self._failures.append(error)

    def _end(self, upload: TusUpload) -> None:
        """Tell the length, now that it is known, and see the file with the web app."""
        content = Content(upload.content.seed, upload.acknowledged)
        with upload.connect() as wire:
            headers = upload.patch_headers(upload.acknowledged) | {"Upload-Length": str(upload.acknowledged)}
            assert wire.request("PATCH", upload.path, headers, b"").status == 204
        self._app.check_arrived(upload.upload_id, content.sha256())
