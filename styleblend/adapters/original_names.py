"""The names of the original Stable Diffusion 2: LDM's UNet and OpenCLIP's text encoder. ComfyUI's trainer writes them.

Ours are diffusers'. Blocks are counted otherwise there (`input_blocks.1.1` is `down_blocks.0.attentions.0`), and the
text encoder keeps q, k and v of a layer in one matrix (`attn.in_proj`).
"""
from __future__ import annotations

import re
from typing import Any, Dict, Iterable

import numpy as np

from styleblend.errors import StyleBlendError, printable

UNET_START, TEXT_START = "diffusion_model.", "cond_stage_model.model.transformer."  # as they are written
BLOCKS = "(?:input_blocks|middle_block|output_blocks)"
# Prefixes that files put before these names, and what stands for them here: a network's usual one.
PREFIXES = tuple((re.compile(pattern), ours) for pattern, ours in (
    (rf"(?:model\.)?(?:diffusion_model\.|unet\.)?(?={BLOCKS}\.)", "unet."),
    (rf"(?:lora_unet_)?(?:(?:model_)?diffusion_model_)?(?={BLOCKS}_)", "lora_unet_"),
    (r"(?:model\.)?diffusion_model\.(?=(?:down_blocks|mid_block|up_blocks)\.)", "unet."),
    (r"(?:text_encoder\.|text_encoders\.clip_h\.|cond_stage_model\.)?(?:model\.)?(?:transformer\.)?(?=resblocks\.)",
     "text_encoder."),
    (r"(?:lora_te_)?(?:cond_stage_model_)?(?:model_)?(?:transformer_)?(?=resblocks_)", "lora_te_"),
    (r"(?:text_encoders\.clip_[hl]|cond_stage_model)\.(?:transformer\.)?(?=text_model\.)", "text_encoder.")))
FUSED = re.compile(r"(.*resblocks([._])\d+[._]attn)(?:[._]in_proj(?:_weight)?)?")
# OpenCLIP has one layer more than Stable Diffusion 2.x reads.
UNREAD = re.compile(r"(?:.*[._])?(?:resblocks|encoder[._]layers)[._]23[._].*")


def usual_prefix(name: str) -> str:
    """A LoRA's key whose network stands there as in files of diffusers or kohya."""
    name = name.replace(".base_layer.", ".")  # PEFT, around the text encoder's attention
    for pattern, ours in PREFIXES:
        match = pattern.match(name)
        if match:
            return ours + name[match.end():]
    return name


def is_original(name: str) -> bool:
    """Whether a key is in these names."""
    return bool(re.search(rf"(?:^|[._]){BLOCKS}[._]|(?:^|[._])resblocks[._]", name))


def of_unet(path: str, layers_per_block: int) -> str:
    """LDM's name for a layer in one of the UNet's attention blocks."""
    match = re.match(r"(down_blocks|up_blocks|mid_block)(?:\.(\d+))?\.attentions\.(\d+)\.(.*)", path)
    kind, block, place, rest = match[1], int(match[2] or 0), int(match[3]), match[4]
    if kind == "mid_block":
        return f"middle_block.1.{rest}"
    # Each block on the way down ends in a downsampler, which is counted; each on the way up has one layer more.
    count = block * (layers_per_block + 1) + place
    return f"input_blocks.{count + 1}.1.{rest}" if kind == "down_blocks" else f"output_blocks.{count}.1.{rest}"


def of_text(path: str) -> str:
    """OpenCLIP's name for a layer in the text encoder's attention; q, k and v as if each were a layer of its own."""
    return re.sub(r"(?:text_model\.)?encoder\.layers\.(\d+)\.self_attn\.", r"resblocks.\1.attn.", path)


def layers_in_a_block(paths: Iterable[str]) -> int:
    """How many layers a block on the way down has, from the names of a UNet's attention: up blocks have one more."""
    places = [(match[1] == "down", int(match[2])) for path in paths
              for match in [re.match(r"(down|up)_blocks\.\d+\.attentions\.(\d+)\.", path)] if match]
    return max((place + down for down, place in places), default=2)


def original_names(paths: Iterable[str], kind: str) -> Dict[str, str]:
    """Our name of each layer of attention -> the original one. `kind`: "unet" or "text"."""
    if kind == "text":
        return {path: of_text(path) for path in paths}
    attention = [path for path in paths if ".attentions." in path]
    layers = layers_in_a_block(attention)
    return {path: of_unet(path, layers) for path in attention}


def parts_of_fused(layer: str, end: str, value: Any, source: str) -> Dict[str, Any]:
    """What a LoRA on `attn.in_proj` is for q, k and v: the same down matrix, a third of the rows of the up matrix.

    Layer -> value; empty for any other layer. `end`: "down", "up" or "alpha".
    """
    match = FUSED.fullmatch(layer)
    if not match:
        return {}
    values = [value] * 3
    if end == "up" and isinstance(value, np.ndarray) and value.ndim:
        if len(value) % 3:
            raise StyleBlendError(f"{source}: {printable(layer, 60)} has {len(value)} rows, which are not q, k and v: "
                                  "the file is damaged, save or download it again")
        values = np.split(value, 3)
    return {f"{match[1]}{match[2]}{name}_proj": part for name, part in zip("qkv", values)}
