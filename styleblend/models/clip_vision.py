"""The CLIP image encoder (Radford et al. 2021). Attribute names are those of the transformers checkpoint."""
from __future__ import annotations

from styleblend.models.configs import ClipVisionConfig
from styleblend.models.clip_text import CLIPEncoder, Embedding
from styleblend.models.layers import LayerNorm, Linear, empty
from styleblend.machine.runtime import jt

MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class PatchEmbedding(jt.nn.Module):
    """A convolution whose stride is its size, without bias."""

    def __init__(self, channels: int, size: int, patch: int):
        self.patch, self.weight = patch, empty(size, channels, patch, patch)

    def execute(self, x):
        return jt.nn.conv2d(x, self.weight, None, self.patch)


class CLIPVisionEmbeddings(jt.nn.Module):
    def __init__(self, config: ClipVisionConfig):
        self.class_embedding = empty(config.hidden_size)
        self.patch_embedding = PatchEmbedding(3, config.hidden_size, config.patch_size)
        self.position_embedding = Embedding((config.image_size // config.patch_size) ** 2 + 1, config.hidden_size)

    def execute(self, pictures):
        patches = self.patch_embedding(pictures)
        rows, size = patches.shape[:2]
        tokens = patches.reshape(rows, size, -1).permute(0, 2, 1)
        first = self.class_embedding.reshape(1, 1, -1).broadcast([rows, 1, size])
        return jt.concat([first, tokens], dim=1) + self.position_embedding.weight


class CLIPVisionTransformer(jt.nn.Module):
    def __init__(self, config: ClipVisionConfig):
        self.embeddings = CLIPVisionEmbeddings(config)
        self.pre_layrnorm = LayerNorm(config.hidden_size, config.layer_norm_eps)  # the checkpoint's spelling
        self.encoder = CLIPEncoder(config, causal=False)
        self.post_layernorm = LayerNorm(config.hidden_size, config.layer_norm_eps)


class CLIPVisionModel(jt.nn.Module):
    """Pictures to patch tokens."""

    def __init__(self, config: ClipVisionConfig = ClipVisionConfig()):
        self.config = config
        self.vision_model = CLIPVisionTransformer(config)

    def execute(self, pictures):
        """pictures (B, 3, image_size, image_size), normalised -> last hidden state (B, 1 + patches, width).

        The class token is first.
        """
        x = self.vision_model.pre_layrnorm(self.vision_model.embeddings(pictures))
        for layer in self.vision_model.encoder.layers:
            x = layer(x)
        return x


class CLIPVisionModelWithProjection(CLIPVisionModel):
    """Pictures to vectors that lie beside those of `CLIPTextModelWithProjection`."""

    def __init__(self, config: ClipVisionConfig, projection: int):
        super().__init__(config)
        self.visual_projection = Linear(config.hidden_size, projection, bias=False)

    def execute(self, pictures):
        """pictures (B, 3, image_size, image_size), normalised -> (B, projection), of any length."""
        return self.visual_projection(self.vision_model.post_layernorm(super().execute(pictures)[:, 0]))
