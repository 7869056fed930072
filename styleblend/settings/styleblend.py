"""StyleBlend's own settings: how its two branches exchange attention."""
from __future__ import annotations

from typing import Annotated, ClassVar, Dict, List, Optional

from pydantic import Field

from styleblend.settings.validation import MethodSettings

Sites = List[Annotated[int, Field(ge=0)]]  # which there are is the UNet's to say
PRESETS = {
    "balanced": dict(c2f_sites=list(range(4, 10)), f2c_sites=[0, 1, 2, 3, 10, 11, 12, 13, 14, 15], scale=0.3,
                     c2f_ratio=0.8, f2c_ratio=0.6),
    "strong_layout": dict(c2f_sites=list(range(13)), f2c_sites=[0, 1, 13, 14, 15], scale=0.5,
                          c2f_ratio=0.9, f2c_ratio=0.6),
}


class BlendSettings(MethodSettings):
    """How the two branches exchange attention. `c2f`: coarse gives to fine, `f2c`: fine gives to coarse.

    Sites are numbered from 0 in forward order, self- and cross-attention each (Stable Diffusion has 16).
    """

    strength: ClassVar[Optional[str]] = "fine_scale"

    c2f_sites: Sites = Field(PRESETS["balanced"]["c2f_sites"],
                             description="self-attention sites whose Q goes coarse to fine")
    f2c_sites: Sites = Field(PRESETS["balanced"]["f2c_sites"],
                             description="self-attention sites whose K and V go fine to coarse")
    cross_c2f_sites: Sites = Field([], description="cross-attention sites whose Q goes coarse to fine")
    cross_f2c_sites: Sites = Field([], description="cross-attention sites whose Q goes fine to coarse")
    scale: float = Field(0.3, allow_inf_nan=False,
                         description="factor of the UNet LoRA in the coarse branch (to_q, to_k, to_v)")
    fine_scale: float = Field(1.0, allow_inf_nan=False, description="factor of the UNet LoRA in the fine branch (all "
                              "four projections): how strong the style is")
    negative_scale: float = Field(1.0, allow_inf_nan=False, description="what of it the negative prompt's rows feel; "
                                  "below 1 guidance leads towards the style, too. 1: as published")
    c2f_ratio: float = Field(0.8, ge=0, le=1, description="share of the steps, from the first, in which c2f is active")
    f2c_ratio: float = Field(0.6, ge=0, le=1, description="the same for f2c")
    window_steps: Optional[int] = Field(None, ge=1,
                                        description="steps that the ratios count; default: those that are run")

    def facts(self) -> Dict[str, object]:
        return {"coarse scale": self.scale, "fine scale": self.fine_scale, "negative scale": self.negative_scale,
                "c2f": f"{self.c2f_ratio} at {' '.join(map(str, self.c2f_sites))}",
                "f2c": f"{self.f2c_ratio} at {' '.join(map(str, self.f2c_sites))}"}
