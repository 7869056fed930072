"""The most memory that this process has had in use since a moment: Linux counts it, and can be told to begin anew."""
from __future__ import annotations

import re
from pathlib import Path
from typing import Optional

ANEW = "5"  # what clear_refs takes for: begin the peak of resident memory anew
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def begin_anew() -> bool:
    """Begin to count. False where the kernel does not let a process do so: then a peak may be an earlier one."""
    try:
        CLEAR.write_text(ANEW, encoding="ascii")
    except OSError:
        return False
    return True


def peak_mib() -> Optional[float]:
    """The most resident memory since then, in MiB, with all that the process held already; None: it is not known."""
    try:
        return int(re.search(r"VmHWM:\s+(\d+)", STATUS.read_text(encoding="ascii"))[1]) / 1024
    except (OSError, TypeError):
        return None
