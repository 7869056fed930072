"""Operators are compiled by g++ alone: the same code as by Jittor's way, which is kept where it does more."""
from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from styleblend.machine.operator_compiler import compile_directly

BODY = "\nvoid add(float* x, const float* y, int n) {{\n{mark}{loop}\n{end}}}\n"
MARKS = dict(mark='//@begin replace "vmova(.*,.*\\(.*\\))" "vmovnt\\g<1>"\n', end="//@end\n")
LOOP = "for (int i=0; i<n; i++) x[i] = y[i] + 1;"
PLAIN, MARKED = BODY.format(mark="", loop=LOOP, end=""), BODY.format(loop=LOOP, **MARKS)
ALIGNED = BODY.format(loop=f"x = (float*)__builtin_assume_aligned(x, 64);\n{LOOP}", **MARKS)  # g++ knows it of no array
STACK = "\nvoid use(float*);" + BODY.format(
    loop="alignas(64) float own[16];\nfor (int i=0; i<16; i++) own[i] = y[i] + 1;\nuse(own);", **MARKS)


@pytest.fixture
def jittor():
    from styleblend.machine.runtime import jt
    if jt.compiler.cc_type != "g++":
        pytest.skip("the compiler is not g++")
    return jt


def compiled(jittor, python: str, source: Path) -> str:
    """The instructions of the library that Jittor's command makes, called by way of this `python`."""
    library = source.with_suffix(".so")
    flags = re.sub(r'-l"[^"]*"', "", jittor.flags.cc_flags)
    command = (f"{python} {jittor.flags.jittor_path}/utils/asm_tuner.py --cc_path=\"{jittor.flags.cc_path}\" "
               f"\"{source}\" {flags} -o \"{library}\"")
    subprocess.run(command, shell=True, check=True)
    said = subprocess.run(["objdump", "-d", "--no-show-raw-insn", str(library)], stdout=subprocess.PIPE, text=True,
                          check=True).stdout
    return said.partition("Disassembly")[2]


@pytest.mark.parametrize("source", [PLAIN, MARKED, ALIGNED], ids=["plain", "marked", "aligned"])
def test_the_code_is_that_of_jittors_own_way(jittor, tmp_path, source):
    (tmp_path / "add_op.cc").write_text(source)
    assert compiled(jittor, jittor.flags.python_path, tmp_path / "add_op.cc") == compiled(
        jittor, shlex.quote(sys.executable), tmp_path / "add_op.cc")


@pytest.mark.parametrize("source, by_jittor", [(PLAIN, False), (MARKED, False), (ALIGNED, True), (STACK, False)],
                         ids=["plain", "marked", "aligned", "stack"])
def test_only_an_operator_with_stores_to_rewrite_goes_through_jittors_way(jittor, tmp_path, source, by_jittor):
    """That one leaves assembler text beside it."""
    (tmp_path / "add_op.cc").write_text(source)
    compiled(jittor, jittor.flags.python_path, tmp_path / "add_op.cc")
    assert (tmp_path / "add_op.post.s").is_file() == by_jittor
    assert by_jittor or sorted(path.suffix for path in tmp_path.iterdir()) == [".cc", ".so"]


def test_registers_that_are_put_on_the_stack_stay_in_the_cache(jittor, tmp_path):
    """Jittor's way would send them to memory, from where they are read again at once; with g++ before version 11.

    Newer ones number files in another way than it expects, and it finds no line to rewrite.
    """
    (tmp_path / "add_op.cc").write_text(STACK)
    ours, theirs = (compiled(jittor, python, tmp_path / "add_op.cc")
                    for python in (jittor.flags.python_path, shlex.quote(sys.executable)))
    assert "vmovaps" in ours and ours == theirs.replace("vmovntps", "vmovaps")


def test_other_programs_of_jittors_are_run_by_python(tmp_path):
    """Also where Python, or Jittor's cache, lies in a folder with a space."""
    spaced = tmp_path / "a folder"
    spaced.mkdir()
    (spaced / "python").symlink_to(sys.executable)
    flags = SimpleNamespace(flags=SimpleNamespace(python_path=f'"{spaced}/python"'))
    compile_directly(flags, spaced)
    said = subprocess.run(f"{flags.flags.python_path} -c 'import sys; print(sys.argv[1:])' one 'two three'", shell=True,
                          stdout=subprocess.PIPE, text=True, check=True).stdout
    assert said == "['one', 'two three']\n"


def test_a_failing_compiler_is_noticed(jittor, tmp_path):
    (tmp_path / "add_op.cc").write_text("no C++\n")
    with pytest.raises(subprocess.CalledProcessError):
        compiled(jittor, jittor.flags.python_path, tmp_path / "add_op.cc")
