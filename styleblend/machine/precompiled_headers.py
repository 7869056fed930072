"""Precompiled headers: what every operator that Jittor compiles begins with is parsed once, not by each of them.

Jittor writes an operator of some fifty lines, and the compiler spends two thirds of its time on the 60,000 lines of headers before them. g++ keeps the
parsed state of a header in a file beside it (`jit.h.gch/`), and takes that in place of the header if the flags are the same; if they are not, it reads the
header. The code that comes out is the same.
"""
from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

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


def precompile(jittor, folder: Path) -> None:
    """Have the headers of the CPU's operators parsed, if they are not yet, and Jittor use that. `folder` is Jittor's cache of this compiler.

    OSError or subprocess.CalledProcessError when the folder or the compiler fails: then nothing has changed.
    """
    header, flags = folder / "headers" / "jit.h", jittor.flags.cc_flags
    compiler = Path(os.path.realpath(jittor.flags.cc_path))
    key = hashlib.sha256(repr((HEADER, flags, str(compiler), compiler.stat().st_mtime_ns)).encode()).hexdigest()[:16]
    parsed = header.parent / "jit.h.gch" / key
    if not parsed.is_file():
        write_bytes(header, HEADER.encode())
        shutil.rmtree(parsed.parent, ignore_errors=True)  # of another compiler or other flags: 80 MB each
        parsed.parent.mkdir(parents=True)
        handle, unfinished = tempfile.mkstemp(dir=header.parent)
        os.close(handle)
        try:
            # -g: Jittor adds it when it compiles an operator
            options = [flag for flag in shlex.split(flags) if not flag.startswith(("-l", "-L", "-Wl,", "-shared"))]
            subprocess.run([str(compiler), *options, "-g", "-x", "c++-header", str(header), "-o", unfinished],
                           check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            os.replace(unfinished, parsed)
        finally:
            Path(unfinished).unlink(missing_ok=True)
    jittor.flags.cc_flags = f'{flags} -include "{header}" '
