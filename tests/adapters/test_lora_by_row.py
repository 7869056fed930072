"""LoRAs by row: which branch and which prompt feels how much of a style."""
from __future__ import annotations


import numpy as np
import pytest

from drawing import last_latents, request, run_unet, with_part, with_start
from reference import seeded
from styleblend.adapters import lora
from styleblend.adapters.style import Applied
from styleblend.diffusion.samplers import ddim, leading_timesteps
from styleblend.machine.runtime import jt
from styleblend.models.attention import AttentionContext
from styleblend.models.layers import Linear
from styleblend.models.rows import Rows
from styleblend.pipeline import Pipeline
from styleblend.settings import BlendSettings, SamplingSettings

SMALL = SamplingSettings(steps=3, width=64, height=64)


@pytest.fixture
def pipeline(tiny_base):
    return Pipeline(tiny_base)


def test_lora_scale_of_each_row_in_one_layer():
    linear, x = Linear(12, 10), jt.array(seeded.values("linear/x", (3, 5, 12)))
    linear.weight = jt.array(seeded.weight("linear/w", (10, 12)))
    linear.bias = jt.array(seeded.weight("linear/b", (10,)))
    down, up = seeded.weight("linear/down", (2, 12)), seeded.weight("linear/up", (10, 2))
    with jt.no_grad():
        plain, given = linear(x).numpy(), lora.LoRA(down, up)
        out, whole = linear(x, given, jt.array(np.array([0, 1, 0.3], np.float32))).numpy(), linear(x, given).numpy()
        assert np.array_equal(linear(x).numpy(), plain)  # nothing stays in the layer
    added = x.numpy().astype(np.float64) @ (up.astype(np.float64) @ down).T
    assert np.array_equal(out[0], plain[0])
    assert (np.allclose(out[1], plain[1] + added[1], atol=1e-5)
            and np.allclose(out[2], plain[2] + 0.3 * added[2], atol=1e-5))
    assert np.allclose(whole[1], out[1], atol=1e-6)


def nowhere():
    """A scale by which no row feels a LoRA."""
    return jt.array(np.zeros(4, np.float32))


def part_of_lora(unet, style, wanted) -> dict:
    """The style's LoRA of those layers of the UNet whose names are `wanted`."""
    return lora.load(unet, lora.UNET_TARGETS, {k: t for k, t in style.parts["unet_lora"].items() if wanted(k)}, "test")


def test_rows_with_scale_0_are_bit_equal_to_no_lora(tiny_base, tiny_style):
    """In to_q, to_k and to_v; to_out follows no scale, as published, so its part is left out here."""
    plain, loras = run_unet(tiny_base.unet), part_of_lora(tiny_base.unet, tiny_style, lambda key: "to_out" not in key)
    mixed = run_unet(tiny_base.unet, scale=jt.array(np.array([0, 1, 0, 0.5], np.float32)), loras=loras)
    whole, none = (run_unet(tiny_base.unet, scale=scale, loras=loras) for scale in (None, nowhere()))
    assert np.array_equal(mixed[[0, 2]], plain[[0, 2]]) and np.array_equal(none, plain)
    assert np.allclose(mixed[1], whole[1], atol=1e-5)
    assert np.abs(mixed[1] - plain[1]).max() > 1e-4 and np.abs(mixed[3] - whole[3]).max() > 1e-4


def test_to_out_follows_no_scale(tiny_base, tiny_style):
    plain, loras = run_unet(tiny_base.unet), part_of_lora(tiny_base.unet, tiny_style, lambda key: "to_out" in key)
    none, whole = (run_unet(tiny_base.unet, scale=scale, loras=loras) for scale in (nowhere(), None))
    assert np.array_equal(none, whole) and np.abs(none - plain).max() > 1e-4


def latents_of(pipeline, asked, x) -> np.ndarray:
    """What a request ends in when every branch starts from `x` (samples, 4, h, w): (branches, samples, 4, h, w)."""
    style = pipeline.applied(asked.style)
    recipe = with_start(pipeline.recipe(asked, style), x)
    found = last_latents(pipeline, recipe, asked.sampling, style)
    return found.reshape((len(recipe.rows.branches), len(asked.prompts)) + found.shape[1:])


