"""Photodrop: a small web app that takes files of any size, by way of Incoming!!.

The browser never sends a file to this app. It asks us for a ticket (`/tickets`), and we ask incomingd for one; it
uploads to incomingd, with `incoming.js`; incomingd hands the complete file over to us (`/handover`).
"""

import argparse
import asyncio
import base64
import contextlib
import hashlib
import json
import os
import re
import secrets
from collections import defaultdict
from pathlib import Path
from typing import Any
from urllib.request import urlretrieve

from standardwebhooks.webhooks import Webhook, WebhookVerificationError
from tornado import escape, httpclient, iostream, web


class Store:
    """The files that have been handed over to us, and a list of them that survives a restart."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.index = folder, folder / ".received.jsonl"
        self.index.touch()
        entries = [json.loads(line) for line in self.index.read_text().splitlines()]
        self.received: dict[str, dict[str, Any]] = {entry["id"]: entry for entry in entries}
        self.changed = asyncio.Event()
        self.locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def secret(self) -> str:
        """Return our secret for signatures: made once, kept over restarts, readable by nobody else."""
        path = self.folder / ".secret"
        path.touch(mode=0o600)
        if not path.read_text():
            path.write_text("whsec_" + base64.b64encode(secrets.token_bytes(32)).decode())
        return path.read_text()

    async def take(self, webhook_id: str, data: dict[str, Any]) -> dict[str, Any]:
        """Move the file that incomingd tells of into our folder. Told of it again, give the same answer again."""
        async with self.locks[webhook_id]:  # a repeat may come while we are still busy with the first
            if webhook_id in self.received:
                return self.received[webhook_id]
            name = re.split(r"[/\\]", data["filename"] or "")[-1]  # a client says what it likes
            name = re.sub(r'[\x00-\x1f\x7f<>:"|?*]', "_", name).strip(". ")[-120:] or "unnamed"
            tag = hashlib.sha256(webhook_id.encode()).hexdigest()[:8]  # two files may have the same name
            target = self.folder / f"{Path(name).stem}-{tag}{Path(name).suffix}"
            if not target.exists():  # it does if we were stopped on the way to the end of this function
                try:
                    os.rename(data["path"] or "", target)
                except OSError:  # we do not share a disk with incomingd
                    part = self.folder / f".{tag}.part"
                    await asyncio.to_thread(urlretrieve, data["download_url"], part)
                    part.rename(target)
            with target.open("rb") as file:
                digest = await asyncio.to_thread(hashlib.file_digest, file, "sha256")
            entry = {"id": webhook_id, "visitor": data["app_data"]["visitor"], "name": name, "file": target.name}
            entry |= {"size": target.stat().st_size, "sha256": digest.hexdigest(), "at": target.stat().st_ctime}
            with self.index.open("a") as index:
                index.write(json.dumps(entry) + "\n")
            self.received[webhook_id] = entry
            self.changed.set()
            self.changed = asyncio.Event()
            return entry


class Handler(web.RequestHandler):
    """What all of them need: our things, and who is asking."""

    def initialize(self) -> None:
        """Look them up."""
        self.store, self.given = self.settings["store"], self.settings["given"]

    def visitor(self) -> str:
        """Sign a visitor in. A real app has users; here it is whoever comes back with the same cookie."""
        visitor = self.get_cookie("visitor") or ""
        if not re.fullmatch(r"[\w-]{22}", visitor):
            visitor = secrets.token_urlsafe(16)
            self.set_cookie("visitor", visitor, expires_days=365, httponly=True, samesite="Lax")
        return visitor


class PageHandler(Handler):
    """The page. It may talk to us and to incomingd, and to nobody else."""

    def get(self) -> None:
        """Show it."""
        self.visitor()
        server = self.given.public_incomingd or f"{self.request.protocol}://{self.request.host_name}:4000"
        policy = f"default-src 'none'; style-src 'self'; img-src 'self' data:; script-src 'self' {server}; "
        policy += f"connect-src 'self' {server}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        self.set_header("Content-Security-Policy", policy)
        self.write(self.render_string("index.html", incomingd=server))


class TicketsHandler(Handler):
    """Permission to upload one file."""

    async def post(self) -> None:
        """Get a ticket from incomingd: for the same file of the same visitor the same one, while it is open."""
        visitor = self.visitor()
        try:
            wanted = json.loads(self.request.body)
            name, size, modified = str(wanted["name"]), int(wanted["size"]), int(wanted["last_modified"])
        except (ValueError, KeyError, TypeError) as error:
            raise web.HTTPError(400) from error
        ticket = {"filename": name, "length": size, "app_data": {"visitor": visitor}, "secret": self.given.secret}
        key = hashlib.sha256(json.dumps([visitor, name, size, modified]).encode()).hexdigest()
        answer = await httpclient.AsyncHTTPClient().fetch(
            f"{self.given.incomingd_backend}/incoming/1.0/backend/uploads",
            method="POST",
            headers={"Idempotency-Key": key, "Content-Type": "application/json"}
            | ({"Authorization": f"Bearer {self.given.token}"} if self.given.token else {}),
            body=json.dumps(ticket | {"finish_url": f"http://{self.given.listen}/handover"}),
            raise_error=False,
        )
        self.set_status(answer.code if answer.code < 500 else 503)  # 599: it is not there
        told = json.loads(answer.body or "{}")
        self.write({key: told.get(key) for key in ("upload_url", "detail")})


class HandoverHandler(Handler):
    """Where incomingd calls us when a file is complete: at least once, with one id for all repeats."""

    async def post(self) -> None:
        """Take the file, or say why not. If anything goes wrong here (500), incomingd tries again later."""
        try:
            event = Webhook(self.given.secret).verify(self.request.body, dict(self.request.headers))
        except (WebhookVerificationError, ValueError) as error:
            raise web.HTTPError(403) from error
        if event["type"] != "upload.complete":
            self.set_status(204)
        elif (event["data"]["filename"] or "").lower().endswith(".exe"):
            self.write({"result": "refuse", "message": "Programs are not taken here."})
        else:
            entry = await self.store.take(self.request.headers["webhook-id"], event["data"])
            self.write({"result": "done", "client_data": {"url": f"/files/{entry['id']}"}})


class EventsHandler(Handler):
    """Tells the page of every file that arrives (server-sent events)."""

    async def get(self) -> None:
        """Send the visitor's list, and again whenever it changes, until the page goes away."""
        visitor = self.visitor()
        self.set_header("Content-Type", "text/event-stream")
        with contextlib.suppress(iostream.StreamClosedError, asyncio.CancelledError):
            while True:
                changed = self.store.changed
                files = [entry for entry in self.store.received.values() if entry["visitor"] == visitor]
                self.write(f"data: {json.dumps(files)}\n\n")
                await self.flush()
                with contextlib.suppress(TimeoutError):  # say something now and then: silent connections get cut
                    await asyncio.wait_for(changed.wait(), 15)


