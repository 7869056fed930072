"""StyleAligned, several references and ControlNet against arrays that the published programs wrote on a tiny base.

They lie in the folder `style_aligned` under STYLEBLEND_GOLDEN; its README says what they are. Every file there is read,
and a line is printed for each.
"""
from __future__ import annotations

import dataclasses
import json
import os
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from agreement import largest, relative
from styleblend.base.base import load_base
from styleblend.base.controlnets import load_controlnet
from styleblend.diffusion.blends import blended
from styleblend.diffusion.control_pictures import Controlled, ControlPicture
from styleblend.diffusion.controls import AdaIN, FullSharing, SharedKV, shared_sites
from styleblend.diffusion.denoise import denoise
from styleblend.diffusion.inversion import invert, noisier, trajectory
from styleblend.diffusion.recipe import Recipe, classifier_free
from styleblend.kernels import attention, group_norm
from styleblend.machine.runtime import jt
from styleblend.methods.method import Request
from styleblend.methods.style_aligned import StyleAligned
from styleblend.models.attention import AttentionContext, Projection, Projections
from styleblend.models.rows import Reference, Rows
from styleblend.models.unet import Residuals
from styleblend.pipeline import Pipeline
from styleblend.settings import AlignSettings, ReferencePicture, SamplingSettings

ROOT = Path(os.environ.get("STYLEBLEND_GOLDEN", ""))
FOLDER = ROOT / "style_aligned"
HERE = "STYLEBLEND_GOLDEN" in os.environ and FOLDER.is_dir()
pytestmark = pytest.mark.skipif(not HERE, reason="STYLEBLEND_GOLDEN names no folder with style_aligned in it")


def meta_of(path: Path) -> dict:
    return json.loads(str(np.load(path)["meta"]))


FILES = {path.stem: meta_of(path)["kind"] for path in sorted(FOLDER.glob("*.npz"))} if HERE else {}


def of_kind(*kinds):
    return pytest.mark.parametrize("name", [name for name, kind in FILES.items() if kind in kinds])


@pytest.fixture(scope="module")
def pipeline():
    return Pipeline(load_base(ROOT / "base"), methods={"style_aligned": StyleAligned()})


@pytest.fixture(scope="module")
def networks(pipeline):
    """Loads ControlNets of the folder, each once."""
    return lru_cache(lambda name: load_controlnet(FOLDER / name, pipeline.base))


# ---------------------------------------------------------------- whole runs

def settings_of(meta: dict, trajectory=None) -> AlignSettings:
    """Upstream's options in ours. A reference picture says how its scores are changed; sharing LayerNorm is nothing."""
    options = {key: value for key, value in meta["handler"].items() if key != "share_layer_norm"}
    scores = options.pop("shared_score_scale"), options.pop("shared_score_shift")
    if options["full_attention_share"]:  # upstream looks at neither then, and here they are refused
        scores = (1.0, 0.0)
    if trajectory is None:
        return AlignSettings(look="it", shared_score_scale=scores[0], shared_score_shift=scores[1], **options)
    picture = ReferencePicture(picture="it.png", score_scale=scores[0], score_shift=scores[1])
    return AlignSettings(references=[picture], offset=meta["offset"], **options)


def sampling_of(pipeline, meta: dict, case) -> SamplingSettings:
    height, width = (side * pipeline.base.vae.config.downscale for side in case["latents_in"].shape[2:])
    assert meta["eta"] == 0
    return SamplingSettings(steps=meta["steps"], guidance=meta["guidance"], height=height, width=width)


def recipe_of(pipeline, case, meta: dict, path=None) -> Recipe:
    """What our method says of this run, with the run's own texts and latents."""
    count = len(meta["prompts"]) - 1
    asked = Request(("A thing",) * count, (0,) * count, sampling_of(pipeline, meta, case), method="style_aligned",
                    settings=settings_of(meta, path), trajectory=path)
    recipe = pipeline.recipe(asked)
    assert recipe.controls[0].sites == tuple(meta["shared_sites_forward"]) or not meta["shared_sites_forward"]
    latents = jt.array(case["latents_in"])
    start = {"reference": latents[:1], "target": latents[1:]}
    if path is not None:
        assert largest(recipe.start["reference"], case["latents_in"][:1]) < 1e-2  # the offset is right
    return dataclasses.replace(recipe, start=start, shown=("reference", "target"), texts=texts_of(recipe.rows, meta))


