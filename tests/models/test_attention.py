"""The attention core, and the control over where Q, K and V come from."""
from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from reference import seeded
from styleblend.adapters import lora
from styleblend.base.base import load_base
from styleblend.diffusion.controls import SwapKV, SwapQ
from styleblend.kernels import attention
from styleblend.models.attention import Attention, AttentionContext, Projection, RowLayout
from styleblend.methods.exchange import exchange
from styleblend.models.layers import Linear
from styleblend.pipeline import COARSE, FINE, PLAIN, StyleBlendPipeline
from styleblend.machine.runtime import jt
from styleblend.diffusion.samplers import ddim, leading_timesteps
from styleblend.settings import PRESETS, BlendSettings, SamplingSettings

LAYOUT = RowLayout(("coarse", "fine"), True, 1)
ALL = tuple(range(16))
MINI = Path(__file__).parents[2] / "checkpoints" / "mini" / "base"


# ---------------------------------------------------------------- the core

def exact(q, k, v, heads, bias=None, q_rows=None, kv_rows=None, scale=None, causal=False):
    """The same function, written in float64 with one loop."""
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
    q, k, v = seeded.values(f"{name}/q", (rows, queries, width)), *(seeded.values(f"{name}/{n}", (rows, keys, width)) for n in "kv")
    return q, k, v, {None: None, "keys": seeded.values(f"{name}/b", (keys,)), "rows": seeded.values(f"{name}/b", (rows, keys))}[bias]


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
    "swap kv": (4, 16, 20, 2, 8, dict(kv_rows=(3, 1, 3, 3))),
    "swap both": (4, 16, 16, 2, 8, dict(q_rows=(0, 2, 2, 2), kv_rows=(3, 1, 3, 3))),
    "everything": (4, 12, 12, 3, 6, dict(q_rows=(1, 0, 3, 3), kv_rows=(2, 1, 0, 2), bias="rows", causal=True, scale=0.3)),
}


@pytest.mark.parametrize("name", CORES)
def test_core_against_float64(name):
    rows, queries, keys, heads, size, options = CORES[name]
    options = dict(options)
    q, k, v, bias = make(name, rows, queries, keys, heads * size, options.pop("bias", None))
    expected = exact(q, k, v, heads, bias=bias, **options)
    with jt.no_grad():
        out = attention(jt.array(q), jt.array(k), jt.array(v), heads, bias=None if bias is None else jt.array(bias), **options).numpy()
    assert out.shape == expected.shape
    assert np.linalg.norm(out - expected) <= 1e-5 * np.linalg.norm(expected)


def test_core_with_large_scores():
    q, k, v, _ = make("large", 2, 9, 11, 16)
    with jt.no_grad():
        out = attention(jt.array(q * 100), jt.array(k * 10), jt.array(v), 2).numpy()
    expected = exact(q * np.float32(100), k * np.float32(10), v, 2)
    assert np.isfinite(out).all() and np.linalg.norm(out - expected) <= 1e-3 * np.linalg.norm(expected)


@pytest.mark.parametrize("options", [{}, dict(causal=True), dict(q_rows=(1, 1, 0), kv_rows=(2, 0, 0)), dict(bias="rows", scale=0.4)], ids=str)
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


# ---------------------------------------------------------------- rows and sites

def test_row_order_is_the_published_one():
    order = [(branch, cond) for cond in (False, True) for branch in ("coarse", "fine")]
    assert [LAYOUT.row(branch, cond, 0) for branch, cond in order] == [0, 1, 2, 3] and LAYOUT.count == 4
    assert LAYOUT.rows("coarse") == [(0, 0), (2, 0)] and LAYOUT.rows("fine") == [(1, 0), (3, 0)]


def test_rows_of_a_batch():
    layout = RowLayout(("coarse", "fine"), True, 3)
    rows = [layout.row(branch, cond, n) for cond in (False, True) for branch in ("coarse", "fine") for n in range(3)]
    assert rows == list(range(12)) == list(range(layout.count))
    assert layout.rows("fine") == [(3, 0), (4, 1), (5, 2), (9, 0), (10, 1), (11, 2)]


