"""The names that other programs give to LoRAs and embeddings, and ours.

Read: diffusers (current, PEFT, the attention processors of early 2023), kohya, A1111 and the published StyleBlend. Written: the
current names of diffusers.
"""
from __future__ import annotations

import re
from typing import Any, Dict, Optional, Tuple

import numpy as np

from styleblend.errors import StyleBlendError
from styleblend.lora import TEXT_TARGETS, UNET_TARGETS, targets
from styleblend.pickles import printable

# How a key ends; the layer's name is what stands before.
ENDINGS = (r"\.lora(?:_linear_layer|_layer)?\.(down|up)\.weight",  # diffusers; lora_layer: the published StyleBlend
           r"\.lora_([AB])(?:\.\w+)?\.weight",                     # PEFT, maybe with its adapter's name
           r"_lora\.(down|up)\.weight",                            # attention processors
           r"\.lora_(down|up)\.weight", r"\.(alpha)")              # kohya
PREFIXES = {"unet": ("unet.", "lora_unet_"), "text": ("text_encoder.", "lora_te_")}
BARE = {"unet": ("down_blocks.", "mid_block.", "up_blocks."), "text": ("text_model.", "encoder.layers.")}
SDXL = ("lora_te1_", "lora_te2_", "text_encoder_2.", "clip_l", "clip_g", "lora_unet_input_blocks_", "lora_unet_middle_block_",
        "lora_unet_output_blocks_")


def flat(tensors: Dict[str, Any]) -> Dict[str, Any]:
    """Nested dicts, as the published StyleBlend writes them, with dotted names."""
    found = {}
    for key, value in tensors.items():
        found.update({f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value})
    return found


def split(key: str, source: str) -> Tuple[str, str, str]:
    """A key as network ("unet" or "text"), the layer as the file names it, and "down", "up" or "alpha"."""
    if key.startswith(SDXL):
        raise StyleBlendError(f"{source}: {printable(key)} belongs to Stable Diffusion XL; StyleBlend needs a LoRA for Stable Diffusion 2.x")
    name = key[len("base_model.model."):] if key.startswith("base_model.model.") else key
    for network in PREFIXES:
        for prefix in PREFIXES[network] + BARE[network]:
            if name.startswith(prefix):
                layer = name if prefix in BARE[network] or prefix.endswith("_") else name[len(prefix):]
                for ending in ENDINGS:
                    match = re.fullmatch(f"(.+?){ending}", layer)
                    if match:
                        return network, match[1], {"A": "down", "B": "up"}.get(match[2], match[2])
    raise StyleBlendError(f"{source}: {printable(key)} is no name that a LoRA of diffusers, PEFT, kohya or StyleBlend has: "
                          "save it with one of these, as a plain LoRA of linear layers")


def layer_table(network, pattern: str, kind: str) -> Dict[str, str]:
    """Every name that a file may give a layer -> our name. Made from the network: kohya's underscores cannot be undone by rule."""
    table = {}
    for path, _ in targets(network, pattern):
        processor = re.sub(r"\.(to_q|to_k|to_v|to_out)(?:\.0)?$", r".processor.\1", path)
        processor = re.sub(r"\.(q|k|v|out)_proj$", r".to_\1", processor)  # the text encoder's, of the same months
        for name in (path, path.replace("text_model.", "", 1), processor, PREFIXES[kind][1] + path.replace(".", "_")):
            table[name] = path
    return table


def matrix(value: Any, key: str, source: str) -> np.ndarray:
    """A LoRA's matrix as float32; a 1x1 convolution, which some programs train for a linear layer, becomes one."""
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
        raise StyleBlendError(f"{source}: {printable(key)} holds no floating-point numbers: the file is no LoRA or is damaged")
    if value.ndim == 4 and value.shape[2:] == (1, 1):
        value = value[:, :, 0, 0]
    if value.ndim != 2 or 0 in value.shape:
        raise StyleBlendError(f"{source}: {printable(key)} has the shape {value.shape}, but only matrices, LoRAs of linear layers, can be read")
    return np.ascontiguousarray(value, np.float32)


def number(value: Any, key: str, source: str) -> float:
    """The alpha of a layer: a number, or an array of one."""
    array = np.asarray(value) if isinstance(value, (int, float, np.ndarray)) else np.zeros(0)
    if array.dtype.kind not in "fiu" or array.size != 1 or not np.isfinite(array).all():
        raise StyleBlendError(f"{source}: {printable(key)} is not one number: the file is damaged, save or download it again")
    return float(array.reshape(-1)[0])


