"""Why Jittor could not compile, in words for the user."""
from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Optional

from styleblend.machine.environment import jittor_cache



def compiler_problem(error: Exception) -> Optional[str]:
    """What is wrong, and what to do, when an error of Jittor's is one of the compiler; None for other errors."""
    text = str(error)
    if isinstance(error, OSError) or "Run cmd failed" in text or "No space left" in text:
        full = full_disk()
        if full:
            return full
    if "Run cmd failed" in text:
        return "the C++ compiler failed, and says above why; `python -m styleblend doctor` tests it"
    if "Cannot open library" in text or "Loading symbol" in text:
        return f"a compiled operator cannot be loaded; delete the folder {jittor_cache()}, which is compiled anew"
    return None


def full_disk() -> Optional[str]:
    """Which of the disks that a compiler writes to has less than it takes, and so is to blame; or None."""
    for folder, least, fix in ((jittor_cache(), 64 << 20, "free some space there"),
                               (Path(os.environ.get("TMPDIR") or "/tmp"), 4 << 20, "set TMPDIR to another folder")):
        there = next((place for place in [folder.absolute(), *folder.absolute().parents] if place.exists()), Path("/"))
        free = shutil.disk_usage(there).free
        if free < least:
            return f"the disk of {there} has only {free >> 20} MB left, and compiling takes more; {fix}"
    return None
