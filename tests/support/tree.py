"""The files of the checkout, for tests that look at the project itself."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.machine import ROOT

_NOT_OURS = frozenset(
    {".git", ".venv", ".run", "node_modules", "__pycache__", "build", "dist", "incoming-data"}
    | {".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis", ".import_linter_cache"}
)
_TEXT = frozenset(
    {".py", ".md", ".js", ".mjs", ".html", ".css", ".toml", ".yaml", ".yml", ".json", ".patch", ".txt", ""}
)


def files(*suffixes: str, under: str = ".") -> Iterator[Path]:
    """Yield the project's own files below *under* whose names end in one of *suffixes* (none given: text files)."""
    for folder, names, file_names in os.walk(ROOT / under):
        names[:] = sorted(name for name in names if name not in _NOT_OURS and not name.endswith(".egg-info"))
        for name in sorted(file_names):
            path = Path(folder, name)
            if path.suffix in (suffixes or _TEXT) and path.name != "package-lock.json":
                yield path


def shown(path: Path) -> str:
    """Return *path* as a person writes it: from the checkout on."""
    return path.relative_to(ROOT).as_posix()


@dataclass(frozen=True)
class Breakage:
    """A patch of tests/breakages: what it breaks, and the test that has to fail with it."""

    path: Path
    breaks: str
    test: str

    @property
    def test_file(self) -> Path:
        """The file of the named test."""
        return ROOT / self.test.split("::")[0]

    def test_exists(self) -> bool:
        """Return whether the named test is there."""
        name = re.sub(r"\[.*", "", self.test.split("::")[-1])
        if not self.test_file.is_file():
            return False
        tree = ast.parse(self.test_file.read_text("utf-8"))
        return any(
            isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and part.name == name
            for part in ast.walk(tree)
        )


def breakages() -> list[Breakage]:
    """Return the patches of tests/breakages, by name; fail where a header is missing."""
    found = []
    for path in sorted((ROOT / "tests/breakages").glob("*.patch")):
        head = path.read_text("utf-8").split("\ndiff ", 1)[0]
        fields = dict(re.findall(r"^(Breaks|Test): (.+)$", head, re.MULTILINE))
        assert set(fields) == {"Breaks", "Test"}, f"{shown(path)} begins without 'Breaks: …' and 'Test: …' lines"
        found.append(Breakage(path, fields["Breaks"], fields["Test"]))
    return found
