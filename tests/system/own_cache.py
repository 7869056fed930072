"""A copy of Jittor's cache in the place of the real one, for the processes of a test alone: they may damage it.

Its place is part of what Jittor compares, so a copy elsewhere would be compiled anew. A mount that only these processes
see needs no rights where Linux lets users have namespaces.
"""
from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import List

import pytest

ROOT = Path(__file__).parents[2]
MOUNT = 'mount --bind "$0" "$1" && shift && exec "$@"'
# What these tests say themselves, and what this process has set for Jittor
OURS = ("use_mpi", "use_cutlass", "FIX_TORCH_ERROR", "gdb_path", "cache_name", "nvcc_path", "python_config_path",
        "log_silent", "cc_path")
ENVIRONMENT = {key: value for key, value in os.environ.items() if key not in OURS}


class OwnCache:
    """The copy: `folder` is what is mounted, `code` Jittor's own folder in it."""

    def __init__(self, folder: Path):
        from styleblend.machine.environment import jittor_cache
        from styleblend.machine.runtime import jt
        self.real, self.folder = jittor_cache(), folder
        within = Path(jt.compiler.cache_path).relative_to(self.real)
        self.code = folder / within
        self.lock = self.code.parent / "jittor.lock"
        shutil.copytree(self.real / within.parent, folder / within.parent)
        shutil.copytree(self.real / "mkl", folder / "mkl", symlinks=True)
        if self.run("-c", "").returncode:
            pytest.skip("users have no namespaces here")

    def command(self, *arguments) -> List[str]:
        return ["unshare", "-rm", "sh", "-c", MOUNT, str(self.folder), str(self.real), sys.executable,
                *map(str, arguments)]

    def start(self, *arguments, cwd: Path = ROOT, **env) -> subprocess.Popen:
        """Python with this cache."""
        return subprocess.Popen(self.command(*arguments), cwd=cwd, text=True, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, env={**ENVIRONMENT, **env})

    def run(self, *arguments, cwd: Path = ROOT, **env) -> subprocess.CompletedProcess:
        process = self.start(*arguments, cwd=cwd, **env)
        out, err = process.communicate(timeout=300)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> OwnCache:
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed")
    return OwnCache(tmp_path_factory.mktemp("cache") / "jittor")


def said(process: subprocess.Popen, words: str) -> str:
    """The next line on stderr that has these words."""
    for line in process.stderr:
        if words in line:
            return line
    pytest.fail(f"ended without saying {words!r}")
