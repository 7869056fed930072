"""Installed, from an empty folder: a wheel brings its configs, the mini base, its styles and the judge."""
from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
import yaml
from PIL import Image

ROOT = Path(__file__).parents[2]
SOURCES = ("styleblend", "styleblend_command.py", "configs", "data/mini", "checkpoints/mini", "setup.py",
           "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "requirements.txt", "requirements-dev.txt",
           "requirements-cuda13.txt", "requirements-context.txt",
           "requirements-cluster.txt")
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", "*.lock", "*.tmp")
BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"


def copy_sources(folder: Path) -> Path:
    """The clone as it is in git, nearly: what lies in it besides, such as an old build, would come into the wheel."""
    for name in SOURCES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=LEFT_OUT)
        else:
            shutil.copy2(ROOT / name, folder / name)
    return folder


def build(what: str, sources: Path, output: Path) -> Path:
    """Build "wheel" or "sdist" of the sources, as pip does it without a network."""
    done = subprocess.run([sys.executable, "-c", BUILD, f"build_{what}", str(output)], cwd=sources,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return output / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """The sources, with a style of somebody's in them, which is nobody else's."""
    sources = copy_sources(tmp_path_factory.mktemp("sources"))
    for path in ("checkpoints/mini/styles/mine/style.json", "data/mini/mine/prompt.json",
                 "checkpoints/mini/styles/fxemoji/training/lora/step-000001.safetensors", "checkpoints/other/unet.bin"):
        (sources / path).parent.mkdir(parents=True, exist_ok=True)
        (sources / path).write_text("{}")
    return sources


@pytest.fixture(scope="module")
def wheel(sources, tmp_path_factory) -> Path:
    return build("wheel", sources, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A fresh environment with the wheel in it, and what it depends on from the environment of the tests."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    done = subprocess.run([sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps",
                           "--no-index", "--disable-pip-version-check", str(wheel)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [packages] = folder.glob("lib/python*/site-packages")
    theirs = [path for path in map(Path, sys.path) if path.name in ("site-packages", "dist-packages")]
    (packages / "dependencies.pth").write_text("\n".join(map(str, theirs)) + "\n")
    return folder


def shipped(environment: Path) -> Path:
    [folder] = environment.glob("lib/python*/site-packages/styleblend/shipped")
    return folder


def state(folder: Path) -> dict:
    """What is in a folder: paths and hashes."""
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.rglob("*") if path.is_file()}


def run(installed: Path, folder: Path, *command, **env) -> subprocess.CompletedProcess:
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.run([str(installed / "bin" / command[0]), *map(str, command[1:])], cwd=folder,
                          env={**clean, **env}, capture_output=True, text=True)


def test_a_picture_is_drawn_in_an_empty_folder(installed, tmp_path):
    before = state(shipped(installed))
    done = run(installed, tmp_path, "styleblend", "draw", "--style", "fxemoji", "--prompt", "A rabbit", "--steps", 2)
    assert done.returncode == 0, done.stderr
    picture = Image.open(tmp_path / done.stdout.strip())
    assert picture.size == (128, 128) and json.loads(picture.text["styleblend"])["style"] == "fxemoji"
    assert len(list(tmp_path.iterdir())) == 1 and state(shipped(installed)) == before


@pytest.mark.slow
def test_what_is_shipped_is_never_written_to(installed, tmp_path):
    """Boards, scores, trainings and searches of shipped styles leave all that they make in the current folder."""
    before = state(shipped(installed))
    text = (shipped(installed) / "configs" / "mini.yaml").read_text()
    settings = yaml.safe_load(text)
    settings["sampling"]["steps"] = 2
    settings["training"].update(sample_every=0, look_alikes=dict(steps=2, candidates=1, chosen=1))
    for stage in ("coarse", "inversion", "lora"):
        settings["training"][stage]["steps"] = 1
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "quick.yaml").write_text(yaml.safe_dump(settings))
    quick = ("--config", "quick")
    for command in (("board", *quick, "--styles", "fxemoji", "--prompts", "1"), ("eval", "result"),
                    ("tune", "fxemoji", *quick, "--trials", 1, "--prompts", 1, "--unseen", 3, "--finalists", 0),
                    ("train", "all", *quick, "--styles", "fxemoji"),
                    ("train", "all", *quick, "--styles", "fxemoji", "--overwrite"),
                    ("draw", *quick, "--style", "fxemoji", "--prompt", "A cat")):
        done = run(installed, tmp_path, "styleblend", *command)
        assert done.returncode == 0, (command, done.stderr)
    assert state(shipped(installed)) == before
    own = tmp_path / "checkpoints" / "mini" / "styles" / "fxemoji"
    assert (own / "tuning" / "tuning.json").is_file() and len(list(own.glob("*.safetensors"))) == 4
    done = run(installed, tmp_path, "styleblend", "styles")
    assert [("comes with" in line) for line in done.stdout.splitlines() if line.split()[:1] == ["fxemoji"]] == [False]


def test_the_wheel_has_what_git_has_and_nothing_else(wheel):
    tracked = subprocess.run(["git", "ls-files", "configs", "data/mini", "checkpoints/mini", "styleblend"], cwd=ROOT,
                             capture_output=True, text=True)
    if tracked.returncode != 0:
        pytest.skip("this is no clone")
    wanted = {name if name.startswith("styleblend/") else f"styleblend/shipped/{name}"
              for name in tracked.stdout.splitlines()}
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == wanted | {"styleblend_command.py"}
    print(f"the wheel has {wheel.stat().st_size / 2**20:.0f} MiB")
    assert wheel.stat().st_size < 100e6  # what an index takes by default


@pytest.mark.slow
def test_the_sdist_builds_the_same_wheel(sources, wheel, tmp_path):
    sdist = build("sdist", sources, tmp_path)
    with tarfile.open(sdist) as file:
        file.extractall(tmp_path / "unpacked")
    [unpacked] = (tmp_path / "unpacked").iterdir()
    (tmp_path / "again").mkdir()
    again = build("wheel", unpacked, tmp_path / "again")

    def contents(path):
        file = zipfile.ZipFile(path)
        return {name: file.read(name) for name in file.namelist() if "/RECORD" not in name}

    assert contents(again) == contents(wheel)


def test_another_package_of_this_name_is_named(installed, tmp_path):
    """The command says so; Python itself, asked for the module, would run the other one."""
    for kind, path in (("package", "a/styleblend/__init__.py"), ("module", "b/styleblend.py")):
        file = tmp_path / path
        file.parent.mkdir(parents=True)
        file.write_text("")
        done = run(installed, tmp_path, "styleblend", "--version", PYTHONPATH=str(tmp_path / path[0]))
        assert done.returncode == 2 and done.stderr.startswith("styleblend: another package"), (kind, done.stderr)
        assert str(tmp_path / path[0]) in done.stderr
    done = run(installed, tmp_path, "styleblend", "--version")
    assert done.returncode == 0 and not done.stderr


def test_another_package_behind_this_one_is_named_too(tmp_path):
    """In the clone `python -m styleblend` is this one; in other folders PYTHONPATH's would be run."""
    (tmp_path / "styleblend").mkdir()
    (tmp_path / "styleblend" / "__init__.py").write_text("")
    done = subprocess.run([sys.executable, "-m", "styleblend", "--version"], cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert done.returncode == 0 and f"another package of this name ({tmp_path}" in done.stderr
