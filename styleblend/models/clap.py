"""CLAP (Wu et al. 2023, arXiv 2211.06687): sounds and texts as vectors of one space, near to each other where they fit.

A sound is heard by HTSAT (Chen et al. 2022): a Swin transformer (Liu et al. 2021) that looks at a spectrogram. A text
is read by RoBERTa. Attribute names are those of the transformers checkpoint (ClapModel), whose towers are two networks
here: once a list of texts is read, only sounds are heard.
"""
from __future__ import annotations

from typing import Optional

import numpy as np

from styleblend.machine.runtime import jt
from styleblend.models.biased_attention import biased_attention
from styleblend.models.blip import Residual
from styleblend.models.clap_configs import ClapAudioConfig, ClapConfig, ClapTextConfig
from styleblend.models.clip_text import Embedding
from styleblend.models.dino import Dense, SelfAttention
from styleblend.models.layers import BatchNorm2d, Conv2d, LayerNorm, Linear, empty, gelu
from styleblend.models.resampling import aligned_cubic_matrix

FAR = -100.0  # added to the score of a pair that is not side by side, as published: next to nothing is left of it


# ---------------------------------------------------------------- windows, as indices

def window_order(side: int, window: int, shift: int) -> np.ndarray:
    """(side * side,) int32: the places of a picture, window by window.

    The windows begin `shift` places further down and right; what they lack at the end is taken from the beginning.
    """
    places = np.roll(np.arange(side * side).reshape(side, side), (-shift, -shift), (0, 1))
    count = side // window
    return places.reshape(count, window, count, window).transpose(0, 2, 1, 3).reshape(-1).astype(np.int32)


def window_mask(side: int, window: int, shift: int) -> Optional[np.ndarray]:
    """(windows, 1, window ** 2, window ** 2) float32: what is added for pairs whose places are not side by side.

    A shifted window at the end holds places of the beginning, too (section 3.2 of Swin). None without a shift.
    """
    if not shift:
        return None
    line = np.arange(side)
    region = (line >= side - window).astype(int) + (line >= side - shift)
    regions = (3 * region[:, None] + region).reshape(-1)[window_order(side, window, 0)].reshape(-1, window ** 2)
    return np.where(regions[:, :, None] == regions[:, None], 0, FAR).astype(np.float32)[:, None]


def relative_places(window: int) -> np.ndarray:
    """(window ** 2, window ** 2) int32: which row of the table of biases belongs to a pair of places in a window."""
    places = np.stack(np.divmod(np.arange(window ** 2), window))
    down, right = places[:, :, None] - places[:, None] + window - 1
    return (down * (2 * window - 1) + right).astype(np.int32)


