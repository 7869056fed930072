"""DreamStyler against arrays that the published program wrote on a tiny base.

They lie in the folder `dreamstyler_and_style_encoder` under STYLEBLEND_GOLDEN; its README says what they are. Every
file there that is DreamStyler's is read, and a line is printed for each.
"""
from __future__ import annotations

import dataclasses
import json
import os
import re
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from agreement import largest, relative
from drawing import request
from styleblend.adapters.pickles import read_arrays
from styleblend.adapters.stage_tokens import stage_token, stage_vectors
from styleblend.adapters.style import Style
from styleblend.base.base import load_base
from styleblend.base.controlnets import load_controlnet
from styleblend.diffusion.control_pictures import Controlled, ControlPicture
from styleblend.diffusion.denoise import Denoiser, denoise, starting_latents
from styleblend.diffusion.inversion import noised
from styleblend.diffusion.samplers import SAMPLERS, first_step_of
from styleblend.files.tensor_files import read_safetensors
from styleblend.machine.runtime import jt
from styleblend.methods.dreamstyler import stage_of
from styleblend.pipeline import Pipeline
from styleblend.settings import DreamStylerSettings, SamplingSettings

ROOT = Path(os.environ.get("STYLEBLEND_GOLDEN", ""))
FOLDER = ROOT / "dreamstyler_and_style_encoder"
HERE = "STYLEBLEND_GOLDEN" in os.environ and FOLDER.is_dir()
pytestmark = pytest.mark.skipif(not HERE, reason="STYLEBLEND_GOLDEN names no folder with DreamStyler's arrays in it")
OURS = {"ddim": "ddim", "dpm": "dpmpp_2m", "unipc": "unipc", "euler": "euler"}  # their schedulers
# in which row of theirs a condition is
THEIRS = {"negative": 0, "full": 1, "content": 2, "style": 3}


def meta_of(path: Path) -> dict:
    case = np.load(path)
    return json.loads(str(case["meta"])) if "meta" in case.files else {}


FILES = {path.stem: meta_of(path).get("case", "") for path in sorted(FOLDER.glob("*.npz"))} if HERE else {}


def of_case(*kinds):
    return pytest.mark.parametrize("name", [name for name, kind in FILES.items() if kind in kinds])


@pytest.fixture(scope="module")
def pipeline():
    return Pipeline(load_base(ROOT / "base"))


@pytest.fixture(scope="module")
def networks(pipeline):
    """Loads ControlNets of the folder, each once."""
    return lru_cache(lambda name: load_controlnet(FOLDER / name, pipeline.base))


def style_of(meta: dict, case) -> Style:
    """The run's tokens as a style: those that stand in its stages' prompts, in their order."""
    vectors, rows = dict(zip(meta["tokens"], case["token_vectors"])), {}
    for stage, prompt in enumerate(meta["stage_prompts"]):
        used = re.findall("|".join(sorted(map(re.escape, vectors), key=len, reverse=True)), prompt)
        rows.update({stage_token(stage, place): vectors[token] for place, token in enumerate(used, 1)})
    return Style("theirs", {"stage_embeds": rows})


def settings_of(meta: dict) -> DreamStylerSettings:
    said = meta["guidance"]
    if said["kind"] == "cfg":
        return DreamStylerSettings()
    dials = {key: said[key] for key in ("sty_gamma", "con_gamma", "neg_gamma")}
    return DreamStylerSettings(use_sc_guidance=True, formula=said["kind"], **dials)


def sampling_of(pipeline, meta: dict, case) -> SamplingSettings:
    height, width = (side * pipeline.base.vae.config.downscale for side in case["latents_in"].shape[2:])
    return SamplingSettings(steps=meta["steps"], sampler=OURS[meta["scheduler"]["name"]], height=height, width=width,
                            guidance=meta["guidance"].get("scale", 7.5), fine_negative=meta["negative_prompt"])


def recipe_of(pipeline, meta: dict, case):
    """What our method says of this run, from its latents; the style as it is applied."""
    style = style_of(meta, case)
    applied, sampling = pipeline.applied(style), sampling_of(pipeline, meta, case)
    asked = request([meta["prompt_template"]], [0], sampling, style, method="dreamstyler", settings=settings_of(meta))
    recipe = pipeline.recipe(asked, applied)
    return dataclasses.replace(recipe, start={"target": jt.array(case["latents_in"])}), applied, sampling


def read_as(tokenizer, text: str, vectors) -> list:
    """The ids of a text; in place of a placeholder its vector."""
    return [vectors[i - tokenizer.vocabulary] if i >= tokenizer.vocabulary else i for i in tokenizer.ids(text)]


