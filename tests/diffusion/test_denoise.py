"""The one loop against loops that are written out: guidance, texts by stage, pinned branches, starts, residuals."""
from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from drawing import present
from reference import seeded
from styleblend.adapters import lora
from styleblend.base.base import NETWORKS, load_base
from styleblend.diffusion.controls import SwapKV
from styleblend.diffusion.denoise import denoise, guided
from styleblend.diffusion.recipe import Recipe, classifier_free
from styleblend.diffusion.samplers import SAMPLERS
from styleblend.diffusion.schedule import seeded_noise
from styleblend.machine.runtime import jt
from styleblend.methods.exchange import exchange
from styleblend.models.attention import AttentionContext
from styleblend.models.rows import Rows
from styleblend.models.unet import Residuals
from styleblend.settings import PRESETS, BlendSettings, SamplingSettings

SAMPLING = SamplingSettings(steps=4, width=64, height=64)
DUAL = ("negative", "content", "style", "full")
WEIGHTS = {"negative": -3.5, "content": 1.25, "style": 2.75, "full": 0.5}
ALL = tuple(range(16))


def values(name: str, *shape: int) -> np.ndarray:
    return seeded.values(f"denoise/{name}", shape)


def states(name: str, rows: int):
    """Made-up text states (rows, 77, width)."""
    return jt.array(values(name, rows, 77, 32))


def recipe_of(rows: Rows, guidance, **changes) -> Recipe:
    """A recipe of these rows, with as many texts as it needs: the states are made up."""
    seeds = {branch: tuple(range(5, 5 + count)) for branch, count in rows.branches.items()}
    return Recipe(**{**dict(rows=rows, texts=(("",) * rows.count,), guidance=guidance, seeds=seeds,
                            shown=(list(rows.branches)[-1],)), **changes})


def path_of(base, recipe, texts, sampling=SAMPLING, loras={}) -> list:
    """x after each step, as arrays."""
    return [step.x.numpy() for step in denoise(base, recipe, texts, sampling, loras)]


def near(ours, theirs, limit: float = 1e-5) -> None:
    assert ours.shape == theirs.shape and np.linalg.norm(ours - theirs) <= limit * np.linalg.norm(theirs)


