"""Whole commands with stand-ins for CUDA's libraries (`stand_in_cuda.py`), on a machine without a card.

Every operator that a card would need is generated, compiled by nvcc, linked and called; nothing is computed, so no
figure of these runs means anything. What a card would refuse is refused: pointers, sizes, shapes, types, launches.

    pip install -e ".[cuda13]"
    python -m pytest tests/gpu -m dry_run         40 minutes of two cores the first time

What is compiled is kept in ~/.cache/styleblend-dry-run, or the folder that STYLEBLEND_DRY_RUN names.
"""
from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from benchmarks.on_a_card import steps
from stand_in_cuda import make_stand_in, variables

ROOT = Path(__file__).parents[2]
FOLDER = Path(os.environ.get("STYLEBLEND_DRY_RUN") or Path.home() / ".cache" / "styleblend-dry-run")
pytestmark = pytest.mark.dry_run

DRAW = ("draw", "--style", "fxemoji", "--prompt", "An anchor", "--steps", "2", "--overwrite")
ALIGN = ("align", "--prompts", "A panda,A bus", "--look", "watercolor", "--steps", "2", "--overwrite")
PICTURE = str(ROOT / "data" / "mini" / "fxemoji" / "images" / "snake.png")
WAYS = {  # other ways to draw
    "style encoder": ("draw", "--method", "style_encoder", "--reference", PICTURE, "--prompt", "A cat"),
    "stages": ("draw", "--style", "fxemoji-one-picture", "--prompt", "A cat"),
    "ControlNet": ("align", "--prompts", "A panda", "--look", "black and white", "--control", "canny",
                   "--control-picture", PICTURE),
    "reference": ("align", "--prompts", "A panda", "--reference", PICTURE, "--reference-prompt", "A snake",
                  "--share-group-norm"),
    "inversion": ("transfer", "--content", PICTURE, "--style", "fxemoji", "--prompt", "A snake", "--invert"),
    "deep cache": ("draw", "--style", "fxemoji", "--prompt", "A (red:1.3) cat", "--cache-interval", "2", "--sampler",
                   "unipc"),
}
# what Jittor compiles for the CPU while it uses a card -> why that is right
ON_THE_CPU = {"random__": "noise, which must be the same on every device (diffusion/schedule.py)"}


@dataclass(frozen=True)
class Report:
    """What the stand-ins saw: how often which call, kernel and kind of copy; and what a card would have refused."""

    calls: dict[str, int]
    kernels: dict[str, int]
    wrong: list[str]


class CommandFailed(Exception):
    """What a command that ended with an error has said."""


@pytest.fixture(scope="session")
def card():
    """The variables with which a command finds the stand-in."""
    pytest.importorskip("nvidia", reason='NVIDIA\'s wheels are not here: pip install "styleblend-jittor[cuda13]"')
    home = os.environ["HOME"]
    try:
        make_stand_in(FOLDER)
    finally:
        os.environ["HOME"] = home
    return variables(FOLDER)


@pytest.fixture
def run(card, tmp_path):
    """A function: runs a command of the program on the stand-in and returns the report."""
    def start(*command: str, **environ: str) -> Report:
        path = tmp_path / "report.txt"
        clean = {name: value for name, value in os.environ.items() if name not in ("nvcc_path", "use_cuda")}
        done = subprocess.run([sys.executable, "-m", "styleblend", *command], cwd=ROOT, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              env={**clean, **card, "STAND_IN_REPORT": str(path), **environ})
        if done.returncode:
            raise CommandFailed(done.stdout)
        lines = [line.split("\t") for line in path.read_text().splitlines()]
        counted = {kind: {} for kind in ("call", "kernel")}
        for kind, name, number in lines:
            if kind in counted:
                counted[kind][name] = counted[kind].get(name, 0) + int(number)
        return Report(counted["call"], counted["kernel"], [name for kind, name, _ in lines if kind == "wrong"])

    return start


@pytest.fixture
def config(tmp_path):
    """The mini base, a style of two pictures, trainings of two steps with gradient checkpointing."""
    rng = np.random.default_rng(0)
    images = tmp_path / "data" / "dots" / "images"
    images.mkdir(parents=True)
    for name in ("red_apple", "boat"):
        Image.fromarray(rng.integers(0, 255, (128, 128, 3), np.uint8)).save(images / f"{name}.png")
    (images.parent / "prompt.json").write_text(json.dumps({"0": "Cat"}))
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(dict(
        base=str(ROOT / "checkpoints" / "mini" / "base"), data=str(tmp_path / "data"),
        adapters=str(tmp_path / "adapters"), look_alikes=str(tmp_path / "look"), output=str(tmp_path / "result"),
        sampling=dict(steps=2, width=128, height=128, guidance=3.0, saved_size=None, batch=1, vae_strip=64),
        training=dict(gradient_checkpointing=True, sample_every=0,
                      look_alikes=dict(steps=2, candidates=2, chosen=2), coarse=dict(steps=2, lr=1e-3, rank=2),
                      inversion=dict(steps=2, lr=1e-2, flip=True), lora=dict(steps=2, lr=1e-3, rank=2, flip=True)))))
    return path


