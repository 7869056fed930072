"""A typing mistake is said before Jittor is imported, in one sentence with the name that is near."""
from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TERMINAL = 80
# Runs each command line of stdin in a process in which Jittor cannot be imported.
WITHOUT_JITTOR = """
import contextlib, io, json, sys

class NoJittor:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("jittor", "jittor_utils"):
            raise ImportError(f"{name} was asked for")

sys.meta_path.insert(0, NoJittor())
from styleblend.cli import main
found = []
for arguments in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(arguments)
        except SystemExit as stop:
            code = stop.code
    found.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(found))
"""
# command line -> words of the sentence
MISTAKES = {
    # styles
    "draw --style fxemojy --prompt Cat":
        "no style fxemojy in data/mini or checkpoints/mini/styles: did you mean fxemoji?",
    "generate --style FxEmojis --prompt Cat": "did you mean fxemoji?",
    "draw --style zzz --prompt Cat":
        "there are bare, emojione-monotone, emojione-monotone-one-picture, fluent-3d and 8 more",
    "draw --style untrained --prompt Cat": "is not trained, checkpoints/mini/styles/untrained has no adapters: "
                                           "python -m styleblend train all --styles untrained",
    "draw --style half --prompt Cat": "style half has no text lora",
    "board --styles openmoji-blak": "did you mean openmoji-black?",
    "test --styles fxemoji,fluent3d": "did you mean fluent-3d?",
    "train all --styles fxemojy": "no style fxemojy in data/mini: did you mean fxemoji?",
    "grid fxemojy --x scale=1,2": "did you mean fxemoji?",
    "tune fxemojy": "did you mean fxemoji?",
    "eval drawn --styles fxemojy": "no style fxemojy in drawn or data/mini: did you mean fxemoji?",
    "export fxemojy --output out": "did you mean fxemoji?",
    # configs, bases, data
    "draw --prompt Cat --config minni": "the config minni does not exist: did you mean mini?",
    "board --config configs/mini.yml": "did you mean mini?",
    "train all --config sd2": "did you mean sd21?",
    "styles --config mni": "did you mean mini?",
    "memory --config sd-21": "did you mean sd21?",
    "init work --config sd22": "did you mean sd21?",
    "draw --prompt Cat --config gone": "no base model at bases/gone: type hf download",
    "board --styles fxemoji --config gone": "no base model at bases/gone",
    "train all --config gone --styles untrained": "no base model at bases/gone",
    "memory --config gone": "no base model at bases/gone",
    "grid fxemoji --x scale=1 --config gone": "no base model at bases/gone",
    "load lora.safetensors --name ink --config gone": "no base model at bases/gone",
    "draw --prompt Cat --config torn": "bases/torn/unet holds no diffusion_pytorch_model.safetensors",
    "train all --config sd21": "the data folder data/B does not exist",
    "train all --styles bare": "style bare has no pictures",
    "train all --styles torn": "torn.png",
    "board --styles bare": "style bare is not trained",
    "eval nowhere": "the folder nowhere does not exist",
    # settings
    "draw --prompt Cat --config twice": "the key sampling.steps is there twice, in lines 3 and 5",
    "draw --prompt Cat --config sampler": "unknown sampler; did you mean euler? There are ddim, dpmpp_2m, euler",
    "draw --prompt Cat --config key": "unknown key sampling.stepz; did you mean steps?",
    "draw --prompt Cat --sampler ddmi": "did you mean ddim?",
    "draw --prompt Cat --steps 0": "steps",
    "board --batch 0": "--batch",
    "board --shard 3/2": "--shard 3/2",
    # axes, metrics, scores
    "grid fxemoji --x scal=1": "--x: unknown axis 'scal'; did you mean scale?",
    "grid fxemoji --x scale=1 --y preset=balansed": "unknown preset 'balansed'; did you mean balanced?",
    "tune fxemoji --metric subjct": "no score 'subjct' of single pictures; did you mean subject?",
    "tune fxemoji --metrics histogramm": "there is no metric histogramm: did you mean histogram?",
    "eval drawn --metrics dino2": "there is no metric dino2: did you mean dinov2?",
    # the command line itself
    "drow --style fxemoji": "unknown 'drow': did you mean draw?",
    "draw --stile fxemoji --prompt Cat": "unknown option --stile; did you mean --style?",
    "board --overwite": "unknown option --overwite; did you mean --overwrite?",
    "draw Cat": "'Cat' belongs to no option",
    "draw --dtype bfloat": "did you mean bfloat16?",
    "train corse": "unknown 'corse': did you mean coarse?",
    "export fxemoji --format kohia --output out": "unknown 'kohia': did you mean kohya?",
    "train all --keep bst": "did you mean best?",
    # files
    "load lora.safetensor --name ink": "lora.safetensor does not exist; did you mean lora.safetensors?",
    "draw --from drawn/nothing.png": "the picture drawn/nothing.png does not exist",
    "draw": "there is nothing to draw",
    "draw --style fxemoji": "there is nothing to draw",
}
CONFIGS = {
    "gone": "base: bases/gone", "torn": "base: bases/torn",
    "twice": "base: checkpoints/mini/base\nsampling:\n  steps: 3\n  width: 128\n  steps: 4",
    "sampler": "base: checkpoints/mini/base\nsampling: {sampler: eular}",
    "key": "base: checkpoints/mini/base\nsampling: {stepz: 4}",
}
FOLDERS = "\ndata: data/mini\nadapters: checkpoints/mini/styles\nlook_alikes: looks\n"


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """A folder of somebody's: configs, a style without pictures, one with half a picture, one with half its parts."""
    work = tmp_path_factory.mktemp("work")
    for path in ("configs", "bases/torn/unet", "data/mini/untrained/images", "data/mini/torn/images", "data/mini/bare",
                 "drawn/fxemoji", "checkpoints/mini/styles/half"):
        (work / path).mkdir(parents=True)
    for name, text in CONFIGS.items():
        (work / "configs" / f"{name}.yaml").write_text(text + FOLDERS)
    shipped = ROOT / "data" / "mini" / "fxemoji" / "images" / "snake.png"
    (work / "data/mini/untrained/images/cat.png").write_bytes(shipped.read_bytes())
    (work / "data/mini/torn/images/torn.png").write_bytes(shipped.read_bytes()[:300])
    (work / "drawn/fxemoji/Cat.png").write_bytes(shipped.read_bytes())
    (work / "lora.safetensors").write_bytes(b"")
    parts = ROOT / "checkpoints" / "mini" / "styles" / "fxemoji"
    for part in ("coarse_style_embeds", "fine_style_embeds"):
        data = (parts / f"fxemoji_{part}.safetensors").read_bytes()
        (work / "checkpoints/mini/styles/half" / f"half_{part}.safetensors").write_bytes(data)
    return work


