"""Style Encoder's own settings: the prompt around its tokens, its guidance, and the pictures whose style is drawn."""
from __future__ import annotations

from typing import Dict, List, Optional

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from styleblend.settings.validation import A_PLACE, MethodSettings, Settings

TOKEN, PHRASE = "{}", "{prompt}"  # where the style tokens stand in a prompt, and what is drawn
TEMPLATE = "{prompt}, in the style of {}."  # of the published captions


class EncodedPicture(Settings):
    """A picture whose style is taken."""

    picture: str = Field(description="its file")
    weight: float = Field(1.0, ge=0, allow_inf_nan=False, description="how much it counts among several")


class StyleEncoderSettings(MethodSettings):
    """How Style Encoder draws (Chang 2025)."""

    template: Optional[str] = Field(None, description="what a phrase becomes: {prompt} stands for it, {} for the style "
                                    f"tokens; default: what the encoder was trained with, else {TEMPLATE!r}")
    style_guidance: float = Field(1.0, ge=0, le=100, allow_inf_nan=False, description="how far from the prompt without "
                                  "the style to the prompt with it: more is more style")
    references: List[EncodedPicture] = Field([], description="pictures whose style is drawn, where no style is named")
    encoder: Optional[str] = Field(None, description="folder of the encoder that reads them; default: the config's "
                                   "(encoder)", json_schema_extra=A_PLACE)

    @field_validator("template")
    @classmethod
    def tokens_have_a_place(cls, template: Optional[str]) -> Optional[str]:
        for one in (TOKEN, PHRASE) if template is not None else ():
            if template.count(one) != 1:
                raise PydanticCustomError("no_place", "it needs {one} once, as in {example}",
                                          {"one": one, "example": TEMPLATE})
        return template

    @field_validator("references")
    @classmethod
    def something_counts(cls, references: List[EncodedPicture]) -> List[EncodedPicture]:
        if references and not sum(one.weight for one in references) > 0:
            raise PydanticCustomError("no_effect", "all pictures have the weight 0: give one of them a weight", {})
        return references

    def counted(self) -> List[EncodedPicture]:
        """The references whose weight is not 0."""
        return [one for one in self.references if one.weight > 0]

    def weights(self) -> List[float]:
        """Theirs, which add up to 1."""
        total = sum(one.weight for one in self.counted())
        return [one.weight / total for one in self.counted()]

    def pictures(self) -> List[str]:
        return [one.picture for one in self.counted()]

    def facts(self) -> Dict[str, object]:
        return {**({"references": said_of(self.counted())} if self.references else {}),
                "style guidance": self.style_guidance}


def said_of(references: List[EncodedPicture]) -> str:
    """The pictures in words, as the command line takes them."""
    return ", ".join(one.picture + (f":{one.weight:g}" if one.weight != 1 else "") for one in references)
