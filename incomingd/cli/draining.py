"""Emptying an instance: asked for once, then watched until nothing is left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

import click

from incomingd.cli.client import Client

POLL_S: Final = 0.2
DRAINING: Final = "draining"
DRAINED: Final = "drained"
STOPPING: Final = "stopping"


class NotDrainedError(Exception):
    """The drain did not come to its end; the text says how far it is and what to do."""


class Watcher(Protocol):
    """Shows how far a drain is."""

    def show(self, drain: dict[str, Any]) -> None:
        """Take the `drain` of a status."""

    def close(self) -> None:
        """Leave the line to what comes next."""


class Lines:
    """A line whenever something has changed: for logs."""

    def __init__(self) -> None:
        self._last = ""

    def show(self, drain: dict[str, Any]) -> None:
        """Write a line."""
        text = progress(drain)
        if text != self._last:
            click.echo(f"draining: {text}", err=True)
        self._last = text

    def close(self) -> None:
        """Nothing is left open."""


class Bar:
    """A bar, for people on a terminal."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._done = 0

    def show(self, drain: dict[str, Any]) -> None:
        """Draw it."""
        if self._bar is None:
            self._bar = click.progressbar(
                length=max(drain["uploads"], 1),
                label="draining",
                show_eta=False,
                show_percent=True,
                item_show_func=lambda text: text,
                fill_char="=",
                empty_char=" ",
                bar_template="%(label)s  [%(bar)s] %(info)s",
                width=30,
                file=sys.stderr,
            )
        # Uploads that came last may be counted only later: the bar never goes back.
        done = max(drain["uploads"] - drain["left"], self._done)
        if not drain["uploads"] and not drain["left"]:
            done = 1
        self._bar.update(done - self._done, progress(drain))
        self._done = done
        self._bar.render_progress()

    def close(self) -> None:
        """End the line."""
        if self._bar is not None:
            self._bar.render_finish()


def progress(drain: dict[str, Any]) -> str:
    """Say how far a drain is, from the `drain` of a status."""
    parts = [f"{drain['left']} of {counted(drain['uploads'], 'upload')} left"]
    if drain["left"] > drain["uploads"]:
        # Of a volume that nobody else reaches all uploads have to go, not only those that it owned when it began.
        parts = [f"{counted(drain['left'], 'upload')} left"]
    if not drain["left"] and not drain["uploads"]:
        parts = ["no uploads here"]
    # A daemon of the version before tells of none.
    retirement = drain.get("retirement")
    if retirement is not None and retirement["stage"] in ("giving", "sealed") and not drain["left"]:
        heir = retirement["heir"]
        parts = [f"{counted(retirement['left'], 'record')} left for {heir}" if heir else "waiting for an heir"]
    for count, thing in ((drain["appends_open"], "append"), (drain["callbacks_open"], "callback")):
        if count:
            parts.append(f"{counted(count, thing)} open")
    return ", ".join(parts)


def retired(retirement: dict[str, Any] | None) -> str:
    """Say what came of a drain that is for good, as further sentences."""
    if retirement is None:
        return ""
    if retirement["stage"] == "not_needed":
        return " Nobody had to inherit: other instances reach the volume."
    text = f" {retirement['heir']} has inherited {counted(retirement['inherited'], 'record')}: this one has retired."
    if kept := retirement["files_kept"]:
        text += f" {counted(kept, 'file')} that web apps keep here did not move."
    return text


def counted(number: int, thing: str) -> str:
    """Return `1 upload`, `2 uploads`."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def wait(
    client: Client, began: dict[str, Any], watcher: Watcher, *, timeout_s: float | None, sleep: Callable[[float], None]
) -> dict[str, Any]:
    """Return `state` and `drain` of an instance once it is drained.

    Args:
        client: of the instance.
        began: what ``/drain`` answered.
        watcher: shown every step.
        timeout_s: wait no longer; None: as long as it takes.
        sleep: between two looks.

    Raises:
        NotDrainedError: see there.
        UnreachableError, RefusedError: nobody answers any more; it is not allowed to ask.
    """
    ends = None if timeout_s is None else time.monotonic() + timeout_s
    found = began
    while True:
        state, drain = found["state"], found["drain"]
        if drain is None or state not in (DRAINING, DRAINED):
            if state == STOPPING:
                msg = "the instance stops: what it has not given away is on its volume, and there after the restart"
            else:
                msg = f"the instance is {state}: somebody has undone the drain, or it was started anew"
            raise NotDrainedError(msg)
        watcher.show(drain)
        if state == DRAINED:
            return {"state": state, "drain": drain}
        if ends is not None and time.monotonic() >= ends:
            msg = (
                f"not drained after {timeout_s:g} s: {progress(drain)}. It goes on by itself, and the daemon's log says"
                " what it waits for; `incomingctl undrain` ends it"
            )
            raise NotDrainedError(msg)
        sleep(POLL_S)
        found = client.call("GET", "/status")
