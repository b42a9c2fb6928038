"""Run the daemon and the example web app together, until Ctrl-C or SIGTERM: what ``make run`` calls.

Everything they write lies under ``.run/`` (or the directory that is given as the only argument). The usual ports are
used where they are free, else any others.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path

from scripts.programs import BIN, EXAMPLE, HOST, ROOT, Program, answers, port, until_stopped

RUN = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT / ".run"


def programs() -> tuple[Program, Program, str]:
    """Return the daemon, the example app, and the URL to open."""
    public, backend, app = (f"{HOST}:{port(preferred)}" for preferred in (4000, 4001, 4080))
    daemon = Program(
        "incomingd",
        [
            str(BIN / "incomingd"),
            *("--public.address", public),
            *("--backend.address", backend),
            *("--data_dir", str(RUN / "data")),
        ],
        RUN,
        partial(answers, f"http://{public}/incoming/1.0/health"),
    )
    example = Program(
        "example",
        [
            *(str(BIN / "python"), str(EXAMPLE), "--listen", app),
            *("--incomingd-backend", f"http://{backend}"),
            *("--public-incomingd", f"http://{public}"),
            *("--files", str(RUN / "files")),
        ],
        RUN,
        partial(answers, f"http://{app}/"),
    )
    return daemon, example, f"http://{app}/"


def main() -> int:
    """Run both until somebody wants us to stop."""
    RUN.mkdir(parents=True, exist_ok=True)
    daemon, example, url = programs()

    def stop() -> None:
        # The app first, so that no hand-over meets half an app.
        example.stop()
        daemon.stop()

    def work() -> None:
        daemon.start()
        example.start()
        print(f"Open {url}", f"Files and logs are in {RUN}; Ctrl-C stops.", sep="\n", flush=True)
        while True:
            daemon.check()
            example.check()
            time.sleep(0.5)

    until_stopped(work, stop)
    return 0


if __name__ == "__main__":
    sys.exit(main())