def same_texts(pipeline, recipe, applied, meta: dict, case) -> None:
    """Every stage's texts are the published ones, token for token."""
    tokenizer = pipeline.tokenizer("dreamstyler", applied)
    ours = [tuple(np.round(row.numpy()[0], 6)) for row in applied.vectors.values()]
    theirs = [tuple(np.round(row, 6)) for row in case["token_vectors"]]
    wanted = {"negative": [case["negative_ids"]] * len(recipe.texts), "full": case["stage_ids"]}
    if len(recipe.rows.conditions) == 4:
        wanted.update(content=[case["null_style_ids"]] * len(recipe.texts), style=case["null_context_ids"])
    assert set(recipe.rows.conditions) <= set(wanted)
    for stage, texts in enumerate(recipe.texts):
        for condition, text in zip(recipe.rows.conditions, texts):
            ids = [theirs[i - meta["first_token_id"]] if i >= meta["first_token_id"] else int(i)
                   for i in wanted[condition][stage]]
            found = read_as(tokenizer, text, ours)
            assert found == ids[:len(found)] and not any(ids[len(found):]), (stage, condition)


@of_case("t2i", "style_context_guidance", "style_mixing", "style_transfer")
def test_the_prompts_of_every_stage(name, pipeline, report):
    case, meta = np.load(FOLDER / f"{name}.npz"), meta_of(FOLDER / f"{name}.npz")
    recipe, applied, sampling = recipe_of(pipeline, meta, case)
    same_texts(pipeline, recipe, applied, meta, case)
    times = SAMPLERS[sampling.sampler].timesteps(pipeline.base.schedule, sampling.steps)[-len(case["timesteps"]):]
    assert list(times) == list(case["timesteps"])
    assert [recipe.stage(time) for time in times] == list(case["stage_of_step"])
    assert abs(sum(recipe.guidance.values()) - 1) < 1e-6
    error = 0.0
    if "stage_emb" in case.files:
        states = pipeline.encode(recipe, "dreamstyler", applied)
        error = max(relative(states[0][0], case["negative_emb"]),
                    *(relative(state[1], theirs) for state, theirs in zip(states, case["stage_emb"])))
    report(f"{name}: {len(recipe.texts)} stages, the prompts and times are theirs"
           + (f", text states {error:.1e}" if error else ""))
    assert error <= 1e-5


def compared(name: str, path, pipeline, case, report) -> None:
    """The path of a run and its picture with the stored ones. A newer sampler's last step ends on sigma 0."""
    first, end = largest(path[0], case["latents"][0]), relative(path[-1], case["latents"][-1])
    between = max(relative(ours, theirs) for ours, theirs in zip(path, case["latents"]))
    picture = largest(pipeline.decode(jt.array(path[-1])), case["image"][None]) if "image" in case.files else 0
    report(f"{name}: latents after step 1 {first:.1e} (absolute), last {end:.1e} (relative), between {between:.1e}, "
           + (f"picture {picture:.0f}/255" if "image" in case.files else "no picture stored"))
    assert len(path) == len(case["latents"])
    assert first <= 1e-5 and max(end, between) <= 1e-3 and picture <= 2


@of_case("t2i", "style_context_guidance", "style_mixing")
def test_a_picture(name, pipeline, report):
    case, meta = np.load(FOLDER / f"{name}.npz"), meta_of(FOLDER / f"{name}.npz")
    recipe, applied, sampling = recipe_of(pipeline, meta, case)
    texts = pipeline.encode(recipe, "dreamstyler", applied)
    path = [step.x.numpy() for step in denoise(pipeline.base, recipe, texts, sampling)]
    compared(name, path, pipeline, case, report)


def depth_picture(network, case, meta: dict) -> ControlPicture:
    """The depth map in 0..1, three times the same."""
    depth = np.repeat(case["depth"][None, None].astype(np.float32) / 255, 3, 1)
    with jt.no_grad():
        return ControlPicture(network, network.embedded(jt.array(depth)), meta["controlnet_conditioning_scale"])


