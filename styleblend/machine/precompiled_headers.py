"""Precompiled headers: what every operator that Jittor compiles begins with is parsed once, not by each of them.

Jittor writes an operator of some fifty lines, and the compiler spends two thirds of its time on the 60,000 lines of
headers before them. g++ keeps the parsed state of a header in a file beside it (`jit.h.gch/`), and takes that in place
of the header if the flags are the same; if they are not, it reads the header. The code that comes out is the same.
What Jittor's `asm_tuner.py` has to rewrite (`operator_compiler`) is compiled with -g, and reads the header each time.

Each compiler and set of flags has a header of its own in a folder of its own, `headers`, `headers-2` and so on: g++
would not tell apart two that differ only in where they look for Jittor's headers. Processes look and parse one after
the other, and hold a lock on what they use for as long as they live. Of what nobody uses, 80 MB each, the oldest goes
when there are more than KEPT.
"""
from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import os
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import List

from styleblend.files.claims import claim
from styleblend.files.whole_files import write_bytes

# An operator defines the two macros itself, the same way. <immintrin.h> is for our own kernels.
HEADER = """#ifndef STYLEBLEND_JIT_H
#define STYLEBLEND_JIT_H
#define JIT 1
#define JIT_cpu 1
#include <algorithm>
#include <assert.h>
#include <cmath>
#include <cstring>
#ifdef __x86_64__
#include <immintrin.h>
#endif
#include "var.h"
#include "fused_op.h"
#include "executor.h"
#include "misc/cpu_math.h"
#include "ops/op_register.h"
#endif
"""
KEPT = 2  # two programs in turns need not parse each time


def precompile(jittor, folder: Path) -> None:
    """Have the headers of the CPU's operators parsed, if they are not yet, and Jittor use that.

    `folder` is Jittor's cache of this compiler. OSError, StyleBlendError or subprocess.CalledProcessError when the
    folder or the compiler fails: then Jittor's flags have not changed.
    """
    flags, compiler = jittor.flags.cc_flags, Path(os.path.realpath(jittor.flags.cc_path))
    options = [flag for flag in shlex.split(flags) if not flag.startswith(("-l", "-L", "-Wl,", "-shared"))]
    key = hashlib.sha256(repr((HEADER, options, str(compiler), compiler.stat().st_mtime_ns)).encode()).hexdigest()[:16]
    with claim(folder, "headers", wait=True):
        make_room(key, folder)
        header = place_of(key, folder) / "jit.h"
        parsed = header.with_name("jit.h.gch") / key
        if not parsed.is_file():
            parse(header, parsed, compiler, options)
        elif not header.is_file() or header.read_bytes() != HEADER.encode():  # Jittor reads it for each operator
            write_bytes(header, HEADER.encode())
        hold(parsed)
    jittor.flags.cc_flags = f'{flags} -include "{header}" '


def make_room(key: str, folder: Path) -> None:
    """Remove the oldest parsed headers that no process uses, so that with this one there are no more than KEPT.

    The headers themselves stay: a process that was not seen to use one would only read it more slowly.
    """
    others = {path: path.stat().st_mtime_ns for path in folder.glob("headers*/jit.h.gch/*") if path.name != key}
    for parsed in sorted(others, key=others.get, reverse=True)[KEPT - 1:]:
        with contextlib.suppress(OSError), open(parsed, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            parsed.unlink()


def place_of(key: str, folder: Path) -> Path:
    """The folder in which the header of a compiler and flags is parsed, or the first that is free."""
    for parsed in folder.glob(f"headers*/jit.h.gch/{key}"):
        return parsed.parents[1]
    places = (folder / (f"headers-{number}" if number > 1 else "headers") for number in itertools.count(1))
    return next(place for place in places if not any(place.glob("jit.h.gch/*")))


def parse(header: Path, parsed: Path, compiler: Path, options: List[str]) -> None:
    """Write the header and have it parsed: there is a whole file in the end, or none."""
    for left in header.parent.glob("tmp*"):  # by a process that was killed here
        left.unlink()
    write_bytes(header, HEADER.encode())
    run_parser(compiler, options, header, parsed)


def run_parser(compiler: str | Path, options: List[str], header: Path, parsed: Path) -> None:
    """Have g++ parse a header into the file `parsed`, whole or not at all. subprocess.CalledProcessError, OSError."""
    handle, unfinished = tempfile.mkstemp(dir=header.parent)
    os.close(handle)
    try:
        subprocess.run([str(compiler), *options, "-x", "c++-header", str(header), "-o", unfinished], check=True,
                       stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        parsed.parent.mkdir(exist_ok=True)
        os.replace(unfinished, parsed)
    finally:
        Path(unfinished).unlink(missing_ok=True)


def hold(parsed: Path) -> None:
    """Say that this process uses a parsed header, from now to its end: the file stays open, and its age begins anew."""
    with contextlib.suppress(OSError):  # a cache of somebody else, a file system without locks: it is used all the same
        os.utime(parsed)
        fcntl.flock(os.open(parsed, os.O_RDONLY), fcntl.LOCK_SH)
