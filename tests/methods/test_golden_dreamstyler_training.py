"""DreamStyler's training against arrays of the published program: see `test_golden_dreamstyler.py`."""
from __future__ import annotations

import numpy as np
import pytest

from agreement import largest, relative
from styleblend.base.base import load_base
from styleblend.files.captions import StylePicture
from styleblend.machine.runtime import jt
from styleblend.pipeline import Pipeline
from styleblend.settings.training import StagesSettings
from styleblend.training.dreamstyler import applied_rows, stage_ids, stage_loss, starting_rows
from styleblend.training.latents import LatentCache
from styleblend.training.noise_loss import Noisy
from styleblend.training.optimiser import AdamW
from test_golden_dreamstyler import FOLDER, HERE, ROOT, meta_of, of_case

pytestmark = pytest.mark.skipif(not HERE, reason="STYLEBLEND_GOLDEN names no folder with DreamStyler's arrays in it")


@pytest.fixture(scope="module")
def pipeline():
    return Pipeline(load_base(ROOT / "base"))


@of_case("training")
def test_the_latents_of_a_picture(name, pipeline, report):
    """The picture and its mirror image through our encoder, and what a draw makes of them."""
    case = np.load(FOLDER / f"{name}.npz")
    pixels = case["picture_resized"].astype(np.float32).transpose(2, 0, 1) / 127.5 - 1
    with jt.no_grad():
        posterior = pipeline.base.vae.encode(jt.array(np.stack([pixels, pixels[:, :, ::-1]])))
    errors = relative(posterior.mean, case["vae_mean"]), relative(posterior.std, np.exp(case["vae_logvar"] / 2))
    cache = LatentCache(posterior.mean.numpy()[:, None], posterior.std.numpy()[:, None], pipeline.base.vae.scale, "")
    made = cache.sample(Drawn(case["flip"][0], case["vae_eps_step1"]), np.zeros(len(case["flip"][0]), int))
    drawn = largest(made, case["latents"][0])
    report(f"{name}: mean {errors[0]:.1e}, deviation {errors[1]:.1e}, latents of step 1 {drawn:.1e} (absolute)")
    assert max(errors) <= 1e-5 and drawn <= 1e-5


class Drawn:
    """In the place of a generator: the stored draws."""

    def __init__(self, flip, eps):
        self.flip, self.eps = flip.astype(int), eps

    def integers(self, low, high, count):
        assert (low, high, count) == (0, 2, len(self.flip))
        return self.flip

    def standard_normal(self, shape):
        assert tuple(shape) == self.eps.shape
        return self.eps


@of_case("training")
def test_the_steps(name, pipeline, report):
    """From the stored latents, noise and times: gradients, losses and rows after every step."""
    case, meta = np.load(FOLDER / f"{name}.npz"), meta_of(FOLDER / f"{name}.npz")
    stages, said, (steps, batch) = meta["num_stages"], meta["optimizer"], case["timesteps"].shape
    rows = starting_rows(pipeline, meta["init_word"], stages)
    assert np.array_equal(rows.numpy(), case["rows"][0])
    picture = StylePicture(FOLDER / "it.png", "it", meta["prompt_template"], "it.png", "it")
    ids = stage_ids(pipeline.tokenizer("dreamstyler", applied_rows(rows)), StagesSettings().template, [picture], stages)
    assert np.array_equal(ids[:, 0], case["stage_ids"])

    settings = StagesSettings(steps=steps, lr=said["lr"], batch=batch, beta1=said["betas"][0], beta2=said["betas"][1],
                              eps=said["eps"], weight_decay=said["weight_decay"], stages=stages)
    optimiser, errors = AdamW({"rows": rows}, settings), {"loss": [], "gradient": [], "rows": []}
    for step in range(steps):
        noisy = Noisy(jt.array(case["latents"][step]), jt.array(case["noise"][step]), case["timesteps"][step])
        loss = stage_loss(pipeline.base, noisy, ids, np.zeros(batch, int), rows)
        errors["gradient"].append(relative(jt.grad(loss, rows, retain_graph=True), case["row_grads"][step]))
        errors["loss"].append(abs(float(loss.item()) - case["loss"][step]))
        optimiser.update(loss)
        errors["rows"].append(largest(rows, case["rows"][step + 1]))
    report(f"{name}: {steps} steps, largest differences: loss {max(errors['loss']):.1e}, "
           f"rows {max(errors['rows']):.1e}, gradient {max(errors['gradient']):.1e} (relative)")
    assert max(errors["loss"] + errors["rows"]) <= 1e-5 and max(errors["gradient"]) <= 1e-3


def test_the_settings_are_those_of_the_published_command():
    ours = StagesSettings()
    assert (ours.lr, ours.beta1, ours.beta2, ours.eps, ours.weight_decay, ours.decay_every) == (
        2e-3, 0.9, 0.999, 1e-8, 1e-2, 0)
    assert (ours.steps, ours.batch, ours.stages, ours.flip, ours.initial) == (500, 8, 6, True, "painting")
