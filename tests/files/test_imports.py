"""What only reads and writes files needs no Jittor."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
WITHOUT_JITTOR = """
import importlib, pkgutil, sys

class NoJittor:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("jittor", "jittor_utils"):
            raise ImportError(f"{name} cannot be imported here")

sys.meta_path.insert(0, NoJittor())
package = importlib.import_module(sys.argv[1])
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    importlib.import_module(module.name)
    print(module.name)
"""


def imported(package: str) -> subprocess.CompletedProcess:
    """Import each module of a package in a process in which Jittor cannot be imported; prints those that could be."""
    return subprocess.run([sys.executable, "-c", WITHOUT_JITTOR, package], cwd=ROOT, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True)


def test_files_are_read_and_written_without_jittor():
    result = imported("styleblend.files")
    assert result.returncode == 0, result.stderr
    names = {path.stem for path in (ROOT / "styleblend" / "files").glob("*.py")} - {"__init__"}
    assert set(result.stdout.split()) == {f"styleblend.files.{name}" for name in names}


def test_what_needs_jittor_is_found_by_this():
    result = imported("styleblend.machine")
    assert result.returncode == 1 and "jittor" in result.stderr
