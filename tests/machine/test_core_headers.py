"""Jittor's first start: g++ takes the parsed headers, the code comes out the same, a failure changes nothing."""
from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from styleblend.machine import core_headers as headers


@pytest.fixture
def jittor():
    from styleblend.machine.runtime import jt
    if jt.compiler.cc_type != "g++" or jt.has_cuda:
        pytest.skip("these headers are for g++ and the CPU")
    return jt


@pytest.fixture
def utils(tmp_path, monkeypatch):
    """What is known of Jittor before it is imported."""
    monkeypatch.setenv("nvcc_path", "")
    monkeypatch.setenv("cc_flags", "")
    monkeypatch.setenv("kernel_flags", "")
    return SimpleNamespace(cc_type="g++", cc_path="/usr/bin/g++", cache_path=str(tmp_path))


def compiled(jittor, folder: Path, source: str, flag: str, *more) -> tuple:
    """The assembler text of a file of Jittor's, compiled as Jittor does, and what g++ says meanwhile."""
    flags = re.sub(r'-include "[^"]*"( -O\d)?', "", jittor.compiler.cc_flags) + flag
    command = [jittor.compiler.cc_path, str(Path(jittor.compiler.jittor_path) / "src" / source),
               *(one for one in shlex.split(flags) if not one.startswith(("-l", "-L", "-shared"))),
               *more, "-S", "-o", str(folder / "core.s")]
    said = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=True).stderr
    return (folder / "core.s").read_text(), said


def test_a_file_of_jittors_is_compiled_from_parsed_headers_to_the_same_code(jittor, utils, tmp_path):
    plain, said = compiled(jittor, tmp_path, "ops/reshape_op.cc", headers.FASTER, "-H")
    assert "src/var.h" in said
    with headers.core_headers(utils, True, pytest.fail) as flag:
        mine, said = compiled(jittor, tmp_path, "ops/reshape_op.cc", flag, "-H")
    read = said.splitlines()
    assert any(line.startswith("! ") and "core.h.gch" in line for line in read), said[:2000]
    assert not any("src/var.h" in line for line in read)  # it is among the parsed ones

    def instructions(text):
        return [re.sub(r"\.L\w+", ".L", line) for line in text.splitlines() if re.match(r"\t[a-z]", line)]

    assert len(instructions(plain)) > 100 and instructions(mine) == instructions(plain)


def test_the_flag_is_the_same_at_every_start_and_what_was_parsed_goes(utils, tmp_path):
    with headers.core_headers(utils, True, pytest.fail) as first:
        assert os.environ["cc_flags"] == first and first.endswith(headers.FASTER)
        assert os.environ["kernel_flags"] == headers.OPERATORS
        assert list(tmp_path.rglob("*.gch"))
    with headers.core_headers(utils, False, pytest.fail) as second:
        assert second == first and not list(tmp_path.rglob("*.gch"))
    assert os.environ["cc_flags"] == first  # a program that this one starts, and that imports Jittor first, has it too


def test_the_flag_of_a_program_with_another_cache_is_not_taken_over(utils, tmp_path, monkeypatch):
    monkeypatch.setenv("cc_flags", f'-include "/elsewhere/core_headers/core.h" {headers.FASTER}')
    monkeypatch.setenv("kernel_flags", headers.OPERATORS)
    with headers.core_headers(utils, True, pytest.fail) as flag:
        assert flag == os.environ["cc_flags"] == f'-include "{tmp_path}/core_headers/core.h" {headers.FASTER}'


@pytest.mark.parametrize("building", [False, True])
def test_a_jittor_that_was_compiled_with_the_flag_of_before_keeps_it(utils, tmp_path, building):
    """It had no -O1, and no file that says so."""
    (tmp_path / "jit_utils_core.cpython-311-x86_64-linux-gnu.so").touch()
    (tmp_path / "core_headers").mkdir()
    (tmp_path / "core_headers" / "core.h").touch()
    with headers.core_headers(utils, building, pytest.fail) as flag:
        assert flag == os.environ["cc_flags"] == f'-include "{tmp_path}/core_headers/core.h"'
        assert not os.environ["kernel_flags"]


def test_operators_are_compiled_with_the_flags_that_jittor_has_for_them(jittor):
    """Jittor leaves out its own where the flags of its core have an -O."""
    given = shlex.split(jittor.flags.cc_flags)
    assert [flag for flag in given if flag.startswith("-O")] == [headers.OPERATORS] and "-fopenmp" in given


@pytest.mark.parametrize("building", [False, True])  # True: a part of it was damaged, and is compiled again
def test_a_jittor_that_was_compiled_without_the_flag_does_without(utils, tmp_path, building):
    """With it, it would compile itself anew."""
    (tmp_path / "jit_utils_core.cpython-311-x86_64-linux-gnu.so").touch()
    with headers.core_headers(utils, building, pytest.fail) as flag:
        assert flag == "" and not os.environ["cc_flags"]


def test_operators_do_not_begin_with_the_headers_of_the_core(jittor):
    assert "core.h" not in jittor.flags.cc_flags
    assert headers.without('-include "core.h"', '-O2 -include "core.h" -g') == "-O2 -g"
    assert headers.without("", "-O2 -g") == "-O2 -g"  # the core has none


@pytest.mark.parametrize("name, value", [("cc_flags", "-DMINE"), ("kernel_flags", "-O2"),
                                         ("nvcc_path", "/usr/bin/nvcc")])
def test_flags_of_the_users_own_and_those_of_nvcc_are_not_touched(utils, tmp_path, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    before = dict(os.environ)
    with headers.core_headers(utils, True, pytest.fail) as flag:
        assert flag == "" and dict(os.environ) == before
    assert not list(tmp_path.iterdir())


def test_another_compiler_than_gcc_reads_the_headers_each_time(utils, tmp_path):
    utils.cc_type = "clang"
    with headers.core_headers(utils, True, pytest.fail) as flag:
        assert flag == ""


def test_headers_that_cannot_be_parsed_are_said_and_change_nothing(utils, tmp_path):
    utils.cc_path, said = "/bin/false", []
    with headers.core_headers(utils, True, said.append) as flag:
        assert "core.h" in flag
    assert len(said) == 1 and "could not be precompiled" in said[0]
    assert [path.name for path in sorted((tmp_path / "core_headers").iterdir())] == ["cc_flags", "core.h"]
