"""The command runs in a child process, and this process looks after it.

Jittor compiles and waits for locks in C, where Python hears no signal, and a crash there is the end of the process. A
process that has no Jittor in it can say who has the lock, stop the command at once, tell a crash in a sentence, and
start the command again, once, when that helps. The child is in a process group of its own, so that Ctrl-C in a terminal
does not reach the compilers, which would leave an error instead of an operator.
"""
from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from pathlib import Path
from typing import Callable, Optional

from styleblend.errors import StartAgain, StyleBlendError
from styleblend.machine.compiled_code import recorded_folders, repair
from styleblend.machine.environment import jittor_cache
from styleblend.machine.jittor_lock import PATIENCE, awaited, waiting

HEARD = {signal.SIGINT, signal.SIGTERM, signal.SIGTSTP, signal.SIGCHLD}
CRASHES = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT}
PR_SET_PDEATHSIG = 1
AGAIN = 75  # exit code by which the child asks to be started again; nothing else gives it
GRACE = 1.0  # seconds in which a stopped command may end by itself while it compiles or waits for a lock
LAST_GRACE = 10.0  # seconds after it was asked a second time


def watched(command: Callable[[bool], int], stopped: str) -> int:
    """Run a command in a child process; its exit code.

    `command` is told whether it may ask for a second start, by raising StartAgain. `stopped` is what is said when it
    was stopped and could not say so itself.
    """
    code = Child(command, stopped, may_ask=True).result()
    return Child(command, stopped, may_ask=False).result() if code == AGAIN else code


class Child:
    """The process in which the command runs. It ends with this one, however that ends."""

    def __init__(self, command: Callable[[bool], int], stopped: str, may_ask: bool):
        self.stopped, self.may_ask = stopped, may_ask
        self.asked, self.asked_at = 0, 0.0
        self.waits_since: Optional[float] = None  # for a lock
        self.told = False
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # who ignores it is not told how a child ended
        before = signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            begin(parent, before)
            raise SystemExit(code_of(command, may_ask))
        with contextlib.suppress(OSError):  # it has done so itself, and is running
            os.setpgid(self.pid, self.pid)

    def result(self) -> int:
        """The exit code, when it has ended."""
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return self.ended(status)
            heard = signal.sigtimedwait(HEARD, 0.2 if self.asked else 1.0)
            if heard and heard.si_signo in (signal.SIGINT, signal.SIGTERM):
                self.stop()
            elif heard and heard.si_signo == signal.SIGTSTP:
                self.pause()
            self.look_at_locks()
            if self.is_deaf():
                os.killpg(self.pid, signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM for either signal: while Jittor is imported it ends the child, else both do the same."""
        self.asked, self.asked_at = self.asked + 1, time.monotonic()
        os.kill(self.pid, signal.SIGTERM)

    def pause(self) -> None:
        """Ctrl-Z: both stop, and go on when this process is told to."""
        os.killpg(self.pid, signal.SIGTSTP)
        os.kill(os.getpid(), signal.SIGSTOP)
        os.killpg(self.pid, signal.SIGCONT)

    def is_deaf(self) -> bool:
        """Whether it was asked to stop and is at work in C, where it may not hear of that for minutes."""
        if not self.asked:
            return False
        since = time.monotonic() - self.asked_at
        return since > GRACE and (compiles(self.pid) or awaited(self.pid) is not None) or (
            self.asked > 1 and since > LAST_GRACE)

    def look_at_locks(self) -> None:
        """Say for whom it waits, once it has waited for some seconds."""
        holders, now = awaited(self.pid), time.monotonic()
        if holders is None:
            self.waits_since, self.told = None, False
        elif self.waits_since is None:
            self.waits_since = now
        elif now - self.waits_since > PATIENCE and not self.told:
            self.told = True
            tell(waiting(holders))

    def ended(self, status: int) -> int:
        """What its end means, as an exit code and, where it could not say so itself, in a sentence."""
        with contextlib.suppress(OSError):  # compilers that are still at work for it
            os.killpg(self.pid, signal.SIGKILL)
        if os.WIFEXITED(status):
            return os.WEXITSTATUS(status)
        number = os.WTERMSIG(status)
        if self.asked:
            tell(self.stopped)
            return 130
        if number in CRASHES:
            return self.crashed(signal.Signals(number).name)
        if number == signal.SIGKILL:
            tell("killed from outside, as Linux does when memory runs out (see --max-memory); "
                 "start the same command again to go on")
        return 128 + number

    def crashed(self, name: str) -> int:
        """Mostly it comes of damage to what Jittor has compiled: only where there is some is a new start of use."""
        try:
            said = list(filter(None, (repair(code, thorough=True) for code in recorded_folders(jittor_cache()))))
        except StyleBlendError as error:
            tell(str(error))
            return 2
        if said and self.may_ask:
            tell(f"the program crashed ({name}). {said[0]}")
            return AGAIN
        tell(f"the program crashed ({name}) in compiled code: start it again; if it crashes again, delete the folder "
             f"{jittor_cache()}, which is compiled anew.")
        return 2


def begin(parent: int, mask) -> None:
    """In the child: a process group of its own, the signals as they were, and an end with the parent's."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # a group in the background may write to the terminal, too
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended before
        os.kill(os.getpid(), signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def code_of(command: Callable[[bool], int], may_ask: bool) -> int:
    """In the child: run the command; its exit code, or AGAIN."""
    try:
        return command(may_ask)
    except StartAgain as again:
        tell(f"{str(again).partition(':')[0]}: the command starts again")
        return AGAIN


def compiles(pid: int) -> bool:
    """Whether a process has started others, which only Jittor's compiling does."""
    with contextlib.suppress(OSError):
        return any(path.read_text().strip() for path in Path(f"/proc/{pid}/task").glob("*/children"))
    return False


def tell(sentence: str) -> None:
    print(f"styleblend: {sentence}", file=sys.stderr, flush=True)
