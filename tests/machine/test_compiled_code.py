"""Damage to what Jittor has compiled, each kind done to real libraries: found, removed, and nothing else touched."""
from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from styleblend.machine import compiled_code
from styleblend.machine.compiled_code import CompiledCode, RECORD, repair


@pytest.fixture(scope="session")
def library(tmp_path_factory) -> Path:
    """A library and an object as g++ writes them."""
    folder = tmp_path_factory.mktemp("library")
    (folder / "a.cc").write_text("int table[5000] = {1, 2, 3}; int f(int i) { return table[i]; }")
    subprocess.run(["g++", "-g", "-shared", "-fPIC", "a.cc", "-o", "a.so"], cwd=folder, check=True)
    subprocess.run(["g++", "-g", "-c", "-fPIC", "a.cc", "-o", "a.o"], cwd=folder, check=True)
    return folder


def add(folder: Path, name: str, library: Path, key: bool = True) -> Path:
    """A compiled file, and the key that Jittor writes after it."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(library / f"a{path.suffix}", path)
    if key:
        Path(f"{path}.key").write_text("g++ ...")
    return path


@pytest.fixture
def cache(tmp_path, library) -> Path:
    """A folder like Jittor's: the core, its objects, two operators, a parsed header."""
    for name in ("jittor_core.so", "obj_files/var.cc.o", "jit/add_op.so", "jit/mul_op.so"):
        add(tmp_path, name, library)
    add(tmp_path, "data.o", library, key=False)
    (tmp_path / "data.md5").write_text("0123")
    (tmp_path / "headers" / "jit.h.gch").mkdir(parents=True)
    (tmp_path / "headers" / "jit.h.gch" / "0f3a").write_bytes(os.urandom(5000))
    (tmp_path / "jit" / "add_op.cc").write_text("source")
    return tmp_path


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 100)


def zeros(path: Path) -> None:
    with open(path, "r+b") as file:
        file.seek(64)
        file.write(bytes(512))


def zeros_with_the_old_time(path: Path) -> None:
    before = path.stat()
    zeros(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


DAMAGE = {"cut short": cut, "empty": lambda path: os.truncate(path, 0), "zeros inside": zeros,
          "zeros inside, the old time": zeros_with_the_old_time,
          "another file": lambda path: path.write_bytes(b"#!/bin/sh\n" * 900),
          "longer": lambda path: path.open("ab").write(b"\0")}
FILES = ["jit/add_op.so", "jittor_core.so", "obj_files/var.cc.o", "data.o", "headers/jit.h.gch/0f3a"]


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("name", FILES)
def test_damage_to_a_recorded_file_is_found_and_that_file_alone_removed(name, kind, cache):
    code = CompiledCode(cache)
    code.record()
    assert code.damaged() == code.damaged(thorough=True) == [] and not repair(code)
    DAMAGE[kind](cache / name)
    before = {path for path in cache.rglob("*") if path.is_file()}
    assert code.damaged() == [str(cache / name)]
    assert "damaged" in repair(code) and not code.damaged()
    gone = before - {path for path in cache.rglob("*") if path.is_file()}
    assert cache / name in gone and len(gone) == (1 if "gch" in name else 2)  # with what says that it is up to date


@pytest.mark.parametrize("kind", ["cut short", "empty", "another file"])
@pytest.mark.parametrize("name", ["jit/add_op.so", "jittor_core.so", "obj_files/var.cc.o"])
def test_damage_is_found_where_there_is_no_record(name, kind, cache):
    DAMAGE[kind](cache / name)
    assert CompiledCode(cache).damaged() == [str(cache / name)]


def test_a_file_that_was_written_to_after_its_key_is_damaged(cache):
    zeros(cache / "jit" / "mul_op.so")
    assert CompiledCode(cache).damaged() == [str(cache / "jit" / "mul_op.so")]


def test_what_another_process_is_compiling_now_is_left_alone(cache, library):
    """It has no key yet: Jittor compiles it again if it is left like that."""
    cut(add(cache, "jit/new_op.so", library, key=False))
    code = CompiledCode(cache)
    assert code.damaged() == []
    code.record()
    assert "jit/new_op.so" not in json.loads((cache / RECORD).read_text())["files"]


def test_after_a_start_of_the_machine_every_checksum_is_computed(cache, monkeypatch, tmp_path):
    """A power cut can leave zeros in a file whose size and times are right."""
    code = CompiledCode(cache)
    code.record()
    boot, written = code.read()
    path = cache / "jit" / "mul_op.so"
    zeros(path)
    about = path.stat()
    stamp = (about.st_size, about.st_ino, about.st_mtime_ns, about.st_ctime_ns)
    content = json.loads((cache / RECORD).read_text())
    content["files"]["jit/mul_op.so"] = [*stamp, *written["jit/mul_op.so"][1:]]
    (cache / RECORD).write_text(json.dumps(content))
    assert code.damaged() == [] and code.damaged(thorough=True) == [str(path)]
    monkeypatch.setattr(compiled_code, "BOOT", tmp_path / "boot")
    (tmp_path / "boot").write_text("another")
    assert code.damaged() == [str(path)]


def test_a_copied_cache_is_not_damaged(cache, tmp_path_factory):
    """`cp -r` gives files other times: their checksums are looked at."""
    CompiledCode(cache).record()
    copy = tmp_path_factory.mktemp("copy") / "cache"
    shutil.copytree(cache, copy, copy_function=shutil.copyfile)
    assert CompiledCode(copy).damaged() == []
    cut(copy / "jit" / "add_op.so")
    assert CompiledCode(copy).damaged() == [str(copy / "jit" / "add_op.so")]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"boot": 1}', b'{"boot": "a", "files": {"jit/add_op.so": []}}',
                                     b'{"boot": "a", "files": {"jit/add_op.so": ["x"]}}', b"\0" * 100])
def test_a_damaged_record_is_none(content, cache):
    (cache / RECORD).write_bytes(content)
    code = CompiledCode(cache)
    assert code.damaged() == []
    code.record()
    assert len(code.read()[1]) == 6


def test_an_operator_that_was_compiled_again_is_not_damaged(cache, library):
    """By a process that has not ended yet, or was killed: its key is newer than the record."""
    code = CompiledCode(cache)
    code.record()
    path = cache / "jit" / "add_op.so"
    path.unlink()
    subprocess.run(["g++", "-shared", "-fPIC", library / "a.cc", "-o", path], check=True)
    Path(f"{path}.key").write_text("g++ with other flags")
    assert code.damaged() == []
    cut(path)
    assert code.damaged() == [str(path)]


def test_operators_that_were_compiled_since_are_added(cache, library):
    code = CompiledCode(cache)
    code.record()
    inode = (cache / RECORD).stat().st_ino
    code.record()
    assert (cache / RECORD).stat().st_ino == inode  # nothing is new, nothing is written
    add(cache, "jit/sub_op.so", library)
    code.record()
    assert len(code.read()[1]) == 7


def test_a_look_at_a_cache_of_600_operators_takes_no_time(tmp_path, library):
    for number in range(600):
        add(tmp_path, f"jit/{'long_name_' * 8}{number}_op.so", library)
    code = CompiledCode(tmp_path)
    code.record()
    times = []
    for _ in range(5):
        began = time.process_time()
        assert code.damaged() == []
        times.append(time.process_time() - began)
    assert min(times) < 0.05, times
