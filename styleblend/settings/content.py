"""A content picture: what is drawn anew in a style, by image to image."""
from __future__ import annotations

from typing import Optional

from pydantic import Field, model_validator

from styleblend.errors import StyleBlendError
from styleblend.settings.validation import Settings, unknown

BEGINNINGS = {"noise": "its latents with noise, as published", "inversion": "the noise that DDIM inversion finds for "
              "it, as the paper has it; wants the ddim sampler"}
STRENGTHS = {"noise": 0.8, "inversion": 1.0}  # where none is said


class ContentSettings(Settings):
    """One content picture, and how much of it is drawn again."""

    picture: str = Field(description="its file; of other proportions than the drawing its middle is taken")
    begin: str = Field("noise", description="where its drawing begins. "
                       + "; ".join(f"{name}: {what}" for name, what in BEGINNINGS.items()))
    strength: Optional[float] = Field(None, gt=0, le=1, description="share of the steps that are drawn again; default: "
                                      + ", ".join(f"{share:g} from {name}" for name, share in STRENGTHS.items()))

    @model_validator(mode="after")
    def is_known(self) -> ContentSettings:
        if self.begin not in BEGINNINGS:
            raise unknown("beginning", self.begin, BEGINNINGS)
        return self

    def share(self) -> float:
        """The strength, also where none is said."""
        return STRENGTHS[self.begin] if self.strength is None else self.strength

    def refuse_unfit(self, sampler: str, steps: int) -> None:
        """StyleBlendError where the sampler does not go with the beginning, or none of the steps would be drawn."""
        if self.begin == "inversion" and sampler != "ddim":
            raise StyleBlendError(f"an inverted content picture is drawn by ddim, not by {sampler}: take --sampler "
                                  "ddim, or leave out --invert")
        if int(steps * self.share()) < 1:
            raise StyleBlendError(f"a strength of {self.share():g} leaves none of {steps} steps: give a higher "
                                  "--strength")
