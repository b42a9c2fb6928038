"""The ways in which stock clients use a ticket, each as its users do it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.support.backend import Backend
from tests.support.content import Content
from tests.support.link import Link
from tests.support.stock import ClientRun, tus_js, tuspy

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True)
class Scenario:
    """One way to upload a file.

    *by* is how the client is given the ticket's URL: ``endpoint`` (it creates there) or ``uploadUrl``/``url`` (it takes
    the upload for made). *ticket_length* is whether the ticket is given the file's exact length.
    """

    name: str
    client: str
    by: str
    options: dict[str, Any] = field(default_factory=dict)
    task: dict[str, Any] = field(default_factory=dict)
    ticket_length: bool = False
    parts: int = 0

    def __str__(self) -> str:
        return self.name

    def run(self, url: str, file: Path, *, retry_delays_ms: Sequence[int] | None = None) -> ClientRun:
        """Start the client for *file* against the ticket at *url*; without *retry_delays_ms* it has tus-js's own."""
        if self.client == "tuspy":
            return tuspy(file, options=self.options, **{self.by: url}, **self.task)
        patience = {} if retry_delays_ms is None else {"retryDelays": list(retry_delays_ms)}
        return tus_js(file, options={self.by: url} | self.options | patience, **self.task)


CHUNKED = {"chunkSize": 256 * KIB}
DEFERRED = {"uploadLengthDeferred": True}
# Under Node, tus-js-client 4.3 tells a wrong length of a file that it resumes with a deferred length, and no end of one
# that it sends in chunks, to any server; of a buffer or a stream it knows both.
BUFFER = {"source": "buffer"}
WITH_DATA = {"uploadDataDuringCreation": True}
RETRIES = {"retries": 60, "retry_delay": 0.5}

SCENARIOS = [
    Scenario("tus-js: endpoint, whole", "tus-js", "endpoint"),
    Scenario("tus-js: endpoint, chunked", "tus-js", "endpoint", CHUNKED),
    Scenario("tus-js: endpoint, deferred, whole", "tus-js", "endpoint", DEFERRED, BUFFER),
    Scenario("tus-js: endpoint, deferred, chunked", "tus-js", "endpoint", DEFERRED | CHUNKED, BUFFER),
    Scenario("tus-js: endpoint, deferred, stream", "tus-js", "endpoint", DEFERRED | CHUNKED, {"source": "stream"}),
    Scenario("tus-js: data during creation, chunked", "tus-js", "endpoint", WITH_DATA | CHUNKED),
    Scenario("tus-js: data during creation, deferred", "tus-js", "endpoint", WITH_DATA | DEFERRED | CHUNKED, BUFFER),
    Scenario("tus-js: parallel, whole", "tus-js", "endpoint", {"parallelUploads": 3}, parts=3),
    Scenario("tus-js: parallel, chunked", "tus-js", "endpoint", CHUNKED | {"parallelUploads": 4}, parts=4),
    Scenario("tus-js: pauses", "tus-js", "endpoint", CHUNKED, {"pauseAtBytes": [1 * MIB, 2 * MIB]}),
    Scenario("tus-js: pauses, whole", "tus-js", "endpoint", {}, {"pauseAtBytes": [1 * MIB]}),
    Scenario("tus-js: uploadUrl, whole", "tus-js", "uploadUrl", ticket_length=True),
    Scenario("tus-js: uploadUrl, chunked", "tus-js", "uploadUrl", CHUNKED, ticket_length=True),
    Scenario("tus-js: uploadUrl, deferred", "tus-js", "uploadUrl", DEFERRED, BUFFER),
    Scenario("tuspy: endpoint, whole", "tuspy", "endpoint", RETRIES),
    Scenario(
        "tuspy: endpoint, checksums",
        "tuspy",
        "endpoint",
        RETRIES | {"chunk_size": 256 * KIB, "upload_checksum": True},
    ),
    Scenario("tuspy: url, whole", "tuspy", "url", RETRIES, ticket_length=True),
    Scenario(
        "tuspy: url, checksums",
        "tuspy",
        "url",
        RETRIES | {"chunk_size": 256 * KIB, "upload_checksum": True},
        ticket_length=True,
    ),
]

# Takes a file in one POST: nothing of it is kept when that is cut, as there is no URL yet that could resume it.
WHOLE_IN_CREATION = Scenario("tus-js: data during creation, whole", "tus-js", "endpoint", WITH_DATA)


def ticket_for(backend: Backend, scenario: Scenario, content: Content) -> dict[str, Any]:
    """Get the ticket that a web app would get for this scenario."""
    if scenario.ticket_length:
        return backend.ticket(filename=f"{content.seed}.bin", length=content.size_bytes)
    return backend.ticket(filename=f"{content.seed}.bin")


def check_creations(link: Link, scenario: Scenario, url: str) -> None:
    """Fail if the client created again what it had been told (201) was created."""
    if scenario.by != "endpoint":
        assert link.count("POST") == 0
        return
    path = urlsplit(url).path
    creations = [exchange for exchange in list(link.exchanges) if exchange.method == "POST"]
    assert all(exchange.path == path for exchange in creations)
    kinds = ["partial", "final"] if scenario.parts else [""]
    for kind in kinds:
        posts = [post for post in creations if post.headers.get("upload-concat", "").split(";")[0] == kind]
        expected = scenario.parts if kind == "partial" else 1
        made = [post for post in posts if post.status == 201]
        assert len(made) == expected, f"{scenario}: {[post.status for post in posts]} for the creation of {kind!r}"
        if kind != "partial":
            assert posts[-1].status == 201, f"{scenario}: created again after its 201"
