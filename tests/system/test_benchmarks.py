"""The benchmarks run, and write the figures that they promise."""
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.unet_step import operations

ROOT = Path(__file__).parents[2]


def figures(tmp_path, *command):
    subprocess.run([sys.executable, "-m", *command, "--json", str(tmp_path / "out.json")], cwd=ROOT, check=True,
                   timeout=600)
    return json.loads((tmp_path / "out.json").read_text())


def test_a_benchmark_without_peer(tmp_path):
    report = figures(tmp_path, "benchmarks.attention", "--rounds", "2", "--gradient", "--dtype", "bfloat16")
    assert report["ours_s"] > 0 and report["peak_ours_mib"] > 10 and "ratio" not in report
    assert report["ours_of_ceiling"] == pytest.approx(report["ours_gflops"] / report["ceiling_gflops"])
    assert (report["device"] in ("cpu", "cuda") and report["device_name"] and report["ours_versions"]["jittor"]
            and report["arguments"]["dtype"] == "bfloat16")


def test_operations_are_those_of_the_networks_products():
    """Counted by hand for Stable Diffusion 2.1 at 64 x 64.

    One row of the UNet is some 0.7 TFLOP of products with weights; self-attention at 4,096 tokens alone is five sites
    of 4 x 320 x 4096^2.
    """
    of_weights, of_attention = operations(SimpleNamespace(base="sd21", latent=64), 1)
    assert 0.6e12 < of_weights < 0.8e12 and of_attention > 5 * 4 * 320 * 4096 ** 2
    assert operations(SimpleNamespace(base="sd21", latent=64), 4) == (4 * of_weights, 4 * of_attention)


@pytest.mark.parametrize("job", ["attention", "unet_step", "generate", "train_step"])
def test_help_says_what_each_option_is_and_its_default(job):
    text = subprocess.run([sys.executable, "-m", f"benchmarks.{job}", "--help"], cwd=ROOT, check=True,
                          capture_output=True, text=True).stdout
    assert "--dtype" in text and text.count("(default: ") >= 5


@pytest.mark.slow
@pytest.mark.parametrize("job", ["attention", "unet_step", "generate", "train_step"])
def test_every_benchmark_with_its_peer(job, tmp_path):
    if "STYLEBLEND_TORCH_PYTHON" not in os.environ:
        pytest.skip("STYLEBLEND_TORCH_PYTHON does not name a Python with tests/reference/requirements.txt")
    report = figures(tmp_path, f"benchmarks.{job}", "--rounds", "2", "--steps", "2", "--peer", "torch")
    assert report["peer_versions"]["torch"] and report["peak_peer_mib"] > 10 and report["peer_of_ceiling"] > 0
    assert report["ratio"] == pytest.approx(report["ours_s"] / report["peer_s"])


@pytest.mark.slow
def test_swaps_take_turns_with_none(tmp_path):
    report = figures(tmp_path, "benchmarks.unet_step", "--rounds", "2", "--preset", "strong_layout")
    assert report["ratio_no_swaps"] == pytest.approx(report["ours_s"] / report["no_swaps_s"]) and "ratio" not in report
