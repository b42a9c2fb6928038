"""Every refusal that somebody outside can see, under a stable code.

The catalogue below is the only list: the problem documents, the browser
library, the log and ``docs/problems.md`` use its codes. Which HTTP status a
code becomes is said here once; a protocol that wants another status for a code
says so in its own table (:mod:`incomingd.wire.tus`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final


class Code(Enum):
    """The stable name of a refusal. Codes are added, never renamed."""

    # The request itself
    PATH_UNKNOWN = "path_unknown"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    METHOD_OVERRIDE_UNKNOWN = "method_override_unknown"
    HEADER_MISSING = "header_missing"
    HEADER_MALFORMED = "header_malformed"
    HEADER_REPEATED = "header_repeated"
    BODY_MALFORMED = "body_malformed"
    BODY_TOO_LARGE = "body_too_large"
    FIELD_INVALID = "field_invalid"
    VERSION_UNSUPPORTED = "version_unsupported"
    PROTOCOL_NOT_OFFERED = "protocol_not_offered"
    CONTENT_TYPE_WRONG = "content_type_wrong"
    ORIGIN_NOT_ALLOWED = "origin_not_allowed"
    TOKEN_MISSING = "token_missing"  # noqa: S105 -- a code, not a password
    TOKEN_WRONG = "token_wrong"  # noqa: S105 -- a code, not a password
    SECRET_WRONG = "secret_wrong"  # noqa: S105 -- a code, not a password

    # Which upload
    UPLOAD_UNKNOWN = "upload_unknown"
    UPLOAD_CANCELLED = "upload_cancelled"
    UPLOAD_EXPIRED = "upload_expired"
    UPLOAD_FAILED = "upload_failed"
    UPLOAD_LOST = "upload_lost"
    CREATION_NOT_OFFERED = "creation_not_offered"
    TOO_MANY_OPEN = "too_many_open"

    # Its beginning
    LENGTH_MISSING = "length_missing"
    LENGTH_CONTRADICTORY = "length_contradictory"
    LENGTH_DIFFERS = "length_differs"
    LENGTH_EXCEEDED = "length_exceeded"
    UPLOAD_TOO_LARGE = "upload_too_large"
    METADATA_MALFORMED = "metadata_malformed"
    METADATA_TOO_LARGE = "metadata_too_large"
    CONTENT_TYPE_NOT_ACCEPTED = "content_type_not_accepted"
    UPLOAD_COMPLETE = "upload_complete"

    # Its bytes
    OFFSET_MISMATCH = "offset_mismatch"
    CHECKSUM_MALFORMED = "checksum_malformed"
    CHECKSUM_ALGORITHM_UNKNOWN = "checksum_algorithm_unknown"
    CHECKSUM_MISMATCH = "checksum_mismatch"
    BODY_CUT = "body_cut"
    BODY_STALLED = "body_stalled"
    BODY_TOO_SLOW = "body_too_slow"
    PREEMPTED = "preempted"

    # Parts of a parallel upload
    CONCAT_MALFORMED = "concat_malformed"
    CONCAT_PART_UNKNOWN = "concat_part_unknown"
    CONCAT_FINAL = "concat_final"
    TOO_MANY_PARTS = "too_many_parts"

    # Its end
    CLIENT_CANCEL_REFUSED = "client_cancel_refused"
    HANDING_OVER = "handing_over"
    TOO_LATE = "too_late"
    NOT_WAITING = "not_waiting"
    NOTHING_TO_DELIVER = "nothing_to_deliver"
    FILE_NOT_READY = "file_not_ready"
    FILE_GONE = "file_gone"

    # Between instances
    PEER_REFUSED = "peer_refused"
    PEER_OTHER_RUN = "peer_other_run"
    PEER_FORMAT_UNKNOWN = "peer_format_unknown"

    # An instance that goes for good
    NO_HEIR = "no_heir"
    INSTANCE_RETIRED = "instance_retired"

    # A ticket that was made before
    TICKET_UNREADABLE = "ticket_unreadable"

    # The service
    STORAGE_FULL = "storage_full"
    STORAGE_UNAVAILABLE = "storage_unavailable"
    NOT_READY = "not_ready"
    UPLOAD_OUT_OF_REACH = "upload_out_of_reach"
    STOPPING = "stopping"
    INTERNAL_ERROR = "internal_error"


@dataclass(frozen=True, slots=True)
class Problem:
    """One line of the catalogue."""

    status: int
    """HTTP status, unless a protocol's own table says otherwise."""
    title: str
    """What went wrong, in a sentence that is the same for every occurrence."""
    remedy: str
    """What the caller can do about it; for the published list."""


