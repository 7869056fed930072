"""The rooms of the program: who may import whom, and how large a file may be."""
import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "styleblend"
# From the bottom. A file may import its own layer and those before it; of several names that fit, the longest counts.
LAYERS = ["errors", "files", "diffusion.samplers", "diffusion.blends", "settings", "machine", "kernels", "models",
          "diffusion", "base", "adapters", "methods", "record", "pipeline", "metrics", "context", "training", "jobs",
          "cluster", "ui", "cli", "__main__"]
FRONT = "styleblend"  # the package itself: its public names, imported on first use


def modules() -> dict:
    """Module name without the package's -> file."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imported(path: Path) -> set:
    """The modules of this package that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    names = {name[len("styleblend."):] for name in found if name.startswith("styleblend.")}
    names = {name for name in names if name in MODULES}
    # `from styleblend.files import names` is an import of the module, not of its folder's __init__
    return {name for name in names if not any(other.startswith(f"{name}.") for other in names)}


def layer(name: str) -> int:
    fitting = [i for i, prefix in enumerate(LAYERS) if name == prefix or name.startswith(f"{prefix}.")]
    assert fitting, f"{name} is in no layer: put it into a room"
    return max(fitting, key=lambda i: len(LAYERS[i]))


@pytest.mark.parametrize("name", [name for name in MODULES if name])
def test_imports_point_downwards(name):
    upwards = {other for other in imported(MODULES[name]) if layer(other) > layer(name)}
    assert not upwards, (f"styleblend/{name.replace('.', '/')}.py imports {', '.join(sorted(upwards))}, "
                         "which stand above it")


def test_no_circle_of_files():
    graph, done, path = {name: imported(file) for name, file in MODULES.items() if name}, set(), []

    def visit(name):
        if name in path:
            pytest.fail(" -> ".join([*path[path.index(name):], name]))
        if name not in done:
            path.append(name)
            for other in graph[name]:
                visit(other)
            done.add(path.pop())

    for name in graph:
        visit(name)


ROOMS = ("styleblend", "integrations", "benchmarks", "tools", "scripts", "tests")
SOURCES = sorted(p for room in ROOMS for p in (ROOT / room).rglob("*") if p.suffix in (".py", ".h", ".cu", ".sh"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_is_short_and_its_lines_are(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 400
    assert not [f"line {n} has {len(line)} characters" for n, line in enumerate(lines, 1) if len(line) > 120]
