"""Reads files as `styleblend inspect` does, with at most 1 GiB of memory, and says of each what became of it.

Their names come on stdin. A line of JSON a file: its name, the exit code, the sentence, seconds of processor time, and
what it did beyond reading: nothing, if all is well.
"""
import json
import os
import resource
import sys
import time
from pathlib import Path

from styleblend.models.configs import UNetConfig, read_config
from styleblend.errors import StyleBlendError
from styleblend.adapters.inspect import inspect

FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.", "ctypes.",
             "pickle.find_class", "os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.chmod", "os.link", "os.symlink",
             "os.truncate", "shutil.")
done = []


def watch(event, arguments):
    """An audit hook: Python tells it of every file that is opened, every process, every import by a pickle."""
    if event.startswith(FORBIDDEN):
        done.append(event)
    if (event == "open" and isinstance(arguments[2], int)
            and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)):
        done.append(f"open {arguments[0]!r} to write")


def peak() -> int:
    """The most memory in use so far, in KiB. Not ru_maxrss, which begins with what the parent had."""
    return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))


def read(path: str):
    try:
        read_config(UNetConfig, Path(path)) if path.endswith(".json") else inspect(Path(path))
    except StyleBlendError as error:
        return 2, str(error)
    except BaseException as error:  # a panic of a Rust library is no Exception
        return 1, f"{type(error).__name__}: {str(error)[:200]}"
    return 0, ""


if __name__ == "__main__":
    names = sys.stdin.read().split("\n")
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    sys.addaudithook(watch)
    for path in filter(None, names):
        start = time.process_time()
        code, sentence = read(path)
        print(json.dumps([path, code, sentence, time.process_time() - start, done, peak()]), flush=True)
        done.clear()
