"""Check the project: ``check.py lint``, ``check.py test`` or ``check.py soak``.

Each step is told in one line; what a step said is shown only where it failed. The steps after a failed one run all the
same, so that one run tells everything. Ends with 1 if any step failed, or if the whole took longer than it may.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent

DIRECT = ("env", "INCOMINGD_DIRECT_BYTES=1")
"""Has every body whose length is known take the path of threads, see `incomingd.web.body`."""
BOTH_PATHS = (
    "tests/frontends",
    "tests/e2e/test_kill.py",
    "tests/e2e/test_disk.py",
    "tests/e2e/test_stock_clients.py",
    "tests/e2e/test_web_app.py",
)
"""What an upload does, whatever path its bytes take."""
BOTH_PATHS_QUICK = tuple(f"tests/frontends/test_{each}.py" for each in ("patch", "cuts"))

# `make test` is what stands between a change and the main branch: nobody waits longer for it.
TEST_LIMIT_S = 15 * 60
# The long forms may take the night, not the week.
SOAK_LIMIT_S = 8 * 60 * 60


@dataclass(frozen=True)
class Step:
    """One program to run: *title* for people, *live* where its output is shown as it comes."""

    title: str
    command: tuple[str, ...]
    folder: Path = ROOT
    live: bool = False


def lint_steps() -> list[Step]:
    """Return what needs no test run: formatting, lint, types, the import rule and the browser library's own checks."""
    every_folder = ("incomingd", "tests", "scripts", "examples", "benchmarks")
    python_folders = tuple(name for name in every_folder if (ROOT / name).is_dir())
    steps = [
        Step("formatting", (str(BIN / "ruff"), "format", "--check", "--quiet", "--diff", ".")),
        Step("lint", (str(BIN / "ruff"), "check", "--quiet", ".")),
        Step("types", (str(BIN / "mypy"), "--no-error-summary", *python_folders)),
        Step("import rule", (str(BIN / "lint-imports"), "--no-logo")),
    ]
    if (ROOT / "js/package.json").is_file():
        steps.append(Step("browser library: types", ("npm", "run", "--silent", "check"), ROOT / "js"))
    return steps


def test_steps() -> list[Step]:
    """Return the tests that `make test` runs: the browser library's under Node, then all of pytest's."""
    steps = []
    if (ROOT / "js/package.json").is_file():
        steps.append(Step("browser library: tests", ("npm", "test", "--silent"), ROOT / "js"))
    steps.append(
        Step(
            "tests",
            (
                str(BIN / "python"), "-m", "pytest",
                "--numprocesses=2", "--dist=loadscope", "--durations=20", "--durations-min=0.2", "-rfEsxX",
            ),
            live=True,
        )
    )  # fmt: skip
    direct = (*DIRECT, str(BIN / "python"), "-m", "pytest", "--numprocesses=2", "-q", "-rfEsxX", *BOTH_PATHS_QUICK)
    steps.append(Step("uploads, by threads", direct))
    return steps


def soak_steps() -> list[Step]:
    """Return the long forms; they measure and load the machine, so one at a time."""
    command = (str(BIN / "python"), "-m", "pytest", "-m", "soak", "--durations=20", "-rfEsxX", "--timeout=14400")
    direct = (*DIRECT, str(BIN / "python"), "-m", "pytest", "-m", "", "-q", "-rfEsxX", *BOTH_PATHS)
    return [Step("every body by threads", direct, live=True), Step("soak", command, live=True)]


def run(step: Step, limit_s: float) -> bool:
    """Run *step* for at most *limit_s* seconds; return whether it went well."""
    if limit_s <= 0:
        print(f"  {step.title:<24} not run: the time is up", flush=True)
        return False
    start_s = time.monotonic()
    if step.live:
        print(f"  {step.title}:", flush=True)
    # A group of its own: at the limit everything that the step started ends with it.
    process = subprocess.Popen(
        step.command,
        cwd=step.folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "NO_UPDATE_NOTIFIER": "1"},
        stdin=subprocess.DEVNULL,
        stdout=None if step.live else subprocess.PIPE,
        stderr=None if step.live else subprocess.STDOUT,
        start_new_session=True,
        text=True,
        errors="replace",
    )
    try:
        output, _ = process.communicate(timeout=limit_s)
        over_time = False
    except subprocess.TimeoutExpired:
        over_time = True
        output = end_group(process)
    except KeyboardInterrupt:
        end_group(process)
        raise
    passed = process.returncode == 0 and not over_time
    took = f"{time.monotonic() - start_s:6.1f} s"
    word = "ok" if passed else "took too long" if over_time else "FAILED"
    print(f"  {step.title:<24}{took}  {word}", flush=True)
    if not passed and output:
        print("\n".join(f"    {line}" for line in output.rstrip().splitlines()), flush=True)
    return passed


def end_group(process: subprocess.Popen[str]) -> str:
    """End *process* and all that it started; return what it had said."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        output, _ = process.communicate(timeout=10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
    return output or ""


def main(what: str) -> int:
    """Run the steps of *what*; return the exit status."""
    steps, limit_s = {
        "lint": (lint_steps(), TEST_LIMIT_S),
        "test": (lint_steps() + test_steps(), TEST_LIMIT_S),
        "soak": (soak_steps(), SOAK_LIMIT_S),
    }[what]
    start_s = time.monotonic()
    failed = [step.title for step in steps if not run(step, limit_s - (time.monotonic() - start_s))]
    took_s = time.monotonic() - start_s
    if failed:
        print(f"make {what}: FAILED: {', '.join(failed)} ({took_s:.0f} s)", flush=True)
        return 1
    print(f"make {what}: everything passed ({took_s:.0f} s)", flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "test"))
    except KeyboardInterrupt:
        sys.exit(130)
