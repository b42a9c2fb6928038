"""Runs scenarios that are written down as text (`tests/scenarios/*.txt`).

A file is a row of blocks: commands, a line ``----``, and what must then be told,
line for line. Blocks stand apart by empty lines; ``#`` begins a remark.

======================================  ========================================================
``instances A B …``                     start them, wait until they know each other
``hosts A B …``                         the same, each on another host: the disk is a network's
``private A B …``                       the same, each with a volume of its own; tickets are made at the first
``volumes AB C …``                      the same: A and B share a volume, C has its own
``create u [LENGTH]``                   a ticket; without a length the file's end is told later
``A begin u``                           (again: anew)
``A append u TEXT [offset=N] [length=N]``  *TEXT* without quotes; from the offset told last, if none is given
``A head u``, ``A cancel u``, ``A confirm u``, ``A terminate u``, ``A expire u``
``… &``                                 go on without its answer; ``answer A`` tells it
``hold A at STEP [NUMBER]``             freeze the whole process at its call of the disk
``hold A after STEP [NUMBER]``          the same, when it is done, but nobody has heard of it
``fail A at STEP [NUMBER]``             that call of its fails
``fail A after STEP [NUMBER]``          the same, although it is done
``slow A at STEP [NUMBER]``             that call takes some seconds
``freeze A``, ``thaw A``, ``kill A``, ``start A``, ``drain A``, ``undrain A``
``drain A &``                           go on before it has ended; ``phase A`` tells how far it has come
``retire A [for B] [&]``                the same for good: B, or whoever the ring says, is its heir; ``retired A`` tells
``A ticket [KEY]``                      one more, of which nothing else is told; or the one that the key has led to
``unborn u A``                          an id of the volume of A under which nothing was ever made
``app done|wait|down``                  what the web app answers
``cut A B``, ``heal``                   they do not reach each other
``lose WHAT [NUMBER]``                  ``question``, ``recorded``, ``bytes``, …: such messages do not arrive
``unanswered WHAT [NUMBER]``            they arrive, and their answers do not
``delay WHAT [NUMBER]``, ``deliver WHAT``  they arrive when somebody says so
``recall A u EPOCH by B``               an old message arrives
``redis wipe|down|up|replica|fail-over``, ``set-owner u A EPOCH``
``clock A +SECONDS``, ``wait SECONDS``
``show u``                              tells claims, map (``1@A``: of tenure 1, on the volume of A), status
``holds u``                             tells who has bytes of it on a volume of its own
``traces u``                            tells on whose volumes anything of it stands
``file u``                              tells the complete file, as the web app has it
======================================  ========================================================
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from incomingd.core import codec, ids
from incomingd.core.commands import Append, Creation, Resource
from incomingd.core.errors import Refusal
from incomingd.core.peering import Recall
from incomingd.engine.appending import AppendReport
from incomingd.storage.memory_parts import Trouble
from tests.engine.world import Feed, new_terms
from tests.simulation.fleet import Ambush, Fleet, NoAnswerError, Process
from tests.simulation.network import Pick
from tests.simulation.processes import OUTSIDE, ProcessLoop, outside, outside_task
from tests.simulation.story import logging_to
from tests.simulation.truth import Attempt, Truth

HELD_S = 120.0
SLOW_S = 7.0
"""Longer than a peer waits for an answer."""


def run(path: Path) -> list[tuple[int, list[str], list[str], list[str]]]:
    """Run a scenario.

    Returns:
        For each block: the line at which it begins, what must be told, what was told, and the story so far.
    """
    loop = ProcessLoop()
    runner = _Runner()
    with logging_to(runner.fleet):
        try:
            task = loop.create_task(runner.run(path.read_text("utf-8")), context=OUTSIDE.copy())
            done = loop.run_until_complete(task)
        finally:
            runner.fleet.clear_away()
            loop.finish()
    if runner.fleet.broken:
        raise runner.fleet.broken[0]
    return done


def blocks(text: str) -> list[tuple[int, list[str], list[str]]]:
    """Return line number, commands and expectations of each block."""
    found: list[tuple[int, list[str], list[str]]] = []
    begun: tuple[int, list[str], list[str]] | None = None
    expecting = False
    for number, raw in enumerate([*text.splitlines(), ""], 1):
        line = raw.partition("#")[0].strip()
        if not line:
            if begun is not None and expecting:
                found.append(begun)
                begun, expecting = None, False
            continue
        begun = begun or (number, [], [])
        if line == "----":
            expecting = True
        else:
            (begun[2] if expecting else begun[1]).append(line)
    return found


class _Runner:
    def __init__(self) -> None:
        self.fleet = Fleet(0)
        self.told: list[str] = []
        self.offsets: dict[str, int] = {}
        self.answers: dict[str, list[str]] = {}
        self.begun: dict[str, int] = {}

    async def run(self, text: str) -> list[tuple[int, list[str], list[str], list[str]]]:
        done = []
        for number, commands, wanted in blocks(text):
            self.told = []
            for command in commands:
                self.fleet.tell(None, f"> {command}")
                await self._do(command.split())
            done.append((number, wanted, self.told, list(self.fleet.lines)))
        return done

    async def _do(self, words: list[str]) -> None:
        first, rest = words[0], words[1:]
        if first in self.fleet.names and rest:
            await self._ask(self.fleet.running[first], rest)
            return
        command = getattr(self, f"_do_{first.replace('-', '_')}", None)
        assert command is not None, f"no such command: {' '.join(words)}"
        await command(*rest)

    def _truth(self, name: str) -> Truth:
        return next(each for each in self.fleet.truths.values() if each.name == name)

    # -- requests

    async def _ask(self, target: Process, words: list[str]) -> None:
        aside = words[-1] == "&"
        task = outside_task(self._answered(target, [word for word in words if word != "&"]), "request")
        if aside:
            # Until it is held, or done.
            await asyncio.sleep(1.0)
            return
        await asyncio.wait([task], timeout=HELD_S)
        self.told += self.answers.pop(target.name, [f"{target.name}: no answer"])

    async def _answered(self, target: Process, words: list[str]) -> None:
        try:
            said = await self.fleet.request(target, lambda process: self._serve(process, words))
        except Refusal as refusal:
            said = f"refused {refusal.code.value}"
            if refusal.offset is not None:
                said += f" offset={refusal.offset}"
        except NoAnswerError:
            said = "no answer"
        self.answers.setdefault(target.name, []).append(f"{target.name}: {said}")

    async def _serve(self, process: Process, words: list[str]) -> str:
        if words[0] == "ticket":
            _, new = await process.engine.create(new_terms(), key=words[1] if len(words) > 1 else None)
            return "made" if new else "made before"
        truth = self._truth(words[1])
        options = dict(word.split("=") for word in words[2:] if "=" in word)
        floor = self.fleet.before(truth)
        try:
            resource = await self._engine(process, truth, words, options)
        except Refusal as refusal:
            self.fleet.answered(process, truth, refusal.offset, floor)
            raise
        if not isinstance(resource, Resource):
            return resource
        self.fleet.answered(process, truth, resource.offset, floor)
        if resource.offset is not None:
            self.offsets[truth.name] = resource.offset
        return f"{resource.status.value} offset={resource.offset}"

    async def _engine(
        self, process: Process, truth: Truth, words: list[str], options: dict[str, str]
    ) -> Resource | str:
        engine, upload_id = process.engine, truth.upload_id
        match words[0]:
            case "begin":
                truth.files += 1
                wanted = Creation(truth.length or None, metadata=str(truth.files))
                return await engine.begin(upload_id, wanted, None, AppendReport())
            case "head":
                return await engine.head(upload_id, None)
            case "append":
                data = b"".join(word.encode() for word in words[2:] if "=" not in word)
                offset = int(options.get("offset", self.offsets.get(truth.name, 0)))
                truth.attempts.append(Attempt(offset, data))
                length = int(options["length"]) if "length" in options else None
                append = Append(offset, len(data), length=length)
                return await engine.append(upload_id, None, append, Feed(data), AppendReport())
            case "cancel":
                await engine.cancel(upload_id, "")
                return "cancelled"
            case "confirm":
                view = await engine.confirm(upload_id, done=True, message=None, client_data=None)
                return view.record.status.value
            case "terminate":
                await engine.terminate(upload_id, None)
                return "terminated"
            case "expire":
                return "expired" if await engine.expire(upload_id) else "not expired"
            case other:
                raise AssertionError(f"no such request: {other}")

    async def _do_answer(self, name: str) -> None:
        for _ in range(int(HELD_S)):
            if name in self.answers:
                break
            await asyncio.sleep(1.0)
        self.told += self.answers.pop(name, [f"{name}: no answer"])

    # -- the fleet

    async def _do_instances(self, *names: str) -> None:
        self.fleet.names = list(names)
        for name in names:
            self.fleet.start(name)
        await asyncio.sleep(self.fleet.lease_s + 2)

    async def _do_hosts(self, *names: str) -> None:
        self.fleet.disk.network = True
        await self._do_instances(*names)

    async def _do_private(self, *names: str) -> None:
        self.fleet.separate(names)
        await self._do_instances(*names)

    async def _do_volumes(self, *volumes: str) -> None:
        self.fleet.separate(volumes)
        await self._do_instances(*"".join(volumes))

    async def _do_create(self, name: str, length: str = "0") -> None:
        process = next(iter(self.fleet.running.values()))
        record, _ = await process.engine.create(new_terms(after_handover="keep"), expires_in_s=3600.0)
        self.fleet.truths[record.upload_id] = Truth(
            record.upload_id, name, 0, keeps=True, deferred=length == "0", length=int(length)
        )

    async def _do_hold(self, name: str, when: str, step: str, count: str = "1") -> None:
        self.fleet.running[name].ambush = Ambush(step, int(count), when == "after", None)

    async def _do_fail(self, name: str, when: str, step: str, count: str = "1") -> None:
        self._strike(name, step, int(count), lambda: Trouble(done=when == "after"))

    async def _do_slow(self, name: str, _: str, step: str, count: str = "1") -> None:
        def trouble() -> Trouble:
            hold: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            outside(SLOW_S, hold.set_result, None)
            return Trouble(error=None, hold=hold)

        self._strike(name, step, int(count), trouble)

    def _strike(self, name: str, step: str, left: int, trouble: Callable[[], Trouble]) -> None:
        process = self.fleet.running[name]

        def befalls(call: str) -> Trouble | None:
            nonlocal left
            left -= call == step
            if left > 0 or call != step:
                return None
            process.sick = None
            return trouble()

        process.sick = befalls

    async def _do_freeze(self, name: str) -> None:
        self.fleet.running[name].freeze()

    async def _do_thaw(self, name: str) -> None:
        self.fleet.running[name].thaw()
        await asyncio.sleep(0.5)

    async def _do_kill(self, name: str) -> None:
        self.fleet.running[name].kill()

    async def _do_start(self, name: str) -> None:
        self.fleet.start(name)
        await asyncio.sleep(1.0)

    async def _do_drain(self, name: str, aside: str = "") -> None:
        process = self.fleet.running[name]
        process.gate.context.run(process.drain.start)
        if aside:
            await asyncio.sleep(SLOW_S)
        else:
            assert await process.drain.wait(HELD_S)

    async def _do_phase(self, name: str) -> None:
        self.told.append(f"{name}: {self.fleet.running[name].engine.state.phase.value}")

    async def _do_retire(self, name: str, *words: str) -> None:
        process = self.fleet.running[name]
        heir = words[1] if "for" in words else None
        task = process.spawn(process.drain.retire(heir), "retire")
        await asyncio.wait([task])
        if "&" in words:
            await asyncio.sleep(SLOW_S)
        else:
            assert await process.drain.wait(HELD_S)

    async def _do_retired(self, name: str) -> None:
        process = self.fleet.running[name]
        found = process.drain.progress.retirement
        state = process.engine.state.phase.value
        told = f"{found['stage']}, heir {found['heir']}, {found['inherited']} inherited" if found else "does not retire"
        self.told.append(f"{name}: {state}; {told}")

    async def _do_unborn(self, name: str, where: str) -> None:
        upload_id = ids.upload_id(self.fleet.chance.getrandbits(300), self.fleet.disk_of(where).volume_id)
        self.fleet.truths[upload_id] = Truth(upload_id, name, 0, keeps=True, deferred=True, length=0)

    async def _do_undrain(self, name: str) -> None:
        try:
            await self.fleet.running[name].drain.undo()
        except Refusal as refusal:
            self.told.append(f"{name}: refused {refusal.code.value}")

    async def _do_cut(self, one: str, other: str) -> None:
        self.fleet.network.cut.add(frozenset((one, other)))

    async def _do_app(self, answers: str) -> None:
        self.fleet.app.state = answers

    async def _do_lose(self, what: str, count: str = "inf") -> None:
        self._pick(what, "lost", count)

    async def _do_unanswered(self, what: str, count: str = "inf") -> None:
        self._pick(what, "unanswered", count)

    async def _do_delay(self, what: str, count: str = "inf") -> None:
        self._pick(what, "held", count)

    def _pick(self, what: str, fate: str, count: str) -> None:
        self.fleet.network.picked.append(Pick(what, fate, float(count)))

    async def _do_deliver(self, what: str) -> None:
        assert self.fleet.network.held.get(what), f"nobody has sent such a message: {what}"
        self.fleet.network.deliver(what)
        await asyncio.sleep(1.0)

    async def _do_heal(self) -> None:
        self.fleet.network.heal()

    async def _do_recall(self, name: str, upload: str, epoch: str, _: str, by: str) -> None:
        recall = Recall(self._truth(upload).upload_id, int(epoch), self.fleet.running[by].identity)
        answer = await self.fleet.request(self.fleet.running[name], lambda process: process.engine.recall(recall))
        self.told.append(f"{name}: {answer.value}")

    async def _do_redis(self, what: str) -> None:
        redis = self.fleet.redis
        match what:
            case "wipe":
                redis.store.wipe()
            case "down" | "up":
                redis.state = what
            case "replica":
                redis.stop_replicating()
            case "fail-over":
                redis.fail_over()
        await asyncio.sleep(2.0 if what in ("wipe", "fail-over") else 0.5)

    async def _do_set_owner(self, upload: str, name: str, epoch: str) -> None:
        process = self.fleet.running[name]
        _ = await process.registry.owned(self._truth(upload).upload_id, process.identity, int(epoch))

    async def _do_clock(self, name: str, by_s: str) -> None:
        self.fleet.jump(name, float(by_s))

    async def _do_wait(self, duration_s: str) -> None:
        await asyncio.sleep(float(duration_s))

    # -- what is to be seen

    async def _do_show(self, name: str) -> None:
        truth = self._truth(name)
        record = self.fleet.stored(truth.upload_id)
        assert record is not None, name
        folders = {
            volume_id: disk.uploads.names[truth.upload_id].names
            for volume_id, disk in self.fleet.disks.items()
            if truth.upload_id in disk.uploads.names
        }
        # A claim by which an upload is given away lies with the giver, and with the taker once it has recorded it.
        claims = {
            claim.epoch: claim
            for names in folders.values()
            for each, file in names.items()
            if each.startswith("claim.")
            for claim in [codec.decode_claim(bytes(file.data))]
        }
        chain = " ".join(
            f"{epoch}:{claim.owner.name}{'' if claim.kind.value == 'pull' else f':{claim.kind.value}'}"
            for epoch, claim in sorted(claims.items())
        )
        spans = []
        for part in record.content.map:
            segment = folders.get(part.volume_id, {}).get(part.segment)
            size = len(segment.data) - part.skip if segment is not None else 0
            stop = part.stop if part.stop is not None else part.start + size
            at = f"@{part.volume_id[len('Volume')]}" if self.fleet.private else ""
            tenure = part.segment.removeprefix("bytes.")
            spans.append(f"{tenure}{at}:{part.start}-{stop}{'!' if part.contested else ''}")
        self.told.append(f"{name}: {record.status.value} claims {chain} map {' '.join(spans) or '-'}")

    async def _do_holds(self, name: str) -> None:
        upload_id = self._truth(name).upload_id
        for each in self.fleet.names:
            disk = self.fleet.disk_of(each)
            folder = disk.uploads.names.get(upload_id)
            segments = folder.names.items() if folder is not None else ()
            held = [
                f"{n.removeprefix('bytes.')}:{len(f.data)}" for n, f in segments if n.startswith("bytes.") and f.data
            ]
            self.told.append(f"{each} holds {' '.join(sorted(held)) or 'nothing'}")

    async def _do_traces(self, name: str) -> None:
        upload_id = self._truth(name).upload_id
        found = [each for each in self.fleet.names if upload_id in self.fleet.disk_of(each).uploads.names]
        self.told.append(f"{name}: traces at {' '.join(found) or 'nobody'}")

    async def _do_file(self, name: str) -> None:
        truth = self._truth(name)
        record = self.fleet.stored(truth.upload_id)
        joined = record is not None and (record.joined or record.status.final)
        file = self.fleet.file_of(truth.upload_id) if joined else None
        text = file.decode() if file is not None else "none"
        self.told.append(f"{name}: file {text}; the web app has {truth.arrived.decode() if truth.arrived else 'none'}")


__all__ = ["blocks", "run"]
