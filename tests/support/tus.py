"""A small tus client of the tests' own that writes down every promise the daemon made.

Stock clients are what counts; this one is for what they cannot do: remember each acknowledged offset, and send slowly,
with a checksum or only in part. An offset that falls below an acknowledged one is a failure at once.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tests.support.content import Content
from tests.support.wire import ConnectionEnded, Headers, Response, Wire

VERSION: Headers = {"Tus-Resumable": "1.0.0"}
OFFSET_TYPE: Headers = {"Content-Type": "application/offset+octet-stream"}

# What a client meets while a daemon is dead, stopping or starting: it comes back later.
PASSING = (OSError, ConnectionEnded)
PASSING_STATUSES = frozenset({409, 423, 500, 502, 503, 504, 507})


@dataclass
class TusUpload:
    """One file on its way to one ticket.

    It resumes for ever: a test's own time limit ends what does not.
    """

    url: str
    content: Content
    acknowledged: int = 0
    """The highest offset that was ever told to this client: a promise."""
    creations: int = 0
    """How many 201 it has had."""
    resumes: int = 0
    """How often it had to ask for the offset again."""
    offsets: list[int] = field(default_factory=list)
    upload_id: str = ""
    """The ticket's id, where a test wants it at hand."""

    @property
    def path(self) -> str:
        """The path of the URL."""
        return urlsplit(self.url).path

    def connect(self, timeout_s: float = 30) -> Wire:
        """Open a connection to the upload's server."""
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        return Wire((parts.hostname, parts.port or 80), timeout_s=timeout_s)

    def note(self, offset: int) -> int:
        """Write down an offset that the daemon told; fail if it fell."""
        assert offset >= self.acknowledged, f"the offset fell from {self.acknowledged} to {offset}: {self.url}"
        assert offset <= self.content.size_bytes
        self.acknowledged = offset
        self.offsets.append(offset)
        return offset

    def create(self, wire: Wire, **headers: str) -> Response:
        """Create (a POST to the ticket's URL)."""
        length = {"Upload-Length": str(self.content.size_bytes)}
        answer = wire.request("POST", self.path, VERSION | length | headers)
        if answer.status == 201:
            self.creations += 1
            self.note(answer.offset)
        return answer

    def head(self, wire: Wire) -> Response:
        """Ask for the offset."""
        answer = wire.request("HEAD", self.path, VERSION)
        if answer.status == 200 and "upload-offset" in answer.headers:
            self.note(answer.offset)
        return answer

    def patch_headers(self, offset: int) -> Headers:
        """Return the headers of a PATCH from *offset* on."""
        return VERSION | OFFSET_TYPE | {"Upload-Offset": str(offset)}

    def patch(self, wire: Wire, offset: int, body: bytes, *, checksum: str | None = None) -> Response:
        """Send *body* from *offset* on; *checksum* names an algorithm of tus's checksum extension."""
        headers = self.patch_headers(offset)
        if checksum is not None:
            headers["Upload-Checksum"] = checksum_header(checksum, body)
        answer = wire.request("PATCH", self.path, headers, body)
        if answer.status == 204:
            self.note(answer.offset)
        return answer

    def run(self, *, piece_bytes: int, checksum: str | None = None, pause_s: Callable[[], float] | None = None) -> None:
        """Upload the file to its end in PATCHes of up to *piece_bytes*, whatever happens to the daemon.

        *pause_s* gives the seconds to rest between two PATCHes. What is not passing is a failure.
        """
        wire: Wire | None = None
        offset: int | None = None
        while True:
            try:
                wire = wire or self.connect()
                if offset is None:
                    offset = self._find_offset(wire)
                if offset is not None:
                    if offset == self.content.size_bytes:
                        break
                    body = self.content.read(offset, piece_bytes)
                    offset = self._passing(self.patch(wire, offset, body, checksum=checksum), 204)
                    if offset is not None and pause_s is not None:
                        time.sleep(pause_s())
                    if offset is not None:
                        continue
            except PASSING:
                offset = None
            if wire is not None:
                wire.close()
                wire = None
            self.resumes += 1
            time.sleep(0.05)
        wire.close()

    def _find_offset(self, wire: Wire) -> int | None:
        if self.creations == 0:
            return self._passing(self.create(wire), 201)
        return self._passing(self.head(wire), 200)

    @staticmethod
    def _passing(answer: Response, expected: int) -> int | None:
        """Return the offset of the *expected* answer, None for one that passes; anything else is a failure."""
        if answer.status == expected:
            return answer.offset
        assert answer.status in PASSING_STATUSES, f"{answer.status} {answer.code}: {answer.body!r}"
        return None


def checksum_header(algorithm: str, body: bytes) -> str:
    """Return the value of ``Upload-Checksum`` for *body* with an *algorithm* of hashlib."""
    return f"{algorithm} {base64.b64encode(hashlib.new(algorithm, body).digest()).decode()}"


def metadata_header(**pairs: str) -> str:
    """Return the value of ``Upload-Metadata`` for *pairs*."""
    return ",".join(f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in pairs.items())
