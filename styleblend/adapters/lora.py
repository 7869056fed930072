"""LoRA (Hu et al. 2021): a low-rank addition to linear layers, with one scale for each batch row.

`y = W x + scale[row] * up(down(x))`. The base is never touched: the LoRAs of a network are a mapping from its layers,
which goes down as an argument of each call. So two pipelines share one base and do not disturb each other. Names of
parameters are those of the diffusers format: `<path>.lora.down.weight` (rank, in) and `<path>.lora.up.weight`
(out, rank).
"""
from __future__ import annotations

import math
import re
from typing import Any, Dict, Iterator, Optional, Tuple

import numpy as np

from styleblend.errors import StyleBlendError, printable
from styleblend.adapters.formats import flat, layer_table, pairs, refuse_foreign, with_model
from styleblend.models.layers import Linear
from styleblend.machine.runtime import jt

UNET_TARGETS = r".*\.attn[12]\.(to_q|to_k|to_v|to_out\.0)"
TEXT_TARGETS = r".*\.self_attn\.(q_proj|k_proj|v_proj|out_proj)"


class LoRA(jt.nn.Module):
    def __init__(self, down: np.ndarray, up: np.ndarray):
        self.down = Linear(down.shape[1], down.shape[0], bias=False)
        self.up = Linear(up.shape[1], up.shape[0], bias=False)
        self.down.weight = jt.array(np.ascontiguousarray(down, np.float32))
        self.up.weight = jt.array(np.ascontiguousarray(up, np.float32))

    def execute(self, x, scale=None):
        y = self.up(self.down(x))
        return y if scale is None else y * scale.reshape([-1] + [1] * (len(x.shape) - 1))


def targets(network, pattern: str) -> Iterator[Tuple[str, Linear]]:
    """Names and layers of all linear layers of a network whose whole name matches the pattern."""
    for name, module in network.named_modules():
        if isinstance(module, Linear) and re.fullmatch(pattern, name):
            yield name, module


Loras = Dict[Linear, LoRA]  # of one network, in the order of its layers


def new(network, pattern: str, rank: int, rng: np.random.Generator, init: str = "gaussian") -> Loras:
    """A new LoRA for every target, which changes nothing yet (up is zero).

    `init` of the down matrix: "gaussian" (standard deviation 1 / rank, as diffusers) or "kaiming" (sqrt(2 / in)).
    """
    made = {}
    for _, linear in targets(network, pattern):
        std = 1 / rank if init == "gaussian" else math.sqrt(2 / linear.in_features)
        down = rng.normal(0, std, (rank, linear.in_features)).astype(np.float32)
        made[linear] = LoRA(down, np.zeros((linear.out_features, rank), np.float32))
    return made


def parameters(network, loras: Loras) -> Dict[str, "jt.Var"]:
    """The parameters of LoRAs by name, in the order of the network."""
    found = {}
    for name, linear in network.named_modules():
        if isinstance(linear, Linear) and linear in loras:
            found[f"{name}.lora.down.weight"] = loras[linear].down.weight
            found[f"{name}.lora.up.weight"] = loras[linear].up.weight
    return found


def arrays(network, loras: Loras) -> Dict[str, np.ndarray]:
    """LoRAs as arrays, keys as in `parameters`."""
    return {name: p.numpy() for name, p in parameters(network, loras).items()}


def check_fit(path: str, linear: Linear, down: np.ndarray, up: np.ndarray, source: str) -> None:
    """StyleBlendError when a pair of matrices does not fit the layer `path`."""
    if (down.ndim != 2 or up.ndim != 2 or down.shape[1] != linear.in_features or up.shape[0] != linear.out_features
            or down.shape[0] != up.shape[1]):
        what = f"{path} has {down.shape} and {up.shape}, needed {linear.in_features} -> {linear.out_features}"
        if reads_text(path) and down.ndim == 2:
            what = f"text width {with_model(down.shape[1])}, needed {with_model(linear.in_features)}; {what}"
        raise StyleBlendError(f"{source} is for another base ({what}): get one for this base")


def reads_text(path: str) -> bool:
    """Whether a layer reads the states of the text encoder, whose width tells models apart."""
    return bool(re.search(r"attn2\.to_[kv]$|self_attn\.[qkv]_proj$", path))


def load(network, pattern: str, tensors: Dict[str, np.ndarray], source: str) -> Loras:
    """A trained LoRA for a network. `tensors` has keys `<path>.lora.down.weight` and `.lora.up.weight`.

    Every key must belong to a target, come in pairs and fit in shape: StyleBlendError otherwise.
    """
    layers, made = dict(targets(network, pattern)), {}
    for key, down in tensors.items():
        path, end = key.rsplit(".lora.", 1) if ".lora." in key else (key, "")
        if path not in layers or end not in ("down.weight", "up.weight"):
            raise StyleBlendError(f"{source}: {key} names no layer that a LoRA of this base can have; "
                                  "is it for another base?")
        up = tensors.get(f"{path}.lora.up.weight")
        if end == "up.weight":
            if f"{path}.lora.down.weight" not in tensors:
                raise StyleBlendError(f"{source}: {path} has an up matrix without a down matrix: "
                                      "the file is incomplete")
            continue
        if up is None:
            raise StyleBlendError(f"{source}: {path} has a down matrix without an up matrix: the file is incomplete")
        check_fit(path, layers[path], down, up, source)
        made[layers[path]] = LoRA(down, up)
    return made


def normalised(tensors: Dict[str, Any], network, pattern: Optional[str], kind: str,
               source: str) -> Dict[str, np.ndarray]:
    """The part of a LoRA file that is for one network, in our names and checked against the network's layers."""
    refuse_foreign(flat(tensors), source)
    layers = dict(targets(network, pattern or {"unet": UNET_TARGETS, "text": TEXT_TARGETS}[kind]))
    table = layer_table(layers, kind)

    def ours(layer: str, key: str) -> str:
        if layer not in table:
            raise StyleBlendError(f"{source}: {printable(key)} names no layer of this base that a style changes: "
                                  "give a LoRA of Stable Diffusion 2.x's attention layers alone")
        return table[layer]

    found = pairs(tensors, kind, source, ours)
    # the width says most
    for path in sorted({key.rsplit(".lora.", 1)[0] for key in found},
                       key=lambda path: (not reads_text(path), path)):
        check_fit(path, layers[path], found[f"{path}.lora.down.weight"], found[f"{path}.lora.up.weight"], source)
    return found


def unet_lora(tensors: Dict[str, Any], network, source: str, pattern: Optional[str] = None) -> Dict[str, np.ndarray]:
    """The UNet's part of a LoRA file in our names, empty when it has none.

    `pattern`: the layers that are allowed; None: those of a style.
    """
    return normalised(tensors, network, pattern, "unet", source)


def text_lora(tensors: Dict[str, Any], network, source: str, pattern: Optional[str] = None) -> Dict[str, np.ndarray]:
    """The text encoder's part of a LoRA file in our names, empty when it has none."""
    return normalised(tensors, network, pattern, "text", source)
