"""Parallel uploads: parts at a ticket, and the upload that is made of them (tus checklist 10, D4.10)."""

from __future__ import annotations

import pytest

from incomingd.core.ids import is_part_id
from incomingd.core.record import PARTS_MAX
from incomingd.core.status import Status
from tests.frontends.conftest import MakeService
from tests.frontends.service import Service, id_of
from tests.support.tus import metadata_header
from tests.support.wire import Response

PARTIAL = {"Upload-Concat": "partial"}


def part(service: Service, path: str, content: bytes, *, sent: int | None = None) -> str:
    """Make a part of *content* at a ticket, with the first *sent* bytes of it (None: all); return its path."""
    answer = service.create(path, len(content), PARTIAL)
    assert answer.status == 201, answer
    location = answer.headers["location"]
    body = content if sent is None else content[:sent]
    if body:
        assert service.patch(location, 0, body).status == 204
    return location


def final(service: Service, path: str, *parts: str, **headers: str) -> Response:
    """Ask for the upload that is made of *parts*."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return service.request("POST", path, {"Upload-Concat": "final;" + " ".join(parts)} | given)


def test_a_part_has_a_url_of_its_own_below_the_ticket_s(service: Service) -> None:
    """M10.1, D4.10."""
    path = service.ticket()
    answer = service.create(path, 5, PARTIAL)
    location = answer.headers["location"]
    assert answer.status == 201
    assert answer.headers["upload-offset"] == "0"
    assert answer.headers["x-upload-id"] == id_of(path)
    assert location.startswith(f"{path}/parts/")
    assert is_part_id(location.rpartition("/")[2])
    head = service.head(location)
    assert (head.status, head.offset) == (200, 0)
    assert head.headers["upload-length"] == "5"
    assert head.headers["upload-concat"] == "partial"
    assert service.create(path, 5, PARTIAL).headers["location"] != location


def test_parts_become_the_upload(service: Service) -> None:
    """M10.2, M10.3, M10.5, D10.8: in the order in which they are named, at once."""
    path = service.ticket()
    first, second = part(service, path, b"01234"), part(service, path, b"56789abc")
    answer = final(service, path, first, second, Upload_Metadata=metadata_header(filename="whole.txt"))
    assert answer.status == 201
    assert answer.headers["location"] == path
    assert answer.headers["upload-offset"] == "13"
    head = service.head(path)
    assert (head.offset, head.headers["upload-length"]) == (13, "13")
    assert head.headers["upload-concat"] == f"final;{first} {second}"
    assert head.headers["upload-metadata"] == metadata_header(filename="whole.txt")
    assert service.file_of(path) == b"0123456789abc"
    record = service.record(path)
    assert record.client.filename == "whole.txt"
    assert record.handover.delivery is not None


@pytest.mark.parametrize("order", [(0, 1), (1, 0), (0, 0), (0, 1, 0), (1,)])
def test_order_and_repeats_are_kept(service: Service, order: tuple[int, ...]) -> None:
    """M10.3."""
    path = service.ticket()
    contents = (b"01234", b"abc")
    parts = [part(service, path, content) for content in contents]
    assert final(service, path, *(parts[n] for n in order)).status == 201
    assert service.file_of(path) == b"".join(contents[n] for n in order)


@pytest.mark.parametrize(
    "form",
    ["{path}", "http://{host}{path}", "https://up.example.org{path}", "{path}?x=y", "{path}/"],
)
def test_a_part_is_named_by_its_path(service: Service, form: str) -> None:
    """M10.2: clients name parts by whichever host they reached; only the path counts, and it must be of this ticket."""
    path = service.ticket()
    named = form.format(path=part(service, path, b"01234"), host=f"127.0.0.1:{service.address[1]}")
    assert final(service, path, named).status == 201
    assert service.file_of(path) == b"01234"


def test_the_same_final_again_gets_the_same_answer(service: Service) -> None:
    """D4.10: its answer was lost."""
    path = service.ticket()
    parts = [part(service, path, b"01234"), part(service, path, b"5678")]
    first = final(service, path, *parts)
    for _ in range(2):
        again = final(service, path, *parts)
        assert (again.status, again.headers["location"]) == (201, path)
        assert again.headers["upload-offset"] == first.headers["upload-offset"] == "9"
        service.wait_joined(path)
        service.restart()
    assert service.file_of(path) == b"012345678"


def test_another_final_of_a_complete_upload_is_refused(service: Service) -> None:
    path = service.ticket()
    parts = [part(service, path, b"01234"), part(service, path, b"5678")]
    final(service, path, *parts)
    answer = final(service, path, *reversed(parts))
    assert (answer.status, answer.code) == (403, "upload_complete")


@pytest.mark.parametrize("restarted", [False, True])
def test_parts_answer_as_complete_until_the_ticket_ends(service: Service, restarted: bool) -> None:
    """D4.10."""
    path = service.ticket()
    parts = [part(service, path, b"01234"), part(service, path, b"5678")]
    final(service, path, *parts)
    service.wait_joined(path)
    if restarted:
        service.restart()
    for location, length in zip(parts, (5, 4), strict=True):
        head = service.head(location)
        assert (head.status, head.offset) == (200, length)
        assert head.headers["upload-length"] == str(length)
        assert service.patch(location, length, b"").status == 204
        assert service.patch(location, 0, b"x").status == 409
    service.request("DELETE", path)
    for location in parts:
        assert service.head(location).status == 410


def test_no_body_goes_into_a_final_upload(service: Service) -> None:
    """M3.9, M10.7, T: not even an empty one."""
    path = service.ticket()
    location = part(service, path, b"01234")
    for made in (False, True):
        if made:
            assert final(service, path, location).status == 201
        for offset, body in ((5, b""), (0, b"x"), (5, b"x")):
            answer = service.patch(path, offset, body)
            if made:
                assert (answer.status, answer.code) == (403, "concat_final")
    assert service.file_of(path) == b"01234"


@pytest.mark.parametrize(
    "headers, status, code",
    [
        ({"Upload-Length": "5"}, 400, "length_contradictory"),
        ({"Upload-Defer-Length": "1"}, 400, "length_contradictory"),
        ({"Upload-Metadata": ",,"}, 400, "metadata_malformed"),
    ],
)
def test_a_final_creation_that_is_refused(service: Service, headers: dict[str, str], status: int, code: str) -> None:
    """M10.2, T."""
    path = service.ticket()
    location = part(service, path, b"01234")
    answer = service.request("POST", path, {"Upload-Concat": f"final;{location}"} | headers)
    assert (answer.status, answer.code) == (status, code)
    assert service.record(path).final_of is None


def test_a_final_creation_brings_no_body(service: Service) -> None:
    """M5.4, M10.2."""
    path = service.ticket()
    location = part(service, path, b"01234")
    headers = {"Upload-Concat": f"final;{location}", "Content-Type": "application/offset+octet-stream"}
    answer = service.request("POST", path, headers, b"x")
    assert (answer.status, answer.code) == (403, "concat_final")
    assert service.record(path).final_of is None


@pytest.mark.parametrize(
    "named",
    [
        "{path}",
        "{other}",
        "{path}/parts/0000000000000000000000",
        "{others}/parts/{number}",
        "{path}/parts/..",
        "{path}/parts/",
        "{path}/parts/%2e%2e",
        "/etc/passwd",
        "http://[",
        "http://[::1",
        "//[",
        "http://evil.example/",
        "?",
        "final;",
        "{mine},{mine}",
        "{mine};{mine}",
        "{mine}\u00e9",
        "x" * 3000,
    ],
)
def test_only_parts_of_the_same_ticket_may_be_named(service: Service, named: str) -> None:
    """D10.4: nobody reads another's bytes by naming them."""
    path, others = service.ticket(), service.ticket()
    mine, other = part(service, path, b"01234"), part(service, others, b"secret")
    names = {"path": path, "others": others, "mine": mine, "other": other, "number": mine.rpartition("/")[2]}
    before = service.bytes_of(path)
    answer = final(service, path, mine, named.format(**names))
    assert (answer.status, answer.code) == (400, "concat_part_unknown")
    assert service.bytes_of(path) == before
    assert service.record(path).beginnings == 0


