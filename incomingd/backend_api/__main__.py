"""`python -m incomingd.backend_api [--write]`: the description of the backend API and the list of problems.

Without `--write` it says which of them are not current, and ends with 1 if any.
"""

import argparse
import json
import sys
from pathlib import Path

from incomingd.backend_api.description import description
from incomingd.backend_api.problems import problems_markdown
from incomingd.backend_api.reference import reference_markdown


def generated_files() -> dict[str, str]:
    """Make the content of each generated file, by its path in a checkout."""
    return {
        "docs/backend-api.md": reference_markdown(),
        "docs/openapi.json": json.dumps(description(), indent=1, ensure_ascii=False) + "\n",
        "docs/problems.md": problems_markdown(),
    }


def main() -> int:
    """Write the files, or say which are not current."""
    parser = argparse.ArgumentParser(
        prog="python -m incomingd.backend_api", description="Make the reference of the backend API."
    )
    parser.add_argument("--write", action="store_true", help="write the files instead of comparing them")
    write = parser.parse_args().write
    root = Path(__file__).parents[2]
    stale = 0
    for name, content in generated_files().items():
        path = root / name
        if path.exists() and path.read_text(encoding="utf-8") == content:
            continue
        stale += 1
        if write:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
        sys.stdout.write(f"{name}: {'written' if write else 'not current'}\n")
    return 1 if stale and not write else 0


if __name__ == "__main__":
    sys.exit(main())
