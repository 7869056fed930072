"""CLIP's ResNet (Radford et al. 2021), as CLIP-IQA uses it: without positions, on pictures of any size.

Attribute names are those of the first release.
"""
from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Dict, Tuple

import numpy as np

from styleblend.models.clip_names import layer_tensors
from styleblend.models.configs import ClipTextConfig
from styleblend.kernels import attention
from styleblend.models.layers import BatchNorm2d, Conv2d, Linear
from styleblend.machine.runtime import jt

# in the file, but of no use here: the pooling has no positions, and the rest can be seen from the shapes
UNUSED = ("visual.attnpool.positional_embedding", "logit_scale", "attn_mask", "input_resolution",
          "context_length", "vocab_size")


@dataclass(frozen=True)
class ClipResNetConfig:
    """RN50. Its release has no config.json: the sizes are those of the tensors."""

    layers: Tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64
    projection: int = 1024


def sizes(tensors: Dict[str, np.ndarray]) -> Tuple[ClipResNetConfig, ClipTextConfig]:
    """Of both towers, from the tensors of a file. KeyError, ValueError or IndexError when it is no such file."""
    stages = [match[1]
              for match in (re.fullmatch(r"visual\.layer(\d)\.\d+\.conv1\.weight", name) for name in tensors) if match]
    layers = tuple(stages.count(str(1 + stage)) for stage in range(len(set(stages))))
    width, (words, hidden) = tensors["visual.conv3.weight"].shape[0], tensors["token_embedding.weight"].shape
    depth = sum(name.endswith("mlp.c_fc.weight") for name in tensors)
    if not all(layers) or hidden % 64 or (width << len(layers) + 1) % 64:
        raise ValueError("heads of 64 channels do not fit into its widths")
    text = ClipTextConfig(words, hidden, tensors["transformer.resblocks.0.mlp.c_fc.bias"].shape[0], depth, hidden // 64,
                          tensors["positional_embedding"].shape[0], "quick_gelu")
    return ClipResNetConfig(layers, width, tensors["visual.attnpool.c_proj.weight"].shape[0]), text


def text_tensors(tensors: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
    """The text tower by the names of `CLIPTextModelWithProjection`; a name of neither tower stays as it is."""
    names = {"token_embedding.weight": "embeddings.token_embedding.weight",
             "positional_embedding": "embeddings.position_embedding.weight",
             "ln_final.weight": "final_layer_norm.weight", "ln_final.bias": "final_layer_norm.bias"}
    found = {}
    for name, tensor in tensors.items():
        if name.startswith("visual.") or name in UNUSED:
            continue
        layer = layer_tensors(name, tensor)
        if name == "text_projection":
            found["text_projection.weight"] = tensor.T
        elif layer:
            found.update({f"text_model.{own}": part for own, part in layer.items()})
        else:
            found[f"text_model.{names[name]}" if name in names else name] = tensor
    return found


def visual_tensors(tensors: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
    """The image tower by the names of `CLIPResNet`."""
    return {name[len("visual."):]: tensor for name, tensor in tensors.items()
            if name.startswith("visual.") and name not in UNUSED and not name.endswith("num_batches_tracked")}


def halved(x):
    """Means of 2 x 2 pixels; an odd last row or column is left out."""
    rows, channels, height, width = x.shape
    x = x[:, :, :height // 2 * 2, :width // 2 * 2]
    return x.reshape(rows, channels, height // 2, 2, width // 2, 2).mean((3, 5))


class Bottleneck(jt.nn.Module):
    """Halves by a mean before a convolution, not by a stride."""

    def __init__(self, channels: int, inner: int, stride: int):
        self.stride = stride
        self.conv1, self.bn1 = Conv2d(channels, inner, 1, bias=False), BatchNorm2d(inner)
        self.conv2, self.bn2 = Conv2d(inner, inner, 3, padding=1, bias=False), BatchNorm2d(inner)
        self.conv3, self.bn3 = Conv2d(inner, 4 * inner, 1, bias=False), BatchNorm2d(4 * inner)
        wider = stride > 1 or channels != 4 * inner
        self.downsample = (jt.nn.ModuleList([Conv2d(channels, 4 * inner, 1, bias=False), BatchNorm2d(4 * inner)])
                           if wider else None)

    def execute(self, x):
        y = jt.nn.relu(self.bn1(self.conv1(x)))
        y = jt.nn.relu(self.bn2(self.conv2(y)))
        if self.stride > 1:
            x, y = halved(x), halved(y)
        if self.downsample is not None:
            x = self.downsample[1](self.downsample[0](x))
        return jt.nn.relu(x + self.bn3(self.conv3(y)))


class AttentionPool(jt.nn.Module):
    """The mean of all places asks all places."""

    def __init__(self, channels: int, heads: int, out: int):
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj = (Linear(channels, channels) for _ in range(3))
        self.c_proj = Linear(channels, out)

    def execute(self, x):
        x = x.reshape(x.shape[0], x.shape[1], -1).permute(0, 2, 1)
        mean = x.mean(1, keepdims=True)
        x = jt.concat([mean, x], dim=1)
        return self.c_proj(attention(self.q_proj(mean), self.k_proj(x), self.v_proj(x), self.heads))[:, 0]


class CLIPResNet(jt.nn.Module):
    def __init__(self, config: ClipResNetConfig = ClipResNetConfig()):
        width = config.width
        self.conv1, self.bn1 = Conv2d(3, width // 2, 3, stride=2, padding=1, bias=False), BatchNorm2d(width // 2)
        self.conv2, self.bn2 = Conv2d(width // 2, width // 2, 3, padding=1, bias=False), BatchNorm2d(width // 2)
        self.conv3, self.bn3 = Conv2d(width // 2, width, 3, padding=1, bias=False), BatchNorm2d(width)
        channels = width
        for stage, blocks in enumerate(config.layers):
            inner = width << stage
            setattr(self, f"layer{stage + 1}",
                    jt.nn.ModuleList([Bottleneck(4 * inner if block else channels, inner,
                                                 2 if stage and not block else 1) for block in range(blocks)]))
            channels = 4 * inner
        self.stages = len(config.layers)
        self.attnpool = AttentionPool(channels, channels // 64, config.projection)

    def execute(self, pictures):
        """pictures (B, 3, height, width), normalised, sides of at least 32 -> (B, projection), of any length."""
        x = pictures
        for number in (1, 2, 3):
            x = jt.nn.relu(getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(x)))
        x = halved(x)
        for stage in range(1, self.stages + 1):
            for block in getattr(self, f"layer{stage}"):
                x = block(x)
        return self.attnpool(x)
