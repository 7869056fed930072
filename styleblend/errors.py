"""The one exception that a user is meant to read; names from files in it, and names that are like another one."""
from __future__ import annotations

import difflib
from typing import Iterable, Optional

LISTED = 80  # characters of a list of names in a sentence, which is to stay within three lines of a terminal


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


def nearest(name: str, known: Iterable[str]) -> Optional[str]:
    """The one of the known names that is most like `name`, or holds it; None where none is like it."""
    wanted, names = str(name).lower(), {str(one).lower(): str(one) for one in known}
    holding = [one for one in names if len(wanted) > 2 and wanted in one]
    found = difflib.get_close_matches(wanted, names, 1, 0.5) or holding
    return names[found[0]] if found else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """What a sentence on a name that is none of the known ones ends with: which is near, and which there are."""
    known = list(dict.fromkeys(map(str, known)))
    near, length = nearest(name, known), 0
    shown = [one for one in known if (length := length + len(one) + 2) <= LISTED] or known[:1]
    more = f" and {len(known) - len(shown)} more" if len(known) > len(shown) else ""
    there = f"there are {', '.join(shown)}{more}" if known else "there are none"
    return f"did you mean {near}? {there[0].upper()}{there[1:]}" if near else there
