"""Eleven pictures, a grid and a short training of the mini base: what no change of structure may change.

    python tests/reference/draw_same_pictures.py FOLDER              # draws them, through the command line
    python tests/reference/draw_same_pictures.py FOLDER --training   # and trains both parts of one style, 30 steps each

`tests/data/same_pictures/` holds what this wrote before the program was rebuilt around recipes;
`tests/system/test_same_pictures.py` compares. When the mini base or a shipped style changes, draw that folder anew,
with the program as it was before anything else changed.
"""
from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

ROOT = Path(__file__).parent.parent.parent
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
TRAINED = "fxemoji"
# name -> (changes of the config's sampling, the command); {out} is the folder, {config} the config with these changes
PICTURES = {
    "fluent-3d-bus": ({}, "generate --style fluent-3d --prompt|A bus"),
    "fluent-3d-dpm": ({"sampler": "dpmpp_2m", "steps": 20}, "generate --style fluent-3d --prompt|A castle --seed 7"),
    "monotone-ddim": ({}, "generate --style emojione-monotone --prompt|A rabbit"),
    "monotone-dpm-unguided": ({"sampler": "dpmpp_2m", "guidance": 1.0},
                              "generate --style emojione-monotone --prompt|A castle"),
    "openmoji-unguided": ({"guidance": 1.0}, "generate --style openmoji-black --prompt|A dog"),
    "openmoji-euler": ({"sampler": "euler"},
                       "generate --style openmoji-black --prompt|A loaf of bread on a table. --strength 1.2"),
    "fxemoji-eta": ({"eta": 0.5}, "generate --style fxemoji --prompt|An anchor --seed 11"),
    "fxemoji-again": ({}, "generate --from|{out}/fxemoji-eta.png"),
}
BATCH = ({"batch": 3}, "test --styles fxemoji --prompts|Anchor,Fire,Bread --output|{out}/board")
GRID = ({}, "grid fxemoji --x|scale=0.1,0.5 --y|preset=balanced,strong_layout --prompts Anchor")
TRAINING = {"coarse": {"steps": 30}, "inversion": {"steps": 30}, "lora": {"steps": 30}, "sample_every": 15,
            "coarse_score": "subject", "fine_score": "both"}


def machine() -> dict:
    """What the last bits of a picture depend on: the processor's kind and abilities, and the number of threads."""
    text = Path("/proc/cpuinfo").read_text()
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text, re.M)
    wide = sorted(f for f in (flags[1].split() if flags else []) if re.match(r"avx|amx|fma|sse4|asimd|sve", f))
    model = re.search(r"^model name\s*:\s*(.*)$", text, re.M)
    return {"processor": model[1].strip() if model else "unknown", "abilities": " ".join(wide),
            "threads": os.environ.get("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))}


def digest(array: np.ndarray) -> str:
    return hashlib.sha256(f"{array.dtype} {array.shape}".encode() + np.ascontiguousarray(array).tobytes()).hexdigest()


def config(folder: Path, name: str, sampling: dict, **changes) -> Path:
    """The mini config with absolute paths, the negative prompt that it had then, and these changes, as a file."""
    settings = yaml.safe_load((ROOT / "configs" / "mini.yaml").read_text(encoding="utf-8"))
    for key in ("base", "data", "adapters", "look_alikes"):
        settings[key] = str(ROOT / settings[key])
    settings["sampling"].update({"fine_negative": "blur", **sampling})
    for key, value in changes.items():
        settings[key] = {**settings[key], **value} if isinstance(value, dict) else value
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path


def run(command: str, folder: Path, file: Path, output: str = "") -> None:
    """One command of the command line.

    A space separates its arguments, but behind a | the rest up to the next option is one argument.
    """
    from styleblend.cli import main
    arguments = []
    for part in re.split(r" (?=--)", command.format(out=folder)):
        head, bar, value = part.partition("|")
        arguments += head.split() + ([value] if bar else [])
    arguments += ["--config", str(file)] + (["--output", output] if output else [])
    code = main(arguments)
    if code:
        raise SystemExit(f"styleblend {' '.join(arguments)} ended with {code}")


def draw(folder: Path, only: list) -> None:
    """All pictures, as PNG files in `folder`; or some of PICTURES."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (sampling, command) in PICTURES.items():
        if only and name not in only:
            continue
        run(command, folder, config(folder, name, sampling), str(folder / f"{name}.png"))
    if only:
        return
    run(BATCH[1], folder, config(folder, "board", BATCH[0]))
    for path in (folder / "board" / "fxemoji").glob("*.png"):
        shutil.move(path, folder / f"board-{path.name}")
    shutil.rmtree(folder / "board")
    run(GRID[1], folder, config(folder, "grid", GRID[0]), str(folder / "grid.png"))


def train(folder: Path) -> dict:
    """The losses of a short training, as the checkpoints have them, and a hash of every adapter."""
    from styleblend.files import tensor_files
    file = config(folder, "training", {}, adapters=str(folder / "adapters"), look_alikes=str(folder / "look"),
                  training=TRAINING)
    settings = yaml.safe_load(file.read_text())
    settings["training"]["coarse"]["steps"], settings["training"]["look_alikes"]["candidates"] = 30, 2
    settings["training"].update({
        stage: {**yaml.safe_load((ROOT / "configs" / "mini.yaml").read_text())["training"][stage], "steps": 30}
        for stage in ("coarse", "inversion", "lora")})
    settings["training"]["look_alikes"]["chosen"] = 2
    file.write_text(yaml.safe_dump(settings))
    run(f"train all --styles {TRAINED}", folder, file)
    found = {}
    for path in sorted((folder / "adapters" / TRAINED).glob("*.safetensors")):
        found[path.name] = {key: digest(array) for key, array in sorted(tensor_files.read_safetensors(path).items())}
        found[path.name] = hashlib.sha256(json.dumps(found[path.name]).encode()).hexdigest()
    for stage in ("coarse", "inversion", "lora"):
        metadata = tensor_files.read_metadata(
            folder / "adapters" / TRAINED / "training" / stage / "step-000030.safetensors")
        found[f"losses of {stage}"] = json.loads(metadata["losses"])
        found[f"scores of {stage}"] = json.loads(metadata["scores"])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--training", action="store_true", help="train, too")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="some of the pictures")
    args = parser.parse_args()
    draw(args.folder, args.only)
    facts = {"machine": machine(),
             "pixels": {p.name: digest(np.asarray(Image.open(p))) for p in sorted(args.folder.glob("*.png"))}}
    if args.training:
        facts["training"] = train(args.folder)
    (args.folder / "facts.json").write_text(json.dumps(facts, indent=1) + "\n")
    for path in args.folder.glob("*.yaml"):
        path.unlink()


if __name__ == "__main__":
    main()
