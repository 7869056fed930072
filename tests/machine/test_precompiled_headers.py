"""Precompiled headers: g++ takes them, operators come out the same, processes share them, a failure changes nothing."""
from __future__ import annotations

import re
import shlex
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from processes import ROOT, children_may_be_killed  # noqa: F401 (a fixture works by being here)
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
    return ["g++", *(f for f in shlex.split(flags) if not f.startswith(("-l", "-L", "-Wl,", "-shared"))), "-S"]


def instructions(flags: str, source, tmp_path) -> list:
    """What the processor is told to do: no directives, no numbers of labels."""
    subprocess.run([*compilation(flags), str(source), "-o", str(tmp_path / "op.s")], check=True)
    lines = (tmp_path / "op.s").read_text().splitlines()
    return [re.sub(r"\.L\w+", ".L", line) for line in lines if re.match(r"\t[a-z]", line)]


def read_headers(flags: str, source) -> str:
    """The headers that g++ reads for a source, one a line. "!": parsed already, "x": parsed with other flags."""
    command = [*compilation(flags), "-H", str(source), "-o", str(source.with_suffix(".s"))]
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, check=True).stderr


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
    used = read_headers(jt.flags.cc_flags, tmp_path / "op.cc")
    assert any(line.startswith("! ") and "jit.h.gch" in line for line in used.splitlines()), used[:2000]
    assert "/var.h" not in used  # it is in the parsed one


def test_the_code_of_an_operator_is_the_same(tmp_path):
    from styleblend.machine.runtime import jt
    body = '{ for (auto* op : ops) loop_options_merged["n"] += (int)op->inputs().size(); }'
    (tmp_path / "op.cc").write_text(OPERATOR.replace("{}", body))
    ours = jt.flags.cc_flags
    plain, mine = (instructions(flags, tmp_path / "op.cc", tmp_path)
                   for flags in (ours[:ours.rindex("-include")], ours))
    assert len(plain) > 5 and plain == mine


def parsed(folder) -> list:
    """The parsed headers, by folder."""
    return sorted(folder.glob("headers*/jit.h.gch/*"))


