"""Our pipeline against the published sampler: arrays that its own code wrote on a tiny base.

The folder is named by STYLEBLEND_GOLDEN (base in base/, adapters of one style in style/, `<settings>__<mode>.npz`, units.npz,
tokens.json); without it everything here is skipped. One line is printed for each case.
"""
from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest

from styleblend.base.base import load_base
from styleblend.models.attention import RowLayout
from styleblend.pipeline import COARSE, FINE, PLAIN, StyleBlendPipeline
from styleblend.machine.runtime import jt
from styleblend.diffusion.samplers import leading_timesteps
from styleblend.settings import BlendSettings, SamplingSettings
from styleblend.adapters.style import load_style

GOLDEN = Path(os.environ.get("STYLEBLEND_GOLDEN", ""))
HERE = "STYLEBLEND_GOLDEN" in os.environ
CASES = sorted(path.stem for path in GOLDEN.glob("*__*.npz")) if HERE else []
pytestmark = pytest.mark.skipif(not HERE, reason="STYLEBLEND_GOLDEN names no folder with the published sampler's arrays")


@pytest.fixture
def report(capsys):
    """Prints a line past pytest's capture."""
    def print_line(line: str) -> None:
        with capsys.disabled():
            print(f"\n{line}", end=" ")
    return print_line


@pytest.fixture(scope="module")
def base():
    return load_base(GOLDEN / "base")


@pytest.fixture(scope="module")
def styled(base):
    """The pipeline with the folder's one style."""
    name = os.path.commonprefix([path.name for path in (GOLDEN / "style").iterdir()]).rstrip("_")
    pipeline = StyleBlendPipeline(base, load_style(GOLDEN / "style", name, base))
    yield pipeline
    pipeline.set_style(None)


@pytest.fixture(scope="module")
def units():
    return np.load(GOLDEN / "units.npz")


def relative(ours, theirs) -> float:
    """Relative L2 error."""
    ours = np.asarray(ours.numpy() if isinstance(ours, jt.Var) else ours, np.float64)
    assert ours.shape == theirs.shape
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs.astype(np.float64)))


def largest(ours, theirs) -> float:
    """Largest absolute difference."""
    assert ours.shape == theirs.shape
    return float(np.abs(ours.astype(np.float64) - theirs).max())


# ---------------------------------------------------------------- dual-branch runs

def blend_of(meta: dict) -> BlendSettings:
    """The run's settings. In the PyTorch repository as it stands ("published") two direction names do not match, so a
    self-attention site swaps only when both lists have it."""
    c2f, f2c, cross = meta["c2t"], meta["t2c"], [meta.get(name) or [] for name in ("cross_c2t", "cross_t2c")]
    if meta["mode"] == "published":
        if any(cross):
            pytest.skip("the windows of its cross-attention sites depend on sites that do not swap there")
        c2f, f2c = ([site for site in own if site in other] for own, other in ((c2f, f2c), (f2c, c2f)))
    return BlendSettings(c2f_sites=c2f, f2c_sites=f2c, cross_c2f_sites=cross[0], cross_f2c_sites=cross[1],
                         scale=meta["scale"], c2f_ratio=meta["c2t_step_ratio"], f2c_ratio=meta["t2c_step_ratio"],
                         window_steps=meta.get("handler_steps"))


def branches_of(meta: dict) -> tuple:
    """Both branches with the texts that the run really used; the fine token is called <T> there."""
    found = []
    for branch, text in ((COARSE, meta.get("coarse_text")), (FINE, meta.get("fine_text"))):
        if text is not None:
            branch = dataclasses.replace(branch, prompt=text.replace("<T>", "<F>"))
        found.append(branch)
    return tuple(found)


def variance_noise(case, meta: dict):
    """What a run with eta > 0 added at each step: what the file has, or nothing (the Jittor release adds none)."""
    stored = [key for key in case.files if "noise" in key]
    if meta["eta"] == 0:
        return None
    if stored:
        return lambda step: jt.array(case[stored[0]][step])
    if meta["mode"] != "jittor":
        pytest.skip("eta > 0 and the noise that was added is not in the file")
    return lambda step: 0.0


