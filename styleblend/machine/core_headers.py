"""Jittor's first start: the headers that its own 150 files begin with are parsed once, not by each of them.

A file of Jittor's takes the compiler 1.5 s as a rule, and 1.2 of them go into the same headers. So these are parsed
before Jittor is imported (`styleblend.machine.precompiled_headers` says how that works), and the variable `cc_flags`,
which Jittor reads at import, has each file begin with them. It also has them compiled with -O1, which takes the
compiler a quarter less time: they hand out work, and the operators, which do it, are compiled as ever. (Jittor takes an
-O for the user's own, and then leaves out those of the operators: `kernel_flags` puts them back.)

Jittor compares that text at every start to see whether it has to compile anew. So it is kept in a file, and is the same
at every start of a Jittor that was compiled with it. One that was compiled without it does without. What was parsed is
needed at the first start alone, and goes then.
"""
from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import subprocess
from pathlib import Path
from typing import Callable, Iterator, List

from styleblend.errors import printable
from styleblend.files.whole_files import write_bytes
from styleblend.machine.environment import include_folders
from styleblend.machine.precompiled_headers import run_parser

HEADER = """#ifndef STYLEBLEND_CORE_H
#define STYLEBLEND_CORE_H
#include "pyjt/py_obj_holder.h"
#include "pyjt/py_converter.h"
#include <algorithm>
#include <cmath>
#include <sstream>
#include "common.h"
#include "var.h"
#include "op.h"
#include "executor.h"
#include "fused_op.h"
#include "var_holder.h"
#include "mem/allocator.h"
#include "ops/array_op.h"
#include "ops/op_register.h"
#endif
"""
# Those of Jittor 1.3.11. g++ reads the headers each time where they are others: that is slower, and right.
FLAGS = ("-Wall", "-Wno-unknown-pragmas", "-std=c++14", "-fPIC", "-march=native", "-fdiagnostics-color=always")
FASTER, OPERATORS = "-O1", "-Ofast"  # of Jittor's own files, in place of -O2; of operators, as Jittor has it

OURS = re.compile(rf'-include "[^"]*/core_headers/core\.h"( {FASTER})?')


@contextlib.contextmanager
def core_headers(jittor_utils, building: bool, say: Callable[[str], None]) -> Iterator[str]:
    """Within this Jittor compiles itself faster, by g++ and for the CPU; gives the flags that do it, or "".

    `building`: it has to compile itself. `say` hears where the headers could not be parsed. The user's own `cc_flags`
    are not touched, nor what goes to nvcc. The variables stay, for programs that this one starts: with the same cache
    and other flags they would compile Jittor anew.
    """
    if OURS.fullmatch(os.environ.get("cc_flags", "")):  # of who started this one, perhaps with another cache
        if os.environ.pop("cc_flags").endswith(FASTER):
            os.environ.pop("kernel_flags", None)
    own = os.environ.get("cc_flags") or os.environ.get("kernel_flags")
    if jittor_utils.cc_type != "g++" or os.environ.get("nvcc_path", "cu") or own:
        yield ""
        return
    cache = Path(jittor_utils.cache_path)
    header, older = cache / "core_headers" / "core.h", any(cache.glob("jit_utils_core*.so"))
    if not header.is_file() and (older or not building):
        yield ""
        return
    parsed, kept = header.with_name("core.h.gch"), header.with_name("cc_flags")
    if building and not older:
        write_bytes(kept, f'-include "{header}" {FASTER}'.encode())
    flag = kept.read_text() if kept.is_file() else f'-include "{header}"'  # of a Jittor from before this file
    faster = flag.endswith(FASTER)
    if building:
        write_bytes(header, HEADER.encode())
        parse_core(jittor_utils.cc_path, [*FLAGS, FASTER if faster else "-O2"], header, parsed, say)
    os.environ["cc_flags"] = flag
    if faster:
        os.environ["kernel_flags"] = OPERATORS
    try:
        yield flag
    finally:
        parsed.unlink(missing_ok=True)


def parse_core(compiler: str, flags: List[str], header: Path, parsed: Path, say: Callable[[str], None]) -> None:
    """Parse the headers of Jittor's core, or say that it takes longer."""
    source = Path(importlib.util.find_spec("jittor").origin).parent
    options = [*flags, *(f"-I{folder}" for folder in (source / "src", source / "extern", *include_folders()))]
    try:
        run_parser(compiler, options, header, parsed)
    except (OSError, subprocess.SubprocessError) as error:
        say(f"headers could not be precompiled ({printable(str(error).strip().splitlines()[0])}): "
            "Jittor takes about a minute longer to compile itself.")


def without(flag: str, flags: str) -> str:
    """The flags without this one: an operator has parsed headers of its own, and g++ takes only the first."""
    return flags.replace(f"{flag} ", "") if flag else flags
