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


WITHOUT_JITTOR_RUN = WITHOUT_JITTOR.split("package =")[0] + """
from styleblend.cli import main
print([main(command.split()) for command in sys.argv[1:]])
"""


def test_what_is_wrong_with_an_adapter_is_said_before_jittor_starts(tmp_path):
    """The first start of it takes minutes."""
    page, zipped = tmp_path / "page.safetensors", tmp_path / "lora.zip"
    page.write_text("<!DOCTYPE html><title>Sign in</title>")
    zipped.write_bytes(b"PK\3\4" + bytes(22) + b"\x0f\0\0\0ink.safetensors")
    commands = [f"load {page} --name ink", f"load {zipped} --name ink", f"inspect {page}", "export fxemojy"]
    result = subprocess.run([sys.executable, "-c", WITHOUT_JITTOR_RUN, *commands], cwd=ROOT, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)
    assert result.stdout.split() == ["[2,", "2,", "2,", "2]"], result.stderr
    for words in ("a web page", "a zip file with ink.safetensors", "there is no style"):
        assert words in result.stderr
