"""Owning an upload while a block runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from incomingd.core.errors import Code, Refusal
from incomingd.engine.outcomes import OwnedElsewhereError

if TYPE_CHECKING:
    from collections.abc import Callable

    from incomingd.core.status import Status
    from incomingd.engine.owned import OwnedUpload


class Holder(Protocol):
    """Where uploads are held; see :class:`incomingd.engine.keeper.Keeper`."""

    async def hold(self, upload_id: str, shown: Callable[[Status], bool] | None) -> tuple[OwnedUpload, bool]:
        """Return an upload, and whether it is owned, to be handed to :meth:`let_go` then."""

    def let_go(self, upload: OwnedUpload) -> None:
        """End what :meth:`hold` began."""


class Owning:
    """The upload, owned, for ``async with``; memory keeps it meanwhile.

    A class of its own where generators would read alike: three of them within
    each other cost every request more than all that is done to the upload.

    Args:
        holder: who has it.
        upload_id: which.
        shown: of which status the record says all there is to be said: such an upload is not owned, only told.
        elsewhere: with what to refuse where it turns out that another instance keeps it; None: that is told as it is.
    """

    __slots__ = ("_elsewhere", "_holder", "_owned", "_shown", "_upload_id")

    def __init__(
        self,
        holder: Holder,
        upload_id: str,
        shown: Callable[[Status], bool] | None = None,
        *,
        elsewhere: Code | None = None,
    ) -> None:
        self._holder = holder
        self._upload_id = upload_id
        self._shown = shown
        self._elsewhere = elsewhere
        self._owned: OwnedUpload | None = None

    async def __aenter__(self) -> OwnedUpload:
        try:
            upload, owned = await self._holder.hold(self._upload_id, self._shown)
        except OwnedElsewhereError as error:
            self._refuse(error)
            raise
        if owned:
            self._owned = upload
        return upload

    async def __aexit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if self._owned is not None:
            self._holder.let_go(self._owned)
        if isinstance(error, OwnedElsewhereError):
            self._refuse(error)

    def _refuse(self, error: OwnedElsewhereError) -> None:
        if self._elsewhere is not None:
            raise Refusal(self._elsewhere, retry_after_s=1) from error
