"""Our pipeline against the published sampler: arrays that its own code wrote on a tiny base.

The folder is named by STYLEBLEND_GOLDEN (base in base/, adapters of one style in style/, `<settings>__<mode>.npz`,
units.npz, tokens.json); without it everything here is skipped. One line is printed for each case.
"""
from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest

from agreement import largest, relative
from drawing import request, with_start
from styleblend.adapters.style import load_style
from styleblend.base.base import load_base
from styleblend.diffusion.denoise import Denoiser, denoise
from styleblend.diffusion.samplers import ddim, leading_timesteps
from styleblend.machine.runtime import jt
from styleblend.methods.exchange import exchange
from styleblend.pipeline import Pipeline
from styleblend.settings import BlendSettings, SamplingSettings

GOLDEN = Path(os.environ.get("STYLEBLEND_GOLDEN", ""))
HERE = "STYLEBLEND_GOLDEN" in os.environ
CASES = sorted(path.stem for path in GOLDEN.glob("*__*.npz")) if HERE else []
pytestmark = pytest.mark.skipif(not HERE,
                                reason="STYLEBLEND_GOLDEN names no folder with the published sampler's arrays")


@pytest.fixture(scope="module")
def base():
    return load_base(GOLDEN / "base")


@pytest.fixture(scope="module")
def pipeline(base):
    return Pipeline(base)


@pytest.fixture(scope="module")
def style(base):
    """The folder's one style."""
    name = os.path.commonprefix([path.name for path in (GOLDEN / "style").iterdir()]).rstrip("_")
    return load_style(GOLDEN / "style", name, base)


@pytest.fixture(scope="module")
def units():
    return np.load(GOLDEN / "units.npz")


# ---------------------------------------------------------------- dual-branch runs

def published(controls: tuple, blend: BlendSettings) -> tuple:
    """The PyTorch repository as it stands: two direction names do not match.

    So a self-attention site swaps only when both lists have it. Cross-attention is not affected, and inherits its
    window from all listed sites.
    """
    both = set(blend.c2f_sites) & set(blend.f2c_sites)
    kept = [swap if swap.kind == "cross" else dataclasses.replace(swap, sites=tuple(s for s in swap.sites if s in both))
            for swap in controls]
    return tuple(swap for swap in kept if swap.sites)


def blend_of(meta: dict) -> BlendSettings:
    return BlendSettings(c2f_sites=meta["c2t"], f2c_sites=meta["t2c"], cross_c2f_sites=meta.get("cross_c2t") or [],
                         cross_f2c_sites=meta.get("cross_t2c") or [], scale=meta["scale"],
                         c2f_ratio=meta["c2t_step_ratio"],
                         f2c_ratio=meta["t2c_step_ratio"], window_steps=meta.get("handler_steps"))


def controls_of(meta: dict, unet) -> tuple:
    blend = blend_of(meta)
    controls = exchange(blend, unet.sites)
    return published(controls, blend) if meta["mode"] == "published" else controls


def texts_of(recipe, meta: dict) -> tuple:
    """The recipe's texts, those of the prompts as the run really used them; the fine token is called <T> there."""
    texts = list(recipe.texts[0])
    for branch, text in (("coarse", meta.get("coarse_text")), ("fine", meta.get("fine_text"))):
        if text is not None:
            texts[recipe.rows.row(branch, "full", 0)] = text.replace("<T>", "<F>")
    return tuple(texts),


def variance_noise(case, meta: dict):
    """What a run with eta > 0 added at each step: what the file has, or nothing (the Jittor release adds none)."""
    stored = [key for key in case.files if "noise" in key]
    if stored:
        return lambda step: jt.array(case[stored[0]][step])
    if meta["mode"] != "jittor":
        pytest.skip("eta > 0 and the noise that was added is not in the file")
    return lambda step: 0.0


def steps_of(base, recipe, texts, sampling, loras, case, meta: dict):
    """The steps of the one loop; with eta > 0, where the noise is not ours, of the sampler with the same network."""
    if meta["eta"] == 0:
        yield from denoise(base, recipe, texts, sampling, loras)
        return
    noise, x = variance_noise(case, meta), jt.concat([recipe.start[branch] for branch in recipe.rows.branches])
    with jt.no_grad():
        model = Denoiser(base, recipe, texts, loras, "ddim", sampling.steps)
        for step in ddim(model, x, base.schedule, sampling.steps, eta=meta["eta"], noise=noise):
            step.x.sync()
            yield step


