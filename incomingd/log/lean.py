"""Loads structlog without `rich`, which it would load for tracebacks that this log never draws.

With what that loads in turn it costs each daemon megabytes, and its start a
tenth of a second. `rich` is there for the tables of `incomingctl`, which loads
it itself.
"""

import sys
from typing import Any, Final, cast

_NAME: Final = "rich"

_loaded = cast("dict[str, Any]", sys.modules)
if _NAME not in _loaded:
    # "None" is Python's own way to say that a module is not to be had; structlog does without, then.
    _loaded[_NAME] = None
    try:
        import structlog.dev  # noqa: F401 -- loaded here, that is all
    finally:
        del _loaded[_NAME]