def run(lines, work):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", WITHOUT_JITTOR], cwd=work, env=env, text=True, capture_output=True,
                          input=json.dumps([shlex.split(line) for line in lines]))
    assert done.returncode == 0, done.stderr
    return dict(zip(lines, json.loads(done.stdout)))


@pytest.fixture(scope="module")
def said(work):
    return run(list(MISTAKES), work)


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_said_without_jittor(said, line):
    code, out, err = said[line]
    assert (code, out) == (2, "") and MISTAKES[line] in " ".join(err.split())
    last = err.strip().splitlines()[-1]
    assert last.startswith("styleblend: ") and "Traceback" not in err
    assert len(textwrap.wrap(last, TERMINAL)) <= 3


def test_what_needs_no_jittor_works_without_it(work):
    lines = ["styles", "export fxemoji --output exported", "export checkpoints/mini/styles/fxemoji --output other",
             "inspect exported/fxemoji.safetensors", "init project"]
    done = run(lines, work)
    assert [code for code, _, _ in done.values()] == [0] * len(lines), done
    assert "fxemoji " in done["styles"][1] and "(comes with the program)" in done["styles"][1]
    assert "half" in done["styles"][1] and "missing: text_lora, unet_lora" in done["styles"][1]
    exported, other = (work / folder / "fxemoji.safetensors" for folder in ("exported", "other"))
    assert exported.read_bytes() == other.read_bytes()
    assert "python -m styleblend train all --styles mystyle" in done["init project"][1]


def test_a_config_that_is_another_one_than_its_name_tells_is_announced(work):
    """A shipped one in the place of a path that is not here; one of one's own that says something else."""
    text = (ROOT / "configs" / "mini.yaml").read_text()
    (work / "configs" / "mini.yaml").write_text(text)
    assert run(["styles"], work)["styles"][2] == ""
    (work / "configs" / "mini.yaml").write_text(text + "\n# mine\n")
    said = run(["styles"], work)["styles"][2]
    assert "configs/mini.yaml in this folder, which differ from the program's own mini" in said
    (work / "configs" / "mini.yaml").unlink()
    line = "styles --config configs/mini.yaml"
    assert "is not in this folder: the one that comes with the program" in run([line], work)[line][2]