def test_a_part_is_no_way_into_another_ticket(service: Service) -> None:
    """D10.4: a part's name opens nothing below another ticket's URL."""
    path, others = service.ticket(), service.ticket()
    number = part(service, others, b"secret", sent=3).rpartition("/")[2]
    assert service.head(f"{path}/parts/{number}").status == 404
    assert service.patch(f"{path}/parts/{number}", 3, b"x").status == 404
    assert service.request("DELETE", f"{path}/parts/{number}").status == 404
    assert service.offset(f"{others}/parts/{number}") == 3


# -- unfinished parts


def test_a_final_upload_waits_for_its_parts(service: Service) -> None:
    """M2.7, M10.6: no offset until then, its length as soon as it can be told."""
    path = service.ticket()
    first, second = part(service, path, b"01234", sent=2), part(service, path, b"5678", sent=0)
    answer = final(service, path, first, second)
    assert answer.status == 201
    assert "upload-offset" not in answer.headers
    head = service.head(path)
    assert head.status == 200
    assert "upload-offset" not in head.headers
    assert head.headers["upload-length"] == "9"
    assert head.headers["upload-concat"] == f"final;{first} {second}"
    assert service.patch(path, 0, b"x").code == "concat_final"
    assert service.record(path).status is Status.OPEN
    assert service.patch(second, 0, b"5678").status == 204
    assert service.record(path).status is Status.OPEN
    assert service.patch(first, 2, b"234").status == 204
    assert service.offset(path) == 9
    assert service.file_of(path) == b"012345678"


