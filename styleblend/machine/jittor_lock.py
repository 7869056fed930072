"""Jittor's lock: waiting for it so that Ctrl-C is heard, and saying who has it.

Jittor locks one file in two ways. While it is imported it has it with flock. While it compiles or loads operators it
has it with POSIX's lock, for which it waits in C, where no handler of Python's runs: `styleblend.cli.watched` looks
after that.
"""
from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import time
from pathlib import Path
from typing import Callable, Iterator, List, Optional, Tuple

PAUSE = 0.05  # seconds between two tries
PATIENCE = 5.0  # seconds until it is said who has the lock
LOCKS = Path("/proc/locks")


@contextlib.contextmanager
def import_locked(lock, say: Callable[[str], None]) -> Iterator[None]:
    """Have the lock under which Jittor is imported, by Jittor's own object in `jittor_utils.lock`: it need not wait."""
    if lock.disable_lock:  # the user says so
        yield
        return
    handle = lock.jittor_lock.handle
    wait_for(lambda: fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB), lock.lock_path, say)
    lock.jittor_lock.is_locked = True
    try:
        yield
    finally:
        lock.jittor_lock.unlock()


@contextlib.contextmanager
def file_locked(path: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Have a lock file alone; it is made if need be."""
    with open(path, "a") as file:
        wait_for(lambda: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB), str(path), say)
        yield


@contextlib.contextmanager
def operators_locked(path: str, say: Callable[[str], None]) -> Iterator[None]:
    """Have the lock under which Jittor compiles operators, so that no other process does."""
    # the kernel's struct flock: type, whence, start, length (0: all), process (0)
    request = struct.pack("hhqqi0q", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:  # closing lets go of this lock, and of no other
        wait_for(lambda: fcntl.fcntl(handle, fcntl.F_OFD_SETLK, request), path, say)
        yield
    finally:
        os.close(handle)


def wait_for(take: Callable[[], object], path: str, say: Callable[[str], None]) -> None:
    """Try until the lock is free. A call that waits in the kernel would not hear of Ctrl-C."""
    began, said = time.monotonic(), False
    while True:
        try:
            take()
            return
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
        if not said and time.monotonic() - began >= PATIENCE:
            said = True
            say(waiting(holders(os.stat(path).st_ino)))
        time.sleep(PAUSE)


def waiting(processes: List[int]) -> str:
    """The sentence about who has the lock."""
    known = [about(pid) for pid in dict.fromkeys(processes)]
    who = " and ".join(known) or "a process that cannot be seen from here, as in another container,"
    return f"waiting for {who}, which has Jittor's lock while it compiles or loads code (Ctrl-C stops the waiting)."


def about(pid: int) -> str:
    """"process 4711 (python -m styleblend draw, since 10:32:05)"."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
        command = " ".join(word.decode("utf-8", "replace") for word in [os.path.basename(words[0]), *words[1:]])
        command = "".join(letter if letter.isprintable() else " " for letter in command)
        command = command if len(command) <= 44 else f"{command[:41]}..."
        ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
        running = float(Path("/proc/uptime").read_text().split()[0]) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):  # it has just ended
        return f"process {pid}"
    return f"process {pid} ({command}, since {time.strftime('%H:%M:%S', time.localtime(time.time() - running))})"


def holders(inode: int) -> List[int]:
    """The processes that have a lock on a file, but this one."""
    return [pid for blocked, pid, of in locks() if of == inode and not blocked and pid > 0 and pid != os.getpid()]


def awaited(pid: int) -> Optional[List[int]]:
    """The processes that have the lock for which a process waits in the kernel; None: it waits for none."""
    listed = list(locks())
    inode = next((of for blocked, waits, of in listed if blocked and waits == pid), None)
    if inode is None:
        return None
    return [holder for blocked, holder, of in listed if of == inode and not blocked and holder not in (pid, -1, 0)]


def locks() -> Iterator[Tuple[bool, int, int]]:
    """Of every lock on a file: whether it is waited for, by or for which process, the file's inode."""
    with contextlib.suppress(OSError):
        for line in LOCKS.read_text().splitlines():
            words = line.split()[1:]
            blocked = words[:1] == ["->"]
            words = words[blocked:]
            with contextlib.suppress(ValueError, IndexError):
                yield blocked, int(words[3]), int(words[4].rpartition(":")[2])
