"""DreamStyler's own settings: the prompt around its tokens, and its guidance."""
from __future__ import annotations

from typing import Dict

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from styleblend.settings.validation import MethodSettings, unknown

TOKEN, PHRASE = "{}", "{prompt}"  # where the tokens of a stage stand in a prompt, and what is drawn
FACTORS = {"code": 0.5, "paper": 1.0}  # of the style and context terms, in the published code and in the paper
DIALS = ("formula", "sty_gamma", "con_gamma", "neg_gamma")


class DreamStylerSettings(MethodSettings):
    """How DreamStyler draws (Ahn et al. 2024; names as in its published code)."""

    template: str = Field("A painting of {prompt}, in the style of {}", description="what a phrase becomes: {prompt} "
                          "stands for it, {} for the style's tokens")
    null_context: str = Field("A painting in the style of {}", description="the same without the phrase: the style "
                              "alone, for style guidance")
    use_sc_guidance: bool = Field(False, description="whether style and context are guided each for itself: four "
                                  "calls of the UNet a step in place of two")
    formula: str = Field("code", description="code: as the published program adds up, with half of the style and "
                         "context terms; paper: the whole of them")
    sty_gamma: float = Field(0.5, ge=0, le=100, allow_inf_nan=False, description="style guidance: more is more style")
    con_gamma: float = Field(3.0, ge=0, le=100, allow_inf_nan=False, description="context guidance: more is more of "
                             "what the prompt says")
    neg_gamma: float = Field(5.0, ge=0, le=100, allow_inf_nan=False, description="guidance away from the negative "
                             "prompt")

    @model_validator(mode="after")
    def tokens_have_a_place(self) -> DreamStylerSettings:
        for name, needed in (("template", (TOKEN, PHRASE)), ("null_context", (TOKEN,))):
            example = type(self).model_fields[name].default
            for one in needed:
                if getattr(self, name).count(one) != 1:
                    raise PydanticCustomError("no_place", "{name} needs {one} once, as in {example}",
                                              {"name": name, "one": one, "example": example})
        return self

    @model_validator(mode="after")
    def has_an_effect(self) -> DreamStylerSettings:
        """What would change nothing is refused."""
        if self.formula not in FACTORS:
            raise unknown("formula", self.formula, FACTORS)
        changed = [name for name in DIALS if getattr(self, name) != type(self).model_fields[name].default]
        if changed and not self.use_sc_guidance:
            raise PydanticCustomError("no_effect", "{name} has an effect only with use_sc_guidance: true: leave it out",
                                      {"name": changed[0]})
        return self

    def facts(self) -> Dict[str, object]:
        dials = {name.replace("_", " "): getattr(self, name) for name in DIALS}
        return {"template": self.template, **(dials if self.use_sc_guidance else {})}
