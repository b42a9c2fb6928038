"""How many uploads each client address is sending just now."""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import TYPE_CHECKING

from incomingd.core.errors import Code, Refusal

if TYPE_CHECKING:
    from collections.abc import Iterator


class Senders:
    """Counts uploads, not requests: who comes back after a lost connection is not two."""

    def __init__(self) -> None:
        self._uploads: dict[str, Counter[str]] = {}

    @contextlib.contextmanager
    def sending(self, address: str | None, upload: str, *, uploads_max: int | None) -> Iterator[None]:
        """Count a request with a body for as long as it takes.

        Args:
            address: the client's; None: not known (a Unix socket), never refused.
            upload: what it sends; any name that is its own.
            uploads_max: how many one address may send at once; None: any number.

        Raises:
            Refusal: `too_many_open`.
        """
        if address is None:
            yield
            return
        uploads = self._uploads.setdefault(address, Counter())
        if uploads_max is not None and upload not in uploads and len(uploads) >= uploads_max:
            raise Refusal(
                Code.TOO_MANY_OPEN,
                f"{len(uploads)} uploads are being sent from this address.",
                retry_after_s=5,
            )
        uploads[upload] += 1
        try:
            yield
        finally:
            uploads[upload] -= 1
            if not uploads[upload]:
                del uploads[upload]
            if not uploads:
                self._uploads.pop(address, None)