def test_rows_without_guidance():
    layout = RowLayout(("coarse", "fine"), False, 2)
    assert layout.count == 4 and layout.rows("coarse") == [(0, 0), (1, 1)] and layout.rows("fine") == [(2, 0), (3, 1)]
    with pytest.raises(ValueError):
        layout.row("coarse", False, 0)


SITES = [f"{block}.attentions.{i}.transformer_blocks.0" for block, count in (
    ("down_blocks.0", 2), ("down_blocks.1", 2), ("down_blocks.2", 2), ("mid_block", 1), ("up_blocks.1", 3), ("up_blocks.2", 3), ("up_blocks.3", 3))
    for i in range(count)]


@dataclass
class Recorder:
    """A control that changes nothing and notes where it was asked."""

    seen: list

    def applies(self, site, context) -> bool:
        self.seen.append(site)
        return False


def unet_inputs(rows=4, height=8, width=8):
    return (jt.array(seeded.values("control/x", (rows, 4, height, width))), 700, jt.array(seeded.values("control/text", (rows, 77, 32))))


def run(unet, controls=(), layout=LAYOUT, scale=None, step=0, steps=10, inputs=None):
    """The UNet under a context, as an array."""
    with jt.no_grad():
        return unet(*(inputs or unet_inputs(layout.count)), AttentionContext(layout, step, steps, tuple(controls), scale)).numpy()


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
    layout = RowLayout(("coarse", "fine"), False, 2)
    plain = run(tiny_base.unet, layout=layout)
    for kind in ("self", "cross"):
        controls = [swap(ALL, branch, branch, kind=kind) for swap in (SwapQ, SwapKV) for branch in ("coarse", "fine")]
        assert np.array_equal(run(tiny_base.unet, controls, layout), plain)


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
    swapped = run(tiny_base.unet, [swap[0](ALL, *swap[1:], kind=kind)])
    copied = run(tiny_base.unet, [Copy(kind, *copy)])
    assert np.linalg.norm(swapped - copied) <= 1e-6 * np.linalg.norm(copied)
    plain = run(tiny_base.unet)
    untouched = [row for row in range(4) if row not in copy[2]]
    assert np.abs(swapped[untouched] - plain[untouched]).max() <= 2e-6  # not bit for bit: a product of fewer rows adds up in another order
    assert all(np.abs(swapped[row] - plain[row]).max() > 1e-4 for row in copy[2])


def test_what_nobody_reads_is_not_projected():
    """With guidance two rows' q serve all four; the others are never made."""
    linear, x, scale = Linear(12, 10, bias=False), jt.array(seeded.values("read/x", (4, 5, 12))), jt.array(np.array([0.3, 1, 0.3, 1], np.float32))
    linear.weight = jt.array(seeded.weight("read/w", (10, 12)))
    linear.lora = lora.LoRA(seeded.weight("read/down", (2, 12)), seeded.weight("read/up", (10, 2)))
    projection = Projection(linear, x, scale)
    whole = projection.made().numpy()
    for rows, count in (((0, 2, 2, 2), 2), ((3, 3, 3, 3), 1), ((1, 0, 3, 2), 4), (None, 4)):
        made, places = projection.read(rows)
        assert made.shape == [count, 5, 10]
        assert np.abs(made.numpy()[list(places or range(4))] - whole[list(rows or range(4))]).max() <= 1e-6


