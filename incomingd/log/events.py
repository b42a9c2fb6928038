"""The catalogue of log events: every name, its levels, what it means and which fields it may have.

To add one, write one line below: `THING_DONE = _event("thing.done", "info", "meaning", "field field")`. A field that
no event had before is described once in `FIELDS`, so that it means the same everywhere. The page docs/log-events.md
is made from here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, cast, get_args

Level = Literal["debug", "info", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Field:
    """What a field means, in one sentence, with its unit where its name does not end in one."""

    meaning: str


# What every event may have besides its own fields: set for a request once, or by the way it is logged.
COMMON_FIELDS: Final = MappingProxyType(
    {
        "exception": Field("A traceback, without the values of variables."),
        "request_id": Field("The request in question: the same id as in its answer and in problem documents."),
        "trace_id": Field("The trace (W3C Trace Context) that the request belongs to, where it named one."),
    }
)

FIELDS: Final = MappingProxyType(
    {
        "address": Field("The client's address, as `log.client_address` allows."),
        "applied": Field("Keys whose new values are in force."),
        "attempt": Field("Which attempt this was, counted from 1."),
        "bytes": Field("How many bytes were taken in and kept."),
        "code": Field("The stable code of the problem, as in the catalogue of problems."),
        "config_file": Field("The file that was read; null where there is none."),
        "delay_s": Field("How long the newer request was made to wait first."),
        "deleted": Field("How many records were deleted for good."),
        "detail": Field("What happened, in words."),
        "dropped": Field("How many log lines were dropped."),
        "duration_s": Field("How long it took."),
        "ended_by": Field(
            "Who or what ended it: `complete`, `length` (the request's own length), `client`, `timeout`, `rate`,"
            " `limit`, `disk`, `checksum`, `preempted`, `cancelled`, `expired`, `shutdown`, `error`."
        ),
        "event_type": Field("The type of the callback, as `upload.complete`."),
        "expired": Field("How many uploads were expired."),
        "final_status": Field("The final status of the upload."),
        "held_back_s": Field("How long limits of bytes a second held it back."),
        "host": Field("The host that the callback goes to."),
        "left_out": Field("How many such lines were left out since the last one, so that they do not fill the log."),
        "length": Field("The length of the file in bytes; null where it is not known yet."),
        "library": Field("The library that logged it."),
        "limit": Field("The limit that was reached."),
        "listener": Field("`public`, `backend` or `admin`."),
        "listeners": Field("Where each listener listens."),
        "message": Field("The text that the library logged."),
        "method": Field("The method of the request."),
        "needs_restart": Field("Keys that have changed and take effect at the next start only."),
        "next_attempt_in_s": Field("When the next attempt is made; null where none is."),
        "came": Field("Names of instances that were not there before."),
        "count": Field("How many there are now."),
        "epoch": Field("The number of the claim by which the tenure in question began."),
        "format": Field("The number of the format of records, registry values and peer messages."),
        "gone": Field("Names of instances that are not there any more."),
        "invited": Field("How many uploads another instance was asked to look after."),
        "kind": Field("What it is."),
        "offset": Field("The offset in bytes."),
        "peer": Field("The other instance."),
        "offset_after": Field("The offset when it ended, in bytes."),
        "offset_before": Field("The offset when it began, in bytes."),
        "part": Field("The number of the part, for a part of a parallel upload."),
        "parts": Field("How many parts were joined."),
        "path": Field("The path's template, as `/incoming/1.0/frontend/uploads/{id}`."),
        "pid": Field("The process id."),
        "problems": Field("What is wrong, one text each."),
        "protocol": Field("`tus`, or the name of the other protocol."),
        "reason": Field("Why."),
        "result": Field("What came of it: `done`, `wait`, `refused`, `error`."),
        "setting": Field("The configuration key in question."),
        "signal": Field("The signal that was received."),
        "source": Field("Where it is configured."),
        "stack": Field(
            "What it was doing while it lasted: functions with their lines, the innermost last; null where nobody could"
            " look."
        ),
        "status": Field("The status code of the HTTP answer; null where none was given."),
        "uploads": Field("How many uploads are concerned."),
        "upload_id": Field("The upload."),
        "version": Field("The version of incomingd."),
        "volume_id": Field("The volume."),
        "volume_path": Field("The directory of the volume."),
        "webhook_id": Field("The id of the callback, the same for all its attempts."),
    }
)


class Event(str):
    """The name of an event, with what the catalogue says of it. It is a `str`: the text that is logged."""

    __slots__ = ("fields", "levels", "meaning")

    levels: tuple[Level, ...]
    meaning: str
    fields: Mapping[str, Field]


_catalogue: dict[str, Event] = {}


def _event(name: str, levels: str, meaning: str, fields: str, **meanings: str) -> Event:
    """Put an event into the catalogue. `meanings` are those of fields that mean something more precise here."""
    event = Event(name)
    event.levels = cast("tuple[Level, ...]", tuple(levels.split()))
    event.meaning = meaning
    names = fields.split()
    unknown = (set(names) - FIELDS.keys()) | (meanings.keys() - set(names))
    assert not unknown, f"{name} has fields that FIELDS does not describe: {unknown}"
    assert name not in _catalogue, f"{name} is in the catalogue twice"
    assert event.levels, f"{name} has no level"
    assert set(event.levels) <= set(get_args(Level)), f"{name} has a level that there is not"
    event.fields = {field: Field(meanings[field]) if field in meanings else FIELDS[field] for field in names}
    _catalogue[name] = event
    return event


# The daemon itself
DAEMON_STARTED: Final = _event(
    "daemon.started", "info", "The process has read its configuration and begins.", "version pid config_file"
)
DAEMON_READY: Final = _event(
    "daemon.ready",
    "info",
    "Volumes are open, listeners listen: requests are answered from now on.",
    "listeners duration_s uploads",
    duration_s="From the start of the process.",
    uploads="How many uploads that have not ended were found.",
)
DAEMON_STOPPING: Final = _event(
    "daemon.stopping",
    "info",
    "The process was asked to stop; open requests may end within the time of grace.",
    "signal uploads",
    uploads="How many uploads are being sent at this moment.",
)
DAEMON_STOPPED: Final = _event(
    "daemon.stopped",
    "info",
    "Everything is put down; the process ends.",
    "duration_s",
    duration_s="From the signal until now.",
)
DAEMON_CRASHED: Final = _event(
    "daemon.crashed", "error", "An exception that nobody caught ends the process or one of its threads.", "reason"
)
DAEMON_START_FAILED: Final = _event(
    "daemon.start_failed", "error", "The process cannot begin: an address or its volume cannot be had.", "reason"
)
MANAGER_NOT_TOLD: Final = _event(
    "manager.not_told",
    "warning",
    "The service manager (systemd) cannot be told how this process is; said once. It may take the process for hung.",
    "setting detail",
    setting="The environment variable that names its socket.",
)
CONFIG_RELOADED: Final = _event(
    "config.reloaded",
    "info warning",
    "The configuration was read again; `warning` where some of it needs a restart.",
    "applied needs_restart config_file",
)
CONFIG_RELOAD_REFUSED: Final = _event(
    "config.reload_refused",
    "error",
    "The new configuration has mistakes; the old one stays in force, wholly.",
    "problems config_file",
)
CONFIG_DOUBTED: Final = _event(
    "config.doubted",
    "warning",
    "Something in the configuration works and is probably not meant.",
    "setting source detail",
)
TLS_RELOADED: Final = _event(
    "tls.reloaded", "info", "Certificate and key of a listener were read again; open connections go on.", "listener"
)
LOG_LINES_DROPPED: Final = _event(
    "log.lines_dropped",
    "error",
    "Whoever reads the log did not keep up, and lines were dropped rather than requests delayed.",
    "dropped",
)

# Volumes
VOLUME_OPENED: Final = _event(
    "volume.opened",
    "info",
    "A volume was probed and is in use.",
    "volume_id volume_path uploads duration_s",
    uploads="How many records lie on it.",
)
VOLUME_FAILED: Final = _event(
    "volume.failed",
    "error",
    "A volume cannot be read or written; its uploads are refused with 503 or 507 until it can.",
    "volume_id volume_path code detail",
)
VOLUME_RECOVERED: Final = _event(
    "volume.recovered",
    "info",
    "A volume that had failed works again.",
    "volume_id volume_path duration_s",
    duration_s="How long it had failed.",
)
VOLUME_FILLED: Final = _event(
    "volume.filled",
    "warning",
    "No more is free on the volume than what is reserved: the other instances give this one nothing.",
    "volume_id",
)
VOLUME_CLEARED: Final = _event("volume.cleared", "info", "There is room on the volume again.", "volume_id")

# Uploads
TICKET_CREATED: Final = _event("ticket.created", "info", "A web app got a ticket.", "upload_id length address")
UPLOAD_PULLED: Final = _event(
    "upload.pulled",
    "info",
    "This instance has become the owner of an upload.",
    "upload_id offset reason epoch",
    reason="`parked`; `orphan`: its owner is gone; `silent`: its owner did not answer for a lease time; `abandoned`:"
    " its owner lives and has let go of it; `own`: this run has let go of it before; `given`: by an instance on another"
    " volume.",
)
UPLOAD_PARKED: Final = _event(
    "upload.parked",
    "info",
    "This instance has given an upload up, so that any other can have it.",
    "upload_id offset reason",
    reason="`preempted`: its client came to another instance; `shutdown`: this one is being emptied.",
)
DRAIN_STARTED: Final = _event(
    "drain.started", "info", "This instance gives all its uploads away and takes none.", "uploads"
)
DRAIN_ENDED: Final = _event(
    "drain.ended", "info", "Nothing is here any more that another instance could have.", "uploads invited duration_s"
)
DRAIN_RESUMED: Final = _event(
    "drain.resumed", "info", "Another instance has come that takes what none took before: it is given away now.", ""
)
DRAIN_UNDONE: Final = _event("drain.undone", "info", "This instance takes uploads again.", "")
RETIREMENT_STARTED: Final = _event(
    "retirement.started", "info", "This instance goes for good: another one is to keep its records.", "peer volume_id"
)
RETIREMENT_DELAYED: Final = _event(
    "retirement.delayed", "warning", "The heir does not keep the records just now; it is tried again.", "detail peer"
)
RETIREMENT_ENDED: Final = _event(
    "retirement.ended",
    "info",
    "The heir has all records, durably, and answers for the volume: this instance never serves on it again.",
    "count duration_s peer volume_id",
)
VOLUME_INHERITED: Final = _event(
    "volume.inherited", "info", "This instance answers for a volume that has retired, from now on.", "volume_id"
)
DRAIN_INVITATIONS_LOST: Final = _event(
    "drain.invitations_lost",
    "info",
    "The registry could not be told whom parked uploads are for: the instances that look after them find them.",
    "uploads",
)
REGISTRY_LOST: Final = _event(
    "registry.lost",
    "warning",
    "The registry is out of reach: this instance goes on with what it owns, and finds other owners by their claims.",
    "code detail",
)
REGISTRY_BACK: Final = _event("registry.back", "info", "The registry answers.", "")
REGISTRY_RESET: Final = _event(
    "registry.reset",
    "warning",
    "The registry has lost what it knew, or is another server: this instance tells it again what it owns.",
    "",
)
REGISTRY_VALUE_UNREADABLE: Final = _event(
    "registry.value_unreadable",
    "warning",
    "A value in the registry is damaged or of an unknown format; it counts as missing.",
    "kind detail",
    kind="`lease`, `ownership` or `invitation`.",
)
REGISTRY_NAME_SHARED: Final = _event(
    "registry.name_shared",
    "error",
    "Another process keeps a lease under this instance's name: give each instance a name of its own.",
    "peer",
)
RING_CHANGED: Final = _event("ring.changed", "info", "Instances have come or gone.", "came gone count")
FORMAT_CHANGED: Final = _event(
    "format.changed",
    "info",
    "What others read is written in another format from now on: the former one while somebody reads no newer.",
    "format",
)
UPLOAD_GIVEN: Final = _event(
    "upload.given",
    "info",
    "An upload was given to an instance that does not reach this one's volume; its bytes are copied from here.",
    "upload_id offset epoch peer",
)
UPLOAD_GIVEN_BACK: Final = _event(
    "upload.given_back", "info", "The instance that it was given to could not take it.", "upload_id epoch"
)
UPLOAD_RELEASED: Final = _event(
    "upload.released", "info", "The owner has copies of these segments; they are deleted here.", "upload_id count"
)
UPLOAD_BACKFILLED: Final = _event(
    "upload.backfilled", "info", "All earlier bytes of an upload have been copied here.", "upload_id bytes duration_s"
)
BACKFILL_DELAYED: Final = _event(
    "backfill.delayed", "info", "Earlier bytes cannot be copied just now; it is tried again.", "upload_id detail"
)
LISTING_PARTIAL_ANSWERED: Final = _event(
    "listing.partial_answered",
    "warning",
    "An instance did not tell of its uploads: the list that was asked for lacks them, and says so.",
    "peer detail",
)
UPLOAD_SUPERSEDED: Final = _event(
    "upload.superseded",
    "warning",
    "Another instance has taken the upload: nothing of what this one did since was told to anybody.",
    "upload_id epoch",
)
UPLOAD_BEGUN_ANEW: Final = _event(
    "upload.begun_anew",
    "info",
    "A client created its upload again, with another file or settings: the bytes kept so far are dropped.",
    "upload_id offset reason address",
)
APPEND_ENDED: Final = _event(
    "append.ended",
    "info warning",
    "The bytes of one request have gone into an upload: the one line to read about an append.",
    "upload_id part offset_before offset_after bytes length duration_s held_back_s ended_by status code protocol"
    " address detail",
)
APPEND_PREEMPTED: Final = _event(
    "append.preempted",
    "info warning",
    "A newer request for the same upload came; the older append was brought to rest."
    " `warning`: again and again, as with two tabs.",
    "upload_id part offset delay_s address",
)
UPLOAD_JOIN_FAILED: Final = _event(
    "upload.join_failed",
    "warning",
    "The segments of a complete upload could not be made one file; it is tried again.",
    "upload_id detail",
)
UPLOAD_DROP_FAILED: Final = _event(
    "upload.drop_failed",
    "warning",
    "Bytes that nobody needs any more could not be deleted; they go with the record.",
    "upload_id detail",
)
RECORD_UNREADABLE: Final = _event(
    "record.unreadable",
    "error",
    "An upload's record is damaged or of an unknown format; the upload is refused, nothing of it is touched.",
    "upload_id detail",
)
UPKEEP_DELAYED: Final = _event(
    "upkeep.delayed",
    "info warning",
    "Something that was due for an upload at rest could not be done yet; it is tried again.",
    "upload_id detail",
)
UPLOAD_JOINED: Final = _event(
    "upload.joined",
    "info",
    "The segments of an upload are one file now.",
    "upload_id bytes parts duration_s",
    bytes="How many bytes had to be copied; 0 where a link did it.",
)
UPLOAD_COMPLETED: Final = _event(
    "upload.completed",
    "info",
    "All bytes are in; the hand-over comes next.",
    "upload_id length duration_s",
    duration_s="From its first request until now.",
)
DOWNLOAD_STALLED: Final = _event(
    "download.stalled",
    "info",
    "Whoever fetched a complete file has read nothing of it for `limits.body_idle_timeout_s`; it was closed.",
    "upload_id offset",
)
UPLOAD_CANCELLED: Final = _event(
    "upload.cancelled", "info", "The client or the web app gave the upload up.", "upload_id offset reason address"
)
UPLOAD_EXPIRED: Final = _event(
    "upload.expired", "info", "The upload was not complete when its time was over.", "upload_id offset length"
)
UPLOAD_LOST: Final = _event(
    "upload.lost", "error", "Bytes that were kept are not on the volume any more.", "upload_id offset detail"
)
UPLOAD_ENDED: Final = _event(
    "upload.ended",
    "info",
    "The upload has a final status; its bytes are deleted, or kept as the ticket says.",
    "upload_id final_status code bytes duration_s",
    bytes="The length of the file, or how much of it had been kept.",
    duration_s="From its ticket until now.",
)
SWEEP_ENDED: Final = _event(
    "sweep.ended",
    "debug info",
    "Expired uploads and old records were looked for; `info` where there were some.",
    "expired deleted duration_s",
)

# Hand-over
HANDOVER_ATTEMPTED: Final = _event(
    "handover.attempted",
    "info warning",
    "One callback with a complete file was made: `warning` where it failed.",
    "upload_id webhook_id attempt host status result detail duration_s next_attempt_in_s",
)
HANDOVER_ENDED: Final = _event(
    "handover.ended",
    "info warning",
    "The web app has the file, or refused it.",
    "upload_id webhook_id attempt result detail duration_s",
    attempt="How many attempts it took.",
    duration_s="From the first attempt until now.",
)
HANDOVER_GIVEN_UP: Final = _event(
    "handover.given_up",
    "error",
    "The callback failed for too long. The file stays; `incomingctl redeliver` starts again.",
    "upload_id webhook_id attempt detail duration_s",
    attempt="How many attempts were made.",
    duration_s="From the first attempt until now.",
)
NOTIFICATION_ATTEMPTED: Final = _event(
    "notification.attempted",
    "info warning",
    "One callback of another type (cancelled, expired, …) was made: `warning` where it failed.",
    "upload_id webhook_id event_type attempt host status result detail duration_s next_attempt_in_s",
)

# Between instances
PEER_REFUSED: Final = _event(
    "peer.refused",
    "warning",
    "A call to the peer listener came from nobody who has a key, or not in its time; told once a second at most.",
    "address detail",
    address="The address of whoever called.",
)

# Requests and connections
REQUEST_REFUSED: Final = _event(
    "request.refused",
    "info",
    "A request was refused, and its answer says why.",
    "code status method path listener upload_id address detail",
)
REQUEST_FAILED: Final = _event(
    "request.failed",
    "error",
    "A mistake of this program: the answer was 500.",
    "code status method path listener upload_id address",
)
PROXY_UNTRUSTED: Final = _event(
    "proxy.untrusted",
    "warning",
    "A request names another client, but comes from an address that public.trusted_proxies does not list;"
    " logged once for each address.",
    "setting address detail",
)
PARSE_REFUSED: Final = _event(
    "parse.refused",
    "info",
    "What came over a connection is no HTTP, or breaks a limit of its header section; the connection was closed.",
    "address detail",
)
CONNECTION_LIMIT_REACHED: Final = _event(
    "connection.limit_reached",
    "warning",
    "A listener has as many connections as limits.connections allows, or one client address as many as"
    " limits.connections_per_address does; further ones are closed. A few lines a minute at the most.",
    "listener setting limit address left_out",
    address="The address of this client; others may have been refused, too.",
)
CONNECTION_NOT_ACCEPTED: Final = _event(
    "connection.not_accepted",
    "warning",
    "The system could not give a listener its next connection, mostly because the process has no descriptor left "
    "(`ulimit -n`); it waits in the queue, and the listener tries again in half a second.",
    "listener detail",
)
LOOP_BLOCKED: Final = _event(
    "loop.blocked",
    "warning",
    "One turn of the event loop took more than 100 ms, in which everybody else waited. A few lines a minute at the"
    " most; `incomingd_loop_blocked_seconds` counts all.",
    "duration_s stack left_out",
)
LIBRARY_LOGGED: Final = _event(
    "library.logged",
    "debug info warning error",
    "A library that this program uses had something to say.",
    "library message",
)

CATALOGUE: Final = MappingProxyType(_catalogue)
