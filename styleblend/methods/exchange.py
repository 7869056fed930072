"""StyleBlend's exchange of attention: what its settings mean at the sites of a UNet."""
from __future__ import annotations

from typing import Sequence

from styleblend.diffusion.controls import SwapKV, SwapQ
from styleblend.errors import StyleBlendError
from styleblend.models.attention import Site
from styleblend.settings import BlendSettings

LISTS = {"c2f_sites": "self", "f2c_sites": "self", "cross_c2f_sites": "cross", "cross_f2c_sites": "cross"}
MID = "mid_block"  # how the name of the middle block's site begins


def exchange(blend: BlendSettings, sites: Sequence[Site]) -> tuple:
    """The swaps as attention controls. `sites`: those of the UNet. StyleBlendError for a site that it does not have.

    As published: a self-attention site in both lists follows the c2f window with both swaps; a cross-attention site
    exchanges only Q, c2f before f2c, and inherits the window of the last listed self-attention site before it
    (the published code walks down, up, mid: so the mid block's cross site follows the last site of the up blocks).
    """
    refuse_missing_sites(blend, sites)
    both, window = set(blend.c2f_sites) & set(blend.f2c_sites), blend.window_steps
    to_fine = dict(source="coarse", target="fine", window_steps=window)
    to_coarse = dict(source="fine", target="coarse", window_steps=window)
    swaps = [SwapQ(tuple(blend.c2f_sites), blend.c2f_ratio, **to_fine),
             SwapKV(tuple(sorted(both)), blend.c2f_ratio, **to_coarse),
             SwapKV(tuple(s for s in blend.f2c_sites if s not in both), blend.f2c_ratio, **to_coarse)]
    ratio, own = 1.0, [site for site in sites if site.kind == "self"]
    for index in [site.index for site in sorted(own, key=lambda site: site.name.startswith(MID))]:
        if index in blend.c2f_sites:
            ratio = blend.c2f_ratio
        elif index in blend.f2c_sites:
            ratio = blend.f2c_ratio
        if index in blend.cross_c2f_sites:
            swaps.append(SwapQ((index,), ratio, kind="cross", **to_fine))
        elif index in blend.cross_f2c_sites:
            swaps.append(SwapQ((index,), ratio, kind="cross", **to_coarse))
    return tuple(s for s in swaps if s.sites)


def refuse_missing_sites(blend: BlendSettings, sites: Sequence[Site]) -> None:
    """StyleBlendError that names the setting, the site in it that is not there, and those that are."""
    for name, kind in LISTS.items():
        there = [site.index for site in sites if site.kind == kind]
        wrong = [index for index in getattr(blend, name) if index not in there]
        if wrong:
            raise StyleBlendError(f"{name} has site {wrong[0]}, and the UNet of this base has {kind}-attention sites "
                                  f"{there[0]} to {there[-1]}: take it out of the blend settings")
