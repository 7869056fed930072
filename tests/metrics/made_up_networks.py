"""Small networks with made-up weights under the published names, and pictures for them to look at."""
from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from borrowed_tokenizer import tokenizer_folder
from PIL import Image

from reference import seeded
from styleblend.files import tensor_files
from styleblend.metrics.networks import SOURCES, Networks

DATA = Path(__file__).parents[1] / "data"
REFERENCE, CSD_REFERENCE = np.load(DATA / "metrics.npz"), np.load(DATA / "csd.npz")
CONFIGS = {"clip": seeded.CLIP, "dino": seeded.DINO, "dinov2": seeded.DINOV2}


def file_of(network: str, reference=None) -> dict:
    """Made-up weights by the names under which the reference library saves them."""
    reference = reference or (CSD_REFERENCE if network == "csd" else REFERENCE)
    lines = (line.split() for line in str(reference[f"names/{network}"]).splitlines())
    return {name: seeded.weight(f"{network}/{name}", tuple(map(int, shape.split("x")))) for name, shape in lines}


def put(folder: Path, need: str, tensors: dict, config: dict) -> None:
    """One network of a folder as docs/metrics.md describes it."""
    place = folder / SOURCES[need][0]
    tensor_files.write_safetensors(place / "model.safetensors", tensors)
    if need in CONFIGS:
        (place / "config.json").write_text(json.dumps(config))
    if need.startswith("clip"):
        for name in ("vocab.json", "merges.txt"):
            shutil.copy(tokenizer_folder() / name, place)


def put_made_up(folder: Path, *needs: str) -> None:
    """Small networks with made-up weights."""
    for need in needs:
        put(folder, need, file_of(need), CONFIGS.get(need))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Weights of all networks. Tests that change it copy it first."""
    folder = tmp_path_factory.mktemp("metrics")
    put_made_up(folder, *(need for need in SOURCES if need != "words"))
    (folder / SOURCES["words"][0]).write_text("\n".join(seeded.WORDS) + "\n")
    return folder


@pytest.fixture(scope="module")
def networks(folder):
    return Networks(folder)


def pictures(name: str, count: int) -> list:
    return [Image.fromarray(pixels) for pixels in seeded.pictures(name, count)]


@pytest.fixture(scope="module")
def drawn():
    return pictures("drawn", 64)


@pytest.fixture(scope="module")
def style():
    return pictures("style", 4)


@pytest.fixture(scope="module")
def prompts():
    return [str(prompt) for prompt in REFERENCE["prompts"]]
