"""The worker's side of a benchmark: build, run once, then run when told to. Only the standard library: the peer's Python imports it too."""
import json
import resource
import sys
import time
from typing import Callable


def serve(build: Callable[[], Callable[[], object]]) -> None:
    """Answer on stdout, one JSON object a line; `build()` gives the job's `run()`, which is timed at every "run" on stdin."""
    begin = time.perf_counter()
    run = build()
    run()
    print(json.dumps({"first_s": time.perf_counter() - begin}), flush=True)
    for line in sys.stdin:
        if line.strip() != "run":
            break
        begin = time.perf_counter()
        run()
        print(json.dumps({"seconds": time.perf_counter() - begin}), flush=True)
    print(json.dumps({"peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}), flush=True)
