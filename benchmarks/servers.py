"""The servers that are measured: how each is started, what its requests look like, where its files are."""

from __future__ import annotations

import abc
import http.client
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from benchmarks.load import Request, head
from benchmarks.machine import HOST, ROOT, BenchmarkError, Cores, free_port, listens, wait_until

PEERS = ROOT / "benchmarks" / "peers"
TUS_SERVER = PEERS / "tus-server"
BIN = Path(sys.executable).parent
TUS = {"Tus-Resumable": "1.0.0"}
STOP_WITHIN_S = 30
TICKETS_AT_ONCE = 500


@dataclass(frozen=True)
class Place:
    """Where a server runs: *folder* is its own (made and removed here), *programs* are the C programs."""

    folder: Path
    cores: Cores
    programs: Mapping[str, Path]
    app_url: str
    """Where the daemon tells that a file is complete."""


class Server(abc.ABC):
    """One server. A context manager: it runs while the block does, in a folder that goes with it."""

    name: str
    """Short, for commands and tables of results."""
    title: str
    """For people."""

    def __init__(self, place: Place) -> None:
        self.folder = place.folder / self.name
        self.files = self.folder / "files"
        self.port = 0
        self._place = place
        self._process: subprocess.Popen[bytes] | None = None

    @abc.abstractmethod
    def command(self) -> list[str]:
        """Return the command line; files go to `files`, the listener is `port`."""

    @abc.abstractmethod
    def uploads(self, count: int, size_bytes: int) -> list[str]:
        """Prepare *count* uploads of *size_bytes* each, before the clock runs; return their paths."""

    @abc.abstractmethod
    def request(self, path: str, offset: int, size_bytes: int) -> Request:
        """Return the request that brings *size_bytes* from *offset* on of an upload."""

    def question(self, path: str) -> bytes:
        """Return the head of a HEAD request for an upload."""
        return head("HEAD", path, TUS)

    @classmethod
    def missing(cls) -> str | None:
        """Return why this server cannot run here; None: it can."""
        return None

    @property
    def environment(self) -> Mapping[str, str]:
        """What it needs in its environment, beside this process's."""
        return {}

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    def kept_bytes(self) -> int:
        """Return how many bytes of files it has kept."""
        kept = 0
        for folder, _, names in os.walk(self.files):
            for name in names:
                # Servers clean up behind themselves while we look.
                with suppress(FileNotFoundError):
                    kept += os.stat(os.path.join(folder, name)).st_size
        return kept

    def __enter__(self) -> Self:
        self.files.mkdir(parents=True)
        self.port = free_port()
        core = self._place.cores.server
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                ["taskset", "--cpu-list", str(core), *self.command()],
                cwd=self.folder,
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            wait_until(self._ready, f"{self.name} listens")
        except BenchmarkError as error:
            self.__exit__()
            raise BenchmarkError(f"{error}\n{self._log_end}") from None
        return self

    def _ready(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            self._keep_log_end()
            raise BenchmarkError(f"{self.name} ended at its start with {self._process.returncode}")
        return listens(self.port)

    def __exit__(self, *_: object) -> None:
        process = self._process
        assert process is not None
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._keep_log_end()
        shutil.rmtree(self.folder)

    _log_end = ""

    def _keep_log_end(self) -> None:
        lines = (self.folder / "log").read_text("utf-8", "replace").splitlines()
        self._log_end = "\n".join(lines[-15:])


class Sink(Server):
    """The C program that does nothing but splice."""

    name = "sink"
    title = "C splice sink"
    stored = 204
    """What it answers once a file is there."""

    def command(self) -> list[str]:
        """See `Server`."""
        return [str(self._place.programs["sink"]), str(self.port), str(self.files)]

    def uploads(self, count: int, size_bytes: int) -> list[str]:
        """See `Server`; nothing is prepared."""
        return [f"/u{index}x{size_bytes}" for index in range(count)]

    def request(self, path: str, offset: int, size_bytes: int) -> Request:
        """See `Server`; the file grows in the order of the requests."""
        headers = {"Content-Length": str(size_bytes), "X-Offset": str(offset)}
        return Request(head("PUT", path, headers), size_bytes, self.stored)


class Bystander(Sink):
    """Tornado that only answers, on the server's core, while the sink does the work: nobody could wait less."""

    name = "bystander"
    title = "Tornado with nothing to do, beside the sink"

    def command(self) -> list[str]:
        """See `Server`."""
        return [sys.executable, str(PEERS / "bystander.py"), str(self.port)]


class Nginx(Sink):
    """nginx, which stores a PUT by its DAV module."""

    name = "nginx"
    title = "nginx, DAV PUT"
    stored = 201

    @classmethod
    def missing(cls) -> str | None:
        """See `Server`."""
        return None if _nginx() else "nginx is not installed"

    def command(self) -> list[str]:
        """See `Server`."""
        # Bodies go to a temporary file first, which the file system of the files has to hold: it is renamed.
        settings = f"""
            daemon off; worker_processes 1; pid {self.folder}/pid; error_log stderr error;
            events {{ worker_connections 4096; }}
            http {{
                access_log off; client_max_body_size 0; client_body_temp_path {self.folder}/body;
                proxy_temp_path {self.folder}/t1; fastcgi_temp_path {self.folder}/t2;
                uwsgi_temp_path {self.folder}/t3; scgi_temp_path {self.folder}/t4;
                server {{
                    listen {HOST}:{self.port}; root {self.files};
                    location / {{ dav_methods PUT; }}
                }}
            }}
        """
        # Whoever runs as root would get an unprivileged process that may not write here.
        user = "user root;" if os.geteuid() == 0 else ""
        path = self.folder / "nginx.conf"
        path.write_text(user + settings, encoding="utf-8")
        return [_nginx() or "nginx", "-e", "stderr", "-p", str(self.folder), "-c", str(path)]


class StockTornado(Sink):
    """Tornado as its documentation shows it."""

    name = "tornado"
    title = "Tornado, stream_request_body as documented"

    def command(self) -> list[str]:
        """See `Server`."""
        return [sys.executable, str(PEERS / "stock_tornado.py"), str(self.port), str(self.files)]


class TusPeer(Server):
    """A tus server of somebody else: uploads are created by POST, before the clock runs."""

    base = "/files"

    def uploads(self, count: int, size_bytes: int) -> list[str]:
        """See `Server`."""
        paths = []
        connection = http.client.HTTPConnection(HOST, self.port, timeout=30)
        for _ in range(count):
            headers = {**TUS, "Upload-Length": str(size_bytes), "Content-Length": "0"}
            connection.request("POST", self.base, headers=headers)
            answer = connection.getresponse()
            answer.read()
            location = answer.headers["Location"]
            if answer.status != 201 or location is None:
                raise BenchmarkError(f"{self.name}: {answer.status} to a creation")
            paths.append(urlsplit(location).path)
        connection.close()
        return paths

    def request(self, path: str, offset: int, size_bytes: int) -> Request:
        """See `Server`."""
        return patch(path, offset, size_bytes)

    def small_file(self, path: str | None, size_bytes: int) -> Request:
        """Return the request that creates an upload and brings all of it (the extension creation-with-upload)."""
        headers = {
            **TUS,
            "Upload-Length": str(size_bytes),
            "Content-Type": "application/offset+octet-stream",
            "Content-Length": str(size_bytes),
        }
        return Request(head("POST", path or self.base, headers), size_bytes, 201)


class TusServer(TusPeer):
    """The reference server for Node.js."""

    name = "tus-server"
    title = "@tus/server (Node.js)"

    @classmethod
    def missing(cls) -> str | None:
        """See `Server`."""
        if shutil.which("node") is None:
            return "Node.js is not installed"
        return (
            None if (TUS_SERVER / "node_modules").is_dir() else "its packages are not installed (scripts/setup bench)"
        )

    def command(self) -> list[str]:
        """See `Server`."""
        return ["node", str(TUS_SERVER / "server.mjs"), str(self.port), str(self.files)]


class TusPyServer(TusPeer):
    """tuspyserver under uvicorn."""

    name = "tuspyserver"
    title = "tuspyserver (FastAPI, uvicorn)"
    base = "/files/"

    @property
    def environment(self) -> Mapping[str, str]:
        """See `Server`."""
        return {"FILES_DIR": str(self.files), "PYTHONPATH": str(PEERS)}

    def command(self) -> list[str]:
        """See `Server`."""
        return [
            *(sys.executable, "-m", "uvicorn", "tuspyserver_app:app", "--host", HOST, "--port", str(self.port)),
            *("--log-level", "warning"),
        ]


class Tusd(TusPeer):
    """Tusd, where the environment variable ``TUSD`` names it."""

    name = "tusd"
    title = "tusd (Go)"
    base = "/files/"

    @classmethod
    def missing(cls) -> str | None:
        """See `Server`."""
        path = os.environ.get("TUSD")
        if not path:
            return "TUSD names no program"
        return None if os.access(path, os.X_OK) else f"TUSD={path} is no program"

    def command(self) -> list[str]:
        """See `Server`."""
        where = ["-host", HOST, "-port", str(self.port), "-upload-dir", str(self.files), "-base-path", self.base]
        return [os.environ["TUSD"], *where]


class Incomingd(TusPeer):
    """The daemon: nothing promised for power losses, as no peer promises it, and else as it comes."""

    name = "incomingd"
    title = "incomingd"
    settings: Mapping[str, str] = {"durability": "none"}
    digest: str | None = None

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._backend_port = 0

    @property
    def environment(self) -> Mapping[str, str]:
        """See `Server`."""
        return {"PYTHONPATH": str(ROOT)}

    def command(self) -> list[str]:
        """See `Server`."""
        self._backend_port = free_port()
        options = {
            "public.address": f"{HOST}:{self.port}",
            "backend.address": f"{HOST}:{self._backend_port}",
            "data_dir": str(self.files),
            **self.settings,
        }
        program = shutil.which("incomingd", path=str(BIN)) or "incomingd"
        return [program, *(part for key, value in options.items() for part in (f"--{key}", value))]

    def _ready(self) -> bool:
        return super()._ready() and listens(self._backend_port)

    def tickets(self, count: int) -> list[str]:
        """Return the paths of *count* new tickets."""
        paths: list[str] = []
        connection = http.client.HTTPConnection(HOST, self._backend_port, timeout=60)
        while len(paths) < count:
            wanted = min(TICKETS_AT_ONCE, count - len(paths))
            # The app leaves the file where it is: whether all of it was kept is looked at afterwards.
            ticket: dict[str, object] = {"finish_url": self._place.app_url, "after_handover": "keep"}
            if self.digest is not None:
                ticket["digest"] = self.digest
            body = json.dumps([ticket] * wanted)
            connection.request("POST", "/incoming/1.0/backend/uploads", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
            if answer.status not in {200, 201}:
                # One sentence of the problem (RFC 9457) says it; the same follows for every other ticket.
                detail = str(json.loads(text).get("detail", "")).partition("; and ")[0]
                raise BenchmarkError(f"no tickets: {answer.status}, {detail}")
            paths += [urlsplit(upload["upload_url"]).path for upload in json.loads(text)]
        connection.close()
        return paths

    def uploads(self, count: int, size_bytes: int) -> list[str]:
        """See `Server`: tickets, each created with its length."""
        paths = self.tickets(count)
        connection = http.client.HTTPConnection(HOST, self.port, timeout=60)
        for path in paths:
            headers = {**TUS, "Upload-Length": str(size_bytes), "Content-Length": "0"}
            connection.request("POST", path, headers=headers)
            answer = connection.getresponse()
            text = answer.read()
            if answer.status != 201:
                raise BenchmarkError(f"{answer.status} to a creation: {text.decode('utf-8', 'replace')}")
        connection.close()
        return paths


class IncomingdPlain(Incomingd):
    """The daemon with bodies read and written by its own code."""

    name = "incomingd-plain"
    title = "incomingd, plain path"
    settings: Mapping[str, str] = {"durability": "none", "storage.fast_path": "never"}


class IncomingdDurable(Incomingd):
    """The daemon as it comes: what was acknowledged survives a power loss."""

    name = "incomingd-durable"
    title = "incomingd, durable"
    settings: Mapping[str, str] = {"durability": "acknowledgement"}


class IncomingdDigest(Incomingd):
    """The daemon, asked for a SHA-256 of every file."""

    name = "incomingd-sha256"
    title = "incomingd, with SHA-256"
    digest = "sha-256"


SERVERS: Sequence[type[Server]] = (
    Sink,
    Incomingd,
    IncomingdPlain,
    IncomingdDurable,
    IncomingdDigest,
    Nginx,
    StockTornado,
    TusServer,
    TusPyServer,
    Tusd,
)


def patch(path: str, offset: int, size_bytes: int) -> Request:
    """Return a PATCH of tus 1.0.0."""
    headers = {
        **TUS,
        "Upload-Offset": str(offset),
        "Content-Type": "application/offset+octet-stream",
        "Content-Length": str(size_bytes),
    }
    return Request(head("PATCH", path, headers), size_bytes, 204)


def _nginx() -> str | None:
    # Debian keeps it where only root's path leads.
    return shutil.which("nginx", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin")