def test_the_scale_of_the_fine_branch_is_that_of_its_whole_lora(pipeline, tiny_style):
    """0: as without the LoRA; 2: as with twice the LoRA. The coarse branch feels nothing of it."""
    def latents(loras, fine_scale, branches=("fine",)):
        blend = BlendSettings(fine_scale=fine_scale, c2f_sites=[], f2c_sites=[])
        asked = request(["A cat"], [0], SMALL, with_part(tiny_style, unet_lora=loras), settings=blend,
                        branches=branches)
        return latents_of(pipeline, asked, jt.array(seeded.values("scale/x", (1, 4, 8, 8))))

    once = tiny_style.parts["unet_lora"]
    twice = {k: t * 2 if "lora.up" in k else t for k, t in once.items()}
    assert np.array_equal(latents(once, 0.0), latents({}, 1.0))
    doubled = latents(twice, 1.0)
    assert (np.linalg.norm(latents(once, 2.0) - doubled) <= 1e-5 * np.linalg.norm(doubled)
            < 1e-2 * np.linalg.norm(latents(once, 1.0) - doubled))
    assert np.array_equal(latents(once, 0.5, ("coarse", "fine"))[0], latents(once, 1.0, ("coarse", "fine"))[0])


def test_the_negative_prompt_may_feel_less_of_the_style(pipeline, tiny_base, tiny_style):
    """1: as published. 0: guidance leads from the base without the LoRA to the style.

    The coarse branch feels nothing of it. Without guidance there is no such row.
    """
    def asked(negative_scale, branches=("fine",), guidance=3.0, samples=1, steps=SMALL.steps):
        blend = BlendSettings(negative_scale=negative_scale, c2f_sites=[], f2c_sites=[])
        return request(["A cat", "An owl"][:samples], [0] * samples,
                       SMALL.model_copy(update={"guidance": guidance, "steps": steps}), tiny_style,
                       settings=blend, branches=branches)

    def latents(*how, **more):
        given = asked(*how, **more)
        return latents_of(pipeline, given, jt.array(seeded.values("negative/x", (2, 4, 8, 8))[:len(given.prompts)]))

    usual, less = latents(1.0, ("coarse", "fine")), latents(0.0, ("coarse", "fine"))
    # one row more in the batch: without AVX-512 oneDNN adds up in another order then
    np.testing.assert_allclose(usual[0], less[0], atol=1e-5)
    assert np.abs(usual[1] - less[1]).max() > 1e-3
    assert np.array_equal(latents(1.0, guidance=1), latents(0.0, guidance=1))
    np.testing.assert_allclose(latents(0.0, samples=2)[:, :1], latents(0.0), atol=1e-5)
    # a step by hand: the one row without the LoRA, the other with it
    x, style = jt.array(seeded.values("negative/x", (2, 4, 8, 8))[:1]), pipeline.applied(tiny_style)
    [text] = pipeline.encode(pipeline.recipe(asked(0.0)), "styleblend", style)
    got = latents(0.0, steps=1)[0]
    with jt.no_grad():
        time = int(leading_timesteps(tiny_base.schedule, 1)[0])
        cond = tiny_base.unet(x, time, text[1:], AttentionContext(Rows({"fine": 1}), loras=style.of("unet"))).numpy()
        uncond = tiny_base.unet(x, time, text[:1]).numpy()
        [step] = ddim(lambda *_: jt.array(uncond + 3 * (cond - uncond)), x, tiny_base.schedule, 1)
        expected = step.x.numpy()
    np.testing.assert_allclose(got, expected, atol=1e-4 * np.abs(expected).max())


def test_text_lora_is_felt_by_the_coarse_branch_alone(pipeline, tiny_style):
    style, asked = pipeline.applied(tiny_style), request(["A cat"], [0], SMALL, tiny_style)
    recipe = pipeline.recipe(asked)
    [with_lora], [without_lora] = (pipeline.encode(recipe, "styleblend", given)
                                   for given in (style, Applied(style.vectors)))
    with_lora, without_lora = with_lora.numpy(), without_lora.numpy()
    assert np.array_equal(with_lora[[1, 3]], without_lora[[1, 3]])
    assert all(np.abs(with_lora[row] - without_lora[row]).max() > 1e-4 for row in (0, 2))
