"""Signal handlers that do not disturb Jittor."""
from __future__ import annotations

import signal


def handle(number: int, handler):
    """`signal.signal`, and system calls go on after the signal; returns the former handler.

    By default Python lets a signal break off the system call of whichever thread it meets. Jittor's compiler threads do
    not expect that: Ctrl-C during the first compilation ended in a segmentation fault and a process that hung.
    """
    before = signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: it was not set from Python
    if callable(handler):
        signal.siginterrupt(number, False)
    return before
