"""StyleAligned's own settings: what a set of pictures takes over from its reference."""
from __future__ import annotations

import math
from typing import Annotated, ClassVar, Dict, List, Optional, Tuple

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from styleblend.diffusion.blends import BLENDS
from styleblend.errors import StyleBlendError
from styleblend.settings.drawing import Seed
from styleblend.settings.validation import MethodSettings, Settings, Words, unknown

# how strongly targets look at a reference: (score scale, score shift); a famous picture is drawn too readily
STRENGTHS = {"normal": (1.0, math.log(2)), "famous": (0.5, 0.0)}
Scale = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]  # of scores, as far as attention takes them
Shift = Annotated[float, Field(ge=-1e30, le=1e30, allow_inf_nan=False)]
BY_ATTENTION = "attention"  # the blend that averages nothing
HOW = {"inversion": "by DDIM inversion, which wants the ddim sampler", "noise": "by noise alone: looser, no time, "
       "any sampler"}


class ReferencePicture(Settings):
    """A picture whose look is taken."""

    picture: str = Field(description="its file")
    prompt: Words = Field("", description="what it shows, without its look")
    weight: float = Field(1.0, ge=0, le=1e6, allow_inf_nan=False, description="how much it counts among several")
    strength: str = Field("normal", description=" or ".join(STRENGTHS))
    score_scale: Optional[Scale] = Field(None, description="in place of the strength's")
    score_shift: Optional[Shift] = Field(None, description="in place of the strength's")

    @model_validator(mode="after")
    def strength_is_known(self) -> ReferencePicture:
        if self.strength not in STRENGTHS:
            raise unknown("strength", self.strength, STRENGTHS)
        return self

    def scores(self) -> Tuple[float, float]:
        """What its scores are multiplied by, and what is added to them."""
        scale, shift = STRENGTHS[self.strength]
        return (scale if self.score_scale is None else self.score_scale,
                shift if self.score_shift is None else self.score_shift)


