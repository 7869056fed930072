"""How a style encoder is trained: its network, and its stages. The defaults are the published ones (Chang 2025)."""
from __future__ import annotations

import math
from typing import Literal, Optional

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from styleblend.settings.training import OptimiserSettings
from styleblend.settings.validation import Settings


class EncoderNetworkSettings(Settings):
    """The image encoder where a training begins with a new one: a vision transformer as CLIP's."""

    hidden_size: int = Field(1024, ge=8, le=4096)
    intermediate_size: int = Field(4096, ge=8, le=16384)
    num_hidden_layers: int = Field(24, ge=1, le=64)
    num_attention_heads: int = Field(16, ge=1, le=64)
    image_size: int = Field(224, ge=16, le=1024)
    patch_size: int = Field(14, ge=2, le=128)
    hidden_act: Literal["quick_gelu", "gelu"] = "quick_gelu"
    tokens: int = Field(8, ge=1, le=64, description="style tokens of a picture")
    template: str = Field("{prompt}, in the style of {}.", pattern=r"^[^{}]*\{prompt\}[^{}]*[^{}\w]\{\}[.!]$",
                          description="of the captions; {} stands for the tokens, a word of its own, and one sign "
                          "(. or !) behind it: there the published assembly looks for them")

    @model_validator(mode="after")
    def divides(self) -> EncoderNetworkSettings:
        for whole, part in (("hidden_size", "num_attention_heads"), ("image_size", "patch_size")):
            if getattr(self, whole) % getattr(self, part):
                raise PydanticCustomError("no_multiple", "{whole} must be a multiple of {part}",
                                          {"whole": whole, "part": part})
        return self


class InversionSettings(OptimiserSettings):
    """Stage tokens: the style tokens of each picture by inversion."""

    steps: int = Field(200, ge=1, description="of each picture")
    lr: float = Field(1e-3, gt=0)
    batch: int = Field(8, ge=1, description="pictures that are learned side by side")
    spread: float = Field(0.02, ge=0, le=10, description="standard deviation of the numbers that tokens start from")


class EncoderStageSettings(OptimiserSettings):
    """A stage that trains the encoder."""

    steps: int = Field(37500, ge=0)  # ten epochs of the 30,000 pictures of Style30k
    lr: float = Field(1e-4, gt=0)
    batch: int = Field(8, ge=1)


class FinetuneSettings(EncoderStageSettings):
    """Stage finetune: the noise loss, with a learning rate that falls as a cosine."""

    steps: int = Field(18750, ge=0)
    lr: float = Field(2e-4, gt=0)
    floor: float = Field(0.0, ge=0, description="the learning rate at the end")
    reads: Literal["own", "style"] = Field(
        "own", description="the picture whose tokens stand in a caption: its own, or any of its style, so that tokens "
        "cannot say what a picture shows. style needs a corpus that says the styles")

    def rate(self, step: int) -> float:
        return self.floor + (self.lr - self.floor) * (1 + math.cos(math.pi * step / max(1, self.steps))) / 2


class JointSettings(FinetuneSettings):
    """Stage joint: the noise loss, and what style and content of one-step pictures have in common with others'."""

    steps: int = Field(37500, ge=0)
    batch: int = Field(4, ge=1)
    floor: float = Field(1e-6, ge=0)
    style: float = Field(1.0, ge=0, le=1e6, description="weight of the style term")
    content: float = Field(1.0, ge=0, le=1e6, description="weight of the content term")
    as_published: bool = Field(False, description="the published terms, to compare: the generated picture is a "
                               "constant to them, so content has no gradient. Published weights are 100 and 100")


class EncoderTrainingSettings(Settings):
    """All that `train encoder` does."""

    fit: Literal["squash", "crop"] = Field("squash", description="how the encoder's pictures become square")
    network: EncoderNetworkSettings = EncoderNetworkSettings()
    start: Optional[str] = Field(None, description="folder of a CLIP image encoder or a style encoder to begin with, "
                                 "in place of a new network")
    tokens: InversionSettings = InversionSettings()
    encoder: EncoderStageSettings = EncoderStageSettings()
    finetune: FinetuneSettings = FinetuneSettings()
    joint: JointSettings = JointSettings()
