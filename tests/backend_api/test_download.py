"""The download URL of a callback."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from incomingd.core.status import Status
from incomingd.frontends.uploads import PREFIX
from incomingd.storage.directory.contents import OpenFile
from tests.backend_api.conftest import MakeApi
from tests.backend_api.service import BACKEND, SECRET, ApiService
from tests.support.machine import wait_until

CONTENT = random.Random(5).randbytes(1_000_003)


class File:
    """A complete file and its download URL."""

    def __init__(self, api: ApiService, upload_id: str) -> None:
        self.api = api
        self.path = f"{PREFIX}/{upload_id}"
        self.url = f"/uploads/{upload_id}/file"
        self.token = api.record(self.path).handover.download_token or ""

    def get(self, method: str = "GET", token: str | None = None, **headers: str) -> requests.Response:
        params = {"token": self.token if token is None else token}
        return self.api.call(method, self.url, params=params, headers=headers)


@pytest.fixture
def file(api: ApiService) -> File:
    return File(api, api.upload_in(Status.COMPLETE, CONTENT))


def test_the_file_as_it_was_sent(file: File) -> None:
    """No bearer token and no secret: who was told the URL may read."""
    answer = file.get()
    assert (answer.status_code, answer.content) == (200, CONTENT)
    assert answer.headers["Content-Length"] == str(len(CONTENT))
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Disposition"] == "attachment; filename=\"a\"; filename*=UTF-8''a"
    assert answer.headers["Cache-Control"] == "no-store"
    head = file.get("HEAD", Range="bytes=0-1")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["Content-Length"] == str(len(CONTENT))


@pytest.mark.parametrize("wanted", ["sha-256", None])
def test_the_digest_of_the_whole_file_comes_with_it_and_with_each_piece(api: ApiService, wanted: str | None) -> None:
    """`Repr-Digest` (RFC 9530, section 3), where the ticket asks for a digest."""
    file = File(api, api.upload_in(Status.COMPLETE, CONTENT, digest=wanted))
    digest = base64.b64encode(hashlib.sha256(CONTENT).digest()).decode("ascii")
    said = f"sha-256=:{digest}:" if wanted else None
    answers = [file.get(), file.get("HEAD"), file.get(Range="bytes=5-9")]
    assert [answer.status_code for answer in answers] == [200, 200, 206]
    assert [answer.headers.get("Repr-Digest") for answer in answers] == [said] * 3


def test_the_download_url_needs_no_bearer_token_and_no_secret(make_api: MakeApi) -> None:
    api = make_api({"backend": {"tokens": ["t"]}})
    file = File(api, api.upload_in(Status.COMPLETE, b"abc", secret=SECRET.removeprefix("whsec_"), secret_given=True))
    assert file.get().content == b"abc"


def test_an_empty_file(api: ApiService) -> None:
    file = File(api, api.upload_in(Status.COMPLETE, b""))
    assert (file.get().status_code, file.get().content) == (200, b"")
    assert file.get(Range="bytes=0-").status_code == 416


@pytest.mark.parametrize(
    "header,start,stop",
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-", 10, len(CONTENT)),
        ("bytes=-7", len(CONTENT) - 7, len(CONTENT)),
        ("bytes=300000-700000", 300_000, 700_001),
        ("bytes=5-99999999", 5, len(CONTENT)),
    ],
)
def test_a_range_of_the_file(header: str, start: int, stop: int, file: File) -> None:
    answer = file.get(Range=header)
    assert (answer.status_code, answer.content) == (206, CONTENT[start:stop])
    assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{len(CONTENT)}"


@pytest.mark.parametrize("header", ["bytes=0-1,5-6", "bytes=9-2", "items=0-1"])
def test_ranges_that_are_not_offered_are_answered_with_the_whole_file(header: str, file: File) -> None:
    answer = file.get(Range=header)
    assert (answer.status_code, answer.content) == (200, CONTENT)


def test_a_range_behind_the_end(file: File) -> None:
    answer = file.get(Range=f"bytes={len(CONTENT)}-")
    assert (answer.status_code, answer.json()["code"]) == (416, "header_malformed")
    assert answer.headers["Content-Range"] == f"bytes */{len(CONTENT)}"
    assert answer.json()["size"] == len(CONTENT)


def test_a_range_counts_only_for_the_file_that_it_was_meant_for(file: File) -> None:
    tag = file.get("HEAD").headers["Etag"]
    assert file.get(Range="bytes=0-1", **{"If-Range": tag}).status_code == 206
    assert file.get(Range="bytes=0-1", **{"If-Range": '"other"'}).status_code == 200


def test_a_download_that_was_cut_goes_on_where_it_was(file: File) -> None:
    first = file.get(Range="bytes=0-499999").content
    assert first + file.get(Range=f"bytes={len(first)}-").content == CONTENT


# -- the token


@pytest.mark.parametrize("token", ["", "x", "\xe9", "0" * 32])
def test_a_wrong_token(token: str, file: File) -> None:
    answer = file.get(token=token)
    assert (answer.status_code, answer.json()["code"]) == (403, "token_wrong")
    bare = file.api.call("GET", file.url)
    assert bare.json()["code"] == "token_wrong"


def test_another_files_token(file: File) -> None:
    other = File(file.api, file.api.upload_in(Status.COMPLETE))
    assert file.get(token=other.token).json()["code"] == "token_wrong"


@pytest.mark.parametrize("status", [Status.COMPLETE, Status.HANDING_OVER, Status.AWAITING_APP])
def test_the_token_opens_the_file_until_the_upload_is_final(status: Status, api: ApiService) -> None:
    assert File(api, api.upload_in(status)).get().content == b"0123456789"


@pytest.mark.parametrize("status", [status for status in Status if status.final])
def test_the_token_opens_nothing_once_the_upload_is_final(status: Status, api: ApiService) -> None:
    """Not even a file that is kept: it is the web app's now."""
    upload_id = api.upload_in(status, after_handover="keep")
    for token in ("", "None", "null"):
        answer = api.call("GET", f"/uploads/{upload_id}/file", params={"token": token})
        assert (answer.status_code, answer.json()["code"]) == (410, "file_gone")


