"""What stands in the files under ``tests/fixtures/formats``: one of each kind, with nothing as it is by default."""

from __future__ import annotations

from pathlib import Path

from incomingd.core.content import Content, Range
from incomingd.core.peering import (
    Act,
    Acted,
    ActName,
    Bequest,
    BytesWanted,
    Elsewhere,
    Given,
    Inherited,
    NotNow,
    Question,
    Recall,
    Recalled,
    Recorded,
    Release,
    Unknown,
    Voided,
)
from incomingd.core.record import Client, Delivery, Failure, Handover, Record, Terms
from incomingd.core.ring import Instance
from incomingd.core.status import Status
from incomingd.core.tenure import Claim, ClaimKind, Identity
from incomingd.registry.registry import Invitation
from incomingd.wire.peer import Answer, Done, ListingWanted, Message, Page, StatusWanted

FOLDER = Path(__file__).parents[1] / "fixtures" / "formats"

RECORD = Record(
    upload_id="i" * 43 + "Volume000001",
    terms=Terms(
        finish_url="https://app.example/arrived",
        secret="c2VjcmV0",
        secret_given=True,
        length=7,
        max_length=9,
        filename="Übung.pdf",
        content_types=("application/pdf", "image/*"),
        after_handover="keep",
        digest=None,
        client_cancel=False,
        events=("started",),
        callback_format="form",
        form_secret="old",
        labels=("a", "b"),
        origins=("https://page.example",),
        app_data={"user": 7, "deep": [1.5, None, {"x": True}]},
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        open_creation=False,
    ),
    created_at=1_800_000_000.25,
    expires_at=1_800_604_800.25,
    status=Status.AWAITING_APP,
    epoch=3,
    owner=Identity("one:4000", "start", "10.0.0.1:4002"),
    claim_kind=ClaimKind.COMPLETE,
    create_id="create",
    content=Content(
        length=7,
        map=(Range("bytes.1", "Volume000001", 0, 3, contested=True), Range("bytes.2", "Volume000001", 3, 7, skip=1)),
        noted_offset=7,
        metadata="filename w5xidW5nLnBkZg==",
        concat="final;a b",
    ),
    parts=(
        ("first", Content(length=3, map=(Range("part-first.1", "Volume000001", 0, None),), unverified_from=2)),
        ("other", Content(length_deferred=True)),
    ),
    final_of=("first", "other"),
    wanted_by=("another",),
    protocol="tus",
    client=Client(
        filename="Übung.pdf",
        content_type="application/pdf",
        relative_path="a/Übung.pdf",
        last_modified="1700000000000",
        metadata=(("filename", "Übung.pdf"), ("z", "")),
        address="192.0.2.1",
    ),
    beginnings=2,
    boot_id="boot",
    joined=True,
    completed_at=1_800_000_100.5,
    ended_at=None,
    handover=Handover(
        delivery=Delivery("upload.complete", "msg_1", 3, 1.5, None, "the web app answered 500", delivered=True),
        download_token="token",
        wait_deadline=1_800_000_700.5,
        message="Looking at it.",
        client_data={"see": "/inbox"},
    ),
    notifications=(Delivery("upload.started", "msg_2", 1, 2.5, 3.5, None, given_up=True),),
    failure=Failure("refused", "No room in the inbox."),
    let_go=True,
)

CLAIM = Claim(
    epoch=7,
    owner=Identity("one:4000", "start", "10.0.0.1:4002"),
    create_id="create",
    volume_id="Volume000001",
    kind=ClaimKind.COMPLETE,
    question="question",
)
CLAIM_OF_NOBODYS_QUESTION = Claim(1, Identity("alone", "start"), "create", "Volume000001", ClaimKind.PULL)
"""What both formats spell otherwise: no address, no question."""

OWNER = Identity("incoming-1", "0badcafe", "10.0.0.1:4002")
LEASE = Instance(OWNER, 1_800_000_000.5, frozenset({"v1", "v2"}), draining=True, full=True, format=2, version="2.0.1")
INVITATION = Invitation("u", 7, OWNER)

VOLUME = "vvvvvvvvvvvv"
UPLOAD = "u" * 43 + VOLUME
IT = Identity("it:4000", "2" * 32, "https://it:4002")
SMALL_RECORD = Record(UPLOAD, Terms("https://app.example/done", "c2VjcmV0"), created_at=1.0, expires_at=2.0)
MESSAGES: dict[str, Message] = {
    "recall": Recall(UPLOAD, 3, IT),
    "act": Act(UPLOAD, ActName.CONFIRM, {"done": True, "client_data": [1, "ü", None]}),
    "ask": Question(UPLOAD, "q" * 22, IT, VOLUME),
    "void": Voided(UPLOAD, "q" * 22, 4),
    "recorded": Recorded(UPLOAD, 4),
    "release": Release(UPLOAD, ("bytes.1", "part-" + "p" * 22 + ".2")),
    "inherit": Bequest(
        VOLUME, "w" * 12, (Given(Claim(4, IT, "c" * 22, VOLUME, ClaimKind.PULL), SMALL_RECORD),), (VOLUME,)
    ),
    "read": BytesWanted(UPLOAD, "bytes.1", 5, 2**40),
    "listing": ListingWanted({"status": ["open"]}),
    "status": StatusWanted(),
}
ANSWERS: dict[str, Answer] = {
    **{each.value: each for each in Recalled},
    "acted": Acted(SMALL_RECORD, 7),
    "given": Given(Claim(4, IT, "c" * 22, VOLUME, ClaimKind.PULL, "q" * 22), SMALL_RECORD),
    "elsewhere": Elsewhere(IT, 9, VOLUME, keeps=True),
    "unknown": Unknown(),
    "not_now": NotNow("the disk says nothing"),
    "inherited": Inherited(VOLUME),
    "done": Done(),
    "document": Page({"uploads": [{"id": UPLOAD}]}),
}
