"""The documents as tests see them: names in inline code, and fenced blocks with the mark that stands before them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.machine import ROOT

PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/index.md",
    "docs/architecture.md",
    "docs/deployment.md",
    "docs/web-apps.md",
    "docs/operating/alarms.md",
    "docs/operating/drain.md",
    "docs/operating/redis-lost.md",
    "docs/operating/upgrade.md",
)
"""Those written by hand for people; reference pages are made from the code, or tested beside what they describe."""

_FENCE = re.compile(
    r"(?:^<!-- (?P<mark>[^\n]+) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
_INLINE = re.compile(r"`([^`\n]+)`")


@dataclass(frozen=True)
class Block:
    """A fenced block; *mark* is the comment on the line before it, as ``snippet: app.py``."""

    page: str
    language: str
    text: str
    mark: str = ""


def text_of(page: str) -> str:
    """Return the page."""
    return (ROOT / page).read_text("utf-8")


def blocks(page: str) -> list[Block]:
    """Return the fenced blocks of a page."""
    return [
        Block(page, found["language"], found["text"], found["mark"] or "") for found in _FENCE.finditer(text_of(page))
    ]


def names(page: str) -> Iterator[str]:
    """Yield what stands in inline code."""
    yield from _INLINE.findall(re.sub(r"<!--.*?-->", "", _FENCE.sub("", text_of(page)), flags=re.DOTALL))


def snippet(name: str, page: str = "docs/web-apps.md") -> str:
    """Return the text of the block that is marked as the file *name*."""
    found = [block.text for block in blocks(page) if block.mark == f"snippet: {name}"]
    assert len(found) == 1, f"{page} has {len(found)} blocks marked `snippet: {name}`"
    return found[0]


def with_addresses(text: str, addresses: dict[str, str]) -> str:
    """Return *text* with the documents' addresses replaced by those of the test."""
    for documented, real in addresses.items():
        text = text.replace(documented, real)
    return text


def write(folder: Path, name: str, text: str) -> Path:
    """Write a snippet where it can be run."""
    path = folder / name
    path.write_text(text, "utf-8")
    return path