def scaled_pairs(found: Dict[Tuple[str, str], Any], source: str) -> Dict[str, np.ndarray]:
    """{(layer, "down" | "up" | "alpha"): value} as our names -> matrices, with alpha / rank multiplied into the up matrices."""
    ours = {}
    for path in dict.fromkeys(path for path, _ in found):
        down, up = found.get((path, "down")), found.get((path, "up"))
        if down is None or up is None:
            raise StyleBlendError(f"{source}: {path} has no {'down' if down is None else 'up'} matrix: the file is incomplete, save or download it again")
        alpha = found.get((path, "alpha"), down.shape[0])
        ours[f"{path}.lora.down.weight"], ours[f"{path}.lora.up.weight"] = down, up * np.float32(alpha / down.shape[0])
    return ours


def normalised(tensors: Dict[str, Any], network, pattern: str, kind: str, source: str) -> Dict[str, np.ndarray]:
    """The part of a LoRA file that is for one network, in our names, with alpha / rank multiplied into the up matrices."""
    table, found = layer_table(network, pattern, kind), {}
    for key, value in flat(tensors).items():
        part, layer, end = split(key, source)
        if part != kind:
            continue
        if layer not in table:
            raise StyleBlendError(f"{source}: {printable(key)} names no layer of this base that a style changes: "
                                  "use a LoRA for the attention layers of Stable Diffusion 2.x")
        if (table[layer], end) in found:
            raise StyleBlendError(f"{source}: {printable(key)} is there a second time under another name: save it anew with one kind of names")
        found[table[layer], end] = number(value, key, source) if end == "alpha" else matrix(value, key, source)
    return scaled_pairs(found, source)


def unet_lora(tensors: Dict[str, Any], network, source: str, pattern: str = UNET_TARGETS) -> Dict[str, np.ndarray]:
    """The UNet's part of a LoRA file in our names, empty when it has none. `pattern`: the layers that are allowed."""
    return normalised(tensors, network, pattern, "unet", source)


def text_lora(tensors: Dict[str, Any], network, source: str, pattern: str = TEXT_TARGETS) -> Dict[str, np.ndarray]:
    """The text encoder's part of a LoRA file in our names, empty when it has none."""
    return normalised(tensors, network, pattern, "text", source)


def to_diffusers_unet(ours: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
    """Our UNet LoRA under the names that diffusers saves."""
    return {f"unet.{key}": value for key, value in ours.items()}


def to_diffusers_text(ours: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
    """Our text encoder LoRA under the names that diffusers saves."""
    return {"text_encoder." + key.replace(".lora.", ".lora_linear_layer."): value for key, value in ours.items()}


def embedding(tensors: Dict[str, Any], width: int, source: str) -> Tuple[Optional[str], np.ndarray]:
    """The token (None when the file names none) and its vectors (n, width) from an embedding of diffusers, A1111 or kohya."""
    if "clip_l" in tensors or "clip_g" in tensors:
        raise StyleBlendError(f"{source} holds clip_l or clip_g, an embedding for Stable Diffusion XL; StyleBlend needs one for Stable Diffusion 2.x")
    token, vectors = None, {key: value for key, value in tensors.items() if isinstance(value, np.ndarray)}
    if isinstance(tensors.get("string_to_param"), dict):  # A1111
        token, vectors = tensors.get("name"), tensors["string_to_param"]
        token = token if isinstance(token, str) and token else None
    elif "emb_params" in tensors:  # kohya
        vectors = {"emb_params": tensors["emb_params"]}
    elif len(vectors) == 1:
        token = next(iter(vectors))
    if len(vectors) != 1:
        names = f" ({', '.join(printable(name) for name in list(vectors)[:3])})" if vectors else ""
        raise StyleBlendError(f"{source} holds {len(vectors)} embeddings{names}: give a file with one")
    vector = next(iter(vectors.values()))
    if not isinstance(vector, np.ndarray) or vector.dtype.kind != "f" or vector.ndim not in (1, 2) or vector.size == 0:
        raise StyleBlendError(f"{source} holds no vectors of floating-point numbers: give a textual inversion file")
    if vector.shape[-1] != width:
        model = {768: " (Stable Diffusion 1.x)", 1024: " (Stable Diffusion 2.x)", 1280: " (Stable Diffusion XL)"}
        raise StyleBlendError(f"{source}: the embedding is {vector.shape[-1]} wide{model.get(vector.shape[-1], '')}, the base needs "
                              f"{width}{model.get(width, '')}: get or train one for this base")
    return token, np.ascontiguousarray(vector.reshape(-1, width), np.float32)
