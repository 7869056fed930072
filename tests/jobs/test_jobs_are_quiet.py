"""Jobs raise and yield: they print nothing, draw no bars and know no command line. So says their source."""
import ast
from pathlib import Path

import pytest

import styleblend

JOBS = sorted((Path(styleblend.__file__).parent / "jobs").glob("*.py"))
LOUD = {"argparse", "tqdm", "rich", "signal", "warnings", "logging"}


def faults(tree):
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from (f"imports {name}" for name in names
                        if name.split(".")[0] in LOUD or name.startswith("styleblend.cli"))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("print", "input"):
            yield f"calls {node.func.id}"
        if isinstance(node, ast.Attribute) and node.attr in ("stdout", "stderr", "argv"):
            yield f"reads {node.attr}"


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_a_job_is_quiet(path):
    assert list(faults(ast.parse(path.read_text(encoding="utf-8")))) == []


@pytest.mark.parametrize("code", ["print(1)", "import tqdm", "from tqdm import tqdm",
                                  "import sys; sys.stderr.write('x')", "import argparse",
                                  "from styleblend.cli.progress import tell"])
def test_what_is_loud_is_found(code):
    assert list(faults(ast.parse(code)))


def test_only_one_place_draws():
    """All jobs draw by `jobs/drawing.py`."""
    users = [path.name for path in JOBS if "pipeline.draw(" in path.read_text(encoding="utf-8")]
    assert users == ["drawing.py"]


def test_no_two_functions_of_the_jobs_have_one_name():
    names = [node.name for path in JOBS for node in ast.parse(path.read_text(encoding="utf-8")).body
             if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    assert len(JOBS) > 10 and not {name for name in names if names.count(name) > 1}
