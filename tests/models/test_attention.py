"""The attention core, and the control over where Q, K and V come from."""
from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from drawing import all_branches, last_latents, pictures, request, with_part, with_start
from reference import seeded
from styleblend.adapters import lora
from styleblend.adapters.style import Applied
from styleblend.base.base import load_base
from styleblend.diffusion.controls import SwapKV, SwapQ
from styleblend.diffusion.samplers import ddim, leading_timesteps
from styleblend.kernels import attention
from styleblend.kernels.segments import Segment
from styleblend.machine.runtime import jt
from styleblend.methods.exchange import exchange
from styleblend.models.attention import Attention, AttentionContext, Projection, Projections
from styleblend.models.layers import Linear
from styleblend.models.rows import Rows
from styleblend.pipeline import Pipeline
from styleblend.settings import PRESETS, BlendSettings, SamplingSettings

GUIDED = ("negative", "full")
ROWS = Rows({"coarse": 1, "fine": 1}, GUIDED)
ALL = tuple(range(16))
MINI = Path(__file__).parents[2] / "checkpoints" / "mini" / "base"


# ---------------------------------------------------------------- the core

def exact(q, k, v, heads, bias=None, q_rows=None, segments=(Segment(),), scale=None, causal=False):
    """The same function for one segment, written in float64 with one loop."""
    kv_rows = segments[0].rows
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    rows, queries, width = q.shape
    size = width // heads
    out = np.zeros((rows, queries, width))
    for b in range(rows):
        for h in range(heads):
            own = slice(h * size, (h + 1) * size)
            qs = q[q_rows[b] if q_rows else b][:, own]
            ks, vs = (x[kv_rows[b] if kv_rows else b][:, own] for x in (k, v))
            scores = qs @ ks.T * (size ** -0.5 if scale is None else scale)
            if bias is not None:
                scores = scores + np.broadcast_to(bias, (rows, bias.shape[-1]))[b]
            if causal:
                scores = np.where(np.tril(np.ones_like(scores)) > 0, scores, -np.inf)
            scores = np.exp(scores - scores.max(axis=1, keepdims=True))
            out[b][:, own] = scores / scores.sum(axis=1, keepdims=True) @ vs
    return out


def make(name, rows, queries, keys, width, bias=None):
    q, k, v = (seeded.values(f"{name}/q", (rows, queries, width)),
               *(seeded.values(f"{name}/{n}", (rows, keys, width)) for n in "kv"))
    return q, k, v, {None: None, "keys": seeded.values(f"{name}/b", (keys,)),
                     "rows": seeded.values(f"{name}/b", (rows, keys))}[bias]


CORES = {  # rows, queries, keys, heads, head size, options
    "self": (2, 64, 64, 2, 16, {}),
    "cross": (2, 64, 77, 2, 16, {}),
    "one token": (1, 1, 1, 1, 8, {}),
    "odd sizes": (3, 13, 7, 3, 5, {}),
    "many keys": (1, 3, 1500, 1, 64, {}),
    "causal": (2, 77, 77, 4, 8, dict(causal=True)),
    "causal longer": (2, 9, 12, 2, 8, dict(causal=True)),
    "own scale": (2, 16, 16, 2, 8, dict(scale=0.7)),
    "bias for all rows": (3, 16, 20, 2, 8, dict(bias="keys")),
    "bias for each row": (3, 16, 20, 2, 8, dict(bias="rows")),
    "swap q": (4, 16, 16, 2, 8, dict(q_rows=(0, 2, 2, 2))),
    "swap kv": (4, 16, 20, 2, 8, dict(segments=[Segment((3, 1, 3, 3))])),
    "swap both": (4, 16, 16, 2, 8, dict(q_rows=(0, 2, 2, 2), segments=[Segment((3, 1, 3, 3))])),
    "everything": (4, 12, 12, 3, 6, dict(q_rows=(1, 0, 3, 3), segments=[Segment((2, 1, 0, 2))], bias="rows",
                                         causal=True, scale=0.3)),
}


