"""Style Encoder against arrays that the published program's parts wrote on a tiny base.

They lie in the folder `dreamstyler_and_style_encoder` under STYLEBLEND_GOLDEN; its README says what they are. Every
file there that is Style Encoder's and no training's is read, and a line is printed for each.
"""
from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from agreement import largest, relative
from drawing import request
from styleblend.adapters.style import Style
from styleblend.adapters.style_encoders import load_style_encoder, style_tokens
from styleblend.base.base import load_base
from styleblend.base.style_prompts import with_style_tokens
from styleblend.diffusion.denoise import Denoiser, denoise, starting_latents
from styleblend.files.style_pictures import read_by_encoder, square
from styleblend.machine.runtime import jt
from styleblend.models.configs import FITS
from styleblend.pipeline import Pipeline
from styleblend.settings import KINDS, SamplingSettings, StyleEncoderSettings

ROOT = Path(os.environ.get("STYLEBLEND_GOLDEN", ""))
FOLDER = ROOT / "dreamstyler_and_style_encoder"
HERE = "STYLEBLEND_GOLDEN" in os.environ and (FOLDER / "style_encoder").is_dir()
pytestmark = pytest.mark.skipif(not HERE, reason="STYLEBLEND_GOLDEN names no folder with Style Encoder's arrays in it")

TAIL = ", in the style of sks."  # of the published captions
OURS = {"ddim": "ddim", "pndm": "pndm", "dpm": "dpmpp_2m", "unipc": "unipc", "euler": "euler"}  # their schedulers
ROWS = {"negative": 0, "text": 1, "full": 2}  # in which row of theirs a condition is


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


def asked(case, meta: dict, pipeline, encoder):
    """The run as a request: our own tokens of its picture, and the phrase of its caption."""
    assert meta["preprocess"] in FITS
    pixels = read_by_encoder(Image.fromarray(case["picture"]), encoder.config.image_size, meta["preprocess"])
    tokens = style_tokens(encoder, pixels[None])[0]
    height, width = (side * pipeline.base.vae.config.downscale for side in case["latents_in"].shape[2:])
    sampling = SamplingSettings(
        steps=meta["steps"], sampler=OURS[meta["scheduler"]["name"]], height=height, width=width,
        guidance=meta["text_scale"], fine_negative=meta["negative_prompt"])
    style = Style("theirs", {"style_tokens": tokens}, KINDS["style_encoder"]())
    return request([meta["caption"].removesuffix(TAIL)], [0], sampling, style, method="style_encoder",
                   settings=StyleEncoderSettings(style_guidance=meta["style_scale"]))


def is_usual(case, meta: dict, tokenizer) -> bool:
    """Whether the caption is one that the program writes: with its words on the style, and room for the tokens."""
    return meta["caption"].endswith(TAIL) and not with_style_tokens(tokenizer, case["ids"][-1:], 8)[1][0]


def states_of(pipeline, recipe, applied, case, meta: dict, tokens):
    """The text states of a run. A caption that is too long is clamped as published, not cut as ours are."""
    tokenizer, rows = pipeline.base.tokenizer(), case["ids"][[ROWS[condition] for condition in recipe.rows.conditions]]
    if is_usual(case, meta, tokenizer):
        return pipeline.encode(recipe, "style_encoder", applied)[0]
    ids = np.concatenate([rows[:-1], with_style_tokens(tokenizer, rows[-1:], len(tokens))[0]])
    with jt.no_grad():
        return pipeline.base.text_encoder(ids, jt.array(tokens))


@of_name("dual_*")
def test_a_picture(name, pipeline, encoder, report):
    """From the picture whose style it is to the one that is drawn."""
    case, meta = np.load(FOLDER / f"{name}.npz"), meta_of(FOLDER / f"{name}.npz")
    ours = asked(case, meta, pipeline, encoder)
    tokens, applied = ours.style.parts["style_tokens"], pipeline.applied(ours.style)
    recipe = dataclasses.replace(pipeline.recipe(ours, applied), start={"target": jt.array(case["latents_in"])})
    assert abs(sum(recipe.guidance.values()) - 1) < 1e-6
    texts = states_of(pipeline, recipe, applied, case, meta, tokens)
    hidden = case["hidden"][[ROWS[condition] for condition in recipe.rows.conditions]]
    found = {"tokens": largest(tokens, case["vectors"]), "states": largest(texts, hidden)}
    steps = list(denoise(pipeline.base, recipe, [texts], ours.sampling))
    path = [step.x.numpy() for step in steps]
    first, end = largest(path[0], case["latents"][0]), relative(path[-1], case["latents"][-1])
    picture = largest(pipeline.decode(jt.array(path[-1])), case["image"][None])
    report(f"{name}: tokens {found['tokens']:.1e}, text states {found['states']:.1e}, latents after step 1 {first:.1e} "
           f"(absolute), last {end:.1e} (relative), picture {picture:.0f}/255")
    assert [step.time for step in steps] == list(case["timesteps"]) and len(path) == len(case["latents"])
    assert max(found.values()) <= 1e-5 and first <= 1e-5 and end <= 1e-3 and picture <= 2


@of_name("dual_*")
def test_tokens_that_stand_in_a_prompt_are_the_published_embeddings(name, pipeline, encoder):
    """One word of eight vectors, as the program writes it, gives the embeddings of the published assembly exactly."""
    case, meta = np.load(FOLDER / f"{name}.npz"), meta_of(FOLDER / f"{name}.npz")
    ours = asked(case, meta, pipeline, encoder)
    style = dataclasses.replace(ours.style, parts={"style_tokens": case["vectors"]})
    applied = pipeline.applied(style)
    recipe, tokenizer = pipeline.recipe(ours, applied), pipeline.tokenizer("style_encoder", applied)
    if not is_usual(case, meta, tokenizer):
        pytest.skip("a caption that is too long is clamped as published, and cut at its own end here")
    ids, _ = tokenizer.read(recipe.texts[0])
    assert (ids[:-1, 0] == case["ids"][[ROWS[condition] for condition in recipe.rows.conditions[:-1]]]).all()
    with jt.no_grad():
        embeds = pipeline.base.text_encoder.text_model.embeddings(ids[-1], jt.array(case["vectors"])).numpy()
    assert (embeds[0] == case["embeds_full"]).all()


@of_name("dual_*")
def test_the_outputs_of_the_first_step(name, pipeline, encoder, report):
    """Each condition's own, before they are added up."""
    case, meta = np.load(FOLDER / f"{name}.npz"), meta_of(FOLDER / f"{name}.npz")
    ours = asked(case, meta, pipeline, encoder)
    recipe = pipeline.recipe(ours, pipeline.applied(ours.style))
    recipe = dataclasses.replace(recipe, start={"target": jt.array(case["latents_in"])})
    tokens = ours.style.parts["style_tokens"]
    texts, found = [states_of(pipeline, recipe, pipeline.applied(ours.style), case, meta, tokens)], {}
    with jt.no_grad():
        for condition in recipe.rows.conditions:  # the whole weight on one: its output is what comes out
            alone = dataclasses.replace(recipe, guidance={one: float(one == condition) for one in recipe.guidance})
            model = Denoiser(pipeline.base, alone, texts, {}, ours.sampling.sampler, ours.sampling.steps)
            out = model(starting_latents(alone, ()), float(case["timesteps"][0]), 0)
            found[condition] = relative(out, case["v_pred_step1"][ROWS[condition]][None])
    report(f"{name}: outputs of step 1 " + ", ".join(f"{key} {error:.1e}" for key, error in found.items()))
    assert max(found.values()) <= 1e-5