def by_hand(base, x: np.ndarray, texts_at, weights, steps: int = SAMPLING.steps, pinned=None, residuals=None,
            context=lambda index: None) -> list:
    """DDIM with guidance, one condition after another in the UNet's rows; `texts_at(time)`; `pinned(index, x)` changes
    x after a step."""
    schedule, path = base.schedule, []
    for index in range(steps):
        time = int((np.arange(steps) * (1000 // steps))[::-1][index] + 1)
        with jt.no_grad():
            more = (residuals(x, time, index),) if residuals else ()
            out = base.unet(jt.array(np.concatenate([x] * len(weights))), time, texts_at(time), context(index),
                            *more).numpy()
        out = sum(weight * one for weight, one in zip(weights, np.split(out.astype(np.float64), len(weights))))
        x0, eps = schedule.split(out, x, time)
        before = float(schedule.alphas_cumprod[max(time - 1000 // steps, 0)])
        x = (np.sqrt(before) * x0 + np.sqrt(1 - before) * eps).astype(np.float32)
        x = pinned(index, x) if pinned else x
        path.append(x)
    return path


# ---------------------------------------------------------------- guidance

def test_guidance_is_the_plain_sum_of_any_conditions():
    rows = Rows({"reference": 1, "target": 2}, DUAL)
    output = values("output", rows.count, 4, 3, 5)
    expected = sum(weight * part for weight, part in zip(WEIGHTS.values(), np.split(output.astype(np.float64), 4)))
    near(guided(jt.array(output), recipe_of(rows, WEIGHTS)).numpy(), expected, 1e-6)
    assert guided("as it is", recipe_of(Rows({"target": 2}), {"full": 1.0})) == "as it is"


def test_guidance_may_name_its_conditions_in_any_order():
    """Weights belong to names; the rows' order is that of `conditions`."""
    rows, output = Rows({"target": 1}, DUAL), jt.array(values("output", 4, 4, 3, 5))
    forwards, backwards = (guided(output, recipe_of(rows, given)).numpy()
                           for given in (WEIGHTS, dict(reversed(list(WEIGHTS.items())))))
    assert np.array_equal(forwards, backwards)


@pytest.mark.parametrize("scale", [0.0, 1.0, 7.5])
def test_classifier_free_guidance_is_two_weights(scale):
    weights = classifier_free(scale)
    assert sum(weights.values()) == 1 and list(weights) == (["full"] if scale == 1 else ["negative", "full"])
    assert weights["full"] == scale


def test_four_conditions_of_unequal_branches_equal_a_loop_that_is_written_out(tiny_base):
    rows = Rows({"reference": 1, "target": 2}, DUAL)
    recipe, texts = recipe_of(rows, WEIGHTS), states("four", rows.count)
    steps = list(denoise(tiny_base, recipe, [texts], SAMPLING))
    assert [(step.index, step.count) for step in steps] == [(n, 4) for n in range(4)]
    # the reference's seed, then the targets'
    x = np.concatenate([seeded_noise(seed, (1, 4, 8, 8)) for seed in (5, 5, 6)])
    for step, expected in zip(steps, by_hand(tiny_base, x, lambda time: texts, WEIGHTS.values())):
        near(step.x.numpy(), expected)


def test_guidance_in_an_interval_of_the_steps(tiny_base):
    """Within it a step is the guided one; outside it is that of the whole prompt alone, with a third of the rows."""
    rows = Rows({"reference": 1, "target": 2}, ("negative", "text", "full"))
    recipe = recipe_of(rows, {"negative": -2.0, "text": 1.0, "full": 2.0}, lora_scale=(0.0, 1.0, 1.0) * 3)
    alone, texts = recipe.under("full"), states("interval", rows.count)
    assert (alone.rows.count, alone.guidance, alone.lora_scale) == (3, {"full": 1.0}, (0.0, 1.0, 1.0))
    sampling = SAMPLING.model_copy(update={"guidance_start": 0.25, "guidance_end": 0.75})
    x, path = None, path_of(tiny_base, recipe, [texts], sampling)
    for index, (own, states_of) in enumerate(((alone, texts[-3:]), (recipe, texts), (recipe, texts),
                                              (alone, texts[-3:]))):
        start = {} if x is None else {"reference": jt.array(x[:1]), "target": jt.array(x[1:])}
        x = path_of(tiny_base, replace(own, start=start, first_step=index), [states_of])[0]
        assert np.array_equal(path[index], x), index


# ---------------------------------------------------------------- what is shared

@pytest.mark.parametrize("branches", [{"coarse": 1, "fine": 1}, {"coarse": 2, "fine": 2}], ids=str)
@pytest.mark.parametrize("conditions", [("negative", "style", "full"), DUAL], ids=len)
def test_any_number_of_conditions_needs_the_latents_once(conditions, branches, tiny_base, tiny_style):
    """As for two: they differ from the first text on, and no earlier, with LoRA scales and an exchange between the
    branches."""
    rows, unet = Rows(branches, conditions), tiny_base.unet
    x, text = jt.array(values("once", rows.latents, 4, 8, 8)), states("once/text", rows.count)
    scale = jt.array(np.tile(np.repeat(np.array([0.3, 1], np.float32), rows.latents // 2), len(conditions)))
    loras = lora.load(unet, lora.UNET_TARGETS, tiny_style.parts["unet_lora"], "test")
    context = AttentionContext(rows, 0, 10, exchange(BlendSettings(**PRESETS["strong_layout"]), unet.sites), loras,
                               scale, scale)
    with jt.no_grad():
        whole, once = (unet(latents, 700, text, context).numpy() for latents in (jt.concat([x] * len(conditions)), x))
    near(once, whole, 2e-6)
    parts = np.split(whole, len(conditions))
    assert all(np.abs(parts[0] - part).max() > 1e-3 for part in parts[1:])  # the texts are different


@dataclass
class Recorder:
    """A control that changes nothing and notes how many rows each site has."""

    seen: dict = field(default_factory=dict)

    def applies(self, site, context) -> bool:
        self.seen.setdefault((site.kind, site.index), set()).add(context.rows.count)
        return False


def test_the_loop_shares_the_first_layers_unless_a_lora_tells_the_conditions_apart(tiny_base, tiny_style):
    rows = Rows({"target": 2}, ("negative", "style", "full"))
    loras = lora.load(tiny_base.unet, lora.UNET_TARGETS, tiny_style.parts["unet_lora"], "test")
    for factors, first in ((None, 2), ((0.5, 1.0) * 3, 2), ((0.0,) * 2 + (1.0,) * 4, 6)):
        recorder = Recorder()
        recipe = recipe_of(rows, {"negative": -2.0, "style": 2.0, "full": 1.0}, lora_scale=factors, out_scale=factors,
                           controls=(recorder,))
        path = path_of(tiny_base, recipe, [states("shared", 6)], loras=loras)
        assert recorder.seen.pop(("self", 0)) == {first}
        assert set(map(frozenset, recorder.seen.values())) == {frozenset({6})}
        scale = jt.array(np.array(factors or (1.0,) * 6, np.float32))
        expected = by_hand(tiny_base, values("x", 2, 4, 8, 8), lambda time: states("shared", 6), (-2.0, 2.0, 1.0),
                           context=lambda index: AttentionContext(rows, index, 4, (), loras, scale, scale))
        started = recipe_of(rows, recipe.guidance, lora_scale=factors, out_scale=factors,
                            start={"target": jt.array(values("x", 2, 4, 8, 8))})
        near(path_of(tiny_base, started, [states("shared", 6)], loras=loras)[-1], expected[-1])
        assert len(path) == 4


# ---------------------------------------------------------------- texts by stage

def test_each_step_reads_the_text_of_its_stage(tiny_base):
    """Three stages that come and go, as no method has them: a stage's k and v must not outlive it, nor come too
    early."""
    rows, guidance = Rows({"target": 2}, ("negative", "full")), classifier_free(3.0)
    texts, sampling = [states(f"stage{n}", 4) for n in range(3)], SAMPLING.model_copy(update={"steps": 6})
    of_time = dict(zip(SAMPLERS["ddim"].timesteps(tiny_base.schedule, 6).tolist(), (0, 2, 0, 1, 1, 2)))
    x = values("staged", 2, 4, 8, 8)
    recipe = recipe_of(rows, guidance, texts=(("",) * 4,) * 3, stage=of_time.__getitem__, start={"target": jt.array(x)})
    expected = by_hand(tiny_base, x, lambda time: texts[of_time[time]], (-2.0, 3.0), steps=6)
    for ours, theirs in zip(path_of(tiny_base, recipe, texts, sampling), expected):
        near(ours, theirs)
    one_text = path_of(tiny_base, recipe, [texts[0]] * 3, sampling)
    near(one_text[0], expected[0])
    assert np.abs(one_text[1] - expected[1]).max() > 1e-3


# ---------------------------------------------------------------- pinned branches, starts

def test_a_pinned_branch_is_put_back_after_each_step(tiny_base):
    """The target reads the reference's keys and values, so it shows what the reference was in each step."""
    rows = Rows({"reference": 1, "target": 2}, ("negative", "full"))
    known = [values(f"known{n}", 1, 4, 8, 8) for n in range(4)]
    x, texts = values("pinned", 3, 4, 8, 8), states("pinned/text", rows.count)
    controls = (SwapKV(ALL, source="reference", target="target"),)
    start = {"reference": jt.array(x[:1]), "target": jt.array(x[1:])}
    recipe = recipe_of(rows, classifier_free(3.0), controls=controls, start=start)
    pinned = recipe_of(rows, classifier_free(3.0), controls=controls, start=start,
                       pinned={"reference": [jt.array(one) for one in known]})
    expected = by_hand(tiny_base, x, lambda time: texts, (-2.0, 3.0),
                       pinned=lambda index, x: np.concatenate([known[index], x[1:]]),
                       context=lambda index: AttentionContext(rows, index, 4, controls))
    free, path = path_of(tiny_base, recipe, [texts]), path_of(tiny_base, pinned, [texts])
    for n, (ours, theirs) in enumerate(zip(path, expected)):
        assert np.array_equal(ours[:1], known[n])
        near(ours, theirs)
    near(free[0][1:], path[0][1:], 1e-6)
    assert np.abs(free[-1][1:] - path[-1][1:]).max() > 1e-3


@pytest.mark.parametrize("sampler", ["ddim", "euler"])
def test_a_start_other_than_noise(sampler, tiny_base):
    """From what a run had after its second step: what is left of that run, bit for bit, and no step more."""
    rows, texts = Rows({"target": 2}, ("negative", "full")), [states("start", 4)]
    sampling = SAMPLING.model_copy(update={"sampler": sampler})
    whole = list(denoise(tiny_base, recipe_of(rows, classifier_free(3.0)), texts, sampling))
    recipe = recipe_of(rows, classifier_free(3.0), start={"target": whole[1].x.detach()}, first_step=2)
    rest = list(denoise(tiny_base, recipe, texts, sampling))
    assert [step.index for step in rest] == [2, 3]
    for one, two in zip(rest, whole[2:]):
        assert (one.index, one.count, one.time) == (two.index, two.count, two.time)
        near(one.x.numpy(), two.x.numpy(), 0 if sampler == "ddim" else 1e-6)


def test_x_may_be_replaced_between_steps(tiny_base):
    rows, texts = Rows({"target": 2}, ("negative", "full")), [states("start", 4)]
    other = jt.array(values("other", 2, 4, 8, 8))
    steps = []
    for step in denoise(tiny_base, recipe_of(rows, classifier_free(3.0)), texts, SAMPLING):
        if step.index == 1:
            step.x = other
        steps.append(step.x.numpy())
    alone = path_of(tiny_base, recipe_of(rows, classifier_free(3.0), start={"target": other}, first_step=2), texts)
    assert np.array_equal(steps[2], alone[0]) and np.array_equal(steps[3], alone[1])


# ---------------------------------------------------------------- residuals

def unet_by_hand(unet, x, time, text, residuals=None):
    """The UNet as diffusers runs it beside a ControlNet: what is added to the skips comes before the up blocks."""
    time, skips = unet.embed(jt.array(np.full(1, time, np.float32))), []
    x = unet.conv_in(x)
    skips.append(x)
    for block in unet.down_blocks:
        x = block(x, time, text, None, skips)
    x = unet.mid_block(x, time, text, None)
    shapes = [tuple(skip.shape) for skip in skips] + [tuple(x.shape)]
    if residuals:
        skips = [skip + more for skip, more in zip(skips, residuals.down)]
        x = x + residuals.mid
    for block in unet.up_blocks:
        x = block(x, time, text, None, skips)
    return unet.conv_out(unet.conv_norm_out(x, silu=True)), shapes


def made_up_residuals(shapes, rows: int, factor: float) -> Residuals:
    *down, mid = [jt.array(values(f"residual{n}", rows, *shape[1:]) * np.float32(factor))
                  for n, shape in enumerate(shapes)]
    return Residuals(down, mid)


def test_residuals_are_added_to_the_skips(tiny_base):
    """Of a network as ControlNet is one: zeros change nothing, bit for bit; others are a UNet whose skips were changed
    by hand.

    It looks at the latents, so one row of it stands for all conditions.
    """
    rows, unet, text = Rows({"target": 2}, ("negative", "full")), tiny_base.unet, states("control", 4)
    x, asked = values("controlled", 2, 4, 8, 8), []
    with jt.no_grad():
        _, shapes = unet_by_hand(unet, jt.array(np.concatenate([x, x])), 700, text)

    def path(factor, of_rows=2):
        def residuals(x, time, index, text, rows):
            asked.append((tuple(x.shape), time, index))
            return made_up_residuals(shapes, of_rows, factor * (1 + index))
        start = {"target": jt.array(x)}
        return path_of(tiny_base, recipe_of(rows, classifier_free(3.0), start=start, residuals=residuals), [text])

    without = path_of(tiny_base, recipe_of(rows, classifier_free(3.0), start={"target": jt.array(x)}), [text])
    assert all(np.array_equal(a, b) for a, b in zip(path(0.0), without))
    times = SAMPLERS["ddim"].timesteps(tiny_base.schedule, 4).tolist()
    assert asked == [((2, 4, 8, 8), time, index) for index, time in enumerate(times)]
    with_residuals, latents = path(0.3), x
    for index, time in enumerate(times):
        more = made_up_residuals(shapes, 2, 0.3 * (1 + index))
        more = Residuals([jt.concat([one, one]) for one in more.down], jt.concat([more.mid, more.mid]))
        with jt.no_grad():
            out, _ = unet_by_hand(unet, jt.array(np.concatenate([latents, latents])), time, text, more)
        out = out.numpy().astype(np.float64)
        x0, eps = tiny_base.schedule.split(-2 * out[:2] + 3 * out[2:], latents, time)
        before = float(tiny_base.schedule.alphas_cumprod[max(time - 250, 0)])
        latents = (np.sqrt(before) * x0 + np.sqrt(1 - before) * eps).astype(np.float32)
        near(with_residuals[index], latents)
    assert np.abs(with_residuals[-1] - without[-1]).max() > 1e-2


def test_residuals_may_differ_between_conditions(tiny_base):
    """One row for each of the UNet's, as where only the prompt's rows feel the ControlNet, also at skips that stand for
    all conditions."""
    unet, x, text = tiny_base.unet, jt.array(values("controlled", 2, 4, 8, 8)), states("control", 4)
    rows = Rows({"target": 2}, ("negative", "full"))
    with jt.no_grad():
        plain, shapes = unet_by_hand(unet, jt.concat([x, x]), 700, text)
        more = made_up_residuals(shapes, 4, 0.3)
        half = Residuals([jt.concat([one[:2] * 0, one[2:]]) for one in more.down],
                         jt.concat([more.mid[:2] * 0, more.mid[2:]]))
        expected, _ = unet_by_hand(unet, jt.concat([x, x]), 700, text, half)
        once = unet(x, 700, text, AttentionContext(rows), half)
    near(once.numpy(), expected.numpy(), 2e-6)
    near(once.numpy()[:2], plain.numpy()[:2], 2e-6)
    assert np.abs(once.numpy()[2:] - plain.numpy()[2:]).max() > 1e-3


# ---------------------------------------------------------------- a generator among others

@pytest.mark.parametrize("sampler", SAMPLERS)
def test_one_step_is_one_graph(sampler, tiny_base):
    """What Jittor holds does not grow: else each step would be another operator, to be compiled, with all before it.

    A sampler remembers the outputs of four steps at most.
    """
    rows = Rows({"target": 1}, ("negative", "full"))
    sampling = SAMPLING.model_copy(update={"sampler": sampler, "steps": 8})
    lived = []
    for _ in denoise(tiny_base, recipe_of(rows, classifier_free(3.0)), [states("closed", 2)], sampling):
        lived.append(jt.number_of_lived_vars())
    assert max(lived[5:]) <= lived[4]


def test_closing_the_loop_puts_the_network_away(tiny_folder):
    """Whoever has seen enough stops reading: an offloaded UNet must not stay on the card."""
    base, rows = load_base(tiny_folder), Rows({"target": 1}, ("negative", "full"))
    base.offload()
    steps = denoise(base, recipe_of(rows, classifier_free(3.0)), [states("closed", 2)], SAMPLING)
    assert present(base) == set()  # nothing begins before the first step is asked for
    next(steps)
    assert present(base) == {"unet"}
    steps.close()
    assert present(base) == set()
    assert len(list(denoise(base, recipe_of(rows, classifier_free(3.0)), [states("closed", 2)], SAMPLING))) == 4
    assert present(base) == set()
    assert present(load_base(tiny_folder)) == set(NETWORKS)


def test_gradients_are_taken_as_ever_between_steps(tiny_base):
    """The loop needs none, and switches them off for itself alone."""
    steps = denoise(tiny_base, recipe_of(Rows({"target": 1}, ("negative", "full")), classifier_free(3.0)),
                    [states("closed", 2)], SAMPLING)
    next(steps)
    p = jt.array(np.ones(3, np.float32))
    assert np.array_equal(jt.grad((p * p).sum(), p).numpy(), [2, 2, 2])
    steps.close()


# ---------------------------------------------------------------- recipes that cannot be

GUIDED = Rows({"coarse": 1, "fine": 2}, ("negative", "full"))


@pytest.mark.parametrize("changes, words", [
    (dict(guidance={"negative": -2.0, "full": 3.5}), "add up to 1"), (dict(guidance={"full": 1.0}), "must be of"),
    (dict(texts=()), "needs 6 texts"), (dict(texts=(("",) * 6, ("",) * 5)), "needs 6 texts"),
    (dict(seeds={"coarse": (1,), "fine": (1,)}), "the seeds are not those of"),
    (dict(shown=("plain",)), "shown: there is no branch plain"),
    (dict(shown=()), "some branch must be shown"),
    (dict(pinned={"reference": []}), "pinned: there is no branch reference"),
    (dict(start={"fine": None}), "all of them start from latents or none does"),
    (dict(lora_scale=(1.0,) * 3), "3 factors for 6 rows"),
    (dict(text_scale=(1.0,) * 7), "7 factors for 6 rows"), (dict(out_scale=()), "0 factors for 6 rows")],
    ids=lambda given: str(given)[:40])
def test_a_recipe_that_does_not_fit_its_rows_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        recipe_of(GUIDED, changes.pop("guidance", classifier_free(3.0)), **changes)