class AlignSettings(MethodSettings):
    """What a set takes over from its reference (Hertz et al. 2023; names as in its published code)."""

    strength: ClassVar[Optional[str]] = "style_scale"

    look: Words = Field("", description='words of the look, behind every prompt: "macro photo, 3d render"')
    reference_prompt: Words = Field("", description="what a reference that is drawn shows, without its look; default: "
                                    "nothing but its look")
    reference_seed: Optional[Seed] = Field(None, description="of a reference that is drawn; default: the config's")
    references: List[ReferencePicture] = Field([], description="pictures in place of a reference that is drawn")
    blend: str = Field(BY_ATTENTION, description=f"of several references: {BY_ATTENTION}: each stays one of its own, "
                       f"and the set looks at all of them; or how they become one: {', '.join(BLENDS)}")
    follow: str = Field("inversion", description="how reference pictures get onto the noise levels: "
                        + "; ".join(f"{name}, {how}" for name, how in HOW.items()))
    inversion_guidance: float = Field(2.0, ge=0, le=100, allow_inf_nan=False, description="guidance of the inversion")
    style_scale: float = Field(1.0, allow_inf_nan=False, description="where a learned style draws the set: how strong")
    style_on_reference: bool = Field(False, description="whether its LoRA and token draw the reference, too")
    offset: Optional[int] = Field(None, ge=0, description="steps that a reference picture is ahead at the start; "
                                  "default: a tenth of them, such as the published 5 of 50")
    shared_score_scale: Scale = Field(1.0, description="factor of the scores of a drawn "
                                      "reference's keys")
    shared_score_shift: Shift = Field(0.0, description="added to these scores; with ln 2 = 0.693 "
                                      "the reference counts twice")
    share_attention: bool = Field(True, description="whether the set attends to the reference")
    adain_queries: bool = Field(True, description="whether queries get the reference's mean and deviation")
    adain_keys: bool = True
    adain_values: bool = False
    share_group_norm: bool = Field(False, description="whether group norms count the reference's values, too")
    full_attention_share: bool = Field(False, description="all pictures attend to all: closer, but content leaks; an "
                                       "ablation")
    only_self_level: float = Field(0.0, ge=0, le=1, description="share of the self-attention sites that do not share")

    @model_validator(mode="after")
    def goes_together(self) -> AlignSettings:
        if self.blend not in (*BLENDS, BY_ATTENTION):
            raise unknown("blend", self.blend, (*BLENDS, BY_ATTENTION))
        if self.follow not in HOW:
            raise unknown("way to follow a reference", self.follow, HOW)
        if self.references and not sum(one.weight for one in self.references) > 0:
            raise PydanticCustomError("no_weight", "the weights of the references add up to 0: give one of them some")
        return self

    @model_validator(mode="after")
    def has_an_effect(self) -> AlignSettings:
        """What would change nothing is refused."""
        drawn, scores = "a reference that is drawn", ("shared_score_scale", "shared_score_shift")
        for needed, there, names in (
                ("reference pictures", self.references, ("blend", "follow", "inversion_guidance", "offset")),
                ("several reference pictures", len(self.references) > 1, ("blend",)),
                (f"{drawn}: each picture has its own", not self.references, ("reference_prompt", *scores)),
                ("follow: inversion", self.follow == "inversion", ("inversion_guidance",)),
                ("full_attention_share: false", not self.full_attention_share, scores)):
            changed = [name for name in names if getattr(self, name) != type(self).model_fields[name].default]
            if changed and not there:
                raise PydanticCustomError("no_effect", "{name} has an effect only with {needed}: leave it out",
                                          {"name": changed[0], "needed": needed})
        return self

    def refuse_unfit(self, sampler: str, steps: int) -> None:
        """StyleBlendError for reference pictures that cannot be followed by this sampler in so many steps."""
        if not self.references:
            return
        if self.follow == "inversion" and sampler != "ddim":
            raise StyleBlendError(f"a reference picture is inverted along DDIM's steps, not those of {sampler}: take "
                                  "sampler ddim, or follow: noise")
        if self.ahead(steps) >= steps:
            raise StyleBlendError(f"offset {self.offset} leaves none of {steps} steps: give a smaller offset, or more "
                                  "steps")

    def refuse_without_style(self, style: Optional[str]) -> None:
        """StyleBlendError for a learned style on the reference where no style draws the set."""
        if self.style_on_reference and not style:
            raise StyleBlendError("style_on_reference (--style-on-reference) has no effect without a learned style: "
                                  "leave it out, or name a style")

    def ahead(self, steps: int) -> int:
        """The offset in a drawing of so many steps."""
        return steps // 10 if self.offset is None else self.offset

    def counted(self) -> List[ReferencePicture]:
        """The reference pictures that have a weight."""
        return [one for one in self.references if one.weight > 0]

    def weights(self) -> Tuple[float, ...]:
        """The weight of each of them; they add up to 1."""
        total = sum(one.weight for one in self.references)
        return tuple(one.weight / total for one in self.counted()) or (1.0,)

    def scores(self) -> List[Tuple[float, float]]:
        """Scale and shift of the scores of each reference row: of each reference, or of the one that they become."""
        if not self.references:
            return [(self.shared_score_scale, self.shared_score_shift)]
        each = [one.scores() for one in self.counted()]
        if self.blend == BY_ATTENTION:
            return each
        return [tuple(sum(weight * one for weight, one in zip(self.weights(), column)) for column in zip(*each))]

    def pictures(self) -> List[str]:
        return [one.picture for one in self.counted()]

    def facts(self) -> Dict[str, object]:
        return {"look": self.look, **({"blend": self.blend} if len(self.references) > 1 else {}),
                "references": ", ".join(f"{one.picture} {weight:.3g}"
                                        for one, weight in zip(self.counted(), self.weights()))
                or f"drawn: {self.reference_prompt}"}