def test_a_final_upload_waits_over_a_restart(service: Service) -> None:
    path = service.ticket()
    first, second = part(service, path, b"01234", sent=2), part(service, path, b"5678")
    final(service, path, first, second)
    service.restart()
    assert "upload-offset" not in service.head(path).headers
    assert service.offset(first) == 2
    assert service.offset(second) == 4
    assert service.patch(first, 2, b"234").status == 204
    assert service.file_of(path) == b"012345678"


def test_a_final_upload_of_parts_whose_length_is_not_told_yet(service: Service) -> None:
    """M2.7, M10.6."""
    path = service.ticket()
    location = service.create(path, None, PARTIAL).headers["location"]
    assert final(service, path, location).status == 201
    head = service.head(path)
    assert not {"upload-length", "upload-offset", "upload-defer-length"} & head.headers.keys()
    assert service.patch(location, 0, b"01234", {"Upload-Length": "5"}).status == 204
    assert service.file_of(path) == b"01234"


def test_an_empty_part(service: Service) -> None:
    path = service.ticket()
    empty, other = part(service, path, b""), part(service, path, b"01234")
    assert service.offset(empty) == 0
    assert final(service, path, empty, other, empty).headers["upload-offset"] == "5"
    assert service.file_of(path) == b"01234"


def test_an_upload_of_nothing_but_empty_parts(service: Service) -> None:
    path = service.ticket()
    assert final(service, path, part(service, path, b"")).headers["upload-offset"] == "0"
    assert service.file_of(path) == b""


# -- limits


@pytest.mark.parametrize(
    "terms, lengths, status, code",
    [
        ({"length": 9}, (5, 4), 201, None),
        ({"length": 10}, (5, 4), 400, "length_differs"),
        ({"max_length": 9}, (5, 4), 201, None),
    ],
)
def test_the_sum_of_the_parts_must_suit_the_ticket(
    service: Service, terms: dict[str, int], lengths: tuple[int, ...], status: int, code: str | None
) -> None:
    """M10.5."""
    path = service.ticket(**terms)
    answer = final(service, path, *(part(service, path, b"x" * length) for length in lengths))
    assert (answer.status, answer.code) == (status, code)


def test_a_part_that_named_twice_goes_over_the_limit(service: Service) -> None:
    """M10.5."""
    path = service.ticket(max_length=8)
    location = part(service, path, b"01234")
    answer = final(service, path, location, location)
    assert (answer.status, answer.code) == (413, "upload_too_large")
    assert service.offset(location) == 5


def test_a_part_may_not_be_longer_than_the_ticket_allows(service: Service) -> None:
    path = service.ticket(max_length=8)
    answer = service.create(path, 9, PARTIAL)
    assert (answer.status, answer.code) == (413, "upload_too_large")


