"""What a job says, on stderr: progress bars on a terminal, a line now and then in a log file, sentences beside both."""
from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
import warnings

QUIET_SECONDS = 10.0  # between two lines in a log file, unless TQDM_MININTERVAL says otherwise


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
    """What the library says and warns of is told while a command runs."""
    logger, teller = logging.getLogger("styleblend"), Teller()
    logger.addHandler(teller)
    with warnings.catch_warnings():
        # Jittor's compiled code flushes subnormal numbers to zero, which NumPy remarks on; nothing here depends on them
        warnings.filterwarnings("ignore", message="The value of the smallest subnormal")
        warnings.showwarning = lambda message, *_: tell(str(message))
        try:
            yield
        finally:
            logger.removeHandler(teller)


class Bar:
    """A progress bar on a terminal. One inside another goes when it is full."""

    def __init__(self, event, inside: bool):
        from tqdm import tqdm
        self.bar = tqdm(total=event.total, initial=event.done, desc=event.title, unit=event.unit, leave=not inside,
                        dynamic_ncols=True, file=sys.stderr)

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
        self.seconds = float(os.environ.get("TQDM_MININTERVAL") or QUIET_SECONDS)

    def show(self, event) -> None:
        now = time.monotonic()
        at_an_end = (self.new or event.done >= event.total) and not self.inside
        if at_an_end or now - Lines.said >= self.seconds and event.done > self.first:
            Lines.said, self.new = now, False
            print(self.line(event, now - self.began), file=sys.stderr, flush=True)

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
