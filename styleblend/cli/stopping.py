"""Ctrl-C and SIGTERM: both stop a command so that nothing is torn."""
from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from typing import Callable

from styleblend.machine.signals import handle


@contextlib.contextmanager
def handled(numbers, stop: Callable[[int], None]):
    """Call `stop(number)` on these signals of the main thread.

    Jittor forks processes that compile. In these Ctrl-C, which a terminal sends to all of them, does nothing, since the
    work at hand needs what they make; SIGTERM, by which Jittor ends them, does that.
    """
    own = os.getpid()

    def handler(number, frame):
        if os.getpid() == own:
            stop(number)
        elif number == signal.SIGTERM:
            sys.exit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: handle(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, before in previous.items():
            handle(number, before)


def interrupt(number: int) -> None:
    raise KeyboardInterrupt


def sigterm_as_ctrl_c():
    """SIGTERM raises KeyboardInterrupt as Ctrl-C does, so that it leaves nothing torn and says how to go on."""
    return handled([signal.SIGTERM], interrupt)


class StopRequest:
    """The first Ctrl-C or SIGTERM is a request while `step_ends`: the step that is made now is not cut in two.

    Else, or asked again, it stops at once.
    """

    def __init__(self):
        self.requested = self.step_ends = False

    def __call__(self, number: int) -> None:
        if self.requested or not self.step_ends:
            raise KeyboardInterrupt
        self.requested = True

    def heard(self):
        """A context in which the signals come here."""
        return handled([signal.SIGINT, signal.SIGTERM], self)
