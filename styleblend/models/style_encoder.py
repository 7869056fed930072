"""Style Encoder (Chang 2025, section 3): a CLIP image encoder, and a linear map from it to style tokens."""
from __future__ import annotations

from dataclasses import dataclass

from styleblend.models.clip_vision import CLIPVisionModel
from styleblend.models.configs import ClipVisionConfig
from styleblend.models.layers import Linear

FITS = ("squash", "crop")  # how a picture of other proportions becomes square


@dataclass(frozen=True)
class StyleEncoderConfig(ClipVisionConfig):
    """The image encoder's sizes, those of the tokens, and what pictures and prompts look like to it."""

    tokens: int = 8  # of a picture
    width: int = 1024  # of a token: that of the base's word embeddings
    fit: str = "squash"
    template: str = "{prompt}, in the style of {}."  # of the captions that it was trained with
    base: str = ""  # fingerprint of the base that it belongs to; "": it does not say

    family = "style encoder"
    accepted = {**ClipVisionConfig.accepted, "fit": FITS}


class StyleEncoder(CLIPVisionModel):
    """Pictures to vectors in the space of word embeddings. Attribute names are those of the published checkpoint."""

    def __init__(self, config: StyleEncoderConfig = StyleEncoderConfig()):
        super().__init__(config)
        self.proj = Linear(config.hidden_size, config.tokens * config.width)

    def pooled(self, pictures):
        """pictures (B, 3, image_size, image_size) in -1..1 -> the class token behind its norm, (B, hidden_size)."""
        return self.vision_model.post_layernorm(super().execute(pictures)[:, 0])

    def execute(self, pictures):
        """pictures (B, 3, image_size, image_size) in -1..1 -> style tokens (B, tokens, width)."""
        return self.proj(self.pooled(pictures)).reshape(-1, self.config.tokens, self.config.width)
