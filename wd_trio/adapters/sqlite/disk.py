"""Where a database may live: on a disk of this machine, readable by its owner only.

The write-ahead log's index is shared memory and our writer's lock is flock(2): over a network or a remote FUSE
file system both can look as if they worked and lose data. Such places are refused when the database is opened.
The kernel's own table of mounts says what a path lies on; where there is none (not Linux), nothing is refused.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from wd_trio import errors

MOUNT_TABLE: Final = Path("/proc/self/mountinfo")
_REMOTE: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "9p", "afs", "ceph", "glusterfs", "lustre", "gpfs"}
    | {"orangefs", "davfs", "sshfs", "fuse", "vboxsf"}
)
_LOCAL_FUSE: Final = frozenset(
    {"fuse.fuse-overlayfs"}
)  # the root of rootless containers: local, locks included


def require_local(path: Path, *, mount_table: Path = MOUNT_TABLE) -> None:
    """Raise errors.Invalid when the folder of `path` lies on a network or remote FUSE file system."""
    kind = file_system_of(path.parent.resolve(), mount_table)
    if kind in _REMOTE or (kind.startswith("fuse.") and kind not in _LOCAL_FUSE):
        raise errors.Invalid(
            f"{path} lies on a {kind} file system: SQLite needs a local disk", what="store.url"
        )


def file_system_of(folder: Path, mount_table: Path = MOUNT_TABLE) -> str:
    """The type of the file system a folder lies on, "" when unknown. Lines as in proc(5): the fifth field is
    the mount point, the type follows a lone hyphen; a later mount on the same point hides an earlier one."""
    try:
        lines = mount_table.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return ""
    best, kind = -1, ""
    for line in lines:
        left, _, right = line.partition(" - ")
        fields = left.split(" ")
        if len(fields) < 5 or not right:
            continue
        point = Path(_unescaped(fields[4]))
        if folder.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), right.split(" ", 1)[0]
    return kind


def _unescaped(text: str) -> str:
    """The kernel writes space, tab, newline and backslash as three octal digits."""
    for code in ("\\040", "\\011", "\\012", "\\134"):
        text = text.replace(code, chr(int(code[1:], 8)))
    return text


def create_private(path: Path) -> None:
    """Make an empty file, and its folders, that only the owner reads; SQLite's side files copy its mode."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable (a new or renamed file's own fsync does not)."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