@pytest.mark.parametrize("name", CASES)
def test_dual_branch_run(name, pipeline, style, report):
    case = np.load(GOLDEN / f"{name}.npz")
    meta = json.loads(str(case["meta"]))
    base, guidance = pipeline.base, meta["guidance_scale"] > 1
    coarse_negative = meta.get("coarse_negative", "" if meta["mode"] == "jittor" else meta["negative_prompt"])
    height, width = (side * base.vae.config.downscale for side in case["latents_in"].shape[2:])
    sampling = SamplingSettings(steps=meta["steps"], guidance=meta["guidance_scale"] if guidance else 1,
                                eta=meta["eta"], height=height, width=width, coarse_negative=coarse_negative,
                                fine_negative=meta["negative_prompt"])
    assert (leading_timesteps(base.schedule, meta["steps"]) == case["timesteps"]).all()

    asked, applied = request([meta["prompt"]], [0], sampling, style, settings=blend_of(meta)), pipeline.applied(style)
    recipe = with_start(pipeline.recipe(asked, applied), jt.array(case["latents_in"]))
    assert tuple(recipe.rows.branches) == ("coarse", "fine")
    assert recipe.controls == exchange(blend_of(meta), base.unet.sites)
    recipe = dataclasses.replace(recipe, texts=texts_of(recipe, meta), controls=controls_of(meta, base.unet))
    texts = pipeline.encode(recipe, "styleblend", applied)
    keys = (["coarse_neg_emb", "fine_neg_emb"] if guidance else []) + ["coarse_emb", "fine_emb"]
    text_error = max(relative(texts[0][row:row + 1], case[key]) for row, key in enumerate(keys))

    path = [step.x for step in steps_of(base, recipe, texts, sampling, applied.of("unet"), case, meta)]
    pictures = pipeline.decode(path[-1]).transpose(0, 3, 1, 2)
    first, last = largest(path[0].numpy(), case["latents"][0]), relative(path[-1], case["latents"][-1])
    picture = largest(pictures, case["images"] * 255.0)
    report(f"{name}: texts {text_error:.1e}, latents after step 1 {first:.1e} (absolute), last {last:.1e}, "
           f"pictures {picture:.2f}/255")
    assert len(path) == len(case["latents"])
    assert text_error <= 1e-5
    assert first <= 1e-5
    assert last <= 1e-3
    assert picture <= 2


# ---------------------------------------------------------------- parts of it

def test_units_unet(base, units, report):
    with jt.no_grad():
        out = base.unet(jt.array(units["unet_sample"]), int(units["unet_t"]), jt.array(units["unet_ctx"]))
    error = relative(out, units["unet_out"])
    report(f"unet: {error:.1e}")
    assert error <= 1e-5


@pytest.mark.parametrize("output, key", [("last", "te_last_hidden"), ("penultimate", "te_penultimate")])
def test_units_text_encoder(output, key, base, units, report):
    with jt.no_grad():
        error = relative(base.text_encoder(units["te_ids"], penultimate=output == "penultimate"), units[key])
    report(f"text encoder {output}: {error:.1e}")
    assert error <= 1e-5


def test_units_vae(base, units, report):
    with jt.no_grad():
        decoded = relative(base.vae.decode(jt.array(units["vae_z"])), units["vae_decoded"])
        posterior = base.vae.encode(jt.array(units["vae_image"]))
        mean, logvar = relative(posterior.mean, units["vae_mean"]), relative(posterior.logvar, units["vae_logvar"])
    report(f"vae: decoded {decoded:.1e}, mean {mean:.1e}, logvar {logvar:.1e}")
    assert max(decoded, mean, logvar) <= 1e-5


def test_units_schedule(base, units, report):
    schedule = base.schedule
    latents, noise, t = jt.array(units["vae_z"]), jt.array(units["noise"]), units["noise_t"]
    abar = largest(schedule.alphas_cumprod, units["alphas_cumprod"])
    added, velocity = (relative(f(latents, noise, t), units[key])
                       for f, key in ((schedule.add_noise, "add_noise"), (schedule.velocity, "velocity")))
    report(f"schedule: alphas_cumprod {abar:.1e} (absolute), add_noise {added:.1e}, velocity {velocity:.1e}")
    assert abar <= 1e-6 and max(added, velocity) <= 1e-5
    for key in units.files:
        if key.startswith("timesteps_"):
            assert (leading_timesteps(schedule, int(key.split("_")[1])) == units[key]).all()


def test_units_plain_run(pipeline, units, report):
    """Guided sampling without a style: a row for the negative prompt and one for the prompt."""
    sampling = SamplingSettings(steps=len(units["plain_latents"]), height=128, width=128)
    asked, applied = request(["A cat"], [0], sampling, negative="blur"), pipeline.applied(None)
    recipe = with_start(pipeline.recipe(asked, applied), jt.array(units["plain_latents_in"]))
    assert recipe.texts == (("blur", "A cat."),) and recipe.rows.conditions == ("negative", "full")
    recipe = dataclasses.replace(recipe, texts=(("blur", "A cat"),))
    path = [step.x for step in denoise(pipeline.base, recipe, pipeline.encode(recipe, "styleblend", applied), sampling)]
    first, last = largest(path[0].numpy(), units["plain_latents"][0]), relative(path[-1], units["plain_latents"][-1])
    picture = largest(pipeline.decode(path[-1]).transpose(0, 3, 1, 2), units["plain_image"] * 255.0)
    report(f"plain run: latents after step 1 {first:.1e} (absolute), last {last:.1e}, picture {picture:.2f}/255")
    assert first <= 1e-5 and last <= 1e-3 and picture <= 2


@pytest.mark.filterwarnings("ignore:the prompt has")
def test_tokens(base, report):
    tokenizer = base.tokenizer()
    cases = json.loads((GOLDEN / "tokens.json").read_text(encoding="utf-8"))
    wrong = [case["text"] for case in cases
             if tokenizer.ids(case["text"]) != case["ids"]
             or tokenizer.encode([case["text"]])[0].tolist() != case["padded"]]
    report(f"tokens: {len(cases) - len(wrong)} of {len(cases)} texts")
    assert not wrong