@pytest.mark.parametrize("name", CORES)
def test_core_against_float64(name):
    rows, queries, keys, heads, size, options = CORES[name]
    options = dict(options)
    q, k, v, bias = make(name, rows, queries, keys, heads * size, options.pop("bias", None))
    expected = exact(q, k, v, heads, bias=bias, **options)
    with jt.no_grad():
        out = attention(jt.array(q), jt.array(k), jt.array(v), heads, bias=None if bias is None else jt.array(bias),
                        **options).numpy()
    assert out.shape == expected.shape
    assert np.linalg.norm(out - expected) <= 1e-5 * np.linalg.norm(expected)


def test_core_with_large_scores():
    q, k, v, _ = make("large", 2, 9, 11, 16)
    with jt.no_grad():
        out = attention(jt.array(q * 100), jt.array(k * 10), jt.array(v), 2).numpy()
    expected = exact(q * np.float32(100), k * np.float32(10), v, 2)
    assert np.isfinite(out).all() and np.linalg.norm(out - expected) <= 1e-3 * np.linalg.norm(expected)


@pytest.mark.parametrize("options", [{}, dict(causal=True), dict(q_rows=(1, 1, 0), segments=[Segment((2, 0, 0))]),
                                     dict(bias="rows", scale=0.4)], ids=str)
def test_gradients_of_the_core_against_finite_differences(options):
    """Central differences of the float64 function, in every element of q, k, v and the bias."""
    options, heads, step = dict(options), 2, 1e-4
    arrays = dict(zip("qkvb", make("gradients", 3, 4, 5, 6, options.pop("bias", None))))
    arrays = {name: a for name, a in arrays.items() if a is not None}
    direction = seeded.values("gradients/out", (3, 4, 6))

    def value(a) -> float:
        return float((exact(a["q"], a["k"], a["v"], heads, bias=a.get("b"), **options) * direction).sum())

    variables = {name: jt.array(a) for name, a in arrays.items()}
    out = attention(variables["q"], variables["k"], variables["v"], heads, bias=variables.get("b"), **options)
    found = jt.grad((out * jt.array(direction)).sum(), list(variables.values()))
    for (name, array), gradient in zip(arrays.items(), found):
        expected = np.zeros(array.shape)
        for i in np.ndindex(*array.shape):
            moved = {sign: {**arrays, name: array.astype(np.float64)} for sign in (1, -1)}
            for sign, values in moved.items():
                values[name] = values[name].copy()
                values[name][i] += sign * step
            expected[i] = (value(moved[1]) - value(moved[-1])) / (2 * step)
        assert np.linalg.norm(gradient.numpy() - expected) <= 1e-3 * np.linalg.norm(expected), name


# ---------------------------------------------------------------- sites

SITES = [f"{block}.attentions.{i}.transformer_blocks.0" for block, count in (
    ("down_blocks.0", 2), ("down_blocks.1", 2), ("down_blocks.2", 2), ("mid_block", 1), ("up_blocks.1", 3),
    ("up_blocks.2", 3), ("up_blocks.3", 3))
    for i in range(count)]


@dataclass
class Recorder:
    """A control that changes nothing and notes where it was asked."""

    seen: list

    def applies(self, site, context) -> bool:
        self.seen.append(site)
        return False


def unet_inputs(rows=4, height=8, width=8):
    return (jt.array(seeded.values("control/x", (rows, 4, height, width))), 700,
            jt.array(seeded.values("control/text", (rows, 77, 32))))


def run(unet, controls=(), rows=ROWS, scale=None, step=0, steps=10, inputs=None, loras={}):
    """The UNet under a context, as an array."""
    context = AttentionContext(rows, step, steps, tuple(controls), loras, scale)
    with jt.no_grad():
        return unet(*(inputs or unet_inputs(rows.count)), context).numpy()


