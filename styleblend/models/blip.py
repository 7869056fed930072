"""BLIP (Li et al. 2022), which says what a picture shows: a vision transformer, and a decoder that looks at it.

Attribute names are those of the transformers checkpoint (BlipForConditionalGeneration).
"""
from __future__ import annotations

from typing import List, Sequence

import numpy as np

from styleblend.kernels import attention
from styleblend.kernels.segments import Segment
from styleblend.machine.runtime import jt
from styleblend.models.blip_configs import BlipTextConfig, BlipVisionConfig
from styleblend.models.clip_text import CLIPMLP, Embedding
from styleblend.models.decoder_cache import DecoderCache, KeysAndValues
from styleblend.models.dino import Dense
from styleblend.models.layers import Conv2d, LayerNorm, Linear, empty, gelu


# ---------------------------------------------------------------- the picture

class VisionEmbeddings(jt.nn.Module):
    def __init__(self, config: BlipVisionConfig):
        size = config.hidden_size
        self.class_embedding = empty(1, 1, size)
        self.position_embedding = empty(1, (config.image_size // config.patch_size) ** 2 + 1, size)
        self.patch_embedding = Conv2d(3, size, config.patch_size, config.patch_size)

    def execute(self, pictures):
        patches = self.patch_embedding(pictures)
        rows, size = patches.shape[:2]
        tokens = patches.reshape(rows, size, -1).permute(0, 2, 1)
        first = self.class_embedding.broadcast([rows, 1, size])
        return jt.concat([first, tokens], dim=1) + self.position_embedding


class VisionAttention(jt.nn.Module):
    """Self-attention whose three projections are one matrix."""

    def __init__(self, size: int, heads: int):
        self.size, self.heads = size, heads
        self.qkv, self.projection = Linear(size, 3 * size), Linear(size, size)

    def execute(self, x):
        q, k, v = jt.split(self.qkv(x), self.size, dim=2)
        return self.projection(attention(q, k, v, self.heads))


class VisionLayer(jt.nn.Module):
    def __init__(self, config: BlipVisionConfig):
        self.layer_norm1, self.layer_norm2 = (LayerNorm(config.hidden_size, config.layer_norm_eps) for _ in range(2))
        self.self_attn = VisionAttention(config.hidden_size, config.num_attention_heads)
        self.mlp = CLIPMLP(config)

    def execute(self, x):
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class VisionEncoder(jt.nn.Module):
    def __init__(self, config: BlipVisionConfig):
        self.layers = jt.nn.ModuleList([VisionLayer(config) for _ in range(config.num_hidden_layers)])


class BlipVisionModel(jt.nn.Module):
    def __init__(self, config: BlipVisionConfig):
        self.embeddings, self.encoder = VisionEmbeddings(config), VisionEncoder(config)
        self.post_layernorm = LayerNorm(config.hidden_size, config.layer_norm_eps)

    def execute(self, pictures):
        """pictures (B, 3, image_size, image_size), normalised -> (B, 1 + patches, width)."""
        x = self.embeddings(pictures)
        for layer in self.encoder.layers:
            x = layer(x)
        return self.post_layernorm(x)


# ---------------------------------------------------------------- the text

class TextEmbeddings(jt.nn.Module):
    def __init__(self, config: BlipTextConfig):
        self.word_embeddings = Embedding(config.vocab_size, config.hidden_size)
        self.position_embeddings = Embedding(config.max_position_embeddings, config.hidden_size)
        self.LayerNorm = LayerNorm(config.hidden_size, config.layer_norm_eps)

    def execute(self, ids: np.ndarray, begin: int):
        """ids (B, L); the first one's place is `begin`."""
        words = self.word_embeddings.weight[jt.array(np.asarray(ids, np.int32))]
        return self.LayerNorm(words + self.position_embeddings.weight[begin:begin + words.shape[1]])


class TextProjections(jt.nn.Module):
    def __init__(self, size: int, read_size: int, heads: int):
        self.heads = heads
        self.query, self.key, self.value = Linear(size, size), Linear(read_size, size), Linear(read_size, size)

    def keys_and_values(self, x) -> KeysAndValues:
        return self.key(x), self.value(x)


class Residual(jt.nn.Module):
    """A linear layer whose result is added to what came in before, with a norm behind."""

    def __init__(self, in_features: int, size: int, eps: float):
        self.dense, self.LayerNorm = Linear(in_features, size), LayerNorm(size, eps)

    def execute(self, x, before):
        return self.LayerNorm(self.dense(x) + before)


class TextAttention(jt.nn.Module):
    """Attention to `read_size` wide states: those of the text itself, or of the picture."""

    def __init__(self, config: BlipTextConfig, read_size: int):
        size = config.hidden_size
        # the checkpoint's name
        self.self = TextProjections(size, read_size, config.num_attention_heads)
        self.output = Residual(size, size, config.layer_norm_eps)

    def to_itself(self, x, cache: DecoderCache, layer: int):
        """To what the text has said so far. Only where it begins may several tokens come at once."""
        k, v = cache.extended(layer, self.self.keys_and_values(x))
        found = attention(self.self.query(x), k, v, self.self.heads, causal=x.shape[1] == k.shape[1])
        return self.output(found, x)

    def to_picture(self, x, picture: KeysAndValues):
        """To the one picture that all rows look at."""
        segments = (Segment(rows=(0,) * x.shape[0]),)
        return self.output(attention(self.self.query(x), *picture, self.self.heads, segments=segments), x)


class TextLayer(jt.nn.Module):
    def __init__(self, config: BlipTextConfig):
        self.attention = TextAttention(config, config.hidden_size)
        self.crossattention = TextAttention(config, config.encoder_hidden_size)
        self.intermediate = Dense(config.hidden_size, config.intermediate_size)
        self.output = Residual(config.intermediate_size, config.hidden_size, config.layer_norm_eps)

    def execute(self, x, cache: DecoderCache, layer: int):
        x = self.attention.to_itself(x, cache, layer)
        x = self.crossattention.to_picture(x, cache.read[layer])
        return self.output(gelu(self.intermediate(x)), x)


class TextEncoder(jt.nn.Module):
    def __init__(self, config: BlipTextConfig):
        self.layer = jt.nn.ModuleList([TextLayer(config) for _ in range(config.num_hidden_layers)])


class Bert(jt.nn.Module):
    def __init__(self, config: BlipTextConfig):
        self.embeddings, self.encoder = TextEmbeddings(config), TextEncoder(config)


class HeadTransform(jt.nn.Module):
    def __init__(self, config: BlipTextConfig):
        self.dense = Linear(config.hidden_size, config.hidden_size)
        self.LayerNorm = LayerNorm(config.hidden_size, config.layer_norm_eps)

    def execute(self, x):
        return self.LayerNorm(gelu(self.dense(x)))


class Predictions(jt.nn.Module):
    """States to logits by the matrix of the words' vectors, which is not stored twice."""

    def __init__(self, config: BlipTextConfig):
        self.transform, self.bias = HeadTransform(config), empty(config.vocab_size)

    def execute(self, x, word_embeddings):
        return jt.nn.matmul_transpose(self.transform(x), word_embeddings) + self.bias


class Head(jt.nn.Module):
    def __init__(self, config: BlipTextConfig):
        self.predictions = Predictions(config)


class TextDecoder(jt.nn.Module):
    def __init__(self, config: BlipTextConfig):
        self.bert, self.cls = Bert(config), Head(config)

    def cache(self, states) -> DecoderCache:
        """What the layers read of a picture's states (1, L, width), for texts that are still to be said."""
        layers = self.bert.encoder.layer
        return DecoderCache([layer.crossattention.self.keys_and_values(states) for layer in layers])

    def execute(self, ids: np.ndarray, cache: DecoderCache):
        """ids (B, L) that follow on what the cache holds -> logits (B, L, vocabulary)."""
        x = self.bert.embeddings(ids, cache.length)
        for number, layer in enumerate(self.bert.encoder.layer):
            x = layer(x, cache, number)
        return self.cls.predictions(x, self.bert.embeddings.word_embeddings.weight)


class BlipForConditionalGeneration(jt.nn.Module):
    """Pictures to captions."""

    def __init__(self, text: BlipTextConfig = BlipTextConfig(), vision: BlipVisionConfig = BlipVisionConfig()):
        self.text_config, self.vision_config = text, vision
        self.vision_model, self.text_decoder = BlipVisionModel(vision), TextDecoder(text)

    def execute(self, picture, ids: Sequence[Sequence[int]]):
        """picture (1, 3, image_size, image_size), normalised; ids (B, L) -> logits (B, L, vocabulary)."""
        return self.text_decoder(np.asarray(ids), self.text_decoder.cache(self.vision_model(picture)))


# what a file says twice -> the name that counts here
TIED = {"text_decoder.cls.predictions.decoder.weight": "text_decoder.bert.embeddings.word_embeddings.weight",
        "text_decoder.cls.predictions.decoder.bias": "text_decoder.cls.predictions.bias"}
NOT_WEIGHTS: List[str] = ["text_decoder.bert.embeddings.position_ids"]  # 0, 1, 2 ... in older files
