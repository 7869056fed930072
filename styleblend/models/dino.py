"""The image encoders DINO (Caron et al. 2021) and DINOv2 (Oquab et al. 2023).

Attribute names are those of the transformers checkpoints.
"""
from __future__ import annotations

from typing import List, Sequence

from styleblend.models.configs import Dinov2Config, ViTConfig
from styleblend.kernels import attention
from styleblend.models.layers import Conv2d, LayerNorm, Linear, empty, gelu
from styleblend.models.resampling import cubic_matrix
from styleblend.machine.runtime import jt


class PatchEmbeddings(jt.nn.Module):
    def __init__(self, config):
        self.projection = Conv2d(3, config.hidden_size, config.patch_size, config.patch_size)


class Embeddings(jt.nn.Module):
    """Pictures of any size that the patch divides: learned positions are resampled to their grid."""

    def __init__(self, config):
        self.side = config.image_size // config.patch_size
        self.cls_token = empty(1, 1, config.hidden_size)
        self.position_embeddings = empty(1, self.side ** 2 + 1, config.hidden_size)
        self.patch_embeddings = PatchEmbeddings(config)

    def execute(self, pictures):
        patches = self.patch_embeddings.projection(pictures)
        rows, size, height, width = patches.shape
        tokens = patches.reshape(rows, size, -1).permute(0, 2, 1)
        return jt.concat([self.cls_token.broadcast([rows, 1, size]), tokens], dim=1) + self.positions(height, width)

    def positions(self, height: int, width: int):
        """(1, 1 + height * width, size), the class token's own position first."""
        if (height, width) == (self.side, self.side):
            return self.position_embeddings
        side, size = self.side, self.position_embeddings.shape[2]
        grid = jt.matmul(jt.array(cubic_matrix(height, side)),
                         self.position_embeddings[0, 1:].reshape(side, side * size))
        grid = grid.reshape(height, side, size).permute(1, 0, 2).reshape(side, height * size)
        grid = jt.matmul(jt.array(cubic_matrix(width, side)), grid).reshape(width, height, size).permute(1, 0, 2)
        return jt.concat([self.position_embeddings[:, :1], grid.reshape(1, height * width, size)], dim=1)


class SelfAttention(jt.nn.Module):
    def __init__(self, size: int, heads: int):
        self.heads = heads
        self.query, self.key, self.value = (Linear(size, size) for _ in range(3))

    def execute(self, x):
        return attention(self.query(x), self.key(x), self.value(x), self.heads)


class Dense(jt.nn.Module):
    """A linear layer one level down, as the checkpoints name it."""

    def __init__(self, in_features: int, out_features: int):
        self.dense = Linear(in_features, out_features)

    def execute(self, x):
        return self.dense(x)


class Attention(jt.nn.Module):
    def __init__(self, config):
        self.attention = SelfAttention(config.hidden_size, config.num_attention_heads)
        self.output = Dense(config.hidden_size, config.hidden_size)

    def execute(self, x):
        return self.output(self.attention(x))


class ViTLayer(jt.nn.Module):
    def __init__(self, config: ViTConfig):
        self.layernorm_before, self.layernorm_after = (LayerNorm(config.hidden_size, config.layer_norm_eps)
                                                       for _ in range(2))
        self.attention = Attention(config)
        self.intermediate = Dense(config.hidden_size, config.intermediate_size)
        self.output = Dense(config.intermediate_size, config.hidden_size)

    def execute(self, x):
        x = x + self.attention(self.layernorm_before(x))
        return x + self.output(gelu(self.intermediate(self.layernorm_after(x))))


class LayerScale(jt.nn.Module):
    """A learned factor for each channel (Touvron et al. 2021)."""

    def __init__(self, size: int):
        self.lambda1 = empty(size)

    def execute(self, x):
        return x * self.lambda1


class MLP(jt.nn.Module):
    def __init__(self, size: int, inner: int):
        self.fc1, self.fc2 = Linear(size, inner), Linear(inner, size)

    def execute(self, x):
        return self.fc2(gelu(self.fc1(x)))


class Dinov2Layer(jt.nn.Module):
    def __init__(self, config: Dinov2Config):
        self.norm1, self.norm2 = (LayerNorm(config.hidden_size, config.layer_norm_eps) for _ in range(2))
        self.layer_scale1, self.layer_scale2 = (LayerScale(config.hidden_size) for _ in range(2))
        self.attention = Attention(config)
        self.mlp = MLP(config.hidden_size, config.hidden_size * config.mlp_ratio)

    def execute(self, x):
        x = x + self.layer_scale1(self.attention(self.norm1(x)))
        return x + self.layer_scale2(self.mlp(self.norm2(x)))


class Encoder(jt.nn.Module):
    def __init__(self, layers: list):
        self.layer = jt.nn.ModuleList(layers)


class DinoModel(jt.nn.Module):
    """Pictures to the states of their patches; `config` says which of the two."""

    def __init__(self, config):
        self.config = config
        kind = ViTLayer if isinstance(config, ViTConfig) else Dinov2Layer
        self.embeddings = Embeddings(config)
        self.encoder = Encoder([kind(config) for _ in range(config.num_hidden_layers)])
        self.layernorm = LayerNorm(config.hidden_size, config.layer_norm_eps)

    def execute(self, pictures):
        """pictures (B, 3, height, width), normalised -> last hidden state (B, 1 + patches, width).

        Sides are multiples of the patch. The class token is first.
        """
        return self.states(pictures, (len(self.encoder.layer),))[0]

    def states(self, pictures, layers: Sequence[int]) -> List:
        """What `execute` gives, of each of these layers, the first one being 1 and the highest one last."""
        x, found = self.embeddings(pictures), []
        for number, layer in enumerate(self.encoder.layer, 1):
            x = layer(x)
            if number in layers:
                found.append(self.layernorm(x))
        return found