@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("preset", [None, *PRESETS])
def test_guidance_needs_the_latents_once(preset, samples, tiny_base, tiny_style):
    """Half the rows give what all of them give: the halves differ from the first text on, and no earlier. Rows of one branch feel one scale."""
    layout = RowLayout(("coarse", "fine"), True, samples)
    x, t, text = unet_inputs(layout.count)
    controls = exchange(BlendSettings(**PRESETS[preset]), tiny_base.unet.sites) if preset else ()
    scale = jt.array(np.repeat(np.array([0.3, 1, 0.3, 1], np.float32), samples))
    half = x[:layout.count // 2]
    try:
        lora.load(tiny_base.unet, lora.UNET_TARGETS, tiny_style.unet_lora, "test")
        whole, once = (run(tiny_base.unet, controls, layout, scale, inputs=(latents, t, text)) for latents in (jt.concat([half, half]), half))
    finally:
        lora.remove(tiny_base.unet)
    assert np.linalg.norm(once - whole) <= 2e-6 * np.linalg.norm(whole)
    assert np.abs(whole[:len(whole) // 2] - whole[len(whole) // 2:]).max() > 1e-3  # the texts are different


def test_both_swaps_at_one_site_read_what_was_projected(tiny_base):
    """Neither swap sees the other's result: Q and K, V cross over."""
    swapped = run(tiny_base.unet, [SwapQ(ALL, "coarse", "fine"), SwapKV(ALL, "fine", "coarse")])
    copied = run(tiny_base.unet, [Copy("self", "q", 2, (1, 3)), Copy("self", "kv", 3, (0, 2))])
    assert np.linalg.norm(swapped - copied) <= 1e-6 * np.linalg.norm(copied)


def active(blend: BlendSettings, unet, step: int, steps: int = 30) -> set:
    """Which swap acts where in a step: {(kind of site, index, class of the swap, source)}."""
    context = AttentionContext(LAYOUT, step, steps)
    return {(site.kind, site.index, type(control).__name__, control.source)
            for control in exchange(blend, unet.sites) for site in unet.sites if control.applies(site, context)}


def test_windows_of_the_balanced_preset(tiny_base):
    blend = BlendSettings(**PRESETS["balanced"])
    q = {("self", i, "SwapQ", "coarse") for i in range(4, 10)}
    kv = {("self", i, "SwapKV", "fine") for i in (0, 1, 2, 3, 10, 11, 12, 13, 14, 15)}
    assert [active(blend, tiny_base.unet, step) for step in (0, 17, 18, 23, 24, 29)] == [q | kv, q | kv, q, q, set(), set()]


def test_a_site_in_both_lists_follows_the_c2f_window(tiny_base):
    blend = BlendSettings(c2f_sites=[5], f2c_sites=[5, 6], c2f_ratio=0.8, f2c_ratio=0.6)
    both = {("self", 5, "SwapQ", "coarse"), ("self", 5, "SwapKV", "fine")}
    assert active(blend, tiny_base.unet, 17) == both | {("self", 6, "SwapKV", "fine")}
    assert active(blend, tiny_base.unet, 23) == both and not active(blend, tiny_base.unet, 24)


def test_a_window_counts_the_steps_that_it_is_told(tiny_base):
    assert active(BlendSettings(), tiny_base.unet, 7, steps=10) and not active(BlendSettings(), tiny_base.unet, 8, steps=10)
    assert active(BlendSettings(window_steps=30), tiny_base.unet, 9, steps=10)


def test_a_cross_attention_site_takes_the_window_of_the_self_attention_before_it(tiny_base):
    blend = BlendSettings(c2f_sites=[2], f2c_sites=[8], cross_c2f_sites=[0, 3], cross_f2c_sites=[3, 9, 6], c2f_ratio=0.8, f2c_ratio=0.6)

    def cross(step):
        return {entry[1:] for entry in active(blend, tiny_base.unet, step) if entry[0] == "cross"}

    assert cross(0) == {(0, "SwapQ", "coarse"), (3, "SwapQ", "coarse"), (9, "SwapQ", "fine"), (6, "SwapQ", "fine")}
    assert cross(20) == {(0, "SwapQ", "coarse"), (3, "SwapQ", "coarse")}  # 9 follows site 8; 6 too, for the mid block is walked last
    assert cross(24) == {(0, "SwapQ", "coarse")}


# ---------------------------------------------------------------- LoRA by row

@pytest.fixture
def styled(tiny_base, tiny_style):
    """The tiny base with a style put in, and taken out again."""
    pipeline = StyleBlendPipeline(tiny_base, tiny_style)
    yield pipeline
    pipeline.set_style(None)


def test_lora_scale_of_each_row_in_one_layer():
    linear, x = Linear(12, 10), jt.array(seeded.values("linear/x", (3, 5, 12)))
    linear.weight = jt.array(seeded.weight("linear/w", (10, 12)))
    linear.bias = jt.array(seeded.weight("linear/b", (10,)))
    with jt.no_grad():
        plain = linear(x).numpy()
        down, up = seeded.weight("linear/down", (2, 12)), seeded.weight("linear/up", (10, 2))
        linear.lora = lora.LoRA(down, up)
        out, whole = linear(x, jt.array(np.array([0, 1, 0.3], np.float32))).numpy(), linear(x).numpy()
    added = x.numpy().astype(np.float64) @ (up.astype(np.float64) @ down).T
    assert np.array_equal(out[0], plain[0])
    assert np.allclose(out[1], plain[1] + added[1], atol=1e-5) and np.allclose(out[2], plain[2] + 0.3 * added[2], atol=1e-5)
    assert np.allclose(whole[1], out[1], atol=1e-6)


def test_rows_with_scale_0_are_bit_equal_to_no_lora(tiny_base, tiny_style):
    """In to_q, to_k and to_v; to_out follows no scale, as published, so its part is left out here."""
    plain = run(tiny_base.unet)
    try:
        lora.load(tiny_base.unet, lora.UNET_TARGETS, {k: t for k, t in tiny_style.unet_lora.items() if "to_out" not in k}, "test")
        mixed = run(tiny_base.unet, scale=jt.array(np.array([0, 1, 0, 0.5], np.float32)))
        whole, none = run(tiny_base.unet), run(tiny_base.unet, scale=jt.array(np.zeros(4, np.float32)))
    finally:
        lora.remove(tiny_base.unet)
    assert np.array_equal(mixed[[0, 2]], plain[[0, 2]]) and np.array_equal(none, plain)
    assert np.allclose(mixed[1], whole[1], atol=1e-5)
    assert np.abs(mixed[1] - plain[1]).max() > 1e-4 and np.abs(mixed[3] - whole[3]).max() > 1e-4


def test_to_out_follows_no_scale(tiny_base, tiny_style):
    plain = run(tiny_base.unet)
    try:
        lora.load(tiny_base.unet, lora.UNET_TARGETS, {k: t for k, t in tiny_style.unet_lora.items() if "to_out" in k}, "test")
        none, whole = run(tiny_base.unet, scale=jt.array(np.zeros(4, np.float32))), run(tiny_base.unet)
    finally:
        lora.remove(tiny_base.unet)
    assert np.array_equal(none, whole) and np.abs(none - plain).max() > 1e-4


def test_the_scale_of_the_fine_branch_is_that_of_its_whole_lora(tiny_base, tiny_style, styled):
    """0: as without the LoRA; 2: as with twice the LoRA. The coarse branch feels nothing of it."""
    def latents(loras, fine_scale, branches=(FINE,)):
        styled.set_style(replace(tiny_style, unet_lora=loras))
        text = styled.encode(["A cat"], branches, True, {"fine": "blur"})
        layout = RowLayout(tuple(b.name for b in branches), True, 1)
        blend = BlendSettings(fine_scale=fine_scale, c2f_sites=[], f2c_sites=[])
        return styled.denoise(text, jt.array(seeded.values("scale/x", (1, 4, 8, 8))), layout, branches, SMALL, blend).numpy()

    once, twice = tiny_style.unet_lora, {k: t * 2 if "lora.up" in k else t for k, t in tiny_style.unet_lora.items()}
    assert np.array_equal(latents(once, 0.0), latents({}, 1.0))
    doubled = latents(twice, 1.0)
    assert np.linalg.norm(latents(once, 2.0) - doubled) <= 1e-5 * np.linalg.norm(doubled) < 1e-2 * np.linalg.norm(latents(once, 1.0) - doubled)
    assert np.array_equal(latents(once, 0.5, (COARSE, FINE))[0], latents(once, 1.0, (COARSE, FINE))[0])


def test_the_negative_prompt_may_feel_less_of_the_style(tiny_base, tiny_style, styled):
    """1: as published. 0: guidance leads from the base without the LoRA to the style, and the coarse branch feels nothing of it. Without guidance there is no such row."""
    def latents(negative_scale, branches=(FINE,), guidance=3.0, samples=1):
        sampling, layout = SMALL.model_copy(update={"guidance": guidance}), RowLayout(tuple(b.name for b in branches), guidance != 1, samples)
        text = styled.encode(["A cat", "An owl"][:samples], branches, guidance != 1, {"fine": "blur"})
        blend = BlendSettings(negative_scale=negative_scale, c2f_sites=[], f2c_sites=[])
        x = jt.array(seeded.values("negative/x", (2, 4, 8, 8))[:samples])
        return styled.denoise(text, x, layout, branches, sampling, blend).numpy()

    styled.set_style(tiny_style)
    usual, less = latents(1.0, (COARSE, FINE)), latents(0.0, (COARSE, FINE))
    assert np.array_equal(usual[0], less[0]) and np.abs(usual[1] - less[1]).max() > 1e-3
    assert np.array_equal(latents(1.0, guidance=1), latents(0.0, guidance=1))
    np.testing.assert_allclose(latents(0.0, samples=2)[:, :1], latents(0.0), atol=1e-5)
    # a step by hand: the one row without the LoRA, the other with it
    x, text = jt.array(seeded.values("negative/x", (2, 4, 8, 8))[:1]), styled.encode(["A cat"], (FINE,), True, {"fine": "blur"})
    one, layout = SMALL.model_copy(update={"guidance": 3.0, "steps": 1}), RowLayout(("fine",), True, 1)
    got = styled.denoise(text, x, layout, (FINE,), one, BlendSettings(negative_scale=0.0)).numpy()[0]
    with jt.no_grad():
        time = int(leading_timesteps(tiny_base.schedule, 1)[0])
        cond = tiny_base.unet(x, time, text[1:]).numpy()
        lora.remove(tiny_base.unet)
        uncond = tiny_base.unet(x, time, text[:1]).numpy()
        expected = ddim(lambda *_: jt.array(uncond + 3 * (cond - uncond)), x, tiny_base.schedule, 1).numpy()
    np.testing.assert_allclose(got, expected, atol=1e-4 * np.abs(expected).max())


def test_text_lora_is_felt_by_the_coarse_branch_alone(styled, tiny_base):
    negatives = {"coarse": "", "fine": "blur"}
    with_lora = styled.encode(["A cat"], (COARSE, FINE), True, negatives).numpy()
    lora.remove(tiny_base.text_encoder)
    without = styled.encode(["A cat"], (COARSE, FINE), True, negatives).numpy()
    assert np.array_equal(with_lora[[1, 3]], without[[1, 3]])
    assert all(np.abs(with_lora[row] - without[row]).max() > 1e-4 for row in (0, 2))


# ---------------------------------------------------------------- whole pictures

SMALL = SamplingSettings(steps=3, width=64, height=64)
PROMPTS, SEEDS = ["A cat", "An owl", "A dog"], [5, 6, 2024]


def difference(a, b) -> int:
    return int(np.abs(a.astype(int) - b).max())


def test_a_batch_equals_one_prompt_at_a_time(styled):
    together = styled.generate(PROMPTS, SEEDS, SMALL, all_branches=True)
    assert together.shape == (2, 3, 64, 64, 3)
    for n, (prompt, seed) in enumerate(zip(PROMPTS, SEEDS)):
        alone = styled.generate([prompt], [seed], SMALL, all_branches=True)
        assert difference(together[:, n:n + 1], alone) <= 1
    assert difference(together[:, 0], together[:, 1]) > 10 and difference(together[0], together[1]) > 10


def test_noise_of_eta_does_not_depend_on_the_batch(styled):
    sampling = SMALL.model_copy(update={"eta": 1.0})
    together = styled.generate(PROMPTS, SEEDS, sampling)
    for n, (prompt, seed) in enumerate(zip(PROMPTS, SEEDS)):
        assert difference(together[n:n + 1], styled.generate([prompt], [seed], sampling)) <= 1
    assert difference(together, styled.generate(PROMPTS, SEEDS, SMALL)) > 10


def test_guidance_1_is_guidance_off(styled):
    """Half the rows, and what the whole formula gives for a factor of 1."""
    sampling = SMALL.model_copy(update={"guidance": 1.0})
    assert styled.generate(PROMPTS[:1], SEEDS[:1], sampling).shape == (1, 64, 64, 3)
    latents, results = jt.array(seeded.values("guidance/x", (1, 4, 8, 8))), []
    for guidance in (True, False):
        text = styled.encode(["A cat"], (COARSE, FINE), guidance, {"fine": "blur"})
        assert text.shape[0] == (4 if guidance else 2)
        layout = RowLayout(("coarse", "fine"), guidance, 1)
        results.append(styled.denoise(text, latents, layout, (COARSE, FINE), sampling, BlendSettings()).numpy())
    assert np.linalg.norm(results[0] - results[1]) <= 1e-5 * np.linalg.norm(results[1])


def test_text_is_projected_once(styled):
    """k and v of the text from `project_text` are what every step would compute again: bit for bit the same noise prediction."""
    unet, text, x = styled.base.unet, styled.encode(["A cat"], (COARSE, FINE), True, {}), jt.array(seeded.values("once/x", (4, 4, 8, 8)))
    scale = jt.array(np.array([0.3, 1, 0.3, 1], np.float32))
    with jt.no_grad():
        ready = unet.project_text(text, scale)
        assert len(ready) == 16
        once, again = (unet(x, 7, text, AttentionContext(LAYOUT, lora_scale=scale, text=given)).numpy() for given in (ready, None))
        nothing = unet(x, 7, text * 0, AttentionContext(LAYOUT, lora_scale=scale, text=ready)).numpy()
    assert np.array_equal(once, again) and np.array_equal(once, nothing)


def test_one_branch_without_a_style(tiny_base):
    pipeline = StyleBlendPipeline(tiny_base)
    pictures = pipeline.generate(PROMPTS[:2], SEEDS[:2], SMALL, branches=(PLAIN,))
    assert pictures.shape == (2, 64, 64, 3) and pictures.dtype == np.uint8


def test_a_style_leaves_nothing_behind(tiny_base, tiny_style):
    pipeline = StyleBlendPipeline(tiny_base)
    before = pipeline.generate(PROMPTS[:1], SEEDS[:1], SMALL, branches=(PLAIN,))
    pipeline.set_style(tiny_style)
    assert difference(pipeline.generate(PROMPTS[:1], SEEDS[:1], SMALL), before) > 10
    pipeline.set_style(None)
    assert np.array_equal(pipeline.generate(PROMPTS[:1], SEEDS[:1], SMALL, branches=(PLAIN,)), before)


@pytest.mark.full
@pytest.mark.skipif(not MINI.is_dir(), reason="checkpoints/mini/base is not there")
def test_memory_does_not_grow():
    """50 pictures of the mini base need what 5 need, up to 5 %."""
    pipeline = StyleBlendPipeline(load_base(MINI))
    sampling = SamplingSettings(steps=5, width=128, height=128, guidance=5.0)

    def resident_after(count: int) -> int:
        for seed in range(count):
            pipeline.generate(["A dog"], [seed], sampling, branches=(COARSE, FINE))
        return int(Path("/proc/self/statm").read_text().split()[1])

    after_5 = resident_after(5)
    assert resident_after(45) <= 1.05 * after_5


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "euler"])
def test_other_samplers_draw_both_branches(sampler, styled):
    pictures = styled.generate(PROMPTS[:1], SEEDS[:1], SMALL.model_copy(update={"sampler": sampler}), all_branches=True)
    assert pictures.shape == (2, 1, 64, 64, 3) and difference(pictures[0], pictures[1]) > 10