class FileHandler(web.StaticFileHandler):
    """A file, for the visitor from whom it came, and never as something that the browser would run."""

    async def get(self, path: str, include_body: bool = True) -> None:  # noqa: FBT001, FBT002 -- as Tornado has it
        """Send it, or parts of it."""
        entry = self.settings["store"].received.get(path)
        if entry is None or entry["visitor"] != self.get_cookie("visitor"):
            raise web.HTTPError(404)
        name = escape.url_escape(entry["name"], plus=False)
        self.set_header("Content-Disposition", f"attachment; filename*=UTF-8''{name}")
        self.set_header("X-Content-Type-Options", "nosniff")
        await super().get(entry["file"], include_body)


async def main() -> None:
    """Serve until stopped."""
    parser = argparse.ArgumentParser(description="A small web app that takes files of any size through incomingd.")
    parser.add_argument("--listen", default="127.0.0.1:4080", metavar="HOST:PORT")
    parser.add_argument("--incomingd-backend", default="http://127.0.0.1:4001", metavar="URL")
    parser.add_argument("--public-incomingd", metavar="URL", help="for browsers; default: port 4000 of the page's host")
    parser.add_argument("--files", type=Path, default=Path("photodrop-files"), metavar="DIR")
    parser.add_argument("--token", help="one of incomingd's backend.tokens")
    parser.add_argument("--secret", help="signs the hand-overs (whsec_...); default: one of our own")
    given = parser.parse_args()
    store = Store(given.files)
    given.secret = given.secret or store.secret()
    routes: list[Any] = [(r"/", PageHandler), (r"/tickets", TicketsHandler), (r"/handover", HandoverHandler)]
    routes += [(r"/events", EventsHandler), (r"/files/(.+)", FileHandler, {"path": str(store.folder)})]
    here, (host, _, port) = Path(__file__).parent, given.listen.rpartition(":")
    app = web.Application(routes, template_path=here, static_path=here / "static", store=store, given=given)
    app.listen(int(port), host, max_body_size=1 << 20)
    print(f"Open http://{given.listen}/", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
