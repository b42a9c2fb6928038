"""How many uploads each client address is sending just now."""

from __future__ import annotations

from collections import Counter

from incomingd.core.errors import Code, Refusal


class Senders:
    """Counts uploads, not requests: who comes back after a lost connection is not two."""

    def __init__(self) -> None:
        self._uploads: dict[str, Counter[str]] = {}

    def sending(self, address: str | None, upload: str, *, uploads_max: int | None) -> Sending:
        """Count a request with a body for as long as it takes.

        Args:
            address: the client's; None: not known (a Unix socket), never refused.
            upload: what it sends; any name that is its own.
            uploads_max: how many one address may send at once; None: any number.

        Raises:
            Refusal: `too_many_open`.
        """
        return Sending(self, address, upload, uploads_max)

    def begin(self, address: str, upload: str, uploads_max: int | None) -> None:
        """Count one more; see :meth:`sending`."""
        uploads = self._uploads.setdefault(address, Counter())
        if uploads_max is not None and upload not in uploads and len(uploads) >= uploads_max:
            raise Refusal(
                Code.TOO_MANY_OPEN,
                f"{len(uploads)} uploads are being sent from this address.",
                retry_after_s=5,
            )
        uploads[upload] += 1

    def end(self, address: str, upload: str) -> None:
        """Count one less."""
        uploads = self._uploads[address]
        uploads[upload] -= 1
        if not uploads[upload]:
            del uploads[upload]
        if not uploads:
            del self._uploads[address]


class Sending:
    """A request that is counted while the block runs."""

    __slots__ = ("_address", "_senders", "_upload", "_uploads_max")

    def __init__(self, senders: Senders, address: str | None, upload: str, uploads_max: int | None) -> None:
        self._senders = senders
        self._address = address
        self._upload = upload
        self._uploads_max = uploads_max

    def __enter__(self) -> None:
        if self._address is not None:
            self._senders.begin(self._address, self._upload, self._uploads_max)

    def __exit__(self, *_: object) -> None:
        if self._address is not None:
            self._senders.end(self._address, self._upload)
