"""What a job says, on stderr: progress bars on a terminal, a line now and then in a log file, sentences beside both."""
from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
import warnings

from styleblend.cli.log_lines import quiet_seconds

# read when it is imported: what it says at its own lower levels is no business of the user's
QUIET_LIBRARIES = {"HF_HUB_VERBOSITY": "error"}


def tell(sentence: str) -> None:
    """Tell the user something that is not part of a command's output, on a line of its own also beside a bar."""
    from tqdm import tqdm
    tqdm.write(f"styleblend: {sentence}", file=sys.stderr)
    sys.stderr.flush()


class Teller(logging.Handler):
    """What the library says, in the program's own voice."""

    def emit(self, record: logging.LogRecord) -> None:
        tell(record.getMessage())


@contextlib.contextmanager
def messages_on_stderr():
    """What this program says and warns of is told while a command runs; what other libraries say is not.

    They know nothing of what the user does: where it matters, there is a sentence of our own.
    """
    logger, teller, silence = logging.getLogger("styleblend"), Teller(), logging.NullHandler()
    logger.addHandler(teller)
    logging.getLogger().addHandler(silence)  # else Python shows warnings of loggers that nobody has set up
    for name, value in QUIET_LIBRARIES.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("default", category=UserWarning, module=r"styleblend\b")
        warnings.showwarning = lambda message, *_: tell(str(message))
        try:
            yield
        finally:
            logger.removeHandler(teller)
            logging.getLogger().removeHandler(silence)


def size_of_terminal() -> dict:
    """tqdm's options for the size: the terminal's, also when it changes; a usual one where it says none."""
    with contextlib.suppress(OSError):
        if os.get_terminal_size(sys.stderr.fileno()).columns:
            return {"dynamic_ncols": True}
    return {"ncols": 80, "nrows": 24}


class Bar:
    """A progress bar on a terminal. One inside another goes when it is full."""

    def __init__(self, event, inside: bool):
        from tqdm import tqdm
        self.bar = tqdm(total=event.total, initial=event.done, desc=event.title, unit=event.unit, leave=not inside,
                        file=sys.stderr, **size_of_terminal())

    def show(self, event) -> None:
        self.bar.set_postfix_str(event.note, refresh=False)
        self.bar.update(event.done - self.bar.n)

    def close(self) -> None:
        self.bar.close()


class Lines:
    """The same in a log file: a line at the beginning, at the end, and so many seconds after another.

    Work inside other work has lines of the last kind only.
    """

    said = 0.0  # when any of them last said something

    def __init__(self, event, inside: bool):
        self.first, self.began, self.inside, self.new = event.done, time.monotonic(), inside, True
        self.warm = False  # the first unit is made: for it Jittor may have had to compile, so the speed leaves it out
        self.seconds = quiet_seconds()

    def show(self, event) -> None:
        now = time.monotonic()
        at_an_end = (self.new or event.done >= event.total) and not self.inside
        if at_an_end or now - Lines.said >= self.seconds and event.done > self.first:
            Lines.said, self.new = now, False
            print(self.line(event, now - self.began), file=sys.stderr, flush=True)
        if not self.warm and event.done > self.first:
            self.first, self.began, self.warm = event.done, now, True

    def line(self, event, seconds: float) -> str:
        """"lora: 150/200 steps, 1.3 steps/s, 00:38 left, loss=0.0712"."""
        from tqdm import tqdm
        parts, made = [f"{event.title}: {event.done}/{event.total} {event.unit}s"], event.done - self.first
        if made and seconds:
            rate = made / seconds
            parts.append(f"{rate:.1f} {event.unit}s/s" if rate >= 1 else f"{1 / rate:.1f} s/{event.unit}")
            left = (event.total - event.done) / rate
            parts += [f"{tqdm.format_interval(left)} left"] * (left > 0)
        return ", ".join(parts + [event.note] * bool(event.note))

    def close(self) -> None:
        """Nothing is open."""


class Display:
    """Shows the events of one job; a context that closes what is open."""

    def __init__(self):
        self.kind, self.shown = Bar if sys.stderr.isatty() else Lines, {}  # title -> what shows it

    def __enter__(self) -> "Display":
        return self

    def is_outermost(self, event) -> bool:
        """Whether this progress is inside no other work."""
        return next(iter(self.shown), event.title) == event.title

    def show(self, event) -> None:
        """Progress and sentences; what becomes of pictures and files is the command's to say."""
        from styleblend.jobs.events import Log, Progress
        if isinstance(event, Log):
            tell(event.sentence)
        if isinstance(event, Progress):
            if event.title not in self.shown:
                self.shown[event.title] = self.kind(event, inside=bool(self.shown))
            self.shown[event.title].show(event)
            if event.done >= event.total:
                self.shown.pop(event.title).close()

    def __exit__(self, *error) -> None:
        for one in reversed(list(self.shown.values())):
            one.close()
