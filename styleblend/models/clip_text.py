"""The CLIP text encoder of Stable Diffusion 2.x. Attribute names are those of the transformers checkpoint."""
from __future__ import annotations

import numpy as np

from styleblend.models.configs import ClipTextConfig
from styleblend.kernels import attention
from styleblend.models.layers import LayerNorm, Linear, empty, gelu, quick_gelu
from styleblend.machine.precision import added, cast
from styleblend.machine.runtime import jt


class Embedding(jt.nn.Module):
    def __init__(self, count: int, size: int):
        self.weight = empty(count, size)


class CLIPAttention(jt.nn.Module):
    """Self-attention, causal for text.

    `loras` (layer -> LoRA) may hold any of the four projections; `scale` is one factor a row.
    """

    def __init__(self, size: int, heads: int, causal: bool):
        self.heads, self.causal = heads, causal
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (Linear(size, size) for _ in range(4))

    def execute(self, x, loras, scale):
        q, k, v = (p(x, loras.get(p), scale) for p in (self.q_proj, self.k_proj, self.v_proj))
        return self.out_proj(attention(q, k, v, self.heads, causal=self.causal), loras.get(self.out_proj), scale)


class CLIPMLP(jt.nn.Module):
    def __init__(self, config):
        self.activation = {"gelu": gelu, "quick_gelu": quick_gelu}[config.hidden_act]
        self.fc1 = Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = Linear(config.intermediate_size, config.hidden_size)

    def execute(self, x):
        return self.fc2(self.activation(cast(self.fc1(x), "float32")))


class CLIPEncoderLayer(jt.nn.Module):
    """One layer of the text or the vision tower.

    `config` has hidden_size, intermediate_size, num_attention_heads, hidden_act.
    """

    def __init__(self, config, causal: bool = True):
        self.self_attn = CLIPAttention(config.hidden_size, config.num_attention_heads, causal)
        self.layer_norm1 = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.layer_norm2 = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.mlp = CLIPMLP(config)

    def execute(self, x, loras={}, scale=None):
        x = added(x, self.self_attn(self.layer_norm1(x), loras, scale))
        return added(x, self.mlp(self.layer_norm2(x)))


class CLIPTextEmbeddings(jt.nn.Module):
    def __init__(self, config: ClipTextConfig):
        self.token_embedding = Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = Embedding(config.max_position_embeddings, config.hidden_size)

    def execute(self, ids: np.ndarray, placeholders=None):
        """ids (B, L) integers; ids from vocab_size on are rows of `placeholders` (K, width)."""
        vocabulary = self.token_embedding.weight.shape[0]
        kept = self.token_embedding.weight.dtype
        x = cast(self.token_embedding.weight[jt.array(np.minimum(ids, vocabulary - 1).astype(np.int32))], "float32")
        if placeholders is not None and (ids >= vocabulary).any():
            own = placeholders[jt.array(np.maximum(ids - vocabulary, 0).astype(np.int32))]
            x = jt.ternary(jt.array((ids >= vocabulary)[..., None]).broadcast(x.shape), own, x)
        return cast(x + self.position_embedding.weight[:ids.shape[1]], kept)


class CLIPEncoder(jt.nn.Module):
    def __init__(self, config, causal: bool = True):
        self.layers = jt.nn.ModuleList([CLIPEncoderLayer(config, causal) for _ in range(config.num_hidden_layers)])


class CLIPTextTransformer(jt.nn.Module):
    def __init__(self, config: ClipTextConfig):
        self.embeddings, self.encoder = CLIPTextEmbeddings(config), CLIPEncoder(config)
        self.final_layer_norm = LayerNorm(config.hidden_size, config.layer_norm_eps)


class CLIPTextModel(jt.nn.Module):
    """Token ids to the states that cross-attention reads.

    SD 2.x ends one layer early: its file simply has 23 layers.
    """

    def __init__(self, config: ClipTextConfig = ClipTextConfig()):
        self.config = config
        self.text_model = CLIPTextTransformer(config)

    def execute(self, ids, placeholders=None, loras={}, lora_scale=None, penultimate: bool = False):
        """ids (B, 77) integers -> (B, 77, width), final norm applied.

        `placeholders` (K, width) are the embeddings of ids from vocab_size on; `loras`: layer -> LoRA; `lora_scale`:
        None (1) or a Var (B,), their factor in each row; `penultimate` leaves out the last layer and the final norm.
        """
        ids = np.asarray(ids)
        x = self.text_model.embeddings(ids, placeholders)
        layers = list(self.text_model.encoder.layers)
        for layer in layers[:-1] if penultimate else layers:
            x = layer(x, loras, lora_scale)
        return x if penultimate else self.text_model.final_layer_norm(x)


class CLIPTextModelWithProjection(CLIPTextModel):
    """Texts to vectors that lie beside those of `CLIPVisionModelWithProjection`."""

    def __init__(self, config: ClipTextConfig, projection: int):
        super().__init__(config)
        self.text_projection = Linear(config.hidden_size, projection, bias=False)

    def execute(self, ids):
        """ids (B, L) integers -> (B, projection): the state at the first end token.

        That has the highest id, so it does not matter what pads.
        """
        states = super().execute(ids)
        ends = jt.array(np.asarray(ids).argmax(1).astype(np.int32))
        return self.text_projection(states[jt.arange(len(ends)), ends])