def test_the_token_of_an_upload_that_was_cancelled_when_it_was_complete(file: File) -> None:
    file.api.call("POST", file.url.replace("/file", "/cancel"))
    answer = file.get()
    assert (answer.status_code, answer.json()["code"]) == (410, "file_gone")


def test_no_file_before_the_callback(api: ApiService) -> None:
    upload_id = api.upload_in(Status.OPEN)
    for token in ("", "None"):
        answer = api.call("GET", f"/uploads/{upload_id}/file", params={"token": token})
        assert (answer.status_code, answer.json()["code"]) == (409, "file_not_ready")


def test_a_file_that_the_app_has_moved_away(file: File) -> None:
    path = file.api.volume.path_of(file.api.record(file.path))
    assert path is not None
    path.unlink()
    answer = file.get()
    assert (answer.status_code, answer.json()["code"]) == (410, "file_gone")


def test_the_token_is_not_logged(file: File) -> None:
    file.get()
    file.get(Range="bytes=99999999-")
    text = "\n".join(map(str, file.api.log_events()))
    assert file.token
    assert file.token not in text


# -- what goes wrong on the way


@pytest.fixture
def large(api: ApiService) -> File:
    """More than kernel and daemon hold in buffers of a connection."""
    return File(api, api.upload_in(Status.COMPLETE, CONTENT * 20))


@pytest.fixture
def slow_reader(large: File) -> Iterator[socket.socket]:
    """A connection that has asked for the file and reads nothing."""
    with socket.create_connection(large.api.api_address, timeout=30) as reader:
        request = f"GET {BACKEND}{large.url}?token={large.token} HTTP/1.1\r\nHost: x\r\n\r\n"
        reader.sendall(request.encode())
        yield reader


def test_a_reader_that_does_not_read_holds_up_nobody(
    large: File, slow_reader: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon reads no more of the file than the connection takes, and answers others meanwhile."""
    read, bytes_read = OpenFile.read, [0]

    async def counted(self: OpenFile, start: int, size: int) -> bytes:
        data = await read(self, start, size)
        bytes_read[0] += len(data)
        return data

    def at_rest() -> bool:
        seen.append(bytes_read[0])
        return len(seen) > 1 and seen[-1] == seen[-2]

    monkeypatch.setattr(OpenFile, "read", counted)
    seen: list[int] = []
    wait_until(at_rest, "the answer is at rest", interval_s=0.1)
    assert bytes_read[0] < len(CONTENT) * 15
    assert large.api.call("GET", "/uploads").status_code == 200
    with slow_reader.makefile("rb") as answer:
        assert answer.readline() == b"HTTP/1.1 200 OK\r\n"
        while answer.readline() != b"\r\n":
            pass
        assert hashlib.sha256(answer.read(len(CONTENT) * 20)).digest() == hashlib.sha256(CONTENT * 20).digest()
    assert bytes_read[0] > len(CONTENT) * 4


def test_a_reader_that_goes_away_is_no_error(large: File, slow_reader: socket.socket) -> None:
    assert slow_reader.recv(12) == b"HTTP/1.1 200"
    slow_reader.close()
    wait_until(lambda: large.api.api_connections == 0, "the connection is closed")
    assert large.get(Range="bytes=0-9").content == CONTENT[:10]


def test_no_file_stays_open(large: File, slow_reader: socket.socket, tmp_path: Path) -> None:
    def open_files() -> list[str]:
        links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
        targets = [os.path.realpath(link) for link in links]
        return [target for target in targets if target.startswith(f"{tmp_path}/") and "/files/" in target]

    large.get(Range="bytes=0-9")
    large.get(Range="bytes=99999999-")
    large.get("HEAD")
    assert slow_reader.recv(12) == b"HTTP/1.1 200"
    assert len(open_files()) == 1
    slow_reader.close()
    wait_until(lambda: not open_files(), "all files are closed")


def test_a_reader_that_reads_nothing_does_not_keep_the_file_open_for_ever(make_api: MakeApi) -> None:
    api = make_api({"limits": {"body_idle_timeout_s": 1}})
    file = File(api, api.upload_in(Status.COMPLETE, CONTENT * 20))
    with socket.create_connection(api.api_address, timeout=30) as reader:
        reader.sendall(f"GET {BACKEND}{file.url}?token={file.token} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert 0 < api.wait_event("download.stalled")["offset"] < len(CONTENT) * 20
        wait_until(lambda: api.api_connections == 0, "the connection is closed")
        # What had gone out before that can still be read; it is less than was announced.
        received = 0
        with contextlib.suppress(ConnectionResetError):
            while piece := reader.recv(1 << 20):
                received += len(piece)
        assert 0 < received < len(CONTENT) * 20
    assert file.get(Range="bytes=0-9").content == CONTENT[:10]


def test_a_file_that_cannot_be_read_to_its_end_is_never_taken_for_whole(
    file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The status is out already; the connection is cut, so that the length is wrong for whoever reads."""

    async def half(self: OpenFile, start: int, size: int) -> bytes:
        return b"" if start else b"0" * 1000

    monkeypatch.setattr(OpenFile, "read", half)
    file.api.errors_expected.add("volume.failed")
    with pytest.raises(requests.RequestException):
        file.get()
    assert file.api.wait_event("volume.failed")["detail"].endswith("shorter than it was")
