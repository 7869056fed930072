"""`styleblend doctor`: what it finds on a machine, and the cure that it names."""
from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from styleblend.files.base_folder import DESCRIPTIONS, FILES, VARIANTS
from styleblend.files.tensor_files import write_safetensors
from styleblend.machine import doctor
from test_runtime import ROOT, driver, run_bare, run_python  # noqa: F401 (driver is a fixture)

DOCTOR = "import sys; from styleblend.machine.doctor import run_doctor; sys.exit(run_doctor({root!r}, ('mini.yaml',)))"


@pytest.fixture
def project(tmp_path):
    """A project folder with one config and a base folder that has all its files."""
    (tmp_path / "mini.yaml").write_text("base: base\n")
    for file in DESCRIPTIONS:
        path = tmp_path / "base" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    for part, stems in FILES.items():
        write_safetensors(tmp_path / "base" / part / f"{stems[0]}.safetensors", {"a": np.zeros((3, 4), np.float32)})
    return tmp_path


def test_doctor_finds_a_whole_machine_healthy(project):
    result = run_python(DOCTOR.format(root=str(project)))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "computes on" in result.stdout and "fail" not in result.stdout


def test_doctor_names_an_incomplete_base(project):
    shutil.rmtree(project / "base" / "vae")
    result = run_python(DOCTOR.format(root=str(project)))
    assert result.returncode == 2 and "missing: vae/config.json" in result.stdout


def pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 3463726504\n")


DAMAGE = {  # what is done to the weights of the UNet, words that the answer has
    "a pointer": (pointer, "Git LFS pointer"),
    "cut off": (lambda path: os.truncate(path, path.stat().st_size - 1), "no whole safetensors file"),
    "empty": (lambda path: os.truncate(path, 0), "no whole safetensors file"),
    "no tensors": (lambda path: path.write_bytes((2).to_bytes(8, "little") + b"{}"), "no whole safetensors file"),
    "a web page": (lambda path: path.write_text("<!DOCTYPE html><html>not found</html>"), "no whole safetensors file"),
    "other json": (lambda path: path.write_bytes((9).to_bytes(8, "little") + b'{"a": 12}'),
                   "no whole safetensors file"),
    "only pickles": (lambda path: path.rename(path.with_suffix(".bin")),
                     "missing: unet/diffusion_pytorch_model.safetensors (a .bin is a pickle"),
    "gone": (lambda path: path.unlink(), "missing: unet/diffusion_pytorch_model.safetensors"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_doctor_looks_into_the_weights(name, project):
    damage, words = DAMAGE[name]
    damage(project / "base" / "unet" / "diffusion_pytorch_model.safetensors")
    line = doctor.base_line(project, "mini.yaml", needed=True)
    assert line.status == "fail" and words in line.found


@pytest.mark.parametrize("variant", VARIANTS)
def test_doctor_takes_the_weights_that_a_base_is_loaded_from(variant, project):
    path = project / "base" / "vae" / "diffusion_pytorch_model.safetensors"
    path.rename(path.with_name(f"diffusion_pytorch_model{variant}.safetensors"))
    assert doctor.base_line(project, "mini.yaml", needed=True).status == "ok"


def test_doctor_looks_at_a_machine_that_has_python_alone():
    result = run_bare("-c", DOCTOR.format(root="."))
    assert result.returncode == 2 and "pip install -r requirements.txt" in result.stdout, result.stderr


def test_doctor_finds_the_shipped_base_whole():
    assert doctor.base_line(ROOT, "configs/mini.yaml", needed=True).status == "ok"


def test_doctor_looks_at_the_disks_of_all_that_is_written(project, monkeypatch):
    (project / "mini.yaml").write_text("base: base\noutput: drawn/here\nadapters: /dev/shm/styles\n")
    lines = list(doctor.disk_lines(project, ("mini.yaml", "nowhere.yaml")))
    assert all(any(place in line.found for line in lines) for place in (str(project / "drawn/here"), "/dev/shm/styles"))
    full = shutil.disk_usage("/")._replace(free=2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: full)
    assert {line.status for line in doctor.disk_lines(project, ("mini.yaml",))} == {"fail"}


def test_doctor_names_a_folder_that_cannot_be_written(project, monkeypatch):
    # who runs tests as root may write everywhere
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != project)
    (project / "mini.yaml").write_text("base: base\noutput: drawn\n")
    lines = doctor.disk_lines(project, ("mini.yaml",))
    assert "fail" in [line.status for line in lines if "cannot be written" in line.found]


def test_doctor_says_what_to_do_about_the_driver(project, driver):
    result = run_python("from styleblend.machine.doctor import cuda_line; print(cuda_line())", **driver(803))
    assert "status='warn'" in result.stdout
    assert "fix='the driver was updated while it ran: restart the machine'" in result.stdout


def test_doctor_names_a_missing_compiler(project):
    result = run_python(DOCTOR.format(root=str(project)), PATH=str(project))
    assert result.returncode == 2 and "sudo apt install g++" in result.stdout


def test_doctor_works_where_jittor_does_not_import(project):
    (project / "site" / "jittor").mkdir(parents=True)
    (project / "site" / "jittor" / "__init__.py").write_text("raise ImportError('broken on purpose')\n")
    result = run_python(DOCTOR.format(root=str(project)), PYTHONPATH=str(project / "site"))
    assert result.returncode == 2 and "broken on purpose" in result.stdout
