"""The one exception that a user is meant to read, and names from files in it."""


class StyleBlendError(Exception):
    """Something the user can put right: one clear sentence that says what is wrong and what to do.

    The command line prints it as ``styleblend: <sentence>`` on stderr and exits with 2.
    """


class Busy(StyleBlendError):
    """Another process, or another thread of this one, works on the same files."""


class Stopped(StyleBlendError):
    """The user stopped the program; what was done is saved. Exit code 130, as shells have it for Ctrl-C."""


class StartAgain(StyleBlendError):
    """The same command works when it is started again, since what was in its way is gone. The program does so once."""


def printable(text: str, length: int = 80) -> str:
    """Text from a file that is not to be trusted, short and without control characters."""
    return text[:length].encode("unicode_escape").decode("ascii")
