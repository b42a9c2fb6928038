"""Header fields for tests of the wire packages."""

from __future__ import annotations

from collections.abc import Callable


def fields(*pairs: tuple[str, str], **named: str) -> Callable[[str], list[str]]:
    """Return what a request with these header fields hands to a parser.

    Keywords are names with ``_`` for ``-``; *pairs* are for fields that come twice.
    """
    sent = [(name.lower(), value) for name, value in pairs]
    sent += [(name.replace("_", "-").lower(), value) for name, value in named.items()]

    def get_all(name: str) -> list[str]:
        return [value for other, value in sent if other == name.lower()]

    return get_all
