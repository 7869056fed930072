"""Work that one has at a time, of all processes and of all threads of each.

The locks are those that belong to an open file: flock for a whole one, Linux's open file description locks for single
bytes. POSIX's own locks belong to the process: a second claim of the same process would be granted, and would drop the
first one's locks when it ends. The kernel lets go of a lock when its process ends, however it ends.
"""
from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import struct
import threading
import time
from pathlib import Path
from typing import Iterable, Iterator, Optional, Set

from styleblend.errors import Busy
from styleblend.files.whole_files import not_written

PAUSE = 0.05  # seconds between two tries; a call that waits in the kernel would not hear of Ctrl-C


class OpenFile:
    """A file or folder that is open for the locks on it: they are gone when it is closed."""

    def __init__(self, path: Path, flags: int):
        self.handle: Optional[int] = os.open(path, flags, 0o666)
        about = os.fstat(self.handle)
        self.identity = about.st_dev, about.st_ino
        self.thread = threading.get_ident()
        self.locked: Set[Optional[int]] = set()

    def lock(self, place: Optional[int]) -> bool:
        """Lock one byte, or all of the file (None). False when it is locked already, by whomever."""
        try:
            if place is None:
                fcntl.flock(self.handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            else:  # the kernel's struct flock: type, whence, start, length, process (0)
                request = struct.pack("hhqqi0q", fcntl.F_WRLCK, os.SEEK_SET, place, 1, 0)
                fcntl.fcntl(self.handle, fcntl.F_OFD_SETLK, request)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            return False
        self.locked.add(place)
        return True

    def close(self) -> None:
        """Let go of the locks. A second call does nothing."""
        handle, self.handle = self.handle, None
        if handle is not None:
            os.close(handle)


class OpenFiles:
    """The files that claims of this process hold open.

    The kernel does not say which process has a lock, and knows no threads.
    """

    def __init__(self):
        self.files: Set[OpenFile] = set()
        os.register_at_fork(after_in_child=self.leave)

    def leave(self) -> None:
        """Close them in a forked child: they are the parent's claims, and shall end with the parent."""
        for file in self.files:
            file.close()
        self.files.clear()

    def holder(self, wanted: OpenFile, place: Optional[int]) -> Optional[OpenFile]:
        """The one by which this process has that lock; None: another process has it."""
        return next((f for f in list(self.files) if f.identity == wanted.identity and place in f.locked), None)

    @contextlib.contextmanager
    def opened(self, path: Path, flags: int) -> Iterator[OpenFile]:
        """Open a file, in a folder that is made if need be. StyleBlendError when that is not possible."""
        folder = path if flags & os.O_DIRECTORY else path.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = OpenFile(path, flags)
        except OSError as error:
            raise not_written(folder, error) from None
        self.files.add(file)
        try:
            yield file
        finally:
            self.files.discard(file)
            file.close()

    def take(self, file: OpenFile, place: Optional[int], what: str, advice: str, wait: bool) -> None:
        """Lock a place; `wait`: as soon as it is free. Busy: it is taken, or this thread would wait for itself."""
        while not file.lock(place):
            holder = self.holder(file, place)
            if not wait or holder and holder.thread == threading.get_ident():
                who = "another job of this program" if holder else "another process"
                raise Busy(f"{what} is in use by {who}{advice}")
            time.sleep(PAUSE)


OPEN_FILES = OpenFiles()  # one, as the kernel's table of them is one


@contextlib.contextmanager
def claim(folder: Path, name: str, wait: bool = False) -> Iterator[None]:
    """Have the work `name` in `folder` alone, by the lock file `<folder>/<name>.lock`.

    Raises Busy when another process or thread has it (`wait`: waits instead), StyleBlendError when the folder cannot be
    written.
    """
    path = Path(folder) / f"{name}.lock"
    with OPEN_FILES.opened(path, os.O_RDWR | os.O_CREAT) as file:
        try:
            OPEN_FILES.take(file, None, str(folder), f", which holds {path.name}: wait for it, or stop it", wait)
        except OSError as error:
            raise not_written(path, error) from None
        yield


@contextlib.contextmanager
def claim_files(folder: Path, name: str, files: Iterable[str], advice: str) -> Iterator[None]:
    """Have these files of `folder` alone, so that claims side by side have none in common.

    Each file is one byte of `<folder>/<name>.lock`, at a place that its name says. Raises Busy, with `advice`, when
    another process or thread has one of them, StyleBlendError when the folder cannot be written.
    """
    path = Path(folder) / f"{name}.lock"
    places = {int.from_bytes(hashlib.sha256(file.encode("utf-8")).digest()[:7], "big"): file for file in files}
    with OPEN_FILES.opened(path, os.O_RDWR | os.O_CREAT) as lock:
        try:
            for place, file in sorted(places.items()):  # in one order, so that of two claims not both give way
                what = str(Path(folder) / file)
                OPEN_FILES.take(lock, place, what, f": wait for it, or stop it, {advice}", wait=False)
        except OSError as error:
            raise not_written(path, error) from None
        yield


@contextlib.contextmanager
def in_turn(folder: Path) -> Iterator[None]:
    """Write files that belong together into `folder` while other processes and threads that do so wait.

    The lock is on the folder itself: no lock file stays behind among files that are for other programs. Raises Busy
    when this thread has it.
    """
    with OPEN_FILES.opened(Path(folder), os.O_RDONLY | os.O_DIRECTORY) as file:
        with contextlib.suppress(OSError):  # some network file systems have no locks
            OPEN_FILES.take(file, None, str(folder), ": end that first", wait=True)
        yield