PROBLEMS: Final[dict[Code, Problem]] = {
    Code.PATH_UNKNOWN: Problem(
        404,
        "There is nothing at this path.",
        "Check the path, and which listener it belongs to.",
    ),
    Code.METHOD_NOT_ALLOWED: Problem(
        405,
        "This resource does not take this method.",
        "Use one of the methods in the Allow header.",
    ),
    Code.METHOD_OVERRIDE_UNKNOWN: Problem(
        400,
        "X-HTTP-Method-Override names no method that can be asked for this way.",
        "Use PATCH, DELETE, HEAD or OPTIONS there.",
    ),
    Code.HEADER_MISSING: Problem(400, "A header that this request needs is missing.", "Send it."),
    Code.HEADER_MALFORMED: Problem(
        400,
        "A header's value cannot be read.",
        "Numbers are 1 to 18 ASCII digits; see the detail for the header.",
    ),
    Code.HEADER_REPEATED: Problem(
        400,
        "A header was sent twice with different values.",
        "Send it once; see whether a proxy adds one.",
    ),
    Code.BODY_MALFORMED: Problem(400, "The body cannot be read.", "Send a JSON object in UTF-8."),
    Code.BODY_TOO_LARGE: Problem(413, "The body is larger than this call takes.", "Send less in one call."),
    Code.FIELD_INVALID: Problem(
        400,
        "A field is missing, unknown or not of the expected form.",
        "See `errors`: each names the field and what was expected.",
    ),
    Code.VERSION_UNSUPPORTED: Problem(
        412,
        "This version of the tus protocol is not spoken here.",
        "Send Tus-Resumable: 1.0.0.",
    ),
    Code.PROTOCOL_NOT_OFFERED: Problem(
        400,
        "This upload protocol is not offered here.",
        "Use tus 1.0.0.",
    ),
    Code.CONTENT_TYPE_WRONG: Problem(
        415,
        "The body is not of the content type that this request needs.",
        "Bytes of a file come as application/offset+octet-stream.",
    ),
    Code.ORIGIN_NOT_ALLOWED: Problem(
        403,
        "Pages of this origin may not upload here.",
        "Add the origin to public.allowed_origins or to the ticket's origins.",
    ),
    Code.TOKEN_MISSING: Problem(
        401,
        "This call needs a token.",
        "Send Authorization: Bearer with one of backend.tokens.",
    ),
    Code.TOKEN_WRONG: Problem(403, "The token is not accepted.", "Use a valid token."),
    Code.SECRET_WRONG: Problem(
        403,
        "The upload's secret is missing or wrong.",
        "Send X-Incoming-Secret with the secret that the ticket was given.",
    ),
    Code.UPLOAD_UNKNOWN: Problem(404, "There is no such upload.", "Ask the web app for a new ticket."),
    Code.UPLOAD_CANCELLED: Problem(410, "The upload was cancelled.", "Ask the web app for a new ticket."),
    Code.UPLOAD_EXPIRED: Problem(410, "The upload has expired.", "Ask the web app for a new ticket."),
    Code.UPLOAD_FAILED: Problem(
        410,
        "The upload has failed: the web app refused the file or did not confirm it.",
        "See the upload's `error`; ask the web app for a new ticket.",
    ),
    Code.UPLOAD_LOST: Problem(
        410,
        "Bytes of the upload were lost on the server's disk.",
        "Ask the web app for a new ticket.",
    ),
    Code.CREATION_NOT_OFFERED: Problem(
        403,
        "Uploads are begun against a ticket here.",
        "Ask the web app for a ticket, or set public.open_creation.",
    ),
    Code.TOO_MANY_OPEN: Problem(
        503,
        "Too many uploads are open from this address.",
        "Wait until some have ended.",
    ),
    Code.LENGTH_MISSING: Problem(
        400,
        "The upload's length is missing.",
        "Send Upload-Length, or Upload-Defer-Length: 1.",
    ),
    Code.LENGTH_CONTRADICTORY: Problem(
        400,
        "Two statements about the upload's length contradict each other.",
        "Send exactly one of Upload-Length and Upload-Defer-Length: 1.",
    ),
    Code.LENGTH_DIFFERS: Problem(
        400,
        "The length differs from the one that this upload already has.",
        "The file has changed, or it is another one: begin anew.",
    ),
    Code.LENGTH_EXCEEDED: Problem(
        413,
        "The body has more bytes than the upload has room for.",
        "Send no more than Upload-Length minus Upload-Offset bytes.",
    ),
    Code.UPLOAD_TOO_LARGE: Problem(
        413,
        "The file is larger than this upload may be.",
        "See Tus-Max-Size; ask the web app for a larger ticket.",
    ),
    Code.METADATA_MALFORMED: Problem(
        400,
        "Upload-Metadata cannot be read.",
        "Send comma-separated pairs of a key and a Base64 value.",
    ),
    Code.METADATA_TOO_LARGE: Problem(400, "Upload-Metadata is too long.", "Send less metadata."),
    Code.CONTENT_TYPE_NOT_ACCEPTED: Problem(
        415,
        "The web app does not take files of this type for this upload.",
        "Choose a file of one of the accepted types.",
    ),
    Code.UPLOAD_COMPLETE: Problem(
        403,
        "The upload is complete; it cannot begin anew.",
        "Ask the web app for a new ticket for another file.",
    ),
    Code.OFFSET_MISMATCH: Problem(
        409,
        "The request starts at another offset than the upload has reached.",
        "Go on from the Upload-Offset of this answer.",
    ),
    Code.CHECKSUM_MALFORMED: Problem(
        400,
        "Upload-Checksum cannot be read.",
        "Send the algorithm's name, a blank, and the Base64 of the digest.",
    ),
    Code.CHECKSUM_ALGORITHM_UNKNOWN: Problem(
        400,
        "This checksum algorithm is not offered.",
        "Use one of Tus-Checksum-Algorithm.",
    ),
    Code.CHECKSUM_MISMATCH: Problem(
        460,
        "The bytes do not match their checksum and were discarded.",
        "Send them again from the same offset.",
    ),
    Code.BODY_CUT: Problem(
        400,
        "The body ended before its end.",
        "Nothing needs to be done: the bytes received are kept.",
    ),
    Code.BODY_STALLED: Problem(
        503,
        "No byte of the body came for too long.",
        "Ask for the offset and go on from there.",
    ),
    Code.BODY_TOO_SLOW: Problem(
        503,
        "The body came too slowly.",
        "Ask for the offset and go on from there.",
    ),
    Code.PREEMPTED: Problem(
        503,
        "A newer request for the same upload has taken over.",
        "If it was not yours, see that only one page sends this file.",
    ),
    Code.CONCAT_MALFORMED: Problem(
        400,
        "Upload-Concat cannot be read.",
        "Send `partial`, or `final;` and the parts' URLs.",
    ),
    Code.CONCAT_PART_UNKNOWN: Problem(
        400,
        "Upload-Concat names a part that is not one of this upload.",
        "Name parts that were made at this ticket.",
    ),
    Code.CONCAT_FINAL: Problem(
        403,
        "This upload is made of parts; bytes are sent to the parts.",
        "Send bytes to the parts' URLs.",
    ),
    Code.TOO_MANY_PARTS: Problem(413, "The upload has too many parts.", "Use at most 64 parts."),
    Code.CLIENT_CANCEL_REFUSED: Problem(
        403,
        "This upload cannot be cancelled by the client.",
        "Ask the web app to cancel it.",
    ),
    Code.HANDING_OVER: Problem(
        423,
        "The file is being handed over to the web app.",
        "Wait for its answer.",
    ),
    Code.TOO_LATE: Problem(
        409,
        "It is too late for this: see the upload's status.",
        "Look at the upload.",
    ),
    Code.NOT_WAITING: Problem(
        409,
        "The upload does not wait for a confirmation.",
        "Confirm only after having answered `wait`.",
    ),
    Code.NOTHING_TO_DELIVER: Problem(
        409,
        "There is no callback to be made again.",
        "Redeliver complete uploads, or ended ones whose callback failed.",
    ),
    Code.FILE_NOT_READY: Problem(409, "The file is not whole yet.", "Wait for the callback."),
    Code.FILE_GONE: Problem(
        410,
        "The file is not here any more.",
        "It was handed over and deleted, or the web app has moved it away.",
    ),
    Code.PEER_REFUSED: Problem(
        401,
        "This listener answers other instances of its fleet only.",
        "See that all have a key of peer.keys in common and that their clocks agree within 30 s.",
    ),
    Code.PEER_OTHER_RUN: Problem(
        421,
        "The run of the instance that was meant is over; another one answers here.",
        "Look at the volume again.",
    ),
    Code.NO_HEIR: Problem(
        409,
        "No instance can inherit the records of this one.",
        "Have another instance of the fleet take uploads, or name one that does.",
    ),
    Code.INSTANCE_RETIRED: Problem(
        409,
        "This instance has retired: another one answers for its uploads now.",
        "Stop it, and give it a new data directory if it is to serve again.",
    ),
    Code.PEER_FORMAT_UNKNOWN: Problem(
        400,
        "The message is of a format that this version does not read.",
        "Upgrade a fleet by one version at a time.",
    ),
    Code.TICKET_UNREADABLE: Problem(
        409,
        "The ticket that this Idempotency-Key has led to cannot be read.",
        "An operator must look (`record.unreadable` in the log). Another key leads to another ticket.",
    ),
    Code.STORAGE_FULL: Problem(
        507,
        "There is no room for these bytes.",
        "What was received is kept; try again when there is room.",
    ),
    Code.STORAGE_UNAVAILABLE: Problem(
        503,
        "The storage does not answer.",
        "What was received is kept; try again.",
    ),
    Code.NOT_READY: Problem(503, "This cannot be answered truly yet.", "Try again."),
    Code.UPLOAD_OUT_OF_REACH: Problem(
        503,
        "The upload lies where no live instance reaches it just now.",
        "Try again: it goes on once the host that has it is back. Nothing is lost.",
    ),
    Code.STOPPING: Problem(
        503,
        "This instance is being stopped.",
        "Try again at once: another one, or the restarted one, goes on.",
    ),
    Code.INTERNAL_ERROR: Problem(
        500,
        "Something went wrong here that should not.",
        "Report it with the request id.",
    ),
}


class Refusal(Exception):
    """A request that cannot be granted, with the reason in words and code.

    Args:
        code: the stable code.
        detail: what is wrong with this very request; never a secret.
        offset: the upload's true offset, where telling it helps.
        retry_after_s: when to try again, where that is known.
        extra: further members of the problem document (JSON values).
    """

    def __init__(
        self,
        code: Code,
        detail: str = "",
        *,
        offset: int | None = None,
        retry_after_s: int | None = None,
        extra: dict[str, object] | None = None,
    ) -> None:
        super().__init__(f"{code.value}: {detail or PROBLEMS[code].title}")
        self.code = code
        self.detail = detail or PROBLEMS[code].title
        self.offset = offset
        self.retry_after_s = retry_after_s
        self.extra = extra or {}

    @property
    def problem(self) -> Problem:
        """The catalogue's line for this code."""
        return PROBLEMS[self.code]
