"""BLIP and T5 against transformers: small ones from folders as it saves them, and, on request, the published sizes."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reference import seeded
from styleblend.context.captioner import Captioner
from styleblend.context.language_models import load_weights
from styleblend.files.tensor_files import write_safetensors
from styleblend.machine.runtime import jt
from styleblend.models import blip, t5
from styleblend.models.blip_configs import read_blip
from styleblend.models.configs import read_config
from styleblend.models.decoder_cache import step_of
from styleblend.models.text_search import Limits, beam_search

REFERENCE = np.load(Path(__file__).parents[1] / "data" / "language.npz")
TIED = {"blip": (blip.TIED, blip.NOT_WEIGHTS), "t5": (t5.TIED, t5.NOT_WEIGHTS)}


def write_folder(folder: Path, name: str, stored) -> Path:
    """The folder whose texts are stored: weights by the stored names, and the config as transformers wrote it."""
    shapes = dict(line.rsplit(" ", 1) for line in str(stored[f"{name}/names"]).splitlines())
    write_safetensors(folder / "model.safetensors",
                      {key: seeded.language_weight(f"{name}/{key}", tuple(map(int, shape.split("x"))))
                       for key, shape in shapes.items()})
    (folder / "config.json").write_text(str(stored[f"{name}/config"]))
    return folder


def network(folder: Path, name: str, stored):
    """The network of such a folder."""
    write_folder(folder, name, stored)
    made = (blip.BlipForConditionalGeneration(*read_blip(folder / "config.json")) if name == "blip" else
            t5.T5ForConditionalGeneration(read_config(t5.T5Config, folder / "config.json")))
    load_weights(made, folder, *TIED[name])
    return made


def agree(name: str, found: np.ndarray, wanted: np.ndarray) -> None:
    found = found[:, :, ::max(1, found.shape[2] // 500)]
    assert found.shape == wanted.shape
    error = np.abs(found - wanted).max() / np.abs(wanted).max()
    print(f"{name}: {error:.2e} of the largest logit")
    assert error <= 1e-4


def compare_blip(made, stored) -> None:
    captioner = Captioner(made, None, "blip")
    start = made.text_config.bos_token_id
    for width, height in seeded.CAPTIONED:
        picture = Image.fromarray(seeded.pictures(f"caption/{width}", 1, width, height)[0])
        read = captioner.prepared(picture)
        np.testing.assert_allclose(read[:, ::7, ::7], stored[f"blip/{width}/read"], atol=1e-5)
        with jt.no_grad():
            logits = made(jt.array(read[None]), seeded.said_ids(start, start)).numpy()
        agree(f"blip, {width} x {height}", logits, stored[f"blip/{width}/logits"])
        for beams in (1, 3):
            assert captioner.tokens(picture, beams) == stored[f"blip/{width}/beams{beams}"].tolist()


def compare_t5(made, stored) -> None:
    for count in seeded.SOURCES:
        source = seeded.source_ids(count, made.config.vocab_size)
        with jt.no_grad():
            logits = made(source, seeded.said_ids(0, made.config.vocab_size)).numpy()
        agree(f"t5, {count} tokens", logits, stored[f"t5/{count}/logits"])
        for beams in (1, 3):
            limits = Limits(t5.START, t5.END, seeded.LONGEST_CAPTION)
            assert said(made, source, limits, beams) == stored[f"t5/{count}/beams{beams}"].tolist()
        how = seeded.SUMMARY
        limits = Limits(t5.START, t5.END, how["max_length"], how["min_length"])
        assert said(made, source, limits, how["num_beams"], how["length_penalty"],
                    how["early_stopping"]) == stored[f"t5/{count}/summary"].tolist()


def said(made, source: np.ndarray, *how) -> list:
    with jt.no_grad():
        cache = made.cache(source)
    return beam_search(step_of(made.decode, cache), *how)


COMPARE = {"blip": compare_blip, "t5": compare_t5}


@pytest.mark.parametrize("name", COMPARE)
def test_logits_and_texts_are_those_of_transformers(name, tmp_path):
    COMPARE[name](network(tmp_path, name, REFERENCE), REFERENCE)


def test_the_stored_texts_try_the_search():
    """Some end early, some at their limit; beams find others than greed; a text that is too short is not ended."""
    texts = {key: REFERENCE[key].tolist() for key in REFERENCE.files if "beams" in key or "summary" in key}
    ended = [text[-1] in (1, 16) for text in texts.values()]
    assert any(ended) and not all(ended)
    assert any(texts[key] != texts[key.replace("beams3", "beams1")] for key in texts if key.endswith("beams3"))
    assert sum(len(set(text)) > 3 for text in texts.values()) > len(texts) / 2


@pytest.mark.full
@pytest.mark.parametrize("name", COMPARE)
def test_published_sizes(name, tmp_path, peer):
    """Made-up weights of 900 and 240 MB, through files, against transformers in a process of its own."""
    out = tmp_path / "full.npz"
    peer("make_language_references.py", "--full", out, name)
    stored = np.load(out)
    made = network(tmp_path, name, stored)
    COMPARE[name](made, stored)
    count = sum(int(np.prod(p.shape)) for p in made.parameters())
    assert count == {"blip": 223_971_644, "t5": 60_506_624}[name]
