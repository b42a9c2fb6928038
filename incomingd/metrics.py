"""What Prometheus is told: counters and gauges of one daemon, without global state.

Names begin with ``incomingd_`` and end in their unit, as is the custom there. Labels hold only words of closed lists:
never an id, an address or anything that a client chooses.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from incomingd.core.status import Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from prometheus_client import Metric

    from incomingd.core.errors import Code

APPEND_BUCKETS_S: Final = (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 1800, 7200)
CALLBACK_BUCKETS_S: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
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
        self.appends_open = 0
        """Appends under way."""
        Gauge("incomingd_appends_open", "Appends under way.", registry=registry).set_function(lambda: self.appends_open)
        self._append_duration = Histogram(
            "incomingd_append_duration_seconds", "How long appends took.",
            ["protocol"], buckets=APPEND_BUCKETS_S, registry=registry,
        )  # fmt: skip
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
        self._lag = Histogram(
            "incomingd_loop_lag_seconds", "How late the event loop came to what was due.",
            buckets=LAG_BUCKETS_S, registry=registry,
        )  # fmt: skip
        # What never happened is told as 0: a rate needs the line to be there before the first time.
        for status in Status:
            if status.final:
                self._ended.labels(status.value)

    @contextlib.contextmanager
    def append_under_way(self) -> Iterator[None]:
        """A request's bytes are wanted, until they are in or it is clear that none come."""
        self.appends_open += 1
        try:
            yield
        finally:
            self.appends_open -= 1

    def append_ended(self, *, protocol: str, ended_by: str, kept_bytes: int, duration_s: float) -> None:
        """All of a request's bytes that will come have come.

        Args:
            protocol: `tus`, or the name of the other protocol.
            ended_by: as in the log's `append.ended`.
            kept_bytes: how many were kept.
            duration_s: from the request's beginning on.
        """
        self._appends.labels(protocol, ended_by).inc()
        self._received.labels(protocol).inc(max(kept_bytes, 0))
        self._append_duration.labels(protocol).observe(duration_s)

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

    def loop_lagged(self, lag_s: float) -> None:
        """The event loop came so much too late to what was due."""
        self._lag.observe(max(lag_s, 0.0))

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


class _WithoutBirthdays(Collector):
    """A registry that leaves out when each line was first written: twice the lines, and nobody asks."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for family in self._registry.collect():
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family
