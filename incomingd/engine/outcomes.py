"""What becoming an owner can come to, besides a refusal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from incomingd.core.tenure import Identity
    from incomingd.engine.owned import OwnedUpload


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
