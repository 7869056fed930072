"""T5 (Raffel et al. 2020), which turns a text into another one.

Attribute names are those of the transformers checkpoint.

Its norms have no mean and no bias, its attention no 1 / sqrt(d), and where a word stands is told only by what is added
to the scores, by distance (section 2.1).
"""
from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np

from styleblend.kernels import attention
from styleblend.kernels.segments import Segment
from styleblend.machine.runtime import jt
from styleblend.models.biased_attention import biased_attention
from styleblend.models.clip_text import Embedding
from styleblend.models.decoder_cache import DecoderCache, KeysAndValues
from styleblend.models.layers import Linear, empty

START, END = 0, 1  # tokens: the start is the padding's


@dataclass(frozen=True)
class T5Config:
    """The first T5; the defaults are t5-small. Version 1.1 is another network (gated, not tied)."""

    vocab_size: int = 32128
    d_model: int = 512
    d_kv: int = 64
    d_ff: int = 2048
    num_layers: int = 6
    num_heads: int = 8
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    feed_forward_proj: str = "relu"
    tie_word_embeddings: bool = True
    eos_token_id: int = END

    family = "T5"
    file_defaults: Any = None
    accepted = {"feed_forward_proj": ("relu",), "tie_word_embeddings": (True,), "eos_token_id": (END,)}


def buckets(distance: np.ndarray, both_ways: bool, count: int, farthest: int) -> np.ndarray:
    """Which of `count` summands belongs to a key that stands so many tokens behind its query (negative: before it).

    Half of them are for one distance each, the others for ranges that grow to `farthest`. With `both_ways` one half is
    for what comes behind; else that counts as distance 0.
    """
    behind = np.zeros(distance.shape, int)
    if both_ways:
        count //= 2
        behind, distance = (distance > 0) * count, np.abs(distance)
    else:
        distance = np.maximum(-distance, 0)
    exact = count // 2
    # in float32, as transformers: at the edge of a range the last bit decides
    far = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact)) / math.log(farthest / exact)
    ranged = np.minimum(exact + (far.astype(np.float32) * (count - exact)).astype(int), count - 1)
    return behind + np.where(distance < exact, distance, ranged)


class RMSNorm(jt.nn.Module):
    """Root mean square norm over the last axis (Zhang & Sennrich 2019)."""

    def __init__(self, size: int, eps: float):
        self.eps, self.weight = eps, empty(size)

    def execute(self, x):
        return self.weight * (x * (1 / jt.sqrt((x * x).mean(-1, keepdims=True) + self.eps)))


class T5Attention(jt.nn.Module):
    def __init__(self, config: T5Config, biased: bool):
        size, inner = config.d_model, config.num_heads * config.d_kv
        self.heads = config.num_heads
        self.q, self.k, self.v = (Linear(size, inner, bias=False) for _ in range(3))
        self.o = Linear(inner, size, bias=False)
        if biased:
            self.relative_attention_bias = Embedding(config.relative_attention_num_buckets, config.num_heads)

    def keys_and_values(self, x) -> KeysAndValues:
        return self.k(x), self.v(x)

    def with_bias(self, x, kv: KeysAndValues, bias):
        """To k and v (rows, S, inner); `bias` (heads, L, S) is added to the scores."""
        return self.o(biased_attention(self.q(x), *kv, self.heads, bias, scale=1))

    def to_source(self, x, source: KeysAndValues):
        """To the one text that all rows read."""
        segments = (Segment(rows=(0,) * x.shape[0]),)
        return self.o(attention(self.q(x), *source, self.heads, segments=segments, scale=1.0))


class SelfAttentionLayer(jt.nn.Module):
    def __init__(self, config: T5Config, biased: bool):
        self.SelfAttention = T5Attention(config, biased)
        self.layer_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)

    def execute(self, x, bias, cache: Optional[DecoderCache] = None, number: int = 0):
        normed = self.layer_norm(x)
        kv = self.SelfAttention.keys_and_values(normed)
        kv = cache.extended(number, kv) if cache else kv
        return x + self.SelfAttention.with_bias(normed, kv, bias)


class CrossAttentionLayer(jt.nn.Module):
    def __init__(self, config: T5Config):
        self.EncDecAttention = T5Attention(config, biased=False)
        self.layer_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)

    def execute(self, x, source: KeysAndValues):
        return x + self.EncDecAttention.to_source(self.layer_norm(x), source)


