"""What becoming an owner can come to, besides a refusal, and what a volume's errors come to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from incomingd.core.errors import Code, Refusal
from incomingd.log import events, get_logger
from incomingd.storage.volume import RecordUnreadableError, VolumeError, VolumeFullError

if TYPE_CHECKING:
    from incomingd.core.tenure import Identity
    from incomingd.engine.owned import OwnedUpload

log = get_logger()


class OwnedElsewhereError(Exception):
    """A live instance owns it and keeps it: the upload takes no bytes any more, so nobody needs it elsewhere."""

    def __init__(self, owner: Identity) -> None:
        super().__init__(owner.name)
        self.owner = owner


class LostBytesError(Exception):
    """The volume has fewer bytes than were promised; the upload ends as lost."""

    def __init__(self, upload: OwnedUpload) -> None:
        super().__init__(upload.id)
        self.upload = upload


class refusing:  # noqa: N801 -- used as contextlib's own are; a generator in its place costs several times as much
    """Let no error of a volume out: callers hear a refusal."""

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if not isinstance(error, VolumeError):
            return
        if isinstance(error, VolumeFullError):
            raise Refusal(Code.STORAGE_FULL) from error
        if isinstance(error, RecordUnreadableError):
            log.error(events.RECORD_UNREADABLE, detail=str(error))
            raise Refusal(Code.STORAGE_UNAVAILABLE, "The upload's record cannot be read.") from error
        raise Refusal(Code.STORAGE_UNAVAILABLE, retry_after_s=1) from error
