"""Reading the configuration again while the daemon runs."""

from __future__ import annotations

import contextlib
import os
import ssl
from typing import TYPE_CHECKING

from incomingd import config
from incomingd.log import events, get_logger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from incomingd.daemon.daemon import Daemon

log = get_logger()


def log_warnings(loaded: config.Loaded) -> None:
    """Log what works and is probably not meant."""
    for warning in loaded.warnings:
        log.warning(events.CONFIG_DOUBTED, setting=warning.key, source=warning.source, detail=warning.message)


class Reloader:
    """Replaces what can be replaced, or nothing at all."""

    def __init__(self, daemon: Daemon, loaded: config.Loaded, arguments: Sequence[str]) -> None:
        self._daemon = daemon
        self._loaded = loaded
        self._in_force = loaded.settings
        self._arguments = arguments

    def reload(self) -> config.Changes:
        """Read the configuration and apply what can change while running; what came of it stands in the log.

        Raises:
            config.ConfigError: it has mistakes; nothing was changed.
        """
        try:
            with self._daemon.notifier.reloading():
                found = self._replace()
        except config.ConfigError as error:
            log.error(
                events.CONFIG_RELOAD_REFUSED,
                problems=[str(problem) for problem in error.problems],
                config_file=str(self._loaded.config_file or ""),
            )
            raise
        (log.warning if found.needs_restart else log.info)(
            events.CONFIG_RELOADED,
            applied=[str(change) for change in found.applied],
            needs_restart=[str(change) for change in found.needs_restart],
            config_file=str(self._loaded.config_file or ""),
        )
        return found

    def reload_at_signal(self) -> None:
        """The same, for whoever hears of it from the log alone."""
        with contextlib.suppress(config.ConfigError):
            self.reload()

    def _replace(self) -> config.Changes:
        loaded = config.load(self._arguments, os.environ)
        before = self._in_force
        found = config.changes(before, loaded.settings)
        settings = config.reloaded(before, loaded.settings)
        try:
            self._daemon.apply(settings)
        except (OSError, ssl.SSLError) as error:
            problem = config.Problem(code="bad_file", source="reload", key="tls", message=str(error))
            raise config.ConfigError([problem]) from error
        self._loaded = loaded
        # What needs a restart is not in force, and is told again next time.
        self._in_force = settings
        log_warnings(loaded)
        return found
