"""CLAP against transformers: a small one from a folder as it saves it, and, on request, the published size."""
from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from reference import seeded
from reference.make_musicnn_references import clips
from styleblend.context.clap import load_clap
from styleblend.files.tensor_files import write_safetensors
from styleblend.models.clap_features import RATE, SAMPLES, crop_count, crops, log_mel

REFERENCE = np.load(Path(__file__).parents[1] / "data" / "clap.npz")
SOUNDS = {"pad": 10.0, "beat": 3.3, "saws": 17.0}  # as in the script of the reference, with their seconds


@lru_cache(maxsize=None)
def sound(name: str) -> np.ndarray:
    return clips(RATE, SOUNDS[name])[name]


def write_clap(folder: Path, stored) -> Path:
    """The folder whose texts are stored: weights by the stored names, and whole numbers that a file has besides."""
    shapes = dict(line.rsplit(" ", 1) if " " in line.strip() else (line.strip(), "")
                  for line in str(stored["names"]).splitlines())
    tensors = {key: seeded.clap_weight(f"clap/{key}", tuple(int(size) for size in shape.split("x") if size))
               for key, shape in shapes.items()}
    tensors.update({key: np.arange(3) for key in str(stored["other names"]).splitlines()})
    write_safetensors(folder / "model.safetensors", {key: np.asarray(value) for key, value in tensors.items()})
    for name, text in (("config.json", "config"), ("preprocessor_config.json", "preprocessor"),
                       ("tokenizer.json", "tokenizer")):
        (folder / name).write_text(str(stored[text]), encoding="utf-8")
    return folder


def agree(name: str, found: np.ndarray, wanted: np.ndarray, report) -> None:
    assert found.shape == wanted.shape
    apart = np.abs(found - wanted).max() / np.abs(wanted).max()
    report(f"{name}: {apart:.1e} of the largest number")
    assert apart <= 1e-4


def compare(clap, stored, report) -> None:
    for name in SOUNDS:
        agree(name, np.mean(list(clap.heard(sound(name), 6)), axis=0), stored[f"{name}/vector"], report)
    vectors = clap.read(seeded.FELT)
    for number, text in enumerate(seeded.FELT):
        assert clap.tokenizer.encode(text).ids == stored[f"text {number}/ids"].tolist()
        agree(repr(text), vectors[number], stored[f"text {number}/vector"], report)


@pytest.fixture(scope="module")
def clap(tmp_path_factory):
    return load_clap(write_clap(tmp_path_factory.mktemp("clap"), REFERENCE))


def test_sounds_and_texts_have_the_vectors_of_transformers(clap, report):
    compare(clap, REFERENCE, report)


@pytest.mark.parametrize("name", SOUNDS)
def test_spectrograms_are_those_of_transformers(name, report):
    """In dB, every ninth frame; the long sound is heard in two pieces, of which the last one ends where it ends."""
    for crop, start in zip(crops(sound(name), 6), sorted({0, max(0, len(sound(name)) - SAMPLES)})):
        apart = np.abs(log_mel(crop)[::9] - REFERENCE[f"{name}/{start}/features"]).max()
        report(f"{name} from {start / RATE:.0f} s: {apart:.1e} dB")
        assert apart < 1e-3


def test_pieces_of_a_sound():
    """No more than needed, to the very end; a sound is repeated only whole."""
    for seconds, starts in ((10, [0]), (15, [0, 5]), (30, [0, 10, 20]), (180, [0, 34, 68, 102, 136, 170])):
        audio = np.arange(seconds * RATE, dtype=np.float32)
        assert [int(crop[0]) // RATE for crop in crops(audio, 6)] == starts
        assert crop_count(len(audio), 6) == len(starts)
        assert all(len(crop) == SAMPLES for crop in crops(audio, 6))
    [short] = crops(np.ones(4 * RATE, np.float32), 6)
    assert short.sum() == 8 * RATE and not short[8 * RATE:].any() and len(short) == SAMPLES


def test_both_forms_of_the_tokenizer_read_the_same(clap, tmp_path):
    """tokenizer.json as transformers writes it, and the vocab.json and merges.txt from which it made it."""
    from styleblend.context.language_models import read_roberta_tokenizer
    seeded.write_roberta_tokenizer(tmp_path)
    other = read_roberta_tokenizer(tmp_path, 120)
    for text in (*seeded.FELT, "sound and music", " two  spaces ", "The mus-ic"):
        assert other.encode(text).ids == clap.tokenizer.encode(text).ids


@pytest.mark.full
def test_published_size(tmp_path, peer, report):
    """Made-up weights of 600 MB, through files, against transformers in a process of its own."""
    out = tmp_path / "full.npz"
    peer("make_clap_references.py", "--full", out)
    stored = np.load(out)
    made = load_clap(write_clap(tmp_path, stored))
    compare(made, stored, report)
    count = sum(int(np.prod(p.shape)) for p in made.sounds.parameters())
    report(f"{count} numbers hear, {os.path.getsize(tmp_path / 'model.safetensors') / 1e6:.0f} MB in all")