def texts_of(rows: Rows, meta: dict) -> tuple:
    texts = {"negative": [meta["negative_prompt"]] * rows.latents, "full": meta["prompts"]}
    return tuple(text for condition in rows.conditions for text in texts[condition]),


def plain_recipe(meta: dict) -> Recipe:
    """A run without sharing."""
    guidance, count = classifier_free(meta["guidance"]), len(meta["prompts"])
    rows = Rows({"target": count}, tuple(guidance))
    return Recipe(rows, texts_of(rows, meta), guidance, {"target": (0,) * count}, ("target",))


def path_of(pipeline, recipe, sampling) -> list:
    """The latents after each step, and the text states."""
    texts = pipeline.encode(recipe, "style_aligned", pipeline.applied(None))
    return [step.x.numpy() for step in denoise(pipeline.base, recipe, texts, sampling)]


def compared(name: str, path, pipeline, case, report) -> None:
    """The path of a run and its pictures with the stored ones."""
    stored, steps = case["latents"], case["latent_steps"]
    assert len(path) == steps[-1] and steps[0] == 1
    first, last = largest(path[0], stored[0]), relative(path[-1], stored[-1])
    between = max(relative(path[step - 1], one) for step, one in zip(steps, stored))
    drawn = pipeline.decode(jt.array(path[-1][case["image_rows"]]))
    picture = largest(drawn, case["images"])
    report(f"{name}: latents after step 1 {first:.1e} (absolute), last {last:.1e}, pictures {picture:.0f}/255")
    assert first <= 1e-5
    assert max(last, between) <= 1e-3
    assert picture <= 2


@of_kind("prompts")
def test_a_set_from_prompts(name, pipeline, report):
    case = np.load(FOLDER / f"{name}.npz")
    meta = meta_of(FOLDER / f"{name}.npz")
    recipe, sampling = recipe_of(pipeline, case, meta), sampling_of(pipeline, meta, case)
    path = path_of(pipeline, recipe, sampling)
    compared(name, path, pipeline, case, report)
    alone = path_of(pipeline, dataclasses.replace(plain_recipe(meta), start={"target": jt.array(case["latents_in"])}),
                    sampling)[-1]
    assert relative(alone, case["plain_final"]) <= 1e-3


@of_kind("reference", "multi")
def test_a_set_from_pictures(name, pipeline, report):
    """From the stored trajectory, and from one of our own, of the picture or of what a blend made of several."""
    case, meta = np.load(FOLDER / f"{name}.npz"), meta_of(FOLDER / f"{name}.npz")
    sampling, base = sampling_of(pipeline, meta, case), pipeline.base
    path = [jt.array(one[None]) for one in case["zts"]]
    compared(name, path_of(pipeline, recipe_of(pipeline, case, meta, path), sampling), pipeline, case, report)

    clean = clean_latent(base, case, meta)
    own = inverted(pipeline, clean, meta["inversion"])
    error = max(relative(ours, theirs[None]) for ours, theirs in zip(own, case["zts"]))
    report(f"{name}: own inversion {error:.1e}")
    assert len(own) == len(case["zts"])
    assert error <= 5e-3
    last = path_of(pipeline, recipe_of(pipeline, case, meta, own), sampling)[-1]
    assert relative(last, case["latents"][-1]) <= 5e-3


def latent_of(base, picture: np.ndarray):
    """The scaled mean of the encoder, (1, 4, h, w)."""
    pixels = picture.astype(np.float32).transpose(2, 0, 1)[None] / 127.5 - 1
    with jt.no_grad():
        return base.vae.encode(jt.array(pixels)).mean * base.vae.scale


