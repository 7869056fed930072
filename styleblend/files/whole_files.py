"""Files that are there whole or not at all."""
from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
from pathlib import Path

from styleblend.errors import StyleBlendError

UNFINISHED = ".styleblend.tmp"


FREE = "free space, then start the same command again"
NO_FOLDER = "a part of this path is a file, not a folder: choose another"
CURES = {errno.ENOSPC: FREE, errno.EDQUOT: FREE, errno.EFBIG: FREE,
         errno.EACCES: "choose a folder that you may write in, or change its permissions",
         errno.EPERM: "choose a folder that you may write in, or change its permissions",
         errno.EROFS: "choose a folder on a file system that can be written",
         errno.ENAMETOOLONG: "choose a shorter name",
         errno.ENOTDIR: NO_FOLDER, errno.EEXIST: NO_FOLDER, errno.EISDIR: "it is a folder: name a file in it"}
LONGEST_SHOWN = 118  # characters of a path in a sentence
WITHOUT_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS)


def not_written(path: Path, error: OSError) -> StyleBlendError:
    """The sentence for a full disk, a read-only folder and their kind, each with its own cure."""
    shown = str(path)
    if len(shown) > LONGEST_SHOWN:
        shown = f"{shown[:LONGEST_SHOWN // 2]}...{shown[-LONGEST_SHOWN // 2:]}"
    return StyleBlendError(f"{shown} could not be written ({error.strerror or error}): "
                           f"{CURES.get(error.errno, 'choose another folder')}")


def write_bytes(path: Path, data: bytes, replace: bool = True) -> None:
    """Write a file so that it is there whole or not at all.

    It is written under a temporary name, synced, renamed, and the folder synced. Two processes or threads may write one
    file: the later one's stays. Without `replace` the file that is there stays, and FileExistsError is raised.
    """
    path = Path(path)
    temporary = path.with_name(f".{secrets.token_hex(8)}{UNFINISHED}")  # short: a name may be as long as one can
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open_locked(temporary) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            if not replace:
                put_beside(temporary, path)
            else:
                os.replace(temporary, path)
        sync_folder(path.parent)
    except FileExistsError as error:
        if not replace and os.path.lexists(path):
            raise
        raise not_written(path, error) from None
    except OSError as error:
        raise not_written(path, error) from None
    finally:  # also after Ctrl-C
        with contextlib.suppress(OSError):  # the folder is gone or read-only: the first error says so
            temporary.unlink(missing_ok=True)


def put_beside(temporary: Path, path: Path) -> None:
    """Give a file its name unless there is one of that name: FileExistsError. Two processes cannot both succeed."""
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in WITHOUT_LINKS:
            raise
        if os.path.lexists(path):  # a file system without hard links: what comes between these two lines is lost
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        os.replace(temporary, path)


def open_locked(path: Path):
    """A new file for writing, under a lock that lasts as long as it is open.

    So a live writer's file can be told from a killed one's.
    """
    while True:
        file = open(path, "xb")
        with contextlib.suppress(OSError):  # some network file systems have no locks
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()  # another process took it for an unfinished one before it was locked


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last through a power failure; some file systems cannot, and need not stop for it."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def remove_unfinished(*folders: Path) -> None:
    """Remove what killed processes left unfinished in these folders, not below them. What is being written stays."""
    for path in [p for folder in folders for p in Path(folder).glob(f".*{UNFINISHED}")]:
        with contextlib.suppress(OSError), open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
