"""The worker's side of a benchmark: build, run once, then run when told to.

Only NumPy and the standard library: the peer's Python imports it too.
"""
import json
import re
import sys
import time
import zlib
from pathlib import Path
from typing import Callable

import numpy as np


def numbers(name: str, shape) -> np.ndarray:
    """Standard normal float32 numbers that depend on their name alone: both sides draw the same weights and inputs."""
    return np.random.default_rng(zlib.crc32(name.encode())).standard_normal(tuple(shape), np.float32)


def peak_mib() -> float:
    """The most memory that this process has held."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def serve(build: Callable[[], Callable[[], object]], about: Callable[[], dict],
          after: Callable[[], dict] = dict) -> None:
    """Answer on stdout, one JSON object a line; `build()` gives the job's `run()`.

    It is timed at every "run" on stdin. The first answer has what `about()` says, too, and the last one what `after()`
    says, which is called when the memory has been read.
    """
    begin = time.perf_counter()
    run = build()
    run()
    print(json.dumps({"first_s": time.perf_counter() - begin, **about()}), flush=True)
    for line in sys.stdin:
        if line.strip() != "run":
            break
        begin = time.perf_counter()
        run()
        print(json.dumps({"seconds": time.perf_counter() - begin}), flush=True)
    print(json.dumps({"peak_mib": peak_mib(), **after()}), flush=True)
