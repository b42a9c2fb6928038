"""What an operator chooses of the engine's behaviour."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Durability(Enum):
    """What is still there after a power loss."""

    NONE = "none"
    COMPLETION = "completion"
    ACKNOWLEDGEMENT = "acknowledgement"


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Replaced as a whole when the configuration is read again."""

    durability: Durability = Durability.ACKNOWLEDGEMENT
    hold_s: float = 10.0
    lease_s: float = 5.0
    """An owner that says nothing for so long may be passed over."""
    expires_in_s: float = 7 * 86400.0
    expires_in_max_s: float = 30 * 86400.0
    records_keep_s: float = 7 * 86400.0
    upload_bytes_max: int | None = None
    confirm_timeout_s: float = 600.0
    backfill_bytes_per_s: int | None = None
    """Of one upload's earlier bytes, copied from another volume; None: as fast as the wire."""
    idle_s: float = 30.0
    """An upload that nobody asked for so long leaves the memory."""
    open_uploads_per_address: int | None = None
    """How many one client address may be sending at once; None: any number."""