@of_case("style_transfer")
def test_a_picture_in_the_style(name, pipeline, networks, report):
    """Image to image, with a ControlNet that reads the depth; the latents from the content picture are ours."""
    case, meta = np.load(FOLDER / f"{name}.npz"), meta_of(FOLDER / f"{name}.npz")
    recipe, applied, sampling = recipe_of(pipeline, meta, case)
    base, first = pipeline.base, first_step_of(meta["strength"], meta["steps"])
    pixels = case["content"].astype(np.float32).transpose(2, 0, 1)[None] / 127.5 - 1
    with jt.no_grad():
        posterior = base.vae.encode(jt.array(pixels))
        clean = (posterior.mean + posterior.std * jt.array(case["vae_eps"])) * base.vae.scale
        start = noised(clean, jt.array(case["noise"]), base.schedule, sampling.sampler, sampling.steps)[first]
    error = max(largest(clean, case["init_latents"]), largest(start, case["latents_in"]))
    recipe = dataclasses.replace(recipe, start={"target": start}, first_step=first)
    if meta.get("controlnet"):
        picture = depth_picture(networks(meta["controlnet"]), case, meta)
        recipe = dataclasses.replace(recipe, residuals=Controlled([picture], ("target",), meta["steps"]))
    assert sampling.steps - first == meta["steps_run"]
    texts = pipeline.encode(recipe, "dreamstyler", applied)
    path = [step.x.numpy() for step in denoise(base, recipe, texts, sampling)]
    report(f"{name}: where it begins {error:.1e} (absolute)")
    assert error <= 1e-5
    compared(name, path, pipeline, case, report)


@of_case("t2i", "style_context_guidance", "style_mixing")
def test_the_outputs_of_the_first_step(name, pipeline, report):
    """Each condition's own, before they are added up."""
    case, meta = np.load(FOLDER / f"{name}.npz"), meta_of(FOLDER / f"{name}.npz")
    recipe, applied, sampling = recipe_of(pipeline, meta, case)
    texts, time, found = pipeline.encode(recipe, "dreamstyler", applied), case["timesteps"][0], {}
    with jt.no_grad():
        for condition in recipe.rows.conditions:  # the whole weight on one: its output is what comes out
            alone = dataclasses.replace(recipe, guidance={one: float(one == condition) for one in recipe.guidance})
            model = Denoiser(pipeline.base, alone, texts, {}, sampling.sampler, sampling.steps)
            out = model(starting_latents(alone, ()), float(time), 0)
            found[condition] = relative(out, case["v_pred_step1"][THEIRS[condition]][None])
    report(f"{name}: outputs of step 1 " + ", ".join(f"{key} {error:.1e}" for key, error in found.items()))
    assert max(found.values()) <= 1e-5


@of_case("stages")
def test_the_stage_of_every_time(name, report):
    case = np.load(FOLDER / f"{name}.npz")
    counts = [int(key[len("stage_T"):]) for key in case.files if key.startswith("stage_T")]
    assert counts
    for stages in counts:
        wanted = case[f"stage_T{stages}"]
        assert [stage_of(int(t), stages, 1000) for t in case["timesteps"]] == list(wanted), stages
        assert [stage_of(float(t), stages, 1000) for t in case["timesteps"]] == list(wanted), stages
    report(f"{name}: all {len(case['timesteps'])} times of T = {', '.join(map(str, counts))} exactly")


@pytest.mark.skipif(not (FOLDER / "tokens.json").is_file(), reason="there is no tokens.json")
def test_the_ids_of_every_token(pipeline, report):
    groups = json.loads((FOLDER / "tokens.json").read_text())
    for group in groups:
        tokenizer = pipeline.base.tokenizer(group["added_tokens_in_order"])
        assert tokenizer.vocabulary == group["first_id"]
        for prompt in group["prompts"]:
            assert tokenizer.ids(prompt["text"]) == prompt["ids"], prompt["text"]
            assert list(tokenizer.encode([prompt["text"]])[0]) == prompt["padded"], prompt["text"]
    report(f"tokens.json: {sum(len(group['prompts']) for group in groups)} prompts exactly")


@pytest.mark.parametrize("name", sorted({path.stem for path in (FOLDER / "styles").glob("*.bin")}) if HERE else [])
def test_a_style_of_theirs(name, pipeline, report):
    """A pickle that is read without running it, and safetensors."""
    width = pipeline.base.text_encoder.config.hidden_size
    both = [stage_vectors(read(FOLDER / "styles" / f"{name}{ending}"), width, name)
            for read, ending in ((read_arrays, ".bin"), (read_safetensors, ".safetensors"))]
    assert list(both[0]) == [stage_token(stage) for stage in range(len(both[0]))]
    assert all(np.array_equal(both[0][token], both[1][token]) for token in both[0])
    report(f"{name}.bin: {len(both[0])} tokens, bit for bit those of {name}.safetensors")
