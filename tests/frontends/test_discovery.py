"""Which protocol, which method, and what is offered: before anything else (tus checklist 0 and 1)."""

from __future__ import annotations

import pytest

from incomingd.core.status import Status
from incomingd.frontends.uploads import PREFIX
from tests.frontends.conftest import MakeService
from tests.frontends.service import Service, id_of
from tests.support.tus import OFFSET_TYPE

UNKNOWN = "0" * 55


@pytest.fixture
def service(make_service: MakeService) -> Service:
    # What survives a power loss is not in question here.
    return make_service({"durability": "none"})


# -- OPTIONS


@pytest.mark.parametrize("version", [None, "1.0.0", "0.0.1-bogus"])
def test_options_tells_what_is_offered_whatever_version_is_asked_for(service: Service, version: str | None) -> None:
    """M0.3, M1.1, M1.2, M1.4."""
    headers = {} if version is None else {"Tus-Resumable": version}
    for path in (PREFIX, service.ticket()):
        answer = service.request("OPTIONS", path, headers, tus=False)
        assert answer.status == 204
        assert answer.headers["tus-version"] == "1.0.0"
        assert answer.headers["tus-extension"] == (
            "creation,creation-with-upload,creation-defer-length,expiration,checksum,termination,"
            "concatenation,concatenation-unfinished,checksum-trailer"
        )
        assert answer.headers["tus-checksum-algorithm"] == "sha1,md5,crc32,crc32c,sha256,sha512"
        assert "tus-max-size" not in answer.headers


def test_options_tells_the_limit_of_the_service_and_of_the_ticket(make_service: MakeService) -> None:
    """S1.3."""
    service = make_service({"limits": {"upload_bytes": 1000}})
    limits = {
        PREFIX: "1000",
        service.ticket(): "1000",
        service.ticket(max_length=50): "50",
        service.ticket(max_length=5000): "1000",
        service.ticket(length=20): "20",
        service.ticket(length=0): "0",
        service.ticket(length=20, max_length=10): "10",
    }
    told = {path: service.request("OPTIONS", path).headers["tus-max-size"] for path in limits}
    assert told == limits


def test_options_for_an_unknown_upload_is_answered_too(service: Service) -> None:
    """M0.3, Q11.1: a preflight is answered, and the request that follows learns the rest."""
    assert service.request("OPTIONS", f"{PREFIX}/{UNKNOWN}").status == 204


def test_a_trailer_is_not_offered_where_the_operator_says_so(make_service: MakeService) -> None:
    """M1.2: behind a proxy that drops trailers."""
    service = make_service({"tus": {"checksum_trailer": False}})
    extensions = service.request("OPTIONS", PREFIX).headers["tus-extension"].split(",")
    assert "checksum" in extensions
    assert "checksum-trailer" not in extensions


# -- version


@pytest.mark.parametrize("method", ["POST", "PATCH", "DELETE", "HEAD", "GET"])
def test_another_version_is_refused_and_nothing_is_done(service: Service, method: str) -> None:
    """M0.5."""
    path = service.bring(Status.OPEN)
    before = service.bytes_of(path)
    headers = {"Tus-Resumable": "0.2.2", "Upload-Offset": "4", "Upload-Length": "9"} | OFFSET_TYPE
    answer = service.request(method, path, headers)
    assert answer.status == 412
    assert answer.headers["tus-version"] == "1.0.0"
    assert method == "HEAD" or answer.code == "version_unsupported"
    assert service.bytes_of(path) == before


@pytest.mark.parametrize(
    "method, status", [("POST", 412), ("PATCH", 412), ("DELETE", 412), ("HEAD", 200), ("GET", 405)]
)
def test_a_request_without_a_version(service: Service, method: str, status: int) -> None:
    """T under M0.5: HEAD and GET are let through (monitors send such)."""
    path = service.bring(Status.OPEN)
    answer = service.request(method, path, OFFSET_TYPE | {"Upload-Offset": "4"}, tus=False)
    assert answer.status == status


def test_a_refused_version_cuts_nobody_off(service: Service) -> None:
    """M0.5: not even a lock is taken."""
    path = service.bring(Status.OPEN)
    wire = service.open_append(path, 4, b"45", 6)
    for method in ("HEAD", "PATCH", "POST", "DELETE"):
        assert service.request(method, path, {"Tus-Resumable": "9.9.9"}).status == 412
    wire.send(b"6789")
    assert wire.read_response().status == 204


@pytest.mark.parametrize("header", ["Upload-Draft-Interop-Version", "Upload-Complete"])
@pytest.mark.parametrize("method", ["POST", "PATCH", "HEAD", "DELETE"])
def test_the_other_protocol_is_refused_by_name(service: Service, method: str, header: str) -> None:
    """D0.2."""
    answer = service.request(method, service.ticket(), {header: "?1"}, tus=False)
    assert answer.status == 400
    assert method == "HEAD" or answer.code == "protocol_not_offered"


def test_tus_is_tus_whatever_else_is_there(service: Service) -> None:
    """D0.2."""
    headers = {"Upload-Draft-Interop-Version": "8", "Upload-Complete": "?0"}
    assert service.create(service.ticket(), 5, headers).status == 201


# -- method