def clean_latent(base, case, meta: dict):
    if "picture" in case.files:
        return latent_of(base, case["picture"])
    name = {"slerp_corrected": "slerp"}.get(meta["blend"], meta["blend"])
    return jt.array(blended(name, [latent_of(base, one).numpy() for one in case["pictures"]], meta["weights"]))


def inverted(pipeline, clean, meta: dict) -> list:
    guidance = classifier_free(meta["guidance"])
    rows = Rows({"reference": 1}, tuple(guidance))
    texts = {"negative": meta["negative_prompt"], "full": meta["prompt"]}
    recipe = Recipe(rows, (tuple(texts[name] for name in rows.conditions),), guidance, {"reference": (0,)},
                    ("reference",))
    states = pipeline.encode(recipe, "style_aligned", pipeline.applied(None))
    return trajectory(clean, list(invert(pipeline.base, recipe, states, clean, meta["steps"])))


def rgb(picture: np.ndarray):
    """A control picture for the network: (1, 3, H, W) in 0..1."""
    return jt.array(picture.astype(np.float32).transpose(2, 0, 1)[None] / 255)


@of_kind("controlnet", "controlnet shared")
def test_a_run_with_a_controlnet(name, pipeline, networks, report):
    case, meta = np.load(FOLDER / f"{name}.npz"), meta_of(FOLDER / f"{name}.npz")
    network, sampling = networks(meta["controlnet"]), sampling_of(pipeline, meta, case)
    if meta["handler"] is None:
        recipe = dataclasses.replace(plain_recipe(meta), start={"target": jt.array(case["latents_in"])})
    else:
        recipe = recipe_of(pipeline, case, meta)
    pictures = case["control_pictures"]
    with jt.no_grad():
        condition = network.embedded(jt.concat([rgb(picture) for picture in pictures]))
    picture = ControlPicture(network, condition, meta["conditioning_scale"])
    recipe = dataclasses.replace(recipe, residuals=Controlled([picture], ("target",), meta["steps"]))
    compared(name, path_of(pipeline, recipe, sampling), pipeline, case, report)


# ---------------------------------------------------------------- parts of it

@of_kind("units")
def test_units_attention(name, report):
    case, meta = np.load(FOLDER / f"{name}.npz"), meta_of(FOLDER / f"{name}.npz")
    count, heads = meta["rows_per_half"], case["q"].shape[1]
    rows = Rows({"reference": 1, "target": count - 1}, ("negative", "full"))

    def joined(x):
        return x.transpose(0, 2, 1, 3).reshape(2 * count, x.shape[2], -1)

    q, k, v = (Projection(None, jt.array(joined(case[key]))) for key in "qkv")
    errors = {}
    for wanted, options in {"plain": {}, **meta["cases"]}.items():
        p = Projections(q, k, v)
        for control in controls_of(options):
            p = control.apply(p, rows)
        q_made, k_made, v_made, q_rows, segments = p.read()
        out = attention(q_made, k_made, v_made, heads, q_rows=q_rows, segments=segments)
        errors[wanted] = relative(out, joined(case["plain" if wanted == "plain" else f"out_{wanted}"]))
    changed = AdaIN((), values=True).apply(Projections(q, k, v), rows)
    for one in "qkv":
        errors[f"adain_{one}"] = relative(getattr(changed, one).made(), joined(case[f"adain_{one}"]))
    report(f"{name}: " + ", ".join(f"{key} {error:.1e}" for key, error in errors.items()))
    assert max(errors.values()) <= 1e-5


def controls_of(options: dict) -> list:
    """Upstream's options for one layer."""
    if options.get("full_attention_share"):
        return [FullSharing(())]
    adain = [options.get(f"adain_{name}", False) for name in ("queries", "keys", "values")]
    shared = SharedKV((), scale=(options.get("shared_score_scale"),), shift=(options.get("shared_score_shift"),))
    return [AdaIN((), queries=adain[0], keys=adain[1], values=adain[2])] * any(adain) + (
        [shared] if options.get("share_attention") else [])


