"""Files that are there whole or not at all, and folders that one process has at a time."""
from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
from pathlib import Path
from typing import Iterable, Iterator

from filelock import FileLock, Timeout

from styleblend.errors import Busy, StyleBlendError

UNFINISHED = ".styleblend.tmp"


def not_written(path: Path, error: OSError) -> StyleBlendError:
    """The sentence for a full disk, a read-only folder and their kind."""
    return StyleBlendError(f"{path} could not be written ({error.strerror or error}): free space or choose another folder, then start the same command again")


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all: under a temporary name, synced, renamed, and the folder synced."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{UNFINISHED}")  # two processes may write one file: the later one stays
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
    """A new file for writing, under a lock that lasts as long as it is open: so a live process's file can be told from a killed one's."""
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
    """Remove what killed processes left unfinished in these folders (not below them); what a live process writes now stays."""
    for path in [p for folder in folders for p in Path(folder).glob(f".*{UNFINISHED}")]:
        with contextlib.suppress(OSError), open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


@contextlib.contextmanager
def claim(folder: Path, name: str, wait: bool = False) -> Iterator[None]:
    """Have the work `name` in `folder` alone, by the lock file `<folder>/<name>.lock`. The kernel lets go of it when the process ends, however it ends.

    Raises Busy when another process has it (`wait`: waits instead), StyleBlendError when the folder cannot be written.
    """
    lock = FileLock(str(Path(folder) / f"{name}.lock"))
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        raise Busy(f"{folder} is in use by another process, which holds {name}.lock: wait for it, or stop it") from None
    except OSError as error:
        raise not_written(Path(folder), error) from None
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def claim_files(folder: Path, name: str, files: Iterable[str], advice: str) -> Iterator[None]:
    """Have these files of `folder` alone, so that processes side by side have none in common. As in `claim`, the kernel lets go of them when the process ends.

    Each file is one byte of `<folder>/<name>.lock`, at a place that its name says. Raises Busy, with `advice`, when another process has one of them.
    """
    path = Path(folder) / f"{name}.lock"
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        lock = open(path, "ab")
    except OSError as error:
        raise not_written(Path(folder), error) from None
    with lock:
        places = {int.from_bytes(hashlib.sha256(file.encode("utf-8")).digest()[:7], "big"): file for file in files}
        for place, file in sorted(places.items()):  # in one order, so that of two processes not both give way
            try:
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise not_written(path, error) from None
                raise Busy(f"{Path(folder) / file} is in use by another process: wait for it, or stop it, {advice}") from None
        yield


@contextlib.contextmanager
def in_turn(folder: Path) -> Iterator[None]:
    """Write files that belong together into `folder` while other processes that do so wait.

    The lock is on the folder itself: no lock file stays behind among files that are for other programs.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise not_written(Path(folder), error) from None
    try:
        with contextlib.suppress(OSError):  # some network file systems have no locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
