"""The one exception that a user is meant to read."""


class StyleBlendError(Exception):
    """Something the user can put right: one clear sentence that says what is wrong and what to do.

    The command line prints it as ``styleblend: <sentence>`` on stderr and exits with 2.
    """


class Busy(StyleBlendError):
    """Another process works on the same folder."""


class Stopped(StyleBlendError):
    """The user stopped the program; what was done is saved. Exit code 130, as shells have it for Ctrl-C."""
