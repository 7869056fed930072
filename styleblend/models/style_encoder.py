"""Style Encoder (Chang 2025, section 3): a CLIP image encoder, and a linear map from it to style tokens."""
from __future__ import annotations

from styleblend.models.clip_vision import CLIPVisionModel
from styleblend.models.configs import StyleEncoderConfig
from styleblend.models.layers import Linear


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
