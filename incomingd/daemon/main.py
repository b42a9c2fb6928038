"""The command ``incomingd``."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import sys
from typing import TYPE_CHECKING

from incomingd import __version__, config
from incomingd import log as logging_setup
from incomingd.core import formats
from incomingd.daemon.daemon import Daemon
from incomingd.daemon.listeners import ListenError
from incomingd.daemon.loop_watch import LoopWatch
from incomingd.daemon.memory import spare_the_collector
from incomingd.daemon.options import secrets_of
from incomingd.daemon.reload import Reloader, log_warnings
from incomingd.log import events, get_logger
from incomingd.storage.volume import VolumeError, VolumeRetiredError

if TYPE_CHECKING:
    from collections.abc import Sequence

log = get_logger()

EXIT_CONFIG = 2
EXIT_FAILED = 1
EXIT_RETIRED = 4
"""The data directory has retired: to start again would change nothing."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon in the foreground until it is told to stop; return the exit code."""
    _open_standard_streams()
    _raise_descriptor_limit()
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        line = config.parse(arguments)
        if line.version:
            sys.stdout.write(f"incomingd {__version__}\n")
            return 0
        loaded = config.load(arguments, os.environ)
        known = formats.known_by(os.environ)
    except (config.ConfigError, ValueError) as error:
        sys.stderr.write(f"incomingd: {error}\n")
        return EXIT_CONFIG
    if line.print_config:
        sys.stdout.write(config.render_effective(loaded))
        return 0
    if line.check_config:
        for warning in loaded.warnings:
            sys.stderr.write(f"incomingd: warning: {warning}\n")
        sys.stdout.write(f"incomingd: {loaded.config_file or 'no file'}: the configuration is good\n")
        return 0
    settings = loaded.settings
    logging_setup.configure(settings.log, instance=settings.instance, hidden=secrets_of(settings))
    log.info(
        events.DAEMON_STARTED,
        version=__version__,
        pid=os.getpid(),
        config_file=str(loaded.config_file) if loaded.config_file else None,
    )
    log_warnings(loaded)
    try:
        watch = LoopWatch()
        with asyncio.Runner(loop_factory=watch.make_loop) as runner:
            return runner.run(_run(loaded, arguments, known, watch))
    except (ListenError, VolumeError) as error:
        log.error(events.DAEMON_START_FAILED, reason=str(error))
        return EXIT_RETIRED if isinstance(error, VolumeRetiredError) else EXIT_FAILED
    finally:
        logging_setup.shutdown()


def _open_standard_streams() -> None:
    """Have descriptors 0 to 2 open: else a file of the volume gets one of them, and what is printed goes into it."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # Gets the lowest number that is free, which is this one.
            os.open(os.devnull, os.O_RDWR)
    # Where they were closed at the start, Python has none, whatever its types say.
    sys.stdout = sys.stdout or os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", encoding="utf-8", closefd=False)


def _raise_descriptor_limit() -> None:
    """Take as many descriptors as the system grants; its soft limit is there for programs that use select()."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _run(loaded: config.Loaded, arguments: Sequence[str], known: formats.Known, watch: LoopWatch) -> int:
    loop = asyncio.get_running_loop()
    stop: asyncio.Future[str] = loop.create_future()

    daemon: Daemon | None = None

    def ask_to_stop(name: str) -> None:
        if not stop.done():
            stop.set_result(name)
        elif daemon is not None:
            # Somebody is impatient: what is left stays on the volume.
            daemon.drain.hurry()

    daemon = Daemon(loaded.settings, known)
    try:
        daemon.bind()
    except ListenError:
        await daemon.volume.close()
        raise
    reloader = Reloader(daemon, loaded, arguments)
    daemon.reload = reloader.reload
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ask_to_stop, number.name)
    loop.add_signal_handler(signal.SIGHUP, reloader.reload_at_signal)
    await daemon.start()
    spare_the_collector()
    watch.start(daemon.metrics.loop_blocked)
    try:
        await daemon.stop(await stop)
    finally:
        watch.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
