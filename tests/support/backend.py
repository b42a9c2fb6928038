"""The backend API as a web app calls it."""

from __future__ import annotations

from typing import Any
from urllib.parse import urljoin

import requests

from tests.support.app import App
from tests.support.daemon import Daemon
from tests.support.machine import wait_until


class Backend:
    """Calls of a web app to a daemon. What is not 2xx raises `requests.HTTPError`; ``.response`` is the answer."""

    def __init__(self, daemon: Daemon, app: App | None = None, *, token: str | None = None) -> None:
        self.daemon = daemon
        self.app = app
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}

    def call(
        self, method: str, path: str, document: object = None, *, headers: dict[str, str] | None = None, **options: Any
    ) -> requests.Response:
        """Call *path* (below ``/incoming/1.0/backend``) and return the answer, whatever it is."""
        return requests.request(
            method,
            f"{self.daemon.backend_url}/incoming/1.0/backend{path}",
            json=document,
            headers=self.headers | (headers or {}),
            timeout=60,
            **options,
        )

    def ticket_fields(self, **fields: object) -> dict[str, object]:
        """Return the fields of a ticket: the app's ``finish_url`` and secret, and *fields*."""
        ours: dict[str, object] = {}
        if self.app is not None:
            ours = {"finish_url": self.app.url, "secret": self.app.secret}
        return ours | fields

    def ticket(self, *, key: str | None = None, **fields: object) -> dict[str, Any]:
        """Get a ticket; return the upload. *key* is the ``Idempotency-Key``."""
        headers = {"Idempotency-Key": key} if key is not None else {}
        answer = self.call("POST", "/uploads", self.ticket_fields(**fields), headers=headers)
        answer.raise_for_status()
        assert answer.status_code == 201
        return self._whole(answer.json())

    def tickets(self, count: int, **fields: object) -> list[dict[str, Any]]:
        """Get *count* tickets (up to 1,000) in one call."""
        answer = self.call("POST", "/uploads", [self.ticket_fields(**fields) for _ in range(count)])
        answer.raise_for_status()
        return [self._whole(upload) for upload in answer.json()]

    def get(self, upload_id: str) -> dict[str, Any]:
        """Look at an upload."""
        return self._json("GET", f"/uploads/{upload_id}")

    def list(self, **query: object) -> dict[str, Any]:
        """List uploads."""
        answer = self.call("GET", "/uploads", params=query)
        answer.raise_for_status()
        return dict(answer.json())

    def change(self, upload_id: str, **fields: object) -> dict[str, Any]:
        """Change a ticket."""
        return self._json("PATCH", f"/uploads/{upload_id}", fields)

    def cancel(self, upload_id: str, reason: str = "test") -> dict[str, Any]:
        """Cancel an upload."""
        return self._json("POST", f"/uploads/{upload_id}/cancel", {"reason": reason})

    def finish(self, upload_id: str, outcome: str = "done", **fields: object) -> dict[str, Any]:
        """Confirm the hand-over after a ``wait``."""
        return self._json("POST", f"/uploads/{upload_id}/finish", {"outcome": outcome} | fields)

    def redeliver(self, upload_id: str) -> dict[str, Any]:
        """Ask for the callback again."""
        return self._json("POST", f"/uploads/{upload_id}/redeliver", {})

    def wait_status(self, upload_id: str, *statuses: str, timeout_s: float = 30) -> dict[str, Any]:
        """Wait until the upload's status is one of *statuses*; return the upload."""

        def look() -> dict[str, Any] | None:
            upload = self.get(upload_id)
            return upload if upload["status"] in statuses else None

        return wait_until(look, f"upload {upload_id} {' or '.join(statuses)}", timeout_s=timeout_s, interval_s=0.05)

    def _json(self, method: str, path: str, document: object = None) -> dict[str, Any]:
        # Calls on one upload need its secret where the ticket was given one.
        headers = {"X-Incoming-Secret": self.app.secret} if self.app is not None else {}
        answer = self.call(method, path, document, headers=headers)
        answer.raise_for_status()
        return dict(answer.json()) if answer.content else {}

    def _whole(self, upload: dict[str, Any]) -> dict[str, Any]:
        # Without a configured base URL the daemon tells a path; a page resolves it, and so do we.
        return upload | {"upload_url": urljoin(self.daemon.public_url, upload["upload_url"])}
