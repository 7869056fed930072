"""Names that become files: they work on Linux, macOS and Windows, and are the same on all of them."""
from __future__ import annotations

import contextlib
import hashlib
import os
import re
import unicodedata
from pathlib import Path
from typing import Optional, Sequence

from styleblend.errors import StyleBlendError

MADE = 100  # bytes of a text that stand in the name made of it
LONGEST = 190  # bytes: file systems take 255, and endings and temporary names come on top
DEVICES = {"con", "prn", "aux", "nul"} | {f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10)}
TURNING = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # they change the order in which a line is read


def composed(text: str) -> str:
    """Unicode's composed form (NFC). macOS hands out file names in the other, which looks the same and is not equal."""
    return unicodedata.normalize("NFC", text)


def control_character(text: str) -> Optional[str]:
    """The first character that steers and does not print, as "U+0007".

    Joiners, which emoji and some scripts need, are none.
    """
    for c in text:
        if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") or c in TURNING:
            return f"U+{ord(c):04X}"
    return None


def fault(name: str) -> Optional[str]:
    """Why a name cannot be that of a file everywhere; None when it can."""
    if not name.strip():
        return "is empty"
    if control_character(name):
        return f"holds the control character {control_character(name)}"
    if name[0] == "." or name[-1] in ". ":
        return "begins with '.', or ends with '.' or a space"
    forbidden = [c for c in name if c in '/\\<>:"|?*']
    if forbidden:
        return f"holds {forbidden[0]}"
    if name.split(".")[0].rstrip().lower() in DEVICES:
        return "is a device on Windows"
    if len(name.encode("utf-8")) > LONGEST:
        return f"has {len(name.encode('utf-8'))} bytes in UTF-8, more than {LONGEST}"
    return None


def check_name(name: str, hint: str = "choose another") -> str:
    """The name of a style or prompt, which becomes a file's or folder's, in composed form.

    StyleBlendError with `hint` if it cannot.
    """
    name = composed(name)
    if fault(name):
        raise StyleBlendError(f"{name[:80]!r} cannot be a style or prompt name: "
                              f"it becomes a file name, and it {fault(name)}: {hint}")
    return name


def file_name(text: str) -> str:
    """The name of a picture of this text: the text itself, or where that is no file's name one made from it.

    Always the same, and another one for every text: its end is a hash of the whole.
    """
    text = composed(text)
    if not fault(text):
        return text
    letters = "".join(" " if c in '/\\<>:"|?*' or control_character(c) else c for c in text)
    kept = " ".join(letters.split()).encode("utf-8")[:MADE].decode("utf-8", "ignore").strip(". ")
    end = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    made = f"{kept or 'prompt'}-{end}"
    return f"prompt {made}" if fault(made) else made  # a device of Windows, such as nul.x


def is_made(name: str) -> bool:
    """Whether a picture's name may be one that `file_name` made, so that only its record knows the prompt."""
    return re.fullmatch(r".+-[0-9a-f]{8}", name) is not None


def check_distinct(names: Sequence[str], source: str) -> None:
    """Refuse two names as written that differ only in case or in Unicode's forms: elsewhere they are one file."""
    seen = {}
    for name in names:
        other = seen.setdefault(composed(name).lower(), name)
        if other != name:
            difference = f"{other!r} and {name!r} differ only in upper and lower case"
            if composed(other) == composed(name):
                difference = f"{other!a} and {name!a} differ only in their Unicode form"
            raise StyleBlendError(f"{source}: {difference}: "
                                  "they would overwrite each other on macOS or Windows, so rename one")


def entry(folder: Path, name: str) -> Path:
    """`folder / name`, or what is there under the same name in another Unicode form, also of folders in the name."""
    path = Path(folder)
    for part in Path(name).parts:
        path /= part if os.path.exists(path / part) else other_form(path, part)
    return path


def other_form(folder: Path, name: str) -> str:
    """A name that is not in the folder in the Unicode form in which it is; as it is where there is none."""
    apart = unicodedata.normalize("NFD", name)  # that of macOS, so that a large folder need not be read for each name
    if os.path.exists(folder / apart):
        return apart
    with contextlib.suppress(OSError):
        return next((there for there in os.listdir(folder) if composed(there) == composed(name)), name)
    return name
