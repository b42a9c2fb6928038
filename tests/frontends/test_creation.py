"""Creation at a ticket's URL, with and without bytes (tus checklist 4, D4.10, 5 and 6)."""

from __future__ import annotations

from email.utils import parsedate_to_datetime

import pytest

from incomingd.core.status import Status
from incomingd.frontends.uploads import PREFIX
from tests.frontends.conftest import MakeService
from tests.frontends.service import CHUNKED, Service, chunked, id_of
from tests.support.tus import OFFSET_TYPE, VERSION, metadata_header

CONTENT = b"0123456789"


def test_created(service: Service) -> None:
    """M4.2, D4.10, M6.1: the location is the ticket's own URL."""
    path = service.ticket()
    answer = service.create(path, 10, filename="a.txt")
    assert answer.status == 201
    assert answer.headers["location"] == path
    assert answer.headers["upload-offset"] == "0"
    assert answer.headers["x-upload-id"] == id_of(path)
    expires = parsedate_to_datetime(answer.headers["upload-expires"])
    assert abs(expires.timestamp() - service.record(path).expires_at) <= 1
    assert service.record(path).client.filename == "a.txt"


def test_the_location_is_below_the_configured_base(make_service: MakeService) -> None:
    """M4.2, D: what proxies make of scheme and host does not matter."""
    service = make_service({"public": {"base_url": "https://up.example.org/files"}})
    path = service.ticket()
    headers = {"Host": "evil.example", "X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "ftp"}
    answer = service.create(path, 10, headers)
    assert answer.headers["location"] == f"https://up.example.org/files{path}"


@pytest.mark.parametrize(
    "headers, code",
    [
        ({}, "length_missing"),
        ({"Upload-Length": "5", "Upload-Defer-Length": "1"}, "length_contradictory"),
        ({"Upload-Defer-Length": "0"}, "header_malformed"),
        ({"Upload-Defer-Length": "2"}, "header_malformed"),
        ({"Upload-Length": "-1"}, "header_malformed"),
        ({"Upload-Length": "+5"}, "header_malformed"),
        ({"Upload-Length": "1_000"}, "header_malformed"),
        ({"Upload-Length": "5.0"}, "header_malformed"),
        ({"Upload-Length": "five"}, "header_malformed"),
        ({"Upload-Length": "\u00b2"}, "header_malformed"),
        ({"Upload-Length": "9" * 19}, "header_malformed"),
        ({"Upload-Length": "5", "Upload-Metadata": "a YQ==,a YQ=="}, "metadata_malformed"),
        ({"Upload-Length": "5", "Upload-Metadata": "a not-base64"}, "metadata_malformed"),
        ({"Upload-Length": "5", "Upload-Metadata": "a " + "A" * 8192}, "metadata_too_large"),
    ],
)
def test_a_malformed_creation_leaves_nothing_behind(service: Service, headers: dict[str, str], code: str) -> None:
    """M4.1, M4.6, D0.6, D4.9."""
    path = service.ticket()
    answer = service.request("POST", path, headers)
    assert (answer.status, answer.code) == (400, code)
    assert service.record(path).beginnings == 0
    assert service.record(path).client.metadata == ()


def test_a_length_that_came_twice(service: Service) -> None:
    """D0.6."""
    wire = service.connect()
    path = service.ticket()
    lines = ("Host: x", "Tus-Resumable: 1.0.0", "Upload-Length: 5", "Upload-Length: 6")
    wire.send("\r\n".join((f"POST {path} HTTP/1.1", *lines, "\r\n")).encode())
    answer = wire.read_response()
    assert (answer.status, answer.code) == (400, "header_repeated")


@pytest.mark.parametrize(
    "terms, length, status, code",
    [
        ({"max_length": 10}, 10, 201, None),
        ({"max_length": 10}, 11, 413, "upload_too_large"),
        ({"max_length": 10}, 10**17, 413, "upload_too_large"),
        ({"length": 10}, 10, 201, None),
        ({"length": 10}, 9, 400, "length_differs"),
        ({"length": 10}, 11, 400, "length_differs"),
        ({"length": 10}, 0, 400, "length_differs"),
        ({"length": 0}, 0, 201, None),
    ],
)
def test_what_the_ticket_says_of_the_length(
    service: Service, terms: dict[str, int], length: int, status: int, code: str | None
) -> None:
    """M4.3, D4.10."""
    path = service.ticket(**terms)
    answer = service.create(path, length)
    assert (answer.status, answer.code) == (status, code)
    assert service.record(path).beginnings == (1 if status == 201 else 0)


def test_what_the_operator_says_of_the_length(make_service: MakeService) -> None:
    """M4.3."""
    service = make_service({"limits": {"upload_bytes": 100}})
    path = service.ticket(max_length=1000)
    answer = service.create(path, 101)
    assert (answer.status, answer.code) == (413, "upload_too_large")
    assert answer.json()["max_length"] == 100
    assert service.create(path, 100).status == 201


def test_an_empty_file_is_complete_at_once(service: Service) -> None:
    """M4.4: no PATCH follows."""
    path = service.ticket()
    answer = service.create(path, 0)
    assert (answer.status, answer.headers["upload-offset"]) == (201, "0")
    assert service.file_of(path) == b""
    assert service.record(path).status is Status.COMPLETE
    head = service.head(path)
    assert (head.offset, head.headers["upload-length"]) == (0, "0")


# -- a deferred length


@pytest.mark.parametrize(
    "terms, length, body, status, code",
    [
        ({}, "10", b"456789", 204, None),
        ({}, "10", b"45", 204, None),
        ({}, "4", b"", 204, None),
        ({}, "3", b"", 413, "length_exceeded"),
        ({}, "9", b"456789", 413, "length_exceeded"),
        ({}, "x", b"45", 400, "header_malformed"),
        ({}, "-1", b"45", 400, "header_malformed"),
        ({"max_length": 9}, "10", b"45", 413, "upload_too_large"),
        ({"length": 10}, "10", b"456789", 204, None),
        ({"length": 10}, "9", b"45", 400, "length_differs"),
    ],
)
def test_a_length_told_later(
    service: Service, terms: dict[str, int], length: str, body: bytes, status: int, code: str | None
) -> None:
    """M4.5."""
    path = service.ticket(**terms)
    service.create(path, None)
    assert service.patch(path, 0, b"0123").status == 204
    answer = service.patch(path, 4, body, {"Upload-Length": length})
    assert (answer.status, answer.code) == (status, code)
    head = service.head(path)
    assert head.offset == (4 + len(body) if status == 204 else 4)
    assert head.headers.get("upload-length") == (length if status == 204 else None)


@pytest.mark.parametrize("length, status, code", [("10", 204, None), ("11", 400, "length_differs")])
@pytest.mark.parametrize("how", ["created", "told later"])
def test_a_length_is_told_once(service: Service, how: str, length: str, status: int, code: str | None) -> None:
    """M4.5: the same value again is accepted, another one is not."""
    path = service.ticket()
    service.create(path, 10 if how == "created" else None)
    assert service.patch(path, 0, b"0123", {"Upload-Length": "10"}).status == 204
    answer = service.patch(path, 4, b"45", {"Upload-Length": length})
    assert (answer.status, answer.code) == (status, code)
    assert service.head(path).headers["upload-length"] == "10"


def test_the_last_thing_told_may_be_the_length(service: Service) -> None:
    """M4.5: tus-js-client ends a stream so."""
    path = service.ticket()
    service.create(path, None)
    service.patch(path, 0, CONTENT)
    assert service.record(path).status is Status.OPEN
    assert service.patch(path, 10, b"", {"Upload-Length": "10"}).offset == 10
    assert service.file_of(path) == CONTENT


# -- metadata, content type


@pytest.mark.parametrize(
    "metadata, content_type, status",
    [
        ({"filetype": "image/png"}, "image/png", 201),
        ({"type": "image/JPEG; q=1"}, "image/jpeg", 201),
        ({"filetype": "text/plain"}, None, 415),
        ({"filetype": "image"}, None, 415),
        ({}, None, 415),
    ],
)
def test_the_web_app_takes_certain_types_only(
    service: Service, metadata: dict[str, str], content_type: str | None, status: int
) -> None:
    path = service.ticket(content_types=("image/*",))
    answer = service.create(path, 10, {"Upload-Metadata": metadata_header(**metadata)})
    assert answer.status == status
    assert service.record(path).client.content_type == content_type
    if status == 415:
        assert answer.code == "content_type_not_accepted"
        assert answer.json()["content_types"] == ["image/*"]
        assert service.record(path).beginnings == 0


NAMES = [
    ("a.txt", "a.txt"),
    ("../../etc/passwd", "passwd"),
    ("..\\..\\windows\\win.ini", "win.ini"),
    ("C:\\Users\\me\\a.txt", "a.txt"),
    ("/etc/passwd", "passwd"),
    ("..", None),
    (".", None),
    ("/", None),
    ("   ", None),
    ("a\x00b.txt", "ab.txt"),
    ("a\r\nSet-Cookie: x=y.txt", "aSet-Cookie: x=y.txt"),
    ("photo\u202egpj.exe", "photogpj.exe"),
    ("a\u200bb\u2066c.txt", "abc.txt"),
    ("\x1b[31mred.txt", "[31mred.txt"),
    ("x" * 10_000 + ".jpeg", "x" * 250 + ".jpeg"),
    ("x." + "y" * 10_000, "x." + "y" * 253),
    ("\U0001f4a9" * 200, "\U0001f4a9" * 63),
    ("u\u0308ber.txt", "\u00fcber.txt"),
]


@pytest.mark.parametrize("said, kept", NAMES, ids=[repr(said[:20]) for said, _ in NAMES])
def test_the_client_s_name_of_the_file_is_cleaned(make_service: MakeService, said: str, kept: str | None) -> None:
    """M4.6: decoded values are hostile; they are shown, and name nothing on this side."""
    limits = {"metadata_bytes": 60_000, "header_bytes": 65_536}
    service = make_service({"limits": limits, "durability": "none"})
    path = service.ticket()
    answer = service.create(path, 1, filename=said, relativePath=f"{said}/{said}")
    assert answer.status == 201
    client = service.record(path).client
    assert client.filename == kept
    shown = [client.filename or "", client.relative_path or "", *dict(client.metadata).values()]
    assert not any(char in text for text in shown for char in "\x00\r\n\x1b\u202e\u2066")
    assert ".." not in (client.relative_path or "").split("/")
    assert not (client.relative_path or "").startswith("/")
    assert all(len(text) <= 1024 for text in shown)
    service.patch(path, 0, b"x")
    assert service.file_of(path) == b"x"
    assert service.head(path).headers["upload-metadata"] == metadata_header(
        filename=said, relativePath=f"{said}/{said}"
    )
    stray = [file for file in service.folder.parent.rglob("*") if file.is_file()]
    assert all(service.folder in file.parents for file in stray)
    service.log_events()
    assert "\x1b" not in str(service.log_events())


def test_what_metadata_says_of_destinations_means_nothing(service: Service) -> None:
    """M4.7: authorisation and destination come from the ticket."""
    path = service.ticket()
    other = service.bring(Status.OPEN)
    before = service.bytes_of(other)
    said = {"id": id_of(other), "upload_id": id_of(other), "finish_url": "http://evil.example/", "path": "/tmp/x"}
    assert service.create(path, 1, {"Upload-Metadata": metadata_header(**said)}).status == 201
    service.patch(path, 0, b"x")
    assert service.record(path).terms.finish_url == "http://127.0.0.1:9/"
    assert service.bytes_of(other) == before


def test_the_content_type_of_a_creation_without_bytes_means_nothing(service: Service) -> None:
    """D4.8: some stacks force one."""
    path = service.ticket()
    headers = {"Content-Type": "application/json", "Content-Length": "0"}
    assert service.create(path, 10, headers).status == 201


# -- beginning anew (D4.10)


def test_a_post_begins_anew(service: Service) -> None:
    """D4.10: the bytes of the former beginning are dropped, never mixed with another file's."""
    path = service.bring(Status.OPEN)
    answer = service.create(path, 10, filename="b")
    assert (answer.status, answer.headers["upload-offset"], answer.headers["location"]) == (201, "0", path)
    assert service.offset(path) == 0
    assert service.record(path).beginnings == 2
    assert service.record(path).client.filename == "b"
    assert service.patch(path, 4, b"zzzzzz").status == 409
    assert service.patch(path, 0, b"abcdefghij").status == 204
    assert service.file_of(path) == b"abcdefghij"
    assert service.wait_event("upload.begun_anew")["offset"] == 4


def test_the_same_creation_again_begins_anew_too(service: Service) -> None:
    """D4.10: its answer may have been lost, or it may be another file of the same length."""
    path = service.bring(Status.OPEN)
    again = service.request("POST", path, {"Upload-Length": "10", "Upload-Metadata": "filename YQ=="})
    assert (again.status, again.headers["upload-offset"]) == (201, "0")
    assert service.offset(path) == 0


def test_beginning_anew_survives_a_restart(service: Service) -> None:
    path = service.bring(Status.OPEN)
    service.create(path, 5)
    service.restart()
    assert service.offset(path) == 0
    assert service.head(path).headers["upload-length"] == "5"


def test_beginning_anew_with_another_length(service: Service) -> None:
    path = service.bring(Status.OPEN)
    assert service.create(path, 3).status == 201
    assert service.patch(path, 0, b"abc").status == 204
    assert service.file_of(path) == b"abc"


@pytest.mark.parametrize(
    "headers",
    [{"Upload-Length": "11"}, {"Upload-Length": "x"}, {}, {"Upload-Length": "10", "Upload-Metadata": ",,"}],
)
def test_a_refused_creation_drops_nothing(service: Service, headers: dict[str, str]) -> None:
    """D4.9."""
    path = service.bring(Status.OPEN, max_length=10)
    before = service.bytes_of(path)
    assert service.request("POST", path, headers).status in (400, 413)
    assert service.bytes_of(path) == before
    assert service.offset(path) == 4


def test_a_creation_cuts_what_is_being_sent(service: Service) -> None:
    """D4.10, D9.1: the later one wins as any newer request does."""
    path = service.bring(Status.OPEN)
    old = service.open_append(path, 4, b"45", 6)
    assert service.create(path, 3).status == 201
    answer = old.read_response()
    assert (answer.status, answer.code) == (503, "preempted")
    assert service.patch(path, 0, b"abc").status == 204
    assert service.file_of(path) == b"abc"


def test_of_two_racing_creations_the_later_one_wins(service: Service) -> None:
    """D4.10."""
    path = service.ticket()
    first = service.connect()
    headers = VERSION | OFFSET_TYPE | {"Upload-Length": "10", "Content-Length": "10"}
    first.send_head("POST", path, headers)
    first.send(b"01234")
    service.wait_offset(path, 5)
    assert service.create(path, 4, body=b"abcd").status == 201
    assert first.read_response().code == "preempted"
    assert service.file_of(path) == b"abcd"


# -- creation with upload


@pytest.mark.parametrize("how", ["fixed", "chunked"])
@pytest.mark.parametrize("length, body", [(10, CONTENT), (10, b"01234"), (None, b"01234"), (10, b"")])
def test_bytes_may_come_along(service: Service, how: str, length: int | None, body: bytes) -> None:
    """M5.2, M5.4."""
    path = service.ticket()
    if how == "chunked":
        answer = service.create(path, length, CHUNKED, chunked(body) if body else b"0\r\n\r\n")
    else:
        answer = service.create(path, length, body=body)
    assert answer.status == 201
    assert answer.headers["location"] == path
    assert answer.headers["upload-offset"] == str(len(body))
    assert service.offset(path) == len(body)
    assert service.record(path).status is (Status.COMPLETE if body == CONTENT else Status.OPEN)


@pytest.mark.parametrize("kind", ["", "application/octet-stream", "multipart/form-data; boundary=x"])
def test_bytes_of_another_type_may_not(service: Service, kind: str) -> None:
    """T5.3."""
    path = service.ticket()
    answer = service.create(path, 10, {"Content-Type": kind}, b"01234")
    assert (answer.status, answer.code) == (415, "content_type_wrong")
    assert answer.headers["connection"] == "close"
    assert service.record(path).beginnings == 0


def test_more_bytes_than_the_length_may_not(service: Service) -> None:
    """M5.4, D4.9."""
    path = service.ticket()
    answer = service.create(path, 4, body=b"01234")
    assert (answer.status, answer.code) == (413, "length_exceeded")
    assert service.record(path).beginnings == 0


def test_bytes_whose_creation_s_answer_was_lost_are_sent_again(service: Service) -> None:
    """D4.10: a repeated creation with upload begins anew, and only its bytes go twice."""
    path = service.ticket()
    for _ in range(2):
        answer = service.create(path, 10, body=b"01234")
        assert (answer.status, answer.headers["upload-offset"]) == (201, "5")
    assert service.patch(path, 5, b"56789").status == 204
    assert service.file_of(path) == CONTENT


def test_a_creation_with_bytes_that_is_cut_keeps_them(service: Service) -> None:
    """D5.6, S3.4: this client knows the ticket's URL, and goes on."""
    path = service.ticket()
    with service.connect() as wire:
        headers = VERSION | OFFSET_TYPE | {"Upload-Length": "10", "Content-Length": "10"}
        wire.send_head("POST", path, headers)
        wire.send(b"01234")
        service.wait_offset(path, 5)
    assert service.offset(path) == 5
    assert service.patch(path, 5, b"56789").status == 204
    assert service.file_of(path) == CONTENT


# -- expiration


def test_when_it_expires_is_told_with_every_answer_until_it_is_complete(service: Service) -> None:
    """M6.1."""
    path = service.ticket(expires_in_s=3600)
    due = service.record(path).expires_at

    def told(answer_headers: dict[str, str]) -> float:
        return abs(parsedate_to_datetime(answer_headers["upload-expires"]).timestamp() - due)

    assert told(service.create(path, 10).headers) <= 1
    assert told(service.patch(path, 0, b"01234").headers) <= 1
    assert told(service.head(path).headers) <= 1
    last = service.patch(path, 5, b"56789")
    assert "upload-expires" not in last.headers
    assert "upload-expires" not in service.head(path).headers


def test_an_expired_upload_is_gone(service: Service) -> None:
    """M6.2, S6.3, S2.9: 410 without an offset, for every request."""
    path = service.bring(Status.EXPIRED)
    for answer in (
        service.head(path),
        service.patch(path, 4, b"45"),
        service.patch(path, 4, b""),
        service.create(path, 10),
        service.request("DELETE", path),
    ):
        assert answer.status == 410
        assert "upload-offset" not in answer.headers
    assert service.patch(path, 4, b"").code == "upload_expired"
    assert set(service.bytes_of(path)) == {"record.json"}


def test_a_complete_upload_does_not_expire(service: Service) -> None:
    """M6.2."""
    path = service.bring(Status.COMPLETE)
    service.expire(path)
    assert service.record(path).status is Status.COMPLETE
    assert service.file_of(path) == CONTENT


def test_an_upload_whose_time_is_over_under_an_append(service: Service) -> None:
    """D6.4: the append is brought to rest first; then nothing of the upload is left."""
    path = service.bring(Status.OPEN)
    wire = service.open_append(path, 4, b"45", 6)
    service.expire(path)
    assert service.record(path).status is Status.EXPIRED
    answer = wire.read_response()
    assert answer.status in (410, 503)
    assert service.head(path).status == 410
    assert set(service.bytes_of(path)) == {"record.json"}


def test_an_unknown_path_below_the_uploads(service: Service) -> None:
    assert service.request("POST", f"{PREFIX}/nothing/else", {"Upload-Length": "1"}).code == "upload_unknown"
