"""What `--print-config` prints: every setting in force, and where it came from."""

from collections.abc import Iterator
from typing import Final

import incomingd
from incomingd.config.keys import keys
from incomingd.config.loading import Loaded
from incomingd.config.text import dump, hides

_COMMENT_COLUMN: Final = 44


def render_effective(loaded: Loaded) -> str:
    """Write the effective settings as YAML that can be loaded again, with the origin of each as a comment.

    Secrets are masked, and their lines commented out so that loading the text does not set the mask.
    """
    head = [
        f"# incomingd {incomingd.__version__}: the settings in force.",
        f"# File: {loaded.config_file or 'none'}",
        "",
    ]
    return "\n".join([*head, *_lines(loaded)]) + "\n"


def _lines(loaded: Loaded) -> Iterator[str]:
    texts = dump(loaded.settings)
    groups: tuple[str, ...] = ()
    for key in keys().values():
        *around, leaf = key.name.split(".")
        for depth, group in enumerate(around):
            if tuple(around[: depth + 1]) != groups[: depth + 1]:
                yield f"{'  ' * depth}{group}:"
        groups = tuple(around)
        hidden = hides(loaded.settings, key)
        line = f"{'  ' * len(around)}{'# ' if hidden else ''}{leaf}: {texts[key.name]}"
        yield f"{line:<{_COMMENT_COLUMN}}  # {loaded.origin_of(key.name)}"
