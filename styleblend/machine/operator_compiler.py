"""An operator is compiled by g++ alone, without a Python of its own.

Jittor starts `asm_tuner.py` for each operator: a Python that imports half a library, has g++ write assembler text with
line numbers for a debugger, rewrites what stands between two marks, and has g++ make the library of that. Nine of ten
operators have no marks. For these the same code comes out of one call of g++, in half of the time.
"""
from __future__ import annotations

import hashlib
import shlex
from pathlib import Path

from styleblend.machine.environment import write_script
from styleblend.machine.plain_paths import is_plain

# Jittor calls it as PYTHON .../asm_tuner.py --cc_path=COMPILER SOURCE FLAGS -o LIBRARY, and with other programs of its.
SCRIPT = """#!/bin/sh
# Made by styleblend: stands where Jittor calls Python, and compiles operators that have no marks for asm_tuner.py.
case "$1" in */asm_tuner.py)
  if ! grep -q "@begin" "$3"; then
    compiler=${2#--cc_path=}
    shift 2
    exec "$compiler" "$@"
  fi
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