def quarters(side: int) -> np.ndarray:
    """(side * side,) int32: the places of a picture, four that lie in a square after each other, down first."""
    places = np.arange(side * side).reshape(side // 2, 2, side // 2, 2)
    return places.transpose(0, 2, 3, 1).reshape(-1).astype(np.int32)


# ---------------------------------------------------------------- the sound

class WindowProjections(SelfAttention):
    """Attention of a window to itself, with a bias for each pair of places."""

    def __init__(self, width: int, heads: int, window: int):
        super().__init__(width, heads)
        self.window = window
        self.relative_position_bias_table = empty((2 * window - 1) ** 2, heads)

    def execute(self, x, mask: Optional[np.ndarray]):
        """x (rows, window ** 2, width); `mask` of `window_mask`."""
        places = jt.array(relative_places(self.window).reshape(-1))
        size = self.window ** 2
        bias = self.relative_position_bias_table[places].reshape(size, size, self.heads).permute(2, 0, 1)
        bias = bias if mask is None else bias + jt.array(mask)
        scale = (x.shape[2] // self.heads) ** -0.5
        return biased_attention(self.query(x), self.key(x), self.value(x), self.heads, bias, scale)


class WindowAttention(jt.nn.Module):
    def __init__(self, width: int, heads: int, window: int):
        # the checkpoint's name
        self.self = WindowProjections(width, heads, window)
        self.output = Dense(width, width)


class SwinLayer(jt.nn.Module):
    """Attention within the windows of a picture, which are shifted in every other layer, and two linear layers."""

    def __init__(self, config: ClapAudioConfig, stage: int, shifted: bool):
        width, side, window = config.widths[stage], config.sides[stage], config.window_size
        shift = window // 2 if shifted and side > window else 0  # a picture of one window has no other
        self.where = side, window, shift
        self.layernorm_before, self.layernorm_after = (LayerNorm(width, config.layer_norm_eps) for _ in range(2))
        self.attention = WindowAttention(width, config.num_attention_heads[stage], window)
        hidden = int(config.mlp_ratio * width)
        self.intermediate, self.output = Dense(width, hidden), Dense(hidden, width)

    def execute(self, x):
        """x (B, places, width)."""
        order = window_order(*self.where)
        windows = self.layernorm_before(x)[:, jt.array(order)].reshape(-1, self.where[1] ** 2, x.shape[2])
        seen = self.attention.output(self.attention.self(windows, window_mask(*self.where)))
        x = x + seen.reshape(x.shape)[:, jt.array(np.argsort(order).astype(np.int32))]
        return x + self.output(gelu(self.intermediate(self.layernorm_after(x))))


class PatchMerging(jt.nn.Module):
    """Four tokens that lie in a square become one, twice as wide."""

    def __init__(self, width: int, side: int):
        self.side = side
        self.norm, self.reduction = LayerNorm(4 * width), Linear(4 * width, 2 * width, bias=False)

    def execute(self, x):
        rows, _, width = x.shape
        return self.reduction(self.norm(x[:, jt.array(quarters(self.side))].reshape(rows, -1, 4 * width)))


class Stage(jt.nn.Module):
    def __init__(self, config: ClapAudioConfig, stage: int):
        self.blocks = jt.nn.ModuleList([SwinLayer(config, stage, shifted=number % 2 == 1)
                                        for number in range(config.depths[stage])])
        last = stage + 1 == len(config.depths)
        self.downsample = None if last else PatchMerging(config.widths[stage], config.sides[stage])

    def execute(self, x):
        for block in self.blocks:
            x = block(x)
        return self.downsample(x) if self.downsample else x


class PatchEmbed(jt.nn.Module):
    def __init__(self, config: ClapAudioConfig):
        width = config.patch_embeds_hidden_size
        self.proj, self.norm = Conv2d(1, width, config.patch_size, config.patch_size), LayerNorm(width)

    def execute(self, x):
        x = self.proj(x)
        return self.norm(x.reshape(*x.shape[:2], -1).permute(0, 2, 1))


class AudioEncoder(jt.nn.Module):
    def __init__(self, config: ClapAudioConfig):
        self.config = config
        self.batch_norm = BatchNorm2d(config.num_mel_bins)
        self.patch_embed = PatchEmbed(config)
        self.layers = jt.nn.ModuleList([Stage(config, number) for number in range(len(config.depths))])
        self.norm = LayerNorm(config.hidden_size)

    def picture(self, features):
        """(B, frames, bands) -> (B, 1, spec_size, spec_size): the time in pieces, one below the other."""
        rows, frames, bands = features.shape
        x = self.batch_norm(features.permute(0, 2, 1).reshape(rows, bands, frames, 1)).reshape(rows, bands, frames)
        side = self.config.spec_size
        pieces = side // bands
        x = jt.matmul(x, jt.array(aligned_cubic_matrix(side * pieces, frames).T))
        return x.reshape(rows, bands, pieces, side).permute(0, 2, 1, 3).reshape(rows, 1, side, side)

    def execute(self, features):
        x = self.patch_embed(self.picture(features))
        for stage in self.layers:
            x = stage(x)
        return self.norm(x).mean(1)


class ClapAudioModel(jt.nn.Module):
    def __init__(self, config: ClapAudioConfig):
        self.audio_encoder = AudioEncoder(config)


# ---------------------------------------------------------------- the text

class TextEmbeddings(jt.nn.Module):
    def __init__(self, config: ClapTextConfig):
        size = config.hidden_size
        self.first = config.pad_token_id + 1
        self.word_embeddings = Embedding(config.vocab_size, size)
        self.position_embeddings = Embedding(config.max_position_embeddings, size)
        self.token_type_embeddings = Embedding(config.type_vocab_size, size)
        self.LayerNorm = LayerNorm(size, config.layer_norm_eps)

    def execute(self, ids: np.ndarray):
        words = self.word_embeddings.weight[jt.array(np.asarray(ids, np.int32))]
        places = self.position_embeddings.weight[self.first:self.first + words.shape[1]]
        return self.LayerNorm(words + self.token_type_embeddings.weight[0] + places)


class TextAttention(jt.nn.Module):
    def __init__(self, config: ClapTextConfig):
        size = config.hidden_size
        self.self = SelfAttention(size, config.num_attention_heads)
        self.output = Residual(size, size, config.layer_norm_eps)


class TextLayer(jt.nn.Module):
    def __init__(self, config: ClapTextConfig):
        self.attention = TextAttention(config)
        self.intermediate = Dense(config.hidden_size, config.intermediate_size)
        self.output = Residual(config.intermediate_size, config.hidden_size, config.layer_norm_eps)

    def execute(self, x):
        x = self.attention.output(self.attention.self(x), x)
        return self.output(gelu(self.intermediate(x)), x)


class TextEncoder(jt.nn.Module):
    def __init__(self, config: ClapTextConfig):
        self.layer = jt.nn.ModuleList([TextLayer(config) for _ in range(config.num_hidden_layers)])


class ClapTextModel(jt.nn.Module):
    def __init__(self, config: ClapTextConfig):
        self.embeddings, self.encoder = TextEmbeddings(config), TextEncoder(config)
        self.pooler = Dense(config.hidden_size, config.hidden_size)

    def execute(self, ids: np.ndarray):
        x = self.embeddings(ids)
        for layer in self.encoder.layer:
            x = layer(x)
        return jt.tanh(self.pooler(x[:, 0]))


# ---------------------------------------------------------------- both in one space

class Projection(jt.nn.Module):
    def __init__(self, width: int, out: int):
        self.linear1, self.linear2 = Linear(width, out), Linear(out, out)

    def execute(self, x):
        """(B, width) -> (B, out) of length 1."""
        x = self.linear2(jt.nn.relu(self.linear1(x)))
        return x / jt.maximum(jt.sqrt((x * x).sum(1, keepdims=True)), 1e-12)


class ClapAudioModelWithProjection(jt.nn.Module):
    """Sounds to vectors."""

    def __init__(self, config: ClapConfig = ClapConfig()):
        self.audio_model = ClapAudioModel(config.audio)
        self.audio_projection = Projection(config.audio.hidden_size, config.projection.projection_dim)

    def execute(self, features):
        """features (B, frames, bands) of `clap_features.log_mel` -> (B, projection_dim) of length 1."""
        return self.audio_projection(self.audio_model.audio_encoder(features))


class ClapTextModelWithProjection(jt.nn.Module):
    """Texts to vectors."""

    def __init__(self, config: ClapConfig = ClapConfig()):
        self.text_model = ClapTextModel(config.text)
        self.text_projection = Projection(config.text.hidden_size, config.projection.projection_dim)

    def execute(self, ids: np.ndarray):
        """ids (B, L), with start and end and no padding -> (B, projection_dim) of length 1."""
        return self.text_projection(self.text_model(ids))


# what a file holds besides, as patterns: indices that follow from the sizes, and how a training weighed its loss
NOT_WEIGHTS = ("*.position_ids", "*.token_type_ids", "*.relative_position_index", "*.num_batches_tracked",
               "logit_scale_a", "logit_scale_t")
AUDIO = ("audio_model.*", "audio_projection.*")  # patterns of the tower that hears
