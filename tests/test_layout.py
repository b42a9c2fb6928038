"""The mechanical part of the project's rules: what may import what, what words mean, what a file may hold."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.machine import BIN, ROOT
from tests.support.tree import Breakage, breakages, files, shown

LINES_MAX = 600

PACKAGE = ROOT / "incomingd"

# The engine runs on a virtual clock in tests, so nothing below may know of time and chance but through the clock.
CLOCKED = ("engine", "registry", "peers", "handover", "drain")
UNCLOCKED_MODULES = frozenset({"time", "random", "secrets", "uuid"})
UNCLOCKED_CALLS = frozenset(
    {
        "asyncio.sleep",
        "asyncio.create_task",
        "asyncio.ensure_future",
        "asyncio.timeout",
        "asyncio.wait_for",
        "datetime.now",
        "datetime.utcnow",
        "datetime.today",
        "date.today",
        "os.urandom",
    }
)
UNCLOCKED_METHODS = frozenset({"call_later", "call_at", "create_task"})

# Rules know nothing of the world: no time, no chance, no files, no network.
WORLDLY = frozenset(
    {"tornado", "redis", "structlog", "asyncio", "socket", "time", "os", "random", "secrets", "threading"}
)

# One word for one thing; these are other projects' words for ours, or mean two things at once.
FORBIDDEN_WORDS = re.compile(r"(session|worker|migrat|(?<![a-z])node(?!js|\.js|_modules|lay|:))", re.IGNORECASE)
# file: words in it that are somebody else's names, with the reason.
FORBIDDEN_WORDS_ALLOWED: dict[str, frozenset[str]] = {
    # PyYAML's name for what it parses.
    "incomingd/config/yaml_file.py": frozenset({"node"}),
    # That library's name for a server of a Cluster.
    "incomingd/registry/redis.py": frozenset({"node"}),
}

# Folders of people's and build machines; such a path is right on one machine only.
MACHINE_PATH = re.compile(r"(?<![\w.~/-])/(?:home|root|work|Users)/[A-Za-z]")


def python_files(*packages: str) -> Iterator[Path]:
    for package in packages:
        if (PACKAGE / package).is_dir():
            yield from files(".py", under=f"incomingd/{package}")
        elif (PACKAGE / f"{package}.py").is_file():
            yield PACKAGE / f"{package}.py"


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and full name of everything that a file imports."""
    for part in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(part, ast.Import):
            yield from ((part.lineno, alias.name) for alias in part.names)
        elif isinstance(part, ast.ImportFrom) and part.module is not None:
            yield part.lineno, part.module


def dotted(part: ast.expr) -> str:
    if isinstance(part, ast.Attribute):
        return f"{dotted(part.value)}.{part.attr}"
    return part.id if isinstance(part, ast.Name) else ""


