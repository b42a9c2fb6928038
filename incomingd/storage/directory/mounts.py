"""On what kind of file system a directory lies, told from the text of ``/proc/self/mountinfo`` (proc(5))."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

LOCAL: Final = frozenset(
    {
        "bcachefs", "btrfs", "exfat", "ext2", "ext3", "ext4", "f2fs", "jfs", "msdos", "nilfs2", "ntfs3", "overlay",
        "ramfs", "reiserfs", "tmpfs", "ubifs", "vfat", "xfs", "zfs",
    }
)  # fmt: skip
"""File systems of which this kernel alone holds all pages and locks. Any other may have more than one kernel at it."""
_NFS: Final = frozenset({"nfs", "nfs4"})
_SMB: Final = frozenset({"cifs", "smb3", "smbfs"})


@dataclass(frozen=True, slots=True)
class Mount:
    """Where a directory lies."""

    kind: str
    """As mountinfo names it: ``ext4``, ``nfs4``, ``fuse.sshfs``; empty: it is not known."""
    options: frozenset[str] = frozenset()
    """Of the mount and of the file system: ``lookupcache=pos``, …"""

    @property
    def network(self) -> bool:
        """Whether bytes may reach the disk late, and other kernels may write there."""
        return self.kind not in LOCAL

    def refusal_to_share(self) -> str | None:
        """Return why several instances must not use it, or None.

        What cannot be seen in the options is found by probing.
        """
        if self.kind in _NFS:
            if not self.options & {"lookupcache=pos", "lookupcache=positive", "lookupcache=none"}:
                return (
                    f"it is an {self.kind} mount that remembers missing names, so a claim made on another host would be"
                    " seen too late; mount it with lookupcache=pos"
                )
            local = sorted(self.options & {"local_lock=all", "local_lock=flock", "nolock"})
            if local:
                return f"it is an {self.kind} mount whose locks do not reach other hosts ({local[0]})"
        if self.kind in _SMB:
            return f"{self.kind} remembers missing names, so a claim made on another host would be seen too late"
        if self.kind == "9p":
            cached = sorted(self.options & {"cache=loose", "cache=fscache", "cache=mmap"})
            if cached:
                return f"it is a 9p mount that remembers names ({cached[0]}); mount it with cache=none"
        return None


def mount_of(mountinfo: str, path: PurePosixPath) -> Mount:
    """Return the mount on which *path* lies.

    Args:
        mountinfo: the text of ``/proc/self/mountinfo``.
        path: absolute, without links in it.
    """
    assert path.is_absolute(), path
    best, found = -1, Mount("")
    for line in mountinfo.splitlines():
        before, separator, after = line.partition(" - ")
        fields, kinds = before.split(" "), after.split(" ")
        if not separator or len(fields) < 6 or len(kinds) < 3:
            continue
        point = PurePosixPath(_unescaped(fields[4]))
        depth = len(point.parts)
        # Of several mounts at one place the last one is seen.
        if depth >= best and path.is_relative_to(point):
            best = depth
            found = Mount(kinds[0], frozenset([*fields[5].split(","), *kinds[2].split(",")]))
    return found


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)