class DenseReluDense(jt.nn.Module):
    def __init__(self, config: T5Config):
        self.wi = Linear(config.d_model, config.d_ff, bias=False)
        self.wo = Linear(config.d_ff, config.d_model, bias=False)

    def execute(self, x):
        return self.wo(jt.nn.relu(self.wi(x)))


class FeedForwardLayer(jt.nn.Module):
    def __init__(self, config: T5Config):
        self.DenseReluDense = DenseReluDense(config)
        self.layer_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)

    def execute(self, x):
        return x + self.DenseReluDense(self.layer_norm(x))


class Block(jt.nn.Module):
    """One layer of the encoder, or of the decoder, which has one part more."""

    def __init__(self, config: T5Config, decodes: bool, biased: bool):
        parts = [SelfAttentionLayer(config, biased), FeedForwardLayer(config)]
        self.layer = jt.nn.ModuleList([parts[0], CrossAttentionLayer(config), parts[1]] if decodes else parts)


class Stack(jt.nn.Module):
    """The encoder or the decoder. Its first layer holds the biases of all."""

    def __init__(self, config: T5Config, decodes: bool):
        self.config, self.decodes = config, decodes
        self.block = jt.nn.ModuleList([Block(config, decodes, biased=number == 0)
                                       for number in range(config.num_layers)])
        self.final_layer_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)

    def bias(self, queries: int, keys: int):
        """(heads, queries, keys), for the last `queries` of the places; the decoder sees nothing that is to come."""
        distance = np.arange(keys)[None] - np.arange(keys - queries, keys)[:, None]
        place = buckets(distance, not self.decodes, self.config.relative_attention_num_buckets,
                        self.config.relative_attention_max_distance)
        weight = self.block[0].layer[0].SelfAttention.relative_attention_bias.weight
        bias = weight[jt.array(place.astype(np.int32))].permute(2, 0, 1)
        hidden = np.where(distance > 0, np.float32(-1e30 if self.decodes else 0), np.float32(0))
        return bias + jt.array(hidden)

    def execute(self, x, cache: Optional[DecoderCache] = None):
        """x (rows, L, d_model); with a cache: of tokens that follow on what it holds."""
        bias = self.bias(x.shape[1], x.shape[1] + (cache.length if cache else 0))
        for number, block in enumerate(self.block):
            x = block.layer[0](x, bias, cache, number)
            if cache:
                x = block.layer[1](x, cache.read[number])
            x = block.layer[-1](x)
        return self.final_layer_norm(x)


class T5ForConditionalGeneration(jt.nn.Module):
    """Texts to texts, one at a time."""

    def __init__(self, config: T5Config = T5Config()):
        self.config = config
        self.shared = Embedding(config.vocab_size, config.d_model)
        self.encoder, self.decoder = Stack(config, decodes=False), Stack(config, decodes=True)

    def embedded(self, ids: np.ndarray):
        return self.shared.weight[jt.array(np.asarray(ids, np.int32))]

    def cache(self, ids: np.ndarray) -> DecoderCache:
        """What the decoder's layers read of a text (1, L), for texts that are still to be said."""
        states = self.encoder(self.embedded(ids))
        return DecoderCache([block.layer[1].EncDecAttention.keys_and_values(states) for block in self.decoder.block])

    def decode(self, ids: np.ndarray, cache: DecoderCache):
        """ids (B, L) that follow on what the cache holds -> logits (B, L, vocabulary)."""
        states = self.decoder(self.embedded(ids), cache) * self.config.d_model ** -0.5  # section 2.1: tied matrices
        return jt.nn.matmul_transpose(states, self.shared.weight)

    def execute(self, source: np.ndarray, ids: np.ndarray):
        """source (1, L) and ids (B, M) -> logits (B, M, vocabulary)."""
        return self.decode(ids, self.cache(source))


# what a file says twice -> the name that counts here
TIED = {"encoder.embed_tokens.weight": "shared.weight", "decoder.embed_tokens.weight": "shared.weight",
        "lm_head.weight": "shared.weight"}
NOT_WEIGHTS = ("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",)  # in older files; of no use