def test_parts_of_unknown_length_stay_within_the_limit_together(service: Service) -> None:
    path = service.ticket(max_length=8)
    first, second = (service.create(path, None, PARTIAL).headers["location"] for _ in range(2))
    assert service.patch(first, 0, b"01234").status == 204
    answer = service.patch(second, 0, b"56789")
    assert (answer.status, answer.code) == (413, "upload_too_large")
    assert service.patch(second, 0, b"567").status == 204


def test_parts_of_a_former_attempt_give_way(service: Service) -> None:
    """D4.10: a client that begins its parallel upload anew leaves them behind."""
    path = service.ticket(max_length=8)
    old = [part(service, path, b"0123", sent=2) for _ in range(2)]
    new = [part(service, path, b"4567") for _ in range(2)]
    for location in old:
        assert service.head(location).status == 404
    assert final(service, path, *new).status == 201
    assert service.file_of(path) == b"45674567"


def test_parts_that_are_being_sent_do_not_give_way(service: Service) -> None:
    path = service.ticket(max_length=8)
    locations = [part(service, path, b"0123", sent=0) for _ in range(2)]
    wires = [service.open_append(location, 0, b"01", 4) for location in locations]
    answer = service.create(path, 4, PARTIAL)
    assert (answer.status, answer.code) == (413, "upload_too_large")
    for wire in wires:
        wire.send(b"23")
        assert wire.read_response().status == 204


def test_there_are_only_so_many_parts(service: Service) -> None:
    """D4.10: the oldest that nobody sends give way."""
    path = service.ticket()
    locations = [part(service, path, b"", sent=0) for _ in range(PARTS_MAX + 1)]
    assert len(service.record(path).parts) == PARTS_MAX
    assert service.head(locations[0]).status == 404
    assert service.head(locations[1]).status == 200


# -- the rest


def test_a_part_is_deleted_alone(service: Service) -> None:
    """M10.7 the other way round."""
    path = service.ticket()
    first, second = part(service, path, b"01234"), part(service, path, b"5678")
    assert service.request("DELETE", first).status == 204
    assert service.head(first).status == 404
    assert service.offset(second) == 4
    assert service.offset(path) == 0
    assert final(service, path, first, second).code == "concat_part_unknown"
    assert final(service, path, second).status == 201


def test_a_deleted_ticket_takes_its_parts_with_it(service: Service) -> None:
    path = service.ticket()
    location = part(service, path, b"01234")
    assert service.request("DELETE", path).status == 204
    assert service.head(location).status == 410
    assert set(service.bytes_of(path)) == {"record.json"}


def test_a_part_is_no_place_to_create(service: Service) -> None:
    location = part(service, service.ticket(), b"01234")
    answer = service.create(location, 5)
    assert (answer.status, answer.code) == (405, "method_not_allowed")


def test_a_part_with_bytes_and_a_checksum(service: Service) -> None:
    """M5.2, section 7 for parts too."""
    path = service.ticket()
    wrong = {"Upload-Checksum": "sha1 AAAAAAAAAAAAAAAAAAAAAAAAAAA="}
    answer = service.create(path, 5, PARTIAL | wrong, b"01234")
    assert (answer.status, answer.code) == (460, "checksum_mismatch")
    answer = service.create(path, 5, PARTIAL, b"01234")
    assert (answer.status, answer.headers["upload-offset"]) == (201, "5")
    assert final(service, path, answer.headers["location"]).status == 201
    assert service.file_of(path) == b"01234"


def test_a_plain_creation_drops_the_parts(service: Service) -> None:
    """D4.10: the client changed its mind."""
    path = service.ticket()
    location = part(service, path, b"01234")
    assert service.create(path, 3).status == 201
    assert service.head(location).status == 404
    assert service.patch(path, 0, b"abc").status == 204
    assert service.file_of(path) == b"abc"


def test_parts_do_not_complete_the_upload_by_themselves(service: Service) -> None:
    """M10.1: no hand-over for a part."""
    path = service.ticket(length=5)
    part(service, path, b"01234")
    assert service.record(path).status is Status.OPEN
    assert service.record(path).handover.delivery is None


def test_concatenation_with_a_limit_of_the_operator(make_service: MakeService) -> None:
    service = make_service({"limits": {"upload_bytes": 8}})
    path = service.ticket()
    location = part(service, path, b"01234")
    assert final(service, path, location, location).status == 413