def test_a_post_can_be_meant_for_another_method(service: Service) -> None:
    """D0.1, T: POST -> PATCH, POST -> HEAD."""
    path = service.bring(Status.OPEN)

    def meant(method: str, **headers: str) -> dict[str, str]:
        return {"X-HTTP-Method-Override": method, **{k.replace("_", "-"): v for k, v in headers.items()}}

    assert service.request("POST", path, meant("PATCH", Upload_Offset="4") | OFFSET_TYPE, b"45").status == 204
    head = service.request("POST", path, meant("HEAD"))
    assert (head.status, head.offset, head.body) == (200, 6, b"")
    assert service.request("POST", path, meant("OPTIONS")).status == 204
    assert service.request("POST", path, meant("delete")).status == 204
    assert service.head(path).status == 410


@pytest.mark.parametrize("method", ["GET", "PATCH", "HEAD"])
def test_only_a_post_can_be_meant_for_another_method(service: Service, method: str) -> None:
    """D0.1: a link that is followed never deletes."""
    path = service.bring(Status.OPEN)
    service.request(method, path, {"X-HTTP-Method-Override": "DELETE"})
    assert service.offset(path) == 4


def test_an_unknown_override_is_refused(service: Service) -> None:
    """D0.1."""
    answer = service.request("POST", service.ticket(), {"X-HTTP-Method-Override": "PURGE", "Upload-Length": "1"})
    assert (answer.status, answer.code) == (400, "method_override_unknown")


@pytest.mark.parametrize("method", ["GET", "PUT", "TRACE", "PROPFIND", "X-NONE"])
def test_a_method_that_is_not_taken(service: Service, method: str) -> None:
    path = service.bring(Status.OPEN)
    answer = service.request(method, path)
    assert (answer.status, answer.code) == (405, "method_not_allowed")
    assert answer.headers["allow"] == "POST, HEAD, PATCH, DELETE, OPTIONS"


@pytest.mark.parametrize("method", ["GET", "HEAD", "PATCH", "DELETE", "PUT"])
def test_the_creation_path_takes_nothing_but_posts(service: Service, method: str) -> None:
    answer = service.request(method, PREFIX)
    assert answer.status == 405
    assert answer.headers["allow"] == "POST, OPTIONS"


# -- which upload


NO_UPLOADS = [
    "",
    "0",
    "0" * 54,
    "0" * 56,
    "0" * 54 + "-",
    "..",
    ".",
    "%2e%2e",
    "%2E%2E%2F%2E%2E%2Fvolume.json",
    "..%2f..%2fetc%2fpasswd",
    "..%5c..%5cwin.ini",
    "%00",
    "0" * 54 + "%00",
    "0" * 55 + "%00",
    "0" * 55 + "%2f..",
    "0" * 55 + "/..",
    "0" * 55 + "/../" + "0" * 55,
    "0" * 55 + "/parts",
    "0" * 55 + "/parts/",
    "0" * 55 + "/parts/..",
    "0" * 55 + "/parts/%2e%2e",
    "0" * 55 + "/parts/" + "0" * 22 + "/x",
    "0" * 55 + "/record.json",
    "0" * 55 + "/status/x",
    "0" * 55 + "//",
    "/" + "0" * 55,
    "\\..\\x",
    "0" * 55 + ";x=1",
    "%30" * 55,
    "\u00e9" * 55,
    "x" * 4000,
    "record.json",
    "*",
]


def test_what_names_no_upload_is_404_and_touches_nothing(service: Service) -> None:
    """D0.7, S2.9, S3.8, M8.1, M0.4: with the headers of every other answer."""
    bystander = service.bring(Status.OPEN)
    before = service.bytes_of(bystander)
    on_disk = sorted(service.folder.rglob("*"))
    wire = service.connect()
    for rest in NO_UPLOADS:
        path = f"{PREFIX}/{rest}" if rest else f"{PREFIX}/{UNKNOWN}"
        for method in ("HEAD", "PATCH", "POST", "DELETE"):
            headers = OFFSET_TYPE | {"Upload-Offset": "0", "Upload-Length": "1"}
            answer = service.request(method, path, headers, wire=wire)
            assert answer.status == 404, (method, rest)
            assert method == "HEAD" or answer.code == "upload_unknown", (method, rest)
            assert "upload-offset" not in answer.headers
    assert service.bytes_of(bystander) == before
    assert sorted(service.folder.rglob("*")) == on_disk


def test_an_upload_of_another_volume_is_unknown(service: Service) -> None:
    path = service.bring(Status.OPEN)
    upload_id = id_of(path)
    other = upload_id[:43] + ("A" if upload_id[43] != "A" else "B") + upload_id[44:]
    assert service.head(f"{PREFIX}/{other}").status == 404


def test_one_character_of_the_id_decides(service: Service) -> None:
    """The URL is the permission: nothing like it opens the upload."""
    path = service.bring(Status.OPEN)
    upload_id = id_of(path)
    for wrong in (upload_id.swapcase(), upload_id[1:] + upload_id[0], upload_id[:42] + "~" + upload_id[43:]):
        assert service.head(f"{PREFIX}/{wrong}").status == 404
    assert service.offset(path) == 4
    assert service.offset(path + "/") == 4
    assert service.offset(path + "?any=thing&tus=1") == 4


def test_a_query_or_fragment_is_no_part_of_the_path(service: Service) -> None:
    path = service.bring(Status.OPEN)
    assert service.request("DELETE", f"{PREFIX}?{path}").status == 405
    assert service.offset(path) == 4