@pytest.mark.parametrize("name", CASES)
def test_dual_branch_run(name, styled, report):
    case = np.load(GOLDEN / f"{name}.npz")
    meta = json.loads(str(case["meta"]))
    branches, guidance = branches_of(meta), meta["guidance_scale"] > 1
    coarse_negative = meta.get("coarse_negative", "" if meta["mode"] == "jittor" else meta["negative_prompt"])
    height, width = (side * styled.base.vae.config.downscale for side in case["latents_in"].shape[2:])
    sampling = SamplingSettings(steps=meta["steps"], guidance=meta["guidance_scale"] if guidance else 1, eta=meta["eta"], height=height, width=width)
    layout = RowLayout(("coarse", "fine"), guidance, 1)
    assert (leading_timesteps(styled.base.schedule, meta["steps"]) == case["timesteps"]).all()

    text = styled.encode([meta["prompt"]], branches, guidance, {"coarse": coarse_negative, "fine": meta["negative_prompt"]})
    keys = (["coarse_neg_emb", "fine_neg_emb"] if guidance else []) + ["coarse_emb", "fine_emb"]
    text_error = max(relative(text[row:row + 1], case[key]) for row, key in enumerate(keys))

    path = []
    x = styled.denoise(text, jt.array(case["latents_in"]), layout, branches, sampling, blend_of(meta), noise=variance_noise(case, meta),
                       callback=lambda step, steps, x0, x: path.append(x.numpy()))
    pictures = styled.decode(x.reshape([-1] + list(x.shape[2:]))).transpose(0, 3, 1, 2)
    first, last = largest(path[0], case["latents"][0]), relative(path[-1], case["latents"][-1])
    picture = largest(pictures, case["images"] * 255.0)
    report(f"{name}: texts {text_error:.1e}, latents after step 1 {first:.1e} (absolute), last {last:.1e}, pictures {picture:.2f}/255")
    assert len(path) == len(case["latents"])
    assert text_error <= 1e-5
    assert first <= 1e-5
    assert last <= 1e-3
    assert picture <= 2


# ---------------------------------------------------------------- parts of it

@pytest.fixture(scope="module")
def plain(base):
    """The pipeline without a style."""
    return StyleBlendPipeline(base)


def test_units_unet(plain, units, report):
    with jt.no_grad():
        out = plain.base.unet(jt.array(units["unet_sample"]), int(units["unet_t"]), jt.array(units["unet_ctx"]))
    error = relative(out, units["unet_out"])
    report(f"unet: {error:.1e}")
    assert error <= 1e-5


@pytest.mark.parametrize("output, key", [("last", "te_last_hidden"), ("penultimate", "te_penultimate")])
def test_units_text_encoder(output, key, plain, units, report):
    with jt.no_grad():
        error = relative(plain.base.text_encoder(units["te_ids"], penultimate=output == "penultimate"), units[key])
    report(f"text encoder {output}: {error:.1e}")
    assert error <= 1e-5


def test_units_vae(plain, units, report):
    with jt.no_grad():
        decoded = relative(plain.base.vae.decode(jt.array(units["vae_z"])), units["vae_decoded"])
        posterior = plain.base.vae.encode(jt.array(units["vae_image"]))
        mean, logvar = relative(posterior.mean, units["vae_mean"]), relative(posterior.logvar, units["vae_logvar"])
    report(f"vae: decoded {decoded:.1e}, mean {mean:.1e}, logvar {logvar:.1e}")
    assert max(decoded, mean, logvar) <= 1e-5


def test_units_schedule(plain, units, report):
    schedule = plain.base.schedule
    latents, noise, t = jt.array(units["vae_z"]), jt.array(units["noise"]), units["noise_t"]
    abar = largest(schedule.alphas_cumprod, units["alphas_cumprod"])
    added, velocity = (relative(f(latents, noise, t), units[key])
                       for f, key in ((schedule.add_noise, "add_noise"), (schedule.velocity, "velocity")))
    report(f"schedule: alphas_cumprod {abar:.1e} (absolute), add_noise {added:.1e}, velocity {velocity:.1e}")
    assert abar <= 1e-6 and max(added, velocity) <= 1e-5
    for key in units.files:
        if key.startswith("timesteps_"):
            assert (leading_timesteps(schedule, int(key.split("_")[1])) == units[key]).all()


def test_units_plain_run(plain, units, report):
    """Guided sampling without a style: a row for the negative prompt and one for the prompt."""
    path, steps = [], len(units["plain_latents"])
    sampling = SamplingSettings(steps=steps, height=128, width=128)
    text = plain.encode(["A cat"], (dataclasses.replace(PLAIN, prompt="{prompt}"),), True, {"plain": "blur"})
    x = plain.denoise(text, jt.array(units["plain_latents_in"]), RowLayout(("plain",), True, 1), (PLAIN,), sampling, BlendSettings(),
                      callback=lambda step, steps, x0, x: path.append(x.numpy()))
    first, last = largest(path[0], units["plain_latents"][0]), relative(path[-1], units["plain_latents"][-1])
    picture = largest(plain.decode(x[0]).transpose(0, 3, 1, 2), units["plain_image"] * 255.0)
    report(f"plain run: latents after step 1 {first:.1e} (absolute), last {last:.1e}, picture {picture:.2f}/255")
    assert first <= 1e-5 and last <= 1e-3 and picture <= 2


@pytest.mark.filterwarnings("ignore:the prompt has")
def test_tokens(base, report):
    tokenizer = base.tokenizer()
    cases = json.loads((GOLDEN / "tokens.json").read_text(encoding="utf-8"))
    wrong = [case["text"] for case in cases
             if tokenizer.ids(case["text"]) != case["ids"] or tokenizer.encode([case["text"]])[0].tolist() != case["padded"]]
    report(f"tokens: {len(cases) - len(wrong)} of {len(cases)} texts")
    assert not wrong
