"""Style Encoder against arrays that the published program's parts wrote on a tiny base.

They lie in the folder `dreamstyler_and_style_encoder` under STYLEBLEND_GOLDEN; its README says what they are. Every
file there that is Style Encoder's and no training's is read, and a line is printed for each.
"""
from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from agreement import largest
from styleblend.adapters.style_encoders import load_style_encoder, style_tokens
from styleblend.base.base import load_base
from styleblend.base.style_prompts import with_style_tokens
from styleblend.files.style_pictures import read_by_encoder, square
from styleblend.machine.runtime import jt
from styleblend.pipeline import Pipeline

ROOT = Path(os.environ.get("STYLEBLEND_GOLDEN", ""))
FOLDER = ROOT / "dreamstyler_and_style_encoder"
HERE = "STYLEBLEND_GOLDEN" in os.environ and (FOLDER / "style_encoder").is_dir()
pytestmark = pytest.mark.skipif(not HERE, reason="STYLEBLEND_GOLDEN names no folder with Style Encoder's arrays in it")


def meta_of(path: Path) -> dict:
    return json.loads(str(np.load(path)["meta"]))


def of_name(pattern: str):
    names = [path.stem for path in sorted(FOLDER.glob(f"{pattern}.npz"))] if HERE else []
    return pytest.mark.parametrize("name", names)


@pytest.fixture(scope="module")
def pipeline():
    return Pipeline(load_base(ROOT / "base"))


@pytest.fixture(scope="module")
def encoder(pipeline):
    return load_style_encoder(FOLDER / "style_encoder", pipeline.base)


@of_name("encode_style*")
def test_the_tokens_of_pictures(name, encoder, report):
    case, side = np.load(FOLDER / f"{name}.npz"), encoder.config.image_size
    pictures = [Image.fromarray(case[key]) for key in sorted(case.files) if key.startswith("picture_")]
    for fit, end in (("squash", ""), ("crop", "_crop")):
        resized = np.stack([np.asarray(square(picture, side, fit)) for picture in pictures])
        assert (resized == case[f"resized_{fit}"]).all()
        pixels = np.stack([read_by_encoder(picture, side, fit) for picture in pictures])
        with jt.no_grad():
            pooled = largest(encoder.pooled(jt.array(pixels)), case[f"pooled{end}"])
        vectors = largest(style_tokens(encoder, pixels), case[f"vectors{end}"])
        report(f"{name} {fit}: pixels exactly, pooled {pooled:.1e}, vectors {vectors:.1e} (absolute)")
        assert max(pooled, vectors) <= 1e-5


@of_name("prompt_assembly*")
def test_where_the_tokens_stand(name, pipeline, report):
    case, network = np.load(FOLDER / f"{name}.npz"), pipeline.base.text_encoder
    meta, tokenizer = meta_of(FOLDER / f"{name}.npz"), pipeline.base.tokenizer()
    with pytest.warns(UserWarning, match="this is left out"):
        rows = tokenizer.encode(meta["captions"])
    assert (rows == case["ids"]).all()
    count, width = case["vectors"].shape[1:]
    ids, clamped = with_style_tokens(tokenizer, rows, count)
    assert [list(row).index(tokenizer.vocabulary + number * count) for number, row in enumerate(ids)] \
        == list(case["start"])
    vectors = jt.array(case["vectors"].reshape(-1, width))
    with jt.no_grad():
        embeds = network.text_model.embeddings(ids, vectors).numpy()
        hidden = largest(network(ids, vectors), case["hidden"])
    report(f"{name}: {len(ids)} captions, {clamped.sum()} of them clamped: embeddings exactly, states {hidden:.1e}")
    assert (embeds == case["embeds"]).all() and hidden <= 1e-5
