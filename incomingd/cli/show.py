"""What commands found, for people on a terminal or for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Any, Final

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from incomingd.cli.draining import counted, progress, retired
from incomingd.core.names import clean_value

UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
MINUTE_CHARS: Final = len("2026-11-23T19:21")
RUN_CHARS: Final = 8
"""Of a start id: enough to tell two runs apart."""
STATUS_STYLES: Final = {
    "open": "cyan",
    "complete": "yellow",
    "handing_over": "yellow",
    "awaiting_app": "yellow",
    "finished": "green",
    "cancelled": "dim",
    "expired": "dim",
    "failed": "red",
    "lost": "red",
    "ready": "green",
    "starting": "yellow",
    "suspended": "yellow",
    "draining": "yellow",
    "drained": "cyan",
    "full": "red",
    "stopping": "yellow",
}


class Output:
    """Standard output: tables where somebody looks at it, JSON where a program does or where it is asked for."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json or not sys.stdout.isatty()
        self._console = Console(markup=False, highlight=False, emoji=False)

    def document(self, value: object) -> None:
        """Write one JSON value."""
        click.echo(_json(value, indent=2))

    def documents(self, values: Iterable[object]) -> None:
        """Write a JSON list, item by item: it may be long."""
        before = "[\n"
        for value in values:
            click.echo(before + _json(value), nl=False)
            before = ",\n"
        click.echo("[]" if before == "[\n" else "\n]")

    def line(self, text: str) -> None:
        """Write a sentence."""
        self._console.print(Text(text))

    def warning(self, text: str) -> None:
        """Write a sentence that must not be overlooked."""
        self._console.print(Text(text, "bold red"))

    def status(self, status: dict[str, Any]) -> None:
        """Write what ``/status`` told."""
        volume = status["volume"]
        free = size(volume["free_bytes"]) + " free" if volume["free_bytes"] is not None else "does not answer"
        rows: list[tuple[str, str | Text]] = [
            ("state", _styled(status["state"])),
            ("instance", f"{status['instance']}, incomingd {status['version']}, process {status['pid']}"),
            ("up for", duration(status["uptime_s"])),
            ("volume", f"{volume['path']} ({volume['id']}), {free}"),
            ("appends", f"{status['appends_open']} under way, {status['uploads_in_memory']} uploads in memory"),
            ("connections", ", ".join(f"{name} {count}" for name, count in status["connections"].items()) or "-"),
            ("moves", f"{status['moves_open']} under way, {counted(status['backfills_open'], 'backfill')} open"),
            ("ring", _ring(status["ring"])),
        ]
        if status["drain"] is not None:
            rows.append(("drain", _drain(status["drain"])))
        self._pairs(rows)
        self._console.print()
        # Instances on one volume share the uploads that lie there: each counts those that it looks after.
        alone = len(status["ring"]["instances"]) == 1
        table = _table("uploads" if alone else "uploads it looks after", "number")
        table.columns[1].justify = "right"
        for name, count in status["uploads"].items():
            if count:
                table.add_row(_styled(name), str(count))
        if status["handovers_stuck"]:
            table.add_row(Text("stuck", style="bold red"), str(status["handovers_stuck"]))
        if not table.rows:
            table.add_row("none", "")
        self._console.print(table)
        if not status["uploads_counted"]:
            self.line("The daemon has not yet counted all uploads.")

    def ring(self, ring: dict[str, Any]) -> None:
        """Write the instances that are alive."""
        self._pairs([("registry", _registry(ring)), ("own lease", _lease(ring))])
        self._console.print()
        names = [each["name"] for each in ring["instances"]]
        # Two runs under one name: one is about to lapse, or two are configured alike.
        runs = ["run"] if len(set(names)) < len(names) else []
        table = _table("instance", "state", "started (UTC)", "version", "address", "volumes", *runs)
        for column in (table.columns[0], table.columns[2]):
            column.no_wrap = True
        for each in ring["instances"]:
            table.add_row(
                Text(_clean(each["name"]) + (" (this one)" if each["self"] else ""), "bold" if each["self"] else ""),
                _instance_state(each),
                (each["started_at"] or "-")[:MINUTE_CHARS].replace("T", " "),
                _clean(each["version"] or "-"),
                _clean(each["address"] or "-"),
                _clean(", ".join(each["volumes"]) or "-"),
                *(_clean(each["start_id"][:RUN_CHARS]) for _ in runs),
            )
        self._console.print(table)

    def drain(self, found: dict[str, Any]) -> None:
        """Write what a drain has come to."""
        drain = found["drain"]
        if found["state"] == "drained":
            self.line(f"Drained: {_parked(drain)}.{retired(drain.get('retirement'))}")
        else:
            self.line(f"Draining: {progress(drain)}. `incomingctl drain --wait` waits for its end.")

    def heir(self, found: dict[str, Any]) -> None:
        """Write who would inherit."""
        if found["heir"] is None:
            self.line("Nobody would have to inherit: other instances reach the volume.")
        else:
            self.line(f"{found['heir']} would inherit.")

    def uploads(self, uploads: Iterable[dict[str, Any]]) -> None:
        """Write a table of uploads."""
        table = _table("id", "status", "offset", "length", "filename", "labels", "created", "hand-over")
        table.columns[0].no_wrap = True
        table.columns[0].overflow = "ignore"
        for column in table.columns[2:4]:
            column.justify = "right"
        for upload in uploads:
            table.add_row(
                Text(upload["id"]),
                _styled(upload["status"]),
                size(upload["offset"]),
                size(upload["length"]) if upload["length"] is not None else "?",
                _clean(upload["filename"] or "-"),
                _clean(", ".join(upload["labels"]) or "-"),
                upload["created_at"].partition(".")[0].replace("T", " "),
                _handover(upload["handover"]),
            )
        self._console.print(table)

    def upload(self, upload: dict[str, Any]) -> None:
        """Write one upload."""
        client, error = upload["client"], upload["error"]
        length = size(upload["length"]) if upload["length"] is not None else "unknown length"
        rows: list[tuple[str, str | Text]] = [
            ("id", Text(upload["id"])),
            ("status", _styled(upload["status"])),
            ("bytes", f"{size(upload['offset'])} of {length}"),
            ("filename", _clean(upload["filename"] or "-")),
            ("content type", _clean(upload["content_type"] or "-")),
            ("client", _clean(client["address"] or "-")),
            ("labels", _clean(", ".join(upload["labels"]) or "-")),
            ("created", upload["created_at"]),
            ("expires", upload["expires_at"] or "-"),
            ("completed", upload["completed_at"] or "-"),
            ("ended", upload["ended_at"] or "-"),
            ("path", _clean(upload["path"] or "-")),
            ("hand-over", _handover(upload["handover"])),
            ("error", _clean(f"{error['code']}: {error['message']}") if error else "-"),
            ("app data", _json(upload["app_data"])),
        ]
        self._pairs(rows)
        if upload["callbacks"]:
            table = _table("callback", "id", "attempts", "state", "last error")
            for callback in upload["callbacks"]:
                table.add_row(
                    _clean(callback["type"]),
                    _clean(callback["webhook_id"]),
                    str(callback["attempts"]),
                    _callback_state(callback),
                    _clean(callback["last_error"] or "-"),
                )
            self._console.print(table)

    def reload(self, found: dict[str, Any]) -> None:
        """Write what a reload has changed."""
        if not found["applied"] and not found["needs_restart"]:
            self.line("Nothing has changed.")
        for name, title in (("applied", "in force now"), ("needs_restart", "needs a restart")):
            if found[name]:
                table = _table(title, "old", "new")
                for change in found[name]:
                    table.add_row(*(_clean(change[part]) for part in ("key", "old", "new")))
                self._console.print(table)

    def pairs(self, values: dict[str, Any]) -> None:
        """Write names and values."""
        self._pairs((name.replace("_", " "), _clean(str(value))) for name, value in values.items())

    def _pairs(self, rows: Iterable[tuple[str, str | Text]]) -> None:
        table = Table(box=None, show_header=False, pad_edge=False)
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in rows:
            table.add_row(name, value)
        self._console.print(table)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _ring(ring: dict[str, Any]) -> Text:
    instances = ring["instances"]
    if len(instances) == 1 and instances[0]["address"] is None and ring["registry_available"]:
        return Text("alone")
    text = Text(counted(len(instances), "instance"))
    for word in ("draining", "full"):
        number = sum(1 for each in instances if each[word])
        if number:
            text.append(f", {number} {word}", STATUS_STYLES[word])
    if not ring["registry_available"]:
        text.append("; the registry does not answer", "bold red")
    elif not ring["lease_holds"]:
        text.append("; its own lease has lapsed", "bold red")
    return text