def test_sites_have_the_published_names_in_forward_order(tiny_base):
    seen = []
    run(tiny_base.unet, [Recorder(seen)])
    for kind, end in (("self", ".attn1"), ("cross", ".attn2")):
        sites = [site for site in seen if site.kind == kind]
        assert [site.name for site in sites] == [name + end for name in SITES]
        assert [site.index for site in sites] == list(range(16))
    assert seen == tiny_base.unet.sites
    assert [site.downscale for site in seen[::2]] == [1, 1, 2, 2, 4, 4, 8, 4, 4, 4, 2, 2, 2, 1, 1, 1]


def test_a_site_is_named_after_its_module(tiny_base):
    found = {name: module.site.name for name, module in tiny_base.unet.named_modules() if isinstance(module, Attention)}
    assert len(found) == 32 and all(name == site for name, site in found.items())


# ---------------------------------------------------------------- controls

def test_controls_off_is_bit_equal_to_no_controls(tiny_base):
    inputs = unet_inputs()
    with jt.no_grad():
        plain = tiny_base.unet(*inputs).numpy()
    assert np.array_equal(run(tiny_base.unet, inputs=inputs), plain)
    late = exchange(BlendSettings(c2f_ratio=0.5, f2c_ratio=0.5, cross_c2f_sites=[1]), tiny_base.unet.sites)
    assert np.array_equal(run(tiny_base.unet, late, step=9, inputs=inputs), plain)


def test_swapping_a_branch_with_itself_changes_nothing(tiny_base):
    rows = Rows({"coarse": 2, "fine": 2})
    plain = run(tiny_base.unet, rows=rows)
    for kind in ("self", "cross"):
        controls = [swap(ALL, kind=kind, source=branch, target=branch)
                    for swap in (SwapQ, SwapKV) for branch in ("coarse", "fine")]
        assert np.array_equal(run(tiny_base.unet, controls, rows), plain)


@dataclass
class Copy:
    """A swap as the published code does it: rows of the projections are overwritten."""

    kind: str
    parts: str
    source: int
    targets: tuple

    def applies(self, site, context) -> bool:
        return site.kind == self.kind

    def apply(self, p, rows):
        changed = {}
        for part in self.parts:
            array = getattr(p, part).made().numpy()
            array[list(self.targets)] = array[self.source]
            changed[part] = Projection(None, jt.array(array))
        return p._replace(**changed)


@pytest.mark.parametrize("kind", ["self", "cross"])
@pytest.mark.parametrize("swap, copy", [
    ((SwapQ, "coarse", "fine"), ("q", 2, (1, 3))), ((SwapQ, "fine", "coarse"), ("q", 3, (0, 2))),
    ((SwapKV, "fine", "coarse"), ("kv", 3, (0, 2))), ((SwapKV, "coarse", "fine"), ("kv", 2, (1, 3)))], ids=str)
def test_a_swap_equals_an_explicit_copy(kind, swap, copy, tiny_base):
    swapped = run(tiny_base.unet, [swap[0](ALL, kind=kind, source=swap[1], target=swap[2])])
    copied = run(tiny_base.unet, [Copy(kind, *copy)])
    assert np.linalg.norm(swapped - copied) <= 1e-6 * np.linalg.norm(copied)
    plain = run(tiny_base.unet)
    untouched = [row for row in range(4) if row not in copy[2]]
    # not bit for bit: a product of fewer rows adds up in another order
    assert np.abs(swapped[untouched] - plain[untouched]).max() <= 2e-6
    assert all(np.abs(swapped[row] - plain[row]).max() > 1e-4 for row in copy[2])


def test_what_nobody_reads_is_not_projected():
    """With guidance two rows' q serve all four; the others are never made. The same for k and v."""
    linear, x, scale = (Linear(12, 10, bias=False), jt.array(seeded.values("read/x", (4, 5, 12))),
                        jt.array(np.array([0.3, 1, 0.3, 1], np.float32)))
    linear.weight = jt.array(seeded.weight("read/w", (10, 12)))
    own = lora.LoRA(seeded.weight("read/down", (2, 12)), seeded.weight("read/up", (10, 2)))
    projection = Projection(linear, x, own, scale)
    whole = projection.made().numpy()
    for rows, count in (((0, 2, 2, 2), 2), ((3, 3, 3, 3), 1), ((1, 0, 3, 2), 4), (None, 4)):
        segments = (Segment(rows),) if rows else None
        q, k, v, q_rows, segments = Projections(projection, projection, projection, rows, segments).read()
        for made, places in ((q, q_rows), (k, segments and segments[0].rows), (v, segments and segments[0].rows)):
            assert made.shape == [count, 5, 10]
            assert np.abs(made.numpy()[list(places or range(4))] - whole[list(rows or range(4))]).max() <= 1e-6


