"""An operator is compiled by g++ alone, without a Python of its own.

Jittor starts `asm_tuner.py` for each operator: a Python that imports half a library, has g++ write assembler text with
line numbers for a debugger (for which no parsed headers are there), rewrites what stands between two marks, and has g++
make the library of that. Nine of ten operators have no marks. For these the same code comes out of one call of g++, in
half of the time.

The others have marks around loops that broadcast: there stores of aligned vectors shall go past the cache. g++ does not
know of Jittor's arrays that they are aligned, so the only such stores are of registers to the stack, and these are
better in the cache. So the assembler text is looked at first, and only one with another such store is left to
`asm_tuner.py`: half a second in place of four. (It finds the lines of g++ before version 11 only.)
"""
from __future__ import annotations

import hashlib
import shlex
from pathlib import Path

from styleblend.machine.environment import write_script
from styleblend.machine.plain_paths import is_plain

# Jittor calls it as PYTHON .../asm_tuner.py --cc_path=COMPILER SOURCE FLAGS -o LIBRARY, and with other programs of its.
SCRIPT = r"""#!/bin/sh
# Made by styleblend: stands where Jittor calls Python, and compiles operators in which asm_tuner.py has nothing to do.
case "$1" in */asm_tuner.py)
  compiler=${2#--cc_path=}
  if ! grep -q "@begin" "$3"; then
    shift 2
    exec "$compiler" "$@"
  fi
  tuner=$1 named=$2 source=$3
  shift 3
  left=$(($# - 2))
  while [ $left -gt 0 ]; do  # the flags without the last two, -o LIBRARY
    set -- "$@" "$1"
    shift
    left=$((left - 1))
  done
  library=$2 text="$2.$$.s"
  shift 2
  trap 'rm -f "$text"' EXIT
  "$compiler" "$source" "$@" -S -o "$text" || exit
  if ! grep -E 'vmova.*,.*\(.*\)' "$text" | grep -qvE ', *(-?[0-9]*\(%rsp\)|-[0-9]+\(%rbp\))$'; then
    "$compiler" "$text" "$@" -o "$library"
    exit
  fi
  rm -f "$text"
  trap - EXIT
  set -- "$tuner" "$named" "$source" "$@" -o "$library"
esac
exec PYTHON "$@"
"""


def compile_directly(jittor, folder: Path) -> None:
    """Have Jittor call the script in place of Python, whose path is plain or within quotes by now. OSError.

    `folder`: Jittor's cache of this compiler, where the script lies.
    """
    text = SCRIPT.replace("PYTHON", jittor.flags.python_path)
    script = write_script(folder / f"compile-operator-{hashlib.sha256(text.encode()).hexdigest()[:12]}", text)
    jittor.flags.python_path = str(script) if is_plain(str(script)) else shlex.quote(str(script))
