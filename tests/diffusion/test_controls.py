"""The sites of attention, and the controls over where Q, K and V come from: what is swapped, and when."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from drawing import GUIDED, ROWS, run_unet, unet_inputs
from reference import seeded
from styleblend.adapters import lora
from styleblend.diffusion.controls import SwapKV, SwapQ
from styleblend.kernels.segments import Segment
from styleblend.machine.runtime import jt
from styleblend.methods.exchange import exchange
from styleblend.models.attention import Attention, AttentionContext, Projection, Projections
from styleblend.models.layers import Linear
from styleblend.models.rows import Rows
from styleblend.settings import PRESETS, BlendSettings

ALL = tuple(range(16))
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


def test_sites_have_the_published_names_in_forward_order(tiny_base):
    seen = []
    run_unet(tiny_base.unet, [Recorder(seen)])
    for kind, end in (("self", ".attn1"), ("cross", ".attn2")):
        sites = [site for site in seen if site.kind == kind]
        assert [site.name for site in sites] == [name + end for name in SITES]
        assert [site.index for site in sites] == list(range(16))
    assert seen == tiny_base.unet.sites
    assert [site.downscale for site in seen[::2]] == [1, 1, 2, 2, 4, 4, 8, 4, 4, 4, 2, 2, 2, 1, 1, 1]


def test_a_site_is_named_after_its_module(tiny_base):
    found = {name: module.site.name for name, module in tiny_base.unet.named_modules() if isinstance(module, Attention)}
    assert len(found) == 32 and all(name == site for name, site in found.items())


def test_controls_off_is_bit_equal_to_no_controls(tiny_base):
    inputs = unet_inputs()
    with jt.no_grad():
        plain = tiny_base.unet(*inputs).numpy()
    assert np.array_equal(run_unet(tiny_base.unet, inputs=inputs), plain)
    late = exchange(BlendSettings(c2f_ratio=0.5, f2c_ratio=0.5, cross_c2f_sites=[1]), tiny_base.unet.sites)
    assert np.array_equal(run_unet(tiny_base.unet, late, step=9, inputs=inputs), plain)


def test_swapping_a_branch_with_itself_changes_nothing(tiny_base):
    rows = Rows({"coarse": 2, "fine": 2})
    plain = run_unet(tiny_base.unet, rows=rows)
    for kind in ("self", "cross"):
        controls = [swap(ALL, kind=kind, source=branch, target=branch)
                    for swap in (SwapQ, SwapKV) for branch in ("coarse", "fine")]
        assert np.array_equal(run_unet(tiny_base.unet, controls, rows), plain)


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
    swapped = run_unet(tiny_base.unet, [swap[0](ALL, kind=kind, source=swap[1], target=swap[2])])
    copied = run_unet(tiny_base.unet, [Copy(kind, *copy)])
    assert np.linalg.norm(swapped - copied) <= 1e-6 * np.linalg.norm(copied)
    plain = run_unet(tiny_base.unet)
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
    whole, once = (run_unet(unet, controls, rows, scale, inputs=(latents, t, text), loras=loras)
                   for latents in (jt.concat([half, half]), half))
    assert np.linalg.norm(once - whole) <= 2e-6 * np.linalg.norm(whole)
    assert np.abs(whole[:len(whole) // 2] - whole[len(whole) // 2:]).max() > 1e-3  # the texts are different


def test_both_swaps_at_one_site_read_what_was_projected(tiny_base):
    """Neither swap sees the other's result: Q and K, V cross over."""
    swapped = run_unet(tiny_base.unet, [SwapQ(ALL, source="coarse", target="fine"),
                                   SwapKV(ALL, source="fine", target="coarse")])
    copied = run_unet(tiny_base.unet, [Copy("self", "q", 2, (1, 3)), Copy("self", "kv", 3, (0, 2))])
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