@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("preset", [None, *PRESETS])
def test_guidance_needs_the_latents_once(preset, samples, tiny_base, tiny_style):
    """Half the rows give what all of them give: the halves differ from the first text on, and no earlier.

    Rows of one branch feel one scale.
    """
    rows = Rows({"coarse": samples, "fine": samples}, GUIDED)
    (x, t, text), unet = unet_inputs(rows.count), tiny_base.unet
    controls = exchange(BlendSettings(**PRESETS[preset]), unet.sites) if preset else ()
    scale = jt.array(np.repeat(np.array([0.3, 1, 0.3, 1], np.float32), samples))
    half, loras = x[:rows.latents], lora.load(unet, lora.UNET_TARGETS, tiny_style.parts["unet_lora"], "test")
    whole, once = (run(unet, controls, rows, scale, inputs=(latents, t, text), loras=loras)
                   for latents in (jt.concat([half, half]), half))
    assert np.linalg.norm(once - whole) <= 2e-6 * np.linalg.norm(whole)
    assert np.abs(whole[:len(whole) // 2] - whole[len(whole) // 2:]).max() > 1e-3  # the texts are different


def test_both_swaps_at_one_site_read_what_was_projected(tiny_base):
    """Neither swap sees the other's result: Q and K, V cross over."""
    swapped = run(tiny_base.unet, [SwapQ(ALL, source="coarse", target="fine"),
                                   SwapKV(ALL, source="fine", target="coarse")])
    copied = run(tiny_base.unet, [Copy("self", "q", 2, (1, 3)), Copy("self", "kv", 3, (0, 2))])
    assert np.linalg.norm(swapped - copied) <= 1e-6 * np.linalg.norm(copied)


def active(blend: BlendSettings, unet, step: int, steps: int = 30) -> set:
    """Which swap acts where in a step: {(kind of site, index, class of the swap, source)}."""
    context = AttentionContext(ROWS, step, steps)
    return {(site.kind, site.index, type(control).__name__, control.source)
            for control in exchange(blend, unet.sites) for site in unet.sites if control.applies(site, context)}


def test_windows_of_the_balanced_preset(tiny_base):
    blend = BlendSettings(**PRESETS["balanced"])
    q = {("self", i, "SwapQ", "coarse") for i in range(4, 10)}
    kv = {("self", i, "SwapKV", "fine") for i in (0, 1, 2, 3, 10, 11, 12, 13, 14, 15)}
    assert [active(blend, tiny_base.unet, step) for step in (0, 17, 18, 23, 24, 29)] == [
        q | kv, q | kv, q, q, set(), set()]


def test_a_site_in_both_lists_follows_the_c2f_window(tiny_base):
    blend = BlendSettings(c2f_sites=[5], f2c_sites=[5, 6], c2f_ratio=0.8, f2c_ratio=0.6)
    both = {("self", 5, "SwapQ", "coarse"), ("self", 5, "SwapKV", "fine")}
    assert active(blend, tiny_base.unet, 17) == both | {("self", 6, "SwapKV", "fine")}
    assert active(blend, tiny_base.unet, 23) == both and not active(blend, tiny_base.unet, 24)


def test_a_window_counts_the_steps_that_it_is_told(tiny_base):
    assert (active(BlendSettings(), tiny_base.unet, 7, steps=10)
            and not active(BlendSettings(), tiny_base.unet, 8, steps=10))
    assert active(BlendSettings(window_steps=30), tiny_base.unet, 9, steps=10)


def test_a_cross_attention_site_takes_the_window_of_the_self_attention_before_it(tiny_base):
    blend = BlendSettings(c2f_sites=[2], f2c_sites=[8], cross_c2f_sites=[0, 3], cross_f2c_sites=[3, 9, 6],
                          c2f_ratio=0.8, f2c_ratio=0.6)

    def cross(step):
        return {entry[1:] for entry in active(blend, tiny_base.unet, step) if entry[0] == "cross"}

    assert cross(0) == {(0, "SwapQ", "coarse"), (3, "SwapQ", "coarse"), (9, "SwapQ", "fine"), (6, "SwapQ", "fine")}
    # 9 follows site 8; 6 too, for the mid block is walked last
    assert cross(20) == {(0, "SwapQ", "coarse"), (3, "SwapQ", "coarse")}
    assert cross(24) == {(0, "SwapQ", "coarse")}


# ---------------------------------------------------------------- LoRA by row

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


def part_of_lora(unet, style, wanted) -> dict:
    """The style's LoRA of those layers of the UNet whose names are `wanted`."""
    return lora.load(unet, lora.UNET_TARGETS, {k: t for k, t in style.parts["unet_lora"].items() if wanted(k)}, "test")


def test_rows_with_scale_0_are_bit_equal_to_no_lora(tiny_base, tiny_style):
    """In to_q, to_k and to_v; to_out follows no scale, as published, so its part is left out here."""
    plain, loras = run(tiny_base.unet), part_of_lora(tiny_base.unet, tiny_style, lambda key: "to_out" not in key)
    mixed = run(tiny_base.unet, scale=jt.array(np.array([0, 1, 0, 0.5], np.float32)), loras=loras)
    whole, none = (run(tiny_base.unet, scale=scale, loras=loras) for scale in (None, jt.array(np.zeros(4, np.float32))))
    assert np.array_equal(mixed[[0, 2]], plain[[0, 2]]) and np.array_equal(none, plain)
    assert np.allclose(mixed[1], whole[1], atol=1e-5)
    assert np.abs(mixed[1] - plain[1]).max() > 1e-4 and np.abs(mixed[3] - whole[3]).max() > 1e-4


def test_to_out_follows_no_scale(tiny_base, tiny_style):
    plain, loras = run(tiny_base.unet), part_of_lora(tiny_base.unet, tiny_style, lambda key: "to_out" in key)
    none, whole = (run(tiny_base.unet, scale=scale, loras=loras) for scale in (jt.array(np.zeros(4, np.float32)), None))
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
    assert np.array_equal(usual[0], less[0]) and np.abs(usual[1] - less[1]).max() > 1e-3
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


# ---------------------------------------------------------------- whole pictures

SMALL = SamplingSettings(steps=3, width=64, height=64)
PROMPTS, SEEDS = ["A cat", "An owl", "A dog"], [5, 6, 2024]


def difference(a, b) -> int:
    return int(np.abs(a.astype(int) - b).max())


def test_a_batch_equals_one_prompt_at_a_time(pipeline, tiny_style):
    together = all_branches(pipeline, request(PROMPTS, SEEDS, SMALL, tiny_style))
    assert together.shape == (2, 3, 64, 64, 3)
    for n, (prompt, seed) in enumerate(zip(PROMPTS, SEEDS)):
        alone = all_branches(pipeline, request([prompt], [seed], SMALL, tiny_style))
        assert difference(together[:, n:n + 1], alone) <= 1
    assert difference(together[:, 0], together[:, 1]) > 10 and difference(together[0], together[1]) > 10
    # the fine branch is what is shown
    assert np.array_equal(pictures(pipeline, request(PROMPTS, SEEDS, SMALL, tiny_style)), together[1])


def test_noise_of_eta_does_not_depend_on_the_batch(pipeline, tiny_style):
    sampling = SMALL.model_copy(update={"eta": 1.0})
    together = pictures(pipeline, request(PROMPTS, SEEDS, sampling, tiny_style))
    for n, (prompt, seed) in enumerate(zip(PROMPTS, SEEDS)):
        assert difference(together[n:n + 1], pictures(pipeline, request([prompt], [seed], sampling, tiny_style))) <= 1
    assert difference(together, pictures(pipeline, request(PROMPTS, SEEDS, SMALL, tiny_style))) > 10


def test_guidance_1_is_guidance_off(pipeline, tiny_style):
    """Half the rows, and what the whole formula gives for a factor of 1."""
    off, on = (request(PROMPTS[:1], SEEDS[:1], SMALL.model_copy(update={"guidance": g}), tiny_style)
               for g in (1.0, 2.0))
    assert pictures(pipeline, off).shape == (1, 64, 64, 3)
    style, results = pipeline.applied(tiny_style), []
    for asked, rows in ((on, 4), (off, 2)):
        recipe = with_start(pipeline.recipe(asked, style), jt.array(seeded.values("guidance/x", (1, 4, 8, 8))))
        assert recipe.rows.count == rows
        recipe = replace(recipe, guidance={"negative": 0.0, "full": 1.0} if rows == 4 else {"full": 1.0})
        results.append(last_latents(pipeline, recipe, off.sampling, style))
    assert np.linalg.norm(results[0] - results[1]) <= 1e-5 * np.linalg.norm(results[1])


def test_text_is_projected_once(pipeline, tiny_style):
    """k and v of the text from `project_text` are what every step would compute again.

    Bit for bit the same noise prediction.
    """
    style, x = pipeline.applied(tiny_style), jt.array(seeded.values("once/x", (4, 4, 8, 8)))
    [text] = pipeline.encode(pipeline.recipe(request(["A cat"], [0], SMALL, tiny_style)), "styleblend", style)
    unet, loras, scale = pipeline.base.unet, style.of("unet"), jt.array(np.array([0.3, 1, 0.3, 1], np.float32))
    with jt.no_grad():
        ready = unet.project_text(text, loras, scale)
        assert len(ready) == 16
        given = dict(rows=ROWS, loras=loras, lora_scale=scale)
        once, again = (unet(x, 7, text, AttentionContext(text=one, **given)).numpy() for one in (ready, None))
        nothing = unet(x, 7, text * 0, AttentionContext(text=ready, **given)).numpy()
    assert np.array_equal(once, again) and np.array_equal(once, nothing)


def test_one_branch_without_a_style(pipeline):
    drawn = pictures(pipeline, request(PROMPTS[:2], SEEDS[:2], SMALL))
    assert drawn.shape == (2, 64, 64, 3) and drawn.dtype == np.uint8


def test_a_style_leaves_nothing_behind(pipeline, tiny_style):
    plain = request(PROMPTS[:1], SEEDS[:1], SMALL)
    before = pictures(pipeline, plain)
    assert difference(pictures(pipeline, request(PROMPTS[:1], SEEDS[:1], SMALL, tiny_style)), before) > 10
    assert np.array_equal(pictures(pipeline, plain), before)


@pytest.mark.full
@pytest.mark.skipif(not MINI.is_dir(), reason="checkpoints/mini/base is not there")
def test_memory_does_not_grow():
    """50 pictures of the mini base need what 5 need, up to 5 %."""
    pipeline = Pipeline(load_base(MINI))
    sampling = SamplingSettings(steps=5, width=128, height=128, guidance=5.0)

    def resident_after(count: int) -> int:
        for seed in range(count):
            pictures(pipeline, request(["A dog"], [seed], sampling, branches=("coarse", "fine")))
        return int(Path("/proc/self/statm").read_text().split()[1])

    after_5 = resident_after(5)
    assert resident_after(45) <= 1.05 * after_5


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "euler"])
def test_other_samplers_draw_both_branches(sampler, pipeline, tiny_style):
    sampling = SMALL.model_copy(update={"sampler": sampler})
    drawn = all_branches(pipeline, request(PROMPTS[:1], SEEDS[:1], sampling, tiny_style))
    assert drawn.shape == (2, 1, 64, 64, 3) and difference(drawn[0], drawn[1]) > 10