def _drain(drain: dict[str, Any]) -> str:
    return f"{progress(drain)}; {_parked(drain)}"


def _parked(drain: dict[str, Any]) -> str:
    invited = f", other instances invited to {drain['invited']} of them" if drain["invited"] else ""
    return f"{counted(drain['parked'], 'upload')} parked{invited}"


def _registry(ring: dict[str, Any]) -> Text:
    if not ring["registry_available"]:
        return Text("does not answer: what follows is what was known last", "bold red")
    if not ring["settled"]:
        return Text("answers, but not for long enough yet that a missing instance means anything", "yellow")
    return Text("answers", "green")


def _lease(ring: dict[str, Any]) -> Text:
    return Text("holds", "green") if ring["lease_holds"] else Text("has lapsed: others take this one for gone", "red")


def _instance_state(instance: dict[str, Any]) -> Text:
    words = [word for word in ("draining", "full") if instance[word]] or ["takes uploads"]
    return Text(", ".join(words), STATUS_STYLES.get(words[0], "green"))


def _styled(status: str) -> Text:
    return Text(_clean(status), style=STATUS_STYLES.get(status, ""))


def _handover(handover: dict[str, Any]) -> Text:
    parts = [handover["state"] or "-"]
    if handover["attempts"]:
        parts.append(f"{handover['attempts']} attempts")
    if handover["last_error"]:
        parts.append(handover["last_error"])
        parts.append(f"next {handover['next_attempt_at']}" if handover["next_attempt_at"] else "given up")
    return Text(_clean("; ".join(parts)))


def _callback_state(callback: dict[str, Any]) -> str:
    if callback["delivered"]:
        return "delivered"
    if callback["given_up"]:
        return "given up"
    return f"next {callback['next_attempt_at']}" if callback["next_attempt_at"] else "due"


def _clean(text: str) -> str:
    """Return text that was written by others, without what would move a terminal's cursor."""
    return clean_value(text)


def _json(value: object, *, indent: int | None = None) -> str:
    # A terminal would obey some of the characters that JSON lets stand.
    return json.dumps(value, indent=indent, ensure_ascii=sys.stdout.isatty())


def size(size_bytes: int) -> str:
    """Return a number of bytes as people say it."""
    amount, unit = float(size_bytes), 0
    while amount >= 1024 and unit < len(UNITS) - 1:
        amount, unit = amount / 1024, unit + 1
    return f"{size_bytes} B" if unit == 0 else f"{amount:.1f} {UNITS[unit]}"


def duration(duration_s: float) -> str:
    """Return a duration as people say it."""
    minutes, seconds = divmod(int(duration_s), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"