@of_kind("units")
def test_units_norms_sites_and_a_step_of_the_inversion(name, pipeline, report):
    case, meta = np.load(FOLDER / f"{name}.npz"), meta_of(FOLDER / f"{name}.npz")
    rows = Rows({"reference": 1, "target": meta["rows_per_half"] - 1}, ("negative", "full"))
    pooling = (np.eye(rows.count, dtype=np.float32) + rows.towards(Reference())) / 2
    given = [jt.array(case[f"group_norm_{key}"]) for key in ("in", "weight", "bias")]
    with jt.no_grad():
        own, pooled = (group_norm(*given, meta["group_norm"]["groups"], meta["group_norm"]["eps"], pooling=one)
                       for one in (None, pooling))
        errors = relative(own, case["group_norm_plain"]), relative(pooled, case["group_norm_out"])
    report(f"{name}: group norm {errors[0]:.1e}, pooled {errors[1]:.1e}")
    assert max(errors) <= 1e-5
    for level, lists in meta["only_self_level"].items():
        assert shared_sites(pipeline.base.unet.sites, float(level)) == tuple(lists["shared_forward"]), level

    schedule, step = pipeline.base.schedule, meta["inversion_step"]
    latent, v = jt.array(case["step_latent"]), jt.array(case["step_v"])
    assert relative(schedule.split(v, latent, step["timestep"]).eps, case["step_epsilon"]) <= 1e-5
    for time, key in ((step["timestep"], "step_next"), (step["first_timestep"], "first_step_next")):
        _, found = noisier(schedule, v, latent, time, time - len(schedule) // step["steps"])
        assert relative(found, case[key]) <= 1e-5, key


@of_kind("blend units")
def test_units_blends(name, pipeline, report):
    case, meta = np.load(FOLDER / f"{name}.npz"), meta_of(FOLDER / f"{name}.npz")
    latents, errors = list(case["latents"]), {}
    for one, picture in zip(latents, case["pictures"]):
        errors.setdefault("latents", []).append(relative(latent_of(pipeline.base, picture), one[None]))
    for blend, key in (("linear", "linear"), ("slerp", "slerp_corrected"), ("slerp_upstream", "slerp_upstream")):
        errors[key] = [relative(blended(blend, latents, weights), theirs)
                       for weights, theirs in zip(meta["weights"], case[key])]
    made_up, times = list(case["random"]), meta["random_t"]
    asked = [(1 - t, t, 0.0) for t in times] + meta["weights"]
    errors["random_corrected"] = [relative(blended("slerp", made_up, weights), theirs)
                                  for weights, theirs in zip(asked, case["random_corrected"])]
    errors["same_twice_corrected"] = [relative(blended("slerp", [latents[0]] * 2, (0.5, 0.5)),
                                               case["same_twice_corrected"][0])]
    report(f"{name}: " + ", ".join(f"{key} {max(found):.1e}" for key, found in errors.items()))
    assert max(max(found) for found in errors.values()) <= 1e-5


@of_kind("controlnet units")
def test_units_controlnet(name, pipeline, networks, report):
    case, meta = np.load(FOLDER / f"{name}.npz"), meta_of(FOLDER / f"{name}.npz")
    network, rows = networks("controlnet"), Rows({"target": len(case["sample"])})
    sample, text = jt.array(case["sample"]), jt.array(case["context"])
    with jt.no_grad():
        condition = network.embedded(jt.concat([rgb(picture) for picture in case["pictures"]]))
        found = network(sample, meta["timestep"], text, condition, AttentionContext(rows), meta["conditioning_scale"])
        with_them, without = (pipeline.base.unet(sample, meta["timestep"], text, AttentionContext(rows), residuals)
                              for residuals in (Residuals(*found), None))
        errors = {"embedded": relative(condition[:1], case["embedded"]), "mid": relative(found.mid[:1], case["mid"])}
        for place, one in enumerate(found.down):
            errors[f"down_{place:02}"] = relative(one[:1], case[f"down_{place:02}"])
        errors["unet"] = relative(with_them, case["unet_out"])
        errors["unet without"] = relative(without, case["unet_out_without"])
    report(f"{name}: largest {max(errors.values()):.1e} ({max(errors, key=errors.get)})")
    assert max(errors.values()) <= 1e-5