# Precompiles in a folder with flags, says which header is used, and goes on living until its input ends
PROCESS = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from styleblend.machine import precompiled_headers as headers
headers.HEADER = "#include <cmath>\\n"
small = SimpleNamespace(flags=SimpleNamespace(cc_path=sys.argv[2], cc_flags=sys.argv[3]))
time.sleep(max(0, float(sys.argv[4]) - time.time()))
headers.precompile(small, Path(sys.argv[1]))
print(small.flags.cc_flags, flush=True)
sys.stdin.read()
"""


class Process(subprocess.Popen):
    """A process that precompiles, at a given time if need be, and lives until `end`."""

    def __init__(self, folder, flags: str, compiler: str = "/usr/bin/g++", at: float = 0):
        super().__init__([sys.executable, "-c", PROCESS, str(folder), str(compiler), flags, str(at)], cwd=ROOT,
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def flags(self) -> str:
        """The flags for operators, when it has them."""
        return self.stdout.readline().strip()

    def end(self) -> None:
        self.communicate(timeout=30)
        assert self.returncode == 0


def takes_parsed(flags: str, tmp_path) -> bool:
    """Whether g++ takes a parsed header with these flags."""
    (tmp_path / "a.cc").write_text("double f(double x) { return std::sqrt(x); }")
    return read_headers(flags, tmp_path / "a.cc").startswith("! ")


ONE, OTHER, THIRD = "-std=c++14 -O2 -lm", "-std=c++17 -O2 -lm", "-std=c++14 -O1 -lm"


def test_what_is_there_is_not_made_again(small, tmp_path):
    headers.precompile(small, tmp_path)
    assert small.flags.cc_flags == f'{ONE} -include "{tmp_path}/headers/jit.h" '
    first, = parsed(tmp_path)
    written = first.stat().st_ino
    small.flags.cc_flags = ONE
    headers.precompile(small, tmp_path)
    assert parsed(tmp_path) == [first] and first.stat().st_ino == written
    assert takes_parsed(small.flags.cc_flags, tmp_path)


def test_two_processes_that_find_a_new_compiler_make_one_header_and_use_it(tmp_path):
    """The compiler counts how often it is started; both processes begin at the same moment."""
    script = tmp_path / "g++"
    script.write_text(f"#!/bin/sh\necho started >> {tmp_path}/count\nsleep 0.5\nexec /usr/bin/g++ \"$@\"\n")
    script.chmod(0o755)
    at = time.time() + 2
    processes = [Process(tmp_path, ONE, script, at) for _ in range(4)]
    flags = [process.flags() for process in processes]
    assert (tmp_path / "count").read_text().count("started") == 1 and len(parsed(tmp_path)) == 1
    assert len(set(flags)) == 1 and takes_parsed(flags[0], tmp_path)
    for process in processes:
        process.end()


def test_two_sets_of_flags_do_not_disturb_each_other(tmp_path):
    """In turns and at once, over and over: each process has its own header parsed as long as it lives."""
    for _ in range(2):
        at = time.time() + 2
        processes = [Process(tmp_path, flags, at=at) for flags in (ONE, OTHER) * 2]
        flags = [process.flags() for process in processes]
        assert len(parsed(tmp_path)) == 2 and len({p.name for p in parsed(tmp_path)}) == 2
        assert flags[:2] == flags[2:] and flags[0].split()[-1] != flags[1].split()[-1]
        assert all(takes_parsed(f, tmp_path) for f in flags)
        for process in processes:
            process.end()


def test_the_oldest_that_nobody_uses_goes_and_no_other(tmp_path):
    first, second = Process(tmp_path, ONE), Process(tmp_path, OTHER)
    used = [first.flags(), second.flags()]
    third = Process(tmp_path, THIRD)
    used.append(third.flags())
    assert len(parsed(tmp_path)) == 3 and all(takes_parsed(flags, tmp_path) for flags in used)  # all three are in use
    second.kill(), second.communicate()  # however it ends
    first.end()
    again = Process(tmp_path, ONE)
    assert again.flags() == used[0] and len(parsed(tmp_path)) == 2  # of the killed process it is gone
    assert [takes_parsed(flags, tmp_path) for flags in used] == [True, False, True]
    third.end(), again.end()
    for number in range(3, 7):  # as many compilers as may come
        process = Process(tmp_path, f"{ONE} -DNUMBER={number}")
        assert takes_parsed(process.flags(), tmp_path) and len(parsed(tmp_path)) == 2
        process.end()
    assert len([p for p in tmp_path.glob("headers*") if p.is_dir()]) <= 4


def test_what_a_killed_process_left_is_removed(small, tmp_path):
    (tmp_path / "headers").mkdir()
    (tmp_path / "headers" / "tmpabc").write_bytes(b"unfinished")
    headers.precompile(small, tmp_path)
    assert sorted(p.name for p in (tmp_path / "headers").iterdir()) == ["jit.h", "jit.h.gch"]


def test_a_compiler_that_fails_changes_nothing(small, tmp_path):
    (tmp_path / "g++").write_text("#!/bin/sh\necho 'no space left' >&2; exit 1\n")
    (tmp_path / "g++").chmod(0o755)
    small.flags.cc_path = str(tmp_path / "g++")
    with pytest.raises(subprocess.CalledProcessError):
        headers.precompile(small, tmp_path)
    assert small.flags.cc_flags == ONE and [p.name for p in (tmp_path / "headers").iterdir()] == ["jit.h"]
    small.flags.cc_path = "/usr/bin/g++"
    headers.precompile(small, tmp_path)
    assert len(parsed(tmp_path)) == 1 and parsed(tmp_path)[0].parents[1].name == "headers"