def test_imports_point_one_way() -> None:
    """The layers of pyproject.toml hold: nothing calls upwards, siblings do not know each other."""
    done = subprocess.run(
        [str(BIN / "lint-imports"), "--no-logo", "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_core_needs_the_standard_library_only() -> None:
    wrong = [
        f"{shown(path)}:{line}: {name}"
        for path in python_files("core")
        for line, name in imports(path)
        if not name.startswith("incomingd.core") and name.split(".")[0] not in sys.stdlib_module_names
    ]
    assert not wrong


def test_wire_needs_the_core_only() -> None:
    wrong = [
        f"{shown(path)}:{line}: {name}"
        for path in python_files("wire")
        for line, name in imports(path)
        if name.split(".")[0] == "incomingd" and not name.startswith(("incomingd.core", "incomingd.wire"))
    ]
    assert not wrong


def test_rules_know_nothing_of_the_world() -> None:
    """`core` and `wire` have no clock, no chance, no file and no network, and nothing to wait for."""
    wrong = [
        f"{shown(path)}:{line}: {name}"
        for path in python_files("core", "wire")
        for line, name in imports(path)
        if name.split(".")[0] in WORLDLY
    ]
    wrong += [
        f"{shown(path)}:{part.lineno}: await"
        for path in python_files("core", "wire")
        for part in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(part, ast.AsyncFunctionDef | ast.Await)
    ]
    assert not wrong


def test_time_and_chance_come_through_the_clock() -> None:
    """What runs on a virtual clock takes time, sleep, chance and tasks from `incomingd.clock` alone."""
    wrong = []
    for path in python_files(*CLOCKED):
        wrong += [
            f"{shown(path)}:{line}: import {name}"
            for line, name in imports(path)
            if name.split(".")[0] in UNCLOCKED_MODULES
        ]
        for part in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(part, ast.Call):
                continue
            name = dotted(part.func)
            by_name = ".".join(name.split(".")[-2:]) in UNCLOCKED_CALLS
            if by_name or (name.split(".")[-1] in UNCLOCKED_METHODS and "clock" not in name):
                wrong.append(f"{shown(path)}:{part.lineno}: {name}()")
    assert not wrong


def test_no_file_is_too_long_to_be_read() -> None:
    lengths = {
        shown(path): len(path.read_text("utf-8").splitlines())
        for folder in ("incomingd", "scripts", "examples", "js/src")
        if (ROOT / folder).is_dir()
        for path in files(".py", ".js", ".mjs", under=folder)
        # What is built from js/ is read there.
        if "static" not in path.parts or "incomingd" not in path.parts
    }
    assert not {name: length for name, length in lengths.items() if length > LINES_MAX}


def test_no_path_of_one_machine() -> None:
    wrong = [
        f"{shown(path)}:{number}: {line.strip()}"
        for path in files()
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if MACHINE_PATH.search(line)
    ]
    assert not wrong


def test_one_word_for_one_thing() -> None:
    """Identifiers, comments and texts of the package, and the documents, use the project's terms."""
    wrong = []
    for folder in ("incomingd", "docs"):
        if not (ROOT / folder).is_dir():
            continue
        for path in files(".py", ".md", under=folder):
            allowed = FORBIDDEN_WORDS_ALLOWED.get(shown(path), frozenset())
            for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
                found = {word.lower() for word in FORBIDDEN_WORDS.findall(line)} - allowed
                if found:
                    wrong.append(f"{shown(path)}:{number}: {', '.join(sorted(found))}: {line.strip()}")
    assert not wrong


def anchors(text: str) -> set[str]:
    """Return the anchors of a Markdown text's headings, as its usual viewers make them."""
    found = set()
    for heading in re.findall(r"^#{1,6} (.+)$", re.sub(r"(?ms)^```.*?^```", "", text), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        found.add(re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-"))
    return found


def test_every_link_of_a_document_leads_somewhere() -> None:
    wrong = []
    for path in files(".md"):
        text = re.sub(r"(?ms)^```.*?^```|`[^`\n]*`", "", path.read_text("utf-8"))
        for target in re.findall(r"\]\(<?([^)\s>]+)>?(?: \"[^\"]*\")?\)", text):
            if re.match(r"[a-z][a-z0-9+.-]*:", target):
                continue
            name, _, anchor = target.partition("#")
            goal = (path.parent / name).resolve() if name else path
            if not goal.exists():
                wrong.append(f"{shown(path)}: {target}")
            elif anchor and goal.suffix == ".md" and anchor not in anchors(goal.read_text("utf-8")):
                wrong.append(f"{shown(path)}: {target}: no such heading")
    assert not wrong


@pytest.mark.parametrize("breakage", breakages(), ids=lambda breakage: breakage.path.stem)
def test_every_breakage_can_be_made_and_names_its_test(breakage: Breakage) -> None:
    """A patch of tests/breakages applies to the tree as it is, and the test that has to catch it exists."""
    assert breakage.test_exists(), f"no such test: {breakage.test}"
    done = subprocess.run(
        ["git", "apply", "--check", str(breakage.path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
