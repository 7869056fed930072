"""StyleBlend's exchange at the sites that a UNet has. Which swap acts when is in tests/diffusion/test_controls.py."""
from __future__ import annotations

import pytest

from styleblend.diffusion.controls import SwapQ
from styleblend.errors import StyleBlendError
from styleblend.methods.exchange import LISTS, exchange
from styleblend.models.attention import Site
from styleblend.settings import BlendSettings


def sites_of(down: int, up: int) -> list:
    """The sites of a UNet with so many transformers below and above the middle one, in forward order."""
    blocks = [f"down_blocks.{i}" for i in range(down)] + ["mid_block"] + [f"up_blocks.{i}" for i in range(up)]
    return [Site(f"{block}.{end}", index, kind, 1) for index, block in enumerate(blocks)
            for kind, end in (("self", "attn1"), ("cross", "attn2"))]


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("down, up", [(6, 9), (2, 3)])
def test_a_site_that_is_not_there_is_named(name, down, up):
    last = down + up
    exchange(BlendSettings(**{"c2f_sites": [], "f2c_sites": [], name: [0, last]}), sites_of(down, up))
    with pytest.raises(StyleBlendError) as caught:
        exchange(BlendSettings(**{"c2f_sites": [], "f2c_sites": [], name: [0, last + 1, 99]}), sites_of(down, up))
    said = f"{name} has site {last + 1}, and the UNet of this base has {LISTS[name]}-attention sites 0 to {last}:"
    assert str(caught.value).startswith(said) and "\n" not in str(caught.value)


@pytest.mark.parametrize("down, up", [(6, 9), (2, 3), (0, 4)])
def test_the_middle_block_is_walked_last_wherever_it_is(down, up):
    """Its cross-attention site follows the last site of the up blocks; the first up block's follows the down blocks."""
    sites, mid, last = sites_of(down, up), down, down + up
    blend = BlendSettings(c2f_sites=[last], f2c_sites=[0] if down else [], cross_c2f_sites=[mid, mid + 1],
                          c2f_ratio=0.8, f2c_ratio=0.6)
    ratios = {swap.sites[0]: swap.ratio for swap in exchange(blend, sites) if swap.kind == "cross"}
    assert ratios == {mid: 0.8, mid + 1: 0.6 if down else 1.0}


def test_nothing_to_exchange_is_no_control():
    assert exchange(BlendSettings(c2f_sites=[], f2c_sites=[]), sites_of(6, 9)) == ()
    only = exchange(BlendSettings(c2f_sites=[5], f2c_sites=[], window_steps=20), sites_of(6, 9))
    assert only == (SwapQ((5,), 0.8, source="coarse", target="fine", window_steps=20),)
