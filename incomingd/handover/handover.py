"""When which web app is called, and what follows from its answer.

Everything that must survive a restart stands in the upload's record: attempts,
the time of the next one, the one id of all attempts. In memory there is only a
queue of (time, upload).
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import urlencode, urlsplit

from incomingd.core.errors import Code, Refusal
from incomingd.core.pacing import backoff_s
from incomingd.core.record import Delivery, Record
from incomingd.core.status import Status
from incomingd.engine import ending
from incomingd.engine.bell import Bell
from incomingd.engine.events import Told
from incomingd.engine.outcomes import OwnedElsewhereError
from incomingd.handover.slots import Slots
from incomingd.log import events, get_logger
from incomingd.metrics import Metrics
from incomingd.storage.volume import VolumeError
from incomingd.wire.callback import COMPLETE, Answer, Callback, callback

if TYPE_CHECKING:
    from collections.abc import Callable

    from incomingd.engine.engine import Engine
    from incomingd.engine.owned import OwnedUpload
    from incomingd.handover.caller import Caller

log = get_logger()

LOOK_INTERVAL_S = 60.0
"""Wall clocks jump: what is due is looked for at least so often."""
CLOCK_SET_BACK_S = 60.0
"""By so much, and what was planned before is looked at again."""
RETRY_AFTER_TROUBLE_S = 5.0
"""Where not the web app but this side had a problem."""


@dataclass(frozen=True, slots=True)
class HandoverOptions:
    """Replaced as a whole when the configuration is read again."""

    give_up_after_s: float = 3 * 86400.0
    confirm_timeout_s: float = 600.0
    backoff_first_s: float = 1.0
    backoff_max_s: float = 3600.0
    concurrency: int = 16
    backend_base_url: str = ""
    """Of the download URL."""
    public_base_url: str | None = None


class Handover:
    """One for each process."""

    def __init__(
        self, engine: Engine, caller: Caller, options: HandoverOptions, metrics: Metrics | None = None
    ) -> None:
        self._metrics = metrics or Metrics(version="", instance="")
        self._engine = engine
        self._caller = caller
        self.options = options
        self._queue: list[tuple[float, str]] = []
        self._planned: dict[str, float] = {}
        self._hosts: dict[str, str] = {}
        """Whom an upload that is planned belongs to."""
        self._slots = Slots()
        self._waiting: set[str] = set()
        self._again: set[str] = set()
        self._bell = Bell()
        self._ahead_s = float("-inf")
        """How far the wall clock was ahead of the one that never jumps."""
        subscribe = engine.services.events.subscribe
        subscribe(Told.WHOLE, self.plan)
        subscribe(Told.DUE, self.plan)

    @property
    def under_way(self) -> int:
        """Callbacks that are being made just now."""
        return len(self._slots)

    def plan(self, record: Record) -> None:
        """Plan what is due for the upload; from its record alone."""
        at = _due_at(record, self._next_at)
        if at is not None:
            self._hosts[record.upload_id] = urlsplit(record.terms.finish_url).hostname or ""
            self._plan_at(record.upload_id, at)

    def _plan_at(self, upload_id: str, at: float) -> None:
        known = self._planned.get(upload_id)
        if known is not None and known <= at:
            return
        self._planned[upload_id] = at
        heapq.heappush(self._queue, (at, upload_id))
        self._bell.ring()

    def _next_at(self, delivery: Delivery) -> float:
        """Return the Unix time of the delivery's next attempt.

        None is ever planned further ahead than the longest back-off: what seems
        to be was planned by a clock that has been set back since, by days
        perhaps, and is due now.
        """
        at = delivery.next_attempt_at or 0.0
        now = self._engine.services.clock.now()
        return at if at <= now + self.options.backoff_max_s else now

    def _look_again_if_set_back(self) -> None:
        """Have all that is planned looked at again if the clock was set back."""
        clock = self._engine.services.clock
        now = clock.now()
        ahead_s = now - clock.monotonic()
        if ahead_s < self._ahead_s - CLOCK_SET_BACK_S:
            for upload_id, at in list(self._planned.items()):
                if at > now:
                    self._plan_at(upload_id, now)
        self._ahead_s = ahead_s

    async def run(self) -> None:
        """Make callbacks as they fall due, until cancelled."""
        clock = self._engine.services.clock
        while True:
            self._look_again_if_set_back()
            now = clock.now()
            while self._queue and self._queue[0][0] <= now:
                at, upload_id = heapq.heappop(self._queue)
                if self._planned.get(upload_id) != at:
                    continue
                del self._planned[upload_id]
                if upload_id in self._slots:
                    self._again.add(upload_id)
                elif upload_id not in self._waiting:
                    self._waiting.add(upload_id)
                    self._slots.wait(upload_id, self._hosts.pop(upload_id, ""))
            for upload_id in self._slots.take(self.options.concurrency):
                self._waiting.discard(upload_id)
                _ = clock.spawn(self._deliver(upload_id), name=f"deliver {upload_id}")
            wait_s = max(self._queue[0][0] - now, 0.0) if self._queue else LOOK_INTERVAL_S
            await self._bell.wait(clock, min(wait_s, LOOK_INTERVAL_S))

    async def _deliver(self, upload_id: str) -> None:
        """Do what is due for one upload, and plan what comes after."""
        clock = self._engine.services.clock
        try:
            async with self._engine.owning(upload_id) as upload:
                record = upload.record
                pending = [n for n in record.notifications if not (n.delivered or n.given_up)]
                first = min(pending, key=self._next_at, default=None)
                if first is not None and self._next_at(first) <= clock.now():
                    await self._notify(upload, first)
                elif record.status is Status.HANDING_OVER:
                    # What the app answered could not be stored: ask again.
                    error = record.handover.delivery.last_error if record.handover.delivery else None
                    await ending.handover_failed(upload, error=error, next_attempt_at=clock.now())
                elif record.status is Status.COMPLETE:
                    await self._hand_over(upload)
                elif record.status is Status.AWAITING_APP:
                    await self._look_at_deadline(upload)
                self.plan(upload.record)
        except OwnedElsewhereError:
            # A live instance has it, and hands it over.
            pass
        except (Refusal, VolumeError) as error:
            log.warning(events.UPKEEP_DELAYED, upload_id=upload_id, detail=str(error))
            if not (isinstance(error, Refusal) and error.code is Code.UPLOAD_UNKNOWN):
                self._plan_at(upload_id, clock.now() + RETRY_AFTER_TROUBLE_S)
        finally:
            self._slots.release(upload_id)
            if upload_id in self._again:
                self._again.discard(upload_id)
                self._plan_at(upload_id, clock.now())
            self._bell.ring()

    # -- the complete file

    async def _hand_over(self, upload: OwnedUpload) -> None:
        delivery = upload.record.handover.delivery
        if delivery is None or delivery.given_up or self._next_at(delivery) > self._engine.services.clock.now():
            return
        if not upload.record.terms.finish_url:
            # Begun without a ticket: there is nobody to ask.
            if await ending.handover_started(upload):
                await ending.app_done(upload, message=None, client_data=None)
            return
        if not await ending.handover_started(upload):
            return
        delivery = upload.record.handover.delivery
        assert delivery is not None
        answer = await self._call(upload.record, delivery)
        await self._draw_consequence(upload, delivery, answer)

    async def _draw_consequence(self, upload: OwnedUpload, delivery: Delivery, answer: Answer) -> None:
        now = self._engine.services.clock.now()
        if answer.result == "done":
            await ending.app_done(upload, message=answer.message, client_data=answer.client_data)
        elif answer.result == "refuse":
            await ending.app_refused(upload, message=answer.message, client_data=answer.client_data)
        elif answer.result == "wait":
            within_s = answer.confirm_within_s or self.options.confirm_timeout_s
            await ending.app_waits(
                upload,
                deadline=now + within_s,
                message=answer.message,
                client_data=answer.client_data,
            )
        else:
            next_at = self._next_attempt_at(delivery, answer)
            await ending.handover_failed(upload, error=answer.error or "unknown", next_attempt_at=next_at)
            if next_at is None:
                log.error(
                    events.HANDOVER_GIVEN_UP,
                    upload_id=upload.id,
                    webhook_id=delivery.webhook_id,
                    attempt=delivery.attempts,
                    detail=answer.error,
                )
            return
        log.info(
            events.HANDOVER_ENDED,
            upload_id=upload.id,
            webhook_id=delivery.webhook_id,
            attempt=delivery.attempts,
            result=answer.result,
        )

    async def _look_at_deadline(self, upload: OwnedUpload) -> None:
        deadline = upload.record.handover.wait_deadline
        if deadline is not None and deadline <= self._engine.services.clock.now():
            await ending.app_refused(
                upload,
                message="The web app did not confirm in time.",
                client_data=upload.record.handover.client_data,
                by_deadline=True,
            )

    # -- everything else the app is told

    async def _notify(self, upload: OwnedUpload, delivery: Delivery) -> None:
        now = self._engine.services.clock.now()
        delivery = replace(
            delivery,
            attempts=delivery.attempts + 1,
            first_attempt_at=delivery.first_attempt_at or now,
            next_attempt_at=None,
        )
        answer = await self._call(upload.record, delivery)
        if answer.result == "error":
            next_at = self._next_attempt_at(delivery, answer)
            outcome = replace(
                delivery,
                last_error=answer.error,
                next_attempt_at=next_at,
                given_up=next_at is None,
            )
        else:
            outcome = replace(delivery, delivered=True, last_error=None)
        await ending.notified(upload, delivery.webhook_id, outcome)

    # -- one attempt

    async def _call(self, record: Record, delivery: Delivery) -> Answer:
        clock = self._engine.services.clock
        started = clock.monotonic()
        answer = await self._caller.call(self._callback(record, delivery), delivery.type)
        duration_s = clock.monotonic() - started
        self._metrics.callback_made(kind=delivery.type, result=answer.result, duration_s=duration_s)
        level = log.warning if answer.result == "error" else log.info
        fields: dict[str, object] = {
            "upload_id": record.upload_id,
            "webhook_id": delivery.webhook_id,
            "attempt": delivery.attempts,
            "host": urlsplit(record.terms.finish_url).hostname,
            "result": answer.result,
            "duration_s": round(duration_s, 3),
            "detail": answer.error,
        }
        if delivery.type == COMPLETE:
            level(events.HANDOVER_ATTEMPTED, **fields)
        else:
            level(events.NOTIFICATION_ATTEMPTED, event_type=delivery.type, **fields)
        return answer

    def _callback(self, record: Record, delivery: Delivery) -> Callback:
        path = self._engine.services.volume.path_of(record)
        token = record.handover.download_token
        download_url = None
        if token is not None:
            query = urlencode({"token": token})
            download_url = (
                f"{self.options.backend_base_url}/incoming/1.0/backend/uploads/{record.upload_id}/file?{query}"
            )
        return callback(
            record,
            delivery,
            path=str(path) if path is not None else None,
            download_url=download_url,
            base_url=self.options.public_base_url,
            now=self._engine.services.clock.now(),
        )

    def _next_attempt_at(self, delivery: Delivery, answer: Answer) -> float | None:
        clock = self._engine.services.clock
        now = clock.now()
        began = delivery.first_attempt_at if delivery.first_attempt_at is not None else now
        if answer.ends_attempts or now - began >= self.options.give_up_after_s:
            return None
        return now + backoff_s(
            delivery.attempts,
            first_s=self.options.backoff_first_s,
            max_s=self.options.backoff_max_s,
            jitter=clock.jitter(),
        )


def _due_at(record: Record, next_at: Callable[[Delivery], float]) -> float | None:
    """Return the Unix time at which something is due for an upload, or None."""
    times = [next_at(n) for n in record.notifications if not (n.delivered or n.given_up)]
    delivery = record.handover.delivery
    if record.status in (Status.COMPLETE, Status.HANDING_OVER) and record.joined:
        if delivery is not None and not delivery.given_up:
            times.append(next_at(delivery))
    elif record.status is Status.AWAITING_APP and record.handover.wait_deadline is not None:
        times.append(record.handover.wait_deadline)
    return min(times) if times else None
