"""Precompiled headers: g++ really takes them, operators come out the same, and what fails leaves everything as it was."""
from __future__ import annotations

import re
import shlex
import subprocess
from types import SimpleNamespace

import pytest

from styleblend.machine import precompiled_headers as headers

# An operator as Jittor writes it, but for its body.
OPERATOR = """
#define JIT 1
#define JIT_cpu 1
#include <cmath>
#include <algorithm>
#include "var.h"
#include "ops/binary_op.h"
#include "ops/op_register.h"
#include "fused_op.h"
void jittor::FusedOp::jit_run() {}
"""


def compilation(flags) -> list:
    """How Jittor compiles an operator with them, as far as the assembler text."""
    return ["g++", *(f for f in shlex.split(flags) if not f.startswith(("-l", "-L", "-Wl,", "-shared"))), "-g", "-S"]


def instructions(flags: str, source, tmp_path) -> list:
    """What the processor is told to do: no directives, no numbers of labels."""
    subprocess.run([*compilation(flags), str(source), "-o", str(tmp_path / "op.s")], check=True)
    return [re.sub(r"\.L\w+", ".L", line) for line in (tmp_path / "op.s").read_text().splitlines() if re.match(r"\t[a-z]", line)]


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Something like the jittor module, for a small header."""
    monkeypatch.setattr(headers, "HEADER", "#include <cmath>\n")
    return SimpleNamespace(flags=SimpleNamespace(cc_path="/usr/bin/g++", cc_flags="-std=c++14 -O2 -lm"))


def test_the_compiler_takes_the_parsed_headers_of_jittors_operators(tmp_path):
    from styleblend.machine.runtime import jt
    if jt.compiler.cc_type != "g++":
        pytest.skip("the compiler is not g++")
    (tmp_path / "op.cc").write_text(OPERATOR)
    used = subprocess.run([*compilation(jt.flags.cc_flags), "-H", str(tmp_path / "op.cc"), "-o", str(tmp_path / "op.s")],
                          stderr=subprocess.PIPE, text=True, check=True).stderr
    assert any(line.startswith("! ") and "jit.h.gch" in line for line in used.splitlines()), used[:2000]  # "!": taken, "x": not valid
    assert "/var.h" not in used  # it is in the parsed one


def test_the_code_of_an_operator_is_the_same(tmp_path):
    from styleblend.machine.runtime import jt
    (tmp_path / "op.cc").write_text(OPERATOR.replace("{}", '{ for (auto* op : ops) loop_options_merged["n"] += (int)op->inputs().size(); }'))
    ours = jt.flags.cc_flags
    plain, mine = (instructions(flags, tmp_path / "op.cc", tmp_path) for flags in (ours[:ours.rindex("-include")], ours))
    assert len(plain) > 5 and plain == mine


def test_other_flags_make_it_anew_and_the_old_one_goes(small, tmp_path):
    headers.precompile(small, tmp_path)
    assert small.flags.cc_flags == f'-std=c++14 -O2 -lm -include "{tmp_path}/headers/jit.h" '
    first = list((tmp_path / "headers" / "jit.h.gch").iterdir())
    written = first[0].stat().st_mtime_ns
    small.flags.cc_flags = "-std=c++14 -O2 -lm"
    headers.precompile(small, tmp_path)  # it is there
    assert [p.stat().st_mtime_ns for p in first] == [written]
    small.flags.cc_flags = "-std=c++17 -O2 -lm"
    headers.precompile(small, tmp_path)
    second = list((tmp_path / "headers" / "jit.h.gch").iterdir())
    assert len(first) == len(second) == 1 and first != second


def test_a_compiler_that_fails_changes_nothing(small, tmp_path):
    (tmp_path / "g++").write_text("#!/bin/sh\necho 'no space left' >&2; exit 1\n")
    (tmp_path / "g++").chmod(0o755)
    small.flags.cc_path = str(tmp_path / "g++")
    with pytest.raises(subprocess.CalledProcessError):
        headers.precompile(small, tmp_path)
    assert small.flags.cc_flags == "-std=c++14 -O2 -lm"
    assert sorted(p.name for p in (tmp_path / "headers").iterdir()) == ["jit.h", "jit.h.gch"] and not list((tmp_path / "headers" / "jit.h.gch").iterdir())
