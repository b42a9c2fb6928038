"""What Prometheus is told: counters and gauges of one daemon, without global state.

Names begin with ``incomingd_`` and end in their unit, as is the custom there. Labels hold only words of closed lists:
never an id, an address or anything that a client chooses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import Collector

from incomingd.core.status import Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from prometheus_client import Metric

    from incomingd.core.errors import Code

M = TypeVar("M", bound=MetricWrapperBase)

APPEND_BUCKETS_S: Final = (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 1800, 7200)
CALLBACK_BUCKETS_S: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
PEER_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15)
PEER_RESULTS: Final = ("answered", "failed", "silent", "gone", "refused")
"""What comes of a call to a peer: `failed`, it answers that it cannot or may not; the others as in docs/peers.md."""
PEER_REPEATS: Final = ("connection", "format")
"""Why a call is made again at once: a kept connection had ended; the peer reads the former format only."""
PEER_FLAWS: Final = ("unsigned", "unknown_key", "stale", "repeated")
"""Why somebody who called is not taken for a peer."""
PEER_BYTES: Final = ("backfill", "download")
BLOCKED_BUCKETS_S: Final = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
CONNECTION_LIMITS: Final = ("all", "address")
LAG_BUCKETS_S: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)


class Metrics:
    """One for each process, or for each test."""

    def __init__(self, *, version: str, instance: str) -> None:
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        Gauge(
            "incomingd_build_info", "Always 1; the labels say what runs here.",
            ["version", "instance"], registry=registry,
        ).labels(version, instance).set(1)  # fmt: skip
        self._state = Gauge(
            "incomingd_state", "1 for the state that the instance is in, 0 for the others.",
            ["state"], registry=registry,
        )  # fmt: skip
        self._appends = Counter(
            "incomingd_appends", "Requests whose bytes have gone into uploads, by who or what ended them.",
            ["protocol", "ended_by"], registry=registry,
        )  # fmt: skip
        self._received = Counter(
            "incomingd_received_bytes", "Bytes of files that were taken in and kept.", ["protocol"], registry=registry
        )
        self._bodies = Counter(
            "incomingd_body_bytes", "Bytes of bodies that have come, by the path that they took.", ["path"],
            registry=registry,
        )  # fmt: skip
        self.appends_open = 0
        """Appends under way."""
        Gauge("incomingd_appends_open", "Appends under way.", registry=registry).set_function(lambda: self.appends_open)
        self._append_duration = Histogram(
            "incomingd_append_duration_seconds", "How long appends took.",
            ["protocol"], buckets=APPEND_BUCKETS_S, registry=registry,
        )  # fmt: skip
        # Of what is counted for each request.
        self._append_lines = _Lines(self._appends)
        self._received_lines = _Lines(self._received)
        self._append_duration_lines = _Lines(self._append_duration)
        self._body_lines = _Lines(self._bodies)
        self._created = Counter("incomingd_tickets_created", "Tickets that were made.", registry=registry)
        self._ended = Counter(
            "incomingd_uploads_ended", "Uploads that have got a final status.", ["status"], registry=registry
        )
        self._uploads = Gauge("incomingd_uploads", "Uploads on the volume, by status.", ["status"], registry=registry)
        self._stuck = Gauge(
            "incomingd_handovers_stuck", "Complete files whose callback was given up; `redeliver` starts again.",
            registry=registry,
        )  # fmt: skip
        self._callbacks = Counter(
            "incomingd_callbacks", "Callbacks that were made, by what came of them.",
            ["type", "result"], registry=registry,
        )  # fmt: skip
        self._callback_duration = Histogram(
            "incomingd_callback_duration_seconds", "How long web apps took to answer.",
            ["type"], buckets=CALLBACK_BUCKETS_S, registry=registry,
        )  # fmt: skip
        self._refused = Counter(
            "incomingd_refusals", "Requests that were refused, by listener and code (docs/problems.md).",
            ["listener", "code"], registry=registry,
        )  # fmt: skip
        self._free = Gauge(
            "incomingd_volume_free_bytes", "Room that is left on the volume.", ["volume"], registry=registry
        )
        self._connections = Gauge("incomingd_connections_open", "Open connections.", ["listener"], registry=registry)
        self._moves = {
            "pulled": Counter(
                "incomingd_uploads_pulled", "Uploads that this instance has become the owner of, by why it could.",
                ["reason"], registry=registry,
            ),
            "parked": Counter(
                "incomingd_uploads_parked", "Uploads that this instance has given up for any other to have, by why.",
                ["reason"], registry=registry,
            ),
            "recalled": Counter(
                "incomingd_recalls", "Requests to other owners to park an upload, by what came of them.",
                ["result"], registry=registry,
            ),
        }  # fmt: skip
        self._peer_calls = Counter(
            "incomingd_peer_calls", "Calls to other instances, by what was said and what came of it.",
            ["message", "result"], registry=registry,
        )  # fmt: skip
        self._peer_call_duration = Histogram(
            "incomingd_peer_call_duration_seconds", "How long other instances took to answer.",
            ["message"], buckets=PEER_BUCKETS_S, registry=registry,
        )  # fmt: skip
        self._peer_repeats = Counter(
            "incomingd_peer_calls_repeated", "Calls to other instances that were made a second time at once, by why.",
            ["reason"], registry=registry,
        )  # fmt: skip
        self._peer_rejected = Counter(
            "incomingd_peer_calls_rejected", "Calls on the peer listener that no peer has made now, by what is wrong.",
            ["reason"], registry=registry,
        )  # fmt: skip
        self._peer_bytes = {
            "received": Counter(
                "incomingd_peer_received_bytes", "Bytes of files that have come from other instances, by what for.",
                ["reason"], registry=registry,
            ),
            "sent": Counter(
                "incomingd_peer_sent_bytes", "Bytes of files that have gone to other instances, by what for.",
                ["reason"], registry=registry,
            ),
        }  # fmt: skip
        self._instances = Gauge(
            "incomingd_instances", "Instances that are alive as far as this one knows, itself among them.",
            registry=registry,
        )  # fmt: skip
        self._registry_available = Gauge(
            "incomingd_registry_available", "1 while the registry answers.", registry=registry
        )
        self._lease_holds = Gauge(
            "incomingd_lease_holds", "1 while this instance's own lease surely runs.", registry=registry
        )
        self._inherited = Gauge(
            "incomingd_retirement_inherited_records",
            "Of a drain that is for good: records that the heir has; 0 without one.", registry=registry,
        )  # fmt: skip
        self._to_inherit = Gauge(
            "incomingd_retirement_left_records",
            "Of a drain that is for good: records that the heir has not got yet, as far as it is known.",
            registry=registry,
        )  # fmt: skip
        self._lag = Histogram(
            "incomingd_loop_lag_seconds", "How late the event loop came to what was due.",
            buckets=LAG_BUCKETS_S, registry=registry,
        )  # fmt: skip
        self._blocked = Histogram(
            "incomingd_loop_blocked_seconds", "How long single turns of the event loop took, of more than 100 ms.",
            buckets=BLOCKED_BUCKETS_S, registry=registry,
        )  # fmt: skip
        self._connections_refused = Counter(
            "incomingd_connections_refused", "Connections that were closed at once, by the limit that was reached.",
            ["listener", "reason"], registry=registry,
        )  # fmt: skip
        # What never happened is told as 0: a rate needs the line to be there before the first time.
        for status in Status:
            if status.final:
                self._ended.labels(status.value)
        for counter, words in (
            (self._peer_repeats, PEER_REPEATS),
            (self._peer_rejected, PEER_FLAWS),
            *((each, PEER_BYTES) for each in self._peer_bytes.values()),
        ):
            for word in words:
                counter.labels(word)

    def append_under_way(self) -> AppendUnderWay:
        """A request's bytes are wanted, until they are in or it is clear that none come."""
        return AppendUnderWay(self)

    def append_ended(self, *, protocol: str, ended_by: str, kept_bytes: int, duration_s: float) -> None:
        """All of a request's bytes that will come have come.

        Args:
            protocol: `tus`, or the name of the other protocol.
            ended_by: as in the log's `append.ended`.
            kept_bytes: how many were kept.
            duration_s: from the request's beginning on.
        """
        self._append_lines[protocol, ended_by].inc()
        self._received_lines[protocol,].inc(max(kept_bytes, 0))
        self._append_duration_lines[protocol,].observe(duration_s)

    def body_ended(self, *, direct_bytes: int, read_bytes: int) -> None:
        """A body has come, as far as it will.

        Args:
            direct_bytes: taken from the socket by threads.
            read_bytes: read by the event loop.
        """
        for path, count in (("direct", direct_bytes), ("read", read_bytes)):
            if count:
                self._body_lines[path,].inc(count)

    def ticket_created(self) -> None:
        """A ticket was made."""
        self._created.inc()

    def upload_ended(self, status: Status) -> None:
        """An upload has got a final status."""
        self._ended.labels(status.value).inc()

    def callback_made(self, *, kind: str, result: str, duration_s: float) -> None:
        """A web app was called.

        Args:
            kind: type of the callback, as `upload.complete`.
            result: `done`, `wait`, `refuse`, `ok`, `error`.
            duration_s: until its answer, or until it was clear that there is none.
        """
        self._callbacks.labels(kind, result).inc()
        self._callback_duration.labels(kind).observe(duration_s)

    def refused(self, code: Code, *, listener: str) -> None:
        """A request was refused.

        Args:
            code: the problem's.
            listener: `public`, `backend` or `admin`.
        """
        self._refused.labels(listener, code.value).inc()

    def move_words(self, move: str, words: Iterable[str]) -> None:
        """Tell 0 of each word with which a step of uploads may be counted.

        Args:
            move: `pulled`, `parked` or `recalled`.
            words: why, or what came of it.
        """
        for word in words:
            self._moves[move].labels(word)

    def upload_moved(self, move: str, word: str) -> None:
        """An upload has come to this instance or left it, or its owner was asked for it; see :meth:`move_words`."""
        self._moves[move].labels(word).inc()

    def peer_messages(self, names: Iterable[str]) -> None:
        """Tell 0 of each call that may be made to other instances."""
        for name in names:
            self._peer_call_duration.labels(name)
            for result in PEER_RESULTS:
                self._peer_calls.labels(name, result)

    def peer_called(self, *, message: str, result: str, duration_s: float | None) -> None:
        """Another instance was called.

        Args:
            message: its name in the peer protocol.
            result: one of :data:`PEER_RESULTS`.
            duration_s: until its answer, or until it was clear that there is none; None: of a stream.
        """
        assert result in PEER_RESULTS, result
        self._peer_calls.labels(message, result).inc()
        if duration_s is not None:
            self._peer_call_duration.labels(message).observe(duration_s)

    def peer_call_repeated(self, reason: str) -> None:
        """A call is made again at once; *reason* is one of :data:`PEER_REPEATS`."""
        assert reason in PEER_REPEATS, reason
        self._peer_repeats.labels(reason).inc()

    def peer_rejected(self, reason: str) -> None:
        """Somebody who called is not taken for a peer; *reason* is one of :data:`PEER_FLAWS`."""
        assert reason in PEER_FLAWS, reason
        self._peer_rejected.labels(reason).inc()

    def peer_bytes(self, direction: str, reason: str, count: int) -> None:
        """Bytes of a file have gone over between two instances.

        Args:
            direction: `received` or `sent`.
            reason: one of :data:`PEER_BYTES`.
            count: how many.
        """
        assert reason in PEER_BYTES, reason
        self._peer_bytes[direction].labels(reason).inc(count)

    def loop_lagged(self, lag_s: float) -> None:
        """The event loop came so much too late to what was due."""
        self._lag.observe(max(lag_s, 0.0))

    def loop_blocked(self, duration_s: float) -> None:
        """One turn of the event loop took so long."""
        self._blocked.observe(duration_s)

    def listens(self, listener: str) -> None:
        """Tell 0 of what may happen at a listener."""
        for reason in CONNECTION_LIMITS:
            self._connections_refused.labels(listener, reason)

    def connection_refused(self, listener: str, reason: str) -> None:
        """A connection was closed at once; *reason* is one of :data:`CONNECTION_LIMITS`."""
        assert reason in CONNECTION_LIMITS, reason
        self._connections_refused.labels(listener, reason).inc()

    # -- read off at each scrape

    def set_state(self, state: str, states: list[str]) -> None:
        """Tell the state, of all that there are."""
        for each in states:
            self._state.labels(each).set(each == state)

    def set_uploads(self, counts: Mapping[Status, int], *, stuck: int) -> None:
        """Tell how many uploads there are, and of how many the hand-over was given up."""
        for status in Status:
            self._uploads.labels(status.value).set(counts.get(status, 0))
        self._stuck.set(stuck)

    def set_ring(self, *, instances: int, registry_available: bool, lease_holds: bool) -> None:
        """Tell what this instance knows of the others, and they of it."""
        self._instances.set(instances)
        self._registry_available.set(registry_available)
        self._lease_holds.set(lease_holds)

    def set_retirement(self, *, inherited: int, left: int) -> None:
        """Tell how much an heir has of what this instance leaves to it for good."""
        self._inherited.set(inherited)
        self._to_inherit.set(left)

    def set_volume_free(self, volume_id: str, free_bytes: int) -> None:
        """Tell how much room is left."""
        self._free.labels(volume_id).set(free_bytes)

    def set_connections(self, listener: str, count: int) -> None:
        """Tell how many connections of a listener are open."""
        self._connections.labels(listener).set(count)

    def render(self, accept: str) -> tuple[bytes, str]:
        """Return all of it and its content type, in the format that an Accept header asks for."""
        encode, content_type = choose_encoder(accept)
        return encode(_WithoutBirthdays(self._registry)), content_type


class AppendUnderWay:
    """Counts an append while the block runs."""

    __slots__ = ("_metrics",)

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def __enter__(self) -> None:
        self._metrics.appends_open += 1

    def __exit__(self, *_: object) -> None:
        self._metrics.appends_open -= 1


class _Lines(dict[tuple[str, ...], M]):
    """The lines of a metric by the values of their labels; the library looks each up under a lock, every time."""

    def __init__(self, metric: M) -> None:
        super().__init__()
        self._metric = metric

    def __missing__(self, values: tuple[str, ...]) -> M:
        line = self[values] = self._metric.labels(*values)
        return line


class _WithoutBirthdays(Collector):
    """A registry that leaves out when each line was first written: twice the lines, and nobody asks."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for family in self._registry.collect():
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family
