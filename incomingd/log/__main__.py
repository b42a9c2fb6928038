"""`python -m incomingd.log [--write]`: the page about log events, made from the catalogue.

Without `--write` it says whether the page is current, and ends with 1 if it is not.
"""

import argparse
import sys
from pathlib import Path

from incomingd.log.reference import reference_markdown


def main() -> int:
    """Write the page, or say whether it is current."""
    parser = argparse.ArgumentParser(prog="python -m incomingd.log", description="Make the page about log events.")
    parser.add_argument("--write", action="store_true", help="write the page instead of comparing it")
    write = parser.parse_args().write
    path = Path(__file__).parents[2] / "docs" / "log-events.md"
    content = reference_markdown()
    if path.exists() and path.read_text(encoding="utf-8") == content:
        return 0
    if write:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    sys.stdout.write(f"docs/log-events.md: {'written' if write else 'not current'}\n")
    return 0 if write else 1


if __name__ == "__main__":
    sys.exit(main())
