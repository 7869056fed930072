"""Files that are there whole or not at all."""
from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from pathlib import Path

from styleblend.errors import StyleBlendError

UNFINISHED = ".styleblend.tmp"


def not_written(path: Path, error: OSError) -> StyleBlendError:
    """The sentence for a full disk, a read-only folder and their kind."""
    return StyleBlendError(f"{path} could not be written ({error.strerror or error}): "
                           "free space or choose another folder, then start the same command again")


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all.

    It is written under a temporary name, synced, renamed, and the folder synced. Two processes or threads may write one
    file: the later one's stays.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{UNFINISHED}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open_locked(temporary) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise not_written(path, error) from None
    finally:  # also after Ctrl-C
        with contextlib.suppress(OSError):  # the folder is gone or read-only: the first error says so
            temporary.unlink(missing_ok=True)


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
