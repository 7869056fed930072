"""A log file without endless lines: what Jittor and other libraries draw over itself becomes a line now and then.

Jittor writes its progress straight to the process's stderr, from C++ and while no other Python code can run. So stderr
becomes a pipe, and a small forked process reads it and writes the log file.
"""
from __future__ import annotations

import codecs
import contextlib
import os
import re
import signal
import sys
import time
from typing import Callable, List, Optional

QUIET_SECONDS = 10.0  # between two lines of one thing in a log file, unless TQDM_MININTERVAL says otherwise
# "Compiling Operators(5/16) used: 10.4s eta: 22.9s"
COMPILING = re.compile(r"Compiling (\S+?)\((\d+)/(\d+)\) used: *([\d.e+]+)s eta: *(\S+?)s\s*")
PATIENCE = 2.0  # seconds that the end of a command waits for the last lines
END = b"\0styleblend: end\0"  # comes last; processes that Jittor has forked may have the pipe open for longer


def quiet_seconds() -> float:
    """How far apart the lines of one thing are in a log file."""
    return float(os.environ.get("TQDM_MININTERVAL") or QUIET_SECONDS)


def duration(seconds: float) -> str:
    """"18 s" or "3 min 5 s"."""
    seconds = round(seconds)
    return f"{seconds // 60} min {seconds % 60} s" if seconds >= 60 else f"{seconds} s"


class LogLines:
    """Turns a stream of text into lines.

    A text that ends in a carriage return, so that the next one is drawn over it, is shown when none was for some
    seconds. What Jittor says while it compiles becomes sentences, and a summary before something else is said.
    """

    def __init__(self, write: Callable[[str], None], seconds: float, clock: Callable[[], float] = time.monotonic):
        self.write, self.seconds, self.clock = write, seconds, clock
        self.rest, self.empty = "", False  # what has no end yet; whether an empty line waits
        self.said: Optional[float] = None  # when a passing text was last shown
        self.passing: Optional[str] = None  # the last text that was not shown
        self.compiled: List[tuple] = []  # what, how many and in how many seconds: each that has ended
        self.compiling: Optional[tuple] = None

    def feed(self, text: str) -> None:
        *whole, self.rest = re.split(r"(?<=[\r\n])", self.rest + text)
        for piece in whole:
            self.piece(piece[:-1], passing=piece[-1] == "\r")

    def piece(self, text: str, passing: bool) -> None:
        """A text up to a carriage return or the end of a line."""
        found = COMPILING.fullmatch(text)
        if found:
            self.empty = False  # Jittor's own, before its first text
            self.compile(found)
        elif passing:
            self.pass_by(text)
        elif not text:
            self.end_of_line()
        else:
            self.passing = None  # it was drawn over
            self.flush()
            self.write(text + "\n")

    def compile(self, found: re.Match) -> None:
        """A step of a compilation; its end is noted for the summary."""
        what, done, total, used = found[1], int(found[2]), int(found[3]), float(found[4])
        what = "operators" if what == "Operators" else "Jittor" if what == "jittor_core" else "Jittor's own operators"
        if self.compiling and (self.compiling[0] != what or self.compiling[1] > done):
            self.compiled.append(self.compiling)
        self.compiling = (what, done, used)
        if done < total and self.due():
            left = used / done * (total - done) if done else 0
            self.write(f"styleblend: compiling {what}: {done} of {total}, {duration(left)} left\n")

    def due(self) -> bool:
        """Whether a passing text may be shown now. The first one waits, too: most are over soon."""
        now = self.clock()
        if self.said is None:
            self.said = now
            return False
        if now - self.said < self.seconds:
            return False
        self.said = now
        return True

    def pass_by(self, text: str) -> None:
        """A text that the next one would be drawn over."""
        self.passing = text.rstrip() or self.passing
        if self.passing and self.due():
            self.write(self.passing + "\n")
            self.passing = None

    def end_of_line(self) -> None:
        """An empty line, or the end of texts that were drawn over each other: the last of them stays."""
        if self.compiling:
            self.compiled.append(self.compiling)
            self.compiling = None
        elif self.passing:
            self.write(self.passing + "\n")
            self.passing = None
        else:
            self.empty = True

    def flush(self) -> None:
        """Say what was compiled, before something else is said."""
        if self.compiling or self.passing:
            self.end_of_line()
        for what in dict.fromkeys(what for what, *_ in self.compiled):
            count = sum(done for own, done, _ in self.compiled if own == what)
            seconds = sum(used for own, _, used in self.compiled if own == what)
            self.write(f"styleblend: compiled {f'{count} ' if what == 'operators' else ''}{what} in "
                       f"{duration(seconds)}\n")
        if self.empty:
            self.write("\n")
        self.compiled, self.empty, self.said = [], False, None

    def close(self) -> None:
        if self.rest:
            self.piece(self.rest, passing=False)
        self.flush()


def copy_lines(source: int, target: int, seconds: float) -> None:
    """Read from `source` until its end, or until END has come, and write lines to `target`."""
    def write(text: str) -> None:
        with contextlib.suppress(OSError):  # a full disk, or nobody who reads: the command goes on
            os.write(target, text.encode("utf-8", "surrogateescape"))

    lines, decoder = LogLines(write, seconds), codecs.getincrementaldecoder("utf-8")("surrogateescape")
    waiting, ended = b"", False
    while not ended:
        data = os.read(source, 1 << 16)
        waiting += data
        ended = END in waiting or not data
        kept = 0 if ended else unfinished(waiting)
        lines.feed(decoder.decode(waiting[:len(waiting) - kept].replace(END, b"")))
        waiting = waiting[len(waiting) - kept:]
    lines.close()


def unfinished(data: bytes) -> int:
    """How many bytes at the end of `data` END may begin with."""
    return next((n for n in range(min(len(END), len(data)), 0, -1) if END.startswith(data[-n:])), 0)


def forked_reader(source: int, unused: int, seconds: float) -> int:
    """The process that writes the log file; its id. It ends when the pipe does, and not by Ctrl-C before that."""
    stopping = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, stopping)  # until the child ignores them
    try:
        child = os.fork()
        for number in () if child else stopping:
            signal.signal(number, signal.SIG_IGN)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if child:
        return child
    try:
        os.close(unused)
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1):  # whoever reads the command's output waits for its end, not for this process's
            os.dup2(nothing, number)
        copy_lines(source, 2, seconds)
    finally:
        os._exit(0)


@contextlib.contextmanager
def lines_in_a_log_file():
    """While a command runs whose stderr is no terminal, all that is written to it becomes lines."""
    if not sys.stderr or sys.stderr is not sys.__stderr__ or sys.stderr.fileno() != 2 or sys.stderr.isatty():
        yield
        return
    sys.stderr.flush()
    source, target = os.pipe()
    owner, child, before = os.getpid(), forked_reader(source, target, quiet_seconds()), os.dup(2)
    os.dup2(target, 2)
    os.close(source)
    os.close(target)
    try:
        yield
    finally:
        sys.stderr.flush()
        if os.getpid() == owner:  # and not a process that was forked meanwhile
            os.write(2, END)
            os.dup2(before, 2)
            os.close(before)
            wait_for(child)


def wait_for(child: int) -> None:
    """Wait until the last lines are written, but not for ever."""
    end = time.monotonic() + PATIENCE
    with contextlib.suppress(ChildProcessError):  # somebody else has waited for all children
        while not os.waitpid(child, os.WNOHANG)[0] and time.monotonic() < end:
            time.sleep(0.005)
