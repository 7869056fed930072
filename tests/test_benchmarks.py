"""The benchmarks run, and write the figures that they promise."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def figures(tmp_path, *command):
    subprocess.run([sys.executable, "-m", *command, "--json", str(tmp_path / "out.json")], cwd=ROOT, check=True, timeout=600)
    return json.loads((tmp_path / "out.json").read_text())


def test_a_benchmark_without_peer(tmp_path):
    report = figures(tmp_path, "benchmarks.attention", "--rounds", "2", "--gradient")
    assert report["ours_s"] > 0 and report["peak_ours_mib"] > 10 and report["ours_gflops"] > 0 and "ratio" not in report


@pytest.mark.slow
@pytest.mark.parametrize("job", ["attention", "unet_step", "generate", "train_step"])
def test_every_benchmark_with_its_peer(job, tmp_path):
    if "STYLEBLEND_TORCH_PYTHON" not in os.environ:
        pytest.skip("STYLEBLEND_TORCH_PYTHON does not name a Python with tests/reference/requirements.txt")
    report = figures(tmp_path, f"benchmarks.{job}", "--rounds", "2", "--steps", "2", "--peer", "torch")
    assert report["ratio"] == pytest.approx(report["ours_s"] / report["peer_s"])