def is_of_a_card(report: Report) -> None:
    """Nothing was refused; products, convolutions, attention and norms were computed by what is there for a card."""
    assert report.wrong == []
    assert "cudnnConvolutionForward" in report.calls and any(name.startswith("cublas") for name in report.calls)
    for kernel in ("7forward", "12norm_forward", "5gated"):
        assert any(f"styleblend4cuda{kernel}" in name for name in report.kernels)


@pytest.mark.parametrize("options", [(), ("--dtype", "float16"), ("--dtype", "bfloat16"), ("--offload",)], ids=str)
def test_a_picture(run, tmp_path, options):
    is_of_a_card(run(*DRAW, "--output", str(tmp_path / "anchor.png"), *options))
    assert Image.open(tmp_path / "anchor.png").size == (128, 128)


def test_a_set_of_one_look(run, tmp_path):
    is_of_a_card(run(*ALIGN, "--output", str(tmp_path / "aligned")))


@pytest.mark.parametrize("way", WAYS)
def test_other_ways_to_draw(run, tmp_path, way):
    """In float16, in which a card refuses what it takes in float32."""
    command = WAYS[way]
    output = tmp_path / ("picture.png" if command[0] == "draw" else "pictures")
    is_of_a_card(run(*command, "--steps", "3", "--dtype", "float16", "--output", str(output), "--overwrite"))
    assert output.exists()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("method", ["styleblend", "dreamstyler"])
def test_a_training(run, config, method, dtype):
    """Backward passes, too: of attention, of convolutions, of the optimiser."""
    report = run("train", method, "--config", str(config), "--dtype", dtype)
    is_of_a_card(report)
    for kernel in ("8backward", "13norm_backward"):
        assert any(f"styleblend4cuda{kernel}" in name for name in report.kernels)
    assert "cudnnConvolutionBackwardData" in report.calls


def test_a_picture_that_is_decoded_in_strips(run, config, tmp_path):
    output = tmp_path / "anchor.png"
    is_of_a_card(run("draw", "--config", str(config), "--prompt", "An anchor", "--output", str(output)))


@pytest.mark.parametrize("networks", [(), ("clip", "dino", "dinov2")], ids=["judge", "clip and dino"])
def test_scoring(run, config, tmp_path, networks):
    """A folder of pictures, by the judge of the mini base or by small networks with made-up weights."""
    drawn = tmp_path / "drawn" / "dots"
    drawn.mkdir(parents=True)
    shutil.copy(tmp_path / "data" / "dots" / "images" / "boat.png", drawn / "Cat.png")
    options = ()
    if networks:
        from made_up_networks import put_made_up  # it imports Jittor
        put_made_up(tmp_path / "weights", *networks)
        options = ("--metrics", ",".join(networks), "--weights", str(tmp_path / "weights"), "--no-judge")
    report = run("eval", str(drawn.parent), "--config", str(config), "--output", str(tmp_path / "report"), *options)
    assert report.wrong == [] and report.kernels


def test_all_checks_of_a_card_run_to_their_end(card, tmp_path):
    """Their mistakes should not cost a card's minutes. What compares numbers finds wrong ones here; nothing breaks."""
    # doctor would make a home of CUDA's own libraries
    names = [step.name for step in steps(tmp_path) if step.name != "doctor"]
    clean = {name: value for name, value in os.environ.items() if name not in ("nvcc_path", "use_cuda")}
    subprocess.run([sys.executable, "-m", "benchmarks.on_a_card", "--output", str(tmp_path), "--only", ",".join(names)],
                   cwd=ROOT, env={**clean, **card}, check=False)
    done = json.loads((tmp_path / "steps.json").read_text())
    assert list(done) == names
    compares = [name for name in names if name.split("-")[0] in ("operators", "kernels", "picture", "unet")
                and "step" not in name]
    assert {name: its["code"] for name, its in done.items() if name not in compares and its["code"]} == {}
    for name in compares:
        assert done[name]["code"] in (0, 1) and "Traceback" not in (tmp_path / f"{name}.log").read_text()


def test_a_full_card(run, tmp_path):
    """One sentence with what helps."""
    with pytest.raises(CommandFailed, match="styleblend: the card's memory is full; what is finished is kept. Try "
                       "--offload, or --dtype float16"):
        run(*DRAW, "--output", str(tmp_path / "anchor.png"), STAND_IN_MEMORY=str(10 << 20))


def test_what_runs_on_the_cpu_is_explained():
    """Of all operators that the runs above have compiled: those that Jittor gave to g++ and not to nvcc."""
    commands = {path: path.read_text(errors="replace").split(" ", 1)[0].strip('"')
                for path in FOLDER.glob(".cache/jittor/**/cu*/jit/*.so.key")}
    assert commands
    elsewhere = sorted({path.name.split("_hash_")[0] for path, compiler in commands.items()
                        if os.path.basename(compiler) != "nvcc"})
    assert [name for name in elsewhere if not any(part in name for part in ON_THE_CPU)] == []
